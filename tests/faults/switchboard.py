"""Wrong answers of a store, by script: what a hostile or broken server can do to a download.

An answer gets one request for bytes (`Ask`) and either makes an answer of its own or returns None:
then the true one follows. `first`, `every` and `only` say which requests it is for, without them
it is for all; the counting is by the store, over all connections.

`Switchboard` sits before the bytes of one file of the test's hub; `PlainUrl` is a file of its own.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from modelhaul.core.span import Span
from modelhaul.server.body import parse_range


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for bytes of a file.

    Attributes:
        request: as it came.
        number: how many came before it.
        span: what it asks for; the whole file without a range.
        ranged: it has a range.
        data: the true file.
        tag: the true strong validator, quoted.
    """

    request: web.Request
    number: int
    span: Span
    ranged: bool
    data: bytes
    tag: str

    @property
    def body(self) -> bytes:
        """The bytes that the true answer has."""
        return self.data[self.span.start : self.span.stop]

    def content_range(self, span: Span | None = None, total: int | None = None) -> str:
        """A `Content-Range`, the true one unless told otherwise."""
        span = span or self.span
        return f"bytes {span.start}-{span.stop - 1}/{len(self.data) if total is None else total}"

    def head(self, **changes: str | None) -> dict[str, str]:
        """Headers of the true answer with changes: `_` for `-`, None to leave one out."""
        headers: dict[str, str | None] = {
            "Content-Type": "application/octet-stream",
            "ETag": self.tag,
            "Accept-Ranges": "bytes",
        }
        if self.ranged:
            headers["Content-Range"] = self.content_range()
        headers.update({name.replace("_", "-"): value for name, value in changes.items()})
        return {name: value for name, value in headers.items() if value is not None}

    def answer(
        self, body: bytes | None = None, *, status: int | None = None, **changes: str | None
    ) -> web.Response:
        """The true answer with changes."""
        return web.Response(
            status=status or (206 if self.ranged else 200),
            body=self.body if body is None else body,
            headers=self.head(**changes),
        )

    async def partly(self, count: int) -> None:
        """Send the true head and `count` bytes of the body."""
        response = web.StreamResponse(status=206 if self.ranged else 200, headers=self.head())
        response.content_length = self.span.length
        await response.prepare(self.request)
        await response.write(self.body[:count])

    def raw(self, data: bytes) -> None:
        """Send these bytes instead of an answer."""
        if self.request.transport is not None:
            self.request.transport.write(data)

    def status_line(self, **changes: str | None) -> bytes:
        """The true head as bytes, without the empty line that ends it."""
        headers = self.head(**{"Content_Length": str(self.span.length), **changes})
        status = "206 Partial Content" if self.ranged else "200 OK"
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
        return "".join(f"{line}\r\n" for line in lines).encode()

    def close(self) -> web.StreamResponse:
        """End the connection in good order (FIN) after what was sent."""
        if self.request.transport is not None:
            self.request.transport.close()
        return web.StreamResponse()

    def reset(self) -> web.StreamResponse:
        """End the connection by a reset (RST)."""
        transport = self.request.transport
        if transport is not None:
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        return web.StreamResponse()

    async def until_gone(self, say: bytes = b"", every: float = 1.0) -> web.StreamResponse:
        """Say a byte of `say` each time until the client goes away, then nothing."""
        waiting = iter(say)
        # Bounded, should a client never go: the test has long failed by then.
        for _ in range(120):
            transport = self.request.transport
            if transport is None or transport.is_closing():
                break
            byte = next(waiting, None)
            if byte is not None:
                transport.write(bytes([byte]))
            await asyncio.sleep(every)
        return web.StreamResponse()


class Wrong(Protocol):
    """An answer to one request; None for the true one."""

    def __call__(self, ask: Ask) -> Awaitable[web.StreamResponse | None]:
        """Answer."""


def plain(make: Callable[[Ask], web.StreamResponse | None]) -> Wrong:
    """A wrong answer that needs no waiting."""

    async def answer(ask: Ask) -> web.StreamResponse | None:
        return make(ask)

    return answer


def first(count: int, wrong: Wrong) -> Wrong:
    """The first `count` requests are answered wrongly."""

    async def answer(ask: Ask) -> web.StreamResponse | None:
        return await wrong(ask) if ask.number < count else None

    return answer


def every(step: int, wrong: Wrong) -> Wrong:
    """Every `step`-th request, beginning with the second."""

    async def answer(ask: Ask) -> web.StreamResponse | None:
        return await wrong(ask) if ask.number % step == 1 else None

    return answer


def only(number: int, wrong: Wrong) -> Wrong:
    """One request, counted from 0."""

    async def answer(ask: Ask) -> web.StreamResponse | None:
        return await wrong(ask) if ask.number == number else None

    return answer


@dataclass
class Switchboard:
    """A fault of the test hub: wrong answers for the bytes of one file.

    Attributes:
        data, tag: the file and its validator.
        wrong: the script.
        asks: requests for its bytes so far.
        given: wrong answers among them, begun or ended.
        sent: bytes in the bodies of wrong answers that needed no waiting.
    """

    data: bytes
    tag: str
    wrong: Wrong
    asks: int = 0
    given: int = 0
    sent: int = 0

    async def __call__(self, request: web.Request) -> web.StreamResponse | None:
        """Answer requests to the store, leave those to the hub alone."""
        if not request.path.startswith("/blob/"):
            return None
        return await self.answer(self.ask(request))

    def ask(self, request: web.Request) -> Ask:
        """The next request for bytes, counted."""
        number, self.asks = self.asks, self.asks + 1
        size = len(self.data)
        span = parse_range(request.headers.get("Range"), size)
        return Ask(request, number, span or Span(0, size), span is not None, self.data, self.tag)

    async def answer(self, ask: Ask) -> web.StreamResponse | None:
        """The scripted answer, or None for the true one."""
        self.given += 1  # before it is known: one that is silent for ever never ends
        answer = await self.wrong(ask)
        if answer is None:
            self.given -= 1
        elif isinstance(answer, web.Response) and isinstance(answer.body, bytes):
            self.sent += len(answer.body)
        return answer


@dataclass
class PlainUrl(Switchboard):
    """One file at `/plain/NAME` of either server of the test hub; there is nothing else there.

    Attributes:
        methods: of all requests for it.
        headers: of all requests for it, with the server's `Host`.
    """

    methods: Counter[str] = field(default_factory=Counter)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def __call__(self, request: web.Request) -> web.StreamResponse | None:
        """Answer requests for the file, with the true answer where the script has none."""
        if not request.path.startswith("/plain/"):
            return None
        self.methods[request.method] += 1
        self.headers.append(dict(request.headers.items()))
        if request.method != "GET":
            return web.Response(status=405)
        ask = self.ask(request)
        return await self.answer(ask) or ask.answer()
