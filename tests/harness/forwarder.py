"""A TCP forwarder on loopback: stands for a Kubernetes service or a port mapping between client and node."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def forwarder(at: tuple[str, int], to: tuple[str, int]) -> Iterator[None]:
    """Forward connections from one address to another. At the end the first address refuses connections."""
    listener = socket.create_server(at)
    sockets = [listener]

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, there = listener.accept()[0], socket.create_connection(to)
                sockets.extend((taken, there))
                for pair in ((taken, there), (there, taken)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        thread.join(5)
