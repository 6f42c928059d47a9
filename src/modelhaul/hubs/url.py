"""Plain URLs: what a server says about one file, and which mirrors serve the same bytes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit, urlunsplit

from modelhaul.core.origin import Origin, origin_of, quoted_url, shown
from modelhaul.core.repo import RemoteFile, Source
from modelhaul.errors import UsageError


@dataclass(frozen=True, slots=True)
class Address:
    """A URL as the user gave it, with its password taken out.

    Attributes:
        url: without user and password.
        origin: of the URL; the only one that sees the credentials.
        credentials: from the URL's user part and from `--header`.
    """

    url: str
    origin: Origin
    credentials: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Probe:
    """What one address says: size and strong validator, None where it does not say."""

    address: Address
    size: int | None
    validator: str | None


def parse_address(text: str, headers: Mapping[str, str]) -> Address:
    """Take a URL apart.

    Args:
        text: http or https; may hold `user:password@`.
        headers: extra headers of the user; they count as credentials, for a key may be in them.

    Raises:
        UsageError: not an http(s) URL.
    """
    try:
        # Bytes of a command line that are no UTF-8 come as lone surrogates; others are no text.
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UsageError("not a URL: it holds characters that are not Unicode") from None
    origin = origin_of(text)
    parts = urlsplit(text)
    credentials = dict(headers)
    explicit = any(name.lower() == "authorization" for name in headers)
    if parts.username is not None and not explicit:
        user, password = unquote(parts.username), unquote(parts.password or "")
        raw = f"{user}:{password}".encode("utf-8", "surrogateescape")
        token = base64.b64encode(raw).decode()
        credentials["Authorization"] = f"Basic {token}"
    netloc = parts.netloc.rpartition("@")[2]
    url = quoted_url(urlunsplit(parts._replace(netloc=netloc, fragment="")))
    origin_of(url)  # quoting may have made nonsense of the host: [::%"]
    return Address(url, origin, credentials)


def parse_header(text: str) -> tuple[str, str]:
    """Name and value of a `--header 'Name: value'`.

    Raises:
        UsageError: no colon, or characters that cannot stand in a header.
    """
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise UsageError("a header has the form 'Name: value'")
    if not value.isprintable():
        raise UsageError(f"the value of the header {name} holds a control character")
    if name.lower() in ("range", "host", "accept-encoding", "content-length", "connection"):
        raise UsageError(f"the header {name} is ours to set")
    return name, value


def file_name(url: str) -> str:
    """The name under which a URL's file is saved if the user names none.

    Raises:
        UsageError: the URL's path ends without a name.
    """
    name = unquote(urlsplit(url).path.rpartition("/")[2])
    if not name or name in (".", "..") or "/" in name or "\\" in name or not name.isprintable():
        raise UsageError(f"no file name in {shown(url)}", hint="choose one with -o PATH")
    return name


@dataclass(frozen=True, slots=True)
class Group:
    """Addresses that may serve one file together, and the file as they describe it."""

    file: RemoteFile
    sources: tuple[Source, ...]


def group(name: str, probes: Sequence[Probe], sha256: str | None) -> list[Group]:
    """Which addresses may be mixed, in the order to try them.

    With a digest, all that have the same size: the digest judges. Without one, only those whose
    strong validator is equal as well; the others are fall-backs that begin at byte 0.
    """
    groups: dict[object, list[Probe]] = {}
    for number, probe in enumerate(probes):
        if sha256 is not None:
            key: object = probe.size
        elif probe.validator is not None and probe.size is not None:
            key = (probe.size, probe.validator)
        else:
            key = number
        groups.setdefault(key, []).append(probe)
    return [
        Group(
            RemoteFile(
                path=name,
                size=members[0].size,
                sha256=sha256,
                validator=None if sha256 is not None else members[0].validator,
            ),
            tuple(
                Source(probe.address.url, probe.address.origin, probe.address.credentials)
                for probe in members
            ),
        )
        for members in groups.values()
    ]
