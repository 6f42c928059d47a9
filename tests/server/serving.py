"""A hub on a real socket and a plain HTTP client for it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from modelhaul.engine.threads import WorkerThreads
from modelhaul.server.app import hub_app
from modelhaul.server.cdn import cdn_app
from modelhaul.server.options import ServeOptions
from modelhaul.server.serve import running
from modelhaul.server.shelf import Shelf
from modelhaul.store.index import ProvenIndex


@dataclass
class Asked:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, whatever the status."""
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        """`Data` of a good envelope."""
        envelope = json.loads(self.body)
        assert (self.status, envelope["Code"], envelope["Success"]) == (200, 200, True)
        assert envelope["RequestId"]
        return envelope["Data"]


@dataclass
class Hub:
    """A running hub and a client for it."""

    url: str
    session: aiohttp.ClientSession

    async def get(
        self, path: str, *, method: str = "GET", data: Any = None, **headers: str
    ) -> Asked:
        target = URL(path if "://" in path else self.url + path, encoded=True)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(
            method, target, headers=fields, data=data, allow_redirects=False
        ) as answer:
            return Asked(answer.status, answer.headers, await answer.read())


@asynccontextmanager
async def serving(root: Path, *, cdn: bool = False, **changes: Any) -> AsyncIterator[Hub]:
    """Run a hub over a folder, and with `cdn` a store for its large files."""
    index = ProvenIndex(root.parent / "proven.sqlite")
    shelf = Shelf(root, index, WorkerThreads())
    options = ServeOptions(secret=b"key", **changes)
    try:
        async with (
            running(cdn_app(shelf, options), "127.0.0.1", 0) as store,
            running(
                hub_app(shelf, replace(options, cdn=store) if cdn else options), "127.0.0.1", 0
            ) as url,
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        ):
            yield Hub(url, session)
    finally:
        index.close()
