"""Values of a table: nulls, texts, and the order of values of different types."""

from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd

if TYPE_CHECKING:
    Column: TypeAlias = pd.Series[Any]
else:
    Column: TypeAlias = pd.Series


def is_null(value: object) -> bool:
    """Whether a value of a table or of a query is null: None or NaN."""
    return value is None or value != value


def py2_rank(value: object) -> int:
    """The rank of a value's type, by which Python 2 orders values of different types."""
    if value is None:
        return -1
    if isinstance(value, (int, float)):
        return 0
    return 1 if isinstance(value, dict) else 2 if isinstance(value, list) else 3


def texts_as_objects(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose columns of pandas' own string type are converted to objects."""
    texts = {position for position, dtype in enumerate(table.dtypes) if isinstance(dtype, pd.StringDtype)}
    for position in texts:
        set_column(table, position, table.iloc[:, position].astype(object))
    return table


def set_column(table: pd.DataFrame, position: int, column: Column) -> None:
    """Replace the column at ``position``; names may repeat."""
    table.isetitem(position, column)  # type: ignore[arg-type] # pandas-stubs leave Series out
