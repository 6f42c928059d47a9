"""Runs of the real command that die where a test says, and what they leave."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelhaul.core.span import Span, SpanSet
from modelhaul.server.body import read_log
from modelhaul.store.claim import read_runs
from tests.support import hub as hubs
from tests.support.lethal import How, live
from tests.support.sent_twice import Entry, Kill, before_kill, connections
from tests.support.world import World

#: What the command loads only when it needs it.
LOADED_LATER = [
    "anyio._backends._asyncio",
    "uvloop",
    "modelhaul.client",
    "modelhaul.net.fast",
    "modelhaul.usecases.download",
]
_NUMBERS = itertools.count(1)


_PROCESSES = multiprocessing.get_context("forkserver")
# A start costs 0.3 s of CPU, nearly all of it imports: made once, in the process that is forked.
_PROCESSES.set_forkserver_preload(["modelhaul.cli.main", *LOADED_LATER])


def fresh(hub: hubs.TestHub, folder: Path) -> World:
    """A machine in `folder` on which nothing was downloaded yet."""
    world = World(hub, folder / "home", folder / "work")
    world.home.mkdir()
    world.work.mkdir()
    return world


class Life:
    """One run of the command, in a process of its own that ends with the test at the latest.

    Args:
        world: the machine it runs on.
        arguments: of the command.
        how: fields of `tests.support.lethal.How`.
    """

    def __init__(self, world: World, *arguments: str, **how: Any) -> None:
        root = world.work.parent
        output = root / f"life{next(_NUMBERS)}"
        self._errors = output.with_suffix(".err")
        self.process = _PROCESSES.Process(
            target=live,
            args=(
                list(arguments),
                world.environment,
                str(world.work),
                How(output=str(output), root=str(root), **how),
            ),
            daemon=True,
        )
        self.process.start()

    def wait(self, seconds: float = 30) -> int:
        """Its exit code, negative for a signal."""
        self.process.join(seconds)
        code = self.process.exitcode
        assert code is not None, f"still running after {seconds} s: {self.errors}"
        return code

    def kill(self) -> Kill:
        """SIGKILL; returns when it is gone."""
        assert self.process.pid is not None
        kill = before_kill(self.process.pid, os.getpid())
        self.process.kill()
        self.process.join()
        # A whole small file can come between the look at the queues and the end.
        return replace(kill, time=time.time())

    @property
    def errors(self) -> str:
        """What it said on stderr so far."""
        return self._errors.read_text() if self._errors.exists() else ""


@contextmanager
def ended(lives: list[Life]) -> Iterator[None]:
    """None of them survives the block, whatever fails in it."""
    try:
        yield
    finally:
        for life in lives:
            life.process.kill()
            life.process.join()


@dataclass
class Log:
    """The part of a hub's log that is new since the last look."""

    hub: hubs.TestHub
    seen: int = 0

    def more(self) -> list[Entry]:
        """New entries, once the hub has noticed that every connection is gone."""
        limit = time.monotonic() + 20
        while self.hub.under_way or connections(os.getpid()):
            assert time.monotonic() < limit, "the hub still has open connections"
            time.sleep(0.01)
        entries = read_log(self.hub.log)
        new, self.seen = entries[self.seen :], len(entries)
        return new


def safe(folder: Path, sizes: dict[str, int]) -> dict[str, SpanSet]:
    """By path, the bytes that no later run may fetch again: published, or recorded."""
    kept = {}
    state = folder / ".modelhaul"
    journals = sorted(state.glob("*.journal")) if state.is_dir() else []
    for path, size in sizes.items():
        kept[path] = SpanSet()
        if (folder / path).exists():
            kept[path].add(Span(0, size))
    for journal in journals:
        header, runs = read_runs(journal)
        if header is not None and journal.with_suffix(".part").exists():
            for record in runs:
                kept[header.label.rpartition(": ")[2]].add(record.span)
    return kept


def fetched_again(kept: dict[str, SpanSet], entries: list[Entry]) -> int:
    """Bytes that were sent although they were safe."""
    total = 0
    for entry in entries:
        span = Span(entry["start"], entry["start"] + entry["sent"])
        total += span.length - sum(gap.length for gap in kept[entry["path"]].gaps(span))
    return total
