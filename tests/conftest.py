"""The servers that tests ask."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.conformance.pair import Pair
from tests.conformance.tally import Tally
from tests.postgres import HOW_TO_GET_POSTGRES, postgres_programs
from tests.servers import HOW_TO_GET_THE_REAL_SERVER, Server, make_certificates, real_python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from ssl import SSLContext

    from tests.servers import Certificates


TALLY = pytest.StashKey[Tally]()

# Nothing is a failure for being slow on a busy machine.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if not os.environ.get("CI"):  # where hypothesis has a profile of its own, which is patient too
    settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """Count generated cases for the summary."""
    config.stash[TALLY] = Tally()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what the generated cases were."""
    tally = config.stash[TALLY]
    if tally.stores:
        terminalreporter.section("conformance with QCache 0.9.3")
        for line in tally.lines():
            terminalreporter.line(line)
        tally.write()


@pytest.fixture(scope="session")
def tally(pytestconfig: pytest.Config) -> Tally:
    """Counts what is generated."""
    return pytestconfig.stash[TALLY]


def need_the_real_server() -> None:
    """Skip where there is no real server, fail where CI should have one."""
    if real_python() is None:
        skip_or_fail(HOW_TO_GET_THE_REAL_SERVER)


def need_postgres() -> None:
    """Skip where there is no PostgreSQL, fail where CI should have one."""
    if postgres_programs() is None:
        skip_or_fail(HOW_TO_GET_POSTGRES)


def skip_or_fail(missing: str) -> None:
    """Skip, but for CI, where nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def real() -> Iterator[Server]:
    """A real QCache 0.9.3 with its default options."""
    need_the_real_server()
    with Server.real() as server:
        yield server


@pytest.fixture(scope="session")
def dev() -> Iterator[Server]:
    """A dev node with its default options."""
    with Server.dev() as server:
        yield server


@pytest.fixture(scope="session")
def shared_pair(real: Server, dev: Server) -> Iterator[Pair]:
    """Both servers over connections kept for the whole session."""
    pair = Pair(real, dev)
    yield pair
    pair.close()


@pytest.fixture
def pair(shared_pair: Pair) -> Pair:
    """Both servers, with nothing stored that a test used before."""
    shared_pair.forget()
    return shared_pair


@pytest.fixture(scope="session")
def started_pairs() -> Iterator[Callable[..., Pair]]:
    """Start both servers with options, once for each set of options."""
    need_the_real_server()
    pairs: dict[tuple[str, ...], Pair] = {}
    with ExitStack() as stack:

        def start(*options: str, tls: SSLContext | None = None) -> Pair:
            if options not in pairs:
                real = Server.real(*options, tls=tls)
                dev = Server.dev(*options, tls=tls)
                for server in (real, dev):
                    stack.callback(server.stop)
                    server.launch()
                pairs[options] = Pair(real.wait_until_up(), dev.wait_until_up())
                stack.callback(pairs[options].close)
            return pairs[options]

        yield start


@pytest.fixture
def pair_with(started_pairs: Callable[..., Pair]) -> Callable[..., Pair]:
    """Both servers with other options and nothing stored or counted: `pair_with("--size", "1000")`."""

    def start(*options: str, tls: SSLContext | None = None) -> Pair:
        pair = started_pairs(*options, tls=tls)
        pair.forget()
        pair.ask_raw("GET", "/qcache/statistics")
        return pair

    return start


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A server's certificate with its key, a client's, and the CA of both."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))
