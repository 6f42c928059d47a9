"""Two tiny proxies: HTTP (absolute form and CONNECT) and SOCKS5. They note what they were asked."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream

_GONE = (
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.IncompleteRead,
    OSError,
)


@dataclass
class Proxy:
    """Where a proxy listens, and what it was asked: request heads, or SOCKS destinations."""

    port: int
    asked: list[str] = field(default_factory=list)


@asynccontextmanager
async def http_proxy() -> AsyncIterator[Proxy]:
    """An HTTP proxy; every name leads to 127.0.0.1."""

    async def handle(proxy: Proxy, stream: ByteStream) -> None:
        buffered = BufferedByteReceiveStream(stream)
        head = await buffered.receive_until(b"\r\n\r\n", 65536)
        proxy.asked.append(head.decode())
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        authority = target if method == "CONNECT" else target.split("/")[2]
        port = int(authority.rpartition(":")[2])
        async with await anyio.connect_tcp("127.0.0.1", port) as origin:
            if method == "CONNECT":
                await stream.send(b"HTTP/1.1 200 Connected\r\n\r\n")
            else:
                path = "/" + target.split("/", 3)[3]
                await origin.send(head.replace(target.encode(), path.encode(), 1) + b"\r\n\r\n")
            await _join(stream, origin)

    async with _listening(handle) as proxy:
        yield proxy


@asynccontextmanager
async def socks5_proxy(*, login: tuple[str, str] | None = None) -> AsyncIterator[Proxy]:
    """A SOCKS5 proxy (RFC 1928), with a password (RFC 1929) if wanted."""

    async def handle(proxy: Proxy, stream: ByteStream) -> None:
        buffered = BufferedByteReceiveStream(stream)
        _, count = await buffered.receive_exactly(2)
        await buffered.receive_exactly(count)
        if login is None:
            await stream.send(b"\x05\x00")
        else:
            await stream.send(b"\x05\x02")
            await buffered.receive_exactly(1)
            words = []
            for _ in range(2):
                (length,) = await buffered.receive_exactly(1)
                words.append((await buffered.receive_exactly(length)).decode())
            await stream.send(b"\x01\x00" if tuple(words) == login else b"\x01\x01")
        _, _, _, kind = await buffered.receive_exactly(4)
        if kind == 1:
            host = ".".join(map(str, await buffered.receive_exactly(4)))
        else:
            (length,) = await buffered.receive_exactly(1)
            host = (await buffered.receive_exactly(length)).decode()
        (port,) = struct.unpack(">H", await buffered.receive_exactly(2))
        proxy.asked.append(f"{host}:{port}")
        async with await anyio.connect_tcp("127.0.0.1", port) as origin:
            await stream.send(b"\x05\x00\x00\x01" + bytes(6))
            await _join(stream, origin)

    async with _listening(handle) as proxy:
        yield proxy


@asynccontextmanager
async def _listening(handle) -> AsyncIterator[Proxy]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    proxy = Proxy(listener.extra(SocketAttribute.local_port))

    async def serve(stream: ByteStream) -> None:
        async with stream:
            try:
                await handle(proxy, stream)
            except _GONE:
                return

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve, group)
        yield proxy
        group.cancel_scope.cancel()


async def _join(one: ByteStream, other: ByteStream) -> None:
    """Carry bytes both ways until one side ends."""
    async with anyio.create_task_group() as group:

        async def carry(source: ByteStream, target: ByteStream) -> None:
            try:
                while True:
                    await target.send(await source.receive())
            except _GONE:
                group.cancel_scope.cancel()

        group.start_soon(carry, one, other)
        group.start_soon(carry, other, one)
