#!/usr/bin/env bash
# What only a release needs, one part after the other, each with its output in .venv/release-check: the wheel on every
# release of Airflow and Python, each lowest version by itself, drivers of services, CeleryExecutor, two hours of fuzzing,
# mutants of the client, coverage, weaknesses of what is pinned. A part that fails does not keep the next ones from running.
#
#   scripts/release_check.sh                     all of it: some five hours on two cores
#   scripts/release_check.sh wheel celery        some parts
set -uo pipefail
cd "$(dirname "$0")/.."
exec </dev/null
export CI=true
unset PYTHONDONTWRITEBYTECODE
unset ARGS MAKEFLAGS MFLAGS MAKEOVERRIDES  # the ARGS of `make release-check` are for this script

kept=.venv/release-check
mkdir -p "$kept"
failed=()

wheel() { make wheel RELEASES="2.11 3.0 3.1 3.2 3.3" PYTHONS="3.11 3.12 3.13"; }
floors() { make floors; }
drivers() { make drivers; }
celery() { make test ARGS=tests/browser/test_scale_out.py; }
fuzz() { make fuzz ARGS="--minutes ${FUZZ_MINUTES:-60}"; }
guided() { make guided ARGS="--minutes ${FUZZ_MINUTES:-60}"; }
mutation() { make mutation; }
coverage() { make coverage; }
audit() { make audit; }

main() {
    for part in ${*:-wheel floors drivers celery audit mutation coverage fuzz guided}; do
        started=$SECONDS
        echo "== $part, with its output in $kept/$part.log"
        if "$part" >"$kept/$part.log" 2>&1; then said=passed; else said=FAILED failed+=("$part"); fi
        tail -n 3 "$kept/$part.log"
        printf '%5d s  %s %s\n' $((SECONDS - started)) "$part" "$said" | tee -a "$kept/summary.log"
    done
    [ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
}

main "$@"; exit  # on one line: bash reads a script as it goes, and this one takes hours
