"""The embedded hub in a thread of its own, with a switch for faults and a record of requests."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
from aiohttp import web

from modelhaul.engine.threads import WorkerThreads
from modelhaul.server.app import hub_app
from modelhaul.server.body import RequestLog
from modelhaul.server.cdn import cdn_app
from modelhaul.server.options import ServeOptions
from modelhaul.server.serve import running
from modelhaul.server.shelf import Shelf
from modelhaul.store.index import ProvenIndex

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answer = web.StreamResponse | None
#: Looks at a request before it is answered; returns an answer of its own, or None.
Fault = Callable[[web.Request], Answer | Awaitable[Answer]]
#: Looks at what the hub answers, before it goes out if it is small; gives that, or another answer.
Change = Callable[[web.Request, web.StreamResponse], web.StreamResponse]


@dataclass(frozen=True)
class Seen:
    """One request as it reached a server."""

    server: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    method: str = "GET"


@dataclass
class TestHub:
    """A running hub.

    Attributes:
        root: the folder that is served; files put there are seen at once.
        url: its address; `cdn` that of the store large files are redirected to.
        seen: every request so far.
        under_way: answers that have begun and not ended; their lines are not in the log yet.
        fault: may answer in place of the hub; set it while it runs.
        change: may change what the hub answers.
        log: request log with the bytes really sent.
    """

    root: Path
    log: Path
    url: str = ""
    cdn: str = ""
    seen: list[Seen] = field(default_factory=list)
    under_way: int = 0
    fault: Fault = lambda request: None
    change: Change = lambda request, answer: answer

    def files_asked(self) -> list[Seen]:
        """Requests for bytes of files."""
        return [
            seen
            for seen in self.seen
            if seen.method == "GET"
            and (
                seen.path.endswith("/repo")
                or "/resolve/" in seen.path
                or seen.path.startswith("/blob/")
            )
        ]


@contextmanager
def hub_in_thread(root: Path, log: Path, **options: Any) -> Iterator[TestHub]:
    """Serve `root` on loopback while the block runs.

    Args:
        root: holds owner/name/ trees.
        log: file for the request log.
        options: changes to `ServeOptions`.
    """
    hub = TestHub(root, log)
    ready = threading.Event()
    stop: list[Callable[[], None]] = []
    failure: list[BaseException] = []

    async def main() -> None:
        index = ProvenIndex(log.parent / "hub-index.sqlite")
        shelf = Shelf(root, index, WorkerThreads())
        with log.open("a") as file:
            settings = replace(
                ServeOptions(secret=b"test secret", log=RequestLog(file), cdn_from=100_000),
                **options,
            )
            async with running(
                _watched(cdn_app(shelf, settings), hub, "cdn"), "127.0.0.1", 0
            ) as cdn:
                settings = replace(settings, cdn=cdn)
                app = _watched(hub_app(shelf, settings), hub, "hub")
                async with running(app, "127.0.0.1", 0) as url:
                    hub.url, hub.cdn = url, cdn
                    done = anyio.Event()
                    token = anyio.lowlevel.current_token()
                    stop.append(lambda: anyio.from_thread.run_sync(done.set, token=token))
                    ready.set()
                    await done.wait()
        index.close()

    def run() -> None:
        try:
            anyio.run(main)
        except BaseException as error:
            failure.append(error)
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="test hub")
    thread.start()
    try:
        ready.wait(10)
        if failure:
            raise failure[0]
        yield hub
    finally:
        if stop:
            stop[0]()
        thread.join(10)


def put(root: Path, repo: str, files: Mapping[str, bytes]) -> Path:
    """Put a repository, owner/name, below the root of a hub; returns its folder."""
    folder = root / repo
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder


@contextmanager
def hub_with(
    repositories: Mapping[str, Mapping[str, bytes]], folder: Path, **options: Any
) -> Iterator[TestHub]:
    """Serve repositories, by owner/name, out of `folder`; see `hub_in_thread`."""
    for repo, files in repositories.items():
        put(folder / "root", repo, files)
    with hub_in_thread(folder / "root", folder / "requests.jsonl", **options) as hub:
        yield hub


def _watched(app: web.Application, hub: TestHub, server: str) -> web.Application:
    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        hub.seen.append(
            Seen(
                server,
                request.path,
                dict(request.query),
                dict(request.headers.items()),
                request.method,
            )
        )
        hub.under_way += 1
        try:
            answer = hub.fault(request)
            if inspect.isawaitable(answer):
                answer = await answer
            return answer if answer is not None else hub.change(request, await handler(request))
        finally:
            hub.under_way -= 1

    app.middlewares.insert(0, watch)
    return app
