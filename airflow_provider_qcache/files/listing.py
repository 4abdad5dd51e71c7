"""The files of a path (a file, a directory or a glob), and their formats."""

from __future__ import annotations

import enum
import glob
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_GLOB: Final = frozenset("*?[")
_NO_DATA: Final = (".", "_")
"""First characters of names without data, such as _SUCCESS, .part-0.crc, _delta_log and _temporary."""


class Format(enum.StrEnum):
    """The format of a file."""

    CSV = "csv"
    JSON = "json"
    """A list of objects."""
    JSONL = "jsonl"
    """An object on each line."""
    PARQUET = "parquet"
    ARROW = "arrow"
    """Arrow's IPC format, file (which Feather is) or stream."""


SUFFIXES: Final = {
    ".csv": Format.CSV,
    ".json": Format.JSON,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".arrow": Format.ARROW,
    ".arrows": Format.ARROW,
    ".feather": Format.ARROW,
    ".ipc": Format.ARROW,
}
COMPRESSIONS: Final = (".gz", ".zst")
_SUFFIX: Final = "|".join(re.escape(suffix) for suffix in SUFFIXES)
_IN_PATH: Final = r'[^\r\n,<>"]*'
_PATH: Final = (
    r"(?!\s*(?:\[\s*['{\[0-9]|\{\s*'))"  # not the text of a list or a dict
    rf"{_IN_PATH}(?:[/\\]{_IN_PATH}|(?:{_SUFFIX})(?:\.(?:gz|zst|bz2|xz|lz4))?)"
)
LONGEST_PATH: Final = 4096


def path_in(text: str) -> re.Match[str] | None:
    """Match a text that is one path. The header of a CSV ends with a newline, and does not match."""
    # Compiled at its first use, since every process that parses a DAG file loads this module.
    return re.fullmatch(_PATH, text, re.IGNORECASE)


class File(NamedTuple):
    """A file on this machine or in a storage of fsspec. It is opened each time it is read."""

    name: str
    """The local path, or the URL, for logs and errors."""
    location: str
    """Its path, in the storage if it has one."""
    storage: Any = None

    @property
    def path(self) -> PurePosixPath:
        """Its location as a path."""
        return PurePosixPath(self.location)

    def open(self) -> BinaryIO:
        """Open the file for reading. Raises OSError, and what the storage raises."""
        if self.storage is None:
            return Path(self.location).open("rb")
        return cast("BinaryIO", self.storage.open(self.location, "rb"))


def uncompressed(file: File) -> PurePosixPath:
    """A file's path without the suffix of its compression."""
    return file.path.with_suffix("") if file.path.suffix.lower() in COMPRESSIONS else file.path


def format_of(file: File) -> Format | None:
    """A file's format by its name, or None if the name does not show it."""
    return SUFFIXES.get(uncompressed(file).suffix.lower())


def stem_of(file: File) -> str:
    """A file's name without the suffixes of format and compression, or without its last suffix."""
    return uncompressed(file).stem


def find_files(path: Any) -> list[File]:
    """The files of a path, sorted by their whole paths; at least one.

    A path is a file, a directory, whose files are returned, or a glob (``*``, ``?``, ``[]``, ``**``). A path
    that exists is not a glob. Files and directories whose names begin with '.' or '_' contain no data, and
    are left out, unless the path names them, as ``_kept`` in ``/data/*/_kept/*.csv``.

    Args:
        path: A pathlib.Path, or an object with ``fs``, ``path`` and ``protocol``, as an ObjectStoragePath.

    Raises:
        FileNotFoundError: there is no file; names the path.
        ValueError: the directory contains directories.
        OSError: and what the storage raises.
    """
    # The class, since the attribute of the path connects. Some versions of ObjectStoragePath derive from
    # Path.
    return _stored_files(path) if hasattr(type(path), "fs") else _local_files(path)


def _local_files(path: Path) -> list[File]:
    if path.is_dir():
        inside = list(path.iterdir())
        _check_flat(path, (entry.name for entry in inside if entry.is_dir()))
        found: Iterable[Path] = (entry for entry in inside if not entry.is_dir())
    elif _is_glob(path) and not path.exists():
        matching = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207
        found = (entry for entry in matching if not entry.is_dir())
    else:
        path.stat()
        return [File(str(path), str(path))]
    return _checked(path, str(path), [File(str(entry), str(entry)) for entry in found])


def _stored_files(path: Any) -> list[File]:
    storage = path.fs
    # The storage's own form of the path, as in the names that it returns. Every method of fsspec uses it.
    where = storage._strip_protocol(path.path)

    def stored(found: str) -> File:
        return File(f"{path.protocol}://{found.lstrip('/')}", found, storage)

    # A cached listing lacks the files that another process has written since.
    storage.invalidate_cache()
    kind = None
    try:
        kind = storage.info(where)["type"]
    except FileNotFoundError:
        if not _is_glob(where):
            raise
    if kind is None:
        found: Mapping[str, Any] = storage.glob(where, detail=True)
    elif kind == "directory":
        found = {entry["name"]: entry for entry in storage.ls(where, detail=True)}
        # Some storages have an empty object for a directory.
        found = {name: entry for name, entry in found.items() if name.strip("/") != where.strip("/")}
        inside = (name for name, entry in found.items() if entry["type"] == "directory")
        _check_flat(path, (PurePosixPath(name).name for name in inside))
    else:
        return [stored(where)]
    # A console of S3 creates an empty object for a directory, whose name ends in "/".
    files = [
        stored(name)
        for name, entry in found.items()
        if entry["type"] != "directory" and not (name.endswith("/") and entry.get("size") == 0)
    ]
    return _checked(path, where, files)


def _is_glob(path: Any) -> bool:
    return not _GLOB.isdisjoint(str(path))


def _check_flat(path: Any, directories: Iterable[str]) -> None:
    with_data = sorted(name for name in directories if not name.startswith(_NO_DATA))
    if with_data:
        more = ", …" if len(with_data) > 3 else ""
        raise ValueError(
            f"{path} contains directories ({', '.join(with_data[:3])}{more}), which are not read: use a glob "
            f"such as {path}/**/*.parquet"
        )


def _checked(path: Any, where: str, files: list[File]) -> list[File]:
    # A file with more such names than the path was matched by wildcards.
    asked_for = _without_data(where)
    files = [file for file in files if _without_data(file.location) <= asked_for]
    if not files:
        what = "no file matches" if _is_glob(path) else "the directory contains no files"
        raise FileNotFoundError(f"{path}: {what} (names that begin with '.' or '_' are ignored)")
    return sorted(files, key=lambda file: file.location)


def _without_data(path: str) -> int:
    """The number of names in a path that begin with '.' or '_'."""
    return sum(name.startswith(_NO_DATA) for name in PurePosixPath(path).parts)
