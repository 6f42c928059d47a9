"""Whole downloads from a site in memory to a real folder, in virtual time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from modelhaul import HaulError, Report
from modelhaul.core.span import SpanSet
from modelhaul.engine.threads import Threads
from modelhaul.events import Listener
from tests.support.inline import InlineThreads
from tests.support.network import FakeNetwork
from tests.support.site import REPO, client
from tests.support.virtual import virtual


def bring(
    network: FakeNetwork,
    folder: Path,
    *,
    plain: bool = True,
    force: bool = False,
    threads: Threads | None = None,
    on_event: Listener | None = None,
    **changes: Any,
) -> Report:
    """Download the repository to `folder/m`, or to a cache in `folder`.

    Calls take a little while, as those of a disk do; `changes` are those of `Client`.
    """
    threads = threads or InlineThreads(write=0.001, sync=0.01)

    async def main() -> Report:
        async with client(network, folder, threads=threads, **changes) as here:
            return await here.download(
                REPO,
                local_dir=folder / "m" if plain else None,
                force=force,
                on_event=on_event,
            )

    return virtual(main)


def refusal(network: FakeNetwork, folder: Path, **options: Any) -> HaulError:
    """The error of a download that must fail."""
    with pytest.raises(HaulError) as caught:
        bring(network, folder, **options)
    return caught.value


def slowed(network: FakeNetwork, rate: float) -> FakeNetwork:
    """The same network with `rate` bytes/s for each connection."""
    for served in network.files.values():
        served.rate = rate
    return network


def asked(network: FakeNetwork, path: str) -> SpanSet:
    """Which bytes of a file were asked for."""
    return SpanSet(one.span for one in network.asked if one.url.endswith(path))


def names(folder: Path) -> list[str]:
    """What lies in a folder of ours, if there is one."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def content_of(folder: Path, paths: Iterable[str]) -> dict[str, bytes]:
    """Files that are there."""
    return {path: (folder / path).read_bytes() for path in paths if (folder / path).is_file()}
