"""Tasks without QCache that succeed, fail and are tried again."""

import logging
from datetime import timedelta

import pendulum
from airflow.providers.common.compat.sdk import DAG, Asset, task

LOG = logging.getLogger("airflow.task")
LOADED = Asset("example://loaded")

RETRIES = {"retries": 1, "retry_delay": timedelta(0)}

with DAG("upstream", start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), default_args=RETRIES):

    @task(outlets=[LOADED])
    def loads():
        return [1, 2]

    @task
    def fails_once(ti=None):
        LOG.info("this is try %d", ti.try_number)
        if ti.try_number == 1:
            raise RuntimeError("once")

    @task
    def fails():
        raise RuntimeError("always")

    @task
    def doubles(x):
        LOG.info("doubling %d", x)
        return 2 * x

    doubles.expand(x=loads())
    fails_once()
    fails()

with DAG("downstream", start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), schedule=[LOADED]):

    @task
    def follows(params=None):
        return params

    follows()
