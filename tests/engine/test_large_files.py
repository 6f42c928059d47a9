"""Large files: ranges, proof, publication, repair."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.from_thread
import pytest

from modelhaul import events
from modelhaul.core.repo import RemoteFile
from modelhaul.core.span import Span, SpanSet
from modelhaul.engine.threads import WorkerThreads
from modelhaul.errors import IntegrityError, NotFound, Occupied, StorageError
from modelhaul.report import FileResult
from modelhaul.store import claim
from modelhaul.store.hashing import STEP
from tests.engine.harness import CHUNK, MIB, ORIGIN, Rig, payload, remote, source
from tests.faults.faultydisk import FaultyDisk
from tests.support.inline import InlineThreads, T, Ts
from tests.support.network import Asked, FakeNetwork, Fault, Served
from tests.support.virtual import virtual


def bring(rig: Rig, *files: RemoteFile) -> list[FileResult]:
    return list(virtual(lambda: rig.bring(*(rig.order(file) for file in files))))


@pytest.mark.fault(
    "a file of exactly a chunk, a byte more, a byte less",
    "the right bytes",
    number=21,
)
@pytest.mark.parametrize(
    "size",
    [32 * 1024 + 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 1, 5 * MIB + 7],
)
def test_a_file_of_any_size_arrives_and_is_proven(target: Path, size: int) -> None:
    """Sizes around the chunk grid make no difference to the bytes."""
    data = payload(size)
    rig = Rig(target, FakeNetwork({f"{ORIGIN}/w": Served(data)}))

    (result,) = bring(rig, remote("w", data))

    assert (target / "w").read_bytes() == data
    assert (result.how, result.size, result.verified) == ("fetched", size, True)
    assert result.fetched == size
    assert rig.left() == []


def test_ranges_arrive_over_many_connections_at_once(target: Path) -> None:
    """A large file uses the connections it may have, and no byte is asked for twice."""
    data = payload(8 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=2e6)})
    rig = Rig(target, network)

    bring(rig, remote("w", data))

    assert network.most_active == 8
    asked = SpanSet()
    assert (target / "w").read_bytes() == data
    for request in network.asked:
        asked.add(request.span)
    assert asked == SpanSet([Span(0, len(data))])


def test_every_request_for_bytes_is_checked_before_its_first_byte(target: Path) -> None:
    """An answer with another range than asked for is refused, and the bytes come again."""
    data = payload(MIB)

    def shifted(asked: Asked) -> Fault | None:
        span = asked.span
        if asked.number == 1 and span.start + 4096 < span.stop:
            return Fault(serve=Span(span.start + 4096, span.stop))
        return None

    rig = Rig(target, FakeNetwork({f"{ORIGIN}/w": Served(data)}, shifted))

    (result,) = bring(rig, remote("w", data))

    assert result.error is None
    assert (target / "w").read_bytes() == data
    assert rig.events_of(events.Retrying)


def test_a_shorter_honest_range_is_used_and_the_rest_asked_for(target: Path) -> None:
    """A 206 that ends early is right as far as it goes."""
    data = payload(MIB)

    def short(asked: Asked) -> Fault | None:
        span = asked.span
        return Fault(serve=Span(span.start, span.stop - 100)) if span.length > 5000 else None

    network = FakeNetwork({f"{ORIGIN}/w": Served(data)}, short)
    rig = Rig(target, network)

    bring(rig, remote("w", data))

    assert (target / "w").read_bytes() == data
    assert network.sent == len(data)


def test_a_longer_range_is_cut_at_what_was_asked_for(target: Path) -> None:
    """A 206 that goes on too long never writes past its span."""
    data = payload(MIB)

    def long(asked: Asked) -> Fault | None:
        span = asked.span
        return Fault(serve=Span(span.start, min(len(data), span.stop + 1000)))

    rig = Rig(target, FakeNetwork({f"{ORIGIN}/w": Served(data)}, long))

    bring(rig, remote("w", data))

    assert (target / "w").read_bytes() == data


def test_a_server_without_ranges_serves_the_file_in_one_stream(target: Path) -> None:
    """The range is ignored every time: one body from the start, nothing spliced."""
    data = payload(2 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data)}, lambda asked: Fault(ignore_range=True))
    rig = Rig(target, network)

    (result,) = bring(rig, remote("w", data))

    assert result.error is None
    assert (target / "w").read_bytes() == data
    assert sum(1 for asked in network.asked if asked.whole) == 1


def test_a_range_ignored_now_and_then_costs_only_that_answer(target: Path) -> None:
    """One bad edge among good ones does not end parallel ranges."""
    data = payload(4 * MIB)

    def sometimes(asked: Asked) -> Fault | None:
        return Fault(ignore_range=True) if asked.number % 5 == 4 else None

    network = FakeNetwork({f"{ORIGIN}/w": Served(data)}, sometimes)
    rig = Rig(target, network)

    bring(rig, remote("w", data))

    assert (target / "w").read_bytes() == data
    assert not any(asked.whole for asked in network.asked)


def test_a_connection_that_is_cut_loses_nothing(target: Path) -> None:
    """What came before the cut is kept: only the rest is asked for again."""
    data = payload(4 * MIB)
    network = FakeNetwork(
        {f"{ORIGIN}/w": Served(data)},
        lambda asked: Fault(cut=100_000) if asked.number < 6 else None,
    )
    rig = Rig(target, network)

    bring(rig, remote("w", data))

    assert (target / "w").read_bytes() == data
    assert network.sent == len(data)


@pytest.mark.fault(
    "every body is cut after 100 kB",
    "it goes on for as long as bytes come",
    number=10,
)
def test_a_line_that_is_cut_every_hundred_kilobytes_goes_on_for_ever(target: Path) -> None:
    """Progress refills the retry budget: far more cuts than it holds do no harm."""
    data = payload(24 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data)}, lambda asked: Fault(cut=200_000))
    rig = Rig(target, network, connections=2)

    (result,) = bring(rig, remote("w", data))

    assert result.error is None
    assert (target / "w").read_bytes() == data
    assert len(network.asked) > 100


def test_bytes_flipped_in_transit_are_fetched_once_more(target: Path) -> None:
    """A wrong digest with a sound disk: the whole file again, and then it is right."""
    data = payload(2 * MIB)

    def flip_first_round(asked: Asked) -> Fault | None:
        hit = asked.span.start <= 5000 < asked.span.stop
        return Fault(flip=(5000,)) if hit and asked.number < 8 else None

    network = FakeNetwork({f"{ORIGIN}/w": Served(data)}, flip_first_round)
    rig = Rig(target, network)

    (result,) = bring(rig, remote("w", data))

    assert result.error is None
    assert (target / "w").read_bytes() == data
    assert len(rig.events_of(events.Repairing)) == 1
    assert network.sent <= 2 * len(data)


@pytest.mark.parametrize("bad", [4, 3], ids=["every fourth answer", "every third answer"])
@pytest.mark.fault(
    "some replicas have another version, with its own validator, for ever",
    "one more fetch, of the version that most bytes had",
    number=(22, 31),
)
def test_versions_that_alternate_are_not_mixed_for_ever(target: Path, bad: int) -> None:
    """After a wrong digest only answers with the validator of most bytes are taken."""
    data = payload(8 * MIB)

    def alternate(asked: Asked) -> Fault | None:
        if asked.number % bad != 1:
            return None
        return Fault(flip=(asked.span.start,), headers={"etag": '"older"'})

    network = FakeNetwork({f"{ORIGIN}/w": Served(data, headers={"etag": '"now"'})}, alternate)
    rig = Rig(target, network)

    (result,) = bring(rig, remote("w", data))

    assert result.error is None
    assert (target / "w").read_bytes() == data
    assert len(rig.events_of(events.Repairing)) == 1
    assert network.sent <= 2 * len(data)


@pytest.mark.fault(
    "a byte is flipped, and each edge has a validator of its own",
    "the validators do not stand in the way of the repair",
    number=(23, 30),
)
@pytest.mark.parametrize("edges", [2, 3, 1000])
def test_validators_of_edges_do_not_stand_in_the_way_of_a_repair(target: Path, edges: int) -> None:
    """Equal bytes behind unequal validators: the digest judges, whichever was insisted on."""
    data = payload(4 * MIB)

    def other_edge(asked: Asked) -> Fault | None:
        flip = (asked.span.start,) if asked.number == 0 else ()
        return Fault(flip=flip, headers={"etag": f'"edge {asked.number % edges}"'})

    rig = Rig(target, FakeNetwork({f"{ORIGIN}/w": Served(data)}, other_edge))

    (result,) = bring(rig, remote("w", data))

    assert result.error is None
    assert (target / "w").read_bytes() == data


@pytest.mark.fault(
    "most bytes are of a version that is gone by the time of the repair",
    "the version that is there is taken, the digest judges",
    number=22,
)
def test_a_version_that_is_gone_is_not_insisted_on(target: Path) -> None:
    """Three quarters of another version first, then the right one only."""
    data = payload(4 * MIB)

    def older_first(asked: Asked) -> Fault | None:
        if asked.number >= 16 or asked.number % 4 == 3:
            return None
        return Fault(flip=(asked.span.start,), headers={"etag": '"older"'})

    network = FakeNetwork({f"{ORIGIN}/w": Served(data, headers={"etag": '"now"'})}, older_first)
    rig = Rig(target, network)

    (result,) = bring(rig, remote("w", data))

    assert result.error is None
    assert (target / "w").read_bytes() == data


def test_a_file_that_is_wrong_twice_is_given_up_and_nothing_is_left(target: Path) -> None:
    """Source and listing disagree: an integrity error, no final name, no part."""
    data = payload(MIB)
    rig = Rig(target, FakeNetwork({f"{ORIGIN}/w": Served(data)}))

    (result,) = bring(rig, remote("w", data, digest="0" * 64))

    assert isinstance(result.error, IntegrityError)
    assert not (target / "w").exists()
    assert rig.left() == []
    assert result.fetched == 2 * len(data)


class SlowToReturn(InlineThreads):
    """A loop so busy that it hears late of what a thread has removed."""

    async def write(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        result = await super().write(call, *args)
        if call.__name__ == "discard":
            with anyio.CancelScope(shield=True):
                await anyio.sleep(6.0)
        return result


@pytest.mark.parametrize("seconds", [0.9, 2.9, 4.9])
def test_a_file_is_given_up_only_when_no_barrier_is_at_work_on_its_part(
    target: Path, seconds: float
) -> None:
    """Else the sync would meet a closed file, which is no error of the disk and none of ours."""
    data = payload(2 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=2e5)})
    rig = Rig(target, network, connections=1, threads=SlowToReturn(sync=seconds))

    (result,) = bring(rig, remote("w", data, digest="0" * 64))

    assert isinstance(result.error, IntegrityError)
    assert rig.left() == []


def test_bytes_damaged_on_disk_are_the_only_ones_fetched_again(target: Path) -> None:
    """Between two runs the disk changes a recorded byte: its run is found by CRC."""
    data = payload(4 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=1e6)})
    rig = Rig(target, network, connections=1)

    async def stopped() -> None:
        with anyio.move_on_after(2.5):
            await rig.bring(rig.order(remote("w", data)))

    virtual(stopped)
    (part,) = (target / ".modelhaul").glob("*.part")
    with part.open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")

    (result,) = bring(rig, remote("w", data))

    assert result.error is None
    assert (target / "w").read_bytes() == data
    assert network.sent - len(data) == CHUNK
    (repair,) = rig.events_of(events.Repairing)
    assert repair == events.Repairing(
        path="w", size=CHUNK, reason="these bytes changed on the disk"
    )


class Changing(FaultyDisk):
    """A disk that gives back another byte at one place of a part; `place` says where by now."""

    place: Callable[[], int]

    def preadv(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        count = super().preadv(fd, buffers, offset)
        at = self.place() - offset
        if 0 <= at < count and os.readlink(f"/proc/self/fd/{fd}").endswith(".part"):
            buffers[0][at] ^= 0xFF
        return count


@pytest.mark.fault("a disk changes bytes again and again", "the disk is blamed, and no source")
def test_a_disk_that_keeps_changing_bytes_is_to_blame_and_no_source(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times the damage is mended; then the run ends with the disk's error, progress kept."""
    data = payload(4 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=1e6)})
    rig = Rig(target, network, connections=1)

    async def stopped() -> None:
        with anyio.move_on_after(2.5):
            await rig.bring(rig.order(remote("w", data)))

    virtual(stopped)
    with monkeypatch.context() as patch:
        disk = Changing()
        disk.place = lambda: len(rig.events_of(events.Repairing)) * CHUNK + 1000
        disk.install(patch)
        with pytest.raises(StorageError, match="keeps changing bytes"):
            bring(rig, remote("w", data))
    reasons = [str(event) for event in rig.events_of(events.Repairing)]
    sent = network.sent
    (result,) = bring(rig, remote("w", data))

    assert len(reasons) == 3
    assert not [reason for reason in reasons if "not to blame" in reason]
    assert sent == len(data) + 3 * CHUNK
    assert result.error is None
    assert network.sent == sent + CHUNK  # what was found damaged last
    assert (target / "w").read_bytes() == data


def test_a_wrong_digest_is_looked_into_by_reading_the_part_once(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk damaged and who brought what are told in one pass, also of a huge file."""
    data = payload(4 * MIB)
    rig = Rig(target, FakeNetwork({f"{ORIGIN}/w": Served(data)}))
    disk = FaultyDisk().install(monkeypatch)

    bring(rig, remote("w", data, digest="0" * 64))

    # Once after the first fetch; after the second once, and once for the runs that were replaced.
    assert disk.met["preadv", ".part"] == 3 * len(data) // STEP


class Stopping(WorkerThreads):
    """Real threads. The user stops the run at the fifth time that a call asks about that."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        super().__init__()
        self.looks = 0
        self._scope = scope

    def check_cancelled(self) -> None:
        self.looks += 1
        if self.looks == 5:
            anyio.from_thread.run_sync(self._scope.cancel)
        super().check_cancelled()


def test_a_stop_is_heard_while_a_wrong_digest_is_looked_into(target: Path) -> None:
    """To read a file of 100 GB takes minutes: a stop ends that, and keeps part and journal."""
    data = payload(4 * MIB)
    rig = Rig(target, FakeNetwork({f"{ORIGIN}/w": Served(data, delay=0.0)}))

    async def main() -> Stopping:
        with anyio.CancelScope() as scope:
            rig.threads = threads = Stopping(scope)
            await rig.bring(rig.order(remote("w", data, digest="0" * 64)))
        return threads

    threads = anyio.run(main)

    assert threads.looks == 5
    assert len(rig.left()) == 2
    assert rig.events_of(events.Repairing) == []


def test_something_that_appeared_at_the_final_name_is_not_overwritten(target: Path) -> None:
    """Between plan and publication a user's file came: it stays, and so does the part."""
    data = payload(MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data)})
    rig = Rig(target, network)
    (target / "w").write_text("mine")

    (result,) = bring(rig, remote("w", data))

    assert isinstance(result.error, Occupied)
    assert (target / "w").read_text() == "mine"
    assert len(rig.left()) == 2


def test_one_missing_file_does_not_stop_the_others(target: Path) -> None:
    """A 404 for one of many: it is reported, the rest arrives."""
    data = payload(MIB)
    rig = Rig(target, FakeNetwork({f"{ORIGIN}/a": Served(data), f"{ORIGIN}/c": Served(data[1:])}))

    results = bring(
        rig, remote("a", data), remote("b", data, digest="1" * 64), remote("c", data[1:])
    )

    assert [result.error is None for result in results] == [True, False, True]
    assert isinstance(results[1].error, NotFound)
    assert (target / "a").read_bytes() == data
    assert (target / "c").read_bytes() == data[1:]


def test_a_fallback_source_is_used_when_the_first_is_gone(target: Path) -> None:
    """404 at the pinned address: the other source of equal bytes takes over."""
    data = payload(MIB)
    network = FakeNetwork({f"{ORIGIN}/by-name": Served(data)})
    rig = Rig(target, network)
    order = rig.order(
        remote("w", data),
        source(f"{ORIGIN}/by-commit"),
        source(f"{ORIGIN}/by-name", fallback=True),
    )

    (result,) = virtual(lambda: rig.bring(order))

    assert result.error is None
    assert (target / "w").read_bytes() == data
    assert rig.events_of(events.SourceDropped)


def test_the_part_is_sparse_and_as_long_as_the_file_from_the_start(target: Path) -> None:
    """Preallocated, but not written: length never means progress."""
    data = payload(8 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=1e6)})
    rig = Rig(target, network, connections=1)

    async def main() -> tuple[int, int]:
        with anyio.move_on_after(0.5):
            await rig.bring(rig.order(remote("w", data)))
        (part,) = (target / ".modelhaul").glob("*.part")
        return part.stat().st_size, part.stat().st_blocks * 512

    length, stored = virtual(main)

    assert length == len(data)
    assert stored < len(data) // 2


def test_unfinished_work_is_named_by_what_it_is(target: Path) -> None:
    """A listing of parts shows the file's name, its size and what is there of it."""
    data = payload(4 * MIB)
    rig = Rig(target, FakeNetwork({f"{ORIGIN}/w": Served(data, rate=1e6)}), connections=1)

    async def main() -> None:
        with anyio.move_on_after(2.5):
            await rig.bring(rig.order(remote("w", data)))

    virtual(main)
    (work,) = claim.unfinished(target / ".modelhaul")

    assert work.label == "test: w"
    assert work.size == len(data)
    assert 2 * MIB < work.have < len(data)
    assert not work.busy
