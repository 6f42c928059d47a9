"""HTTP/1.1 by aiohttp: sessions, TLS, proxies, and the path for bytes that always works.

aiohttp enters the client side here and nowhere else; its exceptions end here too.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING

import aiohttp
import anyio
from yarl import URL

from modelhaul.core.origin import redirect_target, shown
from modelhaul.core.retry import Verdict, verdict
from modelhaul.errors import (
    ConnectFailed,
    ConnectionLost,
    HaulError,
    ProtocolError,
    ProxyRefused,
    TimedOut,
    TransportError,
)
from modelhaul.net import rules
from modelhaul.net.failures import NO_CONNECTION, connect_failed, one_line, untrusted
from modelhaul.net.push import push
from modelhaul.net.small import decoded, read_whole
from modelhaul.net.tls import Trust
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
    from aiohttp.abc import AbstractCookieJar

# Larger ones cost memory per connection and are slower (measured: docs/internals/tour.md).
_READ_BUFFER = 1 << 16


class HttpTransport:
    """The `Transport` that does everything: any proxy, any loop, any server.

    Args:
        settings: of timeouts, certificates and proxies.
        keep_alive: seconds after which a connection that nobody uses is closed.
    """

    def __init__(self, settings: Settings, *, keep_alive: float = 60.0) -> None:
        self._settings = settings
        self._keep_alive = keep_alive
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._trust = Trust(settings)
        self._left: list[aiohttp.ClientSession] = []  # nothing new is asked over these
        self._busy: Counter[aiohttp.ClientSession] = Counter()  # requests under way

    # -- sessions ----------------------------------------------------------------------------

    async def _route(self, url: str) -> tuple[aiohttp.ClientSession, str | None]:
        """The session for a URL and the HTTP proxy to name in the request, if any."""
        proxy = self._settings.proxy_for(url)
        socks = proxy if proxy is not None and proxy.lower().startswith("socks") else None
        key = socks or ""
        context = await self._trust.context()
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = self._session(socks, context)
        return session, None if socks else proxy

    def _session(self, socks: str | None, tls: ssl.SSLContext) -> aiohttp.ClientSession:
        connector: aiohttp.BaseConnector
        if socks is None:
            # Limits are ours (`engine.lanes`): the connector must not queue behind our back.
            connector = aiohttp.TCPConnector(
                limit=0, ssl=tls, keepalive_timeout=self._keep_alive, ttl_dns_cache=60
            )
        else:
            from aiohttp_socks import ProxyConnector

            scheme, _, rest = socks.partition("://")
            remote_dns = scheme.lower() in ("socks5h", "socks4a", "socks")
            kind = "socks4" if scheme.lower().startswith("socks4") else "socks5"
            connector = ProxyConnector.from_url(
                f"{kind}://{rest}", rdns=remote_dns, limit=0, ssl=tls
            )
        jar: AbstractCookieJar = aiohttp.DummyCookieJar()
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=jar,
            auto_decompress=False,
            # The environment is read in settings.py only; aiohttp would also let ~/.netrc speak
            # for an explicit token.
            trust_env=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=self._settings.connect_timeout,
                sock_read=None,  # see _read
            ),
            read_bufsize=_READ_BUFFER,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
        )

    def renew(self) -> None:
        # Closed when the next request ends (`_at_work`): some may be under way on them.
        self._left += self._sessions.values()
        self._sessions.clear()

    async def aclose(self) -> None:
        """Close all connections. Usable again afterwards."""
        sessions = [*self._sessions.values(), *self._left]
        self._sessions.clear()
        self._left.clear()
        with anyio.CancelScope(shield=True):
            for session in sessions:
                await session.close()

    @contextlib.asynccontextmanager
    async def _open(
        self, url: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a GET and give its response; closed afterwards unless it was read to its end."""
        session, proxy = await self._route(url)
        async with self._at_work(session):
            with _connect_errors(url), anyio.fail_after(self._settings.head_timeout):
                response = await session.get(
                    URL(url, encoded=True),
                    headers={"User-Agent": USER_AGENT, "Accept": "*/*", **headers},
                    proxy=proxy,
                    allow_redirects=False,
                )
            try:
                yield response
            finally:
                # Without waiting: a body that was read to its end has given the connection back
                # already, everything else must not be drained.
                response.close()

    @contextlib.asynccontextmanager
    async def _at_work(self, session: aiohttp.ClientSession) -> AsyncIterator[None]:
        """A request is under way; behind the last one of a session that was left it is closed."""
        self._busy[session] += 1
        try:
            yield
        finally:
            self._busy[session] -= 1
            if not self._busy[session]:
                del self._busy[session]
            idle = [left for left in self._left if left not in self._busy]
            self._left = [left for left in self._left if left in self._busy]
            with anyio.CancelScope(shield=True):
                for left in idle:
                    await left.close()

    # -- the protocol ------------------------------------------------------------------------

    async def fetch(self, request: Request, receiver: Receiver) -> Answer | Redirect:
        headers = {"Accept-Encoding": "identity", **request.headers}
        if not request.whole:
            headers["Range"] = request.span.http_range()
        async with self._open(request.url, headers) as response:
            answer = rules.judge(
                request, response.status, rules.by_name(response.headers.items()), now=time.time()
            )
            if isinstance(answer, Redirect):
                return answer
            receiver.started(answer)

            async def read() -> bytes:
                return await _read(response.content, request.url, self._settings.idle_timeout)

            await push(read, request, answer, receiver)
            return answer

    async def call(
        self, url: str, *, headers: Mapping[str, str], limit: int
    ) -> Response | Redirect:
        async with self._open(url, {"Accept-Encoding": "gzip", **headers}) as response:
            known = rules.by_name(response.headers.items())
            if verdict(response.status) is Verdict.REDIRECT:
                return Redirect(redirect_target(url, known.get("location", "")))

            async def read() -> bytes:
                return await _read(response.content, url, self._settings.idle_timeout)

            body = await read_whole(read, url, limit, self._settings.head_timeout)
            return Response(
                status=response.status, headers=known, body=decoded(url, known, body, limit)
            )


async def _read(content: aiohttp.StreamReader, url: str, idle: float) -> bytes:
    """The next bytes of a body, b"" at its end.

    With a deadline of our own: aiohttp's is dropped when the framing of a body turns out to be
    broken, and nobody is woken.
    """
    try:
        data = content.read_nowait()
        if data or content.at_eof():
            return data
        with anyio.move_on_after(idle):
            return await content.readany()
    except (aiohttp.ClientError, OSError) as error:
        raise _mapped(url, error) from _speakable(error)
    raise TimedOut(f"{shown(url)} says nothing any more")


@contextlib.contextmanager
def _connect_errors(url: str) -> Iterator[None]:
    """Turn what can go wrong before the head of an answer into our errors."""
    try:
        yield
    except HaulError:
        raise
    except (aiohttp.ClientError, OSError, EOFError, ValueError) as error:
        raise _mapped(url, error) from _speakable(error)
    except Exception as error:
        # The SOCKS library, imported only when it is used, has errors of its own without a public
        # base; everything else here is a bug and goes on.
        if not type(error).__module__.startswith(("python_socks", "aiohttp_socks")):
            raise
        raise ConnectFailed(
            f"the SOCKS proxy fails for {shown(url)}: {one_line(str(error))}",
            hint="check ALL_PROXY, HTTPS_PROXY and NO_PROXY",
        ) from error


def _speakable(error: Exception) -> Exception | None:
    """What may stand above our error in a traceback: some quote the URL with its signature."""
    quotes = isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL)
    return None if quotes else error


def _mapped(url: str, error: Exception) -> HaulError:
    where = shown(url)
    cause = getattr(error, "os_error", None) or error
    if isinstance(error, aiohttp.ClientConnectorCertificateError) or isinstance(
        cause, ssl.SSLCertVerificationError
    ):
        return untrusted(where, cause)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return ConnectFailed(f"no connection to {where} in time", hint=NO_CONNECTION)
    if isinstance(error, TimeoutError):
        return TimedOut(f"{where} says nothing any more")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return ProxyRefused(
            f"the proxy refuses {where}: {error.status} {one_line(error.message)}",
            hint="check user and password in HTTPS_PROXY, or NO_PROXY",
        )
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return ConnectFailed(
            f"no connection to the proxy for {where}", hint="check HTTPS_PROXY and NO_PROXY"
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return connect_failed(where, error.os_error)
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError | OSError):
        return ConnectionLost(f"{where} closed the connection")
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        return ProtocolError(f"{where} is not a usable address")
    # From here on the exception's own text is not used: it may quote the URL with its signature, or
    # what the server sent.
    if isinstance(error, aiohttp.ClientResponseError | ValueError):
        return ProtocolError(f"{where} does not speak HTTP")
    return TransportError(f"{where}: {type(error).__name__}")
