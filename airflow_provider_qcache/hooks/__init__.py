"""Airflow hooks for QCache."""
