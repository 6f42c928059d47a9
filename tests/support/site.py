"""A ModelScope site in memory: one repository, its listing and its files, for whole runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelhaul import Client, Settings
from modelhaul.core.repo import RepoRef
from modelhaul.engine.threads import Threads
from modelhaul.hubs.modelscope import DEFAULT_REVISION, commits_url, file_url, files_url
from modelhaul.net.transport import Response
from tests.hubs.fakehub import ENDPOINT, enveloped
from tests.support.inline import InlineThreads
from tests.support.network import Asked, FakeNetwork, Fault, Served

REPO = "o/n"
REF = RepoRef("modelscope", "model", "o", "n")
COMMIT = "1" * 40


def site(
    files: Mapping[str, bytes],
    *,
    endpoint: str = ENDPOINT,
    commit: str = COMMIT,
    stated: bool = True,
    headers: Mapping[str, str] | None = None,
    fault: Callable[[Asked], Fault | None] = lambda asked: None,
) -> FakeNetwork:
    """A network on which the repository `o/n` can be had.

    Args:
        files: the repository at its one commit.
        endpoint: the address of the site.
        commit: what master names.
        stated: the listing states the SHA-256 of each file.
        headers: more headers of every answer with bytes of a file.
        fault: as of `FakeNetwork`.
    """
    network = FakeNetwork(
        {
            file_url(endpoint, REF, revision, path): Served(data, headers=headers or {})
            for path, data in files.items()
            for revision in (commit, DEFAULT_REVISION)
        },
        fault,
    )
    rows = [
        {
            "Path": path,
            "Type": "blob",
            "Size": len(data),
            "Sha256": hashlib.sha256(data).hexdigest() if stated else None,
        }
        for path, data in files.items()
    ]
    listing, commits = enveloped({"Files": rows}), enveloped({"Commit": [{"Id": commit}]})
    network.answers = {
        files_url(endpoint, REF, "", root="", recursive=True).partition("?")[0]: _always(listing),
        commits_url(endpoint, REF, "").partition("?")[0]: _always(commits),
    }
    return network


def client(
    network: FakeNetwork, folder: Path, *, threads: Threads | None = None, **changes: Any
) -> Client:
    """A client of that network whose cache and memory are below `folder`.

    For virtual time, unless it gets real `threads`. `changes` are those of `Client`.
    """
    settings = Settings(
        endpoint=ENDPOINT,
        token="",  # none at all: no saved login is looked for
        home=folder / "home",
        cache_dir=folder / "cache",
        state_dir=folder / "state",
    )
    return Client(settings, transport=network, threads=threads or InlineThreads(), **changes)


def _always(response: Response) -> Callable[[str], Response]:
    return lambda url: response
