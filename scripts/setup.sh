#!/bin/sh
# Makes the environments that the Makefile's targets run in, and says in one line what is missing.
#
#   scripts/setup.sh airflow 3.3 ENV          this package, editable, and its tests' needs on Airflow 3.3
#   scripts/setup.sh lint ENV                 ruff and mypy
#   scripts/setup.sh real-server [optional]   the real QCache on Python 2.7, outside the tree
#   scripts/setup.sh constraints              newest versions; frozen where the checks pass on them
#
# PYTHON names the interpreter to build on, PYTHON27 the one for the real server; else they are searched for.
set -eu
cd "$(dirname "$0")/.."

TOOLS=.venv/tools
PYENV_VERSIONS=${PYENV_ROOT:-$HOME/.pyenv}/versions
QCACHE_ENV=${XDG_CACHE_HOME:-$HOME/.cache}/airflow-provider-qcache/qcache-0.9.3
export UV_PYTHON_DOWNLOADS=never
unset VIRTUAL_ENV PYTHONPATH PYTHONHOME

fail() {
    echo "set-up: $*${THEN:-}" >&2
    exit 1
}

# find_python OLDEST NEWEST WHY: the first interpreter between two minor versions of Python 3.
find_python() {
    fits="import sys, venv, ensurepip; assert ($1) <= sys.version_info[1] <= ($2) and sys.version_info[0] == 3; print(sys.executable)"
    if [ -n "${PYTHON:-}" ]; then
        "$PYTHON" -c "$fits" 2>/dev/null || fail "PYTHON=$PYTHON will not do: $3 needs Python 3.$1 to 3.$2 with its venv module"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.14 "$PYENV_VERSIONS"/3.*/bin/python; do
        "$candidate" -c "$fits" 2>/dev/null && return
    done
    fail "no Python 3.$1 to 3.$2 with its venv module found, which $3 needs: install one, or name it with PYTHON=/path/to/python"
}

# make_tools: uv and virtualenv, by the venv and pip of the interpreter itself.
make_tools() {
    cmp -s constraints/tools.txt "$TOOLS/ready" && return
    python=$(find_python 11 14 "this project")
    echo "set-up: $TOOLS"
    mkdir -p .venv
    rm -rf "$TOOLS"
    "$python" -m venv "$TOOLS" >"$TOOLS.log" 2>&1 &&
        "$TOOLS/bin/python" -m pip install -r constraints/tools.txt >>"$TOOLS.log" 2>&1 ||
        fail "uv could not be installed (no network?): see $TOOLS.log"
    cp constraints/tools.txt "$TOOLS/ready"
}

# install ENV PYTHON ARGUMENTS…: uv because it is quick, and pip where only pip is configured for this network.
install() {
    env=$1 python=$2
    shift 2
    echo "set-up: $env ($("$python" -V))"
    if ! [ -x "$env/bin/python" ]; then
        "$TOOLS/bin/uv" venv --quiet --clear -p "$python" "$env" >"$env.log" 2>&1 || fail "no environment from $python: see $env.log"
    fi
    "$TOOLS/bin/uv" pip install -p "$env/bin/python" "$@" >"$env.log" 2>&1 ||
        "$TOOLS/bin/python" -m pip --python "$env/bin/python" install "$@" >>"$env.log" 2>&1 ||
        fail "the packages for $env could not be installed (no network?): see $env.log"
}

# airflow_python RELEASE: an interpreter that this release of Airflow supports.
airflow_python() {
    case $1 in
    2.11) find_python 11 12 "Airflow 2.11" ;;
    *) find_python 11 14 "Airflow $1" ;;
    esac
}

make_airflow() {
    python=$(airflow_python "$1")
    make_tools
    install "$2" "$python" -c "constraints/airflow-$1.txt" apache-airflow -e ".[devnode]" --group test --group demo
    about_airflow "$2" >"$2/ready"
}
about_airflow() {
    "$1/bin/python" -c 'import importlib.metadata, platform
print("Airflow", importlib.metadata.version("apache-airflow"), "on Python", platform.python_version())'
}

make_lint() {
    python=$(find_python 11 14 "lint")
    make_tools
    install "$1" "$python" -c constraints/lint.txt --group lint
    touch "$1/ready"
}

find_python27() {
    for candidate in ${PYTHON27:-python2.7 "$PYENV_VERSIONS"/2.7*/bin/python2.7}; do
        "$candidate" -c 'import sys; assert sys.version_info[:2] == (2, 7); print(sys.executable)' 2>/dev/null && return
    done
    fail "the real QCache needs Python 2.7 and there is none: install one (pyenv has it), or name it with PYTHON27=/path/to/python2.7"
}

make_real_server() {
    if [ -n "${QCACHE_PYTHON:-}" ]; then
        about_real_server "$QCACHE_PYTHON" 2>/dev/null || fail "QCACHE_PYTHON=$QCACHE_PYTHON cannot import qcache"
        return
    fi
    if ! cmp -s constraints/qcache-0.9.3.txt "$QCACHE_ENV/ready"; then
        python27=$(find_python27)
        make_tools
        echo "set-up: $QCACHE_ENV (Python 2.7)"
        rm -rf "$QCACHE_ENV"
        mkdir -p "$QCACHE_ENV"
        "$TOOLS/bin/virtualenv" --no-periodic-update -p "$python27" "$QCACHE_ENV" >"$QCACHE_ENV.log" 2>&1 &&
            "$QCACHE_ENV/bin/python" -m pip install -r constraints/qcache-0.9.3.txt >>"$QCACHE_ENV.log" 2>&1 &&
            about_real_server "$QCACHE_ENV/bin/python" >>"$QCACHE_ENV.log" 2>&1 ||
            fail "the real QCache could not be installed: see $QCACHE_ENV.log"
        cp constraints/qcache-0.9.3.txt "$QCACHE_ENV/ready"
    fi
    about_real_server "$QCACHE_ENV/bin/python"
}
about_real_server() {
    "$1" -c 'import platform, pkg_resources, qcache.app
print("QCache %s on Python %s" % (pkg_resources.get_distribution("qcache").version, platform.python_version()))'
}

# renew NAME ENV CHECK…: freeze the environment where the check passes in it; else the old file stays.
renew() {
    name=$1
    env=$2
    shift 2
    "$@" || fail "constraints/$name.txt stays as it was: the checks fail on the newest versions"
    {
        echo "# Made by \"make constraints\" from an environment that passed on $("$env/bin/python" -V)."
        "$TOOLS/bin/uv" pip freeze -p "$env/bin/python" --exclude-editable --quiet
    } >"$env.txt"
    mv "$env.txt" "constraints/$name.txt"
    echo "set-up: constraints/$name.txt renewed"
}

# On Python 3.11, the oldest supported, so that no version is frozen that the oldest could not install.
make_constraints() {
    python=$(find_python 11 11 "make constraints")
    make_tools
    rm -rf .venv/newest-*
    env=.venv/newest-lint
    install "$env" "$python" --group lint
    touch "$env/ready"
    renew lint "$env" make --no-print-directory lint LINT_ENV="$env"
    for release in 3.3 2.11; do
        env=.venv/newest-$release
        install "$env" "$python" "apache-airflow==$release.*" -e ".[devnode]" --group test --group demo
        about_airflow "$env" >"$env/ready"
        renew "airflow-$release" "$env" make --no-print-directory test AIRFLOW=$release TEST_ENV="$env"
    done
    rm -rf .venv/newest-*
}

case ${1:-} in
airflow) make_airflow "$2" "$3" ;;
lint) make_lint "$2" ;;
real-server)
    if [ "${2:-}" = optional ] && [ -z "${CI:-}" ]; then
        THEN="; until then its tests are skipped" sh scripts/setup.sh real-server || true
    else
        make_real_server
    fi
    ;;
constraints) make_constraints ;;
*) fail "unknown: $*" ;;
esac
