"""A network in memory: files behind URLs, lines with a rate and a delay, faults by script.

It answers through the product's own `rules.judge`, so an answer that the rules refuse is refused
here for the same reason as on a real socket.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import anyio

from modelhaul.core.span import Span
from modelhaul.errors import ConnectionLost, TransportError
from modelhaul.net import rules
from modelhaul.net.push import push
from modelhaul.net.transport import Answer, Receiver, Redirect, Request, Response

SLICE = 64 * 1024


@dataclass
class Served:
    """One file behind a URL.

    Attributes:
        data: its bytes.
        rate: bytes/s of one connection.
        delay: seconds to the head of an answer.
        headers: more headers of every answer.
        redirect: where the URL leads instead, as a function of the request.
    """

    data: bytes = b""
    rate: float = 100e6
    delay: float = 0.02
    headers: Mapping[str, str] = field(default_factory=dict)
    redirect: Callable[[Request], str] | None = None


@dataclass(frozen=True)
class Fault:
    """How one answer goes wrong.

    Attributes:
        error: raised instead of an answer.
        status: with `headers`, instead of the right answer's.
        cut: bytes of the body after which the connection is lost.
        silent: bytes of the body after which nothing comes any more.
        ends: bytes of the body after which it ends; no length is stated.
        pause: bytes of the body after which nothing comes for some seconds, and these seconds.
        delay: seconds to the head instead of the file's.
        rate: bytes/s instead of the file's.
        step: bytes that come at once.
        flip: positions in the file whose byte is wrong in this answer.
        short: bytes that a whole answer has, as its own headers say.
        serve: the span that is really sent, header included, instead of the one asked for.
        ignore_range: send the whole body with 200.
    """

    error: Exception | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    silent: int | None = None
    ends: int | None = None
    pause: tuple[int, float] | None = None
    delay: float | None = None
    rate: float | None = None
    step: int = SLICE
    flip: tuple[int, ...] = ()
    serve: Span | None = None
    short: int | None = None
    ignore_range: bool = False


@dataclass(frozen=True)
class Asked:
    """One request that reached the network."""

    number: int
    time: float
    url: str
    span: Span
    whole: bool
    headers: Mapping[str, str]


class FakeNetwork:
    """Implements `modelhaul.net.transport.Transport`.

    Args:
        files: by URL.
        fault: looks at each request and may make its answer go wrong.
        pipe: bytes/s that all connections share, None for as much as they like.
    """

    def __init__(
        self,
        files: Mapping[str, Served],
        fault: Callable[[Asked], Fault | None] = lambda asked: None,
        *,
        pipe: float | None = None,
    ) -> None:
        self.files = dict(files)
        self.fault = fault
        self.asked: list[Asked] = []
        self.calls: list[str] = []
        self.called_with: list[Mapping[str, str]] = []
        self.answers: dict[str, Callable[[str], Response]] = {}
        self.active = 0
        self.most_active = 0
        self.sent = 0
        self.closed = 0
        self.renewed: list[int] = []  # how many requests had been made by each renewal
        self._pipe = pipe
        self._pipe_free = 0.0

    async def pass_pipe(self, count: int) -> None:
        """Wait for the turn of `count` bytes on the line that all connections share."""
        if self._pipe is not None:
            self._pipe_free = max(self._pipe_free, anyio.current_time()) + count / self._pipe
            await anyio.sleep_until(self._pipe_free)

    async def fetch(self, request: Request, receiver: Receiver) -> Answer | Redirect:
        asked = Asked(
            len(self.asked),
            anyio.current_time(),
            request.url,
            request.span,
            request.whole,
            dict(request.headers),
        )
        self.asked.append(asked)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            return await self._answer(request, receiver, self.fault(asked) or Fault())
        finally:
            self.active -= 1

    async def _answer(
        self, request: Request, receiver: Receiver, fault: Fault
    ) -> Answer | Redirect:
        served = self.files.get(request.url)
        delay = served.delay if served else 0.02
        await anyio.sleep(delay if fault.delay is None else fault.delay)
        if fault.error is not None:
            raise fault.error
        status, headers, span = self._head(request, served, fault)
        answer = rules.judge(request, status, headers, now=0.0)
        if isinstance(answer, Redirect):
            return answer
        assert served is not None
        receiver.started(answer)
        data = served.data
        if fault.flip:
            wrong = bytearray(data)
            for position in fault.flip:
                wrong[position] ^= 0xFF
            data = bytes(wrong)
        body = _Body(self, data, span, served, fault)
        await push(body.read, request, answer, receiver)
        return answer

    def _head(
        self, request: Request, served: Served | None, fault: Fault
    ) -> tuple[int, dict[str, str], Span]:
        if fault.status is not None:
            return fault.status, dict(fault.headers), Span(0, 0)
        if served is None:
            return 404, {}, Span(0, 0)
        if served.redirect is not None:
            return 302, {"location": served.redirect(request)}, Span(0, 0)
        size = len(served.data)
        if request.whole or fault.ignore_range:
            headers = {**served.headers, **fault.headers}
            if fault.ends is None:
                headers.setdefault("content-length", str(size))
            if fault.short is not None:
                return 206, headers, Span(0, fault.short)
            return 200, headers, Span(0, size)
        span = fault.serve or request.span
        headers = {
            "content-range": f"bytes {span.start}-{span.stop - 1}/{size}",
            "content-length": str(span.length),
            **served.headers,
            **fault.headers,
        }
        return 206, headers, span

    async def call(
        self, url: str, *, headers: Mapping[str, str], limit: int
    ) -> Response | Redirect:
        self.calls.append(url)
        self.called_with.append(headers)
        await anyio.sleep(0.02)
        for prefix, answer in self.answers.items():
            if url.startswith(prefix):
                return answer(url)
        return Response(status=404, headers={}, body=b"{}")

    def renew(self) -> None:
        self.renewed.append(len(self.asked))

    async def aclose(self) -> None:
        self.closed += 1


class _Body:
    """The bytes of one answer, at the speed of its line, until a fault ends them."""

    def __init__(
        self, network: FakeNetwork, data: bytes, span: Span, served: Served, fault: Fault
    ) -> None:
        self._network = network
        self._data = data
        self._span = span
        self._rate = fault.rate or served.rate
        self._fault = fault
        self._sent = 0

    async def read(self) -> bytes:
        """The next piece, b"" at the end."""
        fault, left = self._fault, self._span.length - self._sent
        if left == 0:
            return b""
        step = min(fault.step, left)
        if fault.pause is not None and self._sent == fault.pause[0]:
            await anyio.sleep(fault.pause[1])
        pause = fault.pause[0] if fault.pause and self._sent < fault.pause[0] else None
        for limit in (fault.cut, fault.silent, fault.ends, pause):
            if limit is not None:
                step = min(step, limit - self._sent)
        if step > 0:
            await anyio.sleep(step / self._rate)
            await self._network.pass_pipe(step)
            start = self._span.start + self._sent
            self._sent += step
            self._network.sent += step
            return self._data[start : start + step]
        if self._sent == fault.cut:
            raise ConnectionLost("the connection was cut")
        if self._sent == fault.silent:
            await anyio.sleep_forever()
        return b""


class Refusing(FakeNetwork):
    """A network in which nobody answers."""

    async def fetch(self, request: Request, receiver: Receiver) -> Answer | Redirect:
        await anyio.sleep(0.01)
        raise TransportError("nobody answers")
