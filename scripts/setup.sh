#!/bin/sh
# Makes the environments that the Makefile's targets run in, and says in one line what is missing.
#
#   scripts/setup.sh airflow 3.3 ENV          this package, editable, and its tests' needs on Airflow 3.3
#   scripts/setup.sh airflow none ENV         the same without Airflow, on the oldest supported Python
#   scripts/setup.sh lint ENV                 ruff and mypy
#   scripts/setup.sh docs ENV                 Sphinx
#   scripts/setup.sh measure mutation ENV     what measures the tests, added to an environment: this group of pyproject.toml
#   scripts/setup.sh real-server [optional]   the real QCache on Python 2.7, outside the tree
#   scripts/setup.sh python 3.13              say where this version of Python is, and fail where there is none
#   scripts/setup.sh constraints              newest versions; frozen where the checks pass on them
#   scripts/setup.sh wheel 3.0 3.1            build the package, and try the wheel on these releases of Airflow;
#                                             PYTHONS="3.11 3.13": on each of these
#   scripts/setup.sh drivers                  the drivers of Snowflake, Databricks and BigQuery, tried without their services
#   scripts/setup.sh audit ENV ENV            known weaknesses of the pinned versions, or what is newer than these ENVs have
#   scripts/setup.sh floors [NAME==VERSION]   each lowest version of pyproject.toml by itself, with the newest of the rest
#
# PYTHON names the interpreter to build on, PYTHON27 the one for the real server; else they are searched for.
set -eu
cd "$(dirname "$0")/.."

TOOLS=.venv/tools
PYENV_VERSIONS=${PYENV_ROOT:-$HOME/.pyenv}/versions
QCACHE_ENV=${XDG_CACHE_HOME:-$HOME/.cache}/airflow-provider-qcache/qcache-0.9.3
COMPILE=--compile-bytecode
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
    # shellcheck disable=SC2086
    "$TOOLS/bin/uv" pip install $COMPILE -p "$env/bin/python" "$@" >"$env.log" 2>&1 ||
        "$TOOLS/bin/python" -m pip --python "$env/bin/python" install "$@" >>"$env.log" 2>&1 ||
        fail "the packages for $env could not be installed (no network?): see $env.log"
}

# airflow_python RELEASE: an interpreter that this release of Airflow supports.
airflow_python() {
    case $1 in
    2.11 | 3.0) find_python 11 12 "Airflow $1" ;;
    3.1 | 3.2) find_python 11 13 "Airflow $1" ;;
    *) find_python 11 14 "Airflow $1" ;;
    esac
}

make_airflow() {
    if [ "$1" = none ]; then
        make_without_airflow "$2"
        return
    fi
    python=$(airflow_python "$1")
    make_tools
    # shellcheck disable=SC2046
    install "$2" "$python" -c "constraints/airflow-$1.txt" apache-airflow -e ".[devnode]" --group test --group demo $(cluster_group "$1")
    install_mysql "$2" -c "constraints/airflow-$1.txt"
    about_airflow "$2" >"$2/ready"
}
# cluster_group RELEASE: what make cluster runs, on the newest Airflow alone.
cluster_group() {
    [ "$1" != 3.3 ] || echo --group cluster
}
# install_mysql ENV ARGUMENTS…: apart from the rest, since a driver among it is compiled, which CI alone must be able to.
install_mysql() {
    (
        THEN="; without them the tests of MySQL are skipped. To compile mysqlclient: apt-get install libmariadb-dev pkg-config gcc"
        env=$1
        shift
        install "$env" "$env/bin/python" --group mysql "$@"
    ) || [ -z "${CI:-}" ]
}
about_airflow() {
    "$1/bin/python" -c 'import importlib.metadata, platform
print("Airflow", importlib.metadata.version("apache-airflow"), "on Python", platform.python_version())'
}

# make_without_airflow ENV: with the versions that Airflow 3.3 has, of which a test sees that 2.11 has them too.
make_without_airflow() {
    if [ -n "${PYTHON:-}" ]; then
        python=$(find_python 11 14 "this project")
    elif ! python=$(find_python 11 11 "the oldest supported Python" 2>/dev/null); then
        [ -z "${CI:-}" ] || fail "CI tests on Python 3.11, the oldest supported, and there is none: install one"
        python=$(find_python 11 14 "this project")
    fi
    make_tools
    install "$1" "$python" -c constraints/airflow-3.3.txt --group test-without-airflow
    # shellcheck disable=SC2046
    [ -z "${LOWEST:-}" ] || install "$1" "$python" $(grep -v '^#\|^apache-airflow' constraints/floors.txt)
    install "$1" "$python" --no-deps -e .
    "$1/bin/python" -c 'import platform; print("No Airflow on Python", platform.python_version())' >"$1/ready"
}

# make_environment NAME ENV: what a group of pyproject.toml names, as its constraints pin it.
make_environment() {
    COMPILE=  # its programs use little of it, and compile that
    python=$(find_python 11 14 "$1")
    make_tools
    install "$2" "$python" -c "constraints/$1.txt" --group "$1"
    touch "$2/ready"
}

# add_measure GROUP ENV: to an environment that is there.
add_measure() {
    make_tools
    install "$2" "$2/bin/python" -c constraints/airflow-3.3.txt -c constraints/measure.txt --group "$1"
    touch "$2/$1"
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
    env=.venv/newest-docs
    install "$env" "$python" --group docs
    touch "$env/ready"
    renew docs "$env" make --no-print-directory docs DOCS_ENV="$env"
    for release in 3.3 2.11; do
        env=.venv/newest-$release
        # shellcheck disable=SC2046
        install "$env" "$python" "apache-airflow==$release.*" -e ".[devnode]" --group test --group demo --group mysql $(cluster_group "$release")
        about_airflow "$env" >"$env/ready"
        make --no-print-directory test AIRFLOW=none TEST_ENV="$env" ||
            fail "constraints/airflow-$release.txt stays as it was: tests that need no Airflow fail on the newest versions"
        renew "airflow-$release" "$env" make --no-print-directory test AIRFLOW=$release TEST_ENV="$env"
    done
    rm -rf .venv/newest-*
}

# make_floors: each lowest version of pyproject.toml by itself, with the newest versions of everything else.
make_floors() {
    python=$(find_python 11 11 "make floors")
    make_tools
    env=.venv/floors
    failed=
    for pin in ${1:-$(grep -v '^#' constraints/floors.txt)}; do
        # Versions of Airflow that do not import with newer ones of these, and do not exclude them.
        grep -qx "$pin" constraints/floors.txt || fail "$pin is not in constraints/floors.txt"
        case $pin in
        apache-airflow==*) beside=universal-pathlib==0.2.6 ;;
        apache-airflow-providers-common-sql==*) beside=structlog==25.4.0 ;; # with Airflow 3.1.0
        *) beside= ;;
        esac
        # shellcheck disable=SC2086
        install "$env" "$python" --upgrade "$pin" $beside -e ".[arrow,devnode,lz4,pandas,polars,sql]"
        if AIRFLOW_HOME="$PWD/$env/home" "$env/bin/python" -P scripts/use_everything.py >"$env.log" 2>&1; then
            echo "$pin: $(tail -n 1 "$env.log")"
        else
            failed="$failed $pin"
            tail -n 20 "$env.log" >&2
        fi
    done
    rm -rf "$env"
    [ -z "$failed" ] || fail "these versions do not work with the newest of the rest:$failed"
}

# make_drivers: the newest drivers that Airflow's providers of three services come with, each against a server on loopback.
make_drivers() {
    python=$(find_python 11 13 "make drivers")
    make_tools
    env=.venv/drivers
    rm -rf "$env"
    install "$env" "$python" apache-airflow-providers-databricks apache-airflow-providers-google \
        apache-airflow-providers-snowflake -e ".[sql]"
    AIRFLOW_HOME="$PWD/$env/home" AIRFLOW__LOGGING__LOGGING_LEVEL=ERROR "$env/bin/python" -W ignore -P scripts/try_drivers.py 2>"$env.log" ||
        fail "a driver does not work: see $env.log"
    rm -rf "$env"
}

# make_audit ENV…: known weaknesses of the pinned versions; where the database of them cannot be reached, what is newer.
make_audit() {
    python=$(find_python 11 14 "make audit")
    make_tools
    install .venv/audit "$python" pip-audit
    log=.venv/audit.txt
    # OSV's database: with PyPI's, pip-audit takes a version that it cannot look up for a sound one.
    for pins in constraints/airflow-*.txt constraints/lint.txt constraints/tools.txt; do
        echo "set-up: $pins"
        if .venv/audit/bin/pip-audit --vulnerability-service osv --timeout 15 --disable-pip --no-deps -r "$pins" >"$log" 2>&1; then
            cat "$log"
        elif grep -q ConnectionError "$log"; then
            echo "set-up: the database of weaknesses cannot be reached; these pinned versions are not the newest:"
            for env in "$@"; do
                "$TOOLS/bin/uv" pip list --quiet --outdated --exclude-editable -p "$env/bin/python" || fail "no list of newer versions"
            done
            return
        else
            cat "$log" >&2
            fail "$pins has versions with known weaknesses: renew them, or answer each in SECURITY.md"
        fi
    done
}

# make_wheel RELEASE…: build it as a release would, and try it where nothing of the checkout can be imported; on each
# of PYTHONS that a release supports, or on the first one found. Each extra by itself is tried on the last release, and
# a triggerer on those that TRIGGERER names.
make_wheel() {
    make_tools
    COMPILE=  # few processes run in each environment, and compile what they import
    rm -rf dist
    "$TOOLS/bin/uv" build --quiet --out-dir dist . || fail "the package could not be built"
    .venv/lint/bin/twine check --strict dist/* || fail "twine refuses what was built"
    wheel="file://$(echo "$PWD"/dist/*.whl)"
    for release in "$@"; do
        pythons=$(pythons_for "$release")
        triggerer=
        case " $TRIGGERER " in *" $release "*) triggerer=--triggerer ;; esac
        for python in $pythons; do
            env=.venv/wheel-$release
            # The drivers of the form are an extra of Airflow 3.0; without them it shows no fields of any provider.
            fab=
            [ "$release" != 3.0 ] || fab=apache-airflow-providers-fab
            rm -rf "$env"
            # shellcheck disable=SC2086
            install "$env" "$python" -c "constraints/airflow-$release.txt" apache-airflow apache-airflow-providers-sqlite $fab \
                "airflow-provider-qcache[arrow,devnode,lz4,pandas,polars,sql] @ $wheel"
            # shellcheck disable=SC2086
            (cd "$env" && bin/python -P ../../scripts/try_wheel.py $triggerer) || fail "the wheel does not work on Airflow $release, $python"
        done
        all=$env
    done
    env=.venv/wheel-extra
    for extra in none arrow devnode lz4 pandas polars sql; do
        rm -rf "$env"
        with="[$extra]"
        [ "$extra" != none ] || with=
        # A database for the operator of the extra sql: its provider is the user's to install.
        database=
        [ "$extra" != sql ] || database=apache-airflow-providers-sqlite
        # shellcheck disable=SC2086
        install "$env" "$python" -c "constraints/airflow-$release.txt" apache-airflow $database "airflow-provider-qcache$with @ $wheel"
        (cd "$env" && AIRFLOW_HOME="$PWD/home" bin/python -P ../../scripts/use_extra.py "$extra" "$OLDPWD/$all/bin/python") ||
            fail "the wheel does not work with the extra $extra"
    done
    rm -rf .venv/wheel-*
}

# pythons_for RELEASE: the interpreters to try it on.
pythons_for() {
    if [ -z "${PYTHONS:-}" ]; then
        airflow_python "$1"
        return
    fi
    for version in $PYTHONS; do
        case $1:$version in
        2.11:3.13 | 3.0:3.13) ;; # these do not support it
        *) find_python "${version#3.}" "${version#3.}" "Airflow $1" ;;
        esac
    done
}

main() {
    case ${1:-} in
    airflow) make_airflow "$2" "$3" ;;
    docs | lint) make_environment "$1" "$2" ;;
    measure) add_measure "$2" "$3" ;;
    real-server)
        if [ "${2:-}" = optional ] && [ -z "${CI:-}" ]; then
            THEN="; until then its tests are skipped" sh scripts/setup.sh real-server || true
        else
            make_real_server
        fi
        ;;
    constraints) make_constraints ;;
    wheel)
        shift
        make_wheel "$@"
        ;;
    floors) make_floors "${2:-}" ;;
    drivers) make_drivers ;;
    audit)
        shift
        make_audit "$@"
        ;;
    python) find_python "${2#3.}" "${2#3.}" "Python $2" ;;
    *) fail "unknown: $*" ;;
    esac
}

# On one line, since a shell reads a script as it goes, and a release check takes long enough for this one to be edited.
main "$@"; exit
