"""The commands of ``python -m airflow_provider_qcache`` and, on Airflow 3, of ``airflow qcache``."""
