"""Both hubs and other sites in memory, as one network, and a client that knows both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelhaul import Client, Report, Settings
from modelhaul.core.origin import origin_of
from modelhaul.net.transport import Answer, Receiver, Redirect, Request, Response
from tests.hubs import fakehf, fakehub
from tests.support.hfsite import STORE
from tests.support.inline import InlineThreads
from tests.support.network import FakeNetwork
from tests.support.virtual import virtual

MS, HF = str(origin_of(fakehub.ENDPOINT)), str(origin_of(fakehf.ENDPOINT))


class Web:
    """Several networks in one; each request goes to the one that knows its origin."""

    def __init__(self, ms: FakeNetwork, hf: FakeNetwork, **others: FakeNetwork) -> None:
        self.ms, self.hf = ms, hf
        self.all = [ms, hf, *others.values()]
        self._by_origin = {MS: ms, HF: hf, STORE: hf}
        self._by_origin |= {f"https://{name}.test": network for name, network in others.items()}

    def _of(self, url: str) -> FakeNetwork:
        return self._by_origin[str(origin_of(url))]

    async def fetch(self, request: Request, receiver: Receiver) -> Answer | Redirect:
        return await self._of(request.url).fetch(request, receiver)

    async def call(
        self, url: str, *, headers: Mapping[str, str], limit: int
    ) -> Response | Redirect:
        return await self._of(url).call(url, headers=headers, limit=limit)

    def renew(self) -> None:
        for network in self.all:
            network.renew()

    async def aclose(self) -> None:
        for network in self.all:
            await network.aclose()

    @property
    def sent(self) -> list[int]:
        """Bytes that came from each network."""
        return [network.sent for network in self.all]


def settings(path: Path) -> Settings:
    """Those of a machine whose home is `path`."""
    return Settings(
        endpoint=fakehub.ENDPOINT,
        token="ms-SECRET",
        hf_endpoint=fakehf.ENDPOINT,
        hf_token="hf-SECRET",
        home=path / "home",
        cache_dir=path / "cache",
        hf_cache_dir=path / "hf",
        state_dir=path / "state",
    )


def bring(web: Web, path: Path, repo: str, **how: Any) -> Report:
    """Download in virtual time, on the machine whose home is `path`; `how` as of the API."""
    changes = how.pop("settings", {})

    async def main() -> Report:
        here = settings(path).changed(**changes)
        async with Client(here, transport=web, threads=InlineThreads()) as client:
            return await client.download(repo, **how)

    return virtual(main)
