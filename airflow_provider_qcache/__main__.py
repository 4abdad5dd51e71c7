"""``python -m airflow_provider_qcache``: the commands, also where Airflow is not installed."""

import sys

from airflow_provider_qcache.cli.definition import main

if __name__ == "__main__":
    sys.exit(main())
