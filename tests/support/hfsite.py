"""A Hugging Face site in memory: a repository whose LFS files are in a store elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio

from modelhaul import Client, Settings
from modelhaul.core.repo import RepoRef
from modelhaul.hubs.huggingface import file_url
from modelhaul.net.transport import Redirect, Request, Response
from tests.engine.harness import git_sha1
from tests.hubs.fakehf import COMMIT, ENDPOINT, FakeHf, oid
from tests.support.inline import InlineThreads
from tests.support.network import Asked, FakeNetwork, Fault, Served

REPO = "hf:o/n"
REF = RepoRef("huggingface", "model", "o", "n")
STORE = "https://cdn.test"


class HfSite(FakeNetwork):
    """The repository `o/n`; what ends in .bin is in LFS.

    Args:
        contents: the repository at its one commit.
        fault: as of `FakeNetwork`; an expired address is refused before it is asked.
        seconds: how long a signed address works.
        until: what a signed address says about that; "" says nothing.

    Attributes:
        hub: the calls about the repository.
        issued: signed addresses, each with the time at which it ends.
    """

    def __init__(
        self,
        contents: Mapping[str, bytes],
        fault: Callable[[Asked], Fault | None] = lambda asked: None,
        *,
        rate: float = 100e6,
        seconds: float = 3600.0,
        until: str = "",
    ) -> None:
        super().__init__({}, self._fault)
        self._later = fault
        self._seconds = seconds
        self._until = until
        self.issued: dict[str, float] = {}
        self.hub = FakeHf({path: len(data) for path, data in contents.items()})
        self.hub.row = lambda path, size: lfs_or_git(path, contents[path])
        for path, data in contents.items():
            served = Served(data, rate=rate)
            url = file_url(ENDPOINT, REF, COMMIT, path)
            self.files[url] = (
                Served(redirect=self._signer(path, served)) if path.endswith(".bin") else served
            )

    def _signer(self, path: str, served: Served) -> Callable[[Request], str]:
        def sign(request: Request) -> str:
            url = f"{STORE}/{path}?X-Amz-Signature={len(self.issued)}{self._until}"
            self.files[url] = served
            self.issued[url] = anyio.current_time() + self._seconds
            return url

        return sign

    def _fault(self, asked: Asked) -> Fault | None:
        if asked.url in self.issued and asked.time > self.issued[asked.url]:
            return Fault(status=403)
        return self._later(asked)

    async def call(
        self, url: str, *, headers: Mapping[str, str], limit: int
    ) -> Response | Redirect:
        return await self.hub.call(url, headers=headers, limit=limit)


def lfs_or_git(path: str, data: bytes) -> dict[str, object]:
    """The entry of a tree for a file with these bytes; what ends in .bin is in LFS."""
    found: dict[str, object] = {"type": "file", "path": path, "size": len(data)}
    if not path.endswith(".bin"):
        return {**found, "oid": git_sha1(data)}
    digest = hashlib.sha256(data).hexdigest()
    # Of the pointer, not of the content.
    return {**found, "oid": oid(path), "lfs": {"oid": digest, "size": len(data)}}


def client(network: FakeNetwork, folder: Path, **changes: object) -> Client:
    """A client of that site whose caches and memory are below `folder`.

    For virtual time, unless it is to look for a saved token (`hf_token=None`): that takes a thread.
    """
    settings = Settings(
        endpoint="https://modelscope.test",
        token="ms-SECRET",
        hf_endpoint=ENDPOINT,
        hf_token="",
        hf_token_path=folder / "token",
        hf_cache_dir=folder / "hf",
        home=folder / "home",
        cache_dir=folder / "cache",
        state_dir=folder / "state",
    )
    return Client(settings, transport=network, threads=InlineThreads(), **changes)  # type: ignore[arg-type]
