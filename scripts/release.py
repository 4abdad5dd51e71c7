"""Make a release: version, changelog, commit, tag, and wheel and sdist from the tag.

    make release VERSION=0.2.0 ARGS=--dry-run     all of it in a copy that is removed again
    make release VERSION=0.2.0                    in this checkout

Nothing is pushed or uploaded: the last lines say how.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSION_FILE = "airflow_provider_qcache/__init__.py"
UNRELEASED = "## [Unreleased]\n"


class ReleaseFailed(Exception):
    """The release cannot be made; the message says why."""


def run(checkout: Path, *command: str) -> str:
    """Run a command in the checkout, and return its output."""
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseFailed(f"{' '.join(command)} failed:\n{done.stderr or done.stdout}")
    return done.stdout.strip()


def check(checkout: Path, version: str) -> str:
    """Check that a release can be made of the checkout, and return its changes."""
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        raise ReleaseFailed(f"{version!r} is not a version: expected one such as 0.2.0 or 0.2.0rc1")
    if run(checkout, "git", "status", "--porcelain"):
        raise ReleaseFailed("the checkout has changes that are not committed: commit or remove them")
    if f"v{version}" in run(checkout, "git", "tag", "--list").split():
        raise ReleaseFailed(f"the tag v{version} exists: choose another version")
    changes = (checkout / "CHANGELOG.md").read_text().partition(UNRELEASED)[2].partition("\n## [")[0].strip()
    if not changes:
        raise ReleaseFailed("CHANGELOG.md has nothing under Unreleased: write what changed")
    return changes


def write(checkout: Path, version: str) -> None:
    """Write the version, and its section of the changelog below an empty Unreleased."""
    file = checkout / VERSION_FILE
    file.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', file.read_text()))
    file = checkout / "CHANGELOG.md"
    section = f"{UNRELEASED}\n## [{version}] - {datetime.now(UTC):%Y-%m-%d}\n"
    file.write_text(file.read_text().replace(UNRELEASED, section, 1))


def build(checkout: Path, version: str) -> list[Path]:
    """Build wheel and sdist of the tag in ``dist/``, from a clean clone."""
    dist = checkout / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as directory:
        clone = Path(directory) / "clone"
        run(checkout, "git", "clone", "--quiet", "--branch", f"v{version}", str(checkout), str(clone))
        run(clone, sys.executable, "-m", "hatchling", "build", "--directory", str(dist))
    return sorted(dist.iterdir())


def release(checkout: Path, version: str) -> None:
    """Check, write, commit, tag and build."""
    changes = check(checkout, version)
    write(checkout, version)
    run(checkout, "git", "commit", "--quiet", "--all", "--message", f"Release {version}")
    run(checkout, "git", "tag", "--annotate", f"v{version}", "--message", f"Release {version}\n\n{changes}")
    for file in build(checkout, version):
        print(file.relative_to(checkout))


def main() -> None:
    """Read the arguments, and release here or in a copy."""
    parser = argparse.ArgumentParser(
        description="Make a release: version, changelog, commit, tag, wheel, sdist."
    )
    parser.add_argument("version", help="such as 0.2.0")
    parser.add_argument("--dry-run", action="store_true", help="do all of it in a copy that is removed again")
    arguments = parser.parse_args()
    try:
        if arguments.dry_run:
            with tempfile.TemporaryDirectory() as directory:
                copy = Path(directory) / "copy"
                run(ROOT, "git", "clone", "--quiet", str(ROOT), str(copy))
                for setting in ("user.name", "user.email"):
                    run(copy, "git", "config", setting, "dry run")
                release(copy, arguments.version)
                print(run(copy, "git", "show", "--stat", "--format=%s", "HEAD"))
            print("this was a dry run: nothing was changed")
        else:
            release(ROOT, arguments.version)
            print(f"git push --follow-tags; then upload dist/ with: twine upload dist/*{arguments.version}*")
    except ReleaseFailed as error:
        parser.exit(1, f"release: {error}\n")


if __name__ == "__main__":
    main()
