"""The Hugging Face Hub: a revision pinned to its commit, its tree page by page, and its bytes.

Two traps. What is no LFS file has no SHA-256: the tree states its name as a git blob, and that
judges it; for an LFS file the same field names the pointer and says nothing about the content.
And the Hub names the next page by an absolute address: behind a mirror that leads away from it, so
only the query of it is used.

Protocol: huggingface_hub 2.4.0 and the Hub's documentation of rate limits. Names of "xet" are kept
for its books and not used: files are asked for as ranges of their resolve address, which works for
all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import get_args
from urllib.parse import quote, urlsplit

from modelhaul.core.origin import MAX_URL, Origin, origin_of, quoted_url, shown
from modelhaul.core.repo import (
    Kind,
    RemoteFile,
    RepoRef,
    Snapshot,
    Source,
    git_sha1_or_none,
    is_commit,
    sha256_or_none,
)
from modelhaul.errors import AccessError, HaulError, NotFound, ProtocolError, Unauthorized
from modelhaul.net.api import Api
from modelhaul.net.rules import said
from modelhaul.net.transport import Response

DEFAULT_REVISION = "main"
#: Pages of a tree; the Hub puts 1000 entries on one.
MOST_PAGES = 5000
# No file is larger; a number beyond it is nonsense and would break offsets.
_LARGEST = 1 << 60
_DISABLED = "Access to this resource is disabled."
# RFC 8288 section 3; the Hub sends one link.
_LINK = re.compile(r"<([^<>]*)>([^<>]*)")
_NEXT = re.compile(r';\s*rel\s*=\s*"?next"?\s*(?:[;,]|$)', re.IGNORECASE)


# -- wire format: pure functions ---------------------------------------------------------------


def page_url(endpoint: str, ref: RepoRef, kind: Kind | None = None) -> str:
    """The page of a repository, for people; files are below it."""
    kind = kind or ref.kind
    return f"{endpoint}/{'' if kind == 'model' else f'{kind}s/'}{ref.id}"


def repo_url(endpoint: str, ref: RepoRef, kind: Kind | None = None) -> str:
    """Where a repository is described; everything else that is asked about it is below."""
    return f"{endpoint}/api/{kind or ref.kind}s/{ref.id}"


def revision_url(endpoint: str, ref: RepoRef, revision: str) -> str:
    """Where the commit of a branch, tag or commit is named."""
    return f"{repo_url(endpoint, ref)}/revision/{quote(revision, safe='')}"


def tree_url(endpoint: str, ref: RepoRef, commit: str, query: str = "") -> str:
    """Where files are listed: the first page, or the one with this query."""
    query = query or "recursive=true&expand=false"
    return f"{repo_url(endpoint, ref)}/tree/{quote(commit, safe='')}?{query}"


def refs_url(endpoint: str, ref: RepoRef) -> str:
    """Where branches and tags are listed."""
    return f"{repo_url(endpoint, ref)}/refs"


def access_url(endpoint: str, ref: RepoRef) -> str:
    """Where the Hub says whether we may read a repository's files."""
    return f"{repo_url(endpoint, ref)}/auth-check"


def file_url(endpoint: str, ref: RepoRef, revision: str, path: str) -> str:
    """Where a file's bytes are; answers 302 to a signed address for LFS files."""
    return f"{page_url(endpoint, ref)}/resolve/{quote(revision, safe='')}/{quote(path)}"


class Refusal(Enum):
    """Why the Hub does not answer what was asked."""

    NO_REPO = auto()  # or one that we may not see
    NO_REVISION = auto()
    GATED = auto()
    DISABLED = auto()
    WHO = auto()  # it wants a token, or another one
    DENIED = auto()
    MISSING = auto()  # it does not say what


def parse_refusal(response: Response) -> Refusal | None:
    """Why the Hub refuses, by its own code before the status; None if it does not."""
    if response.status < 400:
        return None
    if error_text(response) == _DISABLED:
        return Refusal.DISABLED
    by_code = {
        "RepoNotFound": Refusal.NO_REPO,
        "RevisionNotFound": Refusal.NO_REVISION,
        "GatedRepo": Refusal.GATED,
    }.get(response.headers.get("x-error-code", ""))
    if by_code is not None:
        return by_code
    if response.status == 401:
        return Refusal.WHO
    if response.status in (402, 403, 407, 451):
        return Refusal.DENIED
    return Refusal.MISSING if response.status in (404, 410) else None


def error_text(response: Response) -> str:
    """What the Hub says about an error: in a header, or in the body in one of three forms."""
    header = response.headers.get("x-error-message", "").strip()
    if header:
        return header
    try:
        body = json.loads(response.body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(body, dict):
        return ""
    errors = body.get("errors") or body.get("error")
    first = errors[0] if isinstance(errors, list) and errors else errors
    return _text(first.get("message") if isinstance(first, dict) else first).strip()


def parse_body(url: str, response: Response) -> object:
    """The JSON of an answer that is no refusal.

    Raises:
        ProtocolError: it is none, or reports a failure.
    """
    where = shown(url)
    if response.status != 200:
        raise ProtocolError(f"{where} answers {response.status}{said(error_text(response))}")
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError):
        raise ProtocolError(
            f"{where} answers with something that is not JSON",
            hint="is this a Hugging Face endpoint, and does no proxy put a page in between?",
        ) from None


@dataclass(frozen=True, slots=True)
class Description:
    """What the Hub says of a repository at a revision.

    Attributes:
        commit: what the revision names now.
        gated: its publisher decides who may read the files.
        disabled: nobody may.
    """

    commit: str
    gated: bool
    disabled: bool


def parse_description(url: str, body: object) -> Description:
    """What a revision call answered.

    Raises:
        ProtocolError: it names no commit.
    """
    commit = _text(body.get("sha")) if isinstance(body, dict) else ""
    if not isinstance(body, dict) or not is_commit(commit):
        raise ProtocolError(f"{shown(url)} names no commit")
    # "auto" and "manual" are how it is granted.
    return Description(commit, gated=bool(body.get("gated")), disabled=body.get("disabled") is True)


def parse_tree(url: str, body: object) -> list[RemoteFile]:
    """The files on one page of a tree.

    Raises:
        ProtocolError: no list, or an entry that is neither a folder nor a file with path, size and
            a readable digest.
    """
    if not isinstance(body, list):
        raise ProtocolError(f"{shown(url)} sends a listing that is not a list")
    return [
        _file(url, row)
        for row in body
        if not isinstance(row, dict) or row.get("type") != "directory"
    ]


def _file(url: str, row: object) -> RemoteFile:
    path = _text(row.get("path")) if isinstance(row, dict) else ""
    if not isinstance(row, dict) or not path:
        raise ProtocolError(f"{shown(url)} lists something without a path")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ProtocolError(f"{shown(url)} lists a name that is not Unicode") from None
    if row.get("type") != "file":
        raise ProtocolError(f"{shown(url)} lists {path!r} as neither file nor folder")
    size, lfs = row.get("size"), row.get("lfs")
    name, xet = git_sha1_or_none(row.get("oid")), sha256_or_none(row.get("xetHash"))
    if lfs is None:
        return RemoteFile(path, _size(url, path, size), git_sha1=name, xet=xet)
    # Never by the pointer's name: without a digest of its content an LFS file has none.
    sha256 = sha256_or_none(lfs.get("oid")) if isinstance(lfs, dict) else None
    if not isinstance(lfs, dict) or sha256 is None:
        raise ProtocolError(f"{shown(url)} lists {path!r} as an LFS file without a SHA-256")
    if lfs.get("size", size) != size:
        raise ProtocolError(f"{shown(url)} lists {path!r} with two sizes")
    return RemoteFile(path, _size(url, path, size), sha256=sha256, pointer=name, xet=xet)


def _size(url: str, path: str, size: object) -> int:
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _LARGEST:
        raise ProtocolError(f"{shown(url)} lists {path!r} with an impossible size")
    return size


def parse_next(url: str, link: str) -> str | None:
    """The query of the next page by a `Link` header; None if this is the last one.

    Raises:
        ProtocolError: there is a next page, and no way to ask for it.
    """
    for target, parameters in _LINK.findall(link):
        if not _NEXT.search(parameters):
            continue
        try:
            query = quoted_url(urlsplit(target).query)
        except ValueError:
            query = ""
        if not query or len(query) > MAX_URL:
            raise ProtocolError(f"{shown(url)} names a next page that cannot be asked for")
        return query
    return None


def parse_refs(body: object) -> list[str]:
    """Names of branches and tags, as far as they can be read."""
    names = []
    for key in ("branches", "tags"):
        rows = body.get(key) if isinstance(body, dict) else None
        for row in rows if isinstance(rows, list) else ():
            name = _text(row.get("name")) if isinstance(row, dict) else ""
            if name and name.isprintable():
                names.append(name)
    return names


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


# -- client ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HuggingFaceHub:
    """A Hugging Face endpoint, with or without a token.

    Attributes:
        endpoint: scheme and host, no trailing slash.
        token: sent to that origin only; None for anonymous.
        origin: of the endpoint.
        credentials: headers that say who we are.
    """

    endpoint: str
    token: str | None = field(repr=False)
    api: Api
    origin: Origin = field(init=False)
    credentials: Mapping[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Once, not for each of a hundred thousand files.
        object.__setattr__(self, "origin", origin_of(self.endpoint))
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        object.__setattr__(self, "credentials", headers)

    async def resolve(self, ref: RepoRef) -> Snapshot:
        revision = ref.revision or DEFAULT_REVISION
        url = revision_url(self.endpoint, ref, revision)
        found = parse_description(url, parse_body(url, await self._answer(ref, url)))
        if is_commit(revision) and found.commit != revision:
            raise ProtocolError(f"{shown(url)} answers with another commit, {found.commit}")
        if found.disabled:
            raise self._disabled(ref)
        if found.gated:
            await self._check_access(ref)
        files = await self._tree(ref, found.commit)
        if not files:
            raise NotFound(f"{ref.id} has no files at revision {revision!r} on {self.origin}")
        return Snapshot(ref, found.commit, tuple(files))

    def sources(self, snapshot: Snapshot, file: RemoteFile) -> tuple[Source, ...]:
        assert snapshot.commit is not None
        url = file_url(self.endpoint, snapshot.ref, snapshot.commit, file.path)
        return (Source(url, self.origin, self.credentials),)

    async def _tree(self, ref: RepoRef, commit: str) -> list[RemoteFile]:
        """All pages of the listing, each path once.

        Raises:
            ProtocolError: it does not end, or lists a path twice, differently.
        """
        found: dict[str, RemoteFile] = {}
        query, asked = "", set[str]()
        for _ in range(MOST_PAGES):
            url = tree_url(self.endpoint, ref, commit, query)
            response = await self._answer(ref, url)
            for file in parse_tree(url, parse_body(url, response)):
                if found.setdefault(file.path, file) != file:
                    raise ProtocolError(f"the hub lists {file.path!r} twice, differently")
            following = parse_next(url, response.headers.get("link", ""))
            if following is None:
                return list(found.values())
            if following in asked:
                break
            asked.add(following)
            query = following
        raise ProtocolError(f"{ref}: the listing does not end")

    async def _check_access(self, ref: RepoRef) -> None:
        """Whether we may read a gated repository: a run finds out before its first file.

        Raises:
            Unauthorized: we may not.
        """
        try:
            response = await self._get(access_url(self.endpoint, ref))
        except ProtocolError:
            return  # a mirror that has no such call: the files will say
        refusal = parse_refusal(response)
        if refusal is Refusal.NO_REPO or (refusal is Refusal.WHO and not self.token):
            refusal = Refusal.GATED  # we have just seen it
        if refusal not in (None, Refusal.MISSING):
            raise await self._refused(ref, refusal, response)

    # -- asking, and what a refusal means ------------------------------------------------------

    async def _get(self, url: str) -> Response:
        return await self.api.get(url, origin=self.origin, credentials=self.credentials)

    async def _answer(self, ref: RepoRef, url: str) -> Response:
        response = await self._get(url)
        refusal = parse_refusal(response)
        if refusal is not None:
            raise await self._refused(ref, refusal, response)
        return response

    async def _refused(self, ref: RepoRef, refusal: Refusal, response: Response) -> AccessError:
        page = page_url(self.endpoint, ref)
        if refusal is Refusal.MISSING:
            there = await self._exists(ref, ref.kind)
            refusal = Refusal.NO_REVISION if there else Refusal.NO_REPO
        elif refusal is Refusal.WHO and not self.token:
            # Whoever is anonymous gets the same answer for what is missing and what is private.
            refusal = Refusal.NO_REPO
        match refusal:
            case Refusal.GATED:
                return self._gated(ref)
            case Refusal.DISABLED:
                return self._disabled(ref)
            case Refusal.WHO:
                return Unauthorized(
                    f"{self.origin} does not accept the token{said(error_text(response))}",
                    hint=f"get one at {self.endpoint}/settings/tokens, or leave it out",
                )
            case Refusal.NO_REVISION:
                return await self._no_revision(ref)
            case Refusal.NO_REPO:
                return await self._no_repo(ref)
        return Unauthorized(
            f"{self.origin} refuses {ref.id}{said(error_text(response))}",
            hint=f"see {page}; a token is given with --token, HF_TOKEN or `hf auth login`",
        )

    def _gated(self, ref: RepoRef) -> Unauthorized:
        page = page_url(self.endpoint, ref)
        if self.token:
            return Unauthorized(
                f"{ref.id} is gated, and the account of your token has no access to it",
                hint=f"ask for access at {page}",
            )
        return Unauthorized(
            f"{ref.id} is gated: its publisher decides who may read it",
            hint=f"ask for access at {page}, then give a token of that account with --token,"
            " HF_TOKEN or `hf auth login`",
        )

    def _disabled(self, ref: RepoRef) -> AccessError:
        return AccessError(
            f"{ref.id} is disabled on {self.origin}: nobody can download it",
            hint=f"{page_url(self.endpoint, ref)} may say why",
        )

    async def _no_revision(self, ref: RepoRef) -> NotFound:
        message = f"no revision {ref.revision or DEFAULT_REVISION!r} in {ref.id} on {self.origin}"
        url = refs_url(self.endpoint, ref)
        try:
            names = parse_refs(parse_body(url, await self._get(url)))
        except HaulError:
            names = []
        if not names:
            return NotFound(message, hint=f"see {page_url(self.endpoint, ref)}")
        return NotFound(
            message, hint=f"it has {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        )

    async def _no_repo(self, ref: RepoRef) -> NotFound:
        for other in get_args(Kind):
            if other != ref.kind and await self._exists(ref, other):
                return NotFound(
                    f"no {ref.kind} {ref.id} on {self.origin}, but there is a {other} of that name",
                    hint=f"use --repo-type {other}: {page_url(self.endpoint, ref, other)}",
                )
        hidden = "your token may not read it" if self.token else "it is private"
        return NotFound(
            f"no {ref.kind} {ref.id} on {self.origin}, or {hidden}",
            hint=f"is it at {page_url(self.endpoint, ref)}? Private ones need a token that may"
            " read them: --token, HF_TOKEN or `hf auth login`",
        )

    async def _exists(self, ref: RepoRef, kind: Kind) -> bool:
        try:
            return (await self._get(repo_url(self.endpoint, ref, kind))).status == 200
        except HaulError:
            return False
