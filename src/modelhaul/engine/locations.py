"""Where a source really is: the signed address behind a redirect, found once and shared.

The first request of a file follows the redirects itself; the others wait for it and then use what
it found. When the address expires, the same happens again: one refresh, however many connections
notice.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import anyio

from modelhaul.core.origin import origin_of
from modelhaul.core.repo import Source

# A signature that ends within this time is renewed rather than used.
_MARGIN = 5.0
_LONG_AGO = 1_000_000_000


@dataclass(slots=True, eq=False)
class Target:
    """An address to ask.

    Attributes:
        url, origin, headers: what to send where.
        signed: it came from a redirect and may expire.
        settled: it has worked, and others use it.
    """

    url: str
    origin: str
    headers: dict[str, str]
    signed: bool
    settled: bool = False


class Location:
    """One source of one file, and the address it led to."""

    def __init__(self, source: Source, *, wall: Callable[[], float] = time.time) -> None:
        self.source = source
        self._wall = wall
        self._settled: Target | None = None
        self._expires: float | None = None
        self._flight: anyio.Event | None = None

    @property
    def origin(self) -> str:
        """The origin whose connections are used, as far as known."""
        return self._settled.origin if self._settled else str(self.source.origin)

    def start(self) -> Target:
        """The source's own address, with its credentials."""
        return Target(
            self.source.url, str(self.source.origin), dict(self.source.credentials), signed=False
        )

    def hop(self, url: str) -> Target:
        """The address that a redirect names; credentials only if it is the source's own origin."""
        origin = origin_of(url)
        headers = dict(self.source.credentials) if origin == self.source.origin else {}
        return Target(url, str(origin), headers, signed=True)

    async def current(self) -> tuple[Target, bool]:
        """The address to ask, and whether the caller has to find out for the others.

        Who is told to find out calls `settle()` or `give_up()` in the end, whatever happens.
        """
        while True:
            if self._settled is not None and not self._stale():
                return self._settled, False
            if self._flight is None:
                self._settled = None
                self._flight = anyio.Event()
                return self.start(), True
            await self._flight.wait()

    def beside(self) -> tuple[Target, bool]:
        """The address to ask without waiting for whoever finds it out, who may be the late one.

        And whether it is still to be found out: `settle()` helps the others then.
        """
        if self._settled is not None and not self._stale():
            return self._settled, False
        return self.start(), True

    def settle(self, target: Target) -> None:
        """The address works: everybody may use it."""
        target.settled = True
        self._settled = target
        self._expires = expiry(target.url) if target.signed else None
        self._land()

    def give_up(self) -> None:
        """The finder failed: the next one tries."""
        self._land()

    def expire(self, target: Target) -> bool:
        """The address does not work. Only the first report of one counts: False for others."""
        if not target.settled:
            return True  # only its finder knows it
        if self._settled is not target:
            return False
        self._settled = None
        return True

    def _stale(self) -> bool:
        return self._expires is not None and self._wall() > self._expires - _MARGIN

    def _land(self) -> None:
        if self._flight is not None:
            self._flight.set()
            self._flight = None


_AMZ_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z")


def expiry(url: str) -> float | None:
    """Unix time at which a signed URL ends, where its query says so; else None.

    `Expires` (CloudFront, OSS, S3 version 2) is a moment; `X-Amz-Date` plus `X-Amz-Expires`
    (S3 version 4) a moment and a duration. Other schemes do not say: a 403 will.
    """
    query = parse_qs(urlsplit(url).query)

    def number(name: str) -> int | None:
        text = query.get(name, [""])[0]
        return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None

    moment = number("Expires")
    if moment is not None:
        return float(moment) if moment > _LONG_AGO else None
    duration = number("X-Amz-Expires")
    match = _AMZ_DATE.fullmatch(query.get("X-Amz-Date", [""])[0])
    if duration is None or match is None:
        return None
    import calendar

    try:
        return calendar.timegm((*map(int, match.groups()), 0, 0, 0)) + float(duration)
    except ValueError:  # a month of 13: the address is the server's word
        return None
