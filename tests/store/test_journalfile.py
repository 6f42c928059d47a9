"""`store.journalfile`: the journal on disk, whole, cut short, damaged and full."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.core.journal import (
    LOG_START,
    PAGE,
    RECORD_SIZE,
    Have,
    Header,
    JournalUnreadable,
    Record,
    Synced,
    Void,
)
from modelhaul.core.span import Span
from modelhaul.errors import DiskFull, StorageError
from modelhaul.store.journalfile import JournalFile
from tests.store.helpers import second_process, trace

HEADER = Header("sha256:abc", 1 << 30, 4711, bytes(range(16)), "acme/tiny: model.bin")
RECORDS: list[Record] = [
    Have(Span(0, 100), 1, 7),
    Have(Span(100, 200), 2, 7),
    Synced(2),
    Void(Span(0, 50)),
    Have(Span(200, 300), 3, 8),
]

LOCKER = """
from modelhaul.store.journalfile import JournalFile
journal = JournalFile.open(Path(sys.argv[1]))
assert journal.try_lock()
pause()
"""

offsets = st.integers(0, HEADER.size - 1)
pieces = st.builds(lambda at, size: Span(at, min(at + size, HEADER.size)), offsets, st.integers(1))
haves = st.builds(Have, pieces, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
batches = st.lists(st.lists(st.one_of(haves, st.builds(Void, pieces)), max_size=6), max_size=6)


def new(path: Path, *, slots: int = 16, records: list[Record] | None = None) -> JournalFile:
    """A new journal with some records."""
    journal = JournalFile.open(path)
    journal.create(HEADER, slots=slots)
    journal.append(records or [])
    return journal


def resumed(path: Path) -> tuple[JournalFile, list[Record | None] | None]:
    """The journal as the next run sees it."""
    journal = JournalFile.open(path)
    try:
        return journal, journal.resume()
    except BaseException:
        journal.close()
        raise


def read(path: Path) -> list[Record | None] | None:
    """The records by slot."""
    journal, slots = resumed(path)
    journal.close()
    return slots


# -- making and reading --------------------------------------------------------------------------


def test_a_new_journal_has_its_room_on_the_disk(tmp_path: Path) -> None:
    """Space for the promised slots is allocated before the first record."""
    journal = new(tmp_path / "j", slots=1000)

    status = (tmp_path / "j").stat()
    journal.close()

    assert status.st_size == LOG_START + 1000 * RECORD_SIZE
    assert status.st_blocks * 512 >= status.st_size


def test_a_new_journal_forgets_what_stood_there(tmp_path: Path) -> None:
    """`create` makes it empty, whatever it held and however long it was."""
    new(tmp_path / "j", slots=500, records=RECORDS).close()

    journal = JournalFile.open(tmp_path / "j")
    journal.create(HEADER, slots=16)
    journal.close()

    assert read(tmp_path / "j") == []
    assert (tmp_path / "j").stat().st_size == LOG_START + 16 * RECORD_SIZE


def test_an_empty_file_is_no_journal_yet(tmp_path: Path) -> None:
    """`open` makes the file, so empty means new: nothing to resume, nothing wrong."""
    assert read(tmp_path / "j") is None
    assert (tmp_path / "j").stat().st_size == 0


@pytest.mark.parametrize("size", [1, RECORD_SIZE, PAGE, LOG_START, LOG_START + 100 * RECORD_SIZE])
def test_a_file_of_zeros_is_no_journal_yet(tmp_path: Path, size: int) -> None:
    """Its maker was killed between allocating and the header: nothing is lost, nothing wrong."""
    (tmp_path / "j").write_bytes(bytes(size))

    journal, slots = resumed(tmp_path / "j")
    journal.create(HEADER, slots=16)
    journal.append(RECORDS)
    journal.close()

    assert slots is None
    assert read(tmp_path / "j") == RECORDS


@pytest.mark.parametrize("at", [0, PAGE - 1, PAGE, LOG_START, LOG_START + 5 * RECORD_SIZE])
def test_one_byte_among_zeros_is_no_empty_journal(tmp_path: Path, at: int) -> None:
    """Something did stand there: it is kept for people to look at, not silently begun anew."""
    raw = bytearray(LOG_START + 10 * RECORD_SIZE)
    raw[at] = 1
    (tmp_path / "j").write_bytes(raw)

    with pytest.raises(JournalUnreadable):
        read(tmp_path / "j")


def test_a_cleared_journal_is_empty(tmp_path: Path) -> None:
    """None of its records counts any more; it keeps its name and its lock."""
    new(tmp_path / "j", records=RECORDS).close()
    journal = JournalFile.open(tmp_path / "j")
    assert journal.try_lock()

    journal.clear()
    other = JournalFile.open(tmp_path / "j")
    locked_by_other = other.try_lock()
    other.close()
    journal.close()

    assert not locked_by_other
    assert (tmp_path / "j").stat().st_size == 0
    assert read(tmp_path / "j") is None


def test_records_and_header_come_back(tmp_path: Path) -> None:
    """What was appended is read in order, and the next record goes behind it."""
    new(tmp_path / "j", records=RECORDS).close()

    journal, slots = resumed(tmp_path / "j")
    journal.close()

    assert slots == RECORDS
    assert journal.header == HEADER
    assert journal.used == len(RECORDS)


@given(batches, st.integers(1, 8))
def test_any_records_come_back_over_any_number_of_runs(
    runs: list[list[Have | Void]], slots: int
) -> None:
    """Each run appends a batch behind those of the runs before, within the room or past it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "j")
        new(path, slots=slots).close()
        for batch in runs:
            journal, _ = resumed(path)
            journal.append(list[Record](batch))
            journal.close()

        slots_read = read(path)

    assert slots_read == [record for batch in runs for record in batch]


def test_a_journal_grows_past_its_room(tmp_path: Path) -> None:
    """More records than planned are fine; the new room is allocated too."""
    many: list[Record] = [Have(Span(at, at + 1), at) for at in range(3000)]
    journal = new(tmp_path / "j", slots=2)

    for at in range(0, 3000, 7):
        journal.append(many[at : at + 7])
    status = (tmp_path / "j").stat()
    journal.close()

    assert read(tmp_path / "j") == many
    assert status.st_blocks * 512 >= LOG_START + 3000 * RECORD_SIZE


def test_one_batch_may_be_larger_than_all_room(tmp_path: Path) -> None:
    """A batch grows the journal by what it needs."""
    many: list[Record] = [Have(Span(at, at + 1), at) for at in range(5000)]
    journal = new(tmp_path / "j", slots=1)

    journal.append(many)
    journal.close()

    assert read(tmp_path / "j") == many


def test_appends_from_several_threads_take_a_slot_each(tmp_path: Path) -> None:
    """Writers and the flusher append at the same time; no record overwrites another."""
    journal = new(tmp_path / "j", slots=4)
    together = threading.Barrier(4)

    def work(number: int) -> None:
        together.wait()
        for at in range(200):
            journal.append([Have(Span(at, at + 1), at, number)] * 50)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()

    slots = read(tmp_path / "j")
    assert slots is not None
    for number in range(4):
        mine = [have.crc for have in slots if isinstance(have, Have) and have.source == number]
        assert mine == [at for at in range(200) for _ in range(50)]


# -- durability ----------------------------------------------------------------------------------


def test_vouching_and_voiding_are_durable_when_they_return(
    tmp_path: Path, needs_strace: None
) -> None:
    """The record is written, then synced; a plain append waits for the next sync."""
    (tmp_path / "x").mkdir()
    code = """
    from modelhaul.core.journal import Have
    from modelhaul.core.span import Span
    from tests.store.test_journalfile import new
    folder = Path(sys.argv[1])
    journal = new(folder / "j")
    for step in ("append", "synced", "void"):
        os.mkdir(folder / step)
        if step == "append":
            journal.append([Have(Span(0, 1), 0)])
        elif step == "synced":
            journal.synced(1)
        else:
            journal.void([Span(0, 1), Span(5, 6)])
    """

    traced = trace(code, tmp_path / "x", calls="mkdir,ftruncate,fallocate,pwrite64,fdatasync,fsync")

    assert traced.steps == [
        *("ftruncate j", "fallocate j", "pwrite64 j", "fdatasync j"),
        *("mkdir append", "pwrite64 j"),
        *("mkdir synced", "pwrite64 j", "fdatasync j"),
        *("mkdir void", "pwrite64 j", "fdatasync j"),
    ]


def test_clearing_is_durable_when_it_returns(tmp_path: Path, needs_strace: None) -> None:
    """Before a new part gets the inode of the old one; what is empty needs no syncing."""
    (tmp_path / "x").mkdir()
    new(tmp_path / "x" / "j", records=RECORDS).close()
    code = """
    from modelhaul.store.journalfile import JournalFile
    journal = JournalFile.open(Path(sys.argv[1]) / "j")
    for _ in range(2):
        journal.clear()
    """

    traced = trace(code, tmp_path / "x", calls="ftruncate,fdatasync,fsync,pwrite64")

    assert traced.steps == ["ftruncate j", "fdatasync j"]


@pytest.mark.parametrize("call", ["sync", "synced", "void"])
def test_a_failed_sync_is_never_repeated(tmp_path: Path, call: str) -> None:
    """The kernel may report success the second time: nobody vouches for anything any more."""
    fd = os.open(tmp_path / "j", os.O_CREAT | os.O_RDWR)
    good = os.dup(fd)
    reader, writer = os.pipe()
    journal = JournalFile(tmp_path / "j", fd)
    journal.create(HEADER, slots=16)
    journal.append(RECORDS)
    again = {
        "sync": journal.sync,
        "synced": lambda: journal.synced(1),
        "void": lambda: journal.void([Span(0, 1)]),
    }

    try:
        os.dup2(writer, fd)  # a pipe cannot be synced
        with pytest.raises(StorageError, match="syncing the journal"):
            journal.sync()
        os.dup2(good, fd)  # from here on the system would say yes
        for _ in range(2):
            with pytest.raises(StorageError, match="an earlier sync"):
                again[call]()
    finally:
        journal.close()
        for other in (good, reader, writer):
            os.close(other)


def test_good_syncs_can_be_followed_by_others(tmp_path: Path) -> None:
    """There is one about every second."""
    journal = new(tmp_path / "j", records=RECORDS[:2])

    journal.synced(1)
    journal.synced(2)
    journal.sync()
    journal.close()

    assert read(tmp_path / "j") == [*RECORDS[:2], Synced(1), Synced(2)]


def test_vouching_and_voiding_are_records(tmp_path: Path) -> None:
    """`synced` and `void` say on disk what they were told."""
    journal = new(tmp_path / "j", records=[Have(Span(0, 100), 1)])

    journal.synced(1)
    journal.void([Span(0, 50), Span(60, 70)])
    journal.close()

    assert read(tmp_path / "j") == [
        Have(Span(0, 100), 1),
        Synced(1),
        Void(Span(0, 50)),
        Void(Span(60, 70)),
    ]


def test_a_full_disk_cannot_stop_a_journal_within_its_room(tiny_disk: Callable[..., Path]) -> None:
    """That is what its room was allocated for."""
    disk = tiny_disk(kib=128)
    journal = new(disk / "j", slots=500)
    (disk / "filler").write_bytes(bytes((os.statvfs(disk).f_bavail) * os.statvfs(disk).f_bsize))
    many: list[Record] = [Have(Span(at, at + 1), at) for at in range(500)]

    journal.append(many[:250])
    journal.sync()
    journal.close()
    journal, _ = resumed(disk / "j")
    journal.append(many[250:])
    journal.sync()
    journal.close()

    assert os.statvfs(disk).f_bavail == 0
    assert read(disk / "j") == many


def test_a_full_disk_stops_growth_and_harms_nothing(tiny_disk: Callable[..., Path]) -> None:
    """None of the call counts, what was there stays, and after making room it goes on."""
    disk = tiny_disk(kib=64)
    journal = new(disk / "j", slots=5, records=RECORDS)
    filler = disk / "filler"
    filler.write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize))

    with pytest.raises(DiskFull):
        journal.append(RECORDS * 200)
    used = journal.used
    kept = read(disk / "j")
    filler.unlink()
    journal.append([Void(Span(1, 2))])
    journal.close()

    assert used == len(RECORDS)
    assert kept == RECORDS
    assert read(disk / "j") == [*RECORDS, Void(Span(1, 2))]


def test_a_batch_that_does_not_fit_is_not_begun(tiny_disk: Callable[..., Path]) -> None:
    """Its room is allocated before its first record: half a batch never counts."""
    disk = tiny_disk(kib=128)
    journal = new(disk / "j", slots=5, records=RECORDS)

    with pytest.raises(DiskFull):
        journal.append([Have(Span(at, at + 1), at) for at in range(5000)])
    journal.close()

    assert read(disk / "j") == RECORDS


def test_growth_is_for_many_records_at_once(tmp_path: Path, needs_strace: None) -> None:
    """Allocating costs more than writing: it is done once for about a thousand records."""
    (tmp_path / "x").mkdir()
    code = """
    from tests.store.test_journalfile import RECORDS, new
    journal = new(Path(sys.argv[1]) / "j", slots=1)
    for _ in range(100):
        journal.append(RECORDS)
    """

    traced = trace(code, tmp_path / "x", calls="fallocate")

    assert traced.steps == ["fallocate j", "fallocate j"]


def test_a_journal_that_does_not_fit_is_a_full_disk(tiny_disk: Callable[..., Path]) -> None:
    """Better now than in the middle of the download."""
    journal = JournalFile.open(tiny_disk(kib=64) / "j")

    with pytest.raises(DiskFull, match="making the journal"):
        journal.create(HEADER, slots=10_000)

    journal.close()


# -- damage --------------------------------------------------------------------------------------


def test_one_damaged_header_copy_costs_nothing(tmp_path: Path) -> None:
    """The header stands in two pages; either one is enough."""
    new(tmp_path / "j", records=RECORDS).close()
    raw = (tmp_path / "j").read_bytes()

    for page in (0, 1):
        bad = bytearray(raw)
        bad[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
        (tmp_path / "j").write_bytes(bad)

        journal, slots = resumed(tmp_path / "j")
        journal.close()

        assert (journal.header, slots) == (HEADER, RECORDS)


def test_two_damaged_header_copies_make_it_unreadable(tmp_path: Path) -> None:
    """Then nothing in the file can be believed, and that is said."""
    new(tmp_path / "j", records=RECORDS).close()
    raw = bytearray((tmp_path / "j").read_bytes())
    raw[20] ^= 1
    raw[PAGE + 20] ^= 1
    (tmp_path / "j").write_bytes(raw)

    with pytest.raises(JournalUnreadable):
        read(tmp_path / "j")


def test_any_damaged_byte_of_the_log_costs_one_record(tmp_path: Path) -> None:
    """Every single byte changed in turn: its record is skipped, all others stay."""
    new(tmp_path / "j", slots=len(RECORDS), records=RECORDS).close()
    raw = (tmp_path / "j").read_bytes()

    for at in range(LOG_START, len(raw)):
        bad = bytearray(raw)
        bad[at] ^= 0x5A
        (tmp_path / "j").write_bytes(bad)
        expected: list[Record | None] = list(RECORDS)
        expected[(at - LOG_START) // RECORD_SIZE] = None

        slots = read(tmp_path / "j")

        assert slots == expected


def test_a_journal_cut_at_any_byte_keeps_its_whole_records_and_goes_on(tmp_path: Path) -> None:
    """After every possible cut: the records before it count, and so do those appended later."""
    new(tmp_path / "j", slots=8, records=RECORDS).close()
    raw = (tmp_path / "j").read_bytes()
    later: list[Record] = [Have(Span(900, 901), 9), Void(Span(7, 8))]

    for cut in range(LOG_START, LOG_START + (len(RECORDS) + 1) * RECORD_SIZE + 1):
        (tmp_path / "j").write_bytes(raw[:cut])
        whole = RECORDS[: (cut - LOG_START) // RECORD_SIZE]

        journal, slots = resumed(tmp_path / "j")
        journal.append(later)
        journal.close()
        after = read(tmp_path / "j")

        assert slots is not None
        assert after is not None
        assert [record for record in slots if record] == whole
        assert [record for record in after if record] == [*whole, *later]


@pytest.mark.parametrize("cut", [PAGE, PAGE + 1, LOG_START - 1, LOG_START])
def test_a_journal_cut_inside_its_second_header_goes_on(tmp_path: Path, cut: int) -> None:
    """One whole header is enough to append behind, in the right place."""
    new(tmp_path / "j", records=RECORDS).close()
    os.truncate(tmp_path / "j", cut)

    journal, slots = resumed(tmp_path / "j")
    journal.append(RECORDS)
    journal.close()

    assert slots == []
    assert read(tmp_path / "j") == RECORDS


@pytest.mark.parametrize("cut", [1, RECORD_SIZE, PAGE - 1])
def test_a_journal_without_a_whole_header_is_unreadable(tmp_path: Path, cut: int) -> None:
    """It cannot be told from something that never was a journal."""
    new(tmp_path / "j", records=RECORDS).close()
    os.truncate(tmp_path / "j", cut)

    with pytest.raises(JournalUnreadable):
        read(tmp_path / "j")


def test_new_records_never_fill_a_hole(tmp_path: Path) -> None:
    """After a power cut early slots may be missing: what comes later stands behind the last one."""
    new(tmp_path / "j", records=RECORDS).close()
    raw = bytearray((tmp_path / "j").read_bytes())
    raw[LOG_START : LOG_START + 2 * RECORD_SIZE] = bytes(2 * RECORD_SIZE)
    (tmp_path / "j").write_bytes(raw)

    journal, slots = resumed(tmp_path / "j")
    journal.append([Void(Span(0, 1))])
    journal.close()

    assert slots == [None, None, *RECORDS[2:]]
    assert read(tmp_path / "j") == [None, None, *RECORDS[2:], Void(Span(0, 1))]


def test_records_of_another_journal_do_not_count(tmp_path: Path) -> None:
    """A disk that returns an older file's blocks cannot make us believe its records."""
    new(tmp_path / "j", records=RECORDS).close()
    raw = bytearray((tmp_path / "j").read_bytes())
    other = JournalFile.open(tmp_path / "k")
    other.create(Header("sha256:abc", 1 << 30, 4711, bytes(16)), slots=16)
    other.close()
    raw[:LOG_START] = (tmp_path / "k").read_bytes()[:LOG_START]
    (tmp_path / "k").write_bytes(raw)

    slots = read(tmp_path / "k")

    assert slots == [None] * len(RECORDS)


# -- opening, locking, closing -------------------------------------------------------------------


def test_a_journal_is_never_a_link_nor_a_folder(tmp_path: Path) -> None:
    """A planted name cannot make us write elsewhere."""
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("victim")
    (tmp_path / "folder").mkdir()

    for name in ("link", "folder"):
        with pytest.raises(StorageError, match="opening"):
            JournalFile.open(tmp_path / name)

    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_the_lock_is_refused_while_another_process_holds_it(tmp_path: Path) -> None:
    """It ends with that process, however it ends."""
    with second_process(LOCKER, tmp_path / "j") as other:
        other.line()
        journal = JournalFile.open(tmp_path / "j")
        while_held = journal.try_lock()
        other.kill()
        after_kill = journal.try_lock()
    journal.close()

    assert (while_held, after_kill) == (False, True)


@pytest.mark.parametrize("name", ["removed", "replaced"])
def test_the_lock_of_a_journal_that_lost_its_name_is_worth_nothing(
    tmp_path: Path, name: str
) -> None:
    """Who waited for a finished process owns a file that no other process will ever see."""
    late = JournalFile.open(tmp_path / "j")
    (tmp_path / "j").unlink()
    if name == "replaced":
        new(tmp_path / "j").close()

    locked = late.try_lock()
    late.close()

    assert not locked


def test_closing_twice_closes_once_and_gives_the_lock_up(tmp_path: Path) -> None:
    """The second call must not close a descriptor that is somebody else's by then."""
    journal = new(tmp_path / "j")
    assert journal.try_lock()

    journal.close()
    other = JournalFile.open(tmp_path / "j")
    journal.close()
    locked = other.try_lock()
    other.close()

    assert locked


def test_a_removed_journal_is_gone(tmp_path: Path) -> None:
    """Its name is free at once; removing it again does nothing."""
    journal = new(tmp_path / "j", records=RECORDS)

    journal.remove()
    journal.remove()
    journal.close()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["replaced", "renamed away", "link"])
def test_a_journal_that_lost_its_name_removes_nothing(tmp_path: Path, how: str) -> None:
    """Somebody tidied up and another process works under that name: its journal stays."""
    journal = new(tmp_path / "j", records=RECORDS)
    if how == "renamed away":
        (tmp_path / "j").rename(tmp_path / "k")
    elif how == "link":
        (tmp_path / "j").rename(tmp_path / "k")
        (tmp_path / "j").symlink_to("k")
    else:
        (tmp_path / "j").unlink()
        new(tmp_path / "j", records=RECORDS[:1]).close()
    before = sorted(path.name for path in tmp_path.iterdir())

    journal.remove()
    journal.close()

    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert read(tmp_path / before[-1]) == RECORDS[: 1 if how == "replaced" else None]


def test_a_closed_journal_takes_no_records(tmp_path: Path) -> None:
    """It raises instead of writing into whatever has its descriptor number now."""
    journal = new(tmp_path / "j", records=RECORDS)
    journal.close()

    with pytest.raises(StorageError):
        journal.append([Synced(1)])

    assert read(tmp_path / "j") == RECORDS
