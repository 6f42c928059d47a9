"""`store.index`: the memory of proven files, forgetful at worst and never wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelhaul.store.index import RETRY_AFTER, Entry, Known, ProvenIndex, grain_ns
from modelhaul.store.osfile import Stamp
from tests.store.helpers import second_process, trace

# Changed long ago, at a moment that shows a fine clock.
OLD = Stamp(device=1, inode=2, size=3, mtime_ns=1_000_000_001, ctime_ns=1_000_000_007)
KNOWN = Known("ab" * 32, None, ours=True)
MS = 1_000_000


@pytest.fixture
def index(tmp_path: Path) -> Iterator[ProvenIndex]:
    """An index in a new file."""
    index = ProvenIndex(tmp_path / "state" / "index.sqlite")
    yield index
    index.close()


def remember(index: ProvenIndex, path: Path, stamp: Stamp = OLD, known: Known = KNOWN) -> None:
    """Record one file."""
    index.remember([Entry(path, stamp, known)])


def ctime_of_this_moment() -> int:
    """Now, as a clock with a fine grain would tell it."""
    return time.time_ns() // 1000 * 1000 + 1


# -- remembering ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "known",
    [
        KNOWN,
        Known("cd" * 32, None, ours=False),
        Known(None, '"etag"', ours=True),
        Known("ef" * 32, '"etag"', ours=True),
        Known("ef" * 32, None, ours=True, git_sha1="ab" * 20),
    ],
)
def test_what_was_remembered_is_found_again(
    index: ProvenIndex, tmp_path: Path, known: Known
) -> None:
    """Digest, validator and whose file it is come back as they were recorded."""
    remember(index, tmp_path / "f", known=known)

    assert index.lookup(tmp_path / "f", OLD) == known
    assert index.problem is None


def test_a_path_that_was_never_recorded_is_unknown(index: ProvenIndex, tmp_path: Path) -> None:
    """Also if another file with the same stamp is known: a hard link is another path."""
    remember(index, tmp_path / "f")

    assert index.lookup(tmp_path / "g", OLD) is None


@pytest.mark.parametrize("field", ["device", "inode", "size", "mtime_ns", "ctime_ns"])
def test_any_change_of_the_file_forgets_it(index: ProvenIndex, tmp_path: Path, field: str) -> None:
    """Each part of the stamp alone is reason enough to hash again."""
    remember(index, tmp_path / "f")
    changed = dataclasses.replace(OLD, **{field: getattr(OLD, field) + 1})

    assert index.lookup(tmp_path / "f", changed) is None
    assert index.lookup(tmp_path / "f", OLD) == KNOWN


def test_the_last_record_of_a_path_counts(index: ProvenIndex, tmp_path: Path) -> None:
    """A new state replaces the old one, which is forgotten."""
    newer = dataclasses.replace(OLD, inode=99)
    remember(index, tmp_path / "f")

    remember(index, tmp_path / "f", newer, Known("ee" * 32, None, ours=False))

    assert index.lookup(tmp_path / "f", OLD) is None
    assert index.lookup(tmp_path / "f", newer) == Known("ee" * 32, None, ours=False)


def test_many_files_are_remembered_at_once(index: ProvenIndex, tmp_path: Path) -> None:
    """A batch of small files is one transaction; an empty batch is fine."""
    entries = [
        Entry(tmp_path / str(at), dataclasses.replace(OLD, inode=at), KNOWN) for at in range(300)
    ]

    index.remember(iter(entries))
    index.remember([])

    assert all(index.lookup(entry.path, entry.stamp) == KNOWN for entry in entries)


def test_names_that_are_no_text_can_be_remembered(index: ProvenIndex) -> None:
    """File names are bytes on Linux."""
    path = Path("/data/caf\udce9")

    remember(index, path)

    assert index.lookup(path, OLD) == KNOWN


@pytest.mark.parametrize("inode", [2**63 - 1, 2**63, 2**63 + 5, 2**64 - 1])
def test_inode_numbers_use_all_64_bits(index: ProvenIndex, tmp_path: Path, inode: int) -> None:
    """Some network disks number their files so; SQLite's own numbers are signed."""
    stamp = dataclasses.replace(OLD, device=2**64 - 2, inode=inode)

    remember(index, tmp_path / "f", stamp)

    assert index.problem is None
    assert index.lookup(tmp_path / "f", stamp) == KNOWN
    assert index.lookup(tmp_path / "f", dataclasses.replace(stamp, inode=inode - 1)) is None


def test_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    """Commands that ask for no file leave no database behind."""
    index = ProvenIndex(tmp_path / "state" / "index.sqlite")

    index.close()

    assert list(tmp_path.iterdir()) == []
    assert index.problem is None


def test_looking_something_up_writes_nothing(tmp_path: Path, needs_strace: None) -> None:
    """A database that is there already is opened and read, however often."""
    (tmp_path / "x").mkdir()
    index = ProvenIndex(tmp_path / "x" / "i.sqlite")
    remember(index, Path("/f"))
    index.close()
    code = """
    from modelhaul.store.index import ProvenIndex
    from tests.store.test_index import KNOWN, OLD
    for _ in range(2):
        index = ProvenIndex(Path(sys.argv[1]) / "i.sqlite")
        assert index.lookup(Path("/f"), OLD) == KNOWN
        index.close()
    """

    calls = "write,pwrite64,ftruncate,unlink,rename,fdatasync,fsync"
    traced = trace(code, tmp_path / "x", calls=calls)

    assert traced.steps == []


def test_the_memory_survives_reopening(index: ProvenIndex, tmp_path: Path) -> None:
    """After a close the same object and a new one both find what was recorded."""
    remember(index, tmp_path / "f")
    index.close()
    index.close()
    again = ProvenIndex(tmp_path / "state" / "index.sqlite")

    assert index.lookup(tmp_path / "f", OLD) == KNOWN
    assert again.lookup(tmp_path / "f", OLD) == KNOWN
    again.close()


def test_a_real_file_is_known_until_it_is_touched(index: ProvenIndex, tmp_path: Path) -> None:
    """With the stamps of a real file system: known at once, forgotten after a change."""
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    remember(index, path, Stamp.of(path.stat()))

    at_first = index.lookup(path, Stamp.of(path.stat()))
    path.write_bytes(b"xyz")
    after_change = index.lookup(path, Stamp.of(path.stat()))

    assert (at_first, after_change) == (KNOWN, None)


# -- times have a grain --------------------------------------------------------------------------


def test_round_times_mean_a_coarse_clock() -> None:
    """FAT counts in 2 s, others in the kernel's tick."""
    assert grain_ns(dataclasses.replace(OLD, ctime_ns=1_700_000_000 * 10**9)) == 2 * 10**9
    assert grain_ns(dataclasses.replace(OLD, ctime_ns=1_700_000_000 * 10**9 + 10 * MS)) == 2 * 10**9
    assert grain_ns(dataclasses.replace(OLD, ctime_ns=1_700_000_000 * 10**9 + 1)) == 20 * MS


def test_a_record_within_a_coarse_grain_does_not_count(index: ProvenIndex, tmp_path: Path) -> None:
    """Another change in the same 2 s would not show: the file has to be hashed again."""
    now = time.time_ns() // (10 * MS) * (10 * MS)
    young = dataclasses.replace(OLD, ctime_ns=now - 1000 * MS)
    old = dataclasses.replace(OLD, ctime_ns=now - 2100 * MS)

    remember(index, tmp_path / "young", young)
    remember(index, tmp_path / "old", old)

    assert index.lookup(tmp_path / "young", young) is None
    assert index.lookup(tmp_path / "old", old) == KNOWN


def test_a_file_from_the_future_does_not_count(index: ProvenIndex, tmp_path: Path) -> None:
    """A clock that was set back, or a server's that is ahead: nothing is believed, nobody waits."""
    ahead = dataclasses.replace(OLD, ctime_ns=ctime_of_this_moment() + 3600 * 10**9)
    begun = time.monotonic()

    remember(index, tmp_path / "f", ahead)

    assert index.lookup(tmp_path / "f", ahead) is None
    assert time.monotonic() - begun < 5


def test_a_fresh_file_is_recorded_after_its_fine_grain(index: ProvenIndex, tmp_path: Path) -> None:
    """A few milliseconds are waited for, so that the next run need not hash it."""
    (tmp_path / "f").write_bytes(b"abc")
    fresh = Stamp.of((tmp_path / "f").lstat())

    remember(index, tmp_path / "f", fresh)

    assert time.time_ns() >= fresh.ctime_ns + 20 * MS
    assert index.lookup(tmp_path / "f", fresh) == KNOWN


def remember_late(index: ProvenIndex, path: Path, change: str, *others: Path) -> Known | None:
    """Prove a fresh file, change it, record it (and others); what is then known of it."""
    for one in (path, *others):
        one.unlink(missing_ok=True)
        one.write_bytes(b"abc")
    entries = [Entry(one, Stamp.of(one.lstat()), KNOWN) for one in (path, *others)]
    if change == "longer":
        path.write_bytes(b"abcd")
    elif change == "removed":
        path.unlink()
    else:
        path.with_suffix(".new").write_bytes(b"xyz")
        if change == "replaced":
            path.with_suffix(".new").replace(path)
        else:
            path.unlink()
            path.symlink_to(path.with_suffix(".new"))
    index.remember(entries)
    return index.lookup(path, entries[0].stamp)


# If the test is held up for longer than the grain there is nothing to wait for: it tries again.
TRIES = 20


@pytest.mark.parametrize("change", ["longer", "removed", "replaced", "linked"])
def test_a_file_that_changed_while_its_grain_passed_is_not_recorded(
    index: ProvenIndex, tmp_path: Path, change: str
) -> None:
    """What was proven is not there any more when the record would be made."""
    tries = (remember_late(index, tmp_path / "f", change) for _ in range(TRIES))

    assert any(known is None for known in tries)
    assert index.problem is None


def test_what_changed_costs_the_others_of_its_batch_nothing(
    index: ProvenIndex, tmp_path: Path
) -> None:
    """They are recorded, and known from then on."""
    path, other = tmp_path / "f", tmp_path / "other"
    tries = (remember_late(index, path, "longer", other) for _ in range(TRIES))

    forgotten = any(known is None for known in tries)

    assert forgotten
    assert index.lookup(other, Stamp.of(other.lstat())) == KNOWN


# -- trouble -------------------------------------------------------------------------------------


def test_damage_inside_the_database_makes_it_forgetful(tmp_path: Path) -> None:
    """It is put away, nothing raises, `problem` says why, and the next run begins a new one."""
    path = tmp_path / "index.sqlite"
    index = ProvenIndex(path)
    entries = [
        Entry(tmp_path / f"{at:04}", dataclasses.replace(OLD, inode=at), KNOWN)
        for at in range(2000)
    ]
    index.remember(entries)
    index.close()
    raw = bytearray(path.read_bytes())
    raw[4096:] = b"\x5a" * (len(raw) - 4096)  # the first page, with the schema, stays whole
    path.write_bytes(raw)

    found = [index.lookup(entry.path, entry.stamp) for entry in entries[:50]]
    index.remember(entries[:1])
    index.close()
    fresh = ProvenIndex(path)
    fresh.remember(entries[:1])

    assert set(found) == {None}
    assert index.problem is not None
    assert "malformed" in index.problem
    assert path.with_suffix(".damaged").read_bytes()[4096:] == raw[4096:]
    assert fresh.problem is None
    assert fresh.lookup(entries[0].path, entries[0].stamp) == KNOWN
    fresh.close()


def test_a_schema_that_is_no_text_makes_it_forgetful(tmp_path: Path) -> None:
    """SQLite quotes it in its message, which then cannot be read either."""
    path = tmp_path / "index.sqlite"
    index = ProvenIndex(path)
    remember(index, tmp_path / "f")
    index.close()
    path.write_bytes(path.read_bytes().replace(b"path BLOB PRIMARY", b"path BLOB PR\xdfMARY"))

    found = index.lookup(tmp_path / "f", OLD)
    index.close()
    remember(index, tmp_path / "f")

    assert found is None
    assert path.with_suffix(".damaged").exists()
    assert index.lookup(tmp_path / "f", OLD) == KNOWN
    index.close()


@pytest.mark.parametrize(
    "damage",
    [
        "recorded_ns = 'soon'",
        "sha256 = 'zz'",
        "sha256 = x'ff00'",
        "validator = x'00'",
        "git_sha1 = 'zz'",
        "git_sha1 = x'ff00'",
    ],
)
def test_a_record_that_makes_no_sense_is_not_there(tmp_path: Path, damage: str) -> None:
    """SQLite keeps any kind of value in any column, and would not notice a flipped bit."""
    index = ProvenIndex(tmp_path / "index.sqlite")
    remember(index, tmp_path / "f")
    index.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite")) as database:
        database.execute(f"UPDATE files SET {damage}")
        database.commit()

    found = index.lookup(tmp_path / "f", OLD)
    index.close()

    assert found is None


def test_a_file_that_is_no_database_is_put_away(tmp_path: Path) -> None:
    """With the rollback journal beside it; then a new run begins a new one."""
    path = tmp_path / "index.sqlite"
    path.write_bytes(b"garbage" * 1000)
    (tmp_path / "index.sqlite-journal").write_bytes(b"\0stale")
    index = ProvenIndex(path)

    found = index.lookup(tmp_path / "f", OLD)
    fresh = ProvenIndex(path)
    remember(fresh, tmp_path / "f")

    assert found is None
    assert index.problem is not None
    assert str(path) in index.problem
    assert path.with_suffix(".damaged").read_bytes() == b"garbage" * 1000
    assert (tmp_path / "index.damaged-journal").read_bytes() == b"\0stale"
    assert not (tmp_path / "index.sqlite-journal").exists()
    assert fresh.problem is None
    assert fresh.lookup(tmp_path / "f", OLD) == KNOWN
    fresh.close()


def test_once_there_was_trouble_the_database_is_left_alone(tmp_path: Path) -> None:
    """`problem` says what was wrong first, and nothing is made or asked in that run any more."""
    path = tmp_path / "index.sqlite"
    path.write_bytes(b"garbage" * 1000)
    index = ProvenIndex(path)
    index.lookup(tmp_path / "f", OLD)
    problem = index.problem

    remember(index, tmp_path / "f")
    found = index.lookup(tmp_path / "f", OLD)
    index.close()

    assert found is None
    assert index.problem == problem
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.damaged"]


def test_a_database_that_was_locked_is_tried_again(tmp_path: Path) -> None:
    """After a while, not at every file: each try may wait for seconds. What was missed counts."""
    path = tmp_path / "index.sqlite"
    now = [1000.0]
    index = ProvenIndex(path, patience=0.01, clock=lambda: now[0])
    remember(index, tmp_path / "f")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")

    while_locked = index.lookup(tmp_path / "f", OLD)
    other.close()
    just_after = index.lookup(tmp_path / "f", OLD)
    now[0] += RETRY_AFTER
    later = index.lookup(tmp_path / "f", OLD)

    assert (while_locked, just_after, later) == (None, None, KNOWN)
    assert index.missed == 2
    assert "locked" in str(index.problem)
    index.close()


def test_a_damaged_database_is_replaced_in_the_life_of_one_index(tmp_path: Path) -> None:
    """A program that runs for weeks gets its memory back, at the latest when it closes."""
    path = tmp_path / "index.sqlite"
    path.write_bytes(b"garbage" * 1000)
    index = ProvenIndex(path)
    index.lookup(tmp_path / "f", OLD)

    index.close()
    remember(index, tmp_path / "f")

    assert index.lookup(tmp_path / "f", OLD) == KNOWN
    assert index.missed == 1
    index.close()


@pytest.mark.parametrize("place", ["below a file", "below a link to nowhere", "a folder"])
def test_where_no_database_can_be_made_it_is_forgetful(tmp_path: Path, place: str) -> None:
    """Nothing raises, nothing is remembered, `problem` says why and where."""
    path = tmp_path / "x" / "index.sqlite"
    if place == "below a file":
        path.parent.write_bytes(b"theirs")
    elif place == "a folder":
        path.mkdir(parents=True)
    else:
        path.parent.symlink_to("nowhere")
    index = ProvenIndex(path)

    remember(index, tmp_path / "f")

    assert index.lookup(tmp_path / "f", OLD) is None
    assert index.problem is not None
    assert "cannot be used" in index.problem
    assert str(path) in index.problem
    index.close()


def test_on_a_disk_that_cannot_be_written_it_is_forgetful(tiny_disk: Callable[..., Path]) -> None:
    """A home on a read-only disk is no reason to fail."""
    disk = tiny_disk(read_only=True)
    index = ProvenIndex(disk / "state" / "index.sqlite")
    other = ProvenIndex(disk / "index.sqlite")

    for one in (index, other):
        remember(one, disk / "f")

    assert index.lookup(disk / "f", OLD) is None
    assert other.lookup(disk / "f", OLD) is None
    assert "Read-only" in str(index.problem)
    assert "unable to open" in str(other.problem)


def test_on_a_full_disk_it_is_forgetful(tiny_disk: Callable[..., Path]) -> None:
    """What was recorded before the disk filled up is known in the next run."""
    disk = tiny_disk(kib=64)
    path = disk / "index.sqlite"
    index = ProvenIndex(path)
    remember(index, disk / "f")
    many = [
        Entry(
            disk / f"{at}", dataclasses.replace(OLD, inode=at), Known("ab" * 500, None, ours=True)
        )
        for at in range(200)
    ]

    index.remember(many)
    index.close()
    again = ProvenIndex(path)

    assert "full" in str(index.problem)
    assert again.lookup(disk / "f", OLD) == KNOWN
    assert again.lookup(many[0].path, many[0].stamp) is None
    again.close()


def test_another_version_of_the_database_begins_again(tmp_path: Path) -> None:
    """It is a cache: what a newer or older program wrote there is dropped, not misread."""
    path = tmp_path / "index.sqlite"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE files (something_else)")
    database.execute("PRAGMA user_version = 99")
    database.commit()
    database.close()
    index = ProvenIndex(path)

    before = index.lookup(tmp_path / "f", OLD)
    remember(index, tmp_path / "f")

    assert before is None
    assert index.problem is None
    assert index.lookup(tmp_path / "f", OLD) == KNOWN
    index.close()


# -- together ------------------------------------------------------------------------------------


def test_threads_share_one_memory(index: ProvenIndex, tmp_path: Path) -> None:
    """Lookups and records from several threads at once all come through."""
    missing: list[Path] = []

    def work(name: str) -> None:
        for at in range(25):
            path = tmp_path / f"{name}{at}"
            remember(index, path)
            if index.lookup(path, OLD) != KNOWN:
                missing.append(path)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert missing == []
    assert index.problem is None


def test_processes_share_one_memory(index: ProvenIndex, tmp_path: Path) -> None:
    """Two processes write at the same time, from a file that neither has made yet."""
    code = """
    from modelhaul.store.index import ProvenIndex
    from tests.store.test_index import remember
    index = ProvenIndex(Path(sys.argv[1]))
    pause()
    for at in range(30):
        remember(index, Path(sys.argv[2]) / f"theirs{at}")
    pause(str(index.problem))
    """

    with second_process(code, tmp_path / "state" / "index.sqlite", tmp_path) as other:
        other.line()
        other.go()
        for at in range(30):
            remember(index, tmp_path / f"ours{at}")
        problem = other.line()
        names = [f"{whose}{at}" for whose in ("ours", "theirs") for at in range(30)]
        forgotten = [name for name in names if index.lookup(tmp_path / name, OLD) != KNOWN]

    assert (problem, index.problem) == ("None", None)
    assert forgotten == []
