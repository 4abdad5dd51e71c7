"""The texts of errors and log lines of operations: what failed, on which node, why, and what to do."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_qcache.client import QClient, errors
from airflow_provider_qcache.client.errors import Outcome, Phase, QClientException
from airflow_provider_qcache.client.operation import Done
from airflow_provider_qcache.client.outcome import Answer, Failure, RequestKind
from airflow_provider_qcache.client.settings import RequestRetry
from airflow_provider_qcache.client.transport import Headers, Limit, Request
from tests.client.simulated import FOREVER, LongestWaits, Scripted, SimulatedCluster

QUERY, STORE, DELETE = RequestKind.QUERY, RequestKind.STORE, RequestKind.DELETE
HOME = "http://host0:9401"
REFUSED, SILENT = Scripted(Outcome.REFUSED), Scripted(Outcome.TIMEOUT, seconds=2)
LOST = "The table that the node had under this key is lost."
UNCERTAIN = (
    "The node may have the new table, the old one or none. Store the table again; increase `store_timeout` "
    "if the node is slow."
)


def error_of(
    cluster: SimulatedCluster, kind: RequestKind, *, seconds: float = FOREVER, **options: Any
) -> QClientException:
    """The error of an operation that must fail."""
    with pytest.raises(QClientException) as raised:
        cluster.run(kind, seconds, **options)
    return raised.value


def text_of(error: QClientException) -> str:
    """The error's text without the list of failed requests."""
    return str(error).partition("\nFailed requests:")[0]


def error_after(kind: RequestKind, result: Failure | Answer, **options: Any) -> QClientException:
    """The error of an operation whose requests all have this result."""
    cluster = SimulatedCluster([Scripted()], **options)

    def send(*args: object, **kwargs: object) -> Answer:
        if isinstance(result, Failure):
            raise result
        return result

    cluster.wire.send = send  # type: ignore[method-assign]
    return error_of(cluster, kind)


def answer(status: int, content: bytes = b"", *headers: bytes) -> Answer:
    return Answer(status, Headers(list(headers)), content, None)


UNKNOWN_COLUMN = b'{"error": "Unknown column: Oslo"}'


@pytest.mark.parametrize(
    ("kind", "result", "error", "text"),
    [
        (
            QUERY,
            Failure(Outcome.CERTIFICATE_REJECTED, Phase.TLS, ValueError("unknown CA")),
            errors.CertificateRejected,
            (
                f"no TLS connection to {HOME}: unknown CA. Check `verify` (`ca_file` of a connection: the CA "
                "that signed the node's certificate), the name in the node's address, the certificate's "
                "dates, and `cert` (`cert_file`) if the node requires a client certificate."
            ),
        ),
        (
            QUERY,
            Failure(Outcome.TOO_LARGE, Phase.BODY, status=200),
            errors.ResponseTooLarge,
            (
                f"the response of {HOME} is larger than max_response_bytes. Select fewer rows or columns, or "
                "increase `max_response_bytes`."
            ),
        ),
        (
            QUERY,
            Failure(Outcome.UNSUPPORTED_ENCODING, Phase.BODY, status=200, detail="lz4 is not installed"),
            errors.UnexpectedServerResponse,
            f"the response of {HOME} cannot be decoded here: lz4 is not installed",
        ),
        (
            QUERY,
            Failure(Outcome.UNAUTHORIZED, Phase.HEAD, status=407, detail="the proxy refuses the credentials"),
            errors.AuthenticationFailed,
            f"{HOME}: the proxy refuses the credentials.",
        ),
        (
            QUERY,
            answer(401),
            errors.AuthenticationFailed,
            (
                f"{HOME} refuses the credentials, or requires some (401). Check the login and password "
                "(`auth`), and the netrc file."
            ),
        ),
        (
            QUERY,
            answer(400, b'{"error": "no such clause"}'),
            errors.MalformedQueryException,
            f'{HOME} cannot process it: {{"error": "no such clause"}}',
        ),
        (
            QUERY,
            answer(400, UNKNOWN_COLUMN),
            errors.MalformedQueryException,
            (
                f"{HOME} cannot process it: {UNKNOWN_COLUMN.decode()} Write a text value with quotes within "
                "its quotes: \"'Oslo'\"."
            ),
        ),
        (
            QUERY,
            answer(406),
            errors.UnsupportedAcceptType,
            (
                f"{HOME} cannot answer in the requested content type: pass accept='application/json' or "
                "'text/csv'."
            ),
        ),
        (
            QUERY,
            answer(500, b"<html>"),
            errors.UnexpectedServerResponse,
            (
                f"{HOME} answered 500. A node also answers 500 to some mistakes in queries, such as an "
                "aggregate of a column that does not exist: check the query. Response body: '<html>'"
            ),
        ),
        (
            QUERY,
            answer(302, b"", b"Location: /login\r\n"),
            errors.UnexpectedServerResponse,
            f"{HOME} answered 302: it redirects to '/login'; redirects are never followed. Response body: ''",
        ),
        (STORE, answer(400), errors.UnexpectedServerResponse, f"{HOME} answered 400. Response body: ''"),
        (
            STORE,
            answer(400, b"x"),
            errors.UnexpectedServerResponse,
            f"{HOME} answered 400. {LOST} Response body: 'x'",
        ),
        (
            STORE,
            answer(415),
            errors.UnexpectedServerResponse,
            f"{HOME} answered 415. {LOST} Response body: ''",
        ),
        (
            STORE,
            answer(500),
            errors.UnexpectedServerResponse,
            f"{HOME} answered 500. {LOST} Response body: ''",
        ),
        (STORE, answer(404), errors.UnexpectedServerResponse, f"{HOME} answered 404. Response body: ''"),
        (STORE, answer(406), errors.UnexpectedServerResponse, f"{HOME} answered 406. Response body: ''"),
        (
            DELETE,
            answer(400, b"x"),
            errors.UnexpectedServerResponse,
            f"{HOME} answered 400. Response body: 'x'",
        ),
        (DELETE, answer(500), errors.UnexpectedServerResponse, f"{HOME} answered 500. Response body: ''"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_the_error_of_a_permanent_failure(
    kind: RequestKind, result: Failure | Answer, error: type[QClientException], text: str
) -> None:
    found = error_after(kind, result)
    assert (type(found), text_of(found)) == (error, f"{kind} 'foo': {text}")
    (attempt,) = found.attempts
    assert (attempt.node, attempt.status) == (HOME, result.status)
    assert getattr(found, "status", None) in (attempt.status, None)


def test_the_error_of_an_unexpected_or_too_large_response_has_its_status() -> None:
    assert error_after(QUERY, Failure(Outcome.TOO_LARGE, Phase.BODY, status=200)).status == 200  # type: ignore[attr-defined]
    encoded = Failure(Outcome.UNSUPPORTED_ENCODING, Phase.BODY, status=203, detail="br")
    assert error_after(QUERY, encoded).status == 203  # type: ignore[attr-defined]
    assert error_after(STORE, answer(415)).status == 415  # type: ignore[attr-defined]


NO_CACHE = (
    "Check that the nodes run, that their addresses, with http or https, are right and that this machine can "
    "reach them."
)


@pytest.mark.parametrize(
    ("requests", "statuses", "kind", "options", "error", "text"),
    [
        (
            [REFUSED],
            [REFUSED],
            QUERY,
            {"nodes": 1},
            errors.NoCacheAvailable,
            f"the node cannot be used: no response to a status request. {NO_CACHE}",
        ),
        (
            [REFUSED],
            [REFUSED],
            STORE,
            {"nodes": 2},
            errors.NoCacheAvailable,
            f"none of 2 nodes can be used: no response to a status request. {NO_CACHE}",
        ),
        (
            [REFUSED],
            [Scripted(Outcome.TIMEOUT, seconds=9)],
            QUERY,
            {"nodes": 2, "seconds": 2.0},
            errors.NoCacheAvailable,
            f"none of 2 nodes can be used: no response to a status request before the deadline. {NO_CACHE}",
        ),
        (
            [REFUSED],
            [REFUSED],
            QUERY,
            {"nodes": 1, "seconds": 0.3, "policy": RequestRetry(wait_for_nodes=True, wait_initial=0.1)},
            errors.NoCacheAvailable,
            (
                "the node cannot be used: no response before the deadline, in 2 rounds of status requests. "
                f"{NO_CACHE}"
            ),
        ),
        (
            [Scripted(Outcome.TRUNCATED)],
            [Scripted()],
            QUERY,
            {"nodes": 1, "limit": 2},
            errors.TooManyConsecutiveErrors,
            (
                "2 requests failed, which is the limit; the last one: "
                f"{HOME}: response truncated after 0.000 s reading the response body. Check these nodes, or "
                "increase `consecutive_error_count_limit`."
            ),
        ),
        (
            [Scripted()],
            [],
            QUERY,
            {"seconds": 0.0},
            errors.DeadlineExceeded,
            "the deadline passed before a request was made. Increase `deadline`.",
        ),
        (
            [Scripted(seconds=9)],
            [],
            QUERY,
            {"seconds": 1.0},
            errors.DeadlineExceeded,
            (
                "the deadline passed after one failed request; the last one: "
                f"{HOME}: deadline passed after 1.000 s waiting for response headers. Check the node, or "
                "increase `deadline`."
            ),
        ),
        (
            [SILENT, Scripted(seconds=9)],
            [],
            DELETE,
            {"seconds": 3.0},
            errors.DeadlineExceeded,
            (
                "the deadline passed after 2 failed requests; the last one: http://host1:9401: deadline "
                "passed after 1.000 s waiting for response headers. Check the node, or increase `deadline`."
            ),
        ),
        (
            [Scripted(Outcome.DEADLINE, seconds=20)],
            [],
            QUERY,
            {},
            errors.DeadlineExceeded,
            (
                "the deadline passed after one failed request; the last one: "
                f"{HOME}: deadline passed after 20.000 s reading the response body. Check the node, or "
                "increase `store_timeout`."
            ),
        ),
        (
            [Scripted(seconds=9)],
            [],
            STORE,
            {"seconds": 1.0},
            errors.StoreUncertain,
            "the table was sent, the node did not acknowledge it, and the deadline passed. " + UNCERTAIN,
        ),
        (
            [SILENT],
            [Scripted()],
            STORE,
            {},
            errors.StoreUncertain,
            "the table was sent, the node did not acknowledge it, and the store is not retried. " + UNCERTAIN,
        ),
        (
            [SILENT],
            [SILENT],
            STORE,
            {},
            errors.StoreUncertain,
            "the table was sent, the node did not acknowledge it, and the node did not respond to a status "
            "request within one store timeout. " + UNCERTAIN,
        ),
        (
            [SILENT],
            [SILENT],
            STORE,
            {"seconds": 30.0},
            errors.StoreUncertain,
            "the table was sent, the node did not acknowledge it, and the node did not respond to a status "
            "request before the deadline. " + UNCERTAIN,
        ),
        (
            [SILENT, Scripted(Outcome.TRUNCATED)],
            [Scripted()],
            STORE,
            {},
            errors.StoreUncertain,
            "the table was sent, the node did not acknowledge it, and the store is not retried on another "
            "node. " + UNCERTAIN,
        ),
        (
            [REFUSED],
            [],
            STORE,
            {"repeatable": False},
            errors.BodyNotRepeatable,
            (
                "the request failed, and its body cannot be read again for a retry. Pass a path, a seekable "
                "file, or a function that returns a fresh iterator."
            ),
        ),
        (
            [Scripted(Outcome.CLOSED)],
            [Scripted()],
            STORE,
            {},
            errors.ClosedWithoutAnswer,
            (
                f"{HOME} closes the connection on this request without an answer, and answers status "
                "requests, so that the request is the cause. Check for a table larger than the node's cache, "
                "headers over 64 KiB, or an Authorization header that a node cannot parse."
            ),
        ),
        (
            [Scripted(status=429)],
            [],
            STORE,
            {"seconds": 0.05},
            errors.DeadlineExceeded,
            (
                f"the deadline passed after one failed request; the last one: {HOME}: overloaded (429) after "
                "0.000 s waiting for response headers. Check the node, or increase `deadline`."
            ),
        ),
        (
            [Scripted(status=429, retry_after="70")],
            [],
            QUERY,
            {"seconds": 69.5},
            errors.NodeOverloaded,
            (
                f"{HOME} is overloaded, and asks to wait 70 s, longer than the 69.5 s that are left. Try "
                "again later, or set a longer `deadline`."
            ),
        ),
        (
            [Scripted(status=429, retry_after="61")],
            [],
            QUERY,
            {},
            errors.NodeOverloaded,
            (
                f"{HOME} is overloaded, and asks to wait 61 s, longer than the 60 s that an operation "
                "without a deadline waits. Try again later, or set a longer `deadline`."
            ),
        ),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)
def test_the_error_of_an_operation_that_runs_out_of_nodes_requests_or_time(
    requests: list[Scripted],
    statuses: list[Scripted],
    kind: RequestKind,
    options: dict[str, Any],
    error: type[QClientException],
    text: str,
) -> None:
    running = {name: options[name] for name in ("seconds", "repeatable") if name in options}
    cluster = SimulatedCluster(
        requests,
        statuses,
        rng=LongestWaits(),
        **{name: value for name, value in options.items() if name not in running},
    )
    found = error_of(cluster, kind, **running)
    assert (type(found), text_of(found)) == (error, f"{kind} 'foo': {text}")


@pytest.mark.parametrize(
    ("kind", "seconds", "end"),
    [
        (STORE, FOREVER, "within one store timeout. Check the node, or increase `store_timeout`."),
        (STORE, 30.0, "before the deadline. Check the node, or increase `deadline`."),
        (QUERY, 1.5, "before the deadline. Check the node, or increase `deadline`."),
        (QUERY, 2.0, "before the deadline. Check the node, or increase `deadline`."),
    ],
)
def test_the_error_of_a_node_that_may_still_apply_an_abandoned_write(
    kind: RequestKind, seconds: float, end: str
) -> None:
    cluster = SimulatedCluster([Scripted()], [SILENT])
    cluster.pool.abandoned_writes[HOME].add(Limit(cluster.clock.now, 0))
    found = error_of(cluster, kind, seconds=seconds)
    assert (type(found), text_of(found)) == (
        errors.DeadlineExceeded,
        (
            f"{kind} 'foo': {HOME} may still apply an earlier store or delete, which was abandoned, and did "
            f"not respond to a status request {end}"
        ),
    )
    assert cluster.wire.sent == []
    # It is silent only if it had the whole read timeout, 2 s; a busy node may take longer to store a table.
    assert cluster.pool.failing == ({HOME} if (kind, seconds) == (QUERY, 2.0) else set())


@pytest.mark.parametrize(("limit", "repeatable"), [(2, True), (10, False)])
def test_the_error_of_a_machine_without_resources(limit: int, repeatable: bool) -> None:
    failure = Failure(Outcome.LOCAL, Phase.CONNECT, OSError(24, "Too many open files"))
    cluster = SimulatedCluster([Scripted()], limit=limit)

    def send(*args: object, **kwargs: object) -> Answer:
        raise failure

    cluster.wire.send = send  # type: ignore[method-assign]
    found = error_of(cluster, STORE, repeatable=repeatable)
    assert (type(found), text_of(found)) == (
        errors.LocalResourceError,
        (
            "store 'foo': this machine cannot make a request: [Errno 24] Too many open files. The nodes are "
            "not the cause. Increase the limit of open files (ulimit -n), ports or threads, or run fewer "
            "tasks at once on this machine."
        ),
    )
    assert len(found.attempts) == (limit if repeatable else 1)
    assert found.__cause__ is failure.cause
    assert cluster.pool.failing == set()


@pytest.mark.parametrize(
    ("unknown", "who"),
    [
        (["a"], "its home node a does not respond"),
        (["b"], "b, earlier in the key's order, does not respond"),
        (["a", "b"], "a, b, earlier in the key's order, do not respond"),
    ],
)
def test_the_error_of_a_miss_that_cannot_be_confirmed(unknown: list[str], who: str) -> None:
    request = Request("GET", "/foo", what="query 'foo'", nodes=["a", "b", "c"])
    with QClient(["http://node1:9401"], trust_env=False) as client:
        error = client._confirm(request, Done("c", None, (), tuple(unknown)))
    assert str(error) == (
        f"query 'foo': cannot tell whether the table exists: {who}, and fallback node c does not have it. "
        "Retry when the node responds again."
    )


@pytest.mark.parametrize("scripted", [Scripted(Outcome.CANCELLED), Scripted(status=429)])
def test_the_error_of_a_cancelled_operation(scripted: Scripted) -> None:
    cluster = SimulatedCluster([scripted])
    sleep = cluster.clock.sleep

    def sleep_and_cancel(seconds: float) -> None:
        sleep(seconds)
        cluster.running.cancel()

    cluster.clock.sleep = sleep_and_cancel  # type: ignore[method-assign]
    found = error_of(cluster, QUERY)
    assert (type(found), text_of(found)) == (errors.OperationCancelled, "query 'foo': cancelled")
    assert [attempt.status for attempt in found.attempts] == ([429] if scripted.status else [])


def test_a_retry_is_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    cluster = SimulatedCluster(
        [SILENT, Scripted(status=429), REFUSED, Scripted()], limit=5, rng=LongestWaits()
    )
    cluster.run(QUERY)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        (
            f"query 'foo': failed request 1 of at most 5: {HOME}: timed out after 2.000 s waiting for "
            "response headers; the client asks http://host1:9401"
        ),
        (
            "query 'foo': failed request 2 of at most 5: http://host1:9401: overloaded (429) after 0.000 s "
            "waiting for response headers; the client retries in 0.10 s"
        ),
        (
            "query 'foo': failed request 3 of at most 5: http://host1:9401: connection refused after 0.000 s "
            "connecting; the client asks http://host2:9401"
        ),
    ]


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The time zone of this machine is another one than UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(("seconds", "left"), [(60.0, "60 s"), (1.0, "1 s"), (0.5, "0.5 s")])
def test_waiting_for_nodes_is_logged_with_its_end_and_each_nodes_failure(
    seconds: float, left: str, caplog: pytest.LogCaptureFixture, in_tokyo: None
) -> None:
    cluster = SimulatedCluster([REFUSED], [REFUSED], nodes=2, policy=RequestRetry(wait_for_nodes=True))
    before = time.time()
    error_of(cluster, QUERY, seconds=seconds)
    (message,) = [record.getMessage() for record in caplog.records if "waits" in record.getMessage()]
    failure = "status request: connection refused"
    until = re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", message)
    assert until is not None
    assert message == (
        f"query 'foo': no node responds. The client waits until {until[0]} UTC ({left}), as the settings "
        "wait_for_nodes and deadline say. Check that the nodes run and that their addresses are right:\n"
        f"  {HOME}: {failure}\n  http://host1:9401: {failure}"
    )
    then = dt.datetime.fromisoformat(f"{until[0]}+00:00").timestamp()
    assert before + seconds - 1 < then < time.time() + seconds + 1
