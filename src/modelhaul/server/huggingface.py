"""The Hugging Face protocol, server side: enough for modelhaul and `hf download`.

Modelled on what huggingface_hub 0.35.3, 1.11.0 and 2.4.0 send and accept. Nothing is said of xet:
clients that have it then take plain HTTP.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from aiohttp import web

from modelhaul.core.repo import Kind
from modelhaul.server.body import send_file
from modelhaul.server.cdn import signed_url
from modelhaul.server.options import ServeOptions, same_secret
from modelhaul.server.shelf import (
    ServedFile,
    ServedSnapshot,
    Shelf,
    Shelved,
    find_file,
)
from modelhaul.store.gitnames import blob_name, lfs_pointer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

DEFAULT_REVISION = "main"
#: Entries of a tree in one answer; fewer where each says who changed it last, as on the real hub.
PAGE = 1000
EXPANDED_PAGE = 50

_KINDS: dict[str, Kind] = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass(frozen=True, slots=True)
class _Refused(Exception):  # it is an answer, not a fault
    """An answer that says no, in the form from which the clients make their errors."""

    status: int
    code: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)


def routes(shelf: Shelf, options: ServeOptions) -> list[web.RouteDef]:
    """What Hugging Face clients ask: revisions, trees, files."""
    hub = _Hub(shelf, options)
    repo = "/api/{kind:models|datasets|spaces}/{owner}/{name}"
    file = "{owner}/{name}/resolve/{revision}/{path:.+}"
    handlers = {
        repo: hub.info,
        f"{repo}/revision/{{revision}}": hub.info,
        f"{repo}/tree/{{revision}}": hub.tree,
        f"{repo}/tree/{{revision}}/{{path:.+}}": hub.tree,
        f"{repo}/refs": hub.refs,
        f"{repo}/auth-check": hub.check,
        "/api/{kind:models|datasets|spaces}/{rest:.*}": hub.nothing,
        "/api/whoami-v2": hub.who,
        "/api/agent-harnesses": hub.harnesses,
        f"/{{kind:datasets|spaces}}/{file}": hub.file,
        f"/{file}": hub.file,
    }
    found = [web.get(path, _answered(handler)) for path, handler in handlers.items()]
    return [*found, web.post(f"{repo}/paths-info/{{revision}}", _answered(hub.paths))]


def _answered(handler: Handler) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except _Refused as no:
            headers = {"X-Error-Code": no.code, "X-Error-Message": no.message, **no.headers}
            return web.json_response(
                {"error": no.message},
                status=no.status,
                headers={name: value for name, value in headers.items() if value},
            )

    return handle


class _Hub:
    def __init__(self, shelf: Shelf, options: ServeOptions) -> None:
        self._shelf = shelf
        self._options = options

    # -- finding -------------------------------------------------------------------------------

    def _check_token(self, request: web.Request) -> None:
        """Hide everything from who does not know the token.

        Without one the answer is that of a repository that does not exist. The codes are needed:
        on a hub that is not https the clients do not look at the status alone.
        """
        expected = self._options.token
        if expected is None:
            return
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not given:
            raise _Refused(401, "RepoNotFound", "Invalid username or password.")
        if not same_secret(given, expected):
            raise _Refused(401, "", "Invalid credentials in Authorization header")

    async def _repository(self, request: web.Request) -> Shelved:
        self._check_token(request)
        where = request.match_info
        found = await self._shelf.find(_kind(request), where["owner"], where["name"])
        if found is None:
            raise _Refused(404, "RepoNotFound", "Repository not found")
        return found

    async def _snapshot(self, request: web.Request) -> tuple[Shelved, ServedSnapshot]:
        shelved = await self._repository(request)
        revision = request.match_info.get("revision", DEFAULT_REVISION)
        found = await self._shelf.snapshot(shelved, revision)
        if found is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return shelved, found

    # -- describing ----------------------------------------------------------------------------

    async def info(self, request: web.Request) -> web.Response:
        """A repository at a revision: its commit, and its files by name or with all details."""
        shelved, found = await self._snapshot(request)
        detailed = _is_true(request.query.get("blobs"))
        return web.json_response(
            {
                "_id": hashlib.sha256(f"{shelved.kind}/{shelved.id}".encode()).hexdigest()[:24],
                "id": shelved.id,
                "modelId": shelved.id,
                "author": shelved.owner,
                "sha": found.commit,
                "lastModified": _date(found),
                "createdAt": _date(found),
                "private": self._options.token is not None,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": [_sibling(file, detailed) for file in _in_order(found)],
                "usedStorage": sum(file.size for file in found.files.values()),
            }
        )

    async def refs(self, request: web.Request) -> web.Response:
        """All names of revisions; a folder has no tags, so all but the default count as such."""
        shelved = await self._repository(request)
        branches: list[dict[str, str]] = []
        tags: list[dict[str, str]] = []
        default = shelved.folder(DEFAULT_REVISION)
        for name, folder in shelved.folders:
            found = await self._shelf.snapshot(shelved, name)
            if found is None:
                continue  # it was removed a moment ago
            if folder == default:
                shown, kind, rows = DEFAULT_REVISION, "heads", branches
            else:
                shown, kind, rows = name, "tags", tags
            rows.append(
                {"name": shown, "ref": f"refs/{kind}/{shown}", "targetCommit": found.commit}
            )
        return web.json_response(
            {"branches": branches, "converts": [], "tags": tags, "pullRequests": []}
        )

    async def check(self, request: web.Request) -> web.Response:
        """Whether the asker may read a repository: an error if not."""
        await self._repository(request)
        return web.json_response({})

    async def who(self, request: web.Request) -> web.Response:
        """Whose token it is. There is one user at most."""
        if self._options.token is None:
            raise _Refused(401, "", "Invalid username or password.")
        self._check_token(request)
        token = {"displayName": "token", "role": "read"}
        user = {"type": "user", "name": "user", "fullname": "user", "isPro": False, "orgs": []}
        return web.json_response({**user, "auth": {"type": "access_token", "accessToken": token}})

    async def harnesses(self, request: web.Request) -> web.Response:
        """Every `hf` command asks for these; what is refused is asked again in each run."""
        return web.json_response({"standardEnvVars": [], "harnesses": {}})

    async def nothing(self, request: web.Request) -> web.Response:
        """Names without an owner, as the oldest repositories of the real hub have, and the rest."""
        self._check_token(request)
        raise _Refused(404, "RepoNotFound", "Repository not found")

    # -- listing -------------------------------------------------------------------------------

    async def tree(self, request: web.Request) -> web.Response:
        """Files and folders below a path, in pages; `Link` leads to the next."""
        _, found = await self._snapshot(request)
        path = request.match_info.get("path", "").strip("/")
        folders, files = found.below(path, recursive=_is_true(request.query.get("recursive")))
        if path and not folders and not files:
            raise _Refused(
                404, "EntryNotFound", f"{path} does not exist", {"X-Repo-Commit": found.commit}
            )
        expand = _is_true(request.query.get("expand"))
        entries = sorted([*folders, *(file.path for file in files)])
        after, size = _cursor(request), EXPANDED_PAGE if expand else PAGE
        left = [entry for entry in entries if entry > after] if after else entries
        page = left[:size]
        headers = {"X-Repo-Commit": found.commit}
        if len(left) > size:
            following = request.url.update_query(cursor=_cursor_after(page[-1]))
            headers["Link"] = f'<{following}>; rel="next"'
        rows = [_row(found, path, expand=expand) for path in page]
        return web.json_response(rows, headers=headers)

    async def paths(self, request: web.Request) -> web.Response:
        """The same rows for the paths that are asked for; unknown ones are left out."""
        _, found = await self._snapshot(request)
        if request.content_type == "application/json":
            asked = await _asked_as_json(request)
        else:
            form = await request.post()
            asked = {"paths": form.getall("paths", []), "expand": form.get("expand")}
        expand = _is_true(asked.get("expand"))
        folders = set(found.below("", recursive=True)[0])
        wanted = [path.strip("/") for path in _list(asked.get("paths")) if isinstance(path, str)]
        there = [path for path in wanted if path in found.files or path in folders]
        return web.json_response([_row(found, path, expand=expand) for path in there])

    # -- bytes ---------------------------------------------------------------------------------

    async def file(self, request: web.Request) -> web.StreamResponse:
        """A file, or for a HEAD what can be said of it."""
        self._check_token(request)
        where, kind = request.match_info, _kind(request)
        found, file = await find_file(
            self._shelf, kind, where["owner"], where["name"], where["revision"], where["path"]
        )
        if found is None:
            await self._snapshot(request)  # says which of the two is missing
            raise _Refused(404, "RevisionNotFound", "it was removed a moment ago")
        headers = {"X-Repo-Commit": found.commit}
        if file is None:
            raise _Refused(404, "EntryNotFound", "Entry not found", headers)
        name = file.path.rpartition("/")[2]
        headers |= {
            "ETag": f'"{file.git_sha1 or file.sha256}"',
            "Content-Disposition": f"inline; filename*=UTF-8''{quote(name, safe='')}",
        }
        if file.is_lfs:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
            if self._options.cdn is not None and file.size >= self._options.cdn_from:
                location = signed_url(self._options, file, commit=found.commit)
                return web.Response(status=302, headers={**headers, "Location": location})
        return await send_file(
            request, file, headers=headers, rate=self._options.rate, log=self._options.log
        )


def _in_order(found: ServedSnapshot) -> list[ServedFile]:
    return [found.files[path] for path in sorted(found.files)]


def _sibling(file: ServedFile, detailed: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": file.path}
    if detailed:
        row |= {"size": file.size, "blobId": _git_name(file)}
        if file.is_lfs:
            # Here the key is `sha256`, in the tree it is `oid`.
            row["lfs"] = {"sha256": file.sha256, **_lfs_sizes(file)}
    return row


def _row(found: ServedSnapshot, path: str, *, expand: bool) -> dict[str, Any]:
    file = found.files.get(path)
    if file is None:
        # A folder has no history here, so its git name is made up. Nobody asks for it.
        oid = hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
        row: dict[str, Any] = {"type": "directory", "oid": oid, "size": 0, "path": path}
    else:
        row = {"type": "file", "oid": _git_name(file), "size": file.size, "path": path}
        if file.is_lfs:
            row["lfs"] = {"oid": file.sha256, **_lfs_sizes(file)}
    if expand:
        commit = {"id": found.commit, "title": "what the folder holds", "date": _date(found)}
        row["lastCommit"] = commit
    return row


def _git_name(file: ServedFile) -> str:
    """What git calls the file; of one in LFS, what it calls the pointer that stands for it."""
    if file.git_sha1 is not None:
        return file.git_sha1
    return blob_name(lfs_pointer(file.sha256, file.size))


def _lfs_sizes(file: ServedFile) -> dict[str, int]:
    return {"size": file.size, "pointerSize": len(lfs_pointer(file.sha256, file.size))}


def _date(found: ServedSnapshot) -> str:
    return datetime.fromtimestamp(found.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _kind(request: web.Request) -> Kind:
    return _KINDS[request.match_info.get("kind", "models")]


def _is_true(value: object) -> bool:
    """Clients write it in either case."""
    return value is True or (isinstance(value, str) and value.lower() == "true")


def _cursor_after(path: str) -> str:
    return base64.urlsafe_b64encode(path.encode()).decode()


def _cursor(request: web.Request) -> str:
    """The path after which a page begins; empty for the first page."""
    try:
        return base64.urlsafe_b64decode(request.query.get("cursor", "").encode()).decode()
    except (binascii.Error, UnicodeError):
        raise _Refused(400, "", "Invalid cursor") from None


async def _asked_as_json(request: web.Request) -> dict[str, Any]:
    try:
        asked = await request.json()
    except ValueError:
        raise _Refused(400, "", "Invalid JSON") from None
    return asked if isinstance(asked, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
