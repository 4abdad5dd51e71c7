"""Apache Airflow provider for QCache, an in-memory cache of tables queried over HTTP.

Airflow imports this module in every process that imports ``airflow.sdk``, so it imports nothing.
"""

__version__ = "0.1.0"
