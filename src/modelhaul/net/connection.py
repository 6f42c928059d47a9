"""One HTTP/1.1 connection of the fast path: asks, then receives into the receiver's memory.

What a newcomer gets wrong: an empty buffer from `get_buffer` ends the connection (uvloop) or stalls
it silently (uvloop with TLS). So reading is paused in `buffer_updated`, before a buffer would be
missing, and where there is none all the same the bytes go to a scratch buffer and are copied.

Heads are parsed by h11, and so are bodies that are framed otherwise than by their length.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from typing import Any, cast

import anyio
import h11

from modelhaul.core.origin import shown
from modelhaul.errors import ConnectionLost, ProtocolError, TimedOut, TransportError
from modelhaul.net import rules
from modelhaul.net.push import commit, cut_short
from modelhaul.net.transport import MAX_HEADER, Answer, Receiver

_SCRATCH = 1 << 14
#: On a long line bytes come in small pieces, and each costs a look at everything. So the kernel is
#: asked to gather what comes in so many seconds, up to so many bytes. Looked at anew so often, in
#: seconds: a line that gets slower must not look silent.
_GATHER_SECONDS = 0.02
_GATHER_MOST = 1 << 18
_GATHER_LEAST = 1 << 14
#: Never the last bytes of a body: with TLS, part of a record may be here already, undecipherable,
#: and then the kernel would wait for more than the server has to send.
_GATHER_SLACK = 1 << 15
_LOOK_SECONDS = 0.1
#: Bodies of redirects and errors up to this size are read, so that the connection can be kept.
_WORTH_READING = 1 << 14


class Stale(Exception):
    """A kept connection was closed by the server before it answered anything."""


class Connection(asyncio.BufferedProtocol):
    """One connection: asks, then receives into the receiver's memory.

    Reading goes on while it is idle, so that a server's goodbye is noticed; in a head and in a
    decoded body it pauses after each piece, in a plain body when the receiver has no buffer.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._loose = bytearray()  # what arrived outside of a plain body
        self._receiver: Receiver | None = None
        self._left = 0  # bytes of a plain body that are still to come
        self._lent = False
        self._paused = False
        self._over = False
        self._failure: Exception | None = None
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()
        self._parser: h11.Connection | None = None
        self._ended = False  # the parser knows that no more bytes will come
        self._url = ""
        self._timeout = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._silent = False
        self._gather = 1
        self._left_then = 0
        self._used = False
        #: When the last byte came, by the loop's clock.
        self.heard = self._loop.time()
        self.keeps_alive = True
        #: Of its maker: which of its connections belong together.
        self.era = 0
        #: For what the loop has no name for; set by who made it.
        self.socket: socket.socket | None = None

    # -- called by the loop --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def get_buffer(self, sizehint: int) -> memoryview:
        # What lies in `_loose` comes first: a loop may hand over more although reading is paused.
        if self._receiver is not None and self._failure is None and not self._loose:
            try:
                view = self._receiver.buffer_nowait()
            except Exception as error:  # noqa: BLE001
                # Out of here it would end in the loop; this way it ends the request.
                self._fail(error)
                view = None
            if view:
                self._lent = True
                return view[: self._left]
        self._lent = False
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        self.heard = self._loop.time()
        if not self._lent:
            self._loose += self._scratch[:nbytes]
            self._pause()
            return
        receiver = self._receiver
        if receiver is None:  # the request has just ended; these bytes are nobody's
            self._fail(ConnectionLost("bytes after the end"))
            return
        try:
            receiver.commit(nbytes)
            self._left -= nbytes
            if self._left < self._gather + _GATHER_SLACK:
                self._set_gather(1)
            if self._left == 0:
                self._receiver = None
                self._changed.set()
            elif receiver.wanted() <= 0:
                self._pause()
            elif receiver.buffer_nowait() is None:
                self._starve(receiver)
        except Exception as error:  # noqa: BLE001
            # As above.
            self._fail(error)

    def eof_received(self) -> bool:
        self._over = True
        self._changed.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        # uvloop's TLS layer still holds our methods: a circle with up to a megabyte in it would
        # wait for the garbage collector.
        self._transport = None
        self._over = True
        self._changed.set()
        self._closed.set()

    def _pause(self) -> None:
        """Stop reading, and have the request look what is to be done."""
        self._stop_reading()
        self._changed.set()

    def _stop_reading(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _starve(self, receiver: Receiver) -> None:
        """No memory: read on when there is some, without waking the request if that can be."""
        self._stop_reading()
        if not receiver.when_buffer(self._fed):
            self._changed.set()

    def _fed(self) -> None:
        if self._receiver is not None:
            self.heard = self._loop.time()
            self._resume()

    def _resume(self) -> None:
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._pause()

    # -- called by the request -----------------------------------------------------------------

    @property
    def clean(self) -> bool:
        """Whether a kept connection can take another request."""
        transport = self._transport
        closing = transport is None or transport.is_closing()
        return not (closing or self._over or self._loose or self._failure)

    @property
    def at_end(self) -> bool:
        """Whether the last body was read to its end and nothing came behind it."""
        if self._parser is not None and self._parser.their_state is not h11.DONE:
            return False
        return self._left == 0 and self.clean

    def close(self) -> None:
        """Close without waiting and without draining."""
        self._receiver = None
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the socket is closed."""
        await self._closed.wait()

    async def ask(
        self, question: h11.Request, url: str, timeout: float
    ) -> tuple[int, dict[str, str]]:
        """Send a request; give status and headers of its answer, within `timeout` seconds.

        Raises:
            TimedOut, ConnectionLost, ProtocolError: no head came, or one that cannot be read.
        """
        self._url, again, self._used = url, self._used, True
        if self._transport is None:
            raise Stale if again else ConnectionLost(f"{shown(url)} closed the connection")
        parser = self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER)
        data = parser.send(question)
        parser.send(h11.EndOfMessage())
        assert data is not None
        self._transport.write(data)
        heard = False
        try:
            with anyio.fail_after(timeout):
                while True:
                    event = self._event(parser)
                    if isinstance(event, h11.Response):
                        break
                    if event is h11.NEED_DATA:
                        piece = await self._piece()
                        if not piece:
                            if again and not heard:
                                raise Stale
                            raise ConnectionLost(f"{shown(url)} closed the connection")
                        heard = True
                        parser.receive_data(piece)
        except TimeoutError:
            raise TimedOut(f"{shown(url)} says nothing any more") from None
        self.keeps_alive = event.http_version == b"1.1" and not any(
            name == b"connection" and b"close" in value.lower() for name, value in event.headers
        )
        headers = rules.by_name(
            (name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
            for name, value in event.headers
        )
        if "content-length" in headers and "transfer-encoding" in headers:
            # Two framings: who believes the other one takes body bytes for an answer.
            raise ProtocolError(f"{shown(url)} does not speak HTTP")
        return event.status_code, headers

    def _event(self, parser: h11.Connection) -> Any:
        try:
            return parser.next_event()
        except h11.RemoteProtocolError as error:
            if self._ended:
                raise ConnectionLost(f"{shown(self._url)} closed the connection") from error
            # Its own text is not used, nor shown as the cause: it may quote what the server sent,
            # and a server may send back what we did.
            raise ProtocolError(f"{shown(self._url)} does not speak HTTP") from None

    async def _piece(self) -> bytes:
        """The next bytes outside of a plain body; b"" when the server has closed."""
        while not self._loose:
            if self._over:
                return b""
            self._changed = asyncio.Event()
            self._resume()
            await self._changed.wait()
        piece = bytes(self._loose)
        self._loose.clear()
        return piece

    async def skip_body(self, headers: Mapping[str, str]) -> bool:
        """Read a short body that nobody wants; False if the connection is not worth it."""
        text = headers.get("content-length", "")
        if "transfer-encoding" in headers or not text.isdigit() or int(text) > _WORTH_READING:
            return False
        self.decode(1.0)
        try:
            with anyio.fail_after(1.0):
                while await self.read_decoded():
                    pass
        except (TimeoutError, TransportError, ProtocolError):
            return False
        return self.at_end

    # -- a body whose length is known ----------------------------------------------------------

    async def receive(self, receiver: Receiver, answer: Answer, url: str, idle: float) -> None:
        """Let the loop fill the receiver's buffers until the body ends or no more is wanted.

        Raises:
            ConnectionLost: the body ended early.
            TimedOut: the server was silent for `idle` seconds.
        """
        assert self._parser is not None
        assert answer.stop is not None
        length = self._left = answer.stop - answer.start
        early = self._parser.trailing_data[0]
        self._parser = None
        await self._copy(early, receiver)
        while self._left and receiver.wanted() > 0:
            if self._failure is not None:
                raise self._failure
            if self._loose:
                early = bytes(self._loose)
                self._loose.clear()
                await self._copy(early, receiver)
                continue
            if self._over:
                raise cut_short(url, length - self._left, length)
            if receiver.buffer_nowait() is None and not await receiver.wait_buffer():
                return
            self._changed = asyncio.Event()
            self._receiver = receiver
            try:
                self.heard = self._loop.time()
                self._resume()
                await self._wait_change(url, idle)
            finally:
                self._receiver = None
        if self._failure is not None:
            raise self._failure
        self._resume()  # an idle connection has to notice a goodbye

    async def _copy(self, data: bytes, receiver: Receiver) -> None:
        """What came with the head, or while no buffer was there."""
        body, rest = data[: self._left], data[self._left :]
        self._left -= len(body)
        await commit(memoryview(body), receiver)
        self._loose += rest

    async def _wait_change(self, url: str, idle: float) -> None:
        """Wait until the request has something to do.

        Raises:
            TimedOut: nothing came for `idle` seconds, while it could.
        """
        self._silent = False
        self._left_then = self._left
        self._look(idle)
        try:
            await self._changed.wait()
        finally:
            assert self._timer is not None
            self._timer.cancel()
            self._set_gather(1)
        if self._silent and self._left and not (self._over or self._failure):
            raise TimedOut(f"{shown(url)} says nothing any more")

    def _look(self, idle: float) -> None:
        """Look for silence, again and again: costs less than a deadline that every piece moves."""
        now = self._loop.time()
        if self._paused:  # for want of memory: that is not the server's silence
            self.heard = now
        if now - self.heard >= idle:
            self._silent = True
            self._changed.set()
            return
        rate = (self._left_then - self._left) / _LOOK_SECONDS
        self._left_then = self._left
        worth = min(int(rate * _GATHER_SECONDS), _GATHER_MOST, self._left - _GATHER_SLACK)
        if worth >= _GATHER_LEAST:
            worth = min(worth, self._gather_limit())
        self._set_gather(worth if worth >= _GATHER_LEAST else 1)
        self._timer = self._loop.call_at(
            min(self.heard + idle, now + _LOOK_SECONDS), self._look, idle
        )

    def _gather_limit(self) -> int:
        """What may be gathered without a cost: a quarter of the kernel's buffer.

        Asked for more than the buffer holds, Linux enlarges it and never opens the window farther
        than that (`tcp_set_rcvlowat`): 256 KiB on a line of 50 ms are 5 MB/s for ever.
        """
        if self.socket is None or self.socket.fileno() < 0:
            return 1
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 4

    def _set_gather(self, count: int) -> None:
        """Wake up only for so many bytes, or for the end of the connection."""
        if count != self._gather and self.socket is not None and self.socket.fileno() >= 0:
            self._gather = count
            with contextlib.suppress(OSError):  # a socket that ends just now; reading tells
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    # -- a body in chunks, or until the connection ends ----------------------------------------

    def decode(self, idle: float) -> None:
        """From here on `read_decoded` gives the body; silent for at most `idle` seconds."""
        self._timeout = idle

    async def read_decoded(self) -> bytes:
        """The next bytes of the body, b"" at its end.

        Raises:
            ConnectionLost, TimedOut, ProtocolError: it does not come, or cannot be read.
        """
        parser = self._parser
        assert parser is not None
        while True:
            event = self._event(parser)
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if event is h11.NEED_DATA:
                try:
                    with anyio.fail_after(self._timeout):
                        piece = await self._piece()
                except TimeoutError:
                    raise TimedOut(f"{shown(self._url)} says nothing any more") from None
                self._ended = not piece
                parser.receive_data(piece)
                continue
            self._resume()
            self._loose += parser.trailing_data[0]
            return b""
