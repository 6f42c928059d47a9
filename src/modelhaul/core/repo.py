"""What was asked for and what the hub answered: references, files, snapshots, sources."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from modelhaul.core.origin import Origin, shown
from modelhaul.errors import UsageError

Kind = Literal["model", "dataset", "space"]
HubName = Literal["modelscope", "huggingface"]

#: Prefixes that name the hub: `hf:owner/name`.
PREFIXES: Mapping[str, HubName] = {"ms": "modelscope", "hf": "huggingface"}

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RepoRef:
    """What was asked for: a repository of one hub, and which state of it.

    Old repositories of the Hugging Face Hub have no owner: it is "" then.
    """

    hub: HubName
    kind: Kind
    owner: str
    name: str
    revision: str | None = None

    @property
    def id(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}" if self.owner else self.name

    @property
    def with_hub(self) -> str:
        """The name with the prefix of its hub, whichever that is."""
        return str(self) if self.hub == "huggingface" else f"ms:{self.id}"

    def __str__(self) -> str:
        return f"hf:{self.id}" if self.hub == "huggingface" else self.id


def parse_ref(
    text: str, *, hub: HubName | None = None, kind: Kind = "model", revision: str | None = None
) -> RepoRef:
    """A reference from `owner/name`, `ms:owner/name` or `hf:owner/name`.

    Args:
        text: with a prefix or without one.
        hub: of a name without a prefix; None means ModelScope.
        kind: what it is.
        revision: branch, tag or commit.

    Raises:
        UsageError: the text is not of that form, names another hub than `hub` or one that has no
            such kind, or the revision is none.
    """
    if hub not in (None, *PREFIXES.values()):
        raise UsageError(f"not a hub: {hub!r}", hint=f"there are {' and '.join(PREFIXES.values())}")
    prefix, colon, _ = text.strip().partition(":")
    if colon and hub is not None and PREFIXES.get(prefix, hub) != hub:
        raise UsageError(f"{text!r} is of another hub than {hub}", hint="leave one of them out")
    found = _named(text, hub)
    if found is None:
        raise UsageError(
            f"not a repository name: {text!r}",
            hint=(
                "of a hub of your own give the name, and the hub by --endpoint"
                if "://" in text
                else "names have the form owner/name or hf:owner/name, for example Qwen/Qwen3-8B"
            ),
        )
    hub, owner, name = found
    if kind == "space" and hub == "modelscope":
        raise UsageError("spaces are downloaded from Hugging Face only", hint="hf:owner/name")
    if revision is not None and not is_revision(revision):
        raise UsageError(f"not a revision: {revision!r}", hint="give a branch, a tag or a commit")
    return RepoRef(hub, kind, owner, name, revision)


def is_repo(text: str, hub: HubName | None = None) -> bool:
    """Whether `text` has the form of a repository's name, with the prefix of a hub or without.

    Args:
        text: what somebody wrote; it may as well be a path.
        hub: of a name without a prefix; None means ModelScope.
    """
    return _named(text, hub) is not None


def _named(text: str, hub: HubName | None) -> tuple[HubName, str, str] | None:
    """Hub, owner and name; None if `text` is no repository's name."""
    prefix, colon, spelled = text.strip().partition(":")
    if colon and prefix in PREFIXES:
        hub = PREFIXES[prefix]
    else:
        hub, spelled = hub or "modelscope", text.strip()
    owner, slash, name = spelled.rpartition("/")
    # A name without an owner is an old repository; two dashes stand between owner and name in the
    # cache of that hub, which therefore has no such names.
    single = hub == "huggingface" and not slash
    fits = (single or _PART.fullmatch(owner)) and _PART.fullmatch(name)
    if not fits or (hub == "huggingface" and "--" in spelled):
        return None
    return hub, owner, name


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


def git_sha1_or_none(text: object) -> str | None:
    """`text` in lower case if it is a SHA-1 in hex, the name of a git object; else None."""
    found = text.lower() if isinstance(text, str) else ""
    return found if _COMMIT.fullmatch(found) else None


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
        pointer: what git calls the pointer that stands for a file in LFS, where the hub says so.
        xet: the name of the content in the Hub's store of chunks, where the hub says so. Neither of
            the two judges or tells files apart: they are for the books of other tools.
    """

    path: str
    size: int | None
    sha256: str | None = None
    validator: str | None = None
    revision: str | None = None
    git_sha1: str | None = None
    pointer: str | None = field(default=None, compare=False)
    xet: str | None = field(default=None, compare=False)

    @property
    def named_by_git(self) -> bool:
        """Whether the content is judged by its name as a git blob, which needs the size first."""
        return self.sha256 is None and self.git_sha1 is not None and self.size is not None

    @property
    def content(self) -> str | None:
        """The digest that judges the content, with its kind; None if nobody states one."""
        if self.sha256 is not None:
            return f"sha256:{self.sha256}"
        if self.named_by_git:
            return f"git:{self.git_sha1}"
        return None

    @property
    def identity(self) -> str | None:
        """What makes two downloads the same bytes: the digest, else the strong validator.

        None: nothing does, so a part of such a file is never continued.
        """
        if self.size is None:
            return None
        if (content := self.content) is not None:
            return content
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
        place: what people call the place that it belongs to; "" if that is its origin.
    """

    url: str
    origin: Origin
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    fallback: bool = False
    place: str = ""

    def __str__(self) -> str:
        return str(self.origin)


def names_of(sources: Sequence[Source]) -> list[str]:
    """What the sources of one file are called; those that are used at once are told apart.

    The origin; where several have the same one, the URL without its query.
    """
    origins = Counter(str(one) for one in sources if not one.fallback)
    return [str(one) if origins[str(one)] <= 1 else shown(one.url) for one in sources]


def name_beside(source: Source, names: Collection[str]) -> str | None:
    """What a source is called that joins others, which keep their names; None if it is one of them.

    Args:
        source: the new one.
        names: those of the others.
    """
    name = shown(source.url) if str(source) in names else str(source)
    return None if name in names else name
