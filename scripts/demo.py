"""A tour of three QCache nodes on this machine: store, query, one node dies and comes back empty."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request

from airflow_provider_qcache.devnode import LocalCluster

CSV = """city,country,population
Tokyo,JP,37036200
Delhi,IN,34665600
Osaka,JP,18921600
Mumbai,IN,22089000
"""

BY_COUNTRY = {
    "select": ["country", ["sum", "population"]],
    "group_by": ["country"],
    "order_by": ["-population"],
}


def ask(method: str, url: str, body: str | None = None, **headers: str) -> None:
    """Send a request and print it with its answer."""
    print(f"> {method} {urllib.parse.unquote_plus(url)}")
    for line in (body or "").splitlines():
        print(f">   {line}")
    request = urllib.request.Request(url, body.encode() if body else None, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            unsliced = response.headers.get("X-QCache-unsliced-length")
            rows = f"  X-QCache-unsliced-length: {unsliced}" if unsliced else ""
            print(f"< {response.status} {response.reason}{rows}")
            answer = response.read().decode()
    except urllib.error.HTTPError as error:
        print(f"< {error.code} {error.reason}")
        answer = error.read().decode()
    except OSError as error:
        print(f"< no answer: {getattr(error, 'reason', error)}")
        answer = ""
    for line in answer.splitlines():
        print(f"<   {line}")
    print()


def query_url(node: str, query: object) -> str:
    """Where the table "cities" on this node answers the query."""
    return f"{node}/qcache/dataset/cities?{urllib.parse.urlencode({'q': json.dumps(query)})}"


def tour(cluster: LocalCluster) -> None:
    """What a reader of the cache and an operator of it would see."""
    first, second, third = cluster.node_list
    print(f"Three nodes, a process each: {first}, {second}, {third}\n")

    print("A table is stored under a key on one node ...\n")
    ask("POST", f"{first}/qcache/dataset/cities", CSV, **{"Content-Type": "text/csv"})

    print("... and queried there, as JSON or as CSV.\n")
    by_population = {"where": ["==", "country", "'JP'"], "order_by": ["-population"], "limit": 1}
    ask("GET", query_url(first, by_population), Accept="application/json")
    ask("GET", query_url(first, BY_COUNTRY), Accept="text/csv")

    print("There is no replication: another node does not have it.\n")
    ask("GET", query_url(second, BY_COUNTRY), Accept="application/json")

    print("The first node is killed. It refuses; the others answer.\n")
    cluster.kill(0)
    for node in (first, second, third):
        ask("GET", f"{node}/qcache/status")

    print("It is started again on the same port, and is empty: tables live in a node's memory.\n")
    cluster.restart(0)
    ask("GET", f"{first}/qcache/status")
    ask("GET", query_url(first, BY_COUNTRY), Accept="application/json")
    ask("GET", f"{first}/qcache/statistics")


def main() -> int:
    """Run the tour; the nodes end with it, on Ctrl-C too."""
    try:
        with LocalCluster(nodes=3) as cluster:
            tour(cluster)
    except KeyboardInterrupt:
        print("Interrupted: the nodes have ended.")
        return 130
    print("The nodes have ended.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
