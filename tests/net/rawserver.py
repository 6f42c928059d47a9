"""A TCP server that answers with scripted raw bytes, so that malformed HTTP can be sent too."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import ByteStream, SocketAttribute, TaskGroup
from anyio.streams.tls import TLSListener

Script = Callable[["Exchange"], Awaitable[None]]

_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


@dataclass
class Exchange:
    """One request on one connection, and the means to answer it.

    Attributes:
        head: the raw head of the request, blank line included.
        connection: number of the connection, from 0.
        number: number of the request, from 0, over all connections.
    """

    stream: ByteStream
    head: bytes
    connection: int
    number: int
    server: RawServer
    closed: bool = False

    @property
    def target(self) -> str:
        """The request target, as it came."""
        return self.head.split(b"\r\n")[0].split(b" ", 1)[1].rpartition(b" ")[0].decode("latin-1")

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode()

    def header(self, name: str) -> str | None:
        """The first value of a header, None if it was not sent."""
        values = self.headers(name)
        return values[0] if values else None

    def headers(self, name: str) -> list[str]:
        """All values of a header."""
        found = []
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.decode("latin-1").partition(":")
            if key.lower() == name.lower():
                found.append(value.strip())
        return found

    async def send(self, data: bytes) -> None:
        await self.stream.send(data)

    async def close(self) -> None:
        """Close in order: a FIN behind what was sent."""
        self.closed = True
        await self.stream.aclose()

    async def reset(self) -> None:
        """Close with a RST."""
        self.closed = True
        raw = self.stream.extra(SocketAttribute.raw_socket)
        linger_for_no_time = struct.pack("ii", 1, 0)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_no_time)
        await self.stream.aclose()

    async def hang(self) -> None:
        """Say nothing more until the client goes away."""
        while True:
            await self.stream.receive()


@dataclass
class RawServer:
    """What a running server has seen.

    Attributes:
        port: where it listens.
        requests: heads of all requests.
        connections: how many connections were made.
        open: how many are open now.
    """

    port: int
    secure: bool
    requests: list[Exchange] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    changed: anyio.Event = field(default_factory=anyio.Event)

    def url(self, path: str = "/file") -> str:
        return f"http{'s' if self.secure else ''}://127.0.0.1:{self.port}{path}"

    async def wait_closed(self) -> None:
        """Wait until no connection is open."""
        while self.open:
            await self.changed.wait()

    async def wait_requests(self, count: int) -> None:
        """Wait until so many requests have come."""
        while len(self.requests) < count:
            await self.changed.wait()

    def note(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()


@asynccontextmanager
async def raw_server(
    script: Script, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """Run a server whose `script` answers every request."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    server = RawServer(port, secure=tls is not None)

    async def handle(stream: ByteStream) -> None:
        number = server.connections
        server.connections += 1
        server.open += 1
        try:
            async with stream:
                await _serve(server, stream, number, script)
        except _GONE:
            pass
        except (OSError, ssl.SSLError):
            pass
        finally:
            server.open -= 1
            server.note()

    serving = TLSListener(listener, tls, standard_compatible=False) if tls else listener
    async with serving, anyio.create_task_group() as group:
        group.start_soon(_listen, serving, handle, group)
        yield server
        group.cancel_scope.cancel()


async def _listen(
    listener: anyio.abc.Listener[ByteStream],
    handle: Callable[[ByteStream], Awaitable[None]],
    group: TaskGroup,
) -> None:
    await listener.serve(handle, group)


async def _serve(server: RawServer, stream: ByteStream, number: int, script: Script) -> None:
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            data += await stream.receive()
        head, _, data = data.partition(b"\r\n\r\n")
        exchange = Exchange(stream, head + b"\r\n\r\n", number, len(server.requests), server)
        server.requests.append(exchange)
        server.note()
        await script(exchange)
        if exchange.closed:
            return


def answer(
    body: bytes = b"", *, status: str = "200 OK", length: bool = True, **headers: str
) -> bytes:
    """A whole answer; header names with `_` for `-`."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if length:
        fields.setdefault("Content-Length", str(len(body)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def chunks(*parts: bytes, end: bool = True) -> bytes:
    """A body in chunked coding."""
    coded = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return coded + (b"0\r\n\r\n" if end else b"")
