"""Where a URL leads, who may see which credential, and how a URL is shown to people.

An origin (RFC 6454) is scheme, host and port. Credentials belong to one origin: the same host on
another port is somebody else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
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
    except ValueError:
        # Its own message quotes what may be a password.
        raise UsageError(f"not a URL: {shown(url)}") from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise UsageError(
            f"not an http or https URL: {shown(url)}",
            hint="give the whole address, https://host/path",
        )
    if port == 0:
        raise UsageError(f"no port 0 in the URL {shown(url)}")
    if not parts.hostname:
        raise UsageError(f"no host in the URL {shown(url)}")
    return Origin(scheme, parts.hostname.lower(), _DEFAULT_PORTS[scheme] if port is None else port)


def shown(url: str) -> str:
    """The URL without user, password, query and fragment: what may be printed and logged."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        # A slash that is missing, or one in a password, puts the password into the path.
        broken = not host or not parts.scheme or (parts.port is None and ":" in host)
    except ValueError:
        return "(unreadable URL)"
    if broken and "@" in parts.path:
        return "(unreadable URL)"
    text = f"{parts.scheme}://{host}{parts.path}" if parts.scheme else f"{host}{parts.path}"
    return "".join(char if char.isprintable() else "?" for char in text[:500])


def quoted_url(text: str) -> str:
    """A URL with what may not stand in one quoted, and nothing else changed.

    A signature covers the exact bytes of the rest: what is quoted already stays as it is.
    """
    return quote(text, safe="%/:?#[]@!$&'()*+,;=-._~", encoding="utf-8", errors="surrogateescape")


#: Where clouds tell a machine who it is and with which keys, outside of the link: Alibaba, Azure,
#: and AWS and Google by IPv6.
_METADATA = frozenset(
    ip_address(text)
    for text in ("100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254")
)
#: IPv6 for "the IPv4 address in the last 32 bits": NAT64 (RFC 6052), and what came before mapping.
_EMBEDDING = (ip_network("64:ff9b::/96"), ip_network("::/96"))

_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")


def _is_local(host: str) -> bool:
    """Whether a host, as written, is this machine, its own link (RFC 6890) or its cloud's metadata.

    An address that is written in no ordinary way counts as such. What a name resolves to is not
    known here.
    """
    host = host.removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        # "127.1", "0x7f.0.0.1", "2130706433": resolvers still take these for addresses, nobody
        # else writes them, and no top-level domain is a number (RFC 3696 section 2).
        return _NUMBER.fullmatch(host.rpartition(".")[2]) is not None
    if address.is_loopback or address.is_unspecified:
        return True
    address = _reached(address)
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address in _METADATA
    )


def _reached(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 one stands for, else the address: ::ffff:127.0.0.1 reaches
    what 127.0.0.1 does."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if any(address in network for network in _EMBEDDING):
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def redirect_target(url: str, location: str) -> str:
    """The absolute URL that a `Location` header means (RFC 9110 section 10.2.2).

    Raises:
        ProtocolError: empty, over-long, another scheme, or a step from https down to http.
    """
    if not location.strip() or len(location) > MAX_URL:
        raise ProtocolError(f"{shown(url)} redirects to an unusable address")
    # Servers send raw UTF-8 or spaces in Location; header bytes that are not UTF-8 come as lone
    # surrogates.
    quoted = quoted_url(location.strip())
    try:
        # urljoin drops an empty query and empty parameters: an absolute address stays as it is.
        target = quoted if urlsplit(quoted).scheme else urljoin(url, quoted)
        after = origin_of(target)
    except (UsageError, ValueError):
        raise ProtocolError(f"{shown(url)} redirects to an unusable address") from None
    before = origin_of(url)
    if _is_local(after.host) and not _is_local(before.host):
        # Nobody outside has business with what listens only to this machine.
        raise ProtocolError(f"{shown(url)} redirects to an address of this machine: refused")
    if before.scheme == "https" and after.scheme == "http":
        raise ProtocolError(
            f"{shown(url)} redirects from https to plain http ({after.host}): refused"
        )
    return target
