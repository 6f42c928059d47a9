"""The ModelScope protocol, server side: enough for modelhaul and the official clients to download.

Modelled on what modelscope 1.40.2 and 1.37.1 send and accept; the real server's quirks are kept
where clients depend on them (capital `True`, the cut at 3000 entries, 404 for what is hidden).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from modelhaul.core.repo import Kind
from modelhaul.server.body import send_file
from modelhaul.server.cdn import signed_url
from modelhaul.server.options import ServeOptions, same_secret
from modelhaul.server.shelf import (
    DEFAULT_REVISION,
    ServedFile,
    ServedSnapshot,
    Shelf,
    Shelved,
    find_file,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

TRUNCATE_AT = 3000
_COOKIE = "m_session_id"


def routes(shelf: Shelf, options: ServeOptions) -> list[web.RouteDef]:
    """What ModelScope's clients ask: listings, revisions, files."""
    hub = _Hub(shelf, options)
    api = "/api/v1/{kind:models|datasets}/{owner}/{name}"
    handlers = {
        api: hub.info,
        "/openapi/v1/{kind:models|datasets}/{owner}/{name}": hub.open_info,
        f"{api}/revisions": hub.revisions,
        f"{api}/commits": hub.commits,
        f"{api}/repo/files": hub.files,
        f"{api}/repo/tree": hub.tree,
        "/api/v1/datasets/{number:[0-9]+}/repo/tree": hub.tree_by_number,
        f"{api}/repo": hub.file,
        "/{kind:models}/{owner}/{name}/resolve/{revision}/{path:.+}": hub.resolve,
    }
    return [web.get(path, _errors_as_json(handler)) for path, handler in handlers.items()]


def _errors_as_json(handler: Handler) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return await nothing(request)

    return handle


async def nothing(request: web.Request) -> web.Response:
    """The answer where nothing is: clients read the envelope of an error, too."""
    return _failure(404, 10010205001, "not found, or you have no access")


def _success(data: object) -> web.Response:
    return web.json_response(
        {
            "Code": 200,
            "Data": data,
            "Message": "success",
            "RequestId": str(uuid.uuid4()),
            "Success": True,
        }
    )


def _failure(status: int, code: int, message: str) -> web.Response:
    return web.json_response(
        {
            "Code": code,
            "Data": None,
            "Message": message,
            "RequestId": str(uuid.uuid4()),
            "Success": False,
        },
        status=status,
    )


class _Hub:
    def __init__(self, shelf: Shelf, options: ServeOptions) -> None:
        self._shelf = shelf
        self._options = options

    # -- finding -------------------------------------------------------------------------------

    def _check_token(self, request: web.Request) -> None:
        """Hide everything from who does not know the token: as header, as cookie, or both."""
        expected = self._options.token
        if expected is None:
            return
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        given = bearer or request.cookies.get(_COOKIE, "")
        if not same_secret(given, expected):
            raise web.HTTPNotFound

    async def _repository(self, request: web.Request) -> Shelved:
        self._check_token(request)
        found = await self._shelf.find(
            _kind(request), request.match_info["owner"], request.match_info["name"]
        )
        if found is None:
            raise web.HTTPNotFound
        return found

    async def _snapshot(self, shelved: Shelved, revision: str | None) -> ServedSnapshot:
        found = await self._shelf.snapshot(shelved, revision or DEFAULT_REVISION)
        if found is None:
            raise web.HTTPNotFound
        return found

    # -- describing ----------------------------------------------------------------------------

    async def info(self, request: web.Request) -> web.Response:
        """A repository in the old envelope; the numeric id is what old clients list datasets by."""
        shelved = await self._repository(request)
        return _success(
            {
                "Id": _number(shelved),
                "Name": shelved.name,
                "Owner": shelved.owner,
                "Path": shelved.owner,
                "Type": 1,
                "Visibility": 5,
            }
        )

    async def open_info(self, request: web.Request) -> web.Response:
        """A repository in the newer envelope."""
        shelved = await self._repository(request)
        data = {
            "id": shelved.id,
            "owner": shelved.owner,
            "name": shelved.name,
            "private": self._options.token is not None,
            "gated": False,
        }
        return web.json_response({"success": True, "data": data, "request_id": str(uuid.uuid4())})

    async def revisions(self, request: web.Request) -> web.Response:
        """All names of revisions; a folder has no tags, so all but master count as such."""
        shelved = await self._repository(request)
        branches: list[dict[str, Any]] = []
        tags: list[dict[str, Any]] = []
        for name, _ in shelved.folders:
            found = await self._snapshot(shelved, name)
            row = {"Revision": name, "CreatedAt": found.created}
            (branches if name == DEFAULT_REVISION else tags).append(row)
        return _success({"RevisionMap": {"Branches": branches, "Tags": tags}})

    async def commits(self, request: web.Request) -> web.Response:
        """The one commit that a revision has."""
        shelved = await self._repository(request)
        ref = request.query.get("Ref") or DEFAULT_REVISION
        found = await self._shelf.snapshot(shelved, ref)
        if found is None:
            return _success({"Commit": None, "TotalCount": 0})
        row = {
            "Id": found.commit,
            "ShortId": found.commit[:8],
            "Title": "what the folder holds",
            "CommittedDate": found.created,
            "CreatedAt": found.created,
        }
        return _success({"Commit": [row], "TotalCount": 1})

    # -- listing -------------------------------------------------------------------------------

    async def files(self, request: web.Request) -> web.Response:
        """A model's files, cut at 3000 entries like the real server's."""
        shelved = await self._repository(request)
        found = await self._snapshot(shelved, request.query.get("Revision"))
        recursive = request.query.get("Recursive", "").lower() == "true"
        rows = _rows(found, request.query.get("Root", ""), recursive=recursive)
        return _success({"Files": rows[:TRUNCATE_AT], "LatestCommitter": {}})

    async def tree(self, request: web.Request) -> web.Response:
        """A dataset's files, by pages."""
        return await self._page(request, await self._repository(request))

    async def tree_by_number(self, request: web.Request) -> web.Response:
        """The same by the number that `info` gives; old clients ask like this."""
        self._check_token(request)
        number = int(request.match_info["number"])
        for shelved in await self._shelf.repositories():
            if shelved.kind == "dataset" and _number(shelved) == number:
                return await self._page(request, shelved)
        raise web.HTTPNotFound

    async def _page(self, request: web.Request, shelved: Shelved) -> web.Response:
        found = await self._snapshot(shelved, request.query.get("Revision"))
        recursive = request.query.get("Recursive", "").lower() == "true"
        rows = _rows(found, request.query.get("Root", ""), recursive=recursive)
        page = _positive(request.query.get("PageNumber"), 1)
        size = min(_positive(request.query.get("PageSize"), 200), 200)
        start = (page - 1) * size
        return _success({"Files": rows[start : start + size], "TotalCount": len(rows)})

    # -- bytes ---------------------------------------------------------------------------------

    async def file(self, request: web.Request) -> web.StreamResponse:
        """A file by query: what the clients ask."""
        return await self._send(
            request, request.query.get("Revision"), request.query.get("FilePath", "")
        )

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        """A file by path: what people paste."""
        return await self._send(request, request.match_info["revision"], request.match_info["path"])

    async def _send(
        self, request: web.Request, revision: str | None, path: str
    ) -> web.StreamResponse:
        self._check_token(request)
        where = request.match_info
        found, file = await find_file(
            self._shelf,
            _kind(request),
            where["owner"],
            where["name"],
            revision or DEFAULT_REVISION,
            path,
        )
        if found is None or file is None:
            raise web.HTTPNotFound
        headers = {
            "X-Linked-ETag": file.sha256,
            "X-Linked-Size": str(file.size),
            "X-Repo-Commit": found.commit,
        }
        if self._options.cdn is not None and file.size >= self._options.cdn_from:
            raise web.HTTPFound(signed_url(self._options, file), headers=headers)
        return await send_file(
            request, file, headers=headers, rate=self._options.rate, log=self._options.log
        )


def _rows(found: ServedSnapshot, root: str, *, recursive: bool) -> list[dict[str, Any]]:
    """Entries below `root`, folders included, in the order of their paths."""
    folders, files = found.below(root, recursive=recursive)
    rows = [*map(_folder_row, folders), *(_file_row(found, file) for file in files)]
    return sorted(rows, key=lambda row: str(row["Path"]))


def _file_row(found: ServedSnapshot, file: ServedFile) -> dict[str, Any]:
    return {
        "Name": file.path.rpartition("/")[2],
        "Path": file.path,
        "Type": "blob",
        "Size": file.size,
        "Mode": "33188",
        "Revision": found.commit,
        "Sha256": file.sha256,
        "IsLFS": file.size >= 1 << 20,
        "InCheck": False,
        "CommitMessage": "",
        "CommittedDate": found.created,
        "CommitterName": "",
    }


def _folder_row(path: str) -> dict[str, Any]:
    return {
        "Name": path.rpartition("/")[2],
        "Path": path,
        "Type": "tree",
        "Size": 0,
        "Mode": "16384",
        "Revision": "",
        "Sha256": "",
    }


def _kind(request: web.Request) -> Kind:
    return "dataset" if request.match_info["kind"] == "datasets" else "model"


def _number(shelved: Shelved) -> int:
    digest = hashlib.sha256(f"{shelved.kind}/{shelved.id}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _positive(text: str | None, default: int) -> int:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        return default
    return max(1, int(text))
