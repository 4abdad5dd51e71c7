"""Return an answer to XCom within limits, or write it to a file, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.compat import AirflowFailException
from airflow_provider_qcache.operators._arguments import is_remote
from airflow_provider_qcache.operators._content import is_frame, path_of
from airflow_provider_qcache.operators.errors import permanent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_XCOM_ROWS: Final = 10_000
"""The most rows that a query returns to XCom."""

MAX_XCOM_BYTES: Final = 1 << 20
"""The most bytes, as JSON, that a query returns to XCom."""

MAX_PROCESSED_BYTES: Final = 32 << 20
"""The most bytes of JSON that are parsed for ``result_processor``; as Python objects they take up to 25
times as much memory."""

_RETURNED: Final = "what result_processor returned"


def for_xcom(content: bytes, processor: Callable[[list[dict[str, Any]]], Any] | None) -> Any:
    """The rows, or what a function returns for them; AirflowFailException beyond the limits."""
    if processor is None:
        _check_limit("the query's rows", len(content), "bytes of JSON", MAX_XCOM_BYTES)
        rows = json.loads(content)
        _check_limit("the query's rows", len(rows), "rows", MAX_XCOM_ROWS)
        return rows
    if len(content) > MAX_PROCESSED_BYTES:
        raise AirflowFailException(
            f"the query's rows: {len(content):,} bytes of JSON, and the limit for result_processor is "
            f"{MAX_PROCESSED_BYTES:,}, which take up to 25 times as much in memory: add a limit or an "
            "aggregation to the query, or pass output_path and process the file"
        )
    returned = processor(json.loads(content))
    has_rows = isinstance(returned, Sequence) or (is_frame(returned) and isinstance(returned, Sized))
    if has_rows and not isinstance(returned, str | bytes):
        _check_limit(_RETURNED, len(returned), "rows", MAX_XCOM_ROWS)
    _check_limit(_RETURNED, _size_in_xcom(returned), "bytes of JSON", MAX_XCOM_BYTES)
    return returned


def _size_in_xcom(value: Any) -> int:
    """The bytes of JSON that Airflow stores for a value; AirflowFailException if it cannot store it."""
    from airflow_provider_qcache.compat import serialize  # noqa: PLC0415  # with its first use

    try:
        # Not json's `default`: a repr may be shorter than what is stored.
        text = json.dumps(serialize(value), ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, AttributeError, RecursionError, ImportError) as error:
        raise AirflowFailException(
            f"{_RETURNED}: Airflow cannot store this {type(value).__name__} as XCom: return JSON values "
            f"({type(error).__name__}: {error})"
        ) from error
    return len(text.encode("utf-8", "surrogatepass"))


def _check_limit(what: str, number: int, unit: str, most: int) -> None:
    if number > most:
        raise AirflowFailException(
            f"{what}: {number:,} {unit}, and the limit for XCom is {most:,}: pass output_path, or add a "
            "limit to the query"
        )


@permanent(ValueError)
def output_at(name: str, target: Any) -> Any:
    """The path of an argument, its symlinks followed; AirflowFailException if no file can be written there.

    Only a file may be replaced: a device or a FIFO would become a file, and an object would be moved into a
    directory or below a prefix.
    """
    path = path_of(name, target)
    named = f"{name}={str(target)!r}"
    if not path.name:
        raise ValueError(f"{named}: expected the path of a file")
    if is_remote(path):
        path.fs.invalidate_cache(path.parent.path)
        if path.fs.isdir(path.path):
            raise ValueError(f"{named}: a directory, or objects below it; expected a file")
        return path
    try:
        path = path.resolve()
        mode = _mode_of(path)
    except (RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ELOOP:
            raise
        raise ValueError(f"{named}: a symlink that leads to itself") from error
    if mode is not None and not stat.S_ISREG(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "a device, FIFO or socket"
        raise ValueError(f"{named}: {what}; expected a file")
    return path


def _mode_of(path: Path) -> int | None:
    """The mode of the file at a local path; None if there is none."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def publish(body: bytes, path: Any) -> None:
    """Write the body beside the path, check its size, and move it to the path.

    An existing file stays as it was until the move, and if anything fails. A missing local directory is
    created, and a local file keeps its mode. ``path`` is from ``output_at``. Raises what the storage raises.
    """
    # A name for each try: two tasks with the same target must not write the same temporary file.
    spool = f".{path.name}.{secrets.token_hex(8)}.part"
    if is_remote(path):
        _publish_object(body, path, path.parent / spool)
    else:
        _publish_file(body, path, path.with_name(spool))


def _publish_file(body: bytes, path: Path, spool: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = _mode_of(path)
    try:
        with spool.open("xb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        _check_whole(spool.stat().st_size, body, path)
        spool.replace(path)
    except BaseException:
        spool.unlink(missing_ok=True)
        raise


def _publish_object(body: bytes, path: Any, spool: Any) -> None:
    storage = path.fs
    try:
        storage.pipe_file(spool.path, body)
        _check_whole(storage.info(spool.path)["size"], body, path)
        storage.mv(spool.path, path.path)
        storage.invalidate_cache(path.parent.path)
        found = storage.info(path.path)
        if found["type"] != "file" or found["size"] != len(body):
            # If other objects were created below the path meanwhile, it was moved among them.
            raise OSError(  # noqa: TRY301
                f"{path}: moved {len(body)} bytes there, and found a {found['type']} of {found['size']} "
                "bytes: another process may write to the same path"
            )
    except BaseException:
        for left in (spool.path, (path / spool.name).path):
            with contextlib.suppress(Exception):
                storage.rm_file(left)
        raise


def _check_whole(found: int | None, body: bytes, path: Any) -> None:
    if found != len(body):
        raise OSError(
            f"{path}: wrote {len(body)} bytes to a temporary file and found {found}, so the file was left as "
            "it was: check the storage"
        )
