"""What an answer means: a result, a miss, or a failure that says what is wrong and what to do about it."""

from __future__ import annotations

import datetime as dt
import email.utils

import pytest

from airflow_provider_qcache.client.errors import Outcome, Phase
from airflow_provider_qcache.client.outcome import (
    COUNTERS,
    MAX_ERROR_BODY,
    Action,
    Answer,
    Failure,
    RequestKind,
    action_for,
    judge,
)
from airflow_provider_qcache.client.transport import Headers
from tests.client.simulated import SUCCESS

HTML = b"<!DOCTYPE html><title>Welcome</title>"
REFUSAL = b'{"error": "Unknown clause"}'


def answer(
    status: int, content: bytes = b"[]", *, is_result: bool = True, more: str = "", **message: object
) -> Answer:
    """An answer with the headers of a QCache result and the lines of `more` as further headers."""
    lines = (
        ["Content-Type: application/json; charset=utf-8", "X-QCache-unsliced-length: 0"] if is_result else []
    )
    headers = Headers([f"{line}\r\n".encode("latin-1") for line in (*lines, *more.splitlines())])
    return Answer(status, headers, content, None, **message)  # type: ignore[arg-type]


def failure_of(kind: RequestKind, received: Answer) -> Failure:
    with pytest.raises(Failure) as raised:
        judge(kind, received)
    failure = raised.value
    assert failure.answer is received
    assert failure.status == received.status
    return failure


@pytest.mark.parametrize("kind", RequestKind)
def test_each_kind_of_request_has_one_status_of_success(kind: RequestKind) -> None:
    for status in (200, 201, 202, 204, 400):
        received = answer(status, REFUSAL if kind is RequestKind.PRESENCE else b"[]")
        if status == SUCCESS[kind]:
            assert judge(kind, received) is received
        else:
            assert failure_of(kind, received).outcome is Outcome.REFUSED_REQUEST


@pytest.mark.parametrize("kind", RequestKind)
def test_404_is_a_miss_only_for_a_query_and_a_presence_request(kind: RequestKind) -> None:
    if kind in (RequestKind.QUERY, RequestKind.PRESENCE):
        assert judge(kind, answer(404)) is None
    else:
        assert failure_of(kind, answer(404)).outcome is Outcome.REFUSED_REQUEST


@pytest.mark.parametrize("kind", RequestKind)
@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (401, Outcome.UNAUTHORIZED),
        (403, Outcome.REFUSED_REQUEST),
        (406, Outcome.REFUSED_REQUEST),
        (429, Outcome.OVERLOADED),
        (500, Outcome.REFUSED_REQUEST),
        (501, Outcome.REFUSED_REQUEST),
        (502, Outcome.UNAVAILABLE),
        (503, Outcome.UNAVAILABLE),
        (504, Outcome.UNAVAILABLE),
        (505, Outcome.REFUSED_REQUEST),
    ],
)
def test_the_status_decides_the_outcome(kind: RequestKind, status: int, outcome: Outcome) -> None:
    failure = failure_of(kind, answer(status))
    assert (failure.outcome, failure.phase) == (outcome, Phase.HEAD)
    assert failure.retry_after is None
    assert failure.detail == (
        "a proxy in front of the node answers for it" if outcome is Outcome.UNAVAILABLE else ""
    )


def test_a_configured_proxy_that_answers_for_the_node_is_named() -> None:
    assert (
        failure_of(RequestKind.QUERY, answer(503, from_proxy="the proxy p says so")).detail
        == "the proxy p says so"
    )


@pytest.mark.parametrize(
    ("status", "location", "detail"),
    [
        (299, "/there", ""),
        (300, "/there", "it redirects to '/there'; redirects are never followed"),
        (399, "/there", "it redirects to '/there'; redirects are never followed"),
        (400, "/there", ""),
        (301, None, ""),
    ],
)
def test_the_failure_of_a_redirect_names_its_target(status: int, location: str | None, detail: str) -> None:
    failure = failure_of(
        RequestKind.STORE, answer(status, more="" if location is None else f"Location: {location}")
    )
    assert (failure.outcome, failure.detail) == (Outcome.REFUSED_REQUEST, detail)


@pytest.mark.parametrize(
    ("received", "outcome", "detail"),
    [
        (
            answer(200, more="Content-Type: text/html", is_result=False),
            Outcome.NOT_QCACHE,
            "it is HTML",
        ),
        (
            answer(
                200,
                more="Content-Type: Application/XHTML ; a=b\nX-QCache-unsliced-length: 0",
                is_result=False,
            ),
            Outcome.NOT_QCACHE,
            "it is HTML",
        ),
        (answer(200, is_result=False), Outcome.NOT_QCACHE, "it has no X-QCache-unsliced-length"),
        (
            answer(200, more="X-QCache-unsliced-length: many", is_result=False),
            Outcome.NOT_QCACHE,
            "its X-QCache-unsliced-length is 'many'",
        ),
        (
            answer(200, more=f"X-QCache-unsliced-length: {'9' * 21}", is_result=False),
            Outcome.NOT_QCACHE,
            f"its X-QCache-unsliced-length is '{'9' * 21}'",
        ),
        (
            answer(200, more=f"X-QCache-unsliced-length: {'x' * 101}", is_result=False),
            Outcome.NOT_QCACHE,
            f"its X-QCache-unsliced-length is '{'x' * 100}'",
        ),
        (answer(200, b"[1"), Outcome.UNDECODABLE, "it is not a JSON list"),
        (answer(200, b"1]"), Outcome.UNDECODABLE, "it is not a JSON list"),
        (answer(200, b" []"), Outcome.UNDECODABLE, "it is not a JSON list"),
        (
            answer(200, complete=False),
            Outcome.TRUNCATED,
            "it has no Content-Length, and ends in the middle of a row",
        ),
    ],
)
def test_a_success_without_the_properties_of_a_result_is_a_failure(
    received: Answer, outcome: Outcome, detail: str
) -> None:
    failure = failure_of(RequestKind.QUERY, received)
    assert (failure.outcome, failure.phase, failure.detail) == (outcome, Phase.BODY, detail)
    assert str(failure) == detail


@pytest.mark.parametrize(
    "received",
    [
        answer(200, b"[] \n"),
        answer(200, b'[{"a":1},{"a":2}]'),
        answer(200, b"a\n1\n", is_result=False, more="Content-Type: text/csv\nX-QCache-unsliced-length: 1"),
        answer(200, b"", is_result=False, more=f"X-QCache-unsliced-length: {'9' * 20}"),
        answer(
            200,
            b"",
            is_result=False,
            more="Content-Type: APPLICATION/JSON\nX-QCache-unsliced-length: 0",
            still_encoded=True,
        ),
        answer(200, b"\x1f\x8b", still_encoded=True, complete=False),
    ],
)
def test_what_a_node_answers_to_a_query_is_a_result(received: Answer) -> None:
    assert judge(RequestKind.QUERY, received) is received


def test_the_content_type_of_a_result_is_compared_without_case() -> None:
    received = answer(
        200, b"{}", is_result=False, more="Content-Type: APPLICATION/JSON ;x\nX-QCache-unsliced-length: 0"
    )
    assert failure_of(RequestKind.QUERY, received).outcome is Outcome.UNDECODABLE


@pytest.mark.parametrize("kind", [RequestKind.STORE, RequestKind.DELETE])
def test_an_html_page_does_not_acknowledge_a_store_or_delete(kind: RequestKind) -> None:
    failure = failure_of(kind, answer(SUCCESS[kind], b"\n " + HTML))
    assert (failure.outcome, failure.detail) == (Outcome.NOT_QCACHE, "it is HTML")
    received = answer(SUCCESS[kind], b"stored <b>")
    assert judge(kind, received) is received


def test_only_qcache_s_own_400_shows_that_a_table_exists() -> None:
    received = answer(400, b"\n " + REFUSAL)
    assert judge(RequestKind.PRESENCE, received) is received
    for content in (b"", HTML, b'x{"error"', b'{"Error": 1}'):
        failure = failure_of(RequestKind.PRESENCE, answer(400, content))
        assert (failure.outcome, failure.phase) == (Outcome.REFUSED_REQUEST, Phase.HEAD)
        assert failure.detail == "it is not QCache's refusal of a query"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 17 ", 17.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0),
        ("Mon, 01 Jan 2001 00:00:00 -0000", 0.0),  # UTC, for which Python returns a naive datetime
        ("Mon, 99 Jan 2001 00:00:00 GMT", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert failure_of(RequestKind.QUERY, answer(429, more=f"Retry-After: {value}")).retry_after == seconds


@pytest.mark.parametrize("zone", [dt.UTC, dt.timezone(dt.timedelta(hours=5)), None])
def test_retry_after_as_a_date_becomes_seconds_from_now(zone: dt.tzinfo | None) -> None:
    then = dt.datetime.now(dt.UTC) + dt.timedelta(days=400)
    at = then.replace(tzinfo=None) if zone is None else then.astimezone(zone)
    waits = failure_of(
        RequestKind.QUERY, answer(429, more=f"Retry-After: {email.utils.format_datetime(at)}")
    ).retry_after
    assert waits == pytest.approx(400 * 86400, abs=600)


def test_retry_after_is_read_only_from_a_429() -> None:
    assert failure_of(RequestKind.QUERY, answer(503, more="Retry-After: 5")).retry_after is None


@pytest.mark.parametrize("kind", RequestKind)
def test_only_a_store_waits_for_a_node_that_timed_out(kind: RequestKind) -> None:
    for outcome in (Outcome.TIMEOUT, Outcome.NOT_TAKEN):
        assert action_for(kind, outcome) is (
            Action.WHEN_READY if kind is RequestKind.STORE else Action.NEXT_NODE
        )


def test_every_outcome_has_its_action_and_its_counter() -> None:
    expected = {
        "RAISE": "CERTIFICATE_REJECTED UNSUPPORTED_ENCODING UNAUTHORIZED REFUSED_REQUEST TOO_LARGE",
        "ASK_STATUS": "CLOSED",
        "WAIT": "OVERLOADED LOCAL",
        "END": "DEADLINE CANCELLED",
        "NEXT_NODE": (
            "UNRESOLVED REFUSED CONNECT_TIMEOUT CONNECT_FAILED TLS_FAILED TIMEOUT NOT_TAKEN TRUNCATED "
            "UNDECODABLE NOT_QCACHE UNAVAILABLE"
        ),
    }
    actions = {Outcome[name]: Action[action] for action, names in expected.items() for name in names.split()}
    assert {
        outcome: action_for(RequestKind.QUERY, outcome)
        for outcome in Outcome
        if outcome is not Outcome.ANSWERED
    } == actions
    assert {outcome.name for outcome, counter in COUNTERS.items() if counter == "read_timeout"} == {
        "TIMEOUT",
        "NOT_TAKEN",
        "DEADLINE",
    }
    assert [outcome for outcome, counter in COUNTERS.items() if counter == "connect_timeout"] == [
        Outcome.CONNECT_TIMEOUT
    ]


def test_an_error_quotes_the_start_of_an_answer_without_the_request_s_secrets() -> None:
    assert answer(500, b"\xffx" * 400).text_for_error() == "\ufffdx" * 250

    class Redactor:
        def clean_bytes(self, content: bytes) -> bytes:
            assert len(content) == MAX_ERROR_BODY
            return content.replace(b"secret", b"***")

    lines: list[bytes] = []
    headers = Headers(lines)
    headers.redactor = Redactor  # type: ignore[assignment]
    received = Answer(500, headers, b"secret" + b"x" * MAX_ERROR_BODY, None)
    assert received.text_for_error() == "***" + "x" * 497


def test_the_text_of_a_failure_is_its_detail_or_its_cause_or_its_outcome() -> None:
    cause = OSError("no route")
    assert str(Failure(Outcome.CLOSED, Phase.HEAD)) == "connection closed without a response"
    assert str(Failure(Outcome.CLOSED, Phase.HEAD, cause)) == "no route"
    assert (
        str(Failure(Outcome.CLOSED, Phase.HEAD, cause, detail="the proxy closed it")) == "the proxy closed it"
    )
    plain = Failure(Outcome.CLOSED, Phase.HEAD, cause)
    assert (plain.outcome, plain.phase, plain.cause) == (Outcome.CLOSED, Phase.HEAD, cause)
    assert (plain.status, plain.detail, plain.answer, plain.retry_after) == (None, "", None, None)
    assert (plain.before_answer, plain.by_proxy) == (False, False)
    received = Failure(Outcome.CLOSED, Phase.HEAD, before_answer=True, by_proxy=True)
    assert (received.before_answer, received.by_proxy) == (True, True)
