"""What a disk can do to a download: full, broken, read-only, lying about what it has written.

Whole downloads in virtual time over a disk that fails by script.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelhaul import DiskFull, HaulError, Report, StorageError
from modelhaul.core.span import Span, SpanSet
from modelhaul.events import Event, FileDone
from tests.engine.harness import payload
from tests.faults.faultydisk import BROKEN, FULL, QUOTA, READ_ONLY, Failing, FaultyDisk
from tests.faults.onefile import (
    DATA,
    DOUBT,
    MIB,
    NAME,
    SIZE,
    STOPS,
    WHOLE,
    large,
    recorded,
    without,
)
from tests.faults.runs import asked, bring, content_of, names, refusal, slowed
from tests.support.inline import InlineThreads
from tests.support.network import FakeNetwork, Served
from tests.support.site import client, site
from tests.support.virtual import virtual

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the disk that fails by script reads /proc"
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """One call on a large file's part or journal that fails for ever, and what is said of it."""

    call: str
    name: str
    number: int
    after: int
    kind: type[StorageError]
    says: str


def trouble(
    what: str, promise: str, rows: int | tuple[int, ...], *fields: object
) -> pytest.ParameterSet:
    """A case with its row in the reliability table."""
    marks = pytest.mark.fault(what, promise, number=rows)
    return pytest.param(Trouble(*fields), marks=marks, id=what)  # type: ignore[arg-type]


WRITES = [
    trouble("the disk fills up while a file is written", STOPS, 77,
            "pwrite", "*.part", FULL, 4, DiskFull, "no space left: writing"),
    trouble("a quota is used up while a file is written", STOPS, 79,
            "pwrite", "*.part", QUOTA, 4, DiskFull, "disk quota used up: writing"),
    trouble("a file grows larger than the file system takes", STOPS, 79,
            "pwrite", "*.part", errno.EFBIG, 4, StorageError, "too large for this file system"),
    trouble("a write fails with an I/O error", STOPS, 80,
            "pwrite", "*.part", BROKEN, 4, StorageError, "Input/output error: writing"),
    trouble("the disk turns read-only in the middle", STOPS, 82,
            "pwrite", "*.part", READ_ONLY, 4, StorageError, "Read-only file system: writing"),
    trouble("a network file system loses the file in the middle", STOPS, 85,
            "pwrite", "*.part", errno.ESTALE, 4, StorageError, "Stale file handle: writing"),
    trouble("the disk is full when the journal is written", STOPS, 78,
            "pwrite", "*.journal", FULL, 4, DiskFull, "no space left: writing the journal"),
    trouble("writing the journal fails with an I/O error", STOPS, 80,
            "pwrite", "*.journal", BROKEN, 4, StorageError, "Input/output error: writing the jou"),
]  # fmt: skip


@pytest.mark.parametrize("case", WRITES)
def test_a_write_that_fails_ends_the_run_and_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Trouble
) -> None:
    """What was recorded before is not fetched again, whatever could not be written."""
    failing = Failing(case.call, case.name, case.number, after=case.after)
    disk = FaultyDisk(failing).install(monkeypatch)
    before = len(os.listdir("/proc/self/fd"))

    error = refusal(large(), tmp_path, connections=2)
    after = len(os.listdir("/proc/self/fd"))
    monkeypatch.undo()
    had = recorded(tmp_path)
    (part,) = disk.written
    again = large()
    report = bring(again, tmp_path, connections=2)

    assert disk.failed
    assert (type(error), error.exit_code) == (case.kind, 9)
    assert case.says in error.message
    assert str(tmp_path / "m") in error.message
    assert after == before
    assert 0 < had.total < SIZE
    # The journal may be behind; where only the part fails it has all that was written.
    assert had == disk.written[part] or case.name == "*.journal"
    assert asked(again, NAME) == without(had)
    assert report.reused == had.total
    assert (tmp_path / "m" / NAME).read_bytes() == DATA


@pytest.mark.fault("the disk is full when the journal has to grow", STOPS, number=78)
def test_a_journal_that_cannot_grow_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A very slow line needs more records than there was room made for."""
    disk = FaultyDisk(Failing("posix_fallocate", "*.journal", FULL, after=1)).install(monkeypatch)

    error = refusal(slowed(site({NAME: DATA}), 3e4), tmp_path, connections=2)
    monkeypatch.undo()
    had = recorded(tmp_path)
    again = large()
    bring(again, tmp_path, connections=2)

    assert disk.failed
    assert type(error) is DiskFull
    assert "no space left: writing the journal" in error.message
    assert 4 * MIB < had.total < SIZE
    assert asked(again, NAME) == without(had)
    assert (tmp_path / "m" / NAME).read_bytes() == DATA


SYNCS = [
    trouble("the disk is full when a file is synced", DOUBT, (77, 80),
            "fdatasync", "*.part", FULL, 2, DiskFull, "no space left: syncing"),
    trouble("a quota is used up when a file is synced", DOUBT, (79, 80),
            "fdatasync", "*.part", QUOTA, 2, DiskFull, "disk quota used up: syncing"),
    trouble("syncing a file fails with an I/O error", DOUBT, 80,
            "fdatasync", "*.part", BROKEN, 2, StorageError, "Input/output error: syncing"),
    trouble("the first sync of all fails", DOUBT, 80,
            "fdatasync", "*.part", BROKEN, 1, StorageError, "Input/output error: syncing"),
]  # fmt: skip


@pytest.mark.parametrize("case", SYNCS)
def test_after_a_failed_sync_only_what_an_earlier_one_covered_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Trouble
) -> None:
    """The pages may be gone from the disk though reading them back shows them still."""
    failing = Failing(case.call, case.name, case.number, after=case.after)
    disk = FaultyDisk(failing).install(monkeypatch)

    error = refusal(large(), tmp_path, connections=2)
    monkeypatch.undo()
    (part,) = disk.written
    covered = disk.durable.get(part, SpanSet())
    again = large()
    bring(again, tmp_path, connections=2)

    assert disk.failed == [f"fdatasync {part}"]
    assert disk.written[part].total > covered.total
    assert (type(error), error.exit_code) == (case.kind, 9)
    assert case.says in error.message
    assert asked(again, NAME) == without(covered)
    assert (tmp_path / "m" / NAME).read_bytes() == DATA


@pytest.mark.fault("the sync before the final name fails", DOUBT, number=80)
@pytest.mark.parametrize("rate", [1e6, 100e6], ids=["after others", "the only one"])
def test_what_the_last_sync_should_have_covered_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    """All bytes are there and the digest is right, and still nothing gets its name."""
    (tmp_path / "elsewhere").mkdir()
    with monkeypatch.context() as patch:
        good = FaultyDisk().install(patch)
        bring(slowed(site({NAME: DATA}), rate), tmp_path / "elsewhere", connections=2)
    last = good.met["fdatasync", ".part"] - 1
    disk = FaultyDisk(Failing("fdatasync", "*.part", BROKEN, after=last)).install(monkeypatch)

    error = refusal(slowed(site({NAME: DATA}), rate), tmp_path, connections=2)
    monkeypatch.undo()
    there = names(tmp_path / "m")
    (part,) = disk.written
    again = large()
    bring(again, tmp_path, connections=2)

    assert "Input/output error: syncing" in error.message
    assert disk.failed == [f"fdatasync {part}"]
    assert disk.written[part] == WHOLE
    assert there == [".modelhaul"]
    assert asked(again, NAME) == without(disk.durable.get(part, SpanSet()))
    assert asked(again, NAME).total > 0
    assert (tmp_path / "m" / NAME).read_bytes() == DATA


LATE = "what a good sync covered is safe, nothing else is believed: no error of its own"


@pytest.mark.fault("a network file system reports only at close what it could not write", LATE,
                   number=85)  # fmt: skip
@pytest.mark.parametrize("number", [FULL, QUOTA, BROKEN], ids=["full", "quota", "broken"])
def test_an_error_at_close_comes_too_late_to_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whether the run has failed of something else or has put the file in its place."""
    closing = [Failing("close", name, number) for name in ("*.part", "*.journal")]
    disk = FaultyDisk(*closing, Failing("pwrite", "*.part", BROKEN, after=4)).install(monkeypatch)

    error = refusal(large(), tmp_path, connections=2)
    disk.failing = closing
    bring(large(), tmp_path, connections=2)

    assert "Input/output error: writing" in error.message
    assert {failed.partition(" ")[0] for failed in disk.failed} == {"close", "pwrite"}
    assert (tmp_path / "m" / NAME).read_bytes() == DATA
    assert names(tmp_path / "m") == [NAME]


BEGINNINGS = [
    trouble("the disk is full when the part is made", STOPS, 77,
            "ftruncate", "*.part", FULL, 0, DiskFull, "no space left: making"),
    trouble("the disk is full when the journal is made", STOPS, 78,
            "posix_fallocate", "*.journal", FULL, 0, DiskFull, "no space left: making the journal"),
    trouble("the head of the journal cannot be written", STOPS, 78,
            "pwrite", "*.journal", BROKEN, 0, StorageError, "Input/output error: making the jour"),
    trouble("the first sync of the part fails", STOPS, 80,
            "fdatasync", "*.part", BROKEN, 0, StorageError, "Input/output error: syncing"),
    trouble("the first sync of the journal fails", STOPS, 80,
            "fdatasync", "*.journal", BROKEN, 0, StorageError, "Input/output error: making the j"),
    trouble("syncing the folder of the part fails", STOPS, 80,
            "fsync", ".modelhaul/", BROKEN, 0, StorageError, "Input/output error: syncing"),
    trouble("syncing the folder of the target fails", STOPS, 80,
            "fsync", "*/", BROKEN, 0, StorageError, "Input/output error: making folders"),
    trouble("the part cannot be made", STOPS, 82,
            "open", "*.part", errno.EACCES, 0, StorageError, "Permission denied: making"),
]  # fmt: skip


@pytest.mark.parametrize("case", BEGINNINGS)
def test_a_disk_that_fails_before_the_first_byte_leaves_nothing_that_hinders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Trouble
) -> None:
    """Nothing was asked for, and the next run on a good disk begins and ends well."""
    failing = Failing(case.call, case.name, case.number, after=case.after, times=1)
    disk = FaultyDisk(failing).install(monkeypatch)
    first, again = large(), large()

    error = refusal(first, tmp_path, connections=2)
    bring(again, tmp_path, connections=2)

    assert len(disk.failed) == 1
    assert (type(error), error.exit_code) == (case.kind, 9)
    assert case.says in error.message
    assert first.asked == []
    assert asked(again, NAME) == WHOLE
    assert (tmp_path / "m" / NAME).read_bytes() == DATA
    assert names(tmp_path / "m") == [NAME]


@pytest.mark.fault("syncing the journal fails", DOUBT, number=(78, 80))
@pytest.mark.parametrize("number", [FULL, BROKEN], ids=["full", "broken"])
def test_a_journal_that_cannot_be_synced_is_not_synced_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """What it should have vouched for is fetched again; nothing is vouched for after it."""
    disk = FaultyDisk(Failing("fdatasync", "*.journal", number, after=2)).install(monkeypatch)

    error = refusal(large(), tmp_path, connections=2)
    monkeypatch.undo()
    had = recorded(tmp_path)
    again = large()
    bring(again, tmp_path, connections=2)

    assert len(disk.failed) == 1
    assert "syncing the journal" in error.message
    assert error.exit_code == 9
    assert 0 < had.total < SIZE
    assert asked(again, NAME) == without(had)
    assert (tmp_path / "m" / NAME).read_bytes() == DATA


PUBLISHING = [
    trouble("the file cannot get its final name", STOPS, 80,
            "replace", "*.part", BROKEN, 0, StorageError, "Input/output error: publishing"),
    trouble("the folder turns read-only before the final name", STOPS, 82,
            "replace", "*.part", READ_ONLY, 0, StorageError, "Read-only file system: publishing"),
    trouble("the final name lies on another device", STOPS, 86,
            "replace", "*.part", errno.EXDEV, 0, StorageError, "cross-device link: publishing"),
    trouble("the final name has no room in its folder", STOPS, 94,
            "replace", "*.part", FULL, 0, DiskFull, "no space left: publishing"),
    trouble("syncing the folder of the final name fails", STOPS, 80,
            "fsync", "m/", BROKEN, 1, StorageError, "Input/output error: syncing"),
]  # fmt: skip


@pytest.mark.parametrize("case", PUBLISHING)
def test_a_file_that_cannot_be_published_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Trouble
) -> None:
    """It is whole and proven: the next run only publishes it, or finds it in its place."""
    failing = Failing(case.call, case.name, case.number, after=case.after)
    disk = FaultyDisk(failing).install(monkeypatch)
    seen: list[Event] = []

    error = refusal(large(), tmp_path, connections=2, on_event=seen.append)
    monkeypatch.undo()
    again = large()
    bring(again, tmp_path, connections=2)

    assert len(disk.failed) == 1
    assert (type(error), error.exit_code) == (case.kind, 9)
    assert case.says in error.message
    assert not [event for event in seen if isinstance(event, FileDone)]
    assert again.asked == []
    assert (tmp_path / "m" / NAME).read_bytes() == DATA
    assert names(tmp_path / "m") == [NAME]


@pytest.mark.fault("any single call that reads, writes, syncs, names, removes or locks fails",
                   "an error of the disk or the right bytes, and the next run succeeds",
                   number=80)  # fmt: skip
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "step", [5, pytest.param(1, marks=pytest.mark.torture)], ids=["every fifth", "every"]
)
@pytest.mark.parametrize("plain", [True, False], ids=["new files", "update"])
def test_every_call_to_the_disk_may_fail_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool, step: int
) -> None:
    """One after the other: a large, a small and a copied file, and in a cache their update."""
    old = {"w.bin": b"old", "s.txt": b"old", "copy.bin": b"old"}
    new = {"w.bin": DATA[: 2 * MIB], "s.txt": b"small", "copy.bin": DATA[: 2 * MIB]}
    disk = FaultyDisk()
    outcomes: set[type | None] = set()

    for at in range(0, 1000, step):
        folder = tmp_path / str(at)
        target = folder / "m"
        if not plain:
            target = Path(bring(site(old), folder, plain=False).path)
        disk.nth, disk.calls, disk.failed = at, 0, []
        outcome: HaulError | None = None
        with monkeypatch.context() as patch:
            disk.install_below(folder, patch)
            try:
                bring(site(new, commit="2" * 40), folder, plain=plain)
            except HaulError as error:
                outcome = error
        there = content_of(target, new)
        bring(site(new, commit="2" * 40), folder, plain=plain)

        assert outcome is None or outcome.exit_code == 9, (disk.failed, outcome)
        assert all(data in (new[path], old[path]) for path, data in there.items())
        assert outcome is not None or there == new
        assert content_of(target, new) == new
        assert names(folder / ("m" if plain else "cache") / ".modelhaul") == []
        outcomes.add(type(outcome))
        if not disk.failed:
            break  # there are not so many calls

    assert 100 < at < 995
    assert outcomes == {type(None), StorageError}
    met = {call for call, _ in disk.met}
    assert met >= {"mkdir", "unlink", "rmdir", "flock", "open", "pwrite", "replace", "fsync"}


# -- one file from a URL ---------------------------------------------------------------------------

URL = "https://files.test/w.bin"


def get(folder: Path, **headers: str) -> tuple[FakeNetwork, Callable[[], Report]]:
    """A URL that states no digest, and a call that fetches it to `folder/w.bin`."""
    network = FakeNetwork({URL: Served(DATA, rate=1e6, headers=headers)})

    async def main() -> Report:
        threads = InlineThreads(write=0.001, sync=0.01)
        async with client(network, folder, threads=threads, connections=2) as here:
            return await here.get(URL, path=folder / "w.bin")

    return network, lambda: virtual(main)


@pytest.mark.fault("the disk fills up while a file without a digest is written", STOPS, number=77)
@pytest.mark.parametrize("tag", ['"same"', '"other"'], ids=["same", "replaced"])
def test_a_file_that_only_a_validator_identifies_goes_on_if_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str
) -> None:
    """With another validator nothing of the part is used: it may be another file."""
    FaultyDisk(Failing("pwrite", "*.part", FULL, after=4)).install(monkeypatch)
    first, again = get(tmp_path, etag='"same"'), get(tmp_path, etag=tag)

    with pytest.raises(DiskFull):
        first[1]()
    monkeypatch.undo()
    there = (tmp_path / "w.bin").exists()
    report = again[1]()

    assert not there
    assert not report.verified
    assert (report.reused > MIB) == (tag == '"same"')
    assert report.fetched == SIZE - report.reused
    assert (tmp_path / "w.bin").read_bytes() == DATA


@pytest.mark.fault("the disk fills up while a file that nothing identifies is written",
                   "nothing of it is kept or believed", number=77)  # fmt: skip
def test_a_file_that_nothing_identifies_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its part is removed: no later run could say what it is the beginning of."""
    FaultyDisk(Failing("pwrite", "*.part", FULL, after=4)).install(monkeypatch)
    first, again = get(tmp_path), get(tmp_path)

    with pytest.raises(DiskFull):
        first[1]()
    monkeypatch.undo()
    left = [path for path in tmp_path.rglob("*") if path.suffix in (".part", ".bin")]
    report = again[1]()

    assert left == []
    assert report.fetched == SIZE
    assert (tmp_path / "w.bin").read_bytes() == DATA


# -- small files, copies, updates ------------------------------------------------------------------

SMALL = {f"{letter}.json": payload(40_000, seed) for seed, letter in enumerate("abcdef", 1)}

EACH = [
    trouble("the disk fills up among small files", STOPS, (77, 94),
            "pwrite", "*.whole.part", FULL, 3, DiskFull, "no space left: writing"),
    trouble("a small file cannot be made", STOPS, 94,
            "open", "*.whole.part", FULL, 3, DiskFull, "no space left: making"),
    trouble("syncing a small file fails", STOPS, 80,
            "fdatasync", "*.whole.part", BROKEN, 3, StorageError, "Input/output error: syncing"),
    trouble("a small file cannot get its final name", STOPS, 80,
            "replace", "*.whole.part", BROKEN, 3, StorageError, "Input/output error: publishing"),
    trouble("syncing the folder of small files fails", STOPS, 80,
            "fsync", "m/", BROKEN, 1, StorageError, "Input/output error: syncing"),
]  # fmt: skip


@pytest.mark.parametrize("case", EACH)
def test_a_disk_that_fails_among_small_files_leaves_whole_ones_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Trouble
) -> None:
    """Whatever has its final name is whole; no part is left; the next run brings the others."""
    failing = Failing(case.call, case.name, case.number, after=case.after)
    disk = FaultyDisk(failing).install(monkeypatch)
    seen: list[Event] = []

    error = refusal(site(SMALL), tmp_path, connections=2, on_event=seen.append)
    monkeypatch.undo()
    there = content_of(tmp_path / "m", SMALL)
    left = names(tmp_path / "m" / ".modelhaul")
    again = site(SMALL)
    report = bring(again, tmp_path)

    assert disk.failed
    assert (type(error), error.exit_code) == (case.kind, 9)
    assert case.says in error.message
    assert there.items() <= SMALL.items()
    assert {event.path for event in seen if isinstance(event, FileDone)} <= set(there)
    assert left == []
    assert {one.url.rpartition("=")[2] for one in again.asked} == set(SMALL) - set(there)
    assert report.reused == sum(map(len, there.values()))
    assert content_of(tmp_path / "m", SMALL) == SMALL


@pytest.mark.fault("syncing one of several small files fails", DOUBT, number=80)
def test_a_small_file_whose_sync_failed_never_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others of its batch do, and it is not synced a second time."""
    failing = Failing("fdatasync", "*.whole.part", BROKEN, after=3, times=1)
    disk = FaultyDisk(failing).install(monkeypatch)

    refusal(site(SMALL), tmp_path)

    assert len(disk.failed) == 1
    assert disk.met["fdatasync", ".part"] == len(SMALL)
    assert len(content_of(tmp_path / "m", SMALL)) == len(SMALL) - 1


COPIES = [
    trouble("the disk is full when a file is copied", STOPS, 77,
            "pwrite", "*.copy.part", FULL, 3, DiskFull, "no space left: writing"),
    trouble("syncing a copy fails", STOPS, 80,
            "fdatasync", "*.copy.part", BROKEN, 0, StorageError, "Input/output error: syncing"),
    trouble("a copy cannot get its final name", STOPS, 80,
            "replace", "*.copy.part", BROKEN, 0, StorageError, "Input/output error: publishing"),
]  # fmt: skip


@pytest.mark.parametrize("case", COPIES)
def test_a_copy_that_fails_leaves_the_original_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Trouble
) -> None:
    """Two names of one content: the one that was fetched stays, the next run copies again."""
    twins = {"one.bin": DATA[: 3 * MIB], "two.bin": DATA[: 3 * MIB]}
    failing = Failing(case.call, case.name, case.number, after=case.after)
    disk = FaultyDisk(failing).install(monkeypatch)

    error = refusal(site(twins), tmp_path)
    monkeypatch.undo()
    there, left = content_of(tmp_path / "m", twins), names(tmp_path / "m" / ".modelhaul")
    again = site(twins)
    bring(again, tmp_path)

    assert disk.failed
    assert (type(error), error.exit_code) == (case.kind, 9)
    assert case.says in error.message
    assert there == {"one.bin": twins["one.bin"]}
    assert left == []
    assert again.asked == []
    assert content_of(tmp_path / "m", twins) == twins


@pytest.mark.fault("a copy cannot be written, and its part cannot be removed", STOPS, number=80)
def test_a_part_that_cannot_be_removed_is_an_error_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a traceback; what is left goes with the next run."""
    twins = {"one.bin": DATA[: 3 * MIB], "two.bin": DATA[: 3 * MIB]}
    disk = FaultyDisk(
        Failing("pwrite", "*.copy.part", FULL, after=3), Failing("unlink", "*.copy.part", BROKEN)
    ).install_below(tmp_path, monkeypatch)

    error = refusal(site(twins), tmp_path)
    monkeypatch.undo()
    bring(site(twins), tmp_path)

    assert [failed.partition(" ")[0] for failed in disk.failed] == ["pwrite", "unlink"]
    assert error.exit_code == 9
    assert content_of(tmp_path / "m", twins) == twins
    assert names(tmp_path / "m" / ".modelhaul") == []


UPDATES = [
    trouble("the disk is full when an update begins to be published", "the old files stay", 78,
            "pwrite", "*.update", FULL, 0, DiskFull, "no space left: writing"),
    trouble("the note of an update cannot be synced", "the old files stay", 80,
            "fdatasync", "*.update", BROKEN, 0, StorageError, "Input/output error: writing"),
    trouble("a file of an update cannot be written", "the old files stay", (77, 90),
            "pwrite", "*.whole.*.part", FULL, 3, DiskFull, "no space left: writing"),
    trouble("a file of an update cannot be synced", "the old files stay", (80, 90),
            "fdatasync", "*.whole.*.part", BROKEN, 3, StorageError, "Input/output error: syncing"),
]  # fmt: skip


@pytest.mark.parametrize("case", UPDATES)
def test_an_update_that_cannot_be_written_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Trouble
) -> None:
    """A snapshot in a cache shows the files of one commit, whatever the disk does."""
    old = {path: b"old " + path.encode() for path in SMALL}
    before = bring(site(old), tmp_path, plain=False)
    snapshot = Path(before.path)
    failing = Failing(case.call, case.name, case.number, after=case.after)
    disk = FaultyDisk(failing).install(monkeypatch)

    error = refusal(site(SMALL, commit="2" * 40), tmp_path, plain=False)
    monkeypatch.undo()
    there = content_of(snapshot, SMALL)
    after = bring(site(SMALL, commit="2" * 40), tmp_path, plain=False)

    assert disk.failed
    assert (type(error), error.exit_code) == (case.kind, 9)
    assert case.says in error.message
    assert there == old
    assert content_of(snapshot, SMALL) == SMALL
    assert after.path == before.path


# -- writes and reads that are not what was asked for ----------------------------------------------


@pytest.mark.fault("a write takes fewer bytes than it was given", "the rest follows", number=83)
@pytest.mark.parametrize("most", [10_007, 65_521])
def test_short_writes_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """In parts, journals and small files alike: the bytes are right, here and after a resume."""
    files = {NAME: DATA, "small.json": DATA[:40_000], "twin.json": DATA[:40_000]}
    disk = FaultyDisk(Failing("pwrite", "*.part", FULL, after=6 * MIB // most), most=most)
    disk.install(monkeypatch)

    refusal(slowed(site(files), 1e6), tmp_path, connections=2)
    disk.failing.clear()
    report = bring(slowed(site(files), 1e6), tmp_path, connections=2)

    assert disk.met["pwrite", ".part"] > SIZE // most
    assert report.reused > MIB
    assert content_of(tmp_path / "m", files) == files


@pytest.mark.fault("a write takes nothing and says nothing", "an error, not a hang", number=83)
def test_a_disk_that_takes_nothing_is_not_asked_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No system should, but a loop that waits for it would never end."""
    FaultyDisk(most=0).install(monkeypatch)

    error = refusal(large(), tmp_path, connections=2)
    monkeypatch.undo()
    bring(large(), tmp_path)

    assert error.exit_code == 9
    assert "nothing was written: making the journal" in error.message
    assert (tmp_path / "m" / NAME).read_bytes() == DATA


@pytest.mark.fault(
    "blocks cannot be reserved on this file system", "zeros or nothing instead", number=84
)
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_that_cannot_reserve_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The journal gets its room by zeros; a part that was to be reserved is sparse."""
    disk = FaultyDisk(Failing("posix_fallocate", "*", number)).install(monkeypatch)

    bring(large(), tmp_path, connections=2, reserve=True)

    assert len(disk.failed) == 2
    assert (tmp_path / "m" / NAME).read_bytes() == DATA


REREAD = "the run ends and says so; the next one fetches what cannot be read, and nothing else"


@pytest.mark.fault("what a sync has covered cannot be read back", REREAD, number=81)
def test_a_bad_sector_in_what_is_durable_costs_the_run_that_lies_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise every later run would stop at the same place, with all progress behind it."""
    disk = FaultyDisk(Failing("fdatasync", "*.part", BROKEN, after=4)).install(monkeypatch)
    refusal(large(), tmp_path, connections=2)
    disk.failing.clear()
    had, sector = recorded(tmp_path), Span(MIB, MIB + 512)
    disk.bad.add(sector)
    second, third = large(), large()

    error = refusal(second, tmp_path, connections=2)
    bring(third, tmp_path, connections=2)

    twice = without(without(had))
    for span in without(asked(third, NAME)):
        twice.remove(span)
    assert had.covers(sector)
    assert "Input/output error: reading" in error.message
    assert not [span for span in had if asked(second, NAME).overlaps(span)]
    assert twice.covers(sector)
    assert twice.total <= 4 * MIB < had.total
    assert (tmp_path / "m" / NAME).read_bytes() == DATA


@pytest.mark.fault("what no sync has covered cannot be read back", REREAD, number=81)
def test_a_bad_sector_in_what_is_not_durable_is_found_when_the_work_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is compared with its CRC anyway: the next run needs no other one."""
    disk = FaultyDisk(Failing("pwrite", "*.part", BROKEN, after=9)).install(monkeypatch)
    refusal(large(), tmp_path, connections=2)
    disk.failing.clear()
    had = recorded(tmp_path)
    (durable,) = disk.durable.values()
    for span in durable:
        had.remove(span)
    unsure = next(iter(had))
    disk.bad.add(Span(unsure.start, unsure.start + 512))
    again = large()

    bring(again, tmp_path, connections=2)

    assert asked(again, NAME).covers(unsure)
    assert not [span for span in durable if asked(again, NAME).overlaps(span)]
    assert (tmp_path / "m" / NAME).read_bytes() == DATA
