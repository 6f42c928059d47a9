"""The floor: what the machine needs at least to copy bytes from a socket to a file, and to hash.

    python -m benchmarks.floor copy HOST PORT PATH SIZE FILE CONNECTIONS
    python -m benchmarks.floor hash SIZE

`copy` uses `os.splice` socket -> pipe -> file over range connections, a thread each: no byte
enters this program. `hash` takes SHA-256 of a buffer that stays in the cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import socket
import sys
import threading

_F_SETPIPE_SZ = 1031  # linux/fcntl.h
_PIECE = 1 << 20


def copy(host: str, port: int, path: str, size: int, file: str, connections: int) -> None:
    """Fetch a file in as many ranges as connections."""
    fd = os.open(file, os.O_CREAT | os.O_WRONLY, 0o644)
    os.ftruncate(fd, size)
    edges = [size * number // connections for number in range(connections + 1)]
    failures: list[BaseException] = []

    def run(start: int, stop: int) -> None:
        try:
            _range(host, port, path, fd, start, stop)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=edge) for edge in itertools.pairwise(edges)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(fd)
    if failures:
        raise failures[0]


def _range(host: str, port: int, path: str, fd: int, start: int, stop: int) -> None:
    with socket.create_connection((host, port)) as connection:
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nRange: bytes={start}-{stop - 1}\r\n\r\n"
        connection.sendall(request.encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head = connection.recv(65536, socket.MSG_PEEK)
        end = head.index(b"\r\n\r\n") + 4
        connection.recv(end)
        if b" 206 " not in head.split(b"\r\n")[0]:
            raise OSError(f"not a partial answer: {head[:80]!r}")
        out, into = os.pipe()
        fcntl.fcntl(into, _F_SETPIPE_SZ, _PIECE)
        while start < stop:
            count = os.splice(connection.fileno(), into, min(_PIECE, stop - start))
            if not count:
                raise OSError("the origin closed early")
            while count:
                moved = os.splice(out, fd, count, offset_dst=start)
                count -= moved
                start += moved
        os.close(out)
        os.close(into)


def digest(size: int) -> str:
    """SHA-256 of that many bytes in memory."""
    piece = bytes(_PIECE)
    sha256 = hashlib.sha256()
    for start in range(0, size, _PIECE):
        sha256.update(piece[: size - start] if size - start < _PIECE else piece)
    return sha256.hexdigest()


def main() -> None:
    if sys.argv[1] == "hash":
        print(digest(int(sys.argv[2])))
        return
    host, port, path, size, file, connections = sys.argv[2:8]
    copy(host, int(port), path, int(size), file, int(connections))


if __name__ == "__main__":
    main()
