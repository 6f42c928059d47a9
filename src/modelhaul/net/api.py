"""Small calls to a hub: redirects by our rules, credentials for one origin, patient retries."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import anyio

from modelhaul.core.origin import Origin, origin_of, shown
from modelhaul.core.retry import LONGEST_PAUSE, Verdict, backoff, verdict
from modelhaul.errors import ProtocolError, QuotaError, StatusError, TransportError
from modelhaul.net import rules
from modelhaul.net.transport import Redirect, Response, Transport

T = TypeVar("T")

MAX_HOPS = 10
# A listing of 100,000 files is about 40 MB.
MAX_BODY = 256 << 20
ATTEMPTS = 5


class Patience:
    """Tries a call again where that can help, waiting longer each time.

    Args:
        notify: told what is waited for and for how many seconds.
        chance: gives random numbers in `[0, 1)`.
        sleep: waits for seconds.
        wall: gives Unix time.
    """

    def __init__(
        self,
        *,
        notify: Callable[[str, float], None],
        chance: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.wall = wall
        self._notify = notify
        self._chance = chance
        self._sleep = sleep

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of `call`, which is made up to `ATTEMPTS` times.

        Raises:
            TransportError, StatusError: the last attempt failed like this, or no other can help.
            QuotaError: the server wants us to come back much later.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                return await call()
            except TransportError as error:
                if not error.retryable or attempt == ATTEMPTS:
                    raise
                wait, reason = None, error.message
            except StatusError as error:
                if verdict(error.status) not in (Verdict.RETRY, Verdict.SLOWER):
                    raise
                wait, reason = error.retry_after, error.message
                if wait is not None and wait > LONGEST_PAUSE:
                    raise QuotaError(
                        f"{error.message}, and asks to wait for {wait:.0f} s",
                        retry_at=self.wall() + wait,
                        hint="run the same command again later",
                    ) from error
                if attempt == ATTEMPTS:
                    if verdict(error.status) is Verdict.SLOWER:
                        raise QuotaError(
                            error.message, hint="run the same command again later"
                        ) from error
                    raise
            if wait is None:
                wait = backoff(attempt, self._chance())
            self._notify(reason, wait)
            await self._sleep(wait)


class Api:
    """GETs whole answers from one origin.

    Args:
        transport: carries them.
        patience: says which failures are worth another try.
        answered: called after each answer.
    """

    def __init__(
        self,
        transport: Transport,
        patience: Patience,
        *,
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        self._transport = transport
        self._patience = patience
        self._answered = answered

    async def get(self, url: str, *, origin: Origin, credentials: Mapping[str, str]) -> Response:
        """The answer to a GET, whatever its status unless that is worth another try.

        Args:
            url: what to ask.
            origin: the only origin that sees the credentials.
            credentials: headers that say who we are.

        Raises:
            TransportError, StatusError: no answer after some tries.
            QuotaError: the server wants us to come back much later.
            ProtocolError: redirected in circles, or an answer that cannot be read.
        """

        async def once() -> Response:
            response = await self._hops(url, origin, credentials)
            if verdict(response.status) in (Verdict.RETRY, Verdict.SLOWER):
                now = self._patience.wall()
                raise rules.status_error(shown(url), response.status, response.headers, now=now)
            return response

        return await self._patience.run(once)

    async def _hops(self, url: str, origin: Origin, credentials: Mapping[str, str]) -> Response:
        at = url
        for _ in range(MAX_HOPS + 1):
            headers = credentials if origin_of(at) == origin else {}
            answer = await self._transport.call(at, headers=headers, limit=MAX_BODY)
            self._answered()
            if not isinstance(answer, Redirect):
                return answer
            at = answer.url
        raise ProtocolError(f"{shown(url)} redirects more than {MAX_HOPS} times")
