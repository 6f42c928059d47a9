"""A Hugging Face Hub in memory: one repository, and what the real one says about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import anyio

from modelhaul.core.repo import Kind
from modelhaul.net.transport import Redirect, Response

ENDPOINT = "https://hf.test"
COMMIT = "c" * 40


def answer(body: object, status: int = 200, **headers: str) -> Response:
    """An answer with JSON in it; `x_error_code` becomes the header `x-error-code`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status=status, headers=named, body=json.dumps(body).encode())


def refusal(status: int, code: str = "", message: str = "") -> Response:
    """How the Hub says no: a code and a message in headers, the message in the body as well."""
    headers = {"x_error_code": code} if code else {}
    if message:
        headers["x_error_message"] = message
    return answer({"error": message or "no"}, status, **headers)


NO_REPO = refusal(404, "RepoNotFound", "Repository not found")


def sha256(path: str) -> str:
    """What the hub says the content of an LFS file is."""
    return hashlib.sha256(path.encode()).hexdigest()


def oid(path: str) -> str:
    """What the hub says git calls a file, or its pointer."""
    return hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()


def row(path: str, size: int) -> dict[str, object]:
    """An entry of a tree; what ends in .bin is in LFS."""
    found: dict[str, object] = {"type": "file", "oid": oid(path), "size": size, "path": path}
    if path.endswith(".bin"):
        found["lfs"] = {"oid": sha256(path), "size": size, "pointerSize": 134}
        found["xetHash"] = "d" * 64
    return found


@dataclass
class FakeHf:
    """Implements `call` of `modelhaul.net.transport.Transport`.

    Attributes:
        files: path to size.
        kind, repo: the one repository.
        revisions: what they name.
        gated: what the description says of it.
        token: who has it may see everything; None: everybody may.
        page: entries on one page of the tree.
        links: where the next page is said to be; the real hub says huggingface.co to everybody.
        row: an entry of the tree for a path and a size.
        override: looks at each URL first and may answer instead.
    """

    files: Mapping[str, int]
    kind: Kind = "model"
    repo: str = "o/n"
    revisions: Mapping[str, str] = field(default_factory=lambda: {"main": COMMIT, COMMIT: COMMIT})
    gated: object = False
    token: str | None = None
    page: int = 1000
    links: str = ENDPOINT
    row: Callable[[str, int], dict[str, object]] = row
    override: Callable[[str], Response | Redirect | None] = lambda url: None
    urls: list[str] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)

    fetch: Any = None
    aclose: Any = None

    @property
    def base(self) -> str:
        return f"/api/{self.kind}s/{self.repo}"

    async def call(
        self, url: str, *, headers: Mapping[str, str], limit: int
    ) -> Response | Redirect:
        self.urls.append(url)
        self.headers.append(dict(headers))
        await anyio.sleep(0.01)
        may = self.token is None or headers.get("Authorization") == f"Bearer {self.token}"
        return self.override(url) or self._answer(url, may=may)

    def asked(self) -> list[str]:
        """Paths and queries of all calls, below the endpoint."""
        return [url.removeprefix(ENDPOINT) for url in self.urls]

    def _answer(self, url: str, *, may: bool) -> Response:
        parts = urlsplit(url)
        path = parts.path
        if not (path + "/").startswith(self.base + "/"):
            return NO_REPO
        call = path.removeprefix(self.base).strip("/").split("/")
        if call == ["auth-check"]:
            return answer({}) if may else refusal(403, "GatedRepo", "Access is restricted")
        if call == [""]:
            return answer({"id": self.repo})
        if call == ["refs"]:
            names = [{"name": name, "ref": f"refs/heads/{name}"} for name in self.revisions]
            return answer({"branches": names, "tags": []})
        commit = self.revisions.get(unquote(call[1]))
        if commit is None:
            return refusal(404, "RevisionNotFound", f"Invalid rev id: {call[1]}")
        if call[0] == "revision":
            about = {"id": self.repo, "sha": commit, "gated": self.gated, "disabled": False}
            return answer({**about, "siblings": [], "private": False})
        assert call[0] == "tree"
        return self._tree(parts.path, parse_qs(parts.query))

    def _tree(self, path: str, query: Mapping[str, list[str]]) -> Response:
        assert query["recursive"] == ["true"], "only the whole tree is what is wanted"
        start = int(query.get("cursor", ["0"])[0])
        rows = [self.row(path, size) for path, size in self.files.items()]
        folders = sorted({path.rpartition("/")[0] for path in self.files} - {""})
        rows += [
            {"type": "directory", "oid": oid(name), "size": 0, "path": name} for name in folders
        ]
        stop = start + self.page
        more = {}
        if stop < len(rows):
            where = f"{self.links}{path}?recursive=true&expand=false&cursor={stop}"
            more["link"] = f'<{where}>; rel="next"'
        return answer(rows[start:stop], **more)
