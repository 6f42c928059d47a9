"""What the files in motion need of the run they belong to."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from modelhaul.core.hedging import LEAST
from modelhaul.core.scheduler import CHUNK, Job, Lease
from modelhaul.core.sources import SourceState
from modelhaul.engine.buffers import BufferPool
from modelhaul.engine.burst import Burst
from modelhaul.engine.lanes import Lanes
from modelhaul.engine.task import Order, Task
from modelhaul.engine.threads import Threads
from modelhaul.events import Event
from modelhaul.store.index import ProvenIndex

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a run behaves. Bytes and seconds.

    Attributes:
        chunk: planning grid.
        small: files up to this size are fetched whole, without a journal.
        unhashed: bytes of a file, in one piece, that may be written and not hashed yet before its
            requests wait for the hashing.
        files_at_once: most large files in motion.
        patience: without a new byte for this long the run ends.
        idle_timeout: a connection may be silent for this long.
        reserve: really allocate the blocks of parts.
        repeats: bytes that may arrive twice, if that is more than 2 % of the run.
        burst: nothing is published before everything is proven.
    """

    chunk: int = CHUNK
    small: int = 1 * MIB
    unhashed: int = 4 * MIB
    files_at_once: int = 8
    patience: float = 600.0
    idle_timeout: float = 30.0
    reserve: bool = False
    repeats: int = LEAST
    burst: bool = False


class Context(Protocol):
    """The run, as seen from one of its files. Nothing here waits unless it is `async`."""

    pool: BufferPool
    threads: Threads
    lanes: Lanes
    index: ProvenIndex
    options: Options
    burst: Burst | None
    locks: bool
    token: str

    def emit(self, event: Event) -> None:
        """Tell the listener."""

    def received(self, lease: Lease, count: int) -> float:
        """Bytes arrived from the network; gives the moment, in seconds, monotonic."""
        ...

    def repeated(self, lease: Lease, count: int) -> None:
        """Bytes arrived from the network that somebody else has brought; nobody uses them."""

    def heard(self, lease: Lease) -> None:
        """Bytes went by that nobody wants: its server is not silent."""

    def now(self) -> float:
        """Seconds, monotonic."""
        ...

    def hold(self, lease: Lease) -> None:
        """From here on nothing is read for the lease, for reasons of our own."""

    def listen(self, lease: Lease) -> None:
        """Reading goes on."""

    def held(self, lease: Lease) -> AbstractContextManager[None]:
        """`hold()`, and at the end `listen()`."""
        ...

    def recorded(self, count: int) -> None:
        """Bytes were written that had never been written before."""

    def add_job(self, job: Job) -> None:
        """A file wants bytes."""

    def remove_job(self, job: Job) -> None:
        """A file wants no more bytes; its requests are taken back."""

    def frontier_moved(self) -> None:
        """What was too far ahead may be asked for now."""

    def more_work(self) -> None:
        """There may be something to fetch again."""

    def fetch_instead(self, task: Task) -> None:
        """What was to be copied cannot be; its sources have it."""

    def renew(self, since: float) -> None:
        """What was open at this moment is suspect: the next requests go over new connections."""

    def lied(self, source: SourceState, path: str, note: str) -> None:
        """Bytes of this file from this source were wrong, as the right digest shows."""

    def again(self, job: Job) -> None:
        """A whole file has to be fetched once more."""

    def throttled(self) -> bool:
        """Whether the user's rate limit forbids the next byte now."""
        ...

    async def wait_throttle(self) -> None:
        """Wait until the user's rate limit allows the next byte."""

    async def recheck(self, order: Order) -> bool:
        """Whether the final name holds the wanted content by now."""
        ...
