"""What a file holds, by its name or as it is said, and how it is compressed."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import PurePosixPath

    from airflow_provider_qcache.files.listing import File


class Format(enum.StrEnum):
    """What a file holds."""

    CSV = "csv"
    JSON = "json"
    """A list of objects."""
    JSONL = "jsonl"
    """An object on each line."""
    PARQUET = "parquet"
    ARROW = "arrow"
    """Arrow's IPC format, file (which Feather is) or stream."""

    @property
    def is_text(self) -> bool:
        """Whether it goes to a node as it is, types left to it."""
        return self in (Format.CSV, Format.JSON, Format.JSONL)


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
COMPRESSIONS: Final = {".gz": "gzip", ".zst": "zstd"}


def compression_of(file: File) -> str | None:
    """What a file is compressed with as a whole, by its name: 'gzip', 'zstd' or None."""
    return COMPRESSIONS.get(file.path.suffix.lower())


def uncompressed(file: File) -> PurePosixPath:
    """A file's path without the suffix of its compression."""
    return file.path.with_suffix("") if compression_of(file) else file.path


def format_of(file: File) -> Format:
    """What a file holds, by its name; ValueError where that tells nothing."""
    found = SUFFIXES.get(uncompressed(file).suffix.lower())
    if found is None:
        raise ValueError(
            f"{file.name}: its name does not tell what it holds; {', '.join(SUFFIXES)}, each also with "
            f"{' or '.join(COMPRESSIONS)} after it, do, or source_format= "
            f"({', '.join(Format)})"
        )
    return found


def stem_of(file: File) -> str:
    """A file's name without the suffixes that tell what it holds, or without its last one."""
    return uncompressed(file).stem
