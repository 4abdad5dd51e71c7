"""Nodes, databases and fixtures that the suites share; each layer wraps the one below.

- ``ports``: ports that no other process of a test run takes.
- ``servers``: one server process, the real QCache or the dev node, and requests to it as bytes.
- ``nodes``: several of them, which can be killed, paused and started again.
- ``faults``: nodes that are a thread and a socket of the test, and fail in each way there is.
- ``database``: a PostgreSQL or MariaDB; ``sql`` has the hook of one that is known by its driver alone.
- ``plugin``: the fixtures, what CI does not allow, and which tests share a worker.
"""
