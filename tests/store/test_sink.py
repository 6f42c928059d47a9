"""`store.sink`: part files, from empty and sparse to published."""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modelhaul.errors import DiskFull, Occupied, StorageError
from modelhaul.store import osfile
from modelhaul.store.osfile import Stamp
from modelhaul.store.sink import PartFile, check_unchanged, open_private
from tests.store.helpers import STRACE, descriptors, second_process, trace
from tests.support.disks import SharingDisk

MIB = 1 << 20

PRIVATE = """
from modelhaul.store.sink import open_private
part = open_private(Path(sys.argv[1]), "small.whole", locks=True, token="other")
part.write_at(b"theirs", 0)
pause(part.path.name)
"""


def part_with(path: Path, data: bytes) -> PartFile:
    """A part that holds these bytes."""
    part = PartFile.create(path, len(data))
    part.write_at(data, 0)
    return part


# -- creating and opening ------------------------------------------------------------------------


def test_a_new_part_is_as_long_as_the_file_and_takes_no_room(tmp_path: Path) -> None:
    """Preallocation is sparse: length is set, blocks come with the bytes."""
    part = PartFile.create(tmp_path / "p", 512 * MIB)

    status = (tmp_path / "p").stat()
    part.close()

    assert status.st_size == 512 * MIB
    assert status.st_blocks * 512 <= 64 * 1024


def test_reserving_takes_the_room_at_once(tmp_path: Path) -> None:
    """With `reserve` a full disk shows before the first byte."""
    part = PartFile.create(tmp_path / "p", 2 * MIB, reserve=True)

    status = (tmp_path / "p").stat()
    part.close()

    assert status.st_size == 2 * MIB
    assert status.st_blocks * 512 >= 2 * MIB


def test_reserving_too_much_is_a_full_disk(tiny_disk: Callable[..., Path]) -> None:
    """What cannot fit is refused when the part is made: no descriptor, no name, no room is left."""
    disk = tiny_disk(kib=256)
    before, room = descriptors(), os.statvfs(disk).f_bavail

    with pytest.raises(DiskFull):
        PartFile.create(disk / "p", MIB, reserve=True)

    assert descriptors() == before
    assert os.statvfs(disk).f_bavail == room
    assert list(disk.iterdir()) == []


def test_a_failed_reservation_gives_the_room_back(
    tmp_path: Path, mount: Callable[..., None]
) -> None:
    """On ext4 a reservation that fails keeps the blocks that it got: they go with the part."""
    disk, image = tmp_path / "disk", tmp_path / "image"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(4 * MIB)
    if subprocess.run(["mkfs.ext4", "-q", image], capture_output=True).returncode != 0:
        pytest.skip("mkfs.ext4 is not installed")
    mount("ext4", disk, options="loop", device=image)
    room = os.statvfs(disk).f_bavail

    with pytest.raises(DiskFull):
        PartFile.create(disk / "p", 100 * MIB, reserve=True)

    assert os.statvfs(disk).f_bavail == room
    assert not (disk / "p").exists()


def test_what_stood_at_the_name_of_a_new_part_loses_it(tmp_path: Path) -> None:
    """A new part reads as zeros; the old file is not emptied, for whoever has it open."""
    (tmp_path / "p").write_bytes(b"old bytes of another run")

    with (tmp_path / "p").open("rb") as old:
        part = PartFile.create(tmp_path / "p", 5)
        part.close()
        content = old.read()

    assert (tmp_path / "p").read_bytes() == bytes(5)
    assert content == b"old bytes of another run"


def test_another_name_of_what_stood_there_keeps_its_bytes(tmp_path: Path) -> None:
    """A backup may have linked an old part (`cp -al`): it is unlinked, never written into."""
    (tmp_path / "backup").write_bytes(b"precious")
    os.link(tmp_path / "backup", tmp_path / "p")

    part = PartFile.create(tmp_path / "p", 5)
    part.write_at(b"other", 0)
    part.close()

    assert (tmp_path / "backup").read_bytes() == b"precious"
    assert (tmp_path / "p").read_bytes() == b"other"


def test_a_part_cannot_take_the_name_of_a_folder(tmp_path: Path) -> None:
    """It is refused, and what is in the folder stays."""
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "f").write_bytes(b"precious")
    before = descriptors()

    with pytest.raises(StorageError, match="making"):
        PartFile.create(tmp_path / "p", 5)

    assert (tmp_path / "p" / "f").read_bytes() == b"precious"
    assert descriptors() == before


def test_a_part_of_unknown_size_begins_empty(tmp_path: Path) -> None:
    """Nobody knows how long it will be, so it grows with its bytes."""
    part = PartFile.create(tmp_path / "p", None)

    at_first = part.size
    part.write_at(b"123", 0)
    grown = part.size
    part.close()

    assert (at_first, grown) == (0, 3)


def test_a_part_is_reopened_with_its_bytes(tmp_path: Path) -> None:
    """Reopening changes nothing; it is the same file."""
    first = part_with(tmp_path / "p", b"bytes")
    first.close()

    again = PartFile.reopen(tmp_path / "p")

    assert again is not None
    assert (again.inode, again.size) == (first.inode, 5)
    again.close()
    assert (tmp_path / "p").read_bytes() == b"bytes"


def test_a_part_that_is_not_there_is_not_made_by_reopening(tmp_path: Path) -> None:
    """Missing is a normal answer: None."""
    assert PartFile.reopen(tmp_path / "p") is None
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("content", [b"", b"proven"])
def test_a_part_with_a_second_name_is_not_reopened(tmp_path: Path, content: bytes) -> None:
    """It is not ours alone to write into: None, as if it were not there, and nothing leaks."""
    part_with(tmp_path / "p", content).close()
    os.link(tmp_path / "p", tmp_path / "twin")
    before = descriptors()

    shared = PartFile.reopen(tmp_path / "p")
    (tmp_path / "twin").unlink()
    alone = PartFile.reopen(tmp_path / "p")

    assert shared is None
    assert alone is not None
    alone.close()
    assert descriptors() == before
    assert (tmp_path / "p").read_bytes() == content


@pytest.mark.parametrize("target", ["victim", "nowhere"])
def test_a_part_is_never_a_link(tmp_path: Path, target: str) -> None:
    """A link gives way to a new part, is not reopened and not locked; its target stays."""
    (tmp_path / "victim").write_bytes(b"precious")
    for name in ("p", "q", "s.part", "s.t.part"):
        (tmp_path / name).symlink_to(target)

    made = PartFile.create(tmp_path / "p", 3)
    with pytest.raises(StorageError):
        PartFile.reopen(tmp_path / "q")
    with pytest.raises(StorageError):
        open_private(tmp_path, "s", locks=True, token="t")
    private = open_private(tmp_path, "s", locks=False, token="t")
    for part in (made, private):
        part.write_at(b"new", 0)
        part.close()

    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()
    for name in ("p", "s.t.part"):
        assert not (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_bytes() == b"new"
    for name in ("q", "s.part"):
        assert os.readlink(tmp_path / name) == target


def test_a_folder_cannot_be_reopened_as_a_part(tmp_path: Path) -> None:
    """Something that is there and no part is an error, not a missing part."""
    (tmp_path / "p").mkdir()

    with pytest.raises(StorageError, match="opening"):
        PartFile.reopen(tmp_path / "p")


# -- bytes ---------------------------------------------------------------------------------------


def test_bytes_are_read_back_where_they_were_written(tmp_path: Path) -> None:
    """Any order of writes; a read past the end says how many bytes there were."""
    part = PartFile.create(tmp_path / "p", 10)
    buffer = memoryview(bytearray(6))

    part.write_at(memoryview(b"world"), 5)
    part.write_at(b"hello", 0)
    inside = part.read_into(buffer, 2)
    read = bytes(buffer)
    across = part.read_into(buffer, 8)
    part.close()

    assert (inside, read) == (6, b"llowor")
    assert (across, bytes(buffer[:2])) == (2, b"ld")


def test_resizing_keeps_what_is_inside_and_adds_zeros(tmp_path: Path) -> None:
    """New length reads as zeros, which count for nothing."""
    part = part_with(tmp_path / "p", b"12345")

    part.resize(3)
    part.resize(6)
    part.close()

    assert (tmp_path / "p").read_bytes() == b"123\0\0\0"


def test_a_full_disk_keeps_what_was_written_before(tiny_disk: Callable[..., Path]) -> None:
    """The write that does not fit raises `DiskFull`; earlier bytes can be read back."""
    part = PartFile.create(tiny_disk(kib=128) / "p", 4 * MIB)
    data = random.Random(2).randbytes(64 * 1024)

    part.write_at(data, 0)
    with pytest.raises(DiskFull):
        part.write_at(bytes(MIB), MIB)
    buffer = memoryview(bytearray(len(data)))
    part.read_into(buffer, 0)
    part.close()

    assert bytes(buffer) == data


def test_a_closed_part_writes_into_no_other_file(tmp_path: Path) -> None:
    """After `close` the descriptor number may be somebody else's: writing raises instead."""
    part = PartFile.create(tmp_path / "p", 5)
    part.close()

    with (tmp_path / "other").open("w+b") as other:
        with pytest.raises(StorageError):
            part.write_at(b"wrong", 0)
        other.seek(0)
        content = other.read()

    assert content == b""


def test_closing_twice_closes_once(tmp_path: Path) -> None:
    """The second call does nothing, also when the number is in use again."""
    part = PartFile.create(tmp_path / "p", 5)
    was_open = part.open

    part.close()
    with (tmp_path / "other").open("wb") as other:
        part.close()
        other.write(b"still open")

    assert (was_open, part.open) == (True, False)
    assert (tmp_path / "other").read_bytes() == b"still open"


# -- barrier -------------------------------------------------------------------------------------


def test_a_failed_barrier_is_never_repeated(tmp_path: Path) -> None:
    """The kernel may report success the second time: what one sync lost stays lost."""
    reader, writer = os.pipe()
    part = PartFile(tmp_path / "p", writer)
    good = os.open(tmp_path / "p", os.O_CREAT | os.O_RDWR)

    try:
        with pytest.raises(StorageError, match="syncing"):
            part.barrier()
        os.dup2(good, writer)  # from here on the system would say yes
        with pytest.raises(StorageError, match="an earlier sync"):
            part.barrier()
        with pytest.raises(StorageError, match="an earlier sync"):
            part.publish(tmp_path / "final", replaces=None)
    finally:
        part.close()
        os.close(good)
        os.close(reader)

    assert part.failed
    assert not (tmp_path / "final").exists()


def test_a_good_barrier_can_be_followed_by_others(tmp_path: Path) -> None:
    """There is one about every second."""
    part = part_with(tmp_path / "p", b"1")

    part.barrier()
    part.write_at(b"2", 0)
    part.barrier()
    part.close()

    assert not part.failed


# -- publishing ----------------------------------------------------------------------------------


def test_publishing_renames_the_part(tmp_path: Path) -> None:
    """The bytes stand under the final name, the part's name is free, the stamp is the file's."""
    part = part_with(tmp_path / "p", b"proven")

    stamp = part.publish(tmp_path / "final", replaces=None)
    part.close()

    assert (tmp_path / "final").read_bytes() == b"proven"
    assert not (tmp_path / "p").exists()
    assert stamp == Stamp.of((tmp_path / "final").lstat())


def test_a_part_that_shares_the_blocks_of_another_file_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its length is our own doing, though nothing was written; so is one that was made longer."""
    disk = SharingDisk().install(monkeypatch)
    (tmp_path / "source").write_bytes(b"content")
    part = PartFile.create(tmp_path / "p", None)

    with (tmp_path / "source").open("rb") as source:
        assert part.clone_from(source.fileno())
    part.write_at(b"!", 7)
    part.publish(tmp_path / "final", replaces=None)
    part.close()

    assert (tmp_path / "final").read_bytes() == b"content!"
    assert disk.shared == 1


@pytest.mark.parametrize("kind", ["file", "same bytes", "link", "dangling link", "folder"])
def test_publishing_refuses_what_appeared_meanwhile(tmp_path: Path, kind: str) -> None:
    """Nothing that came after the plan is overwritten; the part is as it was."""
    part, final = part_with(tmp_path / "p", b"proven"), tmp_path / "final"
    (tmp_path / "target").write_bytes(b"target")
    if kind == "folder":
        final.mkdir()
    elif kind.endswith("link"):
        final.symlink_to("target" if kind == "link" else "nowhere")
    else:
        final.write_bytes(b"proven" if kind == "same bytes" else b"theirs")
    before = Stamp.of(final.lstat())

    with pytest.raises(Occupied, match="appeared or changed"):
        part.publish(final, replaces=None)

    assert Stamp.of(final.lstat()) == before
    assert (tmp_path / "target").read_bytes() == b"target"
    assert part.open
    assert (tmp_path / "p").read_bytes() == b"proven"
    part.close()


def test_publishing_refuses_what_changed_meanwhile(tmp_path: Path) -> None:
    """A file that may be replaced may not once it is another one than the plan saw."""
    part, final = part_with(tmp_path / "p", b"proven"), tmp_path / "final"
    final.write_bytes(b"old")
    seen = Stamp.of(final.lstat())
    final.write_bytes(b"the user's edit")

    with pytest.raises(Occupied):
        part.publish(final, replaces=seen)

    assert final.read_bytes() == b"the user's edit"
    assert (tmp_path / "p").read_bytes() == b"proven"
    part.close()


def test_publishing_replaces_what_the_plan_saw(tmp_path: Path) -> None:
    """An expected stamp gives way."""
    part, final = part_with(tmp_path / "p", b"new"), tmp_path / "final"
    final.write_bytes(b"old")

    part.publish(final, replaces=Stamp.of(final.lstat()))
    part.close()

    assert final.read_bytes() == b"new"


def test_publishing_replaces_a_link_and_not_its_target(tmp_path: Path) -> None:
    """A link that may give way is replaced itself; where it led stays as it is."""
    part, final = part_with(tmp_path / "p", b"new"), tmp_path / "final"
    (tmp_path / "target").write_bytes(b"target")
    final.symlink_to("target")

    part.publish(final, replaces=Stamp.of(final.lstat()))
    part.close()

    assert not final.is_symlink()
    assert final.read_bytes() == b"new"
    assert (tmp_path / "target").read_bytes() == b"target"


def test_a_file_that_was_to_be_replaced_may_be_gone(tmp_path: Path) -> None:
    """Nothing can be lost where nothing is."""
    part, final = part_with(tmp_path / "p", b"new"), tmp_path / "final"
    final.write_bytes(b"old")
    seen = Stamp.of(final.lstat())
    final.unlink()

    check_unchanged(final, seen)
    part.publish(final, replaces=seen)
    part.close()

    assert final.read_bytes() == b"new"


def test_publishing_into_a_missing_folder_keeps_the_part(tmp_path: Path) -> None:
    """A rename that fails leaves everything in place."""
    part = part_with(tmp_path / "p", b"proven")

    with pytest.raises(StorageError, match="publishing"):
        part.publish(tmp_path / "missing" / "final", replaces=None)

    assert (tmp_path / "p").read_bytes() == b"proven"
    part.close()


@pytest.mark.parametrize("how", ["removed", "replaced", "replaced by a link", "renamed", "linked"])
def test_only_what_was_written_is_published(tmp_path: Path, how: str) -> None:
    """Somebody tidied up while we ran: what has the part's name by now is not what we proved."""
    part, final = part_with(tmp_path / "p", b"good"), tmp_path / "final"
    if how == "linked":
        os.link(tmp_path / "p", tmp_path / "q")  # who has the other name may write there
    else:
        (tmp_path / "p").rename(tmp_path / "q")
    if how == "removed":
        (tmp_path / "q").unlink()
    elif how == "replaced":
        (tmp_path / "p").write_bytes(b"evil")
    elif how == "replaced by a link":
        (tmp_path / "p").symlink_to("q")
    before = {path: Stamp.of(path.lstat()) for path in tmp_path.iterdir()}

    with pytest.raises(
        StorageError, match="removed, replaced or resized by another program"
    ) as caught:
        part.publish(final, replaces=None)
    part.close()

    assert caught.value.hint == "run the same command again"
    assert {path: Stamp.of(path.lstat()) for path in tmp_path.iterdir()} == before
    assert not final.exists()


def test_a_part_whose_second_name_is_gone_is_published(tmp_path: Path) -> None:
    """A backup that came and went did no harm."""
    part = part_with(tmp_path / "p", b"good")
    os.link(tmp_path / "p", tmp_path / "q")
    (tmp_path / "q").unlink()

    part.publish(tmp_path / "final", replaces=None)
    part.close()

    assert (tmp_path / "final").read_bytes() == b"good"


def test_what_appeared_is_reported_before_what_was_removed(tmp_path: Path) -> None:
    """Another process has finished the file and tidied up: that is the news that counts."""
    part = part_with(tmp_path / "p", b"good")
    (tmp_path / "p").rename(tmp_path / "final")

    with pytest.raises(Occupied):
        part.publish(tmp_path / "final", replaces=None)
    part.close()

    assert (tmp_path / "final").read_bytes() == b"good"


def test_publishing_is_barrier_rename_folder_journal(tmp_path: Path, needs_strace: None) -> None:
    """The order of section 5: bytes durable, name set, name durable, and only then no journal."""
    folder = tmp_path / "x"
    (folder / "state").mkdir(parents=True)
    code = """
    from tests.store.helpers import STEM, claimed, put
    folder = Path(sys.argv[1])
    mine = claimed(folder / "state")
    for name in ("part", "journal"):
        os.rename(folder / "state" / f"{STEM}.{name}", folder / "state" / name)
    mine.part.path, mine.journal.path = folder / "state" / "part", folder / "state" / "journal"
    put(mine, 0, 1000)
    os.mkdir(folder / "mark")
    mine.part.publish(folder / "final", replaces=None)
    mine.finished()
    """

    traced = trace(
        code,
        folder,
        calls="mkdir,fdatasync,fsync,rename,renameat,renameat2,unlink,unlinkat",
    )

    assert traced.steps[traced.steps.index("mkdir mark") + 1 :] == [
        "fdatasync part",
        "rename part final",
        "fsync x",
        "unlink journal",
    ]


def test_renaming_alone_syncs_nothing(tmp_path: Path, needs_strace: None) -> None:
    """Who publishes many small files syncs all parts before and each folder once afterwards."""
    (tmp_path / "x").mkdir()
    code = """
    from tests.store.test_sink import part_with
    part = part_with(Path(sys.argv[1]) / "p", b"proven")
    part.rename(Path(sys.argv[1]) / "final", replaces=None)
    """

    traced = trace(code, tmp_path / "x", calls="fdatasync,fsync,pwrite64,rename,renameat,renameat2")

    assert traced.steps == ["pwrite64 p", "rename p final"]


@pytest.mark.parametrize("state", ["open", "released"])
def test_a_renamed_part_has_the_stamp_of_its_file(tmp_path: Path, state: str) -> None:
    """Whether or not it is still open: the stamp is for recognising the file later."""
    part = part_with(tmp_path / "p", b"proven")
    if state == "released":
        part.release()

    stamp = part.rename(tmp_path / "final", replaces=None)
    part.close()

    assert stamp == Stamp.of((tmp_path / "final").lstat())
    assert (tmp_path / "final").read_bytes() == b"proven"
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("how", ["changed", "swapped", "gone", "occupied"])
def test_a_released_part_is_renamed_as_it_was_left_or_not_at_all(tmp_path: Path, how: str) -> None:
    """What somebody touched in between is not published, and nothing is overwritten."""
    part, final = part_with(tmp_path / "p", b"proven"), tmp_path / "final"
    part.release()
    if how == "changed":
        (tmp_path / "p").write_bytes(b"forged")
    elif how == "swapped":
        (tmp_path / "q").write_bytes(b"forged")
        (tmp_path / "q").replace(tmp_path / "p")
    elif how == "gone":
        (tmp_path / "p").unlink()
    else:
        final.write_bytes(b"theirs")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    with pytest.raises(Occupied if how == "occupied" else StorageError):
        part.rename(final, replaces=None)

    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# -- private parts -------------------------------------------------------------------------------


def test_a_private_part_uses_up_what_a_killed_process_left(tmp_path: Path) -> None:
    """The plain name is free again once its process is dead, and the part begins empty."""
    with second_process(PRIVATE, tmp_path) as other:
        left = other.line()
        other.kill()

    part = open_private(tmp_path, "small.whole", locks=True, token="mine")

    assert part.path.name == left == "small.whole.part"
    assert part.size == 0
    part.close()
    assert [path.name for path in tmp_path.iterdir()] == ["small.whole.part"]


def test_a_private_part_is_never_one_that_somebody_works_on(tmp_path: Path) -> None:
    """While another process holds the plain name, ours is our own; its bytes stay."""
    with second_process(PRIVATE, tmp_path) as other:
        other.line()
        before = descriptors()

        part = open_private(tmp_path, "small.whole", locks=True, token="mine")
        part.close()

        assert part.path.name == "small.whole.mine.part"
        assert (tmp_path / "small.whole.part").read_bytes() == b"theirs"
        assert descriptors() == before


def test_a_private_part_never_empties_a_file_with_a_second_name(tmp_path: Path) -> None:
    """A deduplicator may have linked a leftover with a real file (`jdupes -L`)."""
    (tmp_path / "published").write_bytes(b"precious")
    os.link(tmp_path / "published", tmp_path / "s.part")
    before = descriptors()

    part = open_private(tmp_path, "s", locks=True, token="t")
    part.write_at(b"new", 0)
    part.close()

    assert (tmp_path / "published").read_bytes() == b"precious"
    assert part.path.read_bytes() == b"new"
    assert descriptors() == before


def test_two_private_parts_of_one_process_are_two_files(tmp_path: Path) -> None:
    """The lock also keeps one process from using a name twice."""
    one = open_private(tmp_path, "s", locks=True, token="a")
    two = open_private(tmp_path, "s", locks=True, token="b")

    one.write_at(b"one", 0)
    two.write_at(b"two", 0)
    one.close()
    two.close()

    assert (tmp_path / "s.part").read_bytes() == b"one"
    assert (tmp_path / "s.b.part").read_bytes() == b"two"


def test_where_locks_lie_a_private_part_never_has_the_plain_name(tmp_path: Path) -> None:
    """Without locks only a name of our own is safe."""
    (tmp_path / "s.part").write_bytes(b"theirs")

    part = open_private(tmp_path, "s", locks=False, token="mine")
    part.close()

    assert part.path.name == "s.mine.part"
    assert (tmp_path / "s.part").read_bytes() == b"theirs"


def test_a_private_part_never_empties_a_file_that_was_published_meanwhile(
    tmp_path: Path, needs_strace: None
) -> None:
    """Between our open and our lock the other may rename its part: that file is not ours."""
    assert STRACE is not None
    log, final = tmp_path / "log", tmp_path / "final"
    theirs = open_private(tmp_path, "small.whole", locks=True, token="theirs")
    theirs.write_at(b"published", 0)
    # Its flock comes 1 s after its open: time enough for us to publish in between.
    under = (STRACE, "--seccomp-bpf", "-f", "-o", str(log), "-e", "trace=openat,flock")
    under += ("-e", "inject=flock:delay_enter=1000000")

    with second_process(PRIVATE, tmp_path, under=under) as other:
        # Not merely asked for: opened.
        opened = re.compile(r'small\.whole\.part".*= \d+')
        while not opened.search(log.read_text() if log.exists() else ""):
            time.sleep(0.005)
        theirs.publish(final, replaces=None)
        theirs.close()
        name = other.line()

    assert final.read_bytes() == b"published"
    assert name == "small.whole.other.part"


# -- released parts ------------------------------------------------------------------------------


def test_a_released_part_is_closed_and_still_known(tmp_path: Path) -> None:
    """It keeps no descriptor open, and passes as long as nobody touches it."""
    part = part_with(tmp_path / "p", b"proven")
    before = descriptors()

    part.barrier()
    part.release()
    part.check_named()

    assert not part.open
    assert descriptors() == before - 1


def test_a_released_part_that_was_changed_is_refused(tmp_path: Path) -> None:
    """Bytes that were proven are not published after somebody else wrote there."""
    part = part_with(tmp_path / "p", b"proven")
    part.release()
    (tmp_path / "p").write_bytes(b"forged")

    with pytest.raises(StorageError, match="removed, replaced or resized by another program"):
        part.check_named()


def test_a_released_part_that_was_swapped_is_refused(tmp_path: Path) -> None:
    """Another file under its name is not the part, whatever it holds."""
    part = part_with(tmp_path / "p", b"proven")
    part.release()
    (tmp_path / "q").write_bytes(b"proven")
    (tmp_path / "q").replace(tmp_path / "p")

    with pytest.raises(StorageError, match="removed, replaced or resized by another program"):
        part.check_named()


def test_a_released_part_that_got_a_second_name_is_refused(tmp_path: Path) -> None:
    """Who has the other name may write there after us."""
    part = part_with(tmp_path / "p", b"proven")
    part.release()
    os.link(tmp_path / "p", tmp_path / "q")

    with pytest.raises(StorageError, match="removed, replaced or resized by another program"):
        part.check_named()


def test_a_released_part_that_is_gone_is_an_error(tmp_path: Path) -> None:
    """Somebody cleaned up: there is nothing to publish."""
    part = part_with(tmp_path / "p", b"proven")
    part.release()
    (tmp_path / "p").unlink()

    with pytest.raises(StorageError, match="looking at"):
        part.check_named()


def test_an_open_part_passes_while_its_name_leads_to_it(tmp_path: Path) -> None:
    """Its bytes may change as they like: we are the ones who write them."""
    part = part_with(tmp_path / "p", b"1")

    part.check_named()
    part.write_at(b"more", 0)
    part.check_named()
    (tmp_path / "p").unlink()

    with pytest.raises(StorageError, match="removed, replaced or resized by another program"):
        part.check_named()
    part.close()


# -- removing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["open", "closed", "released"])
def test_a_removed_part_is_gone(tmp_path: Path, state: str) -> None:
    """Open or not; removing it again does nothing."""
    part = part_with(tmp_path / "p", b"worthless")
    if state == "closed":
        part.close()
    elif state == "released":
        part.release()

    part.remove()
    part.remove()
    part.close()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["replaced", "renamed away", "link"])
def test_a_part_that_lost_its_name_removes_nothing(tmp_path: Path, how: str) -> None:
    """What has the name by now may be another process's work."""
    part = part_with(tmp_path / "p", b"ours")
    (tmp_path / "p").rename(tmp_path / "q")
    if how == "replaced":
        (tmp_path / "p").write_bytes(b"theirs")
    elif how == "link":
        (tmp_path / "p").symlink_to("q")
    before = {path: Stamp.of(path.lstat()) for path in tmp_path.iterdir()}

    part.remove()
    part.close()

    assert {path: Stamp.of(path.lstat()) for path in tmp_path.iterdir()} == before


def test_a_failed_opening_leaves_no_descriptor(tiny_disk: Callable[..., Path]) -> None:
    """Errors do not use up the table of open files."""
    disk = tiny_disk(read_only=True)
    before = descriptors()

    with pytest.raises(StorageError):
        open_private(disk, "s", locks=True, token="t")
    with pytest.raises(StorageError):
        PartFile.create(disk / "p", 1)

    assert descriptors() == before
    assert osfile.nearest_existing(disk / "p") == disk
