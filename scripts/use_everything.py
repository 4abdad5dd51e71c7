"""Import every module of the package and use each library that it may be installed with, once.

It prints the versions first. `make floors` runs it with each lowest version of pyproject.toml.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from importlib.metadata import version
from pathlib import Path

import airflow_provider_qcache
from airflow_provider_qcache import compat

FLOORS = Path(__file__).resolve().parent.parent / "constraints" / "floors.txt"


def import_everything() -> None:
    """Import every module but programs and pytest's plugin, and every name that an Airflow may lack.

    The cluster page's modules are for Airflow 3.1 and newer ones.
    """
    airflow = tuple(map(int, version("apache-airflow").split(".")[:2]))
    needs = {"plugins.page": (3, 1), "plugins.cluster": (3, 1)}
    not_here = {f"airflow_provider_qcache.{name}" for name, release in needs.items() if airflow < release}
    for module in pkgutil.walk_packages(airflow_provider_qcache.__path__, "airflow_provider_qcache."):
        is_program = module.name.endswith("__main__") or ".testing" in module.name
        if not is_program and module.name not in not_here:
            importlib.import_module(module.name)
    for block in ast.parse(Path(compat.__file__).read_text()).body:
        # Its names are imported where types are checked.
        for node in block.body if isinstance(block, ast.If) else ():
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("airflow."):
                for name in node.names:
                    getattr(compat, name.name)


def use_everything() -> None:
    """Store a frame of each library on a dev node and read it back, with lz4 answers."""
    import lz4.frame  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415
    import polars as pl  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415

    from airflow_provider_qcache.client import QClient  # noqa: PLC0415
    from airflow_provider_qcache.devnode import LocalCluster  # noqa: PLC0415

    assert lz4.frame.decompress(lz4.frame.compress(b"a")) == b"a"
    columns = {"name": ["a", None, "c"], "value": [1, 2, 3]}
    with LocalCluster(nodes=1) as cluster, QClient(cluster.node_list) as client:
        for table in (pd.DataFrame(columns), pl.DataFrame(columns), pa.table(columns)):
            client.post_table("floors", table)
            result = client.get("floors", {})
            assert result is not None
            assert result.to_arrow()["value"].to_pylist() == columns["value"], table
            assert result.to_pandas()["value"].tolist() == columns["value"], table
            assert result.to_polars()["value"].to_list() == columns["value"], table


def main() -> None:
    """Print the versions, then use them."""
    names = [line.partition("==")[0] for line in FLOORS.read_text().splitlines() if not line.startswith("#")]
    print(", ".join(f"{name} {version(name)}" for name in names), flush=True)
    import_everything()
    use_everything()
    print("everything was imported and used")


if __name__ == "__main__":
    main()
