"""``python -m airflow_provider_qcache.devnode``: a node in this process, or several in others."""

import argparse
import contextlib
import ctypes
import dataclasses
import os
import signal
import ssl
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

from airflow_provider_qcache.devnode.cluster import (
    LocalCluster,
    NodeStartError,
    describe_exit,
    describe_listen_error,
)
from airflow_provider_qcache.devnode.options import NodeOptions
from airflow_provider_qcache.extras import how_to_install

_NAME = "python -m airflow_provider_qcache.devnode"
_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> int:
    """Run the nodes of the command line, until a signal ends them.

    Returns:
        The exit code: 0 after a signal, 1 if a node did not start, or all nodes have ended.
    """
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.parent is not None:
        _end_with_parent(arguments.parent)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup has SIGHUP ignored
            signal.signal(number, _end)
    try:
        options = NodeOptions(
            host=arguments.host,
            port=arguments.port,
            size=arguments.size,
            age=arguments.age,
            statistics_buffer_size=arguments.statistics_buffer_size,
            cert_file=arguments.cert_file,
            ca_file=arguments.ca_file,
            basic_auth=_read_stdin() if arguments.basic_auth == "-" else arguments.basic_auth,
        )
        if arguments.nodes == 1:
            # A cluster reads one line of its node's stdout, its URL or an error; users find errors on stderr.
            return _serve(options, of_a_cluster=arguments.parent is not None)
        common = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
        del common["port"]
        ports = range(options.port, options.port + arguments.nodes) if options.port else None
        cluster = LocalCluster(arguments.nodes, ports=ports, log=sys.stderr, **common)
    except ValueError as error:
        parser.error(str(error))
    return _supervise(cluster)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_NAME,
        description="QCache 0.9.3 nodes for demos and tests. Prints a line for each node that answers.",
        epilog="Runs until SIGTERM, or Ctrl-C. To keep it when its terminal closes, start it with nohup.",
        allow_abbrev=False,
    )
    defaults = {field.name: field.default for field in dataclasses.fields(NodeOptions)}

    def add(*names: str, meaning: str, value_type: type = int, metavar: str = "N") -> None:
        default = defaults[names[-1].removeprefix("--").replace("-", "_")]
        suffix = "" if default is None else f" [{default}]"
        parser.add_argument(*names, type=value_type, default=default, metavar=metavar, help=meaning + suffix)

    add("-p", "--port", meaning="TCP port of the first node, 0 for free ones")
    add("-s", "--size", meaning="bytes that a node's cache may hold")
    add("-a", "--age", meaning="seconds that a table is kept, 0 for ever")
    add("-b", "--statistics-buffer-size", meaning="entries in each list of the statistics")
    certificate = "PEM file with key and certificate: TLS"
    add("-c", "--cert-file", meaning=certificate, value_type=Path, metavar="PATH")
    add("--ca-file", meaning="clients need a certificate of this CA", value_type=Path, metavar="PATH")
    add(
        "--basic-auth",
        meaning="user and password that requests need, only with TLS; - reads them from stdin",
        value_type=str,
        metavar="USER:PASSWORD",
    )
    add("--host", meaning="address to listen on", value_type=str, metavar="HOST")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes, on consecutive ports [1]")
    # LocalCluster passes its process id, so that the nodes end with it.
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    return parser


def _read_stdin() -> str:
    return os.fsdecode(sys.stdin.buffer.readline()).removesuffix("\n")


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    if number == signal.SIGHUP:
        _log_end("its terminal closed (SIGHUP); start it with nohup to keep it")
    elif number == signal.SIGTERM:
        _log_end("it received SIGTERM")
    sys.exit(0)


def _log_end(reason: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be closed
        os.write(sys.stderr.fileno(), f"{_NAME}: process {os.getpid()} ends because {reason}\n".encode())


def _end_with_parent(parent: int) -> None:
    """End this process when its parent ends, even if the main thread is busy.

    On Linux the system kills this process then, even if it is stopped.

    Args:
        parent: The parent's process id. Linux acts when the *thread* that started this process ends, so only
            a parent that keeps that thread may pass its id.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch_parent, args=[parent], name="devnode-parent-watch", daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)  # at once: a node has nothing to clean up


def _serve(options: NodeOptions, *, of_a_cluster: bool) -> int:
    errors: TextIO = sys.stdout if of_a_cluster else sys.stderr
    try:
        from airflow_provider_qcache.devnode.app import serve  # noqa: PLC0415 - heavy, and from an extra
        from airflow_provider_qcache.devnode.control import Control  # noqa: PLC0415 - it loads asyncio
    except ImportError as error:
        print(f"{_NAME}: {error}; {how_to_install('devnode')}", file=errors)
        return 1
    answers = False

    def on_ready(port: int) -> None:
        nonlocal answers
        answers = True
        print(_ready_line(dataclasses.replace(options, port=port).url, os.getpid()), flush=True)

    control = Control(sys.stdin.fileno(), lambda number: print(number, flush=True)) if of_a_cluster else None
    try:
        serve(options, on_ready, control)
    except OSError as error:
        if answers:
            raise
        if isinstance(error, ssl.SSLError):
            files = " and ".join(str(path) for path in (options.cert_file, options.ca_file) if path)
            why = f"{files}: not a PEM file with a private key and its certificate, or with a CA's: {error}"
        else:
            why = describe_listen_error(options.host, options.port, error)
        print(f"{_NAME}: {why}", file=errors)
        return 1
    return 0


def _supervise(cluster: LocalCluster) -> int:
    try:
        with cluster:
            living = dict(enumerate(zip(cluster.node_list, cluster.pids, strict=True)))
            for url, pid in living.values():
                print(_ready_line(url, pid), flush=True)
            while living:
                time.sleep(_POLL_SECONDS)
                for i, code in enumerate(cluster.exit_codes):
                    if code is not None and i in living:
                        url, pid = living.pop(i)
                        left = f"{len(living)} of {len(cluster.node_list)} nodes left"
                        print(f"{url} pid {pid} ended with {describe_exit(code)}; {left}", file=sys.stderr)
    except NodeStartError as error:
        print(f"{_NAME}: {error}", file=sys.stderr)
    return 1


def _ready_line(url: str, pid: int) -> str:
    return f"{url} pid {pid}"


if __name__ == "__main__":
    sys.exit(main())
