"""Fuzzes the parsers with coverage-guided input from atheris: ``python -m tests.fuzz.guided --minutes 5``.

It ends at the first finding and keeps the input in a file below --directory; ``--repeat FILE`` runs that input
again. Inputs that reached new branches stay in the directory, where the next run continues with them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Run the fuzzer, or repeat one input."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--directory", type=Path, default=Path(".venv/fuzz"))
    parser.add_argument("--repeat", type=Path, metavar="FILE")
    arguments = parser.parse_args()

    import atheris

    with atheris.instrument_imports(include=["airflow_provider_qcache", "http.client"]):
        from tests.fuzz.parsers import PARSERS, parse, seeds

    if arguments.repeat is not None:
        parse(arguments.repeat.read_bytes())
        return 0
    corpus, findings = arguments.directory / "corpus", arguments.directory / "findings"
    for directory in (corpus, findings):
        directory.mkdir(parents=True, exist_ok=True)
    names = list(PARSERS)
    for number, (name, data) in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(bytes([names.index(name)]) + data)
    words = arguments.directory / "words"
    words.write_text("".join(map(_entry, _words())))
    options = [
        f"-max_total_time={60 * arguments.minutes:.0f}",
        f"-artifact_prefix={findings}/",
        f"-dict={words}",
        "-max_len=4096",
        "-timeout=60",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *options], parse)
    atheris.Fuzz()
    return 0


def _words() -> list[bytes]:
    from tests.fuzz.answers import _WORDS
    from tests.fuzz.content import CSV_WORDS, JSON_WORDS

    return [word for word in {*_WORDS, *CSV_WORDS, *JSON_WORDS} if 0 < len(word) <= 64]


def _entry(word: bytes) -> str:
    escaped = "".join(f"\\x{byte:02x}" for byte in word)
    return f'"{escaped}"\n'


if __name__ == "__main__":
    sys.exit(main())
