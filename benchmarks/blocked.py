"""A download onto a disk that blocks: how late a timer of the loop is at most.

    python -m benchmarks.blocked URL SHA256 FILE SECONDS

Each write into the part, and each sync of it, holds its thread for so many seconds first. Prints
JSON: `late`, seconds that a timer came too late at most; `blocked`, writes and syncs that were
held; `ahead`, the most bytes by which the progress was ahead of what had been written, which
should be 0.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from benchmarks.processes import die_with_parent
from modelhaul import Client
from modelhaul.events import Event, Progress
from modelhaul.store.sink import PartFile

#: Seconds between the timers whose lateness counts.
EVERY = 0.01


class BlockedDisk:
    """From now on each write into a part, and each sync of one, holds its thread for `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self.blocked = 0
        PartFile.write_at = self._late(PartFile.write_at)  # type: ignore[method-assign]
        PartFile.barrier = self._late(PartFile.barrier)  # type: ignore[method-assign]

    def _late(self, call: Callable[..., None]) -> Callable[..., None]:
        def late(*args: Any) -> None:
            with self._lock:
                self.blocked += 1
            time.sleep(self._seconds)
            call(*args)

        return late


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

    async with Client() as client:
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
