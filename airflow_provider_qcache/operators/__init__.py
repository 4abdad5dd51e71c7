"""Operators: store, query and delete tables from a DAG."""
