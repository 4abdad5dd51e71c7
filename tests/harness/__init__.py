"""Servers, databases and fixtures that several suites share. Each module uses only those named before it.

- ``ports``: ports that no other process of a test run takes.
- ``servers``: one server process, the real QCache or the dev node, and requests to it as bytes.
- ``nodes``: several servers, which a test can kill, pause and start again.
- ``faults``: nodes made of a socket and threads of the test process, one for each kind of failure.
- ``database``: a PostgreSQL or MariaDB; ``sql``: Airflow's hook for a database that has only a driver.
- ``plugin``: the fixtures, the rule that CI skips no test, and which tests share a worker.
"""
