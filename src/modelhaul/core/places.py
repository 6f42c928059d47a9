"""More places for the files of a repository: what `--source` means, and what a place may serve.

A place serves a file only if it states the same digest and size, or states none and the file's own
digest judges what comes. Names prove nothing: an older revision has the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from modelhaul.core.origin import origin_of
from modelhaul.core.repo import RemoteFile, RepoRef, is_repo, parse_ref
from modelhaul.errors import UsageError

#: What a URL may have as it is; a space is what people paste.
_AS_TYPED = ":/%@!$&'()*+,;=~[]"
#: How paths on this disk are written that cannot be anything else.
_ON_DISK = re.compile(r"(?:/|\.{1,2}/|~|file:).*|\.{1,2}", re.IGNORECASE | re.DOTALL)
#: An address without its scheme; of this very machine it is http, as with --endpoint.
_NO_SCHEME = re.compile(
    r"(?!(?:ms|hf):)(?:(?P<here>localhost|127\.[0-9.]+|\[::1\])|[\w-]+(?:\.[\w-]+)+|[\w-]+(?=:))"
    r"(?::[0-9]+)?(?:/[^?#@\s]*)?",
    re.IGNORECASE | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class SameElsewhere:
    """`auto`: a repository of the same name on the other hub, if there is one.

    None: there cannot be, for that hub has no such names or kinds.
    """

    ref: RepoRef | None


@dataclass(frozen=True, slots=True)
class OtherRepo:
    """A repository of either hub, at the hub's usual address."""

    ref: RepoRef


@dataclass(frozen=True, slots=True)
class Mirror:
    """Another site with the same repositories, which speaks the protocol of the same hub."""

    endpoint: str


@dataclass(frozen=True, slots=True)
class Prefix:
    """A folder of files: a path behind this URL is the file of that path."""

    url: str

    def file_url(self, path: str) -> str:
        """Where the file of this path is."""
        return f"{self.url}/{quote(path)}"


Place = SameElsewhere | OtherRepo | Mirror | Prefix


def parse_place(text: str, ref: RepoRef) -> Place:
    """What the user meant by a `--source`.

    Args:
        text: `auto`; `ms:owner/name` or `hf:owner/name`, perhaps with `@revision`; the address of
            a site, which has no path; or the URL of a folder (`https://host/.` at the root).
        ref: what is downloaded.

    Raises:
        UsageError: none of these.
    """
    text = text.strip()
    if text == "auto":
        hub = "modelscope" if ref.hub == "huggingface" else "huggingface"
        prefix = "ms" if hub == "modelscope" else "hf"
        try:
            return SameElsewhere(parse_ref(f"{prefix}:{ref.id}", kind=ref.kind))
        except UsageError:
            return SameElsewhere(None)
    if "://" in text and not _ON_DISK.fullmatch(text):
        origin_of(text)
        parts = urlsplit(text)
        if parts.query or parts.fragment or parts.username is not None:
            raise UsageError(
                f"not a source: {origin_of(text)} with a user, a query or a fragment",
                hint="give the address of a site, or the URL of a folder",
            )
        if parts.path.rstrip("/") == "/.":
            # A site has no path; a dot is how to name the folder at its root.
            return Prefix(quote(text.rstrip("/")[: -len("/.")], safe=_AS_TYPED))
        url = quote(text.rstrip("/"), safe=_AS_TYPED)
        return Prefix(url) if parts.path.strip("/") else Mirror(url)
    name, at, revision = text.partition("@")
    if is_repo(name) and name.startswith(("ms:", "hf:")):
        return OtherRepo(parse_ref(name, kind=ref.kind, revision=revision if at else None))
    plain = text.partition("?")[0]  # what may be a key or a password is not shown
    user, at, host = plain.rpartition("@")
    if at and ":" in user and not user.startswith(("ms:", "hf:")):
        plain = host
    raise UsageError(f"not a source: {plain!r}", hint=_meant(text, name))


def _meant(text: str, name: str) -> str:
    """What to give instead of a text that is no source; `name` is that without a revision."""
    if is_repo(name):
        return f"which hub: ms:{text} or hf:{text}?"
    if _ON_DISK.fullmatch(text):
        return (
            "a folder on this disk is no source: what was downloaded to this disk is reused by"
            " itself; `modelhaul serve` makes a hub of any other"
        )
    if (site := _NO_SCHEME.fullmatch(text)) is not None:
        scheme = "http" if site["here"] else "https"
        return f"{scheme}:// is missing: {scheme}://{text}"
    return "give ms:owner/name, hf:owner/name, https://site, https://site/folder or auto"


class Offer:
    """What a place lists.

    Args:
        files: its files.
    """

    def __init__(self, files: Iterable[RemoteFile]) -> None:
        listed = list(files)
        self._by_path = {file.path: file for file in listed}
        self._by_sha256 = {file.sha256: file for file in listed if file.sha256 is not None}

    def match(self, wanted: RemoteFile) -> RemoteFile | None:
        """The file of the place that may serve `wanted`; None if there is none.

        Under whatever path if the digests are equal, else under the same path if nothing speaks
        against it.
        """
        if wanted.sha256 is not None:
            equal = self._by_sha256.get(wanted.sha256)
            if equal is not None and equal.size in (None, wanted.size):
                return equal
        beside = self._by_path.get(wanted.path)
        if beside is None or wanted.content is None or beside.size not in (None, wanted.size):
            return None
        for ours, theirs in (
            (wanted.sha256, beside.sha256),
            (wanted.git_sha1, beside.git_sha1),
        ):
            if ours is not None and theirs is not None and ours != theirs:
                return None
        return beside
