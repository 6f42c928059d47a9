"""`store.osfile`: what we lean on the operating system for, asked of the real one."""

from __future__ import annotations

import errno
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.errors import DiskFull, Occupied, StorageError, UnsafeName
from modelhaul.store import osfile
from modelhaul.store.osfile import Stamp, storage_error, storage_errors
from tests.faults.faultydisk import Failing, FaultyDisk
from tests.store.helpers import run_python, second_process, trace

LOCKER = """
from modelhaul.store import osfile
fd = osfile.open_file(Path(sys.argv[1]), create=True)
assert osfile.try_lock(fd)
pause()
"""


# -- reading and writing -------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=80)), max_size=12))
def test_writes_land_at_their_offsets_and_nowhere_else(writes: list[tuple[int, bytes]]) -> None:
    """A file written by `write_all` reads like memory that was assigned to."""
    expected = bytearray(400)

    with tempfile.TemporaryFile() as file:
        file.truncate(400)
        for offset, data in writes:
            osfile.write_all(file.fileno(), data, offset)
            expected[offset : offset + len(data)] = data
        read = bytearray(500)
        count = osfile.read_into(file.fileno(), memoryview(read), 0)

    assert count == 400
    assert read[:400] == expected


def test_a_read_across_the_end_returns_what_there_is(tmp_path: Path) -> None:
    """Fewer bytes than asked for mean the end of the file, and nothing is made up."""
    (tmp_path / "f").write_bytes(b"0123456789")
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    buffer = memoryview(bytearray(b"........"))

    try:
        inside = osfile.read_into(fd, buffer[:4], 3)
        across = osfile.read_into(fd, buffer[4:], 8)
        behind = osfile.read_into(fd, buffer, 10)
    finally:
        os.close(fd)

    assert (inside, across, behind) == (4, 2, 0)
    assert bytes(buffer) == b"345689.."


def test_a_short_write_is_continued_until_the_system_says_why(tmp_path: Path) -> None:
    """At a size limit the first write is short and the second one fails: both are seen."""
    code = """
    import resource
    from modelhaul.store import osfile
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
    fd = osfile.open_file(Path(sys.argv[1]), create=True)
    try:
        with osfile.storage_errors("writing"):
            osfile.write_all(fd, b"x" * 100, 0)
    except Exception as error:
        print(type(error).__name__, error)
    """

    printed = run_python(code, tmp_path / "f")

    assert printed == "StorageError file too large for this file system: writing\n"
    assert (tmp_path / "f").read_bytes() == b"x" * 50


def test_open_never_follows_a_link(tmp_path: Path) -> None:
    """A planted link cannot make us write somewhere else."""
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("victim")

    with pytest.raises(OSError, match="symbolic links") as caught:
        osfile.open_file(tmp_path / "link", create=True, truncate=True)

    assert caught.value.errno == errno.ELOOP
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_open_creates_only_when_told(tmp_path: Path) -> None:
    """Without `create` a missing file is an error, and stays missing."""
    with pytest.raises(FileNotFoundError):
        osfile.open_file(tmp_path / "f", create=False)

    assert not (tmp_path / "f").exists()


def test_an_exclusive_open_refuses_what_is_there(tmp_path: Path) -> None:
    """`exclusive` never opens a file that somebody else made."""
    (tmp_path / "f").write_bytes(b"theirs")

    with pytest.raises(FileExistsError):
        osfile.open_file(tmp_path / "f", create=True, exclusive=True)

    assert (tmp_path / "f").read_bytes() == b"theirs"


def test_a_failed_sync_is_an_error() -> None:
    """What cannot be made durable is never reported as durable."""
    reader, writer = os.pipe()

    try:
        with pytest.raises(OSError, match="Invalid argument"):
            osfile.sync_data(writer)
    finally:
        os.close(reader)
        os.close(writer)


# -- allocation ----------------------------------------------------------------------------------


def test_allocation_takes_blocks_and_keeps_bytes(tmp_path: Path) -> None:
    """Reserved space is on the disk before anything is written there."""
    fd = osfile.open_file(tmp_path / "f", create=True)

    try:
        osfile.write_all(fd, b"kept", 0)
        reserved = osfile.allocate(fd, 0, 1 << 20, zeros=False)
        status = os.fstat(fd)
    finally:
        os.close(fd)

    assert reserved
    assert status.st_size == 1 << 20
    assert status.st_blocks * 512 >= 1 << 20
    assert (tmp_path / "f").read_bytes()[:5] == b"kept\0"


def test_allocation_says_that_the_disk_is_full(tiny_disk: Callable[..., Path]) -> None:
    """A full disk shows when space is reserved, not when it is used."""
    fd = osfile.open_file(tiny_disk(kib=64) / "f", create=True)

    try:
        with pytest.raises(OSError, match="No space") as caught:
            osfile.allocate(fd, 0, 1 << 20, zeros=True)
    finally:
        os.close(fd)

    assert caught.value.errno == errno.ENOSPC


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "kind", "words", "hint"),
    [
        (errno.ENOSPC, DiskFull, "no space left", "make room"),
        (errno.EDQUOT, DiskFull, "quota used up", "make room"),
        (errno.EFBIG, StorageError, "too large", "FAT"),
        (errno.EACCES, StorageError, "Permission denied", "who may write"),
        (errno.EPERM, StorageError, "not permitted", "who may write"),
        (errno.EROFS, StorageError, "Read-only", "who may write"),
        (errno.ENAMETOOLONG, UnsafeName, "name too long", None),
        (errno.EIO, StorageError, "Input/output error", None),
    ],
)
def test_each_system_error_has_its_own_words(
    number: int, kind: type[StorageError], words: str, hint: str | None
) -> None:
    """The class says what kind of trouble it is, the message which file, the hint what to do."""
    error = storage_error(OSError(number, os.strerror(number)), "writing /data/model.bin")

    assert type(error) is kind
    assert words in error.message
    assert "writing /data/model.bin" in error.message
    assert error.hint is None if hint is None else hint in str(error.hint)


def test_a_full_disk_is_recognised(tiny_disk: Callable[..., Path]) -> None:
    """The error of a really full disk is `DiskFull`, with the system's error as its cause."""
    fd = osfile.open_file(tiny_disk(kib=64) / "f", create=True)

    try:
        with pytest.raises(DiskFull) as caught, storage_errors("writing f"):
            osfile.write_all(fd, bytes(1 << 20), 0)
    finally:
        os.close(fd)

    assert isinstance(caught.value.__cause__, OSError)


def test_a_read_only_disk_is_recognised(tiny_disk: Callable[..., Path]) -> None:
    """On a disk that cannot be written the hint points at permissions."""
    disk = tiny_disk(read_only=True)

    with pytest.raises(StorageError, match="Read-only") as caught, storage_errors("making f"):
        osfile.open_file(disk / "f", create=True)

    assert caught.value.hint == "check who may write there"


def test_a_name_that_the_disk_cannot_hold_is_unsafe(tmp_path: Path) -> None:
    """A name that is too long is the server's fault, and is refused like other bad names."""
    with pytest.raises(UnsafeName), storage_errors("making it"):
        osfile.open_file(tmp_path / ("n" * 256), create=True)


def test_our_own_errors_pass_unchanged() -> None:
    """An error that is one of ours already is not wrapped again."""
    with pytest.raises(Occupied, match=r"^as it was$"), storage_errors("doing something"):
        raise Occupied("as it was")


# -- folders -------------------------------------------------------------------------------------


def test_folders_are_made_with_all_above_them(tmp_path: Path) -> None:
    """Missing folders above are made too; a second call finds them and changes nothing."""
    osfile.make_folders(tmp_path / "a" / "b" / "c")
    (tmp_path / "a" / "b" / "c" / "f").write_bytes(b"1")
    osfile.make_folders(tmp_path / "a" / "b" / "c")

    assert (tmp_path / "a" / "b" / "c" / "f").read_bytes() == b"1"


def test_each_new_folder_is_durable_before_the_next(tmp_path: Path, needs_strace: None) -> None:
    """A folder's name is synced in the folder above it as soon as it is made."""
    (tmp_path / "x").mkdir()
    code = """
    from modelhaul.store import osfile
    osfile.make_folders(Path(sys.argv[1]) / "a" / "b")
    """

    traced = trace(code, tmp_path / "x", calls="mkdir,mkdirat,fsync")

    assert traced.steps == ["mkdir a", "fsync x", "mkdir b", "fsync a"]


def test_a_file_where_a_folder_should_be_is_refused(tmp_path: Path) -> None:
    """What stands in the way is left alone."""
    (tmp_path / "f").write_bytes(b"theirs")

    with pytest.raises(Occupied, match="is a file and should be a folder") as caught:
        osfile.make_folders(tmp_path / "f")

    assert str(tmp_path / "f") in caught.value.message
    assert (tmp_path / "f").read_bytes() == b"theirs"


@pytest.mark.parametrize("below", ["x", "x/y/z"])
def test_a_file_in_the_middle_of_a_path_is_refused(tmp_path: Path, below: str) -> None:
    """The file that stands in the way is named, not what was to be made below it."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_bytes(b"theirs")

    with pytest.raises(Occupied, match="is a file and should be a folder") as caught:
        osfile.make_folders(tmp_path / "a" / "f" / below)

    assert caught.value.message.startswith(f"{tmp_path / 'a' / 'f'} ")
    assert (tmp_path / "a" / "f").read_bytes() == b"theirs"


def test_a_link_to_nowhere_is_no_folder(tmp_path: Path) -> None:
    """A dangling link is refused, and its target is not made."""
    (tmp_path / "link").symlink_to("nowhere")

    with pytest.raises(Occupied):
        osfile.make_folders(tmp_path / "link")

    assert not (tmp_path / "nowhere").exists()


def test_a_link_to_a_folder_serves_as_one(tmp_path: Path) -> None:
    """The user may have linked the target folder to another disk."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    osfile.make_folders(tmp_path / "link" / "sub")

    assert (tmp_path / "real" / "sub").is_dir()


def test_parents_that_are_folders_or_missing_are_fine(tmp_path: Path) -> None:
    """What is there and a folder passes, and so does what is still to be made."""
    (tmp_path / "a").mkdir()

    osfile.check_parents(tmp_path, "a/f")
    osfile.check_parents(tmp_path, "a/b/c/f")
    osfile.check_parents(tmp_path, "f")

    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.mark.parametrize("relative", ["a/link/f", "a/link/deeper/f"])
def test_a_linked_folder_below_the_root_is_refused(tmp_path: Path, relative: str) -> None:
    """A link below the target could lead anywhere: nothing is written through it."""
    (tmp_path / "a").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(UnsafeName, match="symbolic link"):
        osfile.check_parents(tmp_path, relative)


def test_a_dangling_link_below_the_root_is_refused(tmp_path: Path) -> None:
    """A link is refused for being one, wherever it leads."""
    (tmp_path / "link").symlink_to("nowhere")

    with pytest.raises(UnsafeName):
        osfile.check_parents(tmp_path, "link/f")


def test_a_file_as_a_parent_is_refused(tmp_path: Path) -> None:
    """A file cannot hold files, and it is not removed to make a folder."""
    (tmp_path / "a").write_bytes(b"theirs")

    with pytest.raises(Occupied, match="should be a folder"):
        osfile.check_parents(tmp_path, "a/f")


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    """The user chose the root; what is checked came from a server's names."""
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "root").symlink_to("real")

    osfile.check_parents(tmp_path / "root", "sub/f")

    with pytest.raises(UnsafeName):
        osfile.check_parents(tmp_path, "root/sub/f")


def test_the_last_part_of_a_path_is_not_a_parent(tmp_path: Path) -> None:
    """What stands at the final name itself is judged elsewhere."""
    (tmp_path / "link").symlink_to("nowhere")

    osfile.check_parents(tmp_path, "link")


def test_nearest_existing_climbs_to_what_is_there(tmp_path: Path) -> None:
    """The answer is the path itself or the closest folder above it."""
    assert osfile.nearest_existing(tmp_path) == tmp_path
    assert osfile.nearest_existing(tmp_path / "a" / "b") == tmp_path
    assert osfile.nearest_existing(Path("/no/such/thing")) == Path("/")


def test_removing_what_is_gone_is_fine(tmp_path: Path) -> None:
    """Two processes may tidy up the same file."""
    (tmp_path / "f").touch()

    osfile.remove_quietly(tmp_path / "f")
    osfile.remove_quietly(tmp_path / "f")

    assert not (tmp_path / "f").exists()


def test_linux_file_systems_do_not_fold_names(tmp_path: Path) -> None:
    """Two names that differ in case are two files here, and the probes are gone again."""
    folds = osfile.folds_names(tmp_path)

    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "A").write_bytes(b"2")
    assert folds is ((tmp_path / "a").read_bytes() == b"2")
    assert folds is False
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A", "a"]


def test_probes_touch_no_file_of_the_user(tmp_path: Path) -> None:
    """Whatever lies in the folder, under names like ours too, is as it was afterwards."""
    for name in ("probe-a", "PROBE-A", "probe-\u00e9", "probe-e\u0301"):
        for tail in ("", f"-{os.getpid()}"):
            (tmp_path / f".{name}{tail}").write_bytes(b"precious")
            (tmp_path / f".modelhaul-{name}{tail}").write_bytes(b"precious")
    before = {path: Stamp.of(path.lstat()) for path in tmp_path.iterdir()}

    osfile.folds_names(tmp_path)

    assert {path: Stamp.of(path.lstat()) for path in tmp_path.iterdir()} == before
    assert {path.read_bytes() for path in before} == {b"precious"}


def test_a_folder_that_cannot_be_probed_folds_nothing(tiny_disk: Callable[..., Path]) -> None:
    """Where no name can be stored none can collide; the write itself will say what is wrong."""
    assert osfile.folds_names(tiny_disk(read_only=True)) is False


# -- the user's paths ----------------------------------------------------------------------------


def test_a_path_is_shown_as_given_and_used_without_its_links(tmp_path: Path) -> None:
    """Absolute and without dots for people, with links resolved for us; it need not exist."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    shown, real = osfile.resolved(tmp_path / "link" / "x" / ".." / "new" / "m")

    assert shown == tmp_path / "link" / "new" / "m"
    assert real == tmp_path / "real" / "new" / "m"


def test_a_relative_path_becomes_absolute() -> None:
    """What is shown can be used from any folder."""
    shown, real = osfile.resolved(Path("some/model"))

    assert shown == Path.cwd() / "some" / "model"
    assert real == Path.cwd().resolve() / "some" / "model"


@pytest.mark.parametrize("bad", ["loop", "loop/m", "~nosuchuser/m"])
def test_a_path_that_leads_nowhere_is_an_error_that_names_it(tmp_path: Path, bad: str) -> None:
    """Links in a circle, a home that nobody has: said in our words, not by a traceback."""
    (tmp_path / "loop").symlink_to("loop")
    path = Path(bad) if bad.startswith("~") else tmp_path / bad

    with pytest.raises(StorageError, match="cannot be used as a path") as caught:
        osfile.resolved(path)

    assert caught.value.message.startswith(str(path))


# -- names and locks -----------------------------------------------------------------------------


def test_a_stamp_tells_states_of_a_file_apart(tmp_path: Path) -> None:
    """Equal stamps for an untouched file; another one after a write or a change of times."""
    path = tmp_path / "f"
    path.write_bytes(b"1")
    first = Stamp.of(path.stat())

    again = Stamp.of(path.stat())
    os.utime(path, ns=(1, 1))
    touched = Stamp.of(path.stat())
    path.write_bytes(b"12")
    written = Stamp.of(path.stat())

    assert again == first
    assert len({first, touched, written}) == 3


def test_an_open_file_is_named_until_it_is_moved(tmp_path: Path) -> None:
    """`is_named` follows renames, removals and replacements."""
    path = tmp_path / "f"
    fd = osfile.open_file(path, create=True)

    try:
        at_first = osfile.is_named(fd, path)
        path.rename(tmp_path / "g")
        after_rename = osfile.is_named(fd, path)
        under_new_name = osfile.is_named(fd, tmp_path / "g")
        path.write_bytes(b"another file")
        replaced = osfile.is_named(fd, path)
        path.unlink()
        path.symlink_to("g")
        through_a_link = osfile.is_named(fd, path)
    finally:
        os.close(fd)

    assert (at_first, under_new_name) == (True, True)
    assert (after_rename, replaced, through_a_link) == (False, False, False)


def test_a_lock_excludes_another_process_until_it_is_killed(tmp_path: Path) -> None:
    """A lock that a process holds is refused to us, and free as soon as SIGKILL has ended it."""
    fd = osfile.open_file(tmp_path / "f", create=True)

    try:
        with second_process(LOCKER, tmp_path / "f") as other:
            other.line()
            while_held = osfile.try_lock(fd)
            other.kill()
            after_kill = osfile.try_lock(fd)
    finally:
        os.close(fd)

    assert (while_held, after_kill) == (False, True)


def test_a_file_is_made_in_a_folder_that_another_process_has_just_removed(tmp_path: Path) -> None:
    """Who finishes removes the empty state folder, whoever is about to begin in it."""
    os.close(osfile.make_file(tmp_path / "state" / "f"))
    os.close(osfile.make_file(tmp_path / "state" / "f"))

    assert (tmp_path / "state" / "f").exists()
    with pytest.raises(FileExistsError):
        osfile.make_file(tmp_path / "state" / "f", exclusive=True)


def test_a_folder_may_be_removed_more_than_once_before_a_file_is_made_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes finish one after the other; but it is not tried for ever."""
    disk = FaultyDisk(Failing("open", "f", errno.ENOENT, times=4)).install(monkeypatch)

    os.close(osfile.make_file(tmp_path / "state" / "f"))

    assert (tmp_path / "state" / "f").exists()
    disk.failing = [Failing("open", "f", errno.ENOENT)]
    with pytest.raises(FileNotFoundError):
        osfile.make_file(tmp_path / "state" / "f")


def test_only_what_nobody_has_locked_is_removed(tmp_path: Path) -> None:
    """A file in use stays; what a killed process had locked goes; what is gone is no error."""
    with second_process(LOCKER, tmp_path / "f") as other:
        other.line()
        osfile.remove_unlocked(tmp_path / "f")
        while_held = (tmp_path / "f").exists()
        other.kill()
    osfile.remove_unlocked(tmp_path / "f")
    osfile.remove_unlocked(tmp_path / "f")

    assert while_held
    assert not (tmp_path / "f").exists()


def test_a_lock_belongs_to_the_descriptor(tmp_path: Path) -> None:
    """Two claims in one process exclude each other too; closing gives the lock up."""
    one = osfile.open_file(tmp_path / "f", create=True)
    two = osfile.open_file(tmp_path / "f", create=True)

    try:
        taken = osfile.try_lock(one)
        again = osfile.try_lock(one)
        by_another = osfile.try_lock(two)
        os.close(one)
        after_close = osfile.try_lock(two)
    finally:
        os.close(two)

    assert (taken, again, by_another, after_close) == (True, True, False, True)


def test_a_program_that_we_start_does_not_inherit_the_lock(tmp_path: Path) -> None:
    """A child that outlives us must not keep our files locked."""
    mine = osfile.open_file(tmp_path / "f", create=True)
    other = osfile.open_file(tmp_path / "f", create=True)

    try:
        assert osfile.try_lock(mine)
        with second_process("pause()") as child:
            child.line()
            os.close(mine)
            free = osfile.try_lock(other)
    finally:
        os.close(other)

    assert free


def test_a_folder_can_be_synced_and_a_missing_one_cannot(tmp_path: Path) -> None:
    """Only file systems that cannot sync folders are let off, not missing folders."""
    osfile.sync_folder(tmp_path)

    with pytest.raises(FileNotFoundError):
        osfile.sync_folder(tmp_path / "missing")


def test_bytes_survive_any_split_into_writes(tmp_path: Path) -> None:
    """Writing in pieces and in any order gives the same file."""
    data = random.Random(5).randbytes(10_000)
    cuts = sorted(random.Random(6).sample(range(10_000), 20))
    pieces = list(zip([0, *cuts], [*cuts, 10_000], strict=True))
    random.Random(7).shuffle(pieces)
    fd = osfile.open_file(tmp_path / "f", create=True)

    try:
        for start, stop in pieces:
            osfile.write_all(fd, memoryview(data)[start:stop], start)
    finally:
        os.close(fd)

    assert (tmp_path / "f").read_bytes() == data


def test_a_folder_says_whether_it_takes_links(tmp_path: Path) -> None:
    """By a probe that is gone afterwards."""
    assert osfile.takes_links(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="/sys is Linux's")
def test_a_file_system_without_links_is_known_by_its_refusal() -> None:
    """`/sys` has none; who may not write there anyway will not try."""
    assert osfile.takes_links(Path("/sys")) == (os.geteuid() != 0)


# -- a second name -------------------------------------------------------------------------------


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[int]:
    """The file `a`, open."""
    (tmp_path / "a").write_bytes(b"first")
    fd = os.open(tmp_path / "a", os.O_RDONLY)
    yield fd
    os.close(fd)


#: By the descriptor where the system knows that way, and by the name where it does not.
WAYS = [
    pytest.param(
        "/proc/self/fd", marks=pytest.mark.skipif(sys.platform != "linux", reason="/proc")
    ),
    None,
]


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_is_open_gets_a_second_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: int, way: str | None
) -> None:
    """In any folder of the file system; a name that is taken stays what it is."""
    monkeypatch.setattr(osfile, "_OPEN_FILES", way)
    (tmp_path / "sub").mkdir()
    (tmp_path / "taken").write_bytes(b"theirs")

    osfile.link(opened, tmp_path / "a", tmp_path / "sub" / "b")
    with pytest.raises(FileExistsError):
        osfile.link(opened, tmp_path / "a", tmp_path / "taken")

    assert (tmp_path / "sub" / "b").samefile(tmp_path / "a")
    assert (tmp_path / "taken").read_bytes() == b"theirs"


@pytest.mark.parametrize("way", WAYS)
def test_no_other_file_gets_the_second_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: int, way: str | None
) -> None:
    """Another one has the first name by now: it is that which is open, or none."""
    monkeypatch.setattr(osfile, "_OPEN_FILES", way)
    (tmp_path / "a").rename(tmp_path / "moved")
    (tmp_path / "a").write_bytes(b"other")

    if way is None:
        with pytest.raises(OSError, match="is not the file that is open"):
            osfile.link(opened, tmp_path / "a", tmp_path / "b")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "moved"]
    else:
        osfile.link(opened, tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "b").samefile(tmp_path / "moved")
    assert (tmp_path / "a").read_bytes() == b"other"
    assert (tmp_path / "a").stat().st_nlink == 1
