"""The fast path for bulk bytes: from the socket straight into the receiver's buffers.

aiohttp makes a new `bytes` of whatever arrives, which is then copied again; here the loop receives
into memory that the receiver lends. What a newcomer gets wrong: an empty buffer from `get_buffer`
ends the connection (uvloop) or stalls it silently (uvloop with TLS). So reading is paused in
`buffer_updated`, before a buffer would be missing, and where there is none all the same the bytes
go to a scratch buffer and are copied.

Heads are parsed by h11, and so are bodies that are framed otherwise than by their length. What
needs a proxy goes the aiohttp way, without anybody above noticing.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from socket import AI_NUMERICHOST, AI_NUMERICSERV, SOCK_STREAM, getaddrinfo
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

import aiohappyeyeballs
import anyio
import h11

from modelhaul.core.origin import origin_of, redirect_target, shown
from modelhaul.core.retry import Verdict, verdict
from modelhaul.errors import (
    ConnectFailed,
    ConnectionLost,
    ProtocolError,
    StatusError,
    TimedOut,
    TransportError,
)
from modelhaul.net import rules
from modelhaul.net.failures import connect_failed
from modelhaul.net.push import commit, cut_short, push
from modelhaul.net.small import decoded, read_whole
from modelhaul.net.tls import tls_context
from modelhaul.net.transport import (
    MAX_HEADER,
    USER_AGENT,
    Answer,
    Receiver,
    Redirect,
    Request,
    Response,
)
from modelhaul.settings import Settings

if TYPE_CHECKING:
    from modelhaul.net.http import HttpTransport

T = TypeVar("T")

_SCRATCH = 1 << 14
#: A connection that nobody has used for so many seconds is not used again.
_KEEP_ALIVE = 60.0
#: Seconds that addresses of a name are remembered.
_REMEMBER = 60.0
#: Bodies of redirects and errors up to this size are read, so that the connection can be kept.
_WORTH_READING = 1 << 14
_HAPPY_EYEBALLS = 0.25


class FastTransport:
    """The `Transport` of the product: direct HTTP/1.1, plain or TLS; `HttpTransport` for the rest.

    Belongs to one event loop (plain asyncio or uvloop).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._slow: HttpTransport | None = None
        self._tls: ssl.SSLContext | None = None
        self._idle: dict[str, list[_Connection]] = {}
        self._addresses: dict[tuple[str, int], tuple[float, list[Any]]] = {}

    async def call(
        self, url: str, *, headers: Mapping[str, str], limit: int
    ) -> Response | Redirect:
        route = self._route(url)
        if route is None:
            return await self._other().call(url, headers=headers, limit=limit)
        question = _question(route, url, {"Accept-Encoding": "gzip", **headers})

        async def exchange(connection: _Connection) -> Response | Redirect:
            return await self._call(connection, route, question, url, limit)

        return await self._on_connection(url, route, exchange)

    async def aclose(self) -> None:
        """Close all connections. Usable again afterwards."""
        kept, self._idle = self._idle, {}
        for connections in kept.values():
            for connection in connections:
                connection.close()
        with anyio.CancelScope(shield=True):
            for connections in kept.values():
                for connection in connections:
                    await connection.wait_closed()
            if self._slow is not None:
                await self._slow.aclose()

    async def fetch(self, request: Request, receiver: Receiver) -> Answer | Redirect:
        route = self._route(request.url)
        if route is None:
            return await self._other().fetch(request, receiver)
        headers = {"Accept-Encoding": "identity", **request.headers}
        if not request.whole:
            headers["Range"] = request.span.http_range()
        question = _question(route, request.url, headers)

        async def exchange(connection: _Connection) -> Answer | Redirect:
            return await self._fetch(connection, route, question, request, receiver)

        return await self._on_connection(request.url, route, exchange)

    def _other(self) -> HttpTransport:
        """The aiohttp path. Imported when it is needed: aiohttp costs a fifth of a second."""
        if self._slow is None:
            from modelhaul.net.http import HttpTransport

            self._slow = HttpTransport(self._settings)
        return self._slow

    async def _on_connection(
        self, url: str, route: _Route, exchange: Callable[[_Connection], Awaitable[T]]
    ) -> T:
        while True:
            connection = self._kept(route) or await self._connect(url, route)
            try:
                return await exchange(connection)
            except _Stale:
                continue  # the server closed it meanwhile; no byte of an answer had come

    def _route(self, url: str) -> _Route | None:
        """Where to connect to; None if that is not for this path."""
        parts = urlsplit(url)
        host = parts.hostname
        if not host or "@" in parts.netloc or not parts.netloc.isascii():
            return None
        if self._settings.proxy_for(url) is not None:
            return None
        origin = origin_of(url)
        target = url.partition("#")[0][len(parts.scheme) + 3 + len(parts.netloc) :]
        if not target.startswith("/"):
            target = f"/{target}"
        return _Route(
            str(origin), origin.host, origin.port, origin.scheme == "https", parts.netloc, target
        )

    # -- connections ---------------------------------------------------------------------------

    def _kept(self, route: _Route) -> _Connection | None:
        """A connection of an earlier request that may still be used."""
        kept = self._idle.get(route.origin, [])
        now = asyncio.get_running_loop().time()
        while kept:
            connection = kept.pop()
            if connection.clean and now - connection.heard < _KEEP_ALIVE:
                return connection
            connection.close()
        return None

    async def _connect(self, url: str, route: _Route) -> _Connection:
        where = shown(url)
        loop = asyncio.get_running_loop()
        if route.tls and self._tls is None:
            self._tls = tls_context(self._settings)
        tls = self._tls if route.tls else None
        try:
            with anyio.fail_after(self._settings.connect_timeout):
                addresses = await self._resolve(route)
                sock = await aiohappyeyeballs.start_connection(
                    addresses, happy_eyeballs_delay=_HAPPY_EYEBALLS, loop=loop
                )
                # From here on the socket is the loop's: it closes it if the handshake fails.
                _, connection = await loop.create_connection(
                    _Connection,
                    sock=sock,
                    ssl=tls,
                    server_hostname=route.host if tls is not None else None,
                )
        except OSError as error:
            raise connect_failed(where, error) from error
        except EOFError as error:
            raise ConnectFailed(f"no connection to {where}: the handshake was cut") from error
        return connection

    async def _resolve(self, route: _Route) -> list[Any]:
        """Addresses of the host, remembered for a while."""
        key = (route.host, route.port)
        try:
            ip_address(route.host.partition("%")[0])
        except ValueError:
            pass
        else:
            flags = AI_NUMERICHOST | AI_NUMERICSERV  # asks nobody, so it does not block
            return getaddrinfo(*key, type=SOCK_STREAM, flags=flags)
        loop = asyncio.get_running_loop()
        until, found = self._addresses.get(key, (0.0, []))
        if loop.time() >= until:
            found = await loop.getaddrinfo(*key, type=SOCK_STREAM)
            self._addresses[key] = (loop.time() + _REMEMBER, found)
        return found

    # -- one request ---------------------------------------------------------------------------

    async def _call(
        self,
        connection: _Connection,
        route: _Route,
        question: h11.Request,
        url: str,
        limit: int,
    ) -> Response | Redirect:
        reusable = False
        try:
            status, headers = await connection.ask(question, url, self._settings.head_timeout)
            if verdict(status) is Verdict.REDIRECT:
                target = redirect_target(url, headers.get("location", ""))
                reusable = await connection.skip_body(headers)
                return Redirect(target)
            connection.decode(self._settings.idle_timeout)
            body = await read_whole(
                connection.read_decoded, url, limit, self._settings.head_timeout
            )
            reusable = connection.at_end
            return Response(status=status, headers=headers, body=decoded(url, headers, body, limit))
        finally:
            self._leave(route, connection, reusable=reusable)

    async def _fetch(
        self,
        connection: _Connection,
        route: _Route,
        question: h11.Request,
        request: Request,
        receiver: Receiver,
    ) -> Answer | Redirect:
        reusable = False
        try:
            status, headers = await connection.ask(
                question, request.url, self._settings.head_timeout
            )
            try:
                answer = rules.judge(request, status, headers, now=time.time())
            except StatusError:
                reusable = await connection.skip_body(headers)
                raise
            if isinstance(answer, Redirect):
                reusable = await connection.skip_body(headers)
                return answer
            receiver.started(answer)
            idle = self._settings.idle_timeout
            if _is_plain(request, answer, headers):
                await connection.receive(receiver, answer, request.url, idle)
            else:
                connection.decode(idle)
                await push(connection.read_decoded, request, answer, receiver)
            reusable = connection.at_end
            return answer
        finally:
            self._leave(route, connection, reusable=reusable)

    def _leave(self, route: _Route, connection: _Connection, *, reusable: bool) -> None:
        if reusable and connection.keeps_alive:
            self._idle.setdefault(route.origin, []).append(connection)
        else:
            connection.close()


@dataclass(frozen=True, slots=True)
class _Route:
    """Where a request goes: connection, `Host` header, request target."""

    origin: str
    host: str
    port: int
    tls: bool
    authority: str
    target: str


def _question(route: _Route, url: str, headers: Mapping[str, str]) -> h11.Request:
    everything = {
        "Host": route.authority, "User-Agent": USER_AGENT, "Accept": "*/*", **headers
    }  # fmt: skip
    try:
        return h11.Request(method="GET", target=route.target, headers=list(everything.items()))
    except (h11.LocalProtocolError, UnicodeError):
        # Its text may quote a credential.
        raise ProtocolError(f"{shown(url)} cannot be asked with these headers") from None


def _lower(reply: h11.Response) -> dict[str, str]:
    """Headers by lower-case name; of repeated ones the first counts, as on the other path."""
    found: dict[str, str] = {}
    for name, value in reply.headers:
        found.setdefault(name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
    return found


def _is_plain(request: Request, answer: Answer, headers: Mapping[str, str]) -> bool:
    """Whether the body is the wanted bytes and nothing else, as many as its length says."""
    return (
        answer.stop is not None
        and answer.start == request.span.start
        and "content-length" in headers
        and "transfer-encoding" not in headers
    )


class _Stale(Exception):
    """A kept connection was closed by the server before it answered anything."""


class _Connection(asyncio.BufferedProtocol):
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
        self._changed = anyio.Event()
        self._closed = anyio.Event()
        self._parser: h11.Connection | None = None
        self._ended = False  # the parser knows that no more bytes will come
        self._url = ""
        self._timeout = 0.0
        self._used = False
        #: When the last byte came, by the loop's clock.
        self.heard = self._loop.time()
        self.keeps_alive = True

    # -- called by the loop --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._receiver is not None and self._failure is None:
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
            if self._left == 0:
                self._receiver = None
                self._changed.set()
            elif receiver.wanted() <= 0 or receiver.buffer_nowait() is None:
                self._pause()
        except Exception as error:  # noqa: BLE001
            # As above.
            self._fail(error)

    def eof_received(self) -> bool:
        self._over = True
        self._changed.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._changed.set()
        self._closed.set()

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._changed.set()

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
        parser = self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER)
        data = parser.send(question)
        parser.send(h11.EndOfMessage())
        assert self._transport is not None
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
                                raise _Stale
                            raise ConnectionLost(f"{shown(url)} closed the connection")
                        heard = True
                        parser.receive_data(piece)
        except TimeoutError:
            raise TimedOut(f"{shown(url)} says nothing any more") from None
        self.keeps_alive = event.http_version == b"1.1" and not any(
            name == b"connection" and b"close" in value.lower() for name, value in event.headers
        )
        headers = _lower(event)
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
            # Its own text is not used: it may quote what the server sent.
            raise ProtocolError(f"{shown(self._url)} does not speak HTTP") from error

    async def _piece(self) -> bytes:
        """The next bytes outside of a plain body; b"" when the server has closed."""
        while not self._loose:
            if self._over:
                return b""
            self._changed = anyio.Event()
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
            if receiver.buffer_nowait() is None:
                if not await receiver.wait_buffer():
                    return
                continue
            self._changed = anyio.Event()
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
        """Wait until the request has something to do; a timer of the loop costs less than a scope.

        Raises:
            TimedOut: nothing came for `idle` seconds.
        """
        while not self._changed.is_set():
            changed = self._changed
            timer = self._loop.call_at(self.heard + idle, changed.set)
            try:
                await changed.wait()
            finally:
                timer.cancel()
            if self._loop.time() - self.heard < idle:
                return
            if self._left and not (self._over or self._paused or self._failure):
                raise TimedOut(f"{shown(url)} says nothing any more")

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
