"""A QCache 0.9.3 node that runs on Python 3, for demos and tests.

On the command line: ``python -m airflow_provider_qcache.devnode --nodes 3``. In Python: `LocalCluster`.
The nodes need the libraries of the extra ``devnode``; importing this package does not.
"""

from airflow_provider_qcache.devnode.cluster import LocalCluster, NodeStartError
from airflow_provider_qcache.devnode.options import NodeOptions

__all__ = ["LocalCluster", "NodeOptions", "NodeStartError"]
