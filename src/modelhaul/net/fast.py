"""The fast path for bulk bytes: from the socket straight into the receiver's buffers.

aiohttp makes a new `bytes` of whatever arrives, which is then copied again; here the loop receives
into memory that the receiver lends (`net/connection.py`). What needs a proxy goes the aiohttp way,
without anybody above noticing.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from socket import AI_NUMERICHOST, AI_NUMERICSERV, SOCK_STREAM, getaddrinfo
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import aiohappyeyeballs
import anyio
import h11
from anyio import to_thread

from modelhaul.core.origin import origin_of, redirect_target, shown
from modelhaul.core.retry import Verdict, verdict
from modelhaul.errors import (
    ConnectFailed,
    ProtocolError,
    StatusError,
)
from modelhaul.net import rules
from modelhaul.net.connection import Connection, Stale
from modelhaul.net.failures import connect_failed
from modelhaul.net.push import push
from modelhaul.net.small import decoded, read_whole
from modelhaul.net.tls import Trust
from modelhaul.net.transport import (
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

#: Seconds that addresses of a name are remembered.
_REMEMBER = 60.0
_HAPPY_EYEBALLS = 0.25


class FastTransport:
    """The `Transport` of the product: direct HTTP/1.1, plain or TLS; `HttpTransport` for the rest.

    Belongs to one event loop (plain asyncio or uvloop).

    Args:
        settings: of timeouts, certificates and proxies.
        keep_alive: seconds after which a connection that nobody uses is closed.
    """

    def __init__(self, settings: Settings, *, keep_alive: float = 60.0) -> None:
        self._settings = settings
        self._keep_alive = keep_alive
        self._slow: HttpTransport | None = None
        self._making = anyio.Lock()
        self._trust = Trust(settings)
        self._idle: dict[str, list[Connection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._era = 0  # connections of an earlier one are not kept
        self._addresses: dict[tuple[str, int], tuple[float, list[Any]]] = {}

    async def call(
        self, url: str, *, headers: Mapping[str, str], limit: int
    ) -> Response | Redirect:
        route = self._route(url)
        if route is None:
            return await (await self._other()).call(url, headers=headers, limit=limit)
        question = _question(route, url, {"Accept-Encoding": "gzip", **headers})

        async def exchange(connection: Connection) -> Response | Redirect:
            return await self._call(connection, route, question, url, limit)

        return await self._on_connection(url, route, exchange)

    def renew(self) -> None:
        self._era += 1
        kept, self._idle = self._idle, {}
        for connections in kept.values():
            for connection in connections:
                connection.close()
        if self._slow is not None:
            self._slow.renew()

    async def aclose(self) -> None:
        """Close all connections. Usable again afterwards."""
        kept, self._idle = self._idle, {}
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
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
            return await (await self._other()).fetch(request, receiver)
        headers = {"Accept-Encoding": "identity", **request.headers}
        if not request.whole:
            headers["Range"] = request.span.http_range()
        question = _question(route, request.url, headers)

        async def exchange(connection: Connection) -> Answer | Redirect:
            return await self._fetch(connection, route, question, request, receiver)

        return await self._on_connection(request.url, route, exchange)

    async def _other(self) -> HttpTransport:
        """The aiohttp path. Imported when it is needed: aiohttp costs a fifth of a second."""
        async with self._making:
            if self._slow is None:
                self._slow = await to_thread.run_sync(
                    _http_transport, self._settings, self._keep_alive
                )
            return self._slow

    async def _on_connection(
        self, url: str, route: _Route, exchange: Callable[[Connection], Awaitable[T]]
    ) -> T:
        while True:
            connection = self._kept(route) or await self._connect(url, route)
            try:
                return await exchange(connection)
            except Stale:
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

    def _kept(self, route: _Route) -> Connection | None:
        """A connection of an earlier request that may still be used."""
        kept = self._idle.get(route.origin, [])
        now = asyncio.get_running_loop().time()
        while kept:
            connection = kept.pop()
            if self._usable(connection, now):
                return connection
            connection.close()
        return None

    def _usable(self, connection: Connection, now: float) -> bool:
        return connection.clean and now - connection.heard < self._keep_alive

    def _sweep(self) -> None:
        """Close the connections that nobody has used for too long, and look again later."""
        loop = asyncio.get_running_loop()
        for origin, connections in list(self._idle.items()):
            used = [it for it in connections if self._usable(it, loop.time())]
            for connection in connections:
                if connection not in used:
                    connection.close()
            if used:
                self._idle[origin] = used
            else:
                del self._idle[origin]
        heard = [it.heard for connections in self._idle.values() for it in connections]
        self._sweeper = loop.call_at(min(heard) + self._keep_alive, self._sweep) if heard else None

    async def _connect(self, url: str, route: _Route) -> Connection:
        where = shown(url)
        loop = asyncio.get_running_loop()
        tls = await self._trust.context() if route.tls else None
        try:
            with anyio.fail_after(self._settings.connect_timeout):
                addresses = await self._resolve(route)
                sock = await aiohappyeyeballs.start_connection(
                    addresses, happy_eyeballs_delay=_HAPPY_EYEBALLS, loop=loop
                )
                # From here on the socket is the loop's: it closes it if the handshake fails.
                _, connection = await loop.create_connection(
                    Connection,
                    sock=sock,
                    ssl=tls,
                    server_hostname=route.host if tls is not None else None,
                )
        except OSError as error:
            raise connect_failed(where, error) from error
        except EOFError as error:
            raise ConnectFailed(f"no connection to {where}: the handshake was cut") from error
        connection.socket = sock if sys.platform == "linux" else None
        connection.era = self._era
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
        connection: Connection,
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
        connection: Connection,
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

    def _leave(self, route: _Route, connection: Connection, *, reusable: bool) -> None:
        if not (reusable and connection.keeps_alive and connection.era == self._era):
            connection.close()
            return
        self._idle.setdefault(route.origin, []).append(connection)
        if self._sweeper is None:
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(self._keep_alive, self._sweep)


def _http_transport(settings: Settings, keep_alive: float) -> HttpTransport:
    from modelhaul.net.http import HttpTransport

    return HttpTransport(settings, keep_alive=keep_alive)


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


def _is_plain(request: Request, answer: Answer, headers: Mapping[str, str]) -> bool:
    """Whether the body is the wanted bytes and nothing else, as many as its length says."""
    return (
        answer.stop is not None
        and answer.start == request.span.start
        and "content-length" in headers
        and "transfer-encoding" not in headers
    )
