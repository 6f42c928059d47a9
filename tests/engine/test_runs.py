"""A run as a whole: copies, bursts, limits, progress, other processes, trouble with the disk."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import anyio
import pytest

from modelhaul import events
from modelhaul.core.journal import Have
from modelhaul.core.plan import Action, FilePlan
from modelhaul.core.repo import RemoteFile
from modelhaul.core.span import Span, SpanSet
from modelhaul.engine.context import Options
from modelhaul.engine.task import Order
from modelhaul.errors import HaulError, NotFound, StorageError
from modelhaul.report import FileResult
from modelhaul.store import claim, osfile
from modelhaul.store.claim import read_runs
from modelhaul.store.osfile import Stamp
from tests.engine.harness import CHUNK, MIB, ORIGIN, Rig, payload, remote, source
from tests.support.disks import SharingDisk
from tests.support.inline import InlineThreads
from tests.support.network import FakeNetwork, Fault, Served
from tests.support.virtual import virtual


def copy_of(rig: Rig, path: str, data: bytes, source: Path | None = None) -> Order:
    """Bring `data` to `path` as a copy: of another file of the run, or of `source`."""
    file = remote(path, data)
    plan = FilePlan(file=file, action=Action.COPY, reuse=len(data))
    return replace(rig.order(file, plan=plan, copy_from=source), sources=())


def replacing(rig: Rig, path: str, data: bytes) -> Order:
    """Bring `data` to `path`, where other content stands now."""
    order = rig.order(remote(path, data))
    stamp = Stamp.of((rig.target / path).lstat())
    return replace(order, placement=replace(order.placement, replaces=stamp))


# -- equal content -------------------------------------------------------------------------------


def test_equal_content_is_fetched_once_and_copied(target: Path) -> None:
    """Two names with one digest: one transfer, two files."""
    data = payload(MIB)
    network = FakeNetwork({f"{ORIGIN}/a": Served(data)})
    rig = Rig(target, network)

    results = virtual(lambda: rig.bring(rig.order(remote("a", data)), copy_of(rig, "b/c", data)))

    assert [result.how for result in results] == ["fetched", "copied"]
    assert (target / "b/c").read_bytes() == data
    assert network.sent == len(data)
    assert rig.left() == []


def test_a_copy_of_a_file_that_was_there_already_needs_no_network(target: Path) -> None:
    """The other place of the content is on the disk: not one request."""
    data = payload(MIB)
    (target / "a").write_bytes(data)
    network = FakeNetwork({})
    rig = Rig(target, network)

    (result,) = virtual(lambda: rig.bring(copy_of(rig, "b", data, target / "a")))

    assert result.verified
    assert (target / "b").read_bytes() == data
    assert network.asked == []


def test_a_copy_is_hashed_on_the_way(target: Path) -> None:
    """The other file has changed since it was proven: no wrong byte is passed on."""
    data = payload(MIB)
    (target / "a").write_bytes(data[:-1] + b"x")
    rig = Rig(target, FakeNetwork({}))

    (result,) = virtual(lambda: rig.bring(copy_of(rig, "b", data, target / "a")))

    assert result.error is not None
    assert not (target / "b").exists()
    assert rig.left() == []


@pytest.mark.parametrize("size", [20_000, MIB])
@pytest.mark.parametrize("there", [None, b"shorter", "changed"])
def test_what_cannot_be_copied_is_fetched(target: Path, size: int, there: object) -> None:
    """It is gone, or was changed since it was found: the sources have it, large or small."""
    data = payload(size)
    held = target.parent / "held"
    if there is not None:
        held.write_bytes(there if isinstance(there, bytes) else data[:-1] + b"x")
    network = FakeNetwork({f"{ORIGIN}/b": Served(data)})
    rig = Rig(target, network)
    order = replace(copy_of(rig, "b", data, held), sources=(source(f"{ORIGIN}/b"),))

    (result,) = virtual(lambda: rig.bring(order))

    assert (result.how, result.fetched) == ("fetched", size)
    assert (target / "b").read_bytes() == data
    assert any(str(held) in note.message for note in rig.events_of(events.Note))  # type: ignore[attr-defined]
    assert rig.left() == []


class Endless:
    """Stands where the store calls `os`: whatever is read, more of it follows.

    Attributes:
        most: bytes that may be read or written; a reader that asks for more never ends.
    """

    def __init__(self, most: int) -> None:
        self.most = most

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        (buffer,) = buffers
        self._count(len(buffer))
        return os.preadv(fd, buffers, offset) or len(buffer)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        self._count(len(data))
        return os.pwrite(fd, data, offset)

    def _count(self, count: int) -> None:
        self.most -= count
        assert self.most > 0, "it is read to an end that it has not got"


@pytest.mark.fault(
    "what is copied from this disk grows without an end, or became a huge file",
    "no more is read than the file has; it is fetched",
)
@pytest.mark.parametrize("how", ["grows", "huge"])
def test_no_more_is_copied_than_the_file_has(
    target: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Else it would fill the disk."""
    data = payload(MIB)
    held = target.parent / "held"
    held.write_bytes(data)
    if how == "huge":
        os.truncate(held, 1 << 40)  # takes no room itself
    network = FakeNetwork({f"{ORIGIN}/b": Served(data)})
    rig = Rig(target, network)
    order = replace(copy_of(rig, "b", data, held), sources=(source(f"{ORIGIN}/b"),))
    # The copy is read and written, the wrong one read once more, and the fetched one read back.
    endless = Endless(6 * MIB)
    monkeypatch.setattr(osfile, "os", endless)

    (result,) = virtual(lambda: rig.bring(order))

    assert result.how == "fetched"
    assert (target / "b").read_bytes() == data
    assert rig.left() == []


def test_what_cannot_be_copied_from_one_place_is_copied_from_another(target: Path) -> None:
    """Not one request; each place is tried once, and the user is told."""
    data = payload(MIB)
    places = [target.parent / name for name in ("gone", "changed", "right")]
    places[1].write_bytes(data[:-1] + b"x")
    places[2].write_bytes(data)
    network = FakeNetwork({f"{ORIGIN}/b": Served(data)})
    rig = Rig(target, network)
    seen: list[list[Path]] = []

    def other(tried: Collection[Path]) -> Path:
        seen.append(list(tried))
        return places[len(tried)]

    order = replace(copy_of(rig, "b", data, places[0]), sources=(source(f"{ORIGIN}/b"),))
    (result,) = virtual(lambda: rig.bring(replace(order, copy_else=other)))

    assert (result.how, result.reused) == ("copied", MIB)
    assert (target / "b").read_bytes() == data
    assert network.asked == []
    assert seen == [places[:1], places[:2]]
    notes = [note.message for note in rig.events_of(events.Note)]  # type: ignore[attr-defined]
    assert [str(place) in note for place, note in zip(places, notes, strict=False)] == [True, True]
    assert rig.left() == []


def test_shared_blocks_are_a_copy(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that can: nothing is written, all is hashed, and it is published."""
    data = payload(MIB)
    (target / "a").write_bytes(data)
    disk = SharingDisk().install(monkeypatch)
    rig = Rig(target, FakeNetwork({}))

    (result,) = virtual(lambda: rig.bring(copy_of(rig, "b", data, target / "a")))

    assert (result.error, result.how, result.verified) == (None, "copied", True)
    assert (target / "b").read_bytes() == data
    assert disk.shared == 1
    assert rig.left() == []


def test_shared_blocks_with_wrong_bytes_are_not_published(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are hashed like any copy."""
    data = payload(MIB)
    (target / "a").write_bytes(data[:-1] + b"x")
    SharingDisk().install(monkeypatch)
    rig = Rig(target, FakeNetwork({}))

    (result,) = virtual(lambda: rig.bring(copy_of(rig, "b", data, target / "a")))

    assert result.error is not None
    assert not (target / "b").exists()
    assert rig.left() == []


def test_trouble_with_the_target_of_a_copy_is_no_reason_to_fetch(target: Path) -> None:
    """Fetched, it would meet the same."""
    data = payload(MIB)
    (target.parent / "held").write_bytes(data)
    network = FakeNetwork({f"{ORIGIN}/b": Served(data)})
    rig = Rig(target, network)
    order = replace(
        copy_of(rig, "b", data, target.parent / "held"), sources=(source(f"{ORIGIN}/b"),)
    )
    target.rmdir()
    target.write_text("not a folder")

    (result,) = virtual(lambda: rig.bring(order))

    assert result.error is not None
    assert network.asked == []


def test_copies_of_a_file_that_could_not_be_had_fail_with_it(target: Path) -> None:
    """No first, no second: both are reported."""
    rig = Rig(target, FakeNetwork({}))
    data = payload(MIB)

    results = virtual(lambda: rig.bring(rig.order(remote("a", data)), copy_of(rig, "b", data)))

    assert isinstance(results[0].error, NotFound)
    assert results[1].error is not None


# -- all at once ---------------------------------------------------------------------------------


def burst_rig(target: Path, network: FakeNetwork) -> Rig:
    options = Options(chunk=CHUNK, small=32 * 1024, burst=True, files_at_once=2)
    return Rig(target, network, options=options)


def test_an_update_shows_old_files_until_all_new_ones_are_proven(target: Path) -> None:
    """In a mutable snapshot nothing is renamed before everything is there."""
    names = [f"large{n}" for n in range(4)] + [f"small{n}" for n in range(4)]
    new = {
        name: payload(2 * MIB if name.startswith("large") else 9000, n)
        for n, name in enumerate(names)
    }
    for name in names:
        (target / name).write_text("old")
    network = FakeNetwork({f"{ORIGIN}/{name}": Served(new[name], rate=1e6) for name in names})
    rig = burst_rig(target, network)
    mixed = []

    async def main() -> None:
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while True:
                    old = [(target / name).read_bytes() == b"old" for name in names]
                    if any(old) and not all(old):
                        mixed.append(old)
                    await anyio.sleep(0.05)

            group.start_soon(watch)
            results = await rig.bring(*(replacing(rig, name, new[name]) for name in names))
            assert all(result.error is None for result in results)
            group.cancel_scope.cancel()

    virtual(main)

    assert mixed == []
    assert all((target / name).read_bytes() == new[name] for name in names)
    assert rig.left() == []


def test_an_update_with_one_bad_file_shows_nothing_new(target: Path) -> None:
    """One of the new files cannot be had: all old ones stay, and the parts are kept."""
    good, small = payload(2 * MIB), payload(9000)
    for name in ("good", "small", "bad"):
        (target / name).write_text("old")
    network = FakeNetwork({f"{ORIGIN}/good": Served(good), f"{ORIGIN}/small": Served(small)})
    rig = burst_rig(target, network)

    results = virtual(
        lambda: rig.bring(
            replacing(rig, "good", good),
            replacing(rig, "small", small),
            replacing(rig, "bad", payload(MIB)),
        )
    )

    assert all(isinstance(result.error, HaulError) for result in results)
    assert {path.read_text() for path in target.iterdir() if path.is_file()} == {"old"}
    (work,) = [work for work in claim.unfinished(target / ".modelhaul") if work.size == len(good)]
    assert work.have == len(good)


# -- limits --------------------------------------------------------------------------------------


def test_a_rate_limit_is_kept_and_causes_no_retries(target: Path) -> None:
    """The user's own limit makes everything slow; nobody takes that for a dead connection."""
    data = payload(4 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=50e6)})
    rig = Rig(target, network, limit_rate=200_000)

    async def main() -> float:
        before = anyio.current_time()
        await rig.bring(rig.order(remote("w", data)))
        return anyio.current_time() - before

    seconds = virtual(main)

    # less what eight connections may have read before the first wait
    assert seconds >= (len(data) - 8 * 64 * 1024 - 50_000) / 200_000
    assert (target / "w").read_bytes() == data
    assert rig.events_of(events.Retrying) == []


def test_connections_are_never_more_than_allowed(target: Path) -> None:
    """One account for all files of the run."""
    files = {f"f{n}": payload(MIB, n) for n in range(6)}
    network = FakeNetwork({f"{ORIGIN}/{name}": Served(d, rate=1e6) for name, d in files.items()})
    rig = Rig(target, network, connections=3)

    virtual(lambda: rig.bring(*(rig.order(remote(name, data)) for name, data in files.items())))

    assert network.most_active == 3


def test_payload_memory_stays_within_its_limit(target: Path) -> None:
    """A disk slower than the network: buffers do not pile up, the sockets wait."""
    data = payload(24 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=50e6)})
    threads = InlineThreads(write=0.2)
    rig = Rig(target, network, memory=8 * MIB, threads=threads)
    most = 0

    async def main() -> None:
        nonlocal most
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                nonlocal most
                while True:
                    if rig.engine is not None:
                        most = max(most, rig.engine.pool.lent)
                    await anyio.sleep(0.01)

            group.start_soon(watch)
            await rig.bring(rig.order(remote("w", data)))
            group.cancel_scope.cancel()

    virtual(main)

    assert (target / "w").read_bytes() == data
    assert 0 < most <= 8 * MIB


# -- what is told --------------------------------------------------------------------------------


def test_progress_never_runs_backwards_and_ends_at_the_whole(target: Path) -> None:
    """Done and verified only grow, done is never more than there is, and the end is all of it."""
    big, small = payload(6 * MIB), payload(9000)
    network = FakeNetwork(
        {f"{ORIGIN}/big": Served(big, rate=1e6), f"{ORIGIN}/small": Served(small)},
        lambda asked: Fault(cut=300_000) if asked.number % 3 == 1 else None,
    )
    rig = Rig(target, network)

    virtual(lambda: rig.bring(rig.order(remote("big", big)), rig.order(remote("small", small))))

    seen = [event.statistics for event in rig.seen if isinstance(event, events.Progress)]
    total = len(big) + len(small)
    assert all(a.done <= b.done and a.verified <= b.verified for a, b in pairwise(seen))
    assert all(amounts.done <= amounts.total == total for amounts in seen)
    assert all(amounts.verified <= amounts.done for amounts in seen)
    assert (seen[-1].done, seen[-1].verified, seen[-1].files_done) == (total, total, 2)


def test_waiting_is_told_with_its_reason(target: Path) -> None:
    """While everybody is asked to wait, the listener hears why and for how long."""
    data = payload(MIB)
    network = FakeNetwork(
        {f"{ORIGIN}/w": Served(data)},
        lambda asked: (
            Fault(status=429, headers={"retry-after": "30"}) if asked.number < 8 else None
        ),
    )
    rig = Rig(target, network)

    virtual(lambda: rig.bring(rig.order(remote("w", data))))

    reasons = [event.reason for event in rig.seen if isinstance(event, events.Waiting)]
    assert any("429" in reason and "next try in 2" in reason for reason in reasons)


def test_no_credential_is_told_to_anybody(target: Path) -> None:
    """Events and results show origins, never a query or a token."""
    data = payload(MIB)
    url = f"{ORIGIN}/w?signature=SECRET"
    network = FakeNetwork(
        {url: Served(data)}, lambda asked: Fault(status=500) if asked.number < 2 else None
    )
    rig = Rig(target, network)
    (result,) = virtual(
        lambda: rig.bring(rig.order(remote("w", data), source(url, Authorization="SECRET")))
    )

    assert "SECRET" not in repr(rig.seen)
    assert "SECRET" not in repr(result)
    assert rig.events_of(events.Retrying)


# -- other processes -----------------------------------------------------------------------------


def test_a_file_that_another_process_fetches_is_waited_for(target: Path) -> None:
    """The lock is held: nothing is fetched twice, and when it is there it is kept."""
    data = payload(MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data)})
    rig = Rig(target, network)
    file = remote("w", data)
    state = target / ".modelhaul"
    state.mkdir()
    wanted = claim.Wanted(identity=str(file.identity), size=len(data), label="other", chunk=CHUNK)
    theirs = claim.claim(state, wanted, locks=True)
    assert theirs is not None
    rig.present = lambda order: (target / "w").exists()

    async def main() -> list[FileResult]:
        results: list[FileResult] = []
        async with anyio.create_task_group() as group:

            async def ours() -> None:
                results.extend(await rig.bring(rig.order(file)))

            group.start_soon(ours)
            await anyio.sleep(3)
            assert network.asked == []
            theirs.part.write_at(data, 0)
            theirs.part.publish(target / "w", replaces=None)
            theirs.finished()
        return results

    (result,) = virtual(main)

    assert result.how == "kept"
    assert network.asked == []
    told = [event.reason for event in rig.seen if isinstance(event, events.Waiting)]
    assert any("another process" in reason for reason in told)
    assert rig.left() == []


def test_an_orphan_of_a_process_that_died_is_taken_over(target: Path) -> None:
    """The lock becomes free and the file is not there: its part is continued."""
    data = payload(MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data)})
    rig = Rig(target, network)
    file = remote("w", data)
    state = target / ".modelhaul"
    state.mkdir()
    wanted = claim.Wanted(identity=str(file.identity), size=len(data), label="other", chunk=CHUNK)
    theirs = claim.claim(state, wanted, locks=True)
    assert theirs is not None
    theirs.part.write_at(data[:CHUNK], 0)
    theirs.journal.append([Have(Span(0, CHUNK), crc32(data[:CHUNK]))])

    async def main() -> list[FileResult]:
        results: list[FileResult] = []
        async with anyio.create_task_group() as group:

            async def ours() -> None:
                results.extend(await rig.bring(rig.order(file)))

            group.start_soon(ours)
            await anyio.sleep(1)
            theirs.close()  # as its death would
        return results

    (result,) = virtual(main)

    assert result.reused == CHUNK
    assert network.sent == len(data) - CHUNK
    assert (target / "w").read_bytes() == data


def test_where_locks_may_lie_each_process_has_its_own_part_and_shares_what_is_proven(
    target: Path,
) -> None:
    """Another process's recorded bytes are copied, checked, and its part is left alone."""
    data = payload(2 * MIB)
    state = target / ".modelhaul"
    state.mkdir()
    file = remote("w", data)
    wanted = claim.Wanted(identity=str(file.identity), size=len(data), label="other", chunk=CHUNK)
    theirs = claim.claim(state, wanted, locks=False, token="theirs")
    assert theirs is not None
    theirs.part.write_at(data[: 2 * CHUNK], 0)
    theirs.journal.append(
        [
            Have(Span(0, CHUNK), crc32(data[:CHUNK])),
            Have(Span(CHUNK, 2 * CHUNK), crc32(b"not these bytes")),
        ]
    )
    network = FakeNetwork({f"{ORIGIN}/w": Served(data)})
    rig = Rig(target, network, locks=False)

    (result,) = virtual(lambda: rig.bring(rig.order(file)))

    assert result.reused == CHUNK
    assert (target / "w").read_bytes() == data
    assert len(rig.left()) == 2
    theirs.close()


# -- the disk ------------------------------------------------------------------------------------


class FailingDisk(InlineThreads):
    """Lets a number of calls of one kind pass and then fails every one."""

    def __init__(self, kind: str, after: int) -> None:
        super().__init__(write=0.001, sync=0.01)
        self._kind = kind
        self._left = after

    async def _run(self, kind, call, *args):  # type: ignore[no-untyped-def]
        if kind == self._kind:
            self._left -= 1
            if self._left < 0 and call.__name__ in ("_store", "_store_rest", "sync"):
                raise StorageError("Input/output error: writing the part")
        return await super()._run(kind, call, *args)


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_a_disk_that_fails_ends_the_run_and_a_new_disk_goes_on(target: Path, kind: str) -> None:
    """A write or a barrier fails: the run ends with the reason, the journal is intact."""
    data = payload(6 * MIB)
    served = {f"{ORIGIN}/w": Served(data, rate=1e6)}
    rig = Rig(target, FakeNetwork(served), threads=FailingDisk(kind, 1), connections=2)

    with pytest.raises(StorageError, match="Input/output error"):
        virtual(lambda: rig.bring(rig.order(remote("w", data))))
    rig.threads, rig.network = InlineThreads(), FakeNetwork(served)
    (result,) = virtual(lambda: rig.bring(rig.order(remote("w", data))))

    assert result.error is None
    assert (target / "w").read_bytes() == data


def test_nothing_that_was_recorded_around_a_failed_barrier_counts(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what was recorded while it failed, nor after: the kernel may have dropped those pages.

    They would still be read back from its cache, so no CRC would notice.
    """
    data = payload(8 * MIB)
    served = {f"{ORIGIN}/w": Served(data, rate=1e6)}
    rig = Rig(target, FakeNetwork(served), connections=2)
    rig.threads = InlineThreads(write=0.001, sync=0.8)
    durable = SpanSet()  # what the only good barrier can vouch for
    real = osfile.sync_data

    def sync_data(fd: int) -> None:
        if not os.readlink(f"/proc/self/fd/{fd}").endswith(".part"):
            return real(fd)
        if durable:
            raise OSError(errno.EIO, "Input/output error")
        for journal in (target / ".modelhaul").glob("*.journal"):
            for run in read_runs(journal)[1]:
                durable.add(run.span)
        return real(fd)

    monkeypatch.setattr(osfile, "sync_data", sync_data)
    with pytest.raises(StorageError, match="Input/output error"):
        virtual(lambda: rig.bring(rig.order(remote("w", data))))
    monkeypatch.undo()
    _, runs = read_runs(next((target / ".modelhaul").glob("*.journal")))
    rig.threads = InlineThreads()
    (result,) = virtual(lambda: rig.bring(rig.order(remote("w", data))))

    assert runs
    assert [run.span for run in runs if durable.gaps(run.span)] == []
    assert result.reused == sum(run.span.length for run in runs)
    assert (target / "w").read_bytes() == data


class FullAfter(InlineThreads):
    """A disk on which a part can take so many more bytes, however they are written."""

    def __init__(self, room: int) -> None:
        super().__init__(write=0.3, sync=0.01)
        self._room = room

    async def _run(self, kind, call, *args):  # type: ignore[no-untyped-def]
        if call.__name__ not in ("_store", "_store_rest"):
            return await super()._run(kind, call, *args)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._room, limit[1]))
        try:
            return await super()._run(kind, call, *args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_a_write_that_fails_among_others_leaves_the_journal_right(target: Path) -> None:
    """Some pieces of a batch are written when the next one cannot be: each is written once."""
    data = payload(6 * MIB)
    served = {f"{ORIGIN}/w": Served(data, rate=20e6)}
    rig = Rig(target, FakeNetwork(served), threads=FullAfter(3 * MIB), connections=4)
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(StorageError, match="too large"):
        virtual(lambda: rig.bring(rig.order(remote("w", data))))
    after = len(os.listdir("/proc/self/fd"))
    (work,) = claim.unfinished(target / ".modelhaul")
    rig.threads, rig.network = InlineThreads(), FakeNetwork(served)
    (result,) = virtual(lambda: rig.bring(rig.order(remote("w", data))))

    assert after == before
    assert 0 < work.have <= 3 * MIB
    assert result.error is None
    assert result.reused == work.have
    assert (target / "w").read_bytes() == data


def test_a_digest_is_computed_where_none_was_stated(target: Path) -> None:
    """Held by a validator: the result has the digest and does not claim to be verified."""
    data = payload(MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data, headers={"etag": '"v1"'})})
    rig = Rig(target, network)
    file = RemoteFile("w", len(data), validator='"v1"')

    (result,) = virtual(lambda: rig.bring(rig.order(file)))

    assert result.sha256 == hashlib.sha256(data).hexdigest()
    assert not result.verified


def test_a_validator_that_changes_half_way_ends_the_file(target: Path) -> None:
    """No digest, and the server's file is replaced: nothing is spliced together."""
    data = payload(6 * MIB)
    network = FakeNetwork(
        {f"{ORIGIN}/w": Served(data, rate=1e6, headers={"etag": '"v1"'})},
        lambda asked: Fault(headers={"etag": '"v2"'}) if asked.number > 3 else None,
    )
    rig = Rig(target, network, connections=2)
    file = RemoteFile("w", len(data), validator='"v1"')

    (result,) = virtual(lambda: rig.bring(rig.order(file)))

    assert result.error is not None
    assert "changed while it was being downloaded" in result.error.message
    assert not (target / "w").exists()


def test_a_small_file_that_another_process_put_there_meanwhile_is_kept(target: Path) -> None:
    """The same bytes under the final name by the time ours are ready: no error, no part left."""
    data = payload(9000)
    rig = Rig(target, FakeNetwork({f"{ORIGIN}/s": Served(data)}))
    (target / "s").write_bytes(data)

    (result,) = virtual(lambda: rig.bring(rig.order(remote("s", data))))

    assert result.how == "kept"
    assert rig.left() == []


def test_a_large_file_that_another_process_finished_meanwhile_is_kept(target: Path) -> None:
    """It appeared between the plan and the claim: looked at again, and not fetched."""
    data = payload(MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data)})
    rig = Rig(target, network, present=lambda order: True)
    (target / "w").write_bytes(data)

    (result,) = virtual(lambda: rig.bring(rig.order(remote("w", data))))

    assert result.how == "kept"
    assert network.asked == []
    assert rig.left() == []


def test_a_file_larger_than_four_gigabytes_crosses_the_boundary(target: Path) -> None:
    """Offsets beyond 2**32: a part of which only the end is missing, over the boundary."""
    boundary, tail = 1 << 32, payload(MIB)
    size = boundary + len(tail) // 2
    start = size - len(tail)
    file = RemoteFile("w", size, validator='"v1"')
    state = target / ".modelhaul"
    state.mkdir()
    chunk = 8 * MIB
    wanted = claim.Wanted(identity=str(file.identity), size=size, label="test", chunk=chunk)
    mine = claim.claim(state, wanted, locks=True)
    assert mine is not None
    mine.journal.append([Have(Span(0, start), 0)])  # zeros, as far as it is sparse
    mine.journal.synced(mine.journal.used)
    mine.close()
    network = FakeNetwork({f"{ORIGIN}/w": Tail(size, start, tail)})
    rig = Rig(target, network, options=Options(chunk=chunk))

    (result,) = virtual(lambda: rig.bring(rig.order(file)))

    assert result.error is None
    assert result.fetched == len(tail)
    with (target / "w").open("rb") as published:
        published.seek(start)
        assert published.read() == tail
    assert (target / "w").stat().st_size == size


class Tail(Served):
    """A file that is zeros up to `start`, without holding them in memory."""

    def __init__(self, size: int, start: int, tail: bytes) -> None:
        super().__init__(headers={"etag": '"v1"'})
        self.data = _Sparse(size, start, tail)  # type: ignore[assignment]


class _Sparse:
    def __init__(self, size: int, start: int, tail: bytes) -> None:
        self._size, self._start, self._tail = size, start, tail

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, where: slice) -> bytes:
        assert where.start >= self._start
        return self._tail[where.start - self._start : where.stop - self._start]
