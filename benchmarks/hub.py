"""A hub in front of the origin that speaks both languages: ModelScope's and Hugging Face's.

    python -m benchmarks.hub CATALOGUE HOST STORE_URL

Prints its URL. The catalogue is JSON: `{"owner/name": [[path, size, sha256, place on disk], ...]}`;
a number instead of the list makes that many files up (they can be listed, not fetched). Large
files are redirected to `STORE_URL/blob/<sha256>?Expires=..&Signature=..`, which nginx serves
without looking at the signature; small ones are sent right away, as both real hubs do with files
that are in git itself.

The ModelScope side is the product's own server over a shelf whose digests are known already. The
Hugging Face side is what `hf download` of huggingface_hub 2.4.0 asks for with xet switched off.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from benchmarks.processes import die_with_parent
from modelhaul.core.repo import Kind
from modelhaul.server import modelscope
from modelhaul.server.cdn import signed_url
from modelhaul.server.options import ServeOptions
from modelhaul.server.serve import running
from modelhaul.server.shelf import ServedFile, ServedSnapshot, Shelved
from modelhaul.store.osfile import Stamp

LARGE = 1 << 20
_PAGE = 1000
_FOLDER = 2000  # made-up files per folder: below the 3000 where ModelScope cuts a listing


class FixedShelf:
    """The repositories of a catalogue, with the methods of `Shelf` that the hub uses."""

    def __init__(self, snapshots: Mapping[str, ServedSnapshot]) -> None:
        self._snapshots = dict(snapshots)

    async def repositories(self) -> list[Shelved]:
        found = []
        for name in self._snapshots:
            owner, _, repo = name.partition("/")
            found.append(Shelved("model", owner, repo, (("master", Path()),)))
        return found

    async def find(self, kind: Kind, owner: str, name: str) -> Shelved | None:
        for shelved in await self.repositories():
            if (shelved.kind, shelved.owner, shelved.name) == (kind, owner, name):
                return shelved
        return None

    async def snapshot(self, shelved: Shelved, revision: str) -> ServedSnapshot | None:
        return self.look(shelved.id, revision)

    async def listed(
        self, kind: Kind, owner: str, name: str, revision: str, *, anew: bool = False
    ) -> ServedSnapshot | None:
        return self.look(f"{owner}/{name}", revision) if kind == "model" else None

    def look(self, name: str, revision: str) -> ServedSnapshot | None:
        found = self._snapshots.get(name)
        known = found is not None and revision in ("master", "main", found.commit)
        return found if known else None


def made_up(count: int) -> list[tuple[str, int, str, str]]:
    """Entries of files that exist in listings only."""
    return [
        (
            f"part-{number // _FOLDER:03}/shard-{number:06}.bin",
            1_000_000 + number,
            hashlib.sha256(str(number).encode()).hexdigest(),
            "",
        )
        for number in range(count)
    ]


def snapshot_of(name: str, entries: int | list[tuple[str, int, str, str]]) -> ServedSnapshot:
    """A repository of the catalogue."""
    if isinstance(entries, int):
        entries = made_up(entries)
    files = {}
    for path, size, sha256, disk in entries:
        stamp = Stamp.of(Path(disk).stat()) if disk else Stamp(0, 0, size, 0, 0)
        files[path] = ServedFile(path, Path(disk), stamp, sha256)
    commit = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
    return ServedSnapshot(commit, 1_700_000_000, files)


class HuggingFace:
    """The calls of `hf download`: revision, tree, and where a file is."""

    def __init__(self, shelf: FixedShelf, options: ServeOptions) -> None:
        self._shelf = shelf
        self._options = options

    def routes(self) -> list[web.RouteDef]:
        repo = "/api/models/{owner}/{name}"
        return [
            web.get("/api/agent-harnesses", self.harnesses),
            web.get(repo, self.info),
            web.get(f"{repo}/revision/{{revision}}", self.info),
            web.get(f"{repo}/tree/{{revision}}", self.tree),
            web.get("/{owner}/{name}/resolve/{revision}/{path:.+}", self.resolve),
        ]

    def _found(self, request: web.Request) -> ServedSnapshot:
        where = request.match_info
        name = f"{where['owner']}/{where['name']}"
        found = self._shelf.look(name, where.get("revision", "main"))
        if found is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RepoNotFound"})
        return found

    async def harnesses(self, request: web.Request) -> web.Response:
        """Asked by every `hf` command; a 404 would be asked again in each run."""
        return web.json_response({"standardEnvVars": [], "harnesses": {}})

    async def info(self, request: web.Request) -> web.Response:
        found = self._found(request)
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        siblings = [{"rfilename": path} for path in found.files]
        row = {"_id": "0" * 24, "id": name, "modelId": name, "sha": found.commit}
        return web.json_response(
            {**row, "private": False, "gated": False, "tags": [], "siblings": siblings}
        )

    async def tree(self, request: web.Request) -> web.Response:
        """The files, in pages of 1000 with the next one in `Link`. Folders are left out."""
        files = list(self._found(request).files.values())
        start = int(request.query.get("cursor", "0"))
        headers = {}
        if start + _PAGE < len(files):
            following = request.url.update_query(cursor=str(start + _PAGE))
            headers["Link"] = f'<{following}>; rel="next"'
        page = files[start : start + _PAGE]
        return web.json_response([self._row(file) for file in page], headers=headers)

    def _row(self, file: ServedFile) -> dict[str, object]:
        row: dict[str, object] = {"type": "file", "path": file.path, "size": file.size}
        row["oid"] = git_id(file)
        if file.size >= LARGE:
            row["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 135}
        return row

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        found = self._found(request)
        headers = {"X-Repo-Commit": found.commit}
        file = found.files.get(request.match_info["path"])
        if file is None:
            raise web.HTTPNotFound(headers={**headers, "X-Error-Code": "EntryNotFound"})
        if file.size >= LARGE:
            quoted = f'"{file.sha256}"'
            headers |= {"X-Linked-Etag": quoted, "X-Linked-Size": str(file.size), "ETag": quoted}
            raise web.HTTPFound(signed_url(self._options, file), headers=headers)
        headers |= {"ETag": f'"{git_id(file)}"', "Content-Disposition": f"inline; {_name(file)}"}
        # The real client takes gzip for these; so small a file is sent as it is by both sides.
        return web.Response(body=file.disk.read_bytes(), headers=headers)


def git_id(file: ServedFile) -> str:
    """What git calls a file; of a large one, what it calls the pointer to it."""
    if file.size >= LARGE or not file.disk.name:
        pointer = "version https://git-lfs.github.com/spec/v1\n"
        data = f"{pointer}oid sha256:{file.sha256}\nsize {file.size}\n".encode()
    else:
        data = file.disk.read_bytes()
    sha1 = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    sha1.update(data)
    return sha1.hexdigest()


def _name(file: ServedFile) -> str:
    return f"filename*=UTF-8''{quote(file.path.rpartition('/')[2])}"


def make_app(
    catalogue: Mapping[str, int | list[tuple[str, int, str, str]]], store: str
) -> web.Application:
    """Both hubs in one application."""
    shelf = FixedShelf({name: snapshot_of(name, rows) for name, rows in catalogue.items()})
    options = ServeOptions(cdn=store, cdn_from=LARGE, secret=b"nobody looks at it")
    app = web.Application()
    # aiohttp takes the first route that fits, and the ModelScope ones all begin with a fixed word.
    app.add_routes(modelscope.routes(shelf, options))  # type: ignore[arg-type]  # what it uses of it
    app.add_routes(HuggingFace(shelf, options).routes())
    return app


async def serve(app: web.Application, host: str) -> None:
    """Until the process is ended."""
    async with running(app, host, 0) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    die_with_parent()
    catalogue, host, store = sys.argv[1:4]
    asyncio.run(serve(make_app(json.loads(Path(catalogue).read_text()), store), host))


if __name__ == "__main__":
    main()
