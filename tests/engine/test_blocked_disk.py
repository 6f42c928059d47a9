"""A disk that blocks: the loop goes on, memory is bounded, nothing counts before it is there."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import anyio
import pytest

from modelhaul import events
from modelhaul.core.plan import Action, FilePlan
from modelhaul.core.repo import RemoteFile
from modelhaul.engine.context import Options
from modelhaul.engine.task import Order
from modelhaul.engine.threads import WorkerThreads
from modelhaul.store.claim import read_runs
from tests.engine.harness import CHUNK, MIB, ORIGIN, Rig, payload, remote
from tests.support.inline import InlineThreads
from tests.support.network import SLICE, FakeNetwork, Fault, Served
from tests.support.virtual import virtual
from tests.support.watch import disk_calls

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

BLOCK = 4096
POOL = 2 * MIB
CONNECTIONS = 4


# -- in virtual time: each call takes a second ----------------------------------------------------


class Look:
    """What is really on the disk of a run, and what the run says about it, at one moment."""

    def __init__(self, rig: Rig, data: bytes) -> None:
        state = rig.target / ".modelhaul"
        place = next(iter(state.glob("*.part")), rig.target / "w")
        content = place.read_bytes() if place.exists() else b""
        right = [content[at : at + BLOCK] == data[at : at + BLOCK] for at in blocks(data)]
        self.stored = BLOCK * sum(right)
        self.prefix = BLOCK * (right.index(False) if False in right else len(right))
        journals = state.glob("*.journal")
        self.runs = [run.span for journal in journals for run in read_runs(journal)[1]]
        self.recorded_wrongly = [
            span
            for span in self.runs
            if content[span.start : span.stop] != data[span.start : span.stop]
        ]
        assert rig.engine is not None
        self.said = rig.engine.statistics()
        self.lent = rig.engine.pool.lent
        self.starved = rig.engine.pool.starved
        assert isinstance(rig.network, FakeNetwork)
        self.sent = rig.network.sent


def blocks(data: bytes) -> range:
    return range(0, len(data), BLOCK)


def bring_slowly(rig: Rig, data: bytes) -> list[Look]:
    """Bring one file `w` and look twenty times a second."""
    looks = []

    async def look() -> None:
        while True:
            await anyio.sleep(0.05)
            looks.append(Look(rig, data))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(look)
            (result,) = await rig.bring(rig.order(remote("w", data)))
            assert result.error is None
            group.cancel_scope.cancel()

    virtual(main)
    return looks


@pytest.fixture
def looks(target: Path) -> Iterator[list[Look]]:
    """Looks at a run whose line is much faster than its disk; the file is right in the end."""
    data = payload(8 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=4e6)})
    threads = InlineThreads(write=1.0)
    rig = Rig(target, network, connections=CONNECTIONS, memory=POOL, threads=threads)
    rig.options = replace(rig.options, chunk=2 * CHUNK)  # the pool is the limit, not the window

    yield bring_slowly(rig, data)

    assert (target / "w").read_bytes() == data
    assert rig.left() == []


def test_nothing_counts_as_done_verified_or_recorded_before_it_is_written(
    looks: list[Look],
) -> None:
    """What was received is another number, and runs ahead of it."""
    assert all(look.said.done <= look.stored for look in looks)
    assert all(look.said.verified <= look.prefix for look in looks)
    assert not any(look.recorded_wrongly for look in looks)
    assert any(look.runs for look in looks)
    assert all(look.said.done <= look.said.fetched <= look.sent for look in looks)
    assert any(look.said.done + MIB <= look.said.fetched for look in looks)


@pytest.mark.fault(
    "the disk is slower than the network",
    "reading pauses, memory stays bounded",
    number=75,
)
def test_reading_pauses_when_memory_is_used_up(looks: list[Look]) -> None:
    """What has been sent and is not written fits into the pool, but for a slice on each line."""
    assert all(look.lent <= POOL for look in looks)
    assert all(look.sent - look.stored <= POOL + CONNECTIONS * SLICE for look in looks)
    assert any(look.starved for look in looks)


@pytest.mark.parametrize("burst", [False, True], ids=["plain", "burst"])
@pytest.mark.parametrize("slow", ["write", "sync", "hash"])
def test_no_byte_is_counted_twice(target: Path, slow: str, burst: bool) -> None:
    """Not while a file goes from one hand to the next, however long that takes."""
    files = {"w": payload(MIB), **{f"s{n}": payload(20_000, n) for n in range(4)}}
    network = FakeNetwork({f"{ORIGIN}/{name}": Served(data) for name, data in files.items()})
    options = Options(chunk=CHUNK, small=32 * 1024, burst=burst)
    rig = Rig(target, network, options=options, threads=InlineThreads(**{slow: 2.0}))
    orders = [rig.order(remote(name, data)) for name, data in files.items()]

    virtual(lambda: rig.bring(*orders))

    told = [event for event in rig.seen if isinstance(event, events.Progress)]
    assert len(told) > 5
    assert all(event.statistics.done <= event.statistics.total for event in told)
    assert told[-1].statistics.done == sum(map(len, files.values()))


# -- in real threads: each call waits for the loop -------------------------------------------------


class WaitingDisk:
    """Implements `Threads`: each call holds its thread until the loop has kept some timers.

    And so between any two groups of what is written in one call: the loop gets in between.

    If the loop waited for one of these calls, neither would ever come back: then the call raises
    after a time that nobody who is well needs.
    """

    TIMERS = 3
    PATIENCE = 60.0

    def __init__(self) -> None:
        self._real = WorkerThreads()
        self._kept = 0
        self._turn = threading.Condition()
        self.calls = 0

    async def keep_timers(self) -> None:
        """Run beside the work, until cancelled."""
        while True:
            await anyio.sleep(0.001)
            with self._turn:
                self._kept += 1
                self._turn.notify_all()

    async def write(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._real.write(lambda: self._held(call, *args))

    async def hash(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._real.hash(lambda: self._held(call, *args))

    async def sync(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._real.sync(lambda: self._held(call, *args))

    def tell(self, call: Callable[[*Ts], None], *args: *Ts) -> None:
        self._real.tell(call, *args)
        self._hold()

    def check_cancelled(self) -> None:
        self._real.check_cancelled()

    def _held(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        self._hold()
        return call(*args)

    def _hold(self) -> None:
        with self._turn:
            self.calls += 1
            due = self._kept + self.TIMERS
            if not self._turn.wait_for(lambda: self._kept >= due, self.PATIENCE):
                raise AssertionError("the loop stood still while the disk did")


def test_the_watch_sees_what_waits_for_a_disk(tmp_path: Path) -> None:
    """Else the test below would say nothing."""
    with disk_calls() as seen:
        (tmp_path / "file").write_bytes(b"x")
        (tmp_path / "file").stat()
        (tmp_path / "file").unlink()
        database = sqlite3.connect(tmp_path / "base")
        database.execute("PRAGMA user_version")
        database.close()

    called = [call.partition(" ")[0] for call in seen]
    assert {"stat", "unlink", "execute", "close"} <= set(called)


@pytest.mark.parametrize("burst", [False, True], ids=["plain", "burst"])
def test_the_loop_never_waits_for_the_disk(target: Path, burst: bool) -> None:
    """Large, small, empty and copied files, from the claim to the last close."""
    files = {"w": payload(3 * MIB), "a/s": payload(5000, 2), "e": b"", "k": payload(70_000, 3)}
    network = FakeNetwork(
        {f"{ORIGIN}/{name}": Served(data, rate=1e12, delay=0) for name, data in files.items()}
    )
    disk = WaitingDisk()
    options = Options(chunk=CHUNK, small=32 * 1024, burst=burst)
    rig = Rig(target, network, options=options, threads=disk)
    orders = [rig.order(remote(name, data)) for name, data in files.items()]
    orders.append(copy_of(rig, remote("copy", files["w"])))

    async def main() -> list[str]:
        async with anyio.create_task_group() as group:
            group.start_soon(disk.keep_timers)
            with disk_calls() as seen:
                results = await rig.bring(*orders)
            assert [result.error for result in results] == [None] * len(orders)
            group.cancel_scope.cancel()
        return seen

    seen = anyio.run(main)

    # closing the memory is the harness's own doing
    assert [call for call in seen if "store/index.py" not in call] == []
    assert disk.calls > 10
    assert (target / "copy").read_bytes() == files["w"]
    assert all((target / name).read_bytes() == data for name, data in files.items())


class Stalling(FakeNetwork):
    """A network in which every body falls silent, and that can be waited for."""

    def __init__(self, files: dict[str, Served]) -> None:
        super().__init__(files, lambda asked: Fault(silent=100_000))
        self._sending = anyio.Event()

    async def pass_pipe(self, count: int) -> None:
        await super().pass_pipe(count)
        if self.sent >= 200_000:
            self._sending.set()

    async def wait_sending(self) -> None:
        """Wait until several bodies are under way."""
        await self._sending.wait()


def test_a_stop_does_not_wait_for_the_disk_on_the_loop(target: Path) -> None:
    """What has arrived is written, recorded and closed by other threads."""
    data = payload(3 * MIB)
    network = Stalling(
        {f"{ORIGIN}/{name}": Served(data, rate=1e12, delay=0) for name in ("w", "whole")}
    )
    disk = WaitingDisk()
    rig = Rig(target, network, threads=disk)
    orders = [rig.order(remote("w", data)), rig.order(remote("whole", data, digest=None))]

    async def main() -> list[str]:
        async with anyio.create_task_group() as group:
            group.start_soon(disk.keep_timers)
            with disk_calls() as seen:
                async with anyio.create_task_group() as run:
                    run.start_soon(rig.bring, *orders)
                    await network.wait_sending()
                    run.cancel_scope.cancel()
            group.cancel_scope.cancel()
        return seen

    seen = anyio.run(main)

    assert [call for call in seen if "store/index.py" not in call] == []
    assert len(rig.left()) == 2  # part and journal of the one that can be continued


def copy_of(rig: Rig, file: RemoteFile) -> Order:
    """A second place for content that the run fetches."""
    return replace(rig.order(file), plan=FilePlan(file=file, action=Action.COPY), sources=())
