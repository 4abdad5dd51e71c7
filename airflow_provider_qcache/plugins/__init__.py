"""The cluster page in Airflow's UI, on Airflow 3.1 and newer."""
