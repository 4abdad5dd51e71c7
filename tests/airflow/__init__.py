"""DAGs run whole by a real Airflow."""
