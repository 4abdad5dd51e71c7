"""Tables of a QCache cluster as Airflow's assets (datasets on Airflow 2)."""
