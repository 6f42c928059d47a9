"""What the operating system promises about files, and where platforms differ. Everything blocks.

Three promises the system does not make, which the rest of `store/` is built around:

* A write that returned is not durable; only a sync that returned without error makes it so.
* A sync that failed is not to be repeated: the kernel may have dropped the dirty pages and report
  success the second time (the "fsyncgate" of 2018). What it covered counts as lost.
* A new name is not durable until its folder is synced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelhaul.errors import DiskFull, HaulError, Occupied, StorageError, UnsafeName

try:
    import fcntl
except ImportError:  # Windows has no fcntl: no locks there, each process has its own part
    fcntl = None  # type: ignore[assignment]

_FULL = {errno.ENOSPC: "no space left", errno.EDQUOT: "disk quota used up"}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
_NO_ALLOCATE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}
_FICLONE = 0x40049409  # linux/fs.h; the fcntl module has it from Python 3.14 on
#: How often a folder is made anew for a file; one that goes more often is not to be had.
_REMOVALS = 16
#: What is about to be renamed to where it belongs (`put_in_place`); worth nothing to a later run.
DRAFT = ".draft"
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
#: Where the system shows the files that this process has open; None where it does not.
_OPEN_FILES = "/proc/self/fd" if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one state of a file from another without reading it."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )


def storage_error(error: OSError, doing: str) -> HaulError:
    """Our error for one of the system's; `doing` says what was tried, with the path."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return DiskFull(
            f"{_FULL[error.errno]}: {doing}",
            hint="make room and run the same command again: it continues where it stopped",
        )
    if error.errno == errno.EFBIG:
        return StorageError(
            f"file too large for this file system: {doing}",
            hint="FAT holds at most 4 GiB per file; choose another disk (or see ulimit -f)",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(f"{reason}: {doing}", hint="check who may write there")
    if error.errno == errno.ENAMETOOLONG:
        return UnsafeName(f"name too long for this file system: {doing}")
    return StorageError(f"{reason}: {doing}")


@contextlib.contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Map every `OSError` inside to one of ours, once, where it enters."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, doing) from error


def open_file(path: Path, *, create: bool, exclusive: bool = False, truncate: bool = False) -> int:
    """Open a plain file for reading and writing, never through a link; returns the descriptor."""
    flags = os.O_RDWR | _BINARY | getattr(os, "O_NOFOLLOW", 0)
    if create:
        flags |= os.O_CREAT
    if exclusive:
        flags |= os.O_EXCL
    if truncate:
        flags |= os.O_TRUNC
    return _plain(os.open(path, flags, 0o666))


def read_small(path: Path, most: int) -> bytes:
    """The first `most` bytes of a plain file, never through a link.

    Whoever may write beside it could put anything there: a FIFO would block for ever, and a file
    with a terabyte of holes does not fit into memory.
    """
    flags = os.O_RDONLY | _BINARY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    fd = _plain(os.open(path, flags))
    try:
        raw = bytearray(min(most, os.fstat(fd).st_size))
        got = read_into(fd, memoryview(raw), 0)
    finally:
        os.close(fd)
    return bytes(raw[:got])


def _plain(fd: int) -> int:
    """The descriptor, if it is one of a plain file."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a plain file")
    return fd


def open_content(path: Path) -> int:
    """Open a regular file, or a link to one, for reading; returns the descriptor.

    Anything else is an error: opening a pipe would wait for a writer, perhaps for ever.
    """
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return fd


def make_file(path: Path, *, exclusive: bool = False, truncate: bool = False) -> int:
    """`open_file(create=True)` in a state folder.

    Who finishes removes the folder if it is empty: perhaps just when another process has found
    it there and is about to make its first file in it. Several may finish one after the other.
    """
    for _ in range(_REMOVALS):
        with contextlib.suppress(FileNotFoundError):
            return open_file(path, create=True, exclusive=exclusive, truncate=truncate)
        make_folders(path.parent)
    return open_file(path, create=True, exclusive=exclusive, truncate=truncate)


def write_all(fd: int, data: memoryview | bytes, offset: int) -> None:
    """Write all of `data` at `offset`; a short write is continued."""
    view = memoryview(data)
    while view:
        written = _write_some(fd, view, offset)
        if not written:
            # No system should do that; but if one does, it may do so for ever.
            raise OSError(errno.EIO, "nothing was written")
        view = view[written:]
        offset += written


def read_into(fd: int, view: memoryview, offset: int) -> int:
    """Fill `view` from `offset`; returns the bytes read, fewer only at the end of the file."""
    done = 0
    while done < len(view):
        count = _read_some(fd, view[done:], offset + done)
        if count == 0:
            break
        done += count
    return done


if sys.platform == "win32":  # no positioned calls there: one seek at a time
    _seeking = threading.Lock()

    def _write_some(fd: int, view: memoryview, offset: int) -> int:
        with _seeking:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.write(fd, view)

    def _read_some(fd: int, view: memoryview, offset: int) -> int:
        with _seeking:
            os.lseek(fd, offset, os.SEEK_SET)
            data = os.read(fd, len(view))
        view[: len(data)] = data
        return len(data)

else:

    def _write_some(fd: int, view: memoryview, offset: int) -> int:
        return os.pwrite(fd, view, offset)

    def _read_some(fd: int, view: memoryview, offset: int) -> int:
        return os.preadv(fd, [view], offset)


def sync_data(fd: int) -> None:
    """Make the bytes and the size durable; times and modes may lag."""
    if sys.platform == "darwin" and fcntl is not None:
        # fsync on macOS does not empty the drive's cache; this does.
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def forget_cached(fd: int) -> None:
    """Have a file read from the disk from here on, as far as the system lets us.

    What it has in memory says nothing of the disk. It keeps what a process has mapped, and systems
    without the call keep all.
    """
    if hasattr(os, "posix_fadvise"):
        sync_data(fd)  # what is not written yet would stay in memory
        with contextlib.suppress(OSError):  # it is advice, and some file systems take none
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def close_written(fd: int) -> None:
    """Close a file that was written to.

    A network file system may report only now what it could not write. That is no news: either a
    sync has covered it, or nobody believes it before it was compared with its CRC.
    """
    try:
        os.close(fd)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise  # a mistake of ours


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable.

    File systems that cannot (some network and FUSE ones say so with EINVAL) are let off: there is
    nothing else to call.
    """
    if sys.platform == "win32":
        return  # folders cannot be opened there; NTFS logs names itself
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _BINARY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(fd)


def allocate(fd: int, start: int, size: int, *, zeros: bool) -> bool:
    """Reserve disk blocks for `[start, start + size)`, growing the file.

    Args:
        zeros: where the file system cannot reserve, write zeros instead (for small files).

    Returns:
        False if nothing could be reserved.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, start, size)
            return True
        except OSError as error:
            if error.errno not in _NO_ALLOCATE:
                raise
    if not zeros:
        return False
    write_all(fd, bytes(size), start)
    return True


def clone(source: int, target: int) -> bool:
    """Let an empty open file share the blocks of another one, copy-on-write.

    Returns:
        False if the file system cannot, or the two lie on different ones.
    """
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def link(fd: int, path: Path, name: Path) -> None:
    """Give the file that is open at `fd` one more name. Durable after `sync_folder`.

    It is that very file, whatever `path` leads to by now.

    Args:
        fd: the file, open for reading.
        path: the name that it was opened by, no link.
        name: the new name; its folder exists.

    Raises:
        OSError: the name is taken; the file system has no links, or none for this file; or `path`
            leads to another file and the system knows no other way to this one.
    """
    folder = os.open(name.parent, os.O_RDONLY | os.O_DIRECTORY | _BINARY)
    try:
        way = path if _OPEN_FILES is None else f"{_OPEN_FILES}/{fd}"
        # Relative to a folder, or Python would call link(), for which the way through /proc is a
        # link of that file system.
        os.link(way, name.name, dst_dir_fd=folder, follow_symlinks=_OPEN_FILES is not None)
    finally:
        os.close(folder)
    if is_named(fd, name):
        return
    # Somebody was faster at the new name, or the file is below a layer that has made a copy of it
    # (overlayfs): whoever looks at the name finds out what it is worth. Or at the old one.
    if _OPEN_FILES is None and os.path.samestat(path.lstat(), name.lstat()):
        remove_quietly(name)
    raise OSError(errno.ESTALE, f"{name} is not the file that is open")


def try_lock(fd: int) -> bool:
    """Take the exclusive lock of an open file; False if another process holds it.

    The lock belongs to the descriptor and ends with it, also when the process is killed.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_named(fd: int, path: Path) -> bool:
    """Whether `path` still leads to the open file: it may have been renamed or removed since."""
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), named)


def make_folders(path: Path) -> None:
    """Create `path` and what is missing above it; every new name is made durable."""
    missing = []
    at = path
    while not at.exists():
        missing.append(at)
        at = at.parent
    if not at.is_dir():
        raise Occupied(f"{at} is a file and should be a folder")
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        sync_folder(folder.parent)
    # Gone again is no error: another process may tidy up a folder that was empty (`make_file`).
    if os.path.lexists(path) and not path.is_dir():
        raise Occupied(f"{path} is not a folder")


def check_own_folder(path: Path) -> None:
    """Refuse a folder of our own state that is a link: what lies behind it is not ours.

    Raises:
        UnsafeName: it is one.
    """
    if path.is_symlink():
        raise UnsafeName(
            f"{path} is a symbolic link and should be a folder of our own",
            hint="remove the link: unfinished work has to be on the disk of the target",
        )


def check_parents(root: Path, relative: str) -> None:
    """Refuse a path whose folders below `root` are links or files.

    `root` itself may be a link: the user chose it. What lies below came from a server's names.

    Raises:
        UnsafeName: a folder on the way is a symbolic link.
        Occupied: a folder on the way is a file.
    """
    at = root
    for part in relative.split("/")[:-1]:
        at = at / part
        try:
            mode = at.lstat().st_mode
        except FileNotFoundError:
            return
        if stat.S_ISLNK(mode):
            raise UnsafeName(
                f"{relative}: the folder {at} is a symbolic link",
                hint="remove the link, or choose the folder it leads to as the target",
            )
        if not stat.S_ISDIR(mode):
            raise Occupied(f"{relative}: {at} is a file and should be a folder")


def nearest_existing(path: Path) -> Path:
    """`path`, or the closest folder above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def remove_quietly(path: Path) -> None:
    """Remove a file that may be gone already."""
    path.unlink(missing_ok=True)


def remove_unlocked(path: Path) -> None:
    """Remove a file that may be gone already, unless a process holds its lock.

    Under the lock: who opened the file a moment before is refused, or finds that it has no name.
    """
    try:
        fd = open_file(path, create=False)
    except FileNotFoundError:
        return
    try:
        if try_lock(fd) and is_named(fd, path):
            path.unlink()
    finally:
        os.close(fd)


def put_in_place(target: Path, make: Callable[[Path], None], *, state: Path) -> None:
    """Make a small file or a link in the state folder and rename it to `target`.

    Never beside the target: what a kill leaves there, the official tools would take for a file or
    a branch. What it leaves in the state folder the next run removes when it ends; so may one that
    ends while this one works, together with the folder: then it is made once more.

    Args:
        target: its name; the folder exists.
        make: makes it under the name that it is given, of which nobody else knows.
        state: the state folder, which need not exist.
    """
    numbers = f"{os.getpid():x}-{threading.get_ident():x}-{time.monotonic_ns():x}"
    draft = state / f"{numbers}{DRAFT}"
    for last in (False, False, True):
        try:
            make(draft)
            os.replace(draft, target)
            return
        except FileNotFoundError:
            remove_quietly(draft)
            if last:
                raise
            make_folders(state)
        except BaseException:
            # Whatever ended it, a cancel too: nobody else knows of the draft.
            remove_quietly(draft)
            raise


def folds_names(folder: Path) -> bool:
    """Whether the file system takes names that differ only in case or Unicode form for one.

    Asked of the folder itself, by two probes: a disk image may differ from its neighbours.
    """
    for name, other in (("probe-a", "PROBE-A"), ("probe-\u00e9", "probe-e\u0301")):
        tail = f"-{os.getpid()}-{time.monotonic_ns():x}"
        probe = folder / f".modelhaul-{name}{tail}"
        try:
            fd = open_file(probe, create=True, exclusive=True)
        except OSError:
            # A name it cannot even store cannot collide; the write itself will say what is wrong.
            continue
        os.close(fd)
        try:
            if (folder / f".modelhaul-{other}{tail}").exists():
                return True
        finally:
            remove_quietly(probe)
    return False


def takes_links(folder: Path) -> bool:
    """Whether symbolic links can be made in a folder; asked of itself, by a probe.

    Where nothing may be written the answer is yes: nobody will try.
    """
    probe = folder / f".modelhaul-probe-{os.getpid()}-{time.monotonic_ns():x}"
    try:
        os.symlink("nowhere", probe)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EROFS)
    remove_quietly(probe)
    return True


def resolved(path: Path) -> tuple[Path, Path]:
    """A path of the user's as they would write it, absolute; and with its links resolved.

    Raises:
        StorageError: it leads in circles, or names a home that does not exist.
    """
    try:
        shown = Path(os.path.abspath(path.expanduser()))
        real = shown.resolve()
        # Python 3.13 gives up on a circle without a word, at the link that closes it.
        if any(at.is_symlink() for at in (real, *real.parents)):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return shown, real
    except (OSError, RuntimeError) as error:
        raise StorageError(f"{path} cannot be used as a path: {error}") from None
