"""Several nodes on this machine, each in its own process, which can be killed, paused and restarted."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from airflow_provider_qcache.devnode.options import NodeOptions

_STDERR_LINES = 10


class NodeStartError(RuntimeError):
    """A node did not start: its port is in use, a library is not installed, it crashed, or it timed out."""


class _Node:
    """A node of the cluster: its port, and the process that listens there while it runs."""

    def __init__(self, options: NodeOptions, log: IO[Any] | None) -> None:
        self._reservation = _reserve(options.host, options.port)
        self.options = dataclasses.replace(options, port=self._reservation.getsockname()[1])
        self.process: subprocess.Popen[bytes] | None = None
        self.disturbed = False
        """Whether it was paused or slow: requests may wait for it."""
        self._changes = 0
        self._log = log
        self._stderr: IO[Any] | None = None

    def spawn(self) -> None:
        """Start the process. It is in ``process`` at once, so that an interrupted caller can still end it."""
        if sys.platform != "linux":
            self._reservation.close()  # else the node's process could not listen on the port
        self._stderr = self._log or tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        # -P and our sys.path: the node imports what this process imports, not what is in the working
        # directory
        command = [sys.executable, "-P", "-m", "airflow_provider_qcache.devnode", f"--parent={os.getpid()}"]
        self.process = subprocess.Popen(  # noqa: S603 - our own module, checked options
            [*command, *self.options.arguments()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,  # select does not report bytes that are in a buffer
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            process_group=0,  # Ctrl-C in a terminal goes to this process only, which ends the nodes
        )
        self.disturbed = False
        if self.options.basic_auth is not None:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.write(os.fsencode(f"{self.options.basic_auth}\n"))
                self.stdin.flush()

    @property
    def stdin(self) -> IO[bytes]:
        """The pipe for the credentials, and then for changes."""
        assert self.process is not None  # noqa: S101 - for the type checker
        assert self.process.stdin is not None  # noqa: S101
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """The pipe from the node: its URL once it answers, or an error; then a line for each change."""
        assert self.process is not None  # noqa: S101 - for the type checker
        assert self.process.stdout is not None  # noqa: S101
        return self.process.stdout

    def read_first_line(self) -> None:
        """Read the first line that the node prints.

        Raises:
            NodeStartError: If it is not the node's URL.
        """
        line = os.fsdecode(self.stdout.readline()).strip()
        if not line.startswith(self.options.url):
            self.stdout.close()
            raise NodeStartError(f"{self.options.url} did not start: {line or self._why_it_ended()}")

    def change(self, seconds: float, **values: object) -> None:
        """Change a running node, and wait until it confirms the change.

        Raises:
            RuntimeError: If it does not confirm within this number of seconds, or ends.
        """
        self._changes += 1
        deadline = time.monotonic() + seconds
        with contextlib.suppress(BrokenPipeError), selectors.DefaultSelector() as waiting:
            self.stdin.write(json.dumps({"number": self._changes, **values}).encode() + b"\n")
            self.stdin.flush()
            waiting.register(self.stdout, selectors.EVENT_READ)
            while waiting.select(max(0.0, deadline - time.monotonic())):
                confirmed = self.stdout.readline()
                if not confirmed:
                    break
                if int(confirmed) == self._changes:
                    return
        raise RuntimeError(
            f"{self.options.url} did not confirm the change {values} within {seconds:g} s: it is paused, "
            "busy or ended; resume or restart it"
        )

    def _why_it_ended(self) -> str:
        assert self.process is not None  # noqa: S101 - for the type checker
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)  # its stdout is closed: it is about to end
        reason = f"the process ended with {describe_exit(self.process.returncode)}"
        if self._log is None and self._stderr is not None:
            self._stderr.seek(0)
            lines = self._stderr.read().decode(errors="replace").splitlines()[-_STDERR_LINES:]
            reason = "\n".join([f"{reason}; the last lines of its stderr:" if lines else reason, *lines])
        return reason

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """End the process, even if it is stopped, and close its pipes; nothing if it has ended."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
            self.stdout.close()
        if self._log is None and self._stderr is not None:
            self._stderr.close()

    def close(self) -> None:
        self.kill()
        self._reservation.close()


class LocalCluster:
    """Dev nodes on this machine, which run while the ``with`` block runs.

    ::

        with LocalCluster(nodes=3) as cluster:
            client = QClient(cluster.node_list)
            cluster.kill(0)

    Methods take a node's number, from 0, or its URL. `restart`, `resume` and `reset` undo what other methods
    did. When the block ends, also by an error, no process, thread or socket remains. When this process ends,
    even by SIGKILL, its nodes end as well (on Linux also paused ones). The methods may be called from any
    thread, and run one at a time.

    Args:
        nodes: The number of nodes.
        host: Address or name that all nodes listen on.
        ports: A port for each node; by default free ones, which differ at each start. The cluster keeps its
            ports until `close`, on Linux also while a node is down.
        size: Bytes of each node's cache.
        age: Seconds after a store after which the table expires; 0 for never.
        statistics_buffer_size: The number of entries in each list of a node's statistics.
        cert_file: PEM file with the private key and the certificate. If set, the nodes use TLS.
        ca_file: PEM file of the CA that must have signed a client's certificate.
        basic_auth: ``user:password`` that every request must have; requires ``cert_file``.
        start_timeout: Seconds within which all nodes must answer at the start, and one node at `restart`.
        log: An open file with a descriptor, for the nodes' stderr. By default the last lines of stderr are in
            the error of a node that does not start.

    Raises:
        ValueError: For a value that is not allowed, naming it and what is.
    """

    def __init__(
        self,
        nodes: int = 3,
        *,
        host: str = "127.0.0.1",
        ports: Sequence[int] | None = None,
        size: int = 1_000_000_000,
        age: int = 0,
        statistics_buffer_size: int = 1000,
        cert_file: str | os.PathLike[str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        basic_auth: str | None = None,
        start_timeout: float = 30.0,
        log: IO[Any] | None = None,
    ) -> None:
        if type(nodes) is not int or nodes < 1:
            raise ValueError(f"nodes: {nodes!r} is not allowed: expected an integer 1 or more")
        if ports is not None and (len(ports) != nodes or len(set(ports)) != nodes or 0 in ports):
            raise ValueError(f"ports: {ports!r} is not allowed: expected {nodes} different ports")
        if not start_timeout > 0:
            raise ValueError(f"start_timeout: {start_timeout!r} is not allowed: expected seconds above 0")
        self._options = [
            NodeOptions(
                host=host,
                port=port,
                size=size,
                age=age,
                statistics_buffer_size=statistics_buffer_size,
                # absolute, because the working directory may change before a node is restarted
                cert_file=None if cert_file is None else Path(cert_file).absolute(),
                ca_file=None if ca_file is None else Path(ca_file).absolute(),
                basic_auth=basic_auth,
            )
            for port in ports or [0] * nodes
        ]
        self._start_timeout = start_timeout
        self._log = log
        self._lock = threading.RLock()
        self._nodes: list[_Node] = []
        self._parent: concurrent.futures.ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Start every node and wait until all answer; nothing if the cluster is running.

        Raises:
            NodeStartError: If a node does not start. Then no node runs.
        """
        with self._lock:
            if self._nodes:
                return
            # Linux ends a node when the *thread* that started it ends, and the caller's may end early. So the
            # cluster has a thread for that, which ends when the cluster is garbage-collected.
            self._parent = concurrent.futures.ThreadPoolExecutor(1, "devnode-parent")
            try:
                for options in self._options:
                    self._nodes.append(_Node(options, self._log))
                self._bring_up(self._nodes)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """End every node in any state; nothing if the cluster is not running."""
        with self._lock:
            if self._parent is not None:
                self._parent.shutdown()
            for node in self._nodes:
                node.close()
            self._nodes = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def node_list(self) -> list[str]:
        """The nodes' URLs, in order, for a client: ``http://127.0.0.1:PORT``, or https with TLS.

        Raises:
            RuntimeError: If the cluster is not running.
        """
        return [node.options.url for node in self._running_nodes()]

    @property
    def pids(self) -> list[int]:
        """The nodes' process ids, in order; for a node that has ended, its last one.

        Raises:
            RuntimeError: If the cluster is not running.
        """
        return [node.process.pid for node in self._running_nodes() if node.process is not None]

    @property
    def exit_codes(self) -> list[int | None]:
        """The exit code of each node, in order: None while it runs, negative for a signal.

        Raises:
            RuntimeError: If the cluster is not running.
        """
        return [node.process.poll() for node in self._running_nodes() if node.process is not None]

    def kill(self, i: int | str) -> None:
        """End node ``i`` like a crash (SIGKILL); its tables are lost. Nothing if it has ended.

        Raises:
            IndexError: If there is no such node.
            RuntimeError: If the cluster is not running.
        """
        with self._lock:
            self._node(i).kill()

    def restart(self, i: int | str) -> None:
        """Restart node ``i`` on its port, empty, and wait until it answers. It is killed first if it runs.

        Raises:
            IndexError: If there is no such node.
            NodeStartError: If it does not start. The other nodes still run, and it may be restarted again.
            RuntimeError: If the cluster is not running.
        """
        with self._lock:
            node = self._node(i)
            node.kill()
            try:
                self._bring_up([node])
            except BaseException:
                node.kill()
                raise

    def pause(self, i: int | str) -> None:
        """Pause node ``i`` (SIGSTOP): connections to it are accepted, but no request is answered.

        Raises:
            IndexError: If there is no such node.
            RuntimeError: If it is not running.
        """
        with self._lock:
            self._node(i).disturbed = True
            pid = self._signal(i, signal.SIGSTOP)
            if sys.platform == "linux":  # the signal takes a moment, in which a request could be answered
                os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self, i: int | str) -> None:
        """Resume node ``i`` after `pause`; it answers the requests that it received meanwhile.

        Raises:
            IndexError: If there is no such node.
            RuntimeError: If it is not running.
        """
        with self._lock:
            self._signal(i, signal.SIGCONT)

    def slow(self, i: int | str, seconds: float) -> None:
        """Make node ``i`` wait this number of seconds before each answer, like a busy node; 0 ends that.

        Like a QCache node that parses a table it handles one request at a time: others wait.

        Raises:
            IndexError: If there is no such node.
            RuntimeError: If it is not running, or is paused.
            ValueError: If seconds is negative or not a number.
        """
        if not seconds >= 0:
            raise ValueError(f"seconds: {seconds!r} is not allowed: expected a number of seconds, 0 or more")
        with self._lock:
            self._node(i).disturbed = True
            self._change(i, delay=seconds)

    def refuse_auth(self, i: int | str, *, refuse: bool = True) -> None:
        """Make node ``i`` answer 401 to every request, as for a wrong password; False ends that.

        Raises:
            IndexError: If there is no such node.
            RuntimeError: If it is not running, or is paused.
        """
        with self._lock:
            self._change(i, refuse_auth=refuse)

    def configure(self, i: int | str, *, size: int | None = None, age: int | None = None) -> None:
        """Change ``size`` and ``age`` of node ``i`` while it runs. It keeps them when it is restarted.

        The age applies from the next query on, also to older tables, and the size from the next store on,
        which evicts tables. The node refuses a longer body on new connections like a real node, on open ones
        with 500.

        Raises:
            IndexError: If there is no such node.
            RuntimeError: If it is not running, or is paused.
            ValueError: For a value that is not allowed, naming it and what is.
        """
        changes = (("size", size), ("age", age))
        values: dict[str, Any] = {name: value for name, value in changes if value is not None}
        with self._lock:
            node = self._node(i)
            options = dataclasses.replace(node.options, **values)
            self._change(i, **values)
            node.options = options

    def reset(self) -> None:
        """Restore every node: it runs, is empty, and has the options of the cluster.

        Raises:
            NodeStartError: If a node that was killed, paused or slow does not start.
            RuntimeError: If the cluster is not running.
        """
        with self._lock:
            anew = []
            for node, options in zip(self._running_nodes(), self._options, strict=True):
                node.options = dataclasses.replace(options, port=node.options.port)
                if node.disturbed or not node.running():
                    node.kill()  # else it would handle waiting requests after the reset
                    anew.append(node)
                else:
                    node.change(
                        self._start_timeout, size=options.size, age=options.age, refuse_auth=False, clear=True
                    )
            self._bring_up(anew)

    def _change(self, i: int | str, **values: object) -> None:
        node = self._node(i)
        if not node.running():
            raise RuntimeError(f"node {i!r} is not running; restart({i!r}) starts it")
        node.change(self._start_timeout, **values)

    def _running_nodes(self) -> list[_Node]:
        nodes = self._nodes
        if not nodes:
            raise RuntimeError("the cluster is not running; start() it, or use it in a with statement")
        return nodes

    def _node(self, i: int | str) -> _Node:
        nodes = self._running_nodes()
        for number, node in enumerate(nodes):
            if i in (number, node.options.url):
                return node
        numbers, urls = f"0 to {len(nodes) - 1}", ", ".join(node.options.url for node in nodes)
        raise IndexError(f"there is no node {i!r}: expected an integer from {numbers}, or one of {urls}")

    def _signal(self, i: int | str, number: signal.Signals) -> int:
        node = self._node(i)
        if node.process is None or not node.running():
            raise RuntimeError(f"node {i!r} is not running; restart({i!r}) starts it")
        node.process.send_signal(number)
        return node.process.pid

    def _bring_up(self, nodes: Iterable[_Node]) -> None:
        """Start these nodes in parallel (importing pandas takes each 0.5 s), and wait until all answer."""
        assert self._parent is not None  # noqa: S101 - for the type checker
        deadline = time.monotonic() + self._start_timeout
        with selectors.DefaultSelector() as waiting:
            for node in nodes:
                self._parent.submit(node.spawn).result()
                waiting.register(node.stdout, selectors.EVENT_READ, node)
            while waiting.get_map():
                ready = waiting.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    silent = ", ".join(key.data.options.url for key in waiting.get_map().values())
                    raise NodeStartError(f"{silent} did not answer within {self._start_timeout:g} s")
                for key, _ in ready:
                    waiting.unregister(key.fileobj)
                    key.data.read_first_line()


def describe_exit(code: int | None) -> str:
    """How a process ended, from the exit code of `subprocess`, which is negative for a signal."""
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _reserve(host: str, port: int) -> socket.socket:
    """Reserve a port (0: a free one) by a socket that is bound to it and does not listen.

    On Linux a node can still listen on the port, and the system gives it neither to another cluster nor to an
    outgoing connection, whether the node is up or down.

    Raises:
        NodeStartError: If the port is in use, or the host is not this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        reservation = socket.socket(family, kind, protocol)
        try:
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                reservation.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            reservation.bind(address)
        except BaseException:
            reservation.close()
            raise
    except OSError as error:
        raise NodeStartError(describe_listen_error(host, port, error)) from error
    return reservation


def describe_listen_error(host: str, port: int, error: OSError) -> str:
    """Why a node cannot listen, in one line."""
    return f"cannot listen on port {port} of {host}: {error.strerror or error}"
