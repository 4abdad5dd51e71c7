"""What is typed into the forms: for each field something else than its default."""

from __future__ import annotations

from typing import Any

from airflow_provider_qcache.connection_fields import EXTRA

STANDARD_VALUES: dict[str, Any] = {
    "port": 9401,
    "schema": "https",
    "login": "reader",
    "password": "correct horse",
}

EXTRA_VALUES: dict[str, Any] = {
    "nodes": ["https://Cache1:9401", "https://cache2:9401"],
    "connect_timeout": 2.5,
    "read_timeout": 45,
    "store_timeout": 400,
    "deadline": 900,
    "consecutive_error_count_limit": 4,
    "retry_wait_initial": 0,
    "retry_wait_max": 7.5,
    "wait_for_nodes": False,
    "confirm_miss": False,
    "refused_means_gone": False,
    "verify": False,
    "ca_file": "/etc/qcache/ca.pem",
    "cert_file": "/etc/qcache/client.pem",
    "key_file": "/etc/qcache/client.key",
    "trust_env": False,
    "allow_auth_over_http": True,
    "max_response_bytes": 5_000_000,
}

assert list(EXTRA_VALUES) == [field.name for field in EXTRA], "each field has a value to type"
