"""The cluster page as an app of FastAPI, which only the API server makes.

Every path needs a user of Airflow's with the right to read connections. The paths for data refuse what a page
of another site could have sent: a request needs a header that such a page cannot add without the server's
consent.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import ConnectionDetails
from airflow.api_fastapi.core_api.security import (
    GetUserDep,
    requires_access_asset,
    requires_access_connection,
)
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from airflow_provider_qcache.client import InvalidKey, QClientException
from airflow_provider_qcache.plugins import cluster

__all__ = ["app"]

LONGEST: Final = 12.0
"""Seconds after which a request is answered, whatever the nodes and the database do."""

MOST_AT_ONCE: Final = 4
"""Requests for data that one process works on at the same time; further ones are refused."""

_MOST_BYTES: Final = 32 * 1024
"""Bytes of a query."""

_HEADER: Final = "X-QCache-Page"
_HTML: Final = Path(__file__).with_name("page.html").read_text()
_T = TypeVar("_T")


def _hashes(tag: str) -> str:
    """The content of an element of the page, as a source of its content security policy."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", _HTML, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


_PAGE_HEADERS: Final = {
    # Nothing but the page's own script and style, and requests to Airflow alone.
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hashes('script')}; style-src {_hashes('style')}; "
        "connect-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def same_site(request: Request) -> None:
    """Refuse a request that a page of another site can have sent.

    A browser says where a request comes from, and asks the server's consent (CORS) before a page of another
    site may add a header of its own.
    """
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise HTTPException(403, "the request comes from another site")
    if _HEADER not in request.headers:
        raise HTTPException(403, f"the header {_HEADER} is missing; any value will do")


app = FastAPI(
    title="QCache cluster page",
    dependencies=[Depends(requires_access_connection("GET"))],
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
)
_data = {"dependencies": [Depends(same_site)], "response_class": JSONResponse}

_free = threading.BoundedSemaphore(MOST_AT_ONCE)


async def _in_thread(work: Callable[..., _T], *arguments: Any) -> Response:
    """The result of work that waits for others, as JSON; errors as the status that says whose fault it was.

    The thread is one of its own, and a daemon: nothing here takes a thread of the server's, or keeps it from
    ending. It keeps its place among the few until it ends, however long that takes.
    """
    if not _free.acquire(blocking=False):
        raise HTTPException(
            503, f"{MOST_AT_ONCE} requests are in progress: try again", headers={"Retry-After": "1"}
        )
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def tell(result: Any, error: BaseException | None) -> None:
        if not done.done():
            done.set_result(result) if error is None else done.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = work(*arguments)
        except BaseException as raised:  # noqa: BLE001  # it is the caller's
            error = raised
        finally:
            _free.release()
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, name="qcache-page", daemon=True).start()
    try:
        result = await asyncio.wait_for(done, LONGEST)
    except TimeoutError as error:
        raise HTTPException(504, f"there was no answer within {LONGEST:g} s") from error
    except cluster.NoSuchConnection as error:
        raise HTTPException(404, str(error)) from error
    except (InvalidKey, ValueError) as error:  # of the connection, the key, the query, the change
        raise HTTPException(400, str(error)) from error
    except QClientException as error:
        raise HTTPException(502, str(error)) from error
    return JSONResponse(result, headers={"Cache-Control": "no-store"})


@app.get("/")
async def page() -> HTMLResponse:
    """The page itself, which has no data."""
    return HTMLResponse(_HTML, headers=_PAGE_HEADERS)


@app.get("/connections", **_data)
async def connections(user: GetUserDep) -> Response:
    """The connections that the page offers."""

    def may_read(conn_id: str, team: str | None) -> bool:
        details = ConnectionDetails(conn_id=conn_id, team_name=team)
        return get_auth_manager().is_authorized_connection(method="GET", details=details, user=user)  # type: ignore[no-any-return]

    return await _in_thread(cluster.connections, may_read)


@app.get("/nodes/{connection_id:path}", **_data)
async def nodes(connection_id: str) -> Response:
    """Health, latency, shares and statistics."""
    return await _in_thread(cluster.nodes, connection_id)


@app.get("/ring/{connection_id:path}", **_data)
async def ring(
    connection_id: str,
    add: Annotated[list[str], Query(max_length=20)] = [],  # noqa: B006  # FastAPI copies it
    remove: Annotated[list[str], Query(max_length=200)] = [],  # noqa: B006
) -> Response:
    """What a change of the nodes moves."""
    return await _in_thread(cluster.ring, connection_id, add, remove)


def _readable_dags(user: Any) -> set[str]:
    return get_auth_manager().get_authorized_dag_ids(user=user, method="GET")  # type: ignore[no-any-return]


_with_assets = {**_data, "dependencies": [Depends(requires_access_asset("GET")), *_data["dependencies"]]}


@app.get("/where/{connection_id:path}", **_with_assets)
async def where(connection_id: str, key: str, user: GetUserDep) -> Response:
    """Who has a table, and who stored it."""
    return await _in_thread(lambda: cluster.where(connection_id, key, _readable_dags(user)))


@app.get("/assets/{connection_id:path}", **_with_assets)
async def assets(connection_id: str, user: GetUserDep) -> Response:
    """The assets of the cluster's tables."""
    return await _in_thread(lambda: cluster.assets(connection_id, _readable_dags(user)))


@app.post("/query/{connection_id:path}", **_data)
async def query(connection_id: str, request: Request) -> Response:
    """The rows of a query."""
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "expected application/json")
    if "X-QCache-stand-in-columns" in request.headers:
        raise HTTPException(400, "stand-in columns: they stay in the stored table, and this page only reads")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise HTTPException(413, f"the query is longer than {_MOST_BYTES:,} bytes")
    try:
        asked = json.loads(body)
        json.dumps(asked, ensure_ascii=False, allow_nan=False).encode()  # no half of a character, no NaN
        key, q = asked.pop("key"), asked.pop("query")
    except (ValueError, RecursionError, KeyError, AttributeError, TypeError) as error:
        raise HTTPException(400, 'expected {"key": "orders", "query": {"limit": 5}}') from error
    if asked:
        stand_in = "stand-in columns stay in the stored table, and " if "stand_in_columns" in asked else ""
        raise HTTPException(400, f"{', '.join(map(ascii, asked))}: {stand_in}only key and query are allowed")
    return await _in_thread(cluster.query, connection_id, key, q)
