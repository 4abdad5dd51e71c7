"""The hook: one Airflow connection, one client."""

from __future__ import annotations

import functools
import inspect
import time
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeVar

from airflow_provider_qcache import connection
from airflow_provider_qcache.assets.outlets import KeysSeen
from airflow_provider_qcache.client import OperationCancelled, QClient
from airflow_provider_qcache.client.secrets import secrets_of, spellings
from airflow_provider_qcache.compat import AirflowNotFoundException, BaseHook, mask_secret
from airflow_provider_qcache.connection_fields import CONN_TYPE, EXTRA, HOOK_NAME, ui_field_behaviour
from airflow_provider_qcache.hooks import node_check
from airflow_provider_qcache.hooks.metrics import Metrics
from airflow_provider_qcache.lineage import collect_result

if TYPE_CHECKING:
    from collections import defaultdict
    from collections.abc import Callable, Mapping

    from airflow_provider_qcache.client import RequestRetry
    from airflow_provider_qcache.connection_fields import Field


_LEAST_TO_MASK: Final = 5
"""The fewest characters of a secret that is masked, as in Airflow: ordinary words would be masked too."""


_P = ParamSpec("_P")
_R = TypeVar("_R")


def _operation(method: Callable[Concatenate[QClient, _P], _R]) -> Callable[Concatenate[QCacheHook, _P], _R]:
    """Make a hook's method of a client's method, with metrics, lineage and masked secrets in headers."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def operation(hook: QCacheHook, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        client = hook.get_conn()
        do: Callable[_P, _R] = getattr(client, method.__name__)
        bound = signature.bind(client, *args, **kwargs)
        arguments = bound.arguments
        seen = KeysSeen()
        for many in {"tables", "keys"} & arguments.keys():
            arguments[many] = seen.watch(arguments[many])
        for headers in ("post_headers", "query_headers"):
            hook._mask_headers(arguments.get(headers))
        # A query of one named node says nothing about what readers find.
        asks_node = arguments.get("node") is not None
        callers_on_done: Any = arguments.get("on_done")
        with hook.metrics.of("" if asks_node else method.__name__, arguments.get("key")) as note:

            def on_done(key: str, outcome: object) -> None:
                """Note one result of many."""
                if not isinstance(outcome, Exception):
                    note(outcome)
                callers_on_done(key, outcome)

            if callers_on_done is not None:
                arguments["on_done"] = on_done
            result = do(*bound.args[1:], **bound.kwargs)
            note(result)
        if not asks_node:
            collect_result(hook, arguments.get("key", seen.pattern), result, stores="tables" in arguments)
        return result

    return operation


class QCacheHook(BaseHook):
    """Store, query and delete tables of the QCache cluster of an Airflow connection.

    It has the operations of its client, QClient, by the same names. The client is created at first use and
    kept until ``close()`` or the end of a ``with`` block. Safe for threads. A hook can be pickled and copied;
    the copy creates its own client.

    Args:
        qcache_conn_id: The connection, of type ``qcache``.
        request_retry: How failed requests are retried: None for the connection's settings, a RequestRetry
            that replaces them, or a dict of RequestRetry's fields, each of which replaces the connection's.

    Raises:
        ValueError: request_retry has another type, an unknown field or an invalid value.
    """

    conn_name_attr = "qcache_conn_id"
    default_conn_name = "qcache_default"
    conn_type = CONN_TYPE
    hook_name = HOOK_NAME

    def __init__(
        self,
        qcache_conn_id: str = default_conn_name,
        *,
        request_retry: RequestRetry | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        connection.check_request_retry(request_retry)
        self.qcache_conn_id = qcache_conn_id
        self.request_retry = request_retry
        self._masked: set[str] = set()
        self.used_by = type(self).__name__
        """The tag ``operator`` of the metrics."""
        self._start()

    def _start(self) -> None:
        # A dict, whose setdefault and pop are atomic, and no lock: a process that is forked while another
        # thread creates the client would wait for that lock for ever.
        self._made: dict[str, QClient] = {}
        self._cancelled = False
        self.metrics = Metrics(self)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: the hook without its client, whose sockets cannot be copied."""
        own = ("_made", "_cancelled", "metrics")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.qcache_conn_id!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def settings(self) -> connection.ConnectionSettings:
        """The settings in the Airflow connection, checked.

        Raises:
            InvalidConnection: with the field, its value and what is allowed.
        """
        return connection.parse_connection(self.get_connection(self.qcache_conn_id))

    def get_conn(self) -> QClient:
        """The hook's client, created at first use.

        Raises:
            InvalidConnection: with the field, its value and what is allowed.
            OperationCancelled: after ``cancel()``.
        """
        client = self._made.get("client")
        if client is None:
            arguments = self._client_arguments()
            try:
                own = QClient(**arguments)
            except ValueError as error:
                raise connection.InvalidConnection(f"connection {self.qcache_conn_id!r}: {error}") from error
            own.add_listener(self.metrics)
            self._mask(own.secrets())
            client = self._made.setdefault("client", own)
            if client is not own:
                own.close()  # another thread was first
        if self._cancelled:
            raise OperationCancelled(f"the hook of connection {self.qcache_conn_id!r} was cancelled")
        return client

    def _mask(self, secrets: set[str]) -> None:
        """Pass secrets to Airflow's masker, each once: it knows only one spelling of the password."""
        new = {secret for secret in secrets if len(secret) >= _LEAST_TO_MASK} - self._masked
        if new:
            self._masked |= new
            mask_secret(sorted(new))

    def _mask_headers(self, headers: Mapping[str, str] | None) -> None:
        if headers:
            lines = "\r\n".join(f"{name}: {value}" for name, value in headers.items())
            self._mask(spellings(secrets_of(lines.encode("latin-1", "replace"))))

    def _client_arguments(self) -> dict[str, Any]:
        return self.settings().client_arguments(self.request_retry)

    def test_connection(self) -> tuple[bool, str]:
        """Ask every node for its status, all at once: within connect plus read timeout, 10 s at most.

        Returns:
            Whether every node can be used, and a text with each node's time or its trouble.
        """
        started = time.monotonic()
        try:
            arguments = self._client_arguments()
            left = node_check.LONGEST - (time.monotonic() - started)
            checks = node_check.check_nodes(arguments, longest=left)
        except (connection.InvalidConnection, AirflowNotFoundException) as error:
            return False, str(error)
        troubled = sum(check.trouble is not None for check in checks)
        if len(checks) == 1:
            summary = "the node cannot be used" if troubled else "the node answers"
        elif troubled:
            summary = f"{troubled} of {len(checks)} nodes cannot be used"
        else:
            summary = f"{len(checks)} nodes answer"
        # Nodes in trouble first: a form may show only the beginning.
        listed = sorted(checks, key=lambda check: check.trouble is None)
        return not troubled, f"{summary}. " + "; ".join(map(str, listed))

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """The form's fields on Airflow before 3.2, by name; later versions read provider_info.

        Numbers and booleans are text fields too: Airflow 2.11 shows a stored false or 0 as an empty field,
        and would save it as empty. The texts "false" and "0" are kept.
        """
        # Airflow uses this form only if both are installed.
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget  # noqa: PLC0415
        from wtforms import StringField  # noqa: PLC0415
        from wtforms.validators import Optional  # noqa: PLC0415

        return {
            field.name: StringField(
                field.label,
                validators=[Optional(), functools.partial(_check_form, field)],
                description=field.description,
                widget=BS3TextFieldWidget(),
            )
            for field in EXTRA
        }

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """The form's labels and placeholders on Airflow before 3.2."""
        return {"hidden_fields": [], **ui_field_behaviour()}

    def close(self) -> None:
        """Close the client and end its requests. A later call makes a new client."""
        client = self._made.pop("client", None)
        if client is not None:
            client.close()

    def cancel(self) -> None:
        """End the operations in progress with OperationCancelled, within a second, and refuse new ones.

        It takes no lock: it may be called from any thread and from a signal handler, even before there is a
        client.
        """
        self._cancelled = True
        client = self._made.get("client")
        if client is not None:
            client.cancel()

    # The client's operations, with their signatures and documentation.

    get = _operation(QClient.get)
    query = _operation(QClient.query)
    delete = _operation(QClient.delete)
    post = _operation(QClient.post)
    post_table = _operation(QClient.post_table)
    post_many = _operation(QClient.post_many)
    delete_many = _operation(QClient.delete_many)
    find_absent = _operation(QClient.find_absent)
    locate = _operation(QClient.locate)
    node_for_key = _operation(QClient.node_for_key)
    successors = _operation(QClient.successors)
    node_status = _operation(QClient.node_status)
    node_statistics = _operation(QClient.node_statistics)
    get_statistics = _operation(QClient.get_statistics)

    @property
    def statistics(self) -> defaultdict[str, dict[str, int]]:
        """The client's own counts by node, without resetting them; see QClient.statistics."""
        return self.get_conn().statistics


def _check_form(field: Field, _form: Any, form_field: Any) -> None:
    """Raise the error that reading the connection would raise, as a form's error."""
    from wtforms.validators import ValidationError  # noqa: PLC0415

    try:
        connection.check_value(field, form_field.data)
    except connection.InvalidConnection as error:
        raise ValidationError(str(error)) from None
