"""Bytes to tables and back: CSV, JSON, gzip and lz4.

A table is a DataFrame whose strings are Python's, in columns of dtype ``object``, as in the pandas that
QCache runs on: pandas' own string types differ in their regular expressions, their nulls and their sorting.
"""

import gzip
import io
import json
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import lz4.block
import numpy as np
import pandas as pd
from pandas.errors import DtypeWarning

from airflow_provider_qcache.devnode.errors import RequestError
from airflow_provider_qcache.devnode.values import Column, is_null, set_column, texts_as_objects

# Where pyarrow is installed, pandas would read texts into it, which bytes that are no UTF-8 cannot be.
pd.options.mode.string_storage = "python"

CSV = "text/csv"
JSON = "application/json"

GZIP_LEVEL = 6
"""The level QCache compresses with."""


def _gunzip(body: bytes) -> bytes:
    return gzip.GzipFile(fileobj=io.BytesIO(body)).read() if body else b""


_DECOMPRESS: dict[str | None, Callable[[bytes], bytes]] = {
    None: lambda body: body,
    "gzip": _gunzip,
    "lz4": lz4.block.decompress,
}
_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: gzip.compress(body, GZIP_LEVEL),
    "lz4": lz4.block.compress,
}


def decompress(body: bytes, encoding: str | None) -> bytes:
    """Undo a request's Content-Encoding: gzip, lz4 (4 bytes of size, little-endian, then a raw block), none.

    Raises:
        RequestError: 400 for another encoding, 500 for a body that is not what the header says.
    """
    if encoding not in _DECOMPRESS:
        raise RequestError(
            400, f"Content-Encoding {encoding!r} is not supported; allowed: gzip, lz4, or none"
        )
    try:
        return _DECOMPRESS[encoding](body)
    except Exception as error:
        raise RequestError(500, f"The body is not valid {encoding}: {error}") from error


def negotiate(accept_encoding: str) -> str | None:
    """The encoding of an answer. QCache looks for the names as substrings, lz4 first."""
    return next((name for name in ("lz4", "gzip") if name in accept_encoding), None)


def compress(body: bytes, encoding: str) -> bytes:
    """Compress an answer's body with ``gzip`` or ``lz4``."""
    return _COMPRESS[encoding](body)


def parse_csv(body: bytes, types: Mapping[str, str]) -> pd.DataFrame:
    """Read a table from UTF-8 CSV; only the empty field is null, and what ``types`` leaves out is inferred.

    Column names outside ASCII become names that no query can say: QCache holds them as bytes, which equal
    no text of a query.

    Raises:
        RequestError: 500 for what is not CSV, or does not fit its types.
    """
    try:
        table = _parse(body, types)
    except (ValueError, OverflowError, pd.errors.ParserError) as error:
        raise RequestError(500, f"The body is not a CSV table: {error}") from error
    # A first row longer than the header makes its leading fields an index, which is no part of any answer.
    table = texts_as_objects(table.reset_index(drop=True))
    for position, dtype in enumerate(table.dtypes):
        if dtype.kind == "O" and not isinstance(dtype, pd.CategoricalDtype):
            set_column(table, position, _big_integers_as_texts(table.iloc[:, position]))
    table.columns = pd.Index([hide_name(str(name)) for name in table.columns], dtype=object)
    return table


def _parse(body: bytes, types: Mapping[str, str]) -> pd.DataFrame:
    read: Callable[..., pd.DataFrame]
    try:
        read = partial(_read_csv, body)
        table = read(types)
    except UnicodeDecodeError:
        read = partial(_read_csv, body, encoding_errors="surrogateescape")
        table = read(types)
    if any(_NUMBERED.search(name) for name in table.columns):
        header = read({}, header=None, nrows=1).iloc[0].fillna("").astype(str).tolist()
        if len(set(header)) < len(header):
            return _parse_repeated(header, types, read)
    return _large_floats_as_texts(table, types, read)


_NUMBERED = re.compile(r"\.\d+$")
_INFINITY = re.compile(r"[+-]?inf|-[0-9.].*", re.IGNORECASE)
"""What QCache reads as an infinity: the word, and a negative number beyond the range."""


def _parse_repeated(
    header: list[str], types: Mapping[str, str], read: Callable[..., pd.DataFrame]
) -> pd.DataFrame:
    """Read a table whose header repeats names, with QCache's way of numbering them.

    Its parser numbers them first, and by these names looks up the types; then pandas numbers what still
    repeats: a, a, a.1 become a, a.1, a.1 and then a, a.1, a.1.1.
    """
    counts: dict[str, int] = {}
    typed_as = []
    for position, field in enumerate(header):
        name = field or f"Unnamed: {position}"
        count = counts.get(name, 0)
        counts[name] = count + 1
        typed_as.append(f"{name}.{count}" if count else name)
    counts.clear()
    names = []
    for name in typed_as:
        unique = name
        while count := counts.get(unique, 0):
            counts[unique] = count + 1
            unique = f"{unique}.{count}"
        counts[unique] = 1
        names.append(unique)
    # pandas would give the type of a repeated name to all of its columns, so it is told none of these names.
    places = list(range(len(header)))
    placed = {place: types[name] for place, name in enumerate(typed_as) if name in types}
    read = partial(read, header=0, names=places)
    table = _large_floats_as_texts(read(placed), placed, read)
    return table.set_axis(names, axis="columns")


def _large_floats_as_texts(
    table: pd.DataFrame, types: Mapping[Any, str], read: Callable[..., pd.DataFrame]
) -> pd.DataFrame:
    """Undo infinities that QCache does not see: ``Infinity`` and 1e400 make their column one of texts."""
    for name, dtype in table.dtypes.items():
        if dtype.kind != "f" or not np.isinf(infinite := table[name]).any():
            continue
        texts = read({**types, name: "object"})[name]
        odd = texts[np.isinf(infinite) & ~texts.str.fullmatch(_INFINITY, na=False)]
        if len(odd):
            if name in types:
                raise ValueError(f"column {name!r} is typed float and holds {odd.iloc[0]!r}")
            table[name] = texts
    return table


def _read_csv(body: bytes, types: Mapping[str, str], **options: Any) -> pd.DataFrame:
    # An enum is read as texts and made one afterwards: pandas would make ``True`` and ``False`` booleans.
    read_as = {name: "object" if dtype == "category" else dtype for name, dtype in types.items()}

    def read(*, low_memory: bool) -> pd.DataFrame:
        return pd.read_csv(  # type: ignore[no-any-return]
            io.BytesIO(body),
            dtype=read_as,
            na_values=[""],
            keep_default_na=False,
            low_memory=low_memory,
            float_precision="legacy",  # rounds as QCache does, which conditions on floats can tell
            **options,
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pandas 4 will drop float_precision
        # Reading by chunks is the faster way, and tells where the chunks disagree on a column's type.
        warnings.simplefilter("error", DtypeWarning)
        try:
            table = read(low_memory=True)
        except DtypeWarning:
            table = read(low_memory=False)
    # Of a table without rows QCache does not know that its enums are texts, which like can tell.
    enum = pd.CategoricalDtype() if len(table) else pd.CategoricalDtype(pd.Index([], dtype="int64"))
    enums = [name for name in table.columns if types.get(name) == "category"]
    return table.astype(dict.fromkeys(enums, enum)) if enums else table


def _big_integers_as_texts(column: Column) -> Column:
    """A column of integers beyond 64 bits as the texts that QCache keeps; others as they are."""
    first = next((value for value in column if not is_null(value)), None)
    return (
        column.map(str, na_action="ignore").astype(object)
        if isinstance(first, int) and not isinstance(first, bool)
        else column
    )


_HIDDEN = re.compile("[\udc80-\udcff]")


def hide_name(name: str) -> str:
    """A column name from CSV, each byte outside ASCII as a lone surrogate."""
    if name.isascii():
        return name
    return name.encode("utf-8", "surrogateescape").decode("ascii", "surrogateescape")


def show_name(name: str) -> str:
    """The inverse of ``hide_name``; other names stay as they are."""
    try:
        return name.encode("ascii", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name


def parse_json(body: bytes) -> pd.DataFrame:
    """Read a table from a JSON list of objects; the columns come out sorted, missing keys are null.

    Raises:
        RequestError: 500 for anything else.
    """
    try:
        records = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RequestError(500, f"The body is not JSON: {error}") from error
    if not isinstance(records, list):
        raise RequestError(500, f"The body must be a list of objects, not {type(records).__name__}")
    for position, record in enumerate(records):
        if not isinstance(record, dict):
            raise RequestError(500, f"Item {position} of the list is {type(record).__name__}, not an object")
    names = sorted(set().union(*records))
    if not names:
        return pd.DataFrame()
    objects = pd.DataFrame(
        {name: [record.get(name, np.nan) for record in records] for name in names}, dtype=object
    )
    table = objects.infer_objects()
    table.columns = table.columns.astype(object)
    for position, dtype in enumerate(table.dtypes):
        if isinstance(dtype, pd.StringDtype):
            set_column(table, position, objects.iloc[:, position])
    for position, name in enumerate(names):
        if table.iloc[:, position].dtype == object:
            set_column(table, position, _check_integers(name, table.iloc[:, position]))
    return table


def _check_integers(name: str, column: Column) -> Column:
    """Refuse integers beyond 64 bits, as QCache does unless a text, list or object came before them.

    After a null they are floats, and so is their column.
    """
    is_float = False
    for row, value in enumerate(column):
        if isinstance(value, (str, list, dict)):
            return column
        is_float = is_float or value is None
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            if is_float and all(is_null(other) or isinstance(other, (int, float)) for other in column):
                return column.astype(float)
            raise RequestError(500, f"Item {row}: {name!r} is {value}, which does not fit 64 bits")
    return column


def to_json(table: pd.DataFrame) -> bytes:
    """Write a table as a JSON list of objects.

    Raises:
        RequestError: 500 where two columns have one name.
    """
    shown = table
    if not all(map(str.isascii, table.columns)):
        shown = table.set_axis([show_name(name) for name in table.columns], axis="columns")
    try:
        try:
            text = shown.to_json(orient="records")
        except UnicodeEncodeError:
            text = shown.map(_replace_bytes).rename(columns=_replace_bytes).to_json(orient="records")
    except (ValueError, OverflowError) as error:
        raise RequestError(500, f"The result cannot be written as JSON: {error}") from error
    return text.encode("ascii")


def _replace_bytes(value: Any) -> Any:
    """A text in which U+FFFD stands for every byte that is not UTF-8; other values as they are."""
    return re.sub("[\ud800-\udfff]", "\ufffd", value) if isinstance(value, str) else value


def to_csv(table: pd.DataFrame) -> bytes:
    """Write a table as CSV: LF, minimal quoting, nulls empty, floats with 12 significant digits.

    Raises:
        RequestError: 500 where the table came as JSON and a column's name is outside ASCII.
    """
    names = [str(name) for name in table.columns]
    for name in names:
        if not name.isascii() and not _HIDDEN.search(name):
            raise RequestError(500, f"Column {name!r} is outside ASCII and came as JSON: ask for JSON")
    lines = [",".join(_quoted([show_name(name) for name in names]))]
    if names:
        lines += map(",".join, zip(*(_csv_fields(table.iloc[:, i]) for i in range(len(names))), strict=True))
    if len(names) == 1:  # a line must not be blank
        lines = [line or '""' for line in lines]
    text = "\n".join([*lines, ""])
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a surrogate pair, from JSON
        return text.encode("utf-8", "surrogatepass")


def _csv_fields(column: Column) -> list[str]:
    values = column.to_numpy()
    if values.dtype.kind == "f":
        return float_fields(values)
    if values.dtype.kind != "O":
        return list(map(str, values.tolist()))
    fields = values.tolist()
    for row in np.flatnonzero(pd.isna(values)):
        fields[row] = ""
    try:
        return _quoted(fields)
    except TypeError:  # values of several types
        return _quoted(list(map(str, fields)))


_TO_QUOTE = re.compile('[",\n]')


def _quoted(fields: list[str]) -> list[str]:
    """Texts as fields of CSV. Only what must be is quoted, and a lone CR, as in Python 2, need not be."""
    if not _TO_QUOTE.search("\0".join(fields)):
        return fields
    return ['"' + field.replace('"', '""') + '"' if _TO_QUOTE.search(field) else field for field in fields]


def _whole(field: str) -> str:
    """A float without a fraction, of which Python 2 writes twelve digits with an exponent."""
    digits = field.lstrip("-")
    if len(digits) < 12:
        return field + ".0"
    mantissa = f"{digits[0]}.{digits[1:]}".rstrip("0").rstrip(".")
    return f"{'-' * field.startswith('-')}{mantissa}e+11"


def float_fields(values: "np.ndarray[Any, np.dtype[np.float64]]") -> list[str]:
    """Floats as Python 2 prints them: 12 significant digits, always with a point or an exponent."""
    fields = ("%.12g\n" * len(values) % tuple(values.tolist())).split("\n")[:-1]
    fields = [field if "." in field or "e" in field or "n" in field else _whole(field) for field in fields]
    for row in np.flatnonzero(np.isnan(values)):
        fields[row] = ""
    return fields
