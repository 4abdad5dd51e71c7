"""One dev node, tried as a user would; tests/conformance compares the dev node with the real server."""

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
    """Host and port of a node."""
    return qcache_cluster.node_list[0].removeprefix("http://")


@pytest.fixture
def ask(node):
    """A function that sends a request over one persistent connection."""
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
    """Stores a table; returns its path."""
    status, _, body = ask("POST", "/dataset/cities", CSV, Content_Type="text/csv")
    assert (status, body) == (201, b"")
    return "/dataset/cities"


def test_a_query_in_the_body(ask, cities):
    """The unsliced length counts the rows before the limit."""
    status, headers, body = ask("POST", cities + "/q", json.dumps(LARGE))
    assert status == 200
    assert headers["X-QCache-unsliced-length"] == "2"
    assert json.loads(body) == [{"city": "Tokyo", "country": "JP", "population": 37036200}]


def test_a_query_in_the_url_with_an_answer_as_csv(ask, cities):
    """The rows are grouped and summed."""
    q = '{"group_by":["country"],"select":["country",["sum","population"]]}'
    status, headers, body = ask("GET", f"{cities}?q={q}", Accept="text/csv")
    assert status == 200
    assert headers["Content-Type"] == "text/csv; charset=utf-8"
    assert body == b"country,population\nIN,34665600\nJP,55957800\n"


@pytest.mark.parametrize("encoding", ["gzip", "lz4"])
def test_compressed_upload_and_answer(ask, encoding):
    """lz4 is the length in four bytes followed by a raw block."""
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


def test_an_error_explains_what_is_wrong(ask, cities):
    """It names the place, the value and what is allowed; the status is that of the real server."""
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


def test_a_deleted_key_is_a_miss(ask, cities):
    """A delete answers 200 whether the key exists or not; the query answers 404."""
    for _ in range(2):
        assert ask("DELETE", cities)[0] == 200
    assert ask("POST", cities + "/q", "{}")[0] == 404


def test_reading_statistics_resets_them(ask, cities):
    assert ask("GET", "/status")[2] == b"OK"
    ask("GET", "/statistics")
    ask("POST", cities + "/q", "{}")
    statistics = json.loads(ask("GET", "/statistics")[2])
    assert statistics["hit_count"] == 1
    assert statistics["dataset_count"] >= 1
    assert "hit_count" not in json.loads(ask("GET", "/statistics")[2])
