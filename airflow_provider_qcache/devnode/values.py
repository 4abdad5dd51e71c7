"""What a value of a table is: nulls, texts, and the order of values of different types."""

import pandas as pd


def is_null(value: object) -> bool:
    """Whether a value of a table or of a query is null: None or NaN."""
    return value is None or value != value


def py2_rank(value: object) -> int:
    """The place of a value's type among the types, where Python 2 orders values of different types."""
    if value is None:
        return -1
    if isinstance(value, (int, float)):
        return 0
    return {dict: 1, list: 2, str: 3}[type(value)]


def texts_as_objects(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the columns that pandas made its own string type turned into objects."""
    texts = {position for position, dtype in enumerate(table.dtypes) if isinstance(dtype, pd.StringDtype)}
    for position in texts:
        table.isetitem(position, table.iloc[:, position].astype(object))
    return table
