"""An Airflow hook for a database that has no provider."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.providers.common.sql.hooks.sql import DbApiHook


class Hook(DbApiHook):
    """Opens connections with the database's driver, as a provider's hook would."""

    conn_name_attr = "conn_id"

    def __init__(self, connect: Callable[[], Any]) -> None:
        super().__init__()
        self._connect = connect

    def get_conn(self) -> Any:
        return self._connect()
