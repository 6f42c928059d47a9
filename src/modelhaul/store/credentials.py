"""The login that ModelScope's own tools saved, read without trusting it.

`~/.modelscope/credentials/cookies` is a pickled cookie jar; the token is the cookie
`m_session_id`. Their client sends it to whatever endpoint is configured; we send it only to the
host that the cookie is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import aiofiles

from modelhaul.store.pickles import Inert, load_restricted

TOKEN_COOKIE = "m_session_id"  # noqa: S105  (the name of the cookie, not a secret)
_CLASSES = {
    "requests.cookies.RequestsCookieJar": Inert,
    "http.cookiejar.CookieJar": Inert,
    "http.cookiejar.Cookie": Inert,
    "http.cookiejar.DefaultCookiePolicy": Inert,
}


@dataclass(frozen=True, slots=True)
class SavedToken:
    """A saved token and the host it was issued for; never shown."""

    token: str
    domain: str
    expires: float | None

    def __repr__(self) -> str:
        return f"SavedToken(domain={self.domain!r})"

    def is_for(self, host: str, now: float) -> bool:
        """Whether it may be sent to `host` at Unix time `now`."""
        if self.expires is not None and self.expires <= now:
            return False
        domain = _bare(self.domain)
        host = _bare(host)
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _bare(host: str) -> str:
    # The site answers under both names, and cookies were saved for either.
    return host.lower().lstrip(".").removeprefix("www.")


def parse_cookies(data: bytes) -> SavedToken | None:
    """The token in a saved cookie jar, None if it holds none.

    Raises:
        ValueError: not a cookie jar, or it names classes that have no place in one.
    """
    jar = load_restricted(data, _CLASSES)
    tree = getattr(jar, "_cookies", None)
    if not isinstance(jar, Inert) or not isinstance(tree, dict):
        raise ValueError("not a cookie jar")
    for paths in tree.values():
        for cookies in paths.values() if isinstance(paths, dict) else ():
            cookie = cookies.get(TOKEN_COOKIE) if isinstance(cookies, dict) else None
            value = getattr(cookie, "value", None)
            domain = getattr(cookie, "domain", None)
            expires = getattr(cookie, "expires", None)
            if isinstance(value, str) and value and isinstance(domain, str):
                moment = float(expires) if isinstance(expires, int | float) else None
                return SavedToken(value, domain, moment)
    return None


async def read_saved_token(home: Path) -> tuple[SavedToken | None, str | None]:
    """The token saved below `home` (`~/.modelscope`), and a note if the file is unreadable."""
    path = home / "credentials" / "cookies"
    try:
        async with aiofiles.open(path, "rb") as file:
            data = await file.read()
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"the saved login {path} cannot be read ({error.strerror})"
    try:
        return parse_cookies(data), None
    except ValueError as error:
        return None, f"the saved login {path} is ignored ({error})"
