"""`store.hashing`: SHA-256 of files and of prefixes that grow."""

from __future__ import annotations

import hashlib
import random
import tempfile
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.errors import StorageError
from modelhaul.store.hashing import STEP, Follower, hash_file
from modelhaul.store.osfile import Stamp
from modelhaul.store.sink import PartFile
from tests.store.helpers import descriptors, trace

BIG = random.Random(8).randbytes(2 * STEP + 12_345)


def sha256(data: bytes) -> str:
    """What it should be."""
    return hashlib.sha256(data).hexdigest()


def part_with(path: Path, data: bytes) -> PartFile:
    """A part that holds these bytes."""
    part = PartFile.create(path, len(data))
    part.write_at(data, 0)
    return part


# -- following a frontier ------------------------------------------------------------------------


@given(st.binary(max_size=2000), st.lists(st.integers(0, 2000), max_size=8))
def test_a_prefix_has_its_digest_however_it_grew(data: bytes, stops: list[int]) -> None:
    """In any steps: the digest is that of the prefix."""
    follower = Follower()

    with tempfile.TemporaryDirectory() as folder:
        part = part_with(Path(folder, "p"), data)
        for stop in sorted(min(stop, len(data)) for stop in stops):
            follower.advance(part, stop)
            assert follower.position == stop
            assert follower.digests().sha256 == sha256(data[:stop])
        part.close()


def test_a_step_larger_than_the_buffer_is_hashed_whole(tmp_path: Path) -> None:
    """More than one buffer in one call, not ending at a buffer's end."""
    part = part_with(tmp_path / "p", BIG)
    follower = Follower()

    follower.advance(part, len(BIG))
    part.close()

    assert follower.digests().sha256 == sha256(BIG)


def test_going_back_hashes_nothing(tmp_path: Path) -> None:
    """A stop that is passed already changes neither position nor digest."""
    part = part_with(tmp_path / "p", b"0123456789")
    follower = Follower()
    follower.advance(part, 8)

    follower.advance(part, 8)
    follower.advance(part, 3)
    part.close()

    assert (follower.position, follower.digests().sha256) == (8, sha256(b"01234567"))


def test_a_follower_sees_only_what_is_behind_the_frontier(tmp_path: Path) -> None:
    """Bytes past the stop may change later without changing the digest."""
    part = part_with(tmp_path / "p", b"0123456789")
    follower = Follower()

    follower.advance(part, 5)
    part.write_at(b"vwxyz", 5)
    follower.advance(part, 10)
    part.close()

    assert follower.digests().sha256 == sha256(b"01234vwxyz")


def test_a_part_that_lost_its_end_is_an_error(tmp_path: Path) -> None:
    """Somebody cut the part: a digest of fewer bytes must not pass for one of all."""
    part = part_with(tmp_path / "p", b"0123456789")
    follower = Follower()
    part.resize(4)

    with pytest.raises(StorageError, match="shorter than what was written"):
        follower.advance(part, 10)

    assert follower.position == 4
    part.close()


# -- whole files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, STEP - 1, STEP, STEP + 1, len(BIG)])
def test_a_file_has_its_digest_and_its_stamp(tmp_path: Path, size: int) -> None:
    """Of exactly the bytes that were read, for sizes around the buffer's."""
    (tmp_path / "f").write_bytes(BIG[:size])
    seen: list[int] = []

    digests, stamp = hash_file(tmp_path / "f", check=seen.append)

    assert digests.sha256 == sha256(BIG[:size])
    assert stamp == Stamp.of((tmp_path / "f").stat())
    assert sum(seen) == size


def test_a_link_is_hashed_as_what_it_leads_to(tmp_path: Path) -> None:
    """Reading through a link does no harm; the stamp is the target's."""
    (tmp_path / "f").write_bytes(b"content")
    (tmp_path / "link").symlink_to("f")

    digests, stamp = hash_file(tmp_path / "link")

    assert digests.sha256 == sha256(b"content")
    assert stamp == Stamp.of((tmp_path / "f").stat())


@pytest.mark.parametrize("change", ["append", "overwrite", "truncate"])
def test_a_file_that_changes_while_it_is_hashed_has_no_digest(tmp_path: Path, change: str) -> None:
    """What was read may never have stood there at one moment."""
    path = tmp_path / "f"
    path.write_bytes(BIG)
    calls: list[int] = []

    def interfere(count: int) -> None:
        calls.append(count)
        if len(calls) > 1:
            return
        with path.open("r+b") as file:
            if change == "append":
                file.seek(0, 2)
                file.write(b"more")
            elif change == "overwrite":
                file.write(b"!")
            else:
                file.truncate(STEP // 2)

    with pytest.raises(StorageError, match="changed while it was being hashed"):
        hash_file(path, check=interfere)


def test_a_file_that_keeps_growing_is_given_up(tmp_path: Path) -> None:
    """A log that somebody writes faster than we read must not hold us for ever."""
    path = tmp_path / "f"
    path.write_bytes(bytes(100))
    calls: list[int] = []

    def grow(count: int) -> None:
        calls.append(count)
        assert len(calls) < 10, "it never ends"
        with path.open("ab") as file:
            file.write(bytes(2 * STEP))

    with pytest.raises(StorageError, match="changed while it was being hashed"):
        hash_file(path, check=grow)

    assert sum(calls) <= 100 + 2 * STEP


@pytest.mark.parametrize("sync", [True, False])
def test_what_was_hashed_is_made_durable_on_request(
    tmp_path: Path, needs_strace: None, sync: bool
) -> None:
    """After the last byte was read: what is remembered must survive a power cut."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "f").write_bytes(b"content")
    code = f"""
    from modelhaul.store.hashing import hash_file
    hash_file(Path(sys.argv[1]) / "f", sync={sync})
    """

    traced = trace(code, tmp_path / "x", calls="preadv,preadv2,fdatasync,fsync")

    steps = [step for step, _ in groupby(one.replace("preadv2", "preadv") for one in traced.steps)]
    assert steps == ["preadv f", *(["fdatasync f"] if sync else [])]


def test_a_check_that_raises_stops_at_once(tmp_path: Path) -> None:
    """Ctrl-C does not wait for the end of a large file, and leaves no descriptor open."""
    (tmp_path / "f").write_bytes(BIG)
    before, calls = descriptors(), []

    def stop(count: int) -> None:
        calls.append(count)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hash_file(tmp_path / "f", check=stop)

    assert calls == [STEP]
    assert descriptors() == before


def test_what_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    """A missing file and a folder have no digest."""
    with pytest.raises(StorageError, match="missing"):
        hash_file(tmp_path / "missing")
    with pytest.raises(StorageError, match="regular file"):
        hash_file(tmp_path)
