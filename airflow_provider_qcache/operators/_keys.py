"""Hand the keys that a run stored to later runs: return them, write them to a file, delete missing ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_qcache.compat import AirflowFailException
from airflow_provider_qcache.operators import _arguments as rules
from airflow_provider_qcache.operators._content import named_if_missing, path_of
from airflow_provider_qcache.operators._delete import delete_tables
from airflow_provider_qcache.operators._output import MAX_XCOM_ROWS, output_at, publish
from airflow_provider_qcache.operators.errors import TablesFailed, permanent

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping, Sequence

    from airflow_provider_qcache.hooks.qcache import QCacheHook


def read_keys(name: str, path: Any) -> list[str]:
    """The keys in a file, one a line.

    Raises FileNotFoundError; or AirflowFailException for a line that is no key or a path that is no file's.
    """
    with permanent(ValueError), named_if_missing(name, path):
        text = path_of(name, path).read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line]
        return [rules.key(f"{name}: line {number}", line) for number, line in enumerate(lines, 1)]


class KeyHandover:
    """Passes the keys of a run of many tables to later runs, by the arguments of a QCacheStoreOperator.

    Raises AirflowFailException if a path is not that of a file, or a line of the earlier list is not a key.
    """

    def __init__(self, arguments: Mapping[str, Any], log: logging.Logger) -> None:
        self._return_keys = arguments["return_keys"]
        self._allow_empty = arguments["allow_empty"]
        self._log = log
        path = arguments["keys_path"]
        self._output = None if path is None else output_at("keys_path", path)
        earlier = arguments["delete_missing"]
        if earlier is not None and not isinstance(earlier, list):
            # Before anything is stored: keys_path may be the same file.
            try:
                earlier = read_keys("delete_missing", earlier)
            except FileNotFoundError:
                log.warning("delete_missing: there is no file %s yet, so this run deletes nothing", earlier)
                earlier = None
        self._earlier: list[str] = earlier or []

    def check_number(self, number: int) -> None:
        """Fail for good if there are more keys than XCom should have."""
        if self._return_keys and number > MAX_XCOM_ROWS:
            raise AirflowFailException(
                f"return_keys: more than {MAX_XCOM_ROWS:,} keys, the limit for XCom: pass keys_path instead"
            )

    def missing(self, keys: Sequence[str]) -> list[str]:
        """The keys of the earlier run that are not among these."""
        known = set(keys)
        return [key for key in dict.fromkeys(self._earlier) if key not in known]

    def finish(
        self, hook: QCacheHook, keys: Sequence[str], summary: dict[str, Any], *, failed: int, is_retry: bool
    ) -> None:
        """Delete the earlier keys that are not among these, then write and return the keys.

        Keys that should have been deleted stay in the list, so that a later run deletes them. ``keys`` are
        those that the run was to store, ``failed`` of which failed; with ``is_retry`` an earlier try may have
        stored others. ``summary``, which the task returns, takes ``deleted`` and ``keys``. Raises
        TablesFailed without keys, since all earlier ones would be deleted, and NodesUnreachable.
        """
        missing = self.missing(keys)
        listed = list(keys)
        if missing and (failed or is_retry):
            self._log.warning(
                "delete_missing: %s not deleted, since %s; the list of keys keeps them for a later run",
                rules.counted(len(missing), "key"),
                f"{rules.counted(failed, 'table')} failed" if failed else "this try is a retry",
            )
            listed += missing
        elif missing:
            if not keys and not self._allow_empty:
                raise TablesFailed(
                    f"delete_missing: this run has no tables, and would delete all "
                    f"{rules.counted(len(missing), 'table')} of the earlier run. If that is meant, pass "
                    "allow_empty=True",
                    result=summary,
                )
            delete_tables(hook, missing, all_nodes=True, ignore_unreachable=False, context={}, log=self._log)
            summary["deleted"] = len(missing)
        if self._output is not None:
            publish("".join(f"{key}\n" for key in listed).encode(), self._output)
        if self._return_keys:
            summary["keys"] = listed
