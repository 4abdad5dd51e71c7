"""No error shows a credential of a request, whatever a node or a proxy echoes."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import traceback
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_qcache.client import QClient, QClientException
from airflow_provider_qcache.client.secrets import Redactor, secrets_of
from tests.harness import faults
from tests.harness.faults import FaultyNode, Peer, Received
from tests.harness.ports import closed_port

PASSWORD = "s3/cr&t+p=w <d>"
TOKEN = "tok3n-of/the-user"
LOGIN = "someone"
BASIC = base64.b64encode(f"{LOGIN}:{PASSWORD}".encode()).decode()
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "URL": lambda text: quote(text, safe=""),
    "form": quote_plus,
    "lower-case URL": lambda text: quote(text, safe="").replace("%2F", "%2f"),
    "HTML": html.escape,
    "JSON": json.dumps,
    "JSON of QCache": lambda text: json.dumps(text).replace("/", "\\/"),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 of URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
}
HIDDEN = (PASSWORD, TOKEN, BASIC, f"{LOGIN}:{PASSWORD}")


def echo(status: int, spell: Callable[[str], str], *, as_location: bool = False) -> faults.Reply:
    def answer(peer: Peer, request: Received) -> None:
        sent = " ".join(f"{name}: {spell(value)}" for name, value in request.headers.items())
        text = f"{sent} {spell(PASSWORD)}"
        if as_location:
            peer.send(faults.head(status, 0, Location=text))
        else:
            peer.send(faults.head(status, len(text.encode())) + text.encode())

    return answer


def echo_as_garbage(peer: Peer, request: Received) -> None:
    peer.send(f"authorization: {request.headers['authorization']} {PASSWORD}\r\n\r\n".encode())
    raise faults.HungUp


def check_no_secret_is_shown(answer: faults.Reply, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"X-Api-Key": TOKEN, "X-Trace": "4711"}
    caplog.set_level(logging.DEBUG)
    with FaultyNode(answer) as node:
        client = QClient([node.url], 5, 5, auth=(LOGIN, PASSWORD), trust_env=False)
        with client:
            operations: list[Callable[[], object]] = [
                lambda: client.get("k", {}, query_headers=headers),
                lambda: client.post("k", b"a\n1\n", post_headers=headers),
                lambda: client.delete("k", all_nodes=True),
            ]
            for operation in operations:
                with pytest.raises(QClientException) as raised:
                    operation()
                text = "".join(traceback.format_exception(raised.value)) + caplog.text
                for name, spell in SPELLINGS.items():
                    for secret in HIDDEN:
                        assert spell(secret).strip('"') not in text, name
                for status in client.node_status().values():
                    assert BASIC not in str(status)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("status", [400, 500])
def test_no_secret_is_shown_if_a_node_echoes_the_request(
    status: int, spelling: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_no_secret_is_shown(echo(status, SPELLINGS[spelling]), caplog)


def test_no_secret_is_shown_in_a_redirect_or_an_answer_that_is_no_http(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check_no_secret_is_shown(echo(302, str, as_location=True), caplog)
    check_no_secret_is_shown(echo_as_garbage, caplog)


def test_a_header_that_is_no_secret_is_shown() -> None:
    with (
        FaultyNode(echo(500, str)) as node,
        QClient([node.url], auth=(LOGIN, PASSWORD), trust_env=False) as client,
        pytest.raises(QClientException, match=r"4711.*\*\*\*|\*\*\*.*4711"),
    ):
        client.get("k", {}, query_headers={"X-Trace": "4711"})


@given(st.text(min_size=4), st.text(alphabet="xyz ", max_size=5), st.sampled_from(sorted(SPELLINGS)))
def test_every_spelling_of_a_secret_is_redacted(secret: str, around: str, spelling: str) -> None:
    try:
        message = SPELLINGS[spelling](secret)
    except UnicodeEncodeError:  # half a surrogate pair
        return
    cleaned = Redactor({secret}).clean(f"{around} {message} {around}")
    assert message.strip('"') not in cleaned
    assert "***" in cleaned


def test_secrets_lists_every_spelling_for_masking() -> None:
    with QClient(["http://host1:9401"], auth=(LOGIN, PASSWORD), trust_env=False) as client:
        assert {PASSWORD, BASIC, f"Basic {BASIC}", quote(PASSWORD, safe="")} <= client.secrets()


@pytest.mark.parametrize(
    "proxy", ["http://u:pw/S3CRET@127.0.0.1:9", "http://u:S3CRET@", "http://u:S3CRET@h:99999"]
)
def test_the_error_of_an_invalid_proxy_shows_no_part_of_its_password(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ValueError, match="not a URL with a host") as refused:
        QClient(["http://qcache.invalid:9401"])
    assert "S3CRET" not in "".join(traceback.format_exception(refused.value))
    assert "pw" not in str(refused.value)


def as_length(peer: Peer, request: Received) -> None:
    length = {"X_QCache_unsliced_length": request.headers["authorization"]}
    peer.send(faults.success_head(request, 2, **length) + b"[]")


def as_long_length(peer: Peer, request: Received) -> None:
    length = {"X_QCache_unsliced_length": "9" * 80 + request.headers["authorization"]}
    peer.send(faults.success_head(request, 2, **length) + b"[]")


def as_encoding(peer: Peer, request: Received) -> None:
    coded = {"Content_Encoding": request.headers["authorization"]}
    peer.send(faults.success_head(request, 2, **coded) + b"[]")


def as_reason(peer: Peer, request: Received) -> None:
    peer.send(f"HTTP/1.1 none {request.headers['authorization']}\r\n\r\n".encode())
    raise faults.HungUp


def as_version(peer: Peer, request: Received) -> None:
    peer.send(f"HTTP/{request.headers['authorization'].split()[1]} 200 OK\r\n\r\n".encode())
    raise faults.HungUp


def as_chunk_size(peer: Peer, request: Received) -> None:
    peer.send(faults.success_head(request, Transfer_Encoding="chunked"))
    peer.send(f"{request.headers['authorization']}\r\n[]\r\n0\r\n\r\n".encode())
    raise faults.HungUp


def as_length_of_the_body(peer: Peer, request: Received) -> None:
    peer.send(faults.success_head(request, Content_Length=request.headers["authorization"]) + b"[{")
    raise faults.HungUp


def as_content_type(peer: Peer, request: Received) -> None:
    kind = request.headers["authorization"] + "html"
    peer.send(faults.success_head(request, 2, Content_Type=kind) + b"[]")


def as_the_wrong_success(peer: Peer, request: Received) -> None:
    message = f"{request.headers['authorization']} {PASSWORD}".encode()
    peer.send(faults.head(200 if request.kind == "store" else 201, len(message)) + message)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (as_length, "X-QCache-unsliced-length is"),
        (as_long_length, "X-QCache-unsliced-length is"),
        (as_encoding, "Content-Encoding is"),
        (as_reason, "not a QCache response"),
        (as_version, "not a QCache response"),
        (as_chunk_size, "response truncated"),
        (as_length_of_the_body, "it is not a JSON list"),
        (as_content_type, "it is HTML"),
        (as_the_wrong_success, "answered 20[01]"),
    ],
)
def test_no_secret_is_shown_if_an_invalid_success_echoes_it(
    reply: faults.Reply, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    parts = [BASIC[start : start + 12] for start in range(len(BASIC) - 11)]
    with (
        FaultyNode(reply) as node,
        QClient(
            [node.url],
            1,
            1,
            auth=(LOGIN, PASSWORD),
            trust_env=False,
            deadline=5,
            consecutive_error_count_limit=2,
        ) as client,
    ):
        operations: list[Callable[[], object]] = [
            lambda: client.get("k", {}),
            lambda: client.post("k", b"a\n1\n"),
            lambda: client.delete("k", all_nodes=True),
        ]
        texts = ""
        for operation in operations:
            try:
                operation()
            except QClientException as error:
                texts += "".join(traceback.format_exception(error))
        texts += caplog.text + str(client.node_status())
    assert re.search(message, texts)
    for part in (PASSWORD, *parts):
        assert part not in texts
        assert part.lower() not in texts


@pytest.mark.parametrize("password", ["1", "json", "utf", "text"])
def test_a_short_password_does_not_change_valid_answers(password: str) -> None:
    node, _ = faults.healthy_node()
    with node, QClient([node.url], auth=(LOGIN, password), trust_env=False) as client:
        client.post("k", b"a\n1\n")
        result = client.get("k", {})
    assert result is not None
    assert (result.unsliced_result_len, result.content_type) == (1, "application/json")


def test_headers_with_names_of_secrets_are_secrets() -> None:
    def secrets(line: str) -> set[str]:
        return secrets_of(line.encode())

    assert secrets("X-Author: Sales Team") == set()
    assert secrets("X-Authority: a.example") == set()
    assert secrets("X-Session: a b") == {"a b"}
    assert secrets("Cookie: a=b; sid=s3cret") == {"a=b; sid=s3cret", "a=b", "sid=s3cret"}
    assert secrets("X-Auth: Bearer t0ken") == {"Bearer t0ken", "t0ken"}
    assert secrets("Authorization: ApiKey t0ken") == {"ApiKey t0ken", "t0ken"}
    assert secrets("Proxy-Authorisation: t0ken") == {"t0ken"}
    assert secrets("X-Token-Type: Bearer") == set()
    for name in ("X-Auth-Key", "X-AuthToken", "Authentication", "X-Api-Key", "X-Session-Id", "ApiKey"):
        assert secrets(f"{name}: t0ken") == {"t0ken"}


def test_an_error_prints_nothing_and_shows_no_secret(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    # Without Airflow's own handler, which another test may have installed, and which prints.
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])
    secret = "hunter2"
    node = f"http://login:{secret}@127.0.0.1:{closed_port()}"
    with QClient([node], auth=("other", secret), trust_env=False) as client:
        with pytest.raises(QClientException) as raised:
            client.get("foo", {})
        texts = [repr(client), str(raised.value), repr(raised.value), caplog.text, str(client.node_status())]
        texts += [repr(client._settings), *(repr(attempt) for attempt in raised.value.attempts)]
    assert caplog.text
    assert [text for text in texts if secret in text] == []
    assert capfd.readouterr() == ("", "")


def test_an_error_of_the_system_shows_no_secret_and_others_stay_as_they_are() -> None:
    inner, outer = OSError(5, "as hunter2 says", "/tmp/hunter2"), ValueError(7)
    outer.__cause__ = inner
    Redactor({"hunter2"}).clean_error(outer)
    assert outer.args == (7,)
    assert str(inner) == "[Errno 5] as *** says: '/tmp/***'"
