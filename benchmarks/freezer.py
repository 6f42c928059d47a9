"""A TCP proxy that lets one connection fall silent, as a broken load balancer does.

    python -m benchmarks.freezer HOST PORT ORIGIN_PORT FREEZE_AFTER

Prints the port. Once FREEZE_AFTER bytes have passed from the origin to the client, the connection
that carried the last of them gets nothing any more and stays open; the others go on. 0 never
freezes: the healthy run takes the same way. Bytes pass by `splice`, a thread per direction, so
that the proxy is not what is measured. Prints `frozen BYTES` when it happens.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import threading

from benchmarks.processes import die_with_parent

_F_SETPIPE_SZ = 1031  # linux/fcntl.h
_PIECE = 1 << 20


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


def serve(client: socket.socket, host: str, port: int, freezer: Freezer) -> None:
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
        frozen = _answer(origin, client, freezer)
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


def _answer(origin: socket.socket, client: socket.socket, freezer: Freezer) -> bool:
    """From origin to client, until the end; True if the connection was frozen."""
    out, into = os.pipe()
    try:
        fcntl.fcntl(into, _F_SETPIPE_SZ, _PIECE)
        while count := os.splice(origin.fileno(), into, _PIECE):
            left = count
            while left:
                left -= os.splice(out, client.fileno(), left)
            if freezer.freezes(count):
                return True
        return False
    finally:
        os.close(out)
        os.close(into)


def main() -> None:
    die_with_parent()
    host, port, origin_port, after = sys.argv[1], *map(int, sys.argv[2:5])
    listener = socket.create_server((host, port), backlog=256)
    freezer = Freezer(after)
    print(listener.getsockname()[1], flush=True)
    while True:
        client, _ = listener.accept()
        arguments = (client, host, origin_port, freezer)
        threading.Thread(target=serve, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main()
