"""Every public name of the package: what users import, call and pass.

Adding a name to the package means adding it here. Removing or renaming one breaks users' code: the changelog
says so.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

WITHOUT_AIRFLOW = {
    "airflow_provider_qcache": """
        __version__
    """,
    "airflow_provider_qcache.client": """
        Absence Attempt AuthenticationFailed BodyNotRepeatable BulkError BulkReport CertificateRejected
        ClientClosed ClosedWithoutAnswer DeadlineExceeded DeleteOutcome DeleteResult HomeNodeUnavailable
        InvalidKey InvalidTable KeptTable Listener LocalResourceError MalformedQueryException
        NoCacheAvailable NodeOverloaded NodeState NodeStatus OperationCancelled Outcome Phase Place QClient
        QClientException QueryResult RequestRetry ResponseTooLarge Ring RowCountMismatch StoreResult
        StoreUncertain TooManyConsecutiveErrors UnexpectedServerResponse UnsupportedAcceptType
    """,
    "airflow_provider_qcache.connection": """
        ConnectionSettings InvalidConnection
    """,
    "airflow_provider_qcache.devnode": """
        LocalCluster NodeOptions NodeStartError
    """,
    "airflow_provider_qcache.extras": """
        MissingExtra
    """,
    "airflow_provider_qcache.testing": """
        Cluster Connect
    """,
    "airflow_provider_qcache.provider_info": """
        get_provider_info
    """,
}
"""The names of each module that can be imported where Airflow is not installed."""

WITH_AIRFLOW = {
    "airflow_provider_qcache.assets.qcache": "qcache_asset qcache_statistics_asset",
    "airflow_provider_qcache.decorators.qcache": """
        qcache_post_task qcache_query_task
    """,
    "airflow_provider_qcache.hooks.qcache": """
        QCacheHook
    """,
    "airflow_provider_qcache.links.qcache": """
        QCacheClusterLink
    """,
    "airflow_provider_qcache.operators.errors": """
        CheckFailed InvalidArgument NodesUnreachable QueryEmpty StoredOnFailover TableMissing TablesEvicted
        TablesFailed
    """,
    "airflow_provider_qcache.operators.qcache": """
        CheckFailed NodesUnreachable QCacheBranchOperator QCacheCheckOperator QCacheDeleteOperator
        QCachePostOperator QCacheQueryOperator QCacheStatisticsOperator StoredOnFailover TableMissing
        TablesEvicted TablesFailed
        UNSLICED_LENGTH
    """,
    "airflow_provider_qcache.operators.retry": """
        qcache_retry_policy
    """,
    "airflow_provider_qcache.sensors.qcache": """
        QCacheClusterSensor QCacheTableSensor
    """,
    "airflow_provider_qcache.transfers.sql_to_qcache": """
        QueryEmpty SqlToQCacheOperator
    """,
    "airflow_provider_qcache.triggers.qcache": """
        QCacheClusterTrigger QCacheTableChangedTrigger QCacheTableMissingTrigger QCacheTableTrigger
        QCacheTrigger
    """,
}
"""The names of each module that needs Airflow."""

MEMBERS_WITHOUT_AIRFLOW = {
    "airflow_provider_qcache.client.Absence": """
        GONE MISSING UNKNOWN
    """,
    "airflow_provider_qcache.client.Attempt": """
        as_dict cause node outcome phase seconds status
    """,
    "airflow_provider_qcache.client.BulkReport": """
        as_dict failed raise_for_failures seconds succeeded
    """,
    "airflow_provider_qcache.client.DeleteOutcome": """
        CONFIRMED GONE UNREACHABLE
    """,
    "airflow_provider_qcache.client.DeleteResult": """
        as_dict complete confirmed errors gone key outcomes unreachable
    """,
    "airflow_provider_qcache.client.KeptTable": """
        as_dict key node
    """,
    "airflow_provider_qcache.client.Listener": """
        attempt_failed node_failed node_recovered
    """,
    "airflow_provider_qcache.client.NodeState": """
        ALIVE FAILING PROBED
    """,
    "airflow_provider_qcache.client.NodeStatus": """
        alive as_dict failures gone last_error node probe_in state
    """,
    "airflow_provider_qcache.client.Outcome": """
        ANSWERED CANCELLED CERTIFICATE_REJECTED CLOSED CONNECT_FAILED CONNECT_TIMEOUT DEADLINE LOCAL
        NOT_QCACHE NOT_TAKEN OVERLOADED REFUSED REFUSED_REQUEST TIMEOUT TLS_FAILED TOO_LARGE TRUNCATED
        UNAUTHORIZED UNAVAILABLE UNDECODABLE UNRESOLVED UNSUPPORTED_ENCODING
    """,
    "airflow_provider_qcache.client.Phase": """
        BODY CONNECT HEAD NAME SEND TLS
    """,
    "airflow_provider_qcache.client.Place": """
        absence as_dict error node position rows same_as
    """,
    "airflow_provider_qcache.client.QClient": """
        add_listener cancel close delete delete_many find_absent get get_statistics locate node_for_key
        node_statistics node_status post post_many post_table query remove_listener secrets statistics
        successors
    """,
    "airflow_provider_qcache.client.QueryResult": """
        add_stats as_dict content content_type decoded encoding node statistics to_arrow to_pandas to_polars
        unsliced_result_len
    """,
    "airflow_provider_qcache.client.RequestRetry": """
        consecutive_error_count_limit wait_for_nodes wait_initial wait_max
    """,
    "airflow_provider_qcache.client.Ring": """
        node_for_key nodes points successors
    """,
    "airflow_provider_qcache.client.StoreResult": """
        as_dict attempts bytes copies evicted failed_copies failed_over home_node key may_hold_old node rows
        seconds statistics
    """,
    "airflow_provider_qcache.devnode.LocalCluster": """
        close configure exit_codes kill node_list pause pids refuse_auth reset restart resume slow start
    """,
    "airflow_provider_qcache.testing.Cluster": """
        has holding home table
    """,
}
"""The methods, properties and fields of each class."""

MEMBERS_WITH_AIRFLOW = {
    "airflow_provider_qcache.hooks.qcache.QCacheHook": """
        cancel close conn_name_attr conn_type default_conn_name delete delete_many find_absent get get_conn
        get_connection_form_widgets get_statistics get_ui_field_behaviour hook_name locate node_for_key
        node_statistics node_status post post_many post_table query settings statistics successors
        test_connection
    """,
}
"""The methods, properties and fields of each class."""

ARGUMENTS = {
    "airflow_provider_qcache.operators.qcache.QCachePostOperator": """
        key content source_path source_format python_callable tables max_failed_keys allow_evicted op_args
        op_kwargs content_type column_types stand_in_columns headers compression copies evict_stale
        check_row_count require_home emit_asset durable return_keys keys_path delete_missing allow_empty
        qcache_conn_id request_retry
    """,
    "airflow_provider_qcache.operators.qcache.QCacheQueryOperator": """
        key query output_path accept load_callable load_kwargs content_type column_types on_miss
        result_processor qcache_conn_id request_retry
    """,
    "airflow_provider_qcache.operators.qcache.QCacheDeleteOperator": """
        key keys keys_path all_nodes on_unreachable emit_asset qcache_conn_id request_retry
    """,
    "airflow_provider_qcache.sensors.qcache.QCacheTableSensor": """
        key keys query min_rows check on_home deferrable qcache_conn_id request_retry
    """,
    "airflow_provider_qcache.sensors.qcache.QCacheClusterSensor": """
        min_nodes deferrable qcache_conn_id request_retry
    """,
    "airflow_provider_qcache.triggers.qcache.QCacheTableMissingTrigger": """
        key keys qcache_conn_id poll_interval repeat_after max_events_per_hour
    """,
    "airflow_provider_qcache.triggers.qcache.QCacheTableChangedTrigger": """
        key keys query qcache_conn_id poll_interval max_events_per_hour
    """,
    "airflow_provider_qcache.operators.qcache.QCacheCheckOperator": """
        key query min_rows max_rows value check qcache_conn_id request_retry
    """,
    "airflow_provider_qcache.operators.qcache.QCacheBranchOperator": """
        follow_task_ids_if_true follow_task_ids_if_false key query min_rows max_rows value check
        qcache_conn_id request_retry
    """,
    "airflow_provider_qcache.transfers.sql_to_qcache.SqlToQCacheOperator": """
        sql key sql_conn_id parameters hook_params partition_by column_types on_empty compression copies
        evict_stale check_row_count require_home emit_asset max_failed_keys allow_evicted durable return_keys
        keys_path delete_missing allow_empty qcache_conn_id request_retry
    """,
}
"""The arguments of each operator, without those of Airflow's BaseOperator."""


def missing(names: dict[str, str]) -> dict[str, list[str]]:
    """The listed names that each module or class lacks."""
    return _lacking(names, hasattr)


def missing_arguments() -> dict[str, list[str]]:
    """The listed arguments that each operator does not take."""
    return _lacking(ARGUMENTS, _takes)


def _takes(operator: type, name: str) -> bool:
    return any(name in inspect.signature(kind.__init__).parameters for kind in operator.__mro__)


def _lacking(names: dict[str, str], has: Callable[[Any, str], bool]) -> dict[str, list[str]]:
    lacking = {}
    for place, listed in names.items():
        if found := [name for name in listed.split() if not has(_at(place), name)]:
            lacking[place] = found
    return lacking


def _at(place: str) -> Any:
    """The module or class of that name."""
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError:
        module, _, name = place.rpartition(".")
        return getattr(importlib.import_module(module), name)
