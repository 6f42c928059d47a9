"""The ModelScope hub: listing, pinning a revision to a commit, and where the bytes are.

The protocol is not published; what is used here was taken from modelscope-hub 0.5.1 and from
reports about the real server, so everything that is only reported has a fallback. Two traps: the
server cuts a model's listing at 3000 entries without saying so, and an unknown revision can be an
empty list instead of an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus

import anyio

from modelhaul.core.origin import Origin, origin_of, shown
from modelhaul.core.repo import (
    RemoteFile,
    RepoRef,
    Snapshot,
    Source,
    is_commit,
    sha256_or_none,
)
from modelhaul.errors import (
    AccessError,
    HaulError,
    NotFound,
    ProtocolError,
    Unauthorized,
    single_error,
)
from modelhaul.net.api import Api
from modelhaul.net.rules import said
from modelhaul.net.transport import Response
from modelhaul.settings import DEFAULT_ENDPOINT

#: The server cuts `repo/files` here; a longer list is walked folder by folder.
TRUNCATED_AT = 3000
PAGE_SIZE = 200
WALK_WORKERS = 8
MOST_REQUESTS = 5000
DEFAULT_REVISION = "master"
# No file is larger; a number beyond it is nonsense and would break offsets.
_LARGEST = 1 << 60


# -- wire format: pure functions ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder in a listing."""

    path: str


#: What a listing consists of.
Entry = RemoteFile | Folder


def files_url(endpoint: str, ref: RepoRef, revision: str, *, root: str, recursive: bool) -> str:
    """Where a model's files are listed (capital `True`: the server reads Python's spelling)."""
    url = (
        f"{endpoint}/api/v1/models/{ref.owner}/{ref.name}/repo/files"
        f"?Revision={quote_plus(revision)}&Recursive={recursive}"
    )
    return f"{url}&Root={quote_plus(root)}" if root else url


def tree_url(endpoint: str, ref: RepoRef, revision: str, page: int) -> str:
    """Where a dataset's files are listed, page by page from 1."""
    return (
        f"{endpoint}/api/v1/datasets/{ref.owner}/{ref.name}/repo/tree"
        f"?Revision={quote_plus(revision)}&Recursive=True&PageNumber={page}&PageSize={PAGE_SIZE}"
    )


def commits_url(endpoint: str, ref: RepoRef, revision: str) -> str:
    """Where the newest commit of a branch or tag is named."""
    return (
        f"{endpoint}/api/v1/{ref.kind}s/{ref.owner}/{ref.name}/commits"
        f"?Ref={quote_plus(revision)}&PageNumber=1&PageSize=1"
    )


def revisions_url(endpoint: str, ref: RepoRef) -> str:
    """Where branches and tags are listed."""
    return f"{endpoint}/api/v1/{ref.kind}s/{ref.owner}/{ref.name}/revisions"


def repo_url(endpoint: str, ref: RepoRef, kind: str) -> str:
    """Where a repository is described."""
    return f"{endpoint}/api/v1/{kind}s/{ref.owner}/{ref.name}"


def file_url(endpoint: str, ref: RepoRef, revision: str, path: str) -> str:
    """Where a file's bytes are; answers 302 to a signed address for large files."""
    return (
        f"{endpoint}/api/v1/{ref.kind}s/{quote(ref.owner)}/{quote(ref.name)}/repo"
        f"?Revision={quote_plus(revision)}&FilePath={quote_plus(path)}"
    )


def parse_envelope(url: str, response: Response) -> Mapping[str, object]:
    """The `Data` of an answer.

    Raises:
        NotFound, Unauthorized: the server says so.
        ProtocolError: not an envelope, or one that reports another failure.
    """
    try:
        envelope = json.loads(response.body)
    except (ValueError, RecursionError):
        envelope = None
    where = shown(url)
    message = ""
    if isinstance(envelope, dict):
        message = _text(envelope.get("Message")) or _text(envelope.get("message"))
    if response.status in (404, 410):
        raise NotFound(f"{where} answers {response.status}{said(message)}")
    if response.status in (401, 402, 403, 407):
        raise Unauthorized(f"{where} answers {response.status}{said(message)}")
    if not isinstance(envelope, dict):
        raise ProtocolError(
            f"{where} answers {response.status} with something that is not JSON",
            hint="is this a ModelScope endpoint, and does no proxy put a page in between?",
        )
    good = response.status == 200 and envelope.get("Code", 200) == 200
    if not good or envelope.get("Success") is False:
        raise ProtocolError(f"{where} reports a failure ({response.status}){said(message)}")
    data = envelope.get("Data")
    return data if isinstance(data, dict) else {}


def parse_entries(url: str, data: Mapping[str, object]) -> list[Entry]:
    """The entries of a listing.

    Raises:
        ProtocolError: no list, an entry without a path, or an impossible size.
    """
    rows = data.get("Files")
    if rows is None:
        return []
    if not isinstance(rows, list):
        raise ProtocolError(f"{shown(url)} sends a listing that is not a list")
    return [_entry(url, row) for row in rows]


def _entry(url: str, row: object) -> Entry:
    path = _text(row.get("Path")) if isinstance(row, dict) else ""
    if not isinstance(row, dict) or not path:
        raise ProtocolError(f"{shown(url)} lists something without a path")
    if not path.isascii():
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ProtocolError(f"{shown(url)} lists a name that is not Unicode") from None
    if row.get("Type") == "tree":
        return Folder(path)
    size = row.get("Size")
    if size is not None and (
        not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _LARGEST
    ):
        raise ProtocolError(f"{shown(url)} lists {path!r} with an impossible size")
    return RemoteFile(
        path=path,
        size=size,
        sha256=sha256_or_none(row.get("Sha256")),
        revision=_text(row.get("Revision")) or None,
    )


def parse_commit(data: Mapping[str, object]) -> str | None:
    """The newest commit in an answer of the commits call, None if it names none."""
    rows = data.get("Commit") or data.get("Commits")
    first = rows[0] if isinstance(rows, list) and rows else None
    commit = _text(first.get("Id")).lower() if isinstance(first, dict) else ""
    return commit if is_commit(commit) else None


def parse_revisions(data: Mapping[str, object]) -> list[str]:
    """Names of branches and tags."""
    names = []
    table = data.get("RevisionMap")
    for key in ("Branches", "Tags"):
        rows = table.get(key) if isinstance(table, dict) else None
        for row in rows if isinstance(rows, list) else ():
            name = _text(row.get("Revision")) if isinstance(row, dict) else ""
            if name:
                names.append(name)
    return names


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


# -- client ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelScopeHub:
    """A ModelScope endpoint, with or without a token.

    Attributes:
        endpoint: scheme and host, no trailing slash.
        token: sent to that origin only, as header and as cookie; None for anonymous.
        origin: of the endpoint.
        credentials: headers that say who we are. The site takes either; some of its calls only the
            cookie.
    """

    endpoint: str
    token: str | None = field(repr=False)
    api: Api
    origin: Origin = field(init=False)
    credentials: Mapping[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Once, not for each of a hundred thousand files.
        object.__setattr__(self, "origin", origin_of(self.endpoint))
        headers = {"Authorization": f"Bearer {self.token}", "Cookie": f"m_session_id={self.token}"}
        object.__setattr__(self, "credentials", headers if self.token else {})

    async def resolve(self, ref: RepoRef) -> Snapshot:
        revision = ref.revision or DEFAULT_REVISION
        try:
            commit = await self._pin(ref, revision)
            files = await self._list_pinned(ref, revision, commit)
            if files is None:
                commit = None
                files = await self._list(ref, revision)
        except NotFound as error:
            raise await self._explain(ref, revision, error) from None
        except Unauthorized as error:
            raise self._unauthorized(ref, error) from None
        if not files:
            raise await self._explain(ref, revision, None)
        return Snapshot(ref, commit, tuple(files))

    def sources(self, snapshot: Snapshot, file: RemoteFile) -> tuple[Source, ...]:
        revision = snapshot.ref.revision or DEFAULT_REVISION
        pinned = snapshot.commit or revision
        first = self._source(snapshot.ref, pinned, file)
        if pinned == revision or file.sha256 is None:
            return (first,)
        # That the real server serves files by commit is only reported. By the branch's name it
        # certainly does, and the digest tells if the branch has moved on.
        return (first, self._source(snapshot.ref, revision, file, fallback=True))

    def _source(
        self, ref: RepoRef, revision: str, file: RemoteFile, *, fallback: bool = False
    ) -> Source:
        url = file_url(self.endpoint, ref, revision, file.path)
        return Source(url, self.origin, self.credentials, fallback=fallback)

    async def _get(self, url: str) -> Mapping[str, object]:
        response = await self.api.get(url, origin=self.origin, credentials=self.credentials)
        return parse_envelope(url, response)

    # -- revision to commit --------------------------------------------------------------------

    async def _pin(self, ref: RepoRef, revision: str) -> str | None:
        """The commit a revision names now, None where the server does not say."""
        if is_commit(revision):
            return revision
        try:
            return parse_commit(await self._get(commits_url(self.endpoint, ref, revision)))
        except (AccessError, ProtocolError):
            # The call is not part of every server, may need a login where the listing does not,
            # and an unknown repository is better explained by the listing.
            return None

    async def _list_pinned(
        self, ref: RepoRef, revision: str, commit: str | None
    ) -> list[RemoteFile] | None:
        """The listing of a commit; None if it cannot be had or is not that of the revision."""
        if commit is None:
            return None
        try:
            files = await self._list(ref, commit)
        except (AccessError, ProtocolError):
            # That commits can be listed is only reported: by its name the revision surely can.
            if commit == revision:
                raise
            return None
        if commit == revision or revision == DEFAULT_REVISION:
            return files or None
        # The commits call is reported to ignore what it does not understand and to answer for
        # master then. For any other revision the listing itself has to agree.
        return files if files and files == await self._list(ref, revision) else None

    # -- listing -------------------------------------------------------------------------------

    async def _list(self, ref: RepoRef, revision: str) -> list[RemoteFile]:
        if ref.kind == "dataset":
            entries = await self._pages(ref, revision)
        else:
            entries = await self._tree(ref, revision, root="", recursive=True)
            if len(entries) >= TRUNCATED_AT:
                entries = await self._walk(ref, revision, entries)
        return _unique(entries)

    async def _tree(
        self, ref: RepoRef, revision: str, *, root: str, recursive: bool
    ) -> list[Entry]:
        url = files_url(self.endpoint, ref, revision, root=root, recursive=recursive)
        return parse_entries(url, await self._get(url))

    async def _pages(self, ref: RepoRef, revision: str) -> list[Entry]:
        """All pages of a dataset's listing.

        Raises:
            ProtocolError: it does not end, or ends before the number that the server states.
        """
        found: list[Entry] = []
        paths: set[str] = set()
        for page in range(1, MOST_REQUESTS + 1):
            url = tree_url(self.endpoint, ref, revision, page)
            data = await self._get(url)
            if page > 1 and data.get("Files") is None:
                raise ProtocolError(f"{ref}: page {page} of the listing is missing")
            entries = parse_entries(url, data)
            before = len(paths)
            found += entries
            paths.update(entry.path for entry in entries)
            total = data.get("TotalCount")
            stated = total if isinstance(total, int) and not isinstance(total, bool) else None
            # A page without news is the last one too: some servers ignore the page number, and
            # some have smaller pages than asked for.
            if len(paths) == before or (stated is None and len(entries) < PAGE_SIZE):
                if stated is not None and len(paths) < stated:
                    raise ProtocolError(
                        f"{ref}: the listing has {len(paths)} entries, the server says {stated}"
                    )
                return found
            if stated is not None and len(paths) >= stated:
                return found
        raise ProtocolError(f"{ref}: the listing does not end")

    async def _walk(self, ref: RepoRef, revision: str, cut: list[Entry]) -> list[Entry]:
        """List a tree that was cut, folder by folder; only cut folders are opened further."""
        found = list(cut)
        visited = {""}
        limiter = anyio.CapacityLimiter(WALK_WORKERS)
        requests = 0

        async def listing(root: str, *, recursive: bool) -> list[Entry]:
            nonlocal requests
            requests += 1
            if requests > MOST_REQUESTS:
                raise ProtocolError(f"{ref}: listing it takes more than {MOST_REQUESTS} requests")
            async with limiter:
                return await self._tree(ref, revision, root=root, recursive=recursive)

        async def visit(root: str) -> None:
            whole = await listing(root, recursive=True) if root else cut
            found.extend(whole)
            if len(whole) < TRUNCATED_AT:
                return
            direct = await listing(root, recursive=False)
            if len(direct) >= TRUNCATED_AT:
                raise ProtocolError(
                    f"{ref}: the folder {root or '/'} has {TRUNCATED_AT} entries or more, and the"
                    " server does not list the rest"
                )
            found.extend(direct)
            async with anyio.create_task_group() as group:
                for entry in direct:
                    if isinstance(entry, RemoteFile):
                        continue
                    # Each folder once, and only further down: the names are the server's.
                    if entry.path in visited or not entry.path.startswith(
                        f"{root}/" if root else ""
                    ):
                        raise ProtocolError(
                            f"{ref}: the folder {root or '/'} lists {entry.path!r} as one inside it"
                        )
                    visited.add(entry.path)
                    group.start_soon(visit, entry.path)

        try:
            await visit("")
        except BaseExceptionGroup as group:
            raise single_error(group) from None
        return found

    # -- explaining ----------------------------------------------------------------------------

    async def _explain(self, ref: RepoRef, revision: str, error: NotFound | None) -> NotFound:
        """Say which of repository and revision is missing; costs a request or two."""
        try:
            names = parse_revisions(await self._get(revisions_url(self.endpoint, ref)))
        except HaulError:
            names = []
        if names and revision not in names:
            return NotFound(
                f"no revision {revision!r} in {ref} on {self.origin}",
                hint=f"it has {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}",
            )
        if names or error is None:
            return NotFound(
                f"{ref} has no files at revision {revision!r} on {self.origin}",
                hint="is the revision right?",
            )
        if await self._exists(ref, ref.kind):
            return NotFound(
                f"no revision {revision!r} in {ref} on {self.origin}", hint="is it spelled right?"
            )
        other = "dataset" if ref.kind == "model" else "model"
        if await self._exists(ref, other):
            return NotFound(
                f"no {ref.kind} {ref} on {self.origin}, but there is a {other} of that name",
                hint=f"use --{other} {ref}",
            )
        # Whoever chose another site needs no advice about sites.
        usual = self.endpoint == DEFAULT_ENDPOINT
        abroad = "; the international site is --endpoint https://www.modelscope.ai" if usual else ""
        private = "your token may not read it" if self.token else "it is private or gated"
        return NotFound(
            f"no {ref.kind} {ref} on {self.origin}, or {private}",
            hint="check the name; private and gated ones need --token or `modelscope login`"
            + abroad,
        )

    async def _exists(self, ref: RepoRef, kind: str) -> bool:
        try:
            await self._get(repo_url(self.endpoint, ref, kind))
        except HaulError:
            return False
        return True

    def _unauthorized(self, ref: RepoRef, error: Unauthorized) -> Unauthorized:
        hint = (
            "the token is not accepted: get a new one, or leave it out"
            if self.token
            else "give a token with --token, MODELSCOPE_API_TOKEN or `modelscope login`"
        )
        return Unauthorized(f"{ref}: {error.message}", hint=hint)


def _unique(entries: Iterable[Entry]) -> list[RemoteFile]:
    """The files of a listing, each path once; two different files of one path are an error."""
    found: dict[str, RemoteFile] = {}
    for entry in entries:
        if isinstance(entry, Folder):
            continue
        known = found.setdefault(entry.path, entry)
        if known is not entry and (known.size, known.sha256) != (entry.size, entry.sha256):
            raise ProtocolError(f"the hub lists {entry.path!r} twice, differently")
    return list(found.values())
