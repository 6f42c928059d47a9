"""A ModelScope hub in memory, with the quirks of the real one and of others as switches."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio

from modelhaul.core.repo import Kind
from modelhaul.net.transport import Redirect, Response

ENDPOINT = "https://hub.test"
Tree = Mapping[str, int]  # path to size

NOT_FOUND = Response(
    status=404, headers={}, body=b'{"Code": 10010205001, "Message": "record not found"}'
)


def enveloped(data: object, **more: object) -> Response:
    """A good answer."""
    body = {"Code": 200, "Data": data, "Message": "success", "Success": True, **more}
    return Response(status=200, headers={}, body=json.dumps(body).encode())


def digest(path: str, size: int) -> str:
    """What the hub says a file's SHA-256 is."""
    return f"{abs(hash_of(path)):08x}{size:056x}"


def hash_of(text: str) -> int:
    """A small stable hash."""
    value = 0
    for char in text:
        value = (value * 31 + ord(char)) & 0xFFFFFFFF
    return value


@dataclass
class FakeHub:
    """Implements `call` of `modelhaul.net.transport.Transport`.

    Attributes:
        trees: by revision name and by commit; what is not in there is not found.
        commits: commit by revision; None: the server has no commits call.
        kind, owner, name: the one repository.
        cut: entries after which a model's listing ends without a word; None never.
        paged: page numbers are honoured.
        names: what the revisions call lists; None: no such call.
        override: looks at each URL first and may answer instead.
    """

    trees: Mapping[str, Tree]
    commits: Mapping[str, str] | None = None
    kind: Kind = "model"
    owner: str = "o"
    name: str = "n"
    cut: int | None = 3000
    paged: bool = True
    names: list[str] | None = None
    override: Callable[[str], Response | Redirect | None] = lambda url: None
    urls: list[str] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    active: int = 0
    most_active: int = 0

    async def call(
        self, url: str, *, headers: Mapping[str, str], limit: int
    ) -> Response | Redirect:
        self.urls.append(url)
        self.headers.append(dict(headers))
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            await anyio.sleep(0.01)
            return self.override(url) or self._answer(url)
        finally:
            self.active -= 1

    fetch: Any = None
    aclose: Any = None

    def asked(self, ending: str) -> list[dict[str, str]]:
        """Parameters of the calls whose path ends so."""
        parts = [urlsplit(url) for url in self.urls]
        return [
            {key: values[0] for key, values in parse_qs(part.query).items()}
            for part in parts
            if part.path.endswith(ending)
        ]

    def _answer(self, url: str) -> Response:
        parts = urlsplit(url)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        base = f"/api/v1/{self.kind}s/{self.owner}/{self.name}"
        if not (parts.path + "/").startswith(base + "/"):
            return NOT_FOUND
        call = parts.path.removeprefix(base)
        if call == "":
            return enveloped({"Name": self.name})
        if call == "/commits" and self.commits is not None:
            commit = self.commits.get(query["Ref"])
            return enveloped({"Commit": [{"Id": commit}] if commit else None})
        if call == "/revisions" and self.names is not None:
            return enveloped({"RevisionMap": {"Branches": [{"Revision": n} for n in self.names]}})
        tree = self.trees.get(query.get("Revision", ""))
        if call not in ("/repo/files", "/repo/tree") or tree is None:
            return NOT_FOUND
        rows = _rows(tree, query.get("Root", ""), recursive=query["Recursive"] == "True")
        if call == "/repo/files":
            return enveloped({"Files": rows[: self.cut]})
        size = int(query["PageSize"])
        start = (int(query["PageNumber"]) - 1) * size
        return enveloped({"Files": rows[start : start + size] if self.paged else rows})


def _rows(tree: Tree, root: str, *, recursive: bool) -> list[dict[str, object]]:
    prefix = f"{root.strip('/')}/" if root.strip("/") else ""
    rows: dict[str, dict[str, object]] = {}
    for path, size in tree.items():
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for level in range(1, len(parts) if recursive else min(2, len(parts))):
            folder = prefix + "/".join(parts[:level])
            rows[folder] = {"Path": folder, "Type": "tree", "Size": 0, "Sha256": ""}
        if recursive or len(parts) == 1:
            sha256 = digest(path, size)
            rows[path] = {"Path": path, "Type": "blob", "Size": size, "Sha256": sha256}
    return [rows[path] for path in sorted(rows)]
