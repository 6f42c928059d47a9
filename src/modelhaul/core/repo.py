"""What was asked for and what the hub answered: references, files, snapshots, sources."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from modelhaul.core.origin import Origin
from modelhaul.errors import UsageError

Kind = Literal["model", "dataset"]

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RepoRef:
    """What was asked for: a repository of one hub, and which state of it."""

    hub: str
    kind: Kind
    owner: str
    name: str
    revision: str | None = None

    @property
    def id(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}"

    def __str__(self) -> str:
        return self.id


def parse_ref(text: str, *, hub: str, kind: Kind, revision: str | None = None) -> RepoRef:
    """A reference from `owner/name`.

    Raises:
        UsageError: the text is not of that form, or the revision is empty.
    """
    if not is_repo(text):
        raise UsageError(
            f"not a repository name: {text!r}",
            hint=(
                "of a hub of your own give the name, and the hub by --endpoint"
                if "://" in text
                else "names have the form owner/name, for example Qwen/Qwen3-8B"
            ),
        )
    owner, _, name = text.strip().partition("/")
    if revision is not None and not is_revision(revision):
        raise UsageError(f"not a revision: {revision!r}", hint="give a branch, a tag or a commit")
    return RepoRef(hub, kind, owner, name, revision)


def is_repo(text: str) -> bool:
    """Whether `text` has the form `owner/name`."""
    owner, slash, name = text.strip().partition("/")
    return bool(slash and _PART.fullmatch(owner) and _PART.fullmatch(name))


def is_revision(text: str) -> bool:
    """Whether `text` can name a branch, tag or commit and be used as a folder name.

    Cache layouts put the revision into a path, so what could climb out of it is refused.
    """
    return (
        text.isprintable()
        and 0 < len(text.encode()) <= 255
        and not text.startswith("/")
        and not any(part in ("", ".", "..") for part in text.split("/"))
        and not any(char in text for char in '\\:*?"<>|~^ ')
    )


def is_commit(text: str | None) -> bool:
    """Whether `text` is a full commit id (40 hex digits)."""
    return text is not None and _COMMIT.fullmatch(text) is not None


def sha256_or_none(text: object) -> str | None:
    """`text` in lower case if it is a SHA-256 in hex, with or without quotes; else None."""
    if not isinstance(text, str):
        return None
    if _SHA256.fullmatch(text):
        return text
    text = text.strip().strip('"').lower()
    return text if _SHA256.fullmatch(text) else None


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file as a hub describes it.

    Attributes:
        path: path inside the repository, with `/`. Comes from a server: see `core.names`.
        size: bytes, None if nobody states it.
        sha256: digest of the content in hex, None if nobody states it.
        validator: a strong entity tag (RFC 9110 section 8.8.1) that holds where no digest does.
        revision: the commit that last touched the file, where the hub says so.
        git_sha1: the name of the content as a git blob (SHA-1 in hex of `blob <size>`, a zero byte
            and the content); None if nobody states it. Judges where no `sha256` is stated.
    """

    path: str
    size: int | None
    sha256: str | None = None
    validator: str | None = None
    revision: str | None = None
    git_sha1: str | None = None

    @property
    def identity(self) -> str | None:
        """What makes two downloads the same bytes: the digest, else the strong validator.

        None: nothing does, so a part of such a file is never continued.
        """
        if self.size is None:
            return None
        if self.sha256 is not None:
            return f"sha256:{self.sha256}"
        if self.git_sha1 is not None:
            return f"git:{self.git_sha1}"
        if self.validator is not None:
            return f"validator:{self.validator}"
        return None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A reference resolved: which commit, and its files.

    `commit` is None where the server cannot say it; the files' digests still pin the content.
    """

    ref: RepoRef
    commit: str | None
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """A place that serves spans of one file.

    Attributes:
        url: where to ask first; it may redirect to a signed URL.
        origin: the origin of `url`, the only one that ever sees `credentials`.
        credentials: headers that prove who we are (never shown).
        fallback: only used when no other source of the file is left.
    """

    url: str
    origin: Origin
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    fallback: bool = False

    def __str__(self) -> str:
        return str(self.origin)
