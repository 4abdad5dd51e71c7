"""A node alone, as a user of it would try it; the conformance tests hold it against the real server."""

import gzip
import json
import struct
from http.client import HTTPConnection

import lz4.block
import pytest

CSV = b"city,country,population\nTokyo,JP,37036200\nDelhi,IN,34665600\nOsaka,JP,18921600\n"
LARGE = {"where": [">", "population", 20_000_000], "order_by": ["-population"], "limit": 1}


@pytest.fixture
def node(qcache_cluster):
    """The host and port of a node."""
    return qcache_cluster.node_list[0].removeprefix("http://")


@pytest.fixture
def ask(node):
    """Sends a request over one kept connection."""
    connection = HTTPConnection(node, timeout=30)

    def ask(method, path, body=None, **headers):
        connection.request(
            method, "/qcache" + path, body, {k.replace("_", "-"): v for k, v in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    yield ask
    connection.close()


@pytest.fixture
def cities(ask):
    """The path of a stored table."""
    status, _, body = ask("POST", "/dataset/cities", CSV, Content_Type="text/csv")
    assert (status, body) == (201, b"")
    return "/dataset/cities"


def test_a_query_in_the_body(ask, cities):
    """The unsliced length is the rows before the limit."""
    status, headers, body = ask("POST", cities + "/q", json.dumps(LARGE))
    assert status == 200
    assert headers["X-QCache-unsliced-length"] == "2"
    assert json.loads(body) == [{"city": "Tokyo", "country": "JP", "population": 37036200}]


def test_a_query_in_the_url_answered_as_csv(ask, cities):
    """Grouped and summed."""
    q = '{"group_by":["country"],"select":["country",["sum","population"]]}'
    status, headers, body = ask("GET", f"{cities}?q={q}", Accept="text/csv")
    assert status == 200
    assert headers["Content-Type"] == "text/csv; charset=utf-8"
    assert body == b"country,population\nIN,34665600\nJP,55957800\n"


@pytest.mark.parametrize("encoding", ["gzip", "lz4"])
def test_compressed_both_ways(ask, encoding):
    """An upload and its answer; lz4 is its length in four bytes and a raw block."""
    compress = {
        "gzip": gzip.compress,
        "lz4": lambda data: struct.pack("<i", len(data)) + lz4.block.compress(data, store_size=False),
    }
    status, _, _ = ask("POST", "/dataset/packed", compress[encoding](CSV), Content_Encoding=encoding)
    assert status == 201
    _, headers, body = ask("POST", "/dataset/packed/q", "{}", Accept="text/csv", Accept_Encoding=encoding)
    assert headers["Content-Encoding"] == encoding
    decompress = {"gzip": gzip.decompress, "lz4": lz4.block.decompress}
    assert decompress[encoding](body) == CSV


def test_a_mistake_is_explained(ask, cities):
    """The answer names the place, the value and what is allowed, where the real server only says 500 too."""
    status, _, body = ask("POST", cities + "/q", '{"where": ["==", "county", 1]}')
    assert status == 400
    assert "'county'" in json.loads(body)["error"]
    assert "'country'" in json.loads(body)["error"]
    status, _, body = ask("POST", cities + "/q", '{"select": [["mean", "city"]]}')
    assert status == 500
    assert "mean needs numbers" in body.decode()
    status, _, body = ask("POST", "/dataset/bad", b"a,b\n1,2\n1,2,3\n")
    assert status == 500
    assert "Expected 2 fields in line 3, saw 3" in body.decode()


def test_deleted_is_a_miss(ask, cities):
    """200 whether the key was there or not, 404 for the query."""
    for _ in range(2):
        assert ask("DELETE", cities)[0] == 200
    assert ask("POST", cities + "/q", "{}")[0] == 404


def test_status_and_statistics(ask, cities):
    """Reading the statistics resets them."""
    assert ask("GET", "/status")[2] == b"OK"
    ask("GET", "/statistics")
    ask("POST", cities + "/q", "{}")
    statistics = json.loads(ask("GET", "/statistics")[2])
    assert statistics["hit_count"] == 1
    assert statistics["dataset_count"] >= 1
    assert "hit_count" not in json.loads(ask("GET", "/statistics")[2])
