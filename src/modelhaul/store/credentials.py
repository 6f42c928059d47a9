"""The logins that the hubs' own tools saved, read without trusting them.

ModelScope: `~/.modelscope/credentials/cookies` is a pickled cookie jar; the token is the cookie
`m_session_id`. Their client sends it to whatever endpoint is configured; we send it only to the
host that the cookie is for.

Hugging Face: a text file that holds the token and nothing else. It does not say for which site, so
that is decided where the site is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import aiofiles

from modelhaul.core.origin import Origin
from modelhaul.store.pickles import MOST_BYTES, Inert, load_restricted

TOKEN_COOKIE = "m_session_id"  # noqa: S105  (the name of the cookie, not a secret)
_CLASSES = {
    f"{module}.{name}": Inert
    for module, name in (
        ("requests.cookies", "RequestsCookieJar"),
        ("http.cookiejar", "CookieJar"),
        ("http.cookiejar", "Cookie"),
        ("http.cookiejar", "DefaultCookiePolicy"),
        # the same, as pickle protocol 2 and older spell them
        ("cookielib", "CookieJar"),
        ("cookielib", "Cookie"),
        ("cookielib", "DefaultCookiePolicy"),
    )
}
_LOOPBACK = ("localhost", "::1")
#: Tokens have some forty characters.
_MOST_TOKEN_BYTES = 4096


def is_private(origin: Origin) -> bool:
    """Whether nobody on the way can read what is sent there: encrypted, or this very machine."""
    host = origin.host
    return origin.scheme == "https" or host in _LOOPBACK or host.startswith("127.")


@dataclass(frozen=True, slots=True)
class SavedToken:
    """A saved token and the host it was issued for; never shown."""

    token: str
    domain: str
    expires: float | None

    def __repr__(self) -> str:
        return f"SavedToken(domain={self.domain!r})"

    def is_for(self, origin: Origin, now: float) -> bool:
        """Whether it may be sent to `origin` at Unix time `now`.

        A domain with a leading dot includes hosts below it (RFC 6265 section 5.1.3), one without
        is that host only; the site answers with and without `www.`, and logins were saved for
        either. Not in the clear, except to this machine.
        """
        if self.expires is not None and self.expires <= now:
            return False
        host = origin.host
        if not is_private(origin):
            return False
        domain = self.domain.lower()
        if domain.startswith("."):
            return host == domain[1:] or host.endswith(domain)
        # http.cookiejar stores cookies of a host without a dot under a made-up domain.
        return host.removeprefix("www.") in (
            domain.removeprefix("www."),
            domain.removesuffix(".local"),
        )


def parse_cookies(data: bytes) -> tuple[SavedToken, ...]:
    """The tokens in a saved cookie jar, one per site that has one.

    Raises:
        ValueError: not a cookie jar, or it names classes that have no place in one.
    """
    jar = load_restricted(data, _CLASSES)
    tree = getattr(jar, "_cookies", None)
    if not isinstance(jar, Inert) or not isinstance(tree, dict):
        raise ValueError("not a cookie jar")
    found = []
    for paths in tree.values():
        for cookies in paths.values() if isinstance(paths, dict) else ():
            cookie = cookies.get(TOKEN_COOKIE) if isinstance(cookies, dict) else None
            value = getattr(cookie, "value", None)
            domain = getattr(cookie, "domain", None)
            if isinstance(value, str) and value.isprintable() and value and isinstance(domain, str):
                found.append(SavedToken(value, domain, _moment(getattr(cookie, "expires", None))))
    return tuple(found)


def _moment(expires: object) -> float | None:
    """When a cookie ends; far beyond all calendars is never."""
    if not isinstance(expires, int | float):
        return None
    try:
        return float(expires)
    except OverflowError:
        return None


async def read_saved_token(home: Path, origin: Origin, now: float) -> tuple[str | None, str | None]:
    """The token saved below `home` (`~/.modelscope`) for an origin, and a note if unreadable."""
    path = home / "credentials" / "cookies"
    try:
        async with aiofiles.open(path, "rb") as file:
            data = await file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"the saved login {path} cannot be read ({error.strerror})"
    try:
        saved = parse_cookies(data)
    except ValueError as error:
        return None, f"the saved login {path} is ignored ({error})"
    return next((entry.token for entry in saved if entry.is_for(origin, now)), None), None


async def read_token_file(path: Path) -> tuple[str | None, str | None]:
    """The token in a file that holds nothing else, and a note if it cannot be used."""
    try:
        async with aiofiles.open(path, "rb") as file:
            data = await file.read(_MOST_TOKEN_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    except OSError as error:
        return None, f"the saved login {path} cannot be read ({error.strerror})"
    token = data.decode("ascii", "replace").strip()
    if len(data) > _MOST_TOKEN_BYTES or not token.isascii() or not token.isprintable():
        return None, f"the saved login {path} is ignored (it holds no token)"
    return token or None, None
