"""`store.claim`: who may put a file together, and which of its bytes count."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelhaul.core.journal import LOG_START, PAGE, RECORD_SIZE
from modelhaul.core.span import Span, SpanSet
from modelhaul.errors import DiskFull, StorageError
from modelhaul.store.claim import (
    ORPHAN_SECONDS,
    Claim,
    Wanted,
    claim,
    part_name,
    published_inode,
    read_runs,
    recorded,
    stored,
    unfinished,
)
from modelhaul.store.marker import Marker
from modelhaul.store.sink import open_private
from tests.faults.faultydisk import BROKEN, Failing, FaultyDisk
from tests.store.helpers import (
    CHUNK,
    DATA,
    SIZE,
    STEM,
    WANTED,
    claimed,
    damage,
    descriptors,
    have,
    put,
    second_process,
    spans,
    trace,
    vouch,
)

OTHER = dataclasses.replace(WANTED, identity="sha256:" + "0" * 64)
TAGGED = dataclasses.replace(WANTED, identity='validator:"v1"')

WORKER = """
from tests.store.helpers import claimed, put, vouch
mine = claimed(Path(sys.argv[1]))
put(mine, 0, 500)
vouch(mine)
put(mine, 500, 600)
pause()
"""

STEPS = "ftruncate,fallocate,pwrite64,fdatasync,fsync,rename,renameat,renameat2,unlink,unlinkat"

CLAIM = """
from tests.store.helpers import claimed
claimed(Path(sys.argv[1]))
"""


def part(folder: Path, stem: str = STEM) -> Path:
    """The part's path."""
    return folder / f"{stem}.part"


def journal(folder: Path, stem: str = STEM) -> Path:
    """The journal's path."""
    return folder / f"{stem}.journal"


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def unfinished_work(folder: Path, *, vouched: int = 5, claims: int = 2, token: str = "") -> None:
    """Leave work as a killed process would: chunks that are vouched for, then some that are not."""
    mine = claimed(folder, locks=not token, token=token)
    for at in range(vouched):
        put(mine, at * CHUNK, (at + 1) * CHUNK)
    if vouched:
        vouch(mine)
    for at in range(vouched, vouched + claims):
        put(mine, at * CHUNK, (at + 1) * CHUNK)
    mine.close()


def right(mine: Claim) -> bool:
    """Whether every byte that counts has the right value in the part."""
    content = mine.part.path.read_bytes()
    return all(
        content[span.start : span.stop] == DATA[span.start : span.stop] for span in mine.have
    )


def counted(folder: Path, *, locks: bool = True, token: str = "") -> SpanSet:
    """What the next run finds."""
    mine = claimed(folder, locks=locks, token=token)
    mine.close()
    return mine.have


def kill_at_each_step(
    code: str, tmp_path: Path, prepare: Callable[[Path], None], *, calls: str
) -> list[Path]:
    """Run code on prepared folders, with SIGKILL at each of its system calls in turn.

    Returns:
        One folder for each call, as the kill left it.
    """
    prepare(tmp_path / "whole")
    points = trace(code, tmp_path / "whole", calls=calls).points
    folders = [tmp_path / f"kill{number}" for number in range(len(points))]
    for folder in folders:
        prepare(folder)
    with ThreadPoolExecutor(2) as pool:
        killed = pool.map(lambda *at: trace(code, at[0], calls=calls, kill=at[1]), folders, points)
        assert {one.exit_code for one in killed} == {-9}
    return folders


# -- a fresh claim -------------------------------------------------------------------------------


def test_a_fresh_claim_has_a_part_and_a_journal_and_no_byte(tmp_path: Path) -> None:
    """The part has the file's length and takes no room; nothing in it counts."""
    mine = claimed(tmp_path)

    assert names(tmp_path) == sorted([f"{STEM}.journal", f"{STEM}.part"])
    assert (mine.part.size, mine.part.path.stat().st_blocks) == (SIZE, 0)
    assert (mine.have, mine.unsynced) == (SpanSet(), SpanSet())
    assert mine.notes == []
    assert mine.journal.header.label == WANTED.label
    assert mine.journal.header.inode == mine.part.inode
    mine.close()


def test_part_and_journal_are_durable_before_the_first_byte(
    tmp_path: Path, needs_strace: None
) -> None:
    """Step 0: both synced, then their folder, before anything is recorded."""
    (tmp_path / "x").mkdir()

    traced = trace(CLAIM, tmp_path / "x", calls="ftruncate,fallocate,pwrite64,fdatasync,fsync")

    assert traced.steps == [
        *(f"ftruncate {STEM}.part", f"fdatasync {STEM}.part"),
        *(f"ftruncate {STEM}.journal", f"fallocate {STEM}.journal"),
        *(f"pwrite64 {STEM}.journal", f"fdatasync {STEM}.journal"),
        "fsync x",
    ]


def test_content_has_one_name(tmp_path: Path) -> None:
    """Equal identity and size give one part, whatever the label; anything else another."""
    relabelled = dataclasses.replace(WANTED, label="another/name", chunk=50)
    mine = claimed(tmp_path)
    put(mine, 0, CHUNK)
    mine.close()

    again = claimed(tmp_path, relabelled)
    other = claimed(tmp_path, OTHER)
    longer = claimed(tmp_path, dataclasses.replace(WANTED, size=SIZE + 1))

    assert again.have == spans((0, CHUNK))
    assert (other.have, longer.have) == (SpanSet(), SpanSet())
    assert len(names(tmp_path)) == 6
    assert part_name(WANTED.identity, SIZE) == STEM
    for one in (again, other, longer):
        one.close()


def test_reserving_too_much_is_a_full_disk_and_leaves_nothing_open(
    tiny_disk: Callable[..., Path],
) -> None:
    """The claim fails as a whole, its lock is free again, and with less it succeeds."""
    disk = tiny_disk(kib=256)
    greedy = dataclasses.replace(WANTED, size=1 << 20, chunk=1 << 20, reserve=True)
    before = descriptors()

    with pytest.raises(DiskFull):
        claim(disk, greedy, locks=True)
    after = descriptors()
    sparse = claimed(disk, dataclasses.replace(greedy, reserve=False))

    assert after == before
    assert sparse.have == SpanSet()
    sparse.close()


def test_a_full_disk_ends_in_an_error_with_the_journal_intact(
    tiny_disk: Callable[..., Path],
) -> None:
    """What was written before the disk filled up is recorded, and counts in the next run."""
    disk = tiny_disk(kib=256)
    size, step = 4 << 20, 32 * 1024
    data = random.Random(3).randbytes(size)
    wanted = Wanted(identity="sha256:big", size=size, label="big", chunk=step)
    mine = claimed(disk, wanted)
    written = 0

    def fill() -> None:
        nonlocal written
        for at in range(0, size, step):
            mine.part.write_at(data[at : at + step], at)
            mine.journal.append([have(at, at + step, data)])
            written = at + step

    with pytest.raises(DiskFull):
        fill()
    vouch(mine)
    mine.close()
    again = claimed(disk, wanted)

    assert written >= 3 * step
    assert again.have == spans((0, written))
    again.close()


def test_a_linked_journal_is_refused(tmp_path: Path) -> None:
    """A planted link is never written through, and the claim works once it is gone."""
    (tmp_path / "victim").write_bytes(b"precious")
    journal(tmp_path).symlink_to("victim")
    before = descriptors()

    with pytest.raises(StorageError):
        claim(tmp_path, WANTED, locks=True)

    assert descriptors() == before
    assert (tmp_path / "victim").read_bytes() == b"precious"
    journal(tmp_path).unlink()
    assert counted(tmp_path) == SpanSet()


def test_a_link_in_place_of_a_part_is_never_written_through(tmp_path: Path) -> None:
    """It gives way to a new part, and is refused where a journal speaks of one; nothing leaks."""
    (tmp_path / "victim").write_bytes(b"precious")
    part(tmp_path).symlink_to("victim")
    before = descriptors()

    fresh = counted(tmp_path)
    made = part(tmp_path).read_bytes()
    part(tmp_path).unlink()
    part(tmp_path).symlink_to("victim")
    with pytest.raises(StorageError):
        claim(tmp_path, WANTED, locks=True)

    assert (fresh, made) == (SpanSet(), bytes(SIZE))
    assert descriptors() == before
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert part(tmp_path).is_symlink()


def test_a_part_with_a_second_name_is_left_to_it(tmp_path: Path) -> None:
    """A backup linked it (`cp -al`): we begin anew and write nothing into the backup."""
    unfinished_work(tmp_path)
    content = part(tmp_path).read_bytes()
    os.link(part(tmp_path), tmp_path / "backup")

    mine = claimed(tmp_path)
    put(mine, 900, 1000)
    mine.close()

    assert mine.have == SpanSet()
    assert (tmp_path / "backup").read_bytes() == content
    assert part(tmp_path).read_bytes() == bytes(900) + DATA[900:]
    assert counted(tmp_path) == spans((900, 1000))


def test_a_journal_with_a_second_name_is_left_to_it(tmp_path: Path) -> None:
    """A backup of the whole folder: its journal keeps saying what its part holds."""
    folder, backup = tmp_path / "state", tmp_path / "backup"
    for each in (folder, backup):
        each.mkdir()
    unfinished_work(folder)
    for name in names(folder):
        os.link(folder / name, backup / name)
    content = {name: (backup / name).read_bytes() for name in names(backup)}

    mine = claimed(folder)
    put(mine, 900, 1000)
    mine.close()

    assert {name: (backup / name).read_bytes() for name in names(backup)} == content
    assert counted(folder) == spans((900, 1000))
    shutil.rmtree(folder)
    assert counted(backup).covers(Span(0, 500))


def test_a_journal_with_a_second_name_is_not_taken_from_who_works_with_it(tmp_path: Path) -> None:
    """The backup was made while it runs: it is busy, and goes on to its end."""
    running = claimed(tmp_path)
    os.link(journal(tmp_path), tmp_path / "backup")

    other = claim(tmp_path, WANTED, locks=True)

    assert other is None
    assert journal(tmp_path).samefile(tmp_path / "backup")
    put(running, 0, 100)
    running.close()


# -- resuming ------------------------------------------------------------------------------------


def test_a_resumed_claim_has_exactly_what_was_recorded(tmp_path: Path) -> None:
    """Vouched for or checked just now, in any order, with gaps; and it can go on from there."""
    mine = claimed(tmp_path)
    put(mine, 300, 400)
    put(mine, 0, 150)
    vouch(mine)
    put(mine, 900, 1000)
    mine.part.write_at(DATA[500:600], 500)  # written and not recorded: does not count
    mine.close()

    again = claimed(tmp_path)
    found = again.have.copy()
    put(again, 500, 600)
    again.close()

    assert found == spans((0, 150), (300, 400), (900, 1000))
    runs = read_runs(again.journal.path)[1]
    assert [run.span for run in runs][:3] == [Span(300, 400), Span(0, 150), Span(900, 1000)]
    assert {run.source for run in runs} == {7}
    assert again.notes == []
    assert counted(tmp_path) == spans((0, 150), (300, 400), (500, 600), (900, 1000))


steps = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 9)),
    st.tuples(st.just("void"), st.integers(0, 9)),
    st.tuples(st.just("vouch"), st.just(0)),
    st.tuples(st.just("reopen"), st.just(0)),
)


@settings(max_examples=40)
@given(st.lists(steps, max_size=25), st.sets(st.integers(0, 9)))
@example([("put", 3), ("vouch", 0), ("put", 3)], {3})
@example([("put", 3), ("void", 3), ("put", 3), ("reopen", 0), ("vouch", 0)], {3})
@example([("put", 3), ("vouch", 0), ("void", 3), ("reopen", 0), ("put", 3)], {3})
def test_what_counts_after_any_history(history: list[tuple[str, int]], damaged: set[int]) -> None:
    """A chunk counts if it was put and not voided since, and is vouched for or undamaged."""
    state: dict[int, str] = {}

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mine = claimed(folder)
        for what, chunk in history:
            if what == "put":
                put(mine, chunk * CHUNK, (chunk + 1) * CHUNK)
                state.setdefault(chunk, "put")
            elif what == "void":
                mine.journal.void([Span(chunk * CHUNK, (chunk + 1) * CHUNK)])
                state.pop(chunk, None)
            elif what == "vouch":
                vouch(mine)
                state = dict.fromkeys(state, "vouched")
            else:
                mine.close()
                mine = claimed(folder)
        mine.close()
        for chunk in damaged & set(state):
            damage(part(folder), chunk * CHUNK + 5)

        found = counted(folder)
        found_again = counted(folder)

    expected = SpanSet(
        Span(chunk * CHUNK, (chunk + 1) * CHUNK)
        for chunk, how in state.items()
        if how == "vouched" or chunk not in damaged
    )
    assert found == expected
    assert found_again == expected


def test_vouched_bytes_are_not_read_again(tmp_path: Path) -> None:
    """Resuming costs no reading of what is durable: even damage there goes unseen until proof."""
    unfinished_work(tmp_path, vouched=5, claims=0)
    damage(part(tmp_path), 250)

    assert counted(tmp_path) == spans((0, 500))


def test_runs_that_nobody_vouched_for_are_checked(tmp_path: Path) -> None:
    """After a power cut the journal may be ahead of the part: only runs with their CRC count."""
    unfinished_work(tmp_path, vouched=2, claims=4)
    damage(part(tmp_path), 350)

    mine = claimed(tmp_path)
    mine.close()

    assert mine.have == spans((0, 300), (400, 600))
    assert Span(300, 400) not in [run.span for run in read_runs(mine.journal.path)[1]]


def test_a_run_found_bad_stays_bad(tmp_path: Path) -> None:
    """It is voided in the journal: a later barrier must not vouch for its record."""
    unfinished_work(tmp_path, vouched=0, claims=2)
    damage(part(tmp_path), 50)
    mine = claimed(tmp_path)

    vouch(mine)
    mine.close()

    assert counted(tmp_path) == spans((100, 200))


def test_a_copied_folder_is_checked_run_by_run(tmp_path: Path) -> None:
    """A part with another inode is not the file that was vouched for: its good runs count."""
    (tmp_path / "old").mkdir()
    unfinished_work(tmp_path / "old", vouched=5, claims=2)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    damage(part(tmp_path / "new"), 150)
    damage(part(tmp_path / "new"), 550)

    found = counted(tmp_path / "new")

    assert found == spans((0, 100), (200, 500), (600, 700))
    assert counted(tmp_path / "old") == spans((0, 700))


def test_a_copy_can_be_continued_and_resumed(tmp_path: Path) -> None:
    """What is added to a copied part counts in later runs like anything else."""
    (tmp_path / "old").mkdir()
    unfinished_work(tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "new")

    mine = claimed(tmp_path / "new")
    put(mine, 700, 1000)
    vouch(mine)
    mine.close()

    assert counted(tmp_path / "new") == spans((0, SIZE))
    assert part(tmp_path / "new").read_bytes() == DATA


@pytest.mark.parametrize("length", [0, 1, 449, 450, 999])
def test_a_part_that_lost_its_end_keeps_its_whole_runs(tmp_path: Path, length: int) -> None:
    """A part of another length is not trusted; after checking it has its length again."""
    unfinished_work(tmp_path, vouched=10, claims=0)
    os.truncate(part(tmp_path), length)

    found = counted(tmp_path)

    assert found == spans((0, length // CHUNK * CHUNK))
    assert part(tmp_path).stat().st_size == SIZE


def test_a_part_that_grew_is_checked_and_cut(tmp_path: Path) -> None:
    """Somebody wrote there: every run is compared with its CRC."""
    unfinished_work(tmp_path, vouched=5, claims=0)
    damage(part(tmp_path), 250)
    os.truncate(part(tmp_path), SIZE + 300)

    found = counted(tmp_path)

    assert found == spans((0, 200), (300, 500))
    assert part(tmp_path).stat().st_size == SIZE


def test_untrusted_bytes_are_voided_before_the_length_is_put_right(
    tmp_path: Path, needs_strace: None
) -> None:
    """Durably: a kill in between leaves another length, so that all is checked again."""
    (tmp_path / "x").mkdir()
    unfinished_work(tmp_path / "x", vouched=10, claims=0)
    os.truncate(part(tmp_path / "x"), 500)

    traced = trace(CLAIM, tmp_path / "x", calls="ftruncate,pwrite64,fdatasync")

    assert traced.steps == [
        *(f"pwrite64 {STEM}.journal", f"fdatasync {STEM}.journal"),
        f"ftruncate {STEM}.part",
    ]


def test_a_kill_while_a_cut_part_is_mended_gives_no_zeros(
    tmp_path: Path, needs_strace: None
) -> None:
    """At each system call of mending in turn: what counts afterwards has the right bytes."""

    def cut(folder: Path) -> None:
        folder.mkdir()
        unfinished_work(folder, vouched=10, claims=0)
        os.truncate(part(folder), 500)

    folders = kill_at_each_step(CLAIM, tmp_path, cut, calls="ftruncate,pwrite64,fdatasync")

    assert len(folders) == 3
    for folder in folders:
        mine = claimed(folder)
        mine.close()
        assert mine.have == spans((0, 500))
        assert right(mine)


def test_untrusted_bytes_without_a_whole_run_are_voided_too(tmp_path: Path) -> None:
    """What is left of a run that was voided in part has no CRC to be checked by."""
    mine = claimed(tmp_path)
    put(mine, 0, SIZE)
    vouch(mine)
    mine.journal.void([Span(0, 100)])
    mine.close()
    os.truncate(part(tmp_path), 500)

    first = counted(tmp_path)
    again = claimed(tmp_path)
    again.close()

    assert (first, again.have) == (SpanSet(), SpanSet())
    assert right(again)


def test_the_old_journal_is_emptied_before_a_new_part_is_made(
    tmp_path: Path, needs_strace: None
) -> None:
    """A file system may give the new part the old one's inode: old records must not meet it."""
    (tmp_path / "x").mkdir()
    unfinished_work(tmp_path / "x")
    part(tmp_path / "x").unlink()

    traced = trace(CLAIM, tmp_path / "x", calls="unlink,ftruncate,fdatasync")

    assert traced.steps[:5] == [
        *(f"ftruncate {STEM}.journal", f"fdatasync {STEM}.journal"),
        *(f"unlink {STEM}.part", f"ftruncate {STEM}.part", f"fdatasync {STEM}.part"),
    ]


def test_a_kill_while_a_void_journal_is_begun_anew_gives_no_zeros(
    tmp_path: Path, needs_strace: None
) -> None:
    """At each system call of it in turn; ext4 does reuse the inode number of the lost part."""

    def lose_the_part(folder: Path) -> None:
        folder.mkdir()
        unfinished_work(folder, vouched=10, claims=0)
        part(folder).unlink()

    folders = kill_at_each_step(CLAIM, tmp_path, lose_the_part, calls=STEPS)

    assert len(folders) == 10
    for folder in folders:
        mine = claimed(folder)
        mine.close()
        assert (mine.have, mine.notes) == (SpanSet(), [])


def test_a_journal_without_its_part_is_void(tmp_path: Path) -> None:
    """The file was published and the removal of the journal was lost: nothing is there."""
    unfinished_work(tmp_path)
    part(tmp_path).unlink()

    mine = claimed(tmp_path)
    mine.close()

    assert (mine.have, mine.notes) == (SpanSet(), [])
    assert part(tmp_path).read_bytes() == bytes(SIZE)
    assert counted(tmp_path) == SpanSet()


def test_a_part_without_its_journal_begins_again(tmp_path: Path) -> None:
    """Bytes that nothing explains do not count, and are not left standing either."""
    unfinished_work(tmp_path)
    journal(tmp_path).unlink()

    assert counted(tmp_path) == SpanSet()
    assert part(tmp_path).read_bytes() == bytes(SIZE)


def test_length_is_no_progress(tmp_path: Path) -> None:
    """A part that is as long as the file and reads as zeros has no byte that counts."""
    claimed(tmp_path).close()

    assert part(tmp_path).stat().st_size == SIZE
    assert counted(tmp_path) == SpanSet()


# -- what no barrier has vouched for --------------------------------------------------------------


def test_what_was_vouched_for_needs_no_barrier(tmp_path: Path) -> None:
    """Durable bytes count and are not synced again."""
    unfinished_work(tmp_path, vouched=5, claims=0)

    mine = claimed(tmp_path)
    mine.close()

    assert (mine.have, mine.unsynced) == (spans((0, 500)), SpanSet())


def test_runs_that_were_only_checked_wait_for_a_barrier(tmp_path: Path) -> None:
    """Right in memory may be lost on the disk: they count, and the next barrier is for them."""
    unfinished_work(tmp_path, vouched=2, claims=4)
    damage(part(tmp_path), 350)

    mine = claimed(tmp_path)
    mine.close()

    assert mine.have == spans((0, 300), (400, 600))
    assert mine.unsynced == spans((200, 300), (400, 600))


def test_a_barrier_settles_what_was_unsynced(tmp_path: Path) -> None:
    """Once it is vouched for it is trusted without reading it."""
    unfinished_work(tmp_path, vouched=2, claims=4)
    mine = claimed(tmp_path)
    vouch(mine)
    mine.close()
    damage(part(tmp_path), 350)

    again = claimed(tmp_path)
    again.close()

    assert mine.unsynced == spans((200, 600))
    assert (again.have, again.unsynced) == (spans((0, 600)), SpanSet())


def test_all_of_a_copied_part_is_unsynced(tmp_path: Path) -> None:
    """What was vouched for was another file: nobody knows whether the copy is on the disk."""
    (tmp_path / "old").mkdir()
    unfinished_work(tmp_path / "old", vouched=5, claims=2)
    shutil.copytree(tmp_path / "old", tmp_path / "new")

    mine = claimed(tmp_path / "new")
    mine.close()

    assert mine.have == mine.unsynced == spans((0, 700))


def test_bytes_taken_over_from_others_are_unsynced(tmp_path: Path) -> None:
    """They were written just now; ours that were vouched for are not among them."""
    unfinished_work(tmp_path, vouched=2, claims=0)
    unfinished_work(tmp_path, vouched=4, claims=1, token="a")

    mine = claimed(tmp_path)
    mine.close()

    assert mine.have == spans((0, 500))
    assert mine.unsynced == spans((200, 500))


def test_nothing_is_unsynced_once_an_orphan_was_taken_over(tmp_path: Path) -> None:
    """Its bytes, and ours before them, were vouched for before it went."""
    unfinished_work(tmp_path, vouched=1, claims=1)
    unfinished_work(tmp_path, vouched=4, claims=1, token="a")
    os.utime(journal(tmp_path, f"{STEM}.a"), (0, 0))

    mine = claimed(tmp_path)
    mine.close()
    damage(part(tmp_path), 150)
    damage(part(tmp_path), 450)
    again = claimed(tmp_path)
    again.close()

    assert (mine.have, mine.unsynced) == (spans((0, 500)), SpanSet())
    assert (again.have, again.unsynced) == (spans((0, 500)), SpanSet())
    assert names(tmp_path) == sorted([f"{STEM}.journal", f"{STEM}.part"])


# -- what cannot be used -------------------------------------------------------------------------


def spoil(folder: Path, how: str) -> bytes:
    """Make the unfinished work in a folder unusable; returns the journal's bytes."""
    if how == "another file":
        other = claimed(folder, OTHER)
        other.part.write_at(DATA[::-1], 0)
        other.close()
        stem = part_name(OTHER.identity, OTHER.size)
        part(folder, stem).rename(part(folder))
        journal(folder, stem).rename(journal(folder))
    elif how == "another size":
        longer = dataclasses.replace(WANTED, size=SIZE + 1)
        claimed(folder, longer).close()
        stem = part_name(longer.identity, longer.size)
        part(folder, stem).rename(part(folder))
        journal(folder, stem).rename(journal(folder))
    else:
        unfinished_work(folder)
        raw = bytearray(journal(folder).read_bytes())
        raw[10] ^= 1
        raw[PAGE + 10] ^= 1
        if how == "another version":
            # A whole page, as a later modelhaul would write it.
            page = journal(folder).read_bytes()[: PAGE - 4]
            page = page[:8] + b"\x02" + page[9:]
            page += crc32(page).to_bytes(4, "little")
            raw[: 2 * PAGE] = page * 2
        journal(folder).write_bytes(raw[:100] if how == "cut header" else raw)
    return journal(folder).read_bytes()


@pytest.mark.fault(
    "the journal is of another file, of another version, or cannot be read",
    "both files are set aside and named, the download begins again",
    number=(110, 125),
)
@pytest.mark.parametrize(
    "how", ["another file", "another size", "another version", "bad header", "cut header"]
)
def test_what_cannot_be_used_is_set_aside_and_named(tmp_path: Path, how: str) -> None:
    """Never spliced, never deleted: both files are kept, a note says where, and work begins."""
    old_journal = spoil(tmp_path, how)
    old_part = part(tmp_path).read_bytes()

    mine = claimed(tmp_path)
    put(mine, 0, 100)
    mine.close()

    aside = tmp_path / f"{STEM}.part.aside0"
    assert aside.read_bytes() == old_part
    assert (tmp_path / f"{STEM}.part.aside0.journal").read_bytes() == old_journal
    assert len(mine.notes) == 1
    assert str(aside) in mine.notes[0]
    assert counted(tmp_path) == spans((0, 100))


def test_setting_aside_twice_keeps_both(tmp_path: Path) -> None:
    """The second one gets a name of its own."""
    kept = []
    for how in ("another file", "bad header"):
        spoil(tmp_path, how)
        kept.append(part(tmp_path).read_bytes())
        claimed(tmp_path).close()
        part(tmp_path).unlink()
        journal(tmp_path).unlink()

    asides = [tmp_path / f"{STEM}.part.aside{number}" for number in (0, 1)]

    assert [aside.read_bytes() for aside in asides] == kept


def test_setting_aside_a_second_journal_keeps_the_first(tmp_path: Path) -> None:
    """Also where its part is gone: the name is taken as long as either file is there."""
    for content in (b"first", b"second", b"third"):
        part(tmp_path).unlink(missing_ok=True)
        journal(tmp_path).write_bytes(content)
        claimed(tmp_path).close()

    kept = {path.name: path.read_bytes() for path in tmp_path.glob("*aside*")}

    assert kept == {
        f"{STEM}.part.aside0.journal": b"first",
        f"{STEM}.part.aside1.journal": b"second",
        f"{STEM}.part.aside2.journal": b"third",
    }


@pytest.mark.parametrize("token", ["", "t"])
def test_what_was_set_aside_is_not_removed_by_age(tmp_path: Path, token: str) -> None:
    """The note said where it is: only a person removes it, however old it grows."""
    stem = f"{STEM}.{token}" if token else STEM
    part(tmp_path, stem).write_bytes(b"part")
    journal(tmp_path, stem).write_bytes(b"junk")
    claimed(tmp_path, locks=not token, token=token).close()
    before = names(tmp_path)
    for path in tmp_path.glob("*aside*"):
        os.utime(path, (0, 0))

    claimed(tmp_path, locks=not token, token=token).close()

    assert names(tmp_path) == before
    assert part(tmp_path, stem).with_name(f"{stem}.part.aside0").read_bytes() == b"part"


def test_nothing_is_taken_over_from_what_was_set_aside(tmp_path: Path) -> None:
    """It could not be used once: it is not read again as if another process had made it."""
    unfinished_work(tmp_path, token="a")
    for kind in ("part", "journal"):
        ours = tmp_path / f"{STEM}.a.{kind}"
        ours.rename(tmp_path / f"{STEM}.a.part.aside0{'' if kind == 'part' else '.journal'}")

    assert counted(tmp_path) == SpanSet()
    assert recorded(tmp_path, identity=WANTED.identity, size=SIZE) == 0


def test_the_lock_stays_ours_while_something_is_set_aside(tmp_path: Path) -> None:
    """The journal keeps its name and its file: nobody slips in between."""
    spoil(tmp_path, "bad header")

    mine = claimed(tmp_path)

    assert claim(tmp_path, WANTED, locks=True) is None
    mine.close()


@pytest.mark.fault("the journal is cut at any byte", "its whole records count", number=108)
def test_a_journal_cut_at_any_byte_of_its_log_is_no_obstacle(tmp_path: Path) -> None:
    """Whatever a crash left of it: runs before the cut count, later ones do not, nothing raises."""
    unfinished_work(tmp_path, vouched=3, claims=3)
    raw = journal(tmp_path).read_bytes()
    records = 7

    for cut in range(LOG_START, LOG_START + records * RECORD_SIZE + 1):
        journal(tmp_path).write_bytes(raw[:cut])
        whole = (cut - LOG_START) // RECORD_SIZE
        runs = whole if whole < 4 else whole - 1  # the fourth record is the vouching one

        mine = claimed(tmp_path)
        mine.close()

        assert mine.have == spans((0, runs * CHUNK))
        assert mine.notes == []


@pytest.mark.fault(
    "one byte of the journal is wrong", "one run is fetched again at most", number=109
)
def test_any_damaged_byte_of_a_journal_costs_its_own_run_at_most(tmp_path: Path) -> None:
    """Of the header nothing, of a record its run; what counts is always what was written."""
    unfinished_work(tmp_path, vouched=3, claims=3)
    raw = journal(tmp_path).read_bytes()
    # The fourth record vouches for the first three, which are compared with their CRC without it.
    run_of_record = [0, 1, 2, None, 3, 4, 5]

    # tests/core/test_journal.py has each byte of the header.
    log = range(LOG_START, LOG_START + len(run_of_record) * RECORD_SIZE)
    for at in (*range(0, LOG_START, 16), *log):
        damage(journal(tmp_path), at)
        run = run_of_record[(at - LOG_START) // RECORD_SIZE] if at >= LOG_START else None
        expected = spans((0, 6 * CHUNK))
        if run is not None:
            expected.remove(Span(run * CHUNK, (run + 1) * CHUNK))

        mine = claimed(tmp_path)
        mine.close()

        assert (at, mine.have, mine.notes) == (at, expected, [])
        assert right(mine)
        journal(tmp_path).write_bytes(raw)


@pytest.mark.torture
@pytest.mark.fault("the journal is cut at any byte", "its whole records count", number=108)
def test_a_journal_cut_at_every_byte_of_its_header_is_no_obstacle(tmp_path: Path) -> None:
    """As below, at each of the 8192 places; what is set aside is put back for the next."""
    unfinished_work(tmp_path, vouched=3, claims=3)
    raw = journal(tmp_path).read_bytes()

    for cut in range(1, LOG_START):
        journal(tmp_path).write_bytes(raw[:cut])

        mine = claimed(tmp_path)
        mine.close()

        assert (cut, mine.have, len(mine.notes)) == (cut, SpanSet(), int(cut < PAGE))
        if cut < PAGE:
            (aside,) = tmp_path.glob("*.part.aside0")
            aside.rename(part(tmp_path))
            aside.with_name(f"{aside.name}.journal").unlink()


def test_a_journal_cut_anywhere_in_its_header_is_no_obstacle(tmp_path: Path) -> None:
    """With one whole header copy the part stays, without one it is set aside; nothing raises."""
    (tmp_path / "old").mkdir()
    unfinished_work(tmp_path / "old")

    for cut in [0, 1, 31, 500, 2048, PAGE - 1, PAGE, PAGE + 1, 6000, LOG_START - 1]:
        folder = tmp_path / f"cut{cut}"
        shutil.copytree(tmp_path / "old", folder)
        os.truncate(journal(folder), cut)

        mine = claimed(folder)
        put(mine, 0, 100)
        mine.close()

        assert len(mine.notes) == (1 if 0 < cut < PAGE else 0)
        assert counted(folder) == spans((0, 100))


# -- one process at a time -----------------------------------------------------------------------


def test_a_file_has_one_worker_and_a_killed_one_leaves_its_progress(tmp_path: Path) -> None:
    """None while another process works; after its SIGKILL the claim takes the orphan over."""
    with second_process(WORKER, tmp_path) as other:
        other.line()
        while_held = claim(tmp_path, WANTED, locks=True)
        another_file = claim(tmp_path, OTHER, locks=True)
        other.kill()

    mine = claimed(tmp_path)

    assert while_held is None
    assert another_file is not None
    assert mine.have == spans((0, 600))
    another_file.close()
    mine.close()


def test_of_many_processes_one_gets_the_claim(tmp_path: Path) -> None:
    """Started together, exactly one may work; nobody's lock is lost in the rush."""
    code = """
    from modelhaul.store.claim import claim
    from tests.store.helpers import WANTED
    pause()
    mine = claim(Path(sys.argv[1]), WANTED, locks=True)
    pause("none" if mine is None else "claimed")
    """

    with (
        second_process(code, tmp_path) as one,
        second_process(code, tmp_path) as two,
        second_process(code, tmp_path) as three,
    ):
        everyone = (one, two, three)
        for process in everyone:
            process.line()
        for process in everyone:
            process.go()
        answers = sorted(process.line() for process in everyone)

    assert answers == ["claimed", "none", "none"]


def test_asking_for_a_busy_file_leaves_nothing_open(tmp_path: Path) -> None:
    """Waiting for a lock asks again and again: that must not use up descriptors."""
    mine = claimed(tmp_path)
    before = descriptors()

    answers = [claim(tmp_path, WANTED, locks=True) for _ in range(20)]

    assert answers == [None] * 20
    assert descriptors() == before
    mine.close()


# -- where locks lie -----------------------------------------------------------------------------


def test_where_locks_lie_each_process_has_its_own_part(tmp_path: Path) -> None:
    """Two tokens work side by side and never write into each other's file."""
    one = claimed(tmp_path, locks=False, token="a")
    two = claimed(tmp_path, locks=False, token="b")

    put(one, 0, 100)
    put(two, 900, 1000)
    one.close()
    two.close()

    assert names(tmp_path) == sorted(
        f"{STEM}.{token}.{kind}" for token in "ab" for kind in ("journal", "part")
    )
    assert part(tmp_path, f"{STEM}.a").read_bytes() == DATA[:100] + bytes(900)
    assert part(tmp_path, f"{STEM}.b").read_bytes() == bytes(900) + DATA[900:]


@pytest.mark.parametrize("locks", [False, True])
def test_what_others_have_is_copied_live_or_not(tmp_path: Path, locks: bool) -> None:
    """Runs of other parts are taken over by copying; the others go on undisturbed."""
    live = claimed(tmp_path, locks=False, token="a")
    put(live, 0, 300)
    unfinished_work(tmp_path, vouched=2, claims=1, token="b")
    others = claimed(tmp_path, locks=False, token="b")
    put(others, 800, 1000)
    others.close()

    mine = claimed(tmp_path, locks=locks, token="c")
    mine.close()
    put(live, 300, 400)
    live.close()

    assert mine.have == spans((0, 300), (800, 1000))
    assert mine.part.path.read_bytes() == DATA[:300] + bytes(500) + DATA[800:]
    assert any("bytes were taken over" in note for note in mine.notes)
    assert counted(tmp_path, locks=locks, token="c") == spans((0, 400), (800, 1000))
    assert counted(tmp_path, locks=False, token="a").covers(Span(0, 400))


def test_a_damaged_run_of_another_part_is_not_copied(tmp_path: Path) -> None:
    """Their journal may be ahead of their disk: the copy itself is compared with the CRC."""
    unfinished_work(tmp_path, vouched=4, claims=0, token="a")
    damage(part(tmp_path, f"{STEM}.a"), 250)

    found = counted(tmp_path, locks=False, token="b")

    assert found == spans((0, 200), (300, 400))


def test_copied_runs_are_recorded_as_ours(tmp_path: Path) -> None:
    """The next run has them without the other part, with the source they came from."""
    unfinished_work(tmp_path, token="a")
    first = claimed(tmp_path, locks=False, token="b")
    first.close()
    part(tmp_path, f"{STEM}.a").unlink()
    journal(tmp_path, f"{STEM}.a").unlink()

    mine = claimed(tmp_path, locks=False, token="b")
    mine.close()

    assert mine.have == first.have == spans((0, 700))
    runs = list(read_runs(mine.journal.path)[1])
    assert runs == [have(at, at + CHUNK) for at in range(0, 700, CHUNK)]


def test_what_we_have_is_not_overwritten_by_others(tmp_path: Path) -> None:
    """Another part may hold other bytes with the right CRC of those: ours stay."""
    unfinished_work(tmp_path, vouched=3, claims=0)
    other = claimed(tmp_path, locks=False, token="a")
    other.part.write_at(bytes(400), 200)
    other.journal.append([have(200, 600, bytes(SIZE))])
    other.close()

    mine = claimed(tmp_path)
    mine.close()

    assert mine.have == spans((0, 300))
    assert part(tmp_path).read_bytes()[:300] == DATA[:300]


def test_of_a_run_that_we_have_in_part_the_rest_is_copied(tmp_path: Path) -> None:
    """Two processes cut their runs at different places; what both recorded is not fetched again."""
    unfinished_work(tmp_path, vouched=3, claims=0)
    other = claimed(tmp_path, locks=False, token="a")
    put(other, 250, 450)
    other.close()

    mine = claimed(tmp_path)
    mine.close()

    assert mine.have == spans((0, 450))
    assert right(mine)
    assert read_runs(mine.journal.path)[1][-1] == dataclasses.replace(have(300, 450), source=7)


def test_a_bad_sector_of_ours_does_not_stop_what_others_have_from_being_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be compared is left alone; where we have nothing there is nothing to read."""
    unfinished_work(tmp_path, vouched=3, claims=0)
    other = claimed(tmp_path, locks=False, token="a")
    put(other, 250, 450)
    put(other, 600, 800)
    other.close()
    FaultyDisk(Failing("preadv", f"{STEM}.part", BROKEN)).install(monkeypatch)

    mine = claimed(tmp_path)
    mine.close()

    assert mine.have == spans((0, 300), (600, 800))
    assert right(mine)


def test_nothing_is_copied_from_a_part_of_another_file(tmp_path: Path) -> None:
    """The journal's identity decides, not the name."""
    other = claimed(tmp_path, OTHER)
    put(other, 0, 500)
    other.close()
    stem = part_name(OTHER.identity, OTHER.size)
    part(tmp_path, stem).rename(part(tmp_path, f"{STEM}.a"))
    journal(tmp_path, stem).rename(journal(tmp_path, f"{STEM}.a"))

    assert counted(tmp_path, locks=False, token="b") == SpanSet()
    assert part(tmp_path, f"{STEM}.a").exists()


@pytest.mark.parametrize("what", ["no part", "no header", "empty journal", "short part"])
def test_others_that_cannot_be_read_are_passed_over(tmp_path: Path, what: str) -> None:
    """Another process may be in the middle of making or removing its files."""
    unfinished_work(tmp_path, vouched=2, claims=0, token="a")
    if what == "no part":
        part(tmp_path, f"{STEM}.a").unlink()
    elif what == "no header":
        journal(tmp_path, f"{STEM}.a").write_bytes(b"junk")
    elif what == "empty journal":
        journal(tmp_path, f"{STEM}.a").write_bytes(b"")
    else:
        os.truncate(part(tmp_path, f"{STEM}.a"), 150)

    found = counted(tmp_path, locks=False, token="b")

    assert found == (spans((0, 100)) if what == "short part" else SpanSet())


def test_only_old_orphans_are_removed(tmp_path: Path) -> None:
    """A part that nobody touched for 7 days is taken for dead, after its bytes were taken over."""
    for token, start in (("old", 0), ("young", 200)):
        mine = claimed(tmp_path, locks=False, token=token)
        put(mine, start, start + 100)
        mine.close()
    for token, age in (("old", ORPHAN_SECONDS + 60), ("young", ORPHAN_SECONDS - 600)):
        moment = time.time() - age
        os.utime(journal(tmp_path, f"{STEM}.{token}"), (moment, moment))

    found = counted(tmp_path, locks=False, token="me")

    assert found == spans((0, 100), (200, 300))
    assert names(tmp_path) == sorted(
        f"{STEM}.{token}.{kind}" for token in ("me", "young") for kind in ("journal", "part")
    )


def test_an_orphan_goes_only_when_its_bytes_are_durable(tmp_path: Path, needs_strace: None) -> None:
    """Copied, synced, vouched for, and only then removed: a power cut loses neither."""
    (tmp_path / "x").mkdir()
    unfinished_work(tmp_path / "x", vouched=2, claims=0, token="a")
    os.utime(journal(tmp_path / "x", f"{STEM}.a"), (0, 0))
    code = """
    from tests.store.helpers import claimed
    folder = Path(sys.argv[1])
    mine = claimed(folder, locks=False, token="b")
    """

    traced = trace(code, tmp_path / "x", calls="pwrite64,fdatasync,unlink")

    copied = traced.steps.index(f"pwrite64 {STEM}.b.part")
    assert traced.steps[copied:] == [
        *(f"pwrite64 {STEM}.b.part", f"pwrite64 {STEM}.b.journal") * 2,
        f"fdatasync {STEM}.b.part",
        *(f"pwrite64 {STEM}.b.journal", f"fdatasync {STEM}.b.journal"),
        *(f"unlink {STEM}.a.part", f"unlink {STEM}.a.journal"),
    ]


def test_a_plain_part_is_taken_over_too(tmp_path: Path) -> None:
    """The folder was on a disk with locks before, or seen from a machine that believes them."""
    unfinished_work(tmp_path)
    count = recorded(tmp_path, identity=WANTED.identity, size=SIZE)

    mine = claimed(tmp_path, locks=False, token="t")
    mine.close()

    assert mine.have == spans((0, 700))
    assert mine.have.total == count
    assert right(mine)
    assert part(tmp_path).exists()


def test_our_own_old_part_is_no_orphan(tmp_path: Path) -> None:
    """However old it is, what we claim is never removed, nor are parts of other content."""
    unfinished_work(tmp_path, token="me")
    claimed(tmp_path, OTHER, locks=False, token="x").close()
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))

    assert counted(tmp_path, locks=False, token="me") == spans((0, 700))
    assert len(names(tmp_path)) == 4


# -- the end of a claim --------------------------------------------------------------------------


def test_a_finished_claim_leaves_only_the_file(tmp_path: Path) -> None:
    """After publishing the journal goes, and the lock with it."""
    (tmp_path / "state").mkdir()
    mine = claimed(tmp_path / "state")
    put(mine, 0, SIZE)

    mine.part.publish(tmp_path / "model.bin", replaces=None)
    mine.finished()

    assert names(tmp_path / "state") == []
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert not mine.open


def test_a_discarded_claim_leaves_nothing(tmp_path: Path) -> None:
    """Part and journal are removed, and the next claim begins with nothing."""
    unfinished_work(tmp_path)
    mine = claimed(tmp_path)

    mine.discard()

    assert names(tmp_path) == []
    assert not mine.open
    assert counted(tmp_path) == SpanSet()


def test_discarding_removes_the_part_before_the_journal(tmp_path: Path, needs_strace: None) -> None:
    """A kill in between leaves a journal without a part, which is void."""
    (tmp_path / "x").mkdir()
    code = """
    from tests.store.helpers import claimed
    mine = claimed(Path(sys.argv[1]))
    os.mkdir(Path(sys.argv[1]) / "mark")
    mine.discard()
    """

    traced = trace(code, tmp_path / "x", calls="mkdir,unlink,unlinkat")

    assert traced.steps[traced.steps.index("mkdir mark") + 1 :] == [
        f"unlink {STEM}.part",
        f"unlink {STEM}.journal",
    ]


def test_who_lost_the_names_neither_publishes_nor_harms_who_has_them(tmp_path: Path) -> None:
    """Somebody removed our journal while we ran, and another process began anew."""
    mine = claimed(tmp_path)
    put(mine, 0, SIZE)
    journal(tmp_path).unlink()
    other = claimed(tmp_path)
    put(other, 0, 500)

    with pytest.raises(StorageError, match="removed, replaced or resized"):
        mine.part.publish(tmp_path / "final", replaces=None)
    mine.discard()
    put(other, 500, 1000)
    other.part.publish(tmp_path / "final", replaces=None)
    other.finished()

    assert not mine.open
    assert (tmp_path / "final").read_bytes() == DATA
    assert names(tmp_path) == ["final"]


def test_finishing_removes_no_journal_of_another_process(tmp_path: Path) -> None:
    """Only the file that we have open is ours, whatever has its name by now."""
    mine = claimed(tmp_path)
    journal(tmp_path).unlink()
    other = claimed(tmp_path)
    put(other, 0, 500)

    mine.finished()
    other.close()

    assert counted(tmp_path) == spans((0, 500))


def test_a_closed_claim_keeps_part_and_journal(tmp_path: Path) -> None:
    """Closing gives up the lock and nothing else; a second close does nothing."""
    mine = claimed(tmp_path)
    put(mine, 0, 100)
    was_open = mine.open

    mine.close()
    mine.close()

    assert (was_open, mine.open) == (True, False)
    assert counted(tmp_path) == spans((0, 100))


# -- looking without touching --------------------------------------------------------------------


def test_unfinished_work_is_listed(tmp_path: Path) -> None:
    """Label, size, recorded bytes, room on the disk, age, files, and whether somebody works."""
    unfinished_work(tmp_path, vouched=5, claims=2)
    os.utime(part(tmp_path), (0, 0))
    os.utime(journal(tmp_path), (time.time() - 3600, time.time() - 3600))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    (work,) = unfinished(tmp_path)

    assert (work.stem, work.label, work.size, work.have) == (STEM, WANTED.label, SIZE, 700)
    assert work.stored == sum(path.stat().st_blocks * 512 for path in before)
    assert work.stored > 0
    assert 3590 < work.age < 3700
    assert not work.busy
    assert sorted(work.paths) == sorted(before)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_work_of_a_running_process_is_busy(tmp_path: Path) -> None:
    """Ours or another's; once it is killed it is not."""
    mine = claimed(tmp_path, OTHER)
    with second_process(WORKER, tmp_path) as other:
        other.line()
        while_running = [work.busy for work in unfinished(tmp_path)]
        other.kill()
        after_kill = {work.stem: work.busy for work in unfinished(tmp_path)}
    mine.close()

    assert while_running == [True, True]
    assert after_kill == {STEM: False, part_name(OTHER.identity, OTHER.size): True}
    assert not any(work.busy for work in unfinished(tmp_path))


def test_a_small_file_in_motion_is_busy(tmp_path: Path) -> None:
    """It has no journal: its part itself is locked."""
    moving = open_private(tmp_path, "abc.whole", locks=True, token="t")
    while_open = [work.busy for work in unfinished(tmp_path)]

    moving.close()

    assert while_open == [True]
    assert [work.busy for work in unfinished(tmp_path)] == [False]


def test_a_marker_is_no_unfinished_work(tmp_path: Path) -> None:
    """Throwing it away would make a half updated snapshot look whole."""
    Marker.of(tmp_path, tmp_path).set(label="l", commit=None, pending=None)
    unfinished_work(tmp_path)

    assert [work.stem for work in unfinished(tmp_path)] == [STEM]


def test_a_journal_whose_part_is_gone_is_void(tmp_path: Path) -> None:
    """Nothing is lost with it, whatever it says; with any part beside it there is something."""
    unfinished_work(tmp_path)
    claimed(tmp_path, OTHER).close()
    part(tmp_path).unlink()
    (tmp_path / "damaged.journal").write_bytes(b"junk")
    (tmp_path / "small.whole.part").write_bytes(b"")
    for ending in ("", ".journal"):
        (tmp_path / f"old.part.aside0{ending}").write_bytes(b"junk")

    found = {work.stem: work.void for work in unfinished(tmp_path)}

    assert found == {
        STEM: True,
        "damaged": True,
        part_name(OTHER.identity, OTHER.size): False,
        "small.whole": False,
        "old.part.aside0": False,
    }


def test_void_work_still_says_what_it_was(tmp_path: Path) -> None:
    """Its journal can be read: label, size and whether somebody is at it."""
    mine = claimed(tmp_path)
    put(mine, 0, 500)
    part(tmp_path).unlink()

    (running,) = unfinished(tmp_path)
    mine.close()
    (left,) = unfinished(tmp_path)

    assert (running.void, left.void) == (True, True)
    assert (running.busy, left.busy) == (True, False)
    assert (left.label, left.size, left.paths) == (WANTED.label, SIZE, (journal(tmp_path),))


def test_parts_without_a_journal_are_listed_by_name(tmp_path: Path) -> None:
    """Small files and damaged journals have no label: the file name has to do."""
    open_private(tmp_path, "abc.whole", locks=True, token="").close()
    (tmp_path / "def.journal").write_bytes(b"junk")
    (tmp_path / "folder").mkdir()

    found = {work.label: (work.size, work.have) for work in unfinished(tmp_path)}

    assert found == {"abc.whole": (None, 0), "def": (None, 0)}


def test_what_was_set_aside_is_listed_as_one_piece(tmp_path: Path) -> None:
    """So that it can be seen and removed together."""
    spoil(tmp_path, "another file")
    claimed(tmp_path).close()

    asides = [work for work in unfinished(tmp_path) if "aside" in work.stem]

    assert [len(work.paths) for work in asides] == [2]
    assert [work.label for work in asides] == [OTHER.label]


def test_nothing_is_unfinished_where_nothing_is(tmp_path: Path) -> None:
    """An empty or missing folder is a normal answer."""
    assert list(unfinished(tmp_path)) == []
    assert list(unfinished(tmp_path / "missing")) == []


def test_recorded_counts_what_a_claim_would_find(tmp_path: Path) -> None:
    """For a plan: the bytes of all parts of the content, each byte once."""
    unfinished_work(tmp_path, vouched=2, claims=1)
    unfinished_work(tmp_path, vouched=1, claims=1, token="a")
    mine = claimed(tmp_path, locks=False, token="b")
    put(mine, 900, 1000)
    mine.close()

    count = recorded(tmp_path, identity=WANTED.identity, size=SIZE)

    assert count == 400
    assert counted(tmp_path).total == count


def test_recorded_counts_nothing_that_is_not_there(tmp_path: Path) -> None:
    """No part, no journal, other content: no bytes; and looking makes no files."""
    assert recorded(tmp_path, identity=WANTED.identity, size=SIZE) == 0
    assert names(tmp_path) == []

    unfinished_work(tmp_path)
    part(tmp_path).unlink()

    assert recorded(tmp_path, identity=WANTED.identity, size=SIZE) == 0
    assert recorded(tmp_path, identity=OTHER.identity, size=SIZE) == 0


def test_stored_is_what_the_part_takes_on_the_disk(tmp_path: Path) -> None:
    """Blocks, not length: a sparse part has no room of its own yet."""
    wanted = dataclasses.replace(WANTED, size=8 << 20)
    mine = claimed(tmp_path, wanted)
    missing = stored(tmp_path, identity="sha256:other", size=5)
    sparse = stored(tmp_path, identity=wanted.identity, size=wanted.size)

    mine.part.write_at(bytes(range(256)) * 4096, 0)
    mine.part.barrier()
    mine.close()
    filled = stored(tmp_path, identity=wanted.identity, size=wanted.size)

    assert (missing, sparse) == (0, 0)
    assert 1 << 20 <= filled < 2 << 20


def test_runs_of_a_journal_are_read_without_opening_it_for_writing(tmp_path: Path) -> None:
    """Whole runs only: what was voided, even in part, is no run any more."""
    mine = claimed(tmp_path)
    put(mine, 0, 200)
    put(mine, 200, 300)
    mine.journal.void([Span(150, 160)])
    mine.close()

    header, runs = read_runs(journal(tmp_path))

    assert header is not None
    assert header.identity == WANTED.identity
    assert runs == (have(200, 300),)
    assert read_runs(tmp_path / "missing") == (None, ())


# -- published, and killed before the journal went ------------------------------------------------

PUBLISHER = """
from tests.store.helpers import claimed, put
from tests.store.test_claim import TAGGED
mine = claimed(Path(sys.argv[1]), TAGGED)
put(mine, 0, 1000)
mine.part.publish(Path(sys.argv[2]), replaces=None)
pause()
"""


def known_as_ours(folder: Path, wanted: Wanted = TAGGED) -> int | None:
    """The inode that the journal left behind tells of."""
    return published_inode(folder, identity=wanted.identity, size=wanted.size)


def test_a_file_published_just_before_a_kill_is_known_as_ours(tmp_path: Path) -> None:
    """No digest could tell: the journal that was left behind does, until it is void."""
    (tmp_path / "state").mkdir()
    with second_process(PUBLISHER, tmp_path / "state", tmp_path / "final") as other:
        other.line()
        while_running = known_as_ours(tmp_path / "state")
        other.kill()

    after_kill = known_as_ours(tmp_path / "state")

    assert (tmp_path / "final").read_bytes() == DATA
    assert while_running == after_kill == (tmp_path / "final").stat().st_ino
    assert names(tmp_path / "state") == [f"{part_name(TAGGED.identity, SIZE)}.journal"]
    assert [work.void for work in unfinished(tmp_path / "state")] == [True]
    claimed(tmp_path / "state", TAGGED).close()
    assert known_as_ours(tmp_path / "state") is None


@pytest.mark.parametrize("vouched", [True, False])
def test_a_part_that_is_still_there_was_not_published(tmp_path: Path, vouched: bool) -> None:
    """However complete its journal is."""
    mine = claimed(tmp_path, TAGGED)
    put(mine, 0, SIZE)
    if vouched:
        vouch(mine)
    mine.close()

    assert known_as_ours(tmp_path) is None


@pytest.mark.parametrize("how", ["nothing", "first", "last", "middle", "voided"])
def test_a_journal_that_misses_a_byte_tells_of_no_published_file(tmp_path: Path, how: str) -> None:
    """Somebody removed an unfinished part: no file of ours can have come from it."""
    mine = claimed(tmp_path, TAGGED)
    runs = {
        "nothing": [],
        "first": [(1, 1000)],
        "last": [(0, 500), (500, 999)],
        "middle": [(0, 499), (500, 1000)],
        "voided": [(0, 500), (500, 1000)],
    }
    for start, stop in runs[how]:
        put(mine, start, stop)
    vouch(mine)
    if how == "voided":
        mine.journal.void([Span(700, 701)])
    mine.close()
    mine.part.path.unlink()

    assert known_as_ours(tmp_path) is None


def test_a_published_file_is_known_by_its_identity_and_size_only(tmp_path: Path) -> None:
    """Another validator is another file, and so is another size; a journal is needed."""
    (tmp_path / "state").mkdir()
    mine = claimed(tmp_path / "state", TAGGED)
    put(mine, 0, SIZE)
    mine.part.publish(tmp_path / "final", replaces=None)
    mine.close()
    inode = (tmp_path / "final").stat().st_ino
    old = journal(tmp_path / "state", part_name(TAGGED.identity, SIZE))
    newer = dataclasses.replace(TAGGED, identity='validator:"v2"')
    longer = dataclasses.replace(TAGGED, size=SIZE + 1)

    answers = [known_as_ours(tmp_path / "state", one) for one in (TAGGED, newer, longer)]
    for other in (newer, longer):  # its name decides nothing either
        shutil.copy(old, journal(tmp_path / "state", part_name(other.identity, other.size)))
    by_name = [known_as_ours(tmp_path / "state", one) for one in (newer, longer)]

    assert answers == [inode, None, None]
    assert by_name == [None, None]
    assert known_as_ours(tmp_path / "missing") is None


def test_a_damaged_journal_tells_of_no_published_file(tmp_path: Path) -> None:
    """Junk, zeros, or one run that does not check: nobody knows what was published."""
    (tmp_path / "state").mkdir()
    mine = claimed(tmp_path / "state", TAGGED)
    put(mine, 0, 500)
    put(mine, 500, SIZE)
    mine.part.publish(tmp_path / "final", replaces=None)
    mine.close()
    raw = mine.journal.path.read_bytes()
    answers = [known_as_ours(tmp_path / "state")]

    bad = bytearray(raw)
    bad[LOG_START + RECORD_SIZE + 3] ^= 1
    for content in (b"", b"junk", bytes(len(raw)), bytes(bad)):
        mine.journal.path.write_bytes(content)
        answers.append(known_as_ours(tmp_path / "state"))

    assert answers == [(tmp_path / "final").stat().st_ino, None, None, None, None]


# -- kill -9 -------------------------------------------------------------------------------------

LIFE = """
from tests.store.helpers import claimed, put, vouch
folder = Path(sys.argv[1])
mine = claimed(folder / "state")
for start, stop in ((0, 500), (500, 1000)):
    put(mine, start, stop)
    vouch(mine)
    os.mkdir(folder / f"vouched{stop}")
mine.part.publish(folder / "model.bin", replaces=None)
mine.finished()
"""


def test_a_kill_at_any_step_loses_nothing_and_leaves_nothing_wrong(
    tmp_path: Path, needs_strace: None
) -> None:
    """Killed at each system call in turn: what was vouched for is there, and the run goes on."""

    def begin(folder: Path) -> None:
        (folder / "state").mkdir(parents=True)

    folders = kill_at_each_step(LIFE, tmp_path, begin, calls=STEPS)

    assert len(folders) == 22
    for folder in folders:
        published = (folder / "model.bin").exists()
        ours = published_inode(folder / "state", identity=WANTED.identity, size=SIZE)
        journal_left = journal(folder / "state").exists()
        vouched = [int(path.name.removeprefix("vouched")) for path in folder.glob("vouched*")]

        mine = claimed(folder / "state")
        if published:
            assert ours == ((folder / "model.bin").stat().st_ino if journal_left else None)
            mine.discard()
        else:
            assert ours is None
            found = mine.have.copy()
            assert right(mine)
            for span in found.gaps(Span(0, SIZE)):
                put(mine, span.start, span.stop)
            mine.part.publish(folder / "model.bin", replaces=None)
            mine.finished()
            assert found.covers(Span(0, max(vouched, default=0)))

        assert mine.notes == []
        assert (folder / "model.bin").read_bytes() == DATA
        assert names(folder / "state") == []
