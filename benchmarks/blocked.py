"""A download onto a disk that blocks: how late a timer of the loop is at most.

    python -m benchmarks.blocked URL SHA256 FILE SECONDS

Each call that writes (and each one that syncs) holds its thread for so many seconds first. Prints
JSON: `late`, seconds that a timer came too late at most; `blocked`, calls that were held; `ahead`,
the most bytes by which the progress was ahead of what had been written, which should be 0.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import anyio

from benchmarks.processes import die_with_parent
from modelhaul import Client
from modelhaul.engine.threads import WorkerThreads
from modelhaul.events import Event, Progress

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Seconds between the timers whose lateness counts.
EVERY = 0.01


class BlockedDisk(WorkerThreads):
    """Calls take longer by `seconds`, as on a disk that is busy with something else."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._lock = threading.Lock()
        self.blocked = 0

    async def write(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        return await super().write(lambda: self._late(call, *args))

    async def sync(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        return await super().sync(lambda: self._late(call, *args))

    def _late(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        with self._lock:
            self.blocked += 1
        time.sleep(self._seconds)
        return call(*args)


class Lateness:
    """Keeps a timer going and remembers how late it was at most, in seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due = 0.0
        self.most = 0.0

    def start(self) -> None:
        self._due = self._loop.time() + EVERY
        self._handle = self._loop.call_at(self._due, self._keep)

    def stop(self) -> None:
        self._handle.cancel()

    def _keep(self) -> None:
        self.most = max(self.most, self._loop.time() - self._due)
        self.start()


def written(file: Path) -> int:
    """Bytes of the part, or of the file, that have blocks on the disk."""
    places = [*(file.parent / ".modelhaul").glob("*.part"), file]
    return max((at.stat().st_blocks * 512 for at in places if at.exists()), default=0)


async def main(url: str, sha256: str, file: Path, seconds: float) -> None:
    disk = BlockedDisk(seconds)
    ahead = 0

    def notice(event: Event) -> None:
        nonlocal ahead
        if isinstance(event, Progress):
            ahead = max(ahead, event.statistics.done - written(file))

    async with Client(threads=disk) as client:
        lateness = Lateness(asyncio.get_running_loop())
        lateness.start()
        await client.get(url, path=file, sha256=sha256, on_event=notice)
        lateness.stop()
    print(json.dumps({"late": lateness.most, "blocked": disk.blocked, "ahead": ahead}))


if __name__ == "__main__":
    die_with_parent()
    anyio.run(
        main,
        sys.argv[1],
        sys.argv[2],
        Path(sys.argv[3]),
        float(sys.argv[4]),
        backend_options={"use_uvloop": True},
    )
