"""`store.index`: the memory of proven files, forgetful at worst and never wrong."""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelhaul.store.index import Entry, Known, ProvenIndex, grain_ns
from modelhaul.store.osfile import Stamp
from tests.store.helpers import second_process

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
    fresh = dataclasses.replace(OLD, ctime_ns=ctime_of_this_moment())

    remember(index, tmp_path / "f", fresh)

    assert time.time_ns() >= fresh.ctime_ns + 20 * MS
    assert index.lookup(tmp_path / "f", fresh) == KNOWN


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


def test_where_no_folder_can_be_made_it_is_forgetful(tmp_path: Path) -> None:
    """Nothing raises, nothing is remembered, `problem` says why."""
    (tmp_path / "file").write_bytes(b"")
    index = ProvenIndex(tmp_path / "file" / "index.sqlite")

    remember(index, tmp_path / "f")

    assert index.lookup(tmp_path / "f", OLD) is None
    assert index.problem is not None
    assert "cannot be made" in index.problem
    index.close()


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
