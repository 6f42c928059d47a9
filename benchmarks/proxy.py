"""A TCP proxy that lets one connection fall silent, or all together have so many bytes per second.

    python -m benchmarks.proxy HOST PORT ORIGIN_PORT freeze BYTES
    python -m benchmarks.proxy HOST PORT ORIGIN_PORT rate BYTES_PER_SECOND

Prints the port. `freeze`: once BYTES have passed from the origin to the client, the connection that
carried the last of them gets nothing any more and stays open, as behind a broken load balancer; the
others go on. 0 never freezes: the healthy run takes the same way. Prints `frozen BYTES` when it
happens. `rate` is of all connections together, as a site limits a client.

Bytes pass by `splice`, a thread per direction, so that the proxy is not what is measured.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import threading
import time
from typing import Protocol

from benchmarks.processes import die_with_parent

_F_SETPIPE_SZ = 1031  # linux/fcntl.h
_PIECE = 1 << 20


class Gate(Protocol):
    """Told of everything that passes to a client."""

    def freezes(self, count: int) -> bool:
        """Whether the connection that carried these bytes falls silent now. May take its time."""
        ...


class Freezer:
    """Counts what passes and picks the connection that freezes."""

    def __init__(self, after: int) -> None:
        self._after = after
        self._passed = 0
        self._lock = threading.Lock()
        self._done = after == 0

    def freezes(self, count: int) -> bool:
        """Whether the connection that carried these bytes is the one, now."""
        with self._lock:
            self._passed += count
            if self._done or self._passed < self._after:
                return False
            self._done = True
            print(f"frozen {self._passed}", flush=True)
            return True


class Limiter:
    """Holds everybody back to one rate, in pieces of a fiftieth of a second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = time.monotonic()
        self._lock = threading.Lock()

    def freezes(self, count: int) -> bool:
        """Never; but it takes as long as these bytes are worth."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            time.sleep(wait)
        return False


def serve(client: socket.socket, host: str, port: int, gate: Gate, piece: int) -> None:
    """Carry one connection, both ways."""
    try:
        origin = socket.create_connection((host, port))
    except OSError:
        client.close()
        return
    for one in (client, origin):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    asking = threading.Thread(target=_ask, args=(client, origin), daemon=True)
    asking.start()
    frozen = False
    try:
        frozen = _answer(origin, client, gate, piece)
    except OSError:
        pass  # one side is gone
    finally:
        if not frozen:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        asking.join()  # a frozen client is held until it gives up itself
        client.close()
        origin.close()


def _ask(client: socket.socket, origin: socket.socket) -> None:
    """From client to origin: requests, so small that copying them is no matter."""
    try:
        while data := client.recv(65536):
            origin.sendall(data)
    except OSError:
        pass  # one side is gone
    with contextlib.suppress(OSError):
        origin.shutdown(socket.SHUT_RDWR)


def _answer(origin: socket.socket, client: socket.socket, gate: Gate, piece: int) -> bool:
    """From origin to client, until the end; True if the connection was frozen."""
    out, into = os.pipe()
    try:
        fcntl.fcntl(into, _F_SETPIPE_SZ, _PIECE)
        while count := os.splice(origin.fileno(), into, piece):
            left = count
            while left:
                left -= os.splice(out, client.fileno(), left)
            if gate.freezes(count):
                return True
        return False
    finally:
        os.close(out)
        os.close(into)


def main() -> None:
    die_with_parent()
    host, kind = sys.argv[1], sys.argv[4]
    port, origin_port, amount = (int(sys.argv[at]) for at in (2, 3, 5))
    listener = socket.create_server((host, port), backlog=256)
    gate: Gate = Freezer(amount) if kind == "freeze" else Limiter(amount)
    piece = _PIECE if kind == "freeze" else max(4096, min(_PIECE, amount // 50))
    print(listener.getsockname()[1], flush=True)
    while True:
        client, _ = listener.accept()
        arguments = (client, host, origin_port, gate, piece)
        threading.Thread(target=serve, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main()
