"""Fixtures for the pair of servers that conformance tests use, and a summary of the generated cases."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance.pair import Pair
from tests.conformance.tally import Tally
from tests.harness.clock import Clock
from tests.harness.needs import need_the_real_server
from tests.harness.servers import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from ssl import SSLContext

TALLY = pytest.StashKey[Tally]()


def pytest_configure(config: pytest.Config) -> None:
    """Create the tally of generated cases."""
    config.stash[TALLY] = Tally()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add the tally of a pytest-xdist worker."""
    node.config.stash[TALLY].add(node.workeroutput["tally"])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over the tally if this is a worker."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tally"] = session.config.stash[TALLY].counts()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the tally of the generated cases."""
    tally = config.stash[TALLY]
    if tally.stores:
        terminalreporter.section("conformance with QCache 0.9.3")
        for line in tally.lines():
            terminalreporter.line(line)
        tally.write()


@pytest.fixture(scope="session")
def tally(pytestconfig: pytest.Config) -> Tally:
    """Counts the generated cases."""
    return pytestconfig.stash[TALLY]


@pytest.fixture
def pair(started_pairs: Callable[..., Pair]) -> Pair:
    """Both servers, used by this suite only, with everything deleted that earlier tests stored."""
    pair = started_pairs()
    pair.delete_all()
    return pair


@pytest.fixture(scope="session")
def started_pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Pair]]:
    """A function that starts both servers, once for each set of options."""
    need_the_real_server()
    pairs: dict[tuple[str, ...], Pair] = {}
    with ExitStack() as stack:

        def start(*options: str, tls: SSLContext | None = None) -> Pair:
            if options not in pairs:
                real = Server.real(*options, tls=tls)
                dev = Server.dev(*options, tls=tls)
                clock = Clock(tmp_path_factory.mktemp("clock"))
                for server in (real, dev):
                    server.clock = clock
                    stack.callback(server.stop)
                    server.launch()
                pairs[options] = Pair(real.wait_until_up(), dev.wait_until_up(), clock)
                stack.callback(pairs[options].close)
            return pairs[options]

        yield start


@pytest.fixture
def pair_with(started_pairs: Callable[..., Pair]) -> Callable[..., Pair]:
    """A function: both servers with other options, empty and with fresh statistics: `pair_with("--size", "1000")`."""

    def start(*options: str, tls: SSLContext | None = None) -> Pair:
        pair = started_pairs(*options, tls=tls)
        pair.delete_all()
        pair.ask_raw("GET", "/qcache/statistics")
        return pair

    return start
