"""Where a URL leads, who may see which credential, and how a URL is shown to people.

An origin (RFC 6454) is scheme, host and port. Credentials belong to one origin: the same host on
another port is somebody else.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from modelhaul.errors import ProtocolError, UsageError

_DEFAULT_PORTS = {"http": 80, "https": 443}
# 8 KB is what common servers allow for a request line; longer ones are attacks or mistakes.
MAX_URL = 16_384


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port of a URL, all lower case."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.port == _DEFAULT_PORTS.get(self.scheme):
            return f"{self.scheme}://{host}"
        return f"{self.scheme}://{host}:{self.port}"


def origin_of(url: str) -> Origin:
    """The origin of an http(s) URL.

    Raises:
        UsageError: the URL has another scheme, no host, or a bad port.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"not a URL: {shown(url)} ({error})") from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise UsageError(
            f"not an http or https URL: {shown(url)}",
            hint="give the whole address, https://host/path",
        )
    if not parts.hostname:
        raise UsageError(f"no host in the URL {shown(url)}")
    return Origin(scheme, parts.hostname.lower(), port or _DEFAULT_PORTS[scheme])


def shown(url: str) -> str:
    """The URL without user, password, query and fragment: what may be printed and logged."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "(unreadable URL)"
    text = f"{parts.scheme}://{host}{parts.path}" if parts.scheme else f"{host}{parts.path}"
    return "".join(char if char.isprintable() else "?" for char in text[:500])


def redirect_target(url: str, location: str) -> str:
    """The absolute URL that a `Location` header means (RFC 9110 section 10.2.2).

    Raises:
        ProtocolError: empty, over-long, another scheme, or a step from https down to http.
    """
    if not location or len(location) > MAX_URL:
        raise ProtocolError(f"{shown(url)} redirects to an unusable address")
    # Servers send raw UTF-8 or spaces in Location. Quote those and nothing else: a signature
    # covers the exact bytes of the rest, so what is quoted already must stay as it is.
    target = urljoin(url, quote(location.strip(), safe="%/:?#[]@!$&'()*+,;=-._~"))
    try:
        after = origin_of(target)
    except UsageError as error:
        raise ProtocolError(f"{shown(url)} redirects elsewhere: {error.message}") from None
    if origin_of(url).scheme == "https" and after.scheme == "http":
        raise ProtocolError(
            f"{shown(url)} redirects from https to plain http ({after.host}): refused"
        )
    return target
