"""Where bytes go: one preallocated part file, positioned writes, a barrier, a rename. Blocks.

The durability words live here. `barrier()`: every write that had returned before the call is
durable when it returns. `publish()`: the bytes stand under the final name, durable, or the part is
as it was. Nothing is durable before its barrier, and a barrier that raised is never repeated.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from modelhaul.errors import Occupied, StorageError
from modelhaul.store import osfile
from modelhaul.store.osfile import Stamp, storage_errors


class PartFile:
    """A file that is being put together. Not thread-safe in `close` and `publish` only.

    The caller closes it after every thread call that uses it has returned: a descriptor number
    that is closed too early can be reused and would then write into another file.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        #: A barrier has failed: nothing written since the last good one counts any more.
        self.failed = False
        self._released: Stamp | None = None
        status = os.fstat(fd)
        self.inode = status.st_ino
        self._length = status.st_size  # by our own doing

    @classmethod
    def create(cls, path: Path, size: int | None, *, reserve: bool = False) -> PartFile:
        """Make an empty part, `size` bytes long and sparse; what had its name loses it.

        Never by emptying what is there: it may have another name, or another process in it.

        Args:
            path: the name of the part.
            size: bytes of the whole file, None if unknown.
            reserve: really allocate the blocks, so that a full disk shows now.

        Raises:
            StorageError: it cannot be made.
        """
        with storage_errors(f"making {path}"):
            osfile.remove_quietly(path)
            fd = osfile.make_file(path, exclusive=True)
            try:
                if size:
                    if reserve:
                        osfile.allocate(fd, 0, size, zeros=False)
                    os.ftruncate(fd, size)
            except BaseException:
                os.close(fd)
                osfile.remove_quietly(path)
                raise
        return cls(path, fd)

    @classmethod
    def reopen(cls, path: Path) -> PartFile | None:
        """Open a part that may exist; None if it does not, or if it has a second name.

        A file with two names (`cp -al`, a deduplicator) is not ours alone to write into.

        Raises:
            StorageError: something is there that cannot be opened.
        """
        try:
            with storage_errors(f"opening {path}"):
                fd = osfile.open_file(path, create=False)
                if os.fstat(fd).st_nlink == 1:
                    return cls(path, fd)
                os.close(fd)
                return None
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    @property
    def open(self) -> bool:
        """Whether it may still be used."""
        return self._fd >= 0

    @property
    def size(self) -> int:
        """Bytes the file is long now; says nothing about how many of them count."""
        return os.fstat(self._fd).st_size

    def stamp(self) -> Stamp:
        """What tells this state of the part from a later one."""
        with storage_errors(f"looking at {self.path}"):
            return Stamp.of(os.fstat(self._fd))

    def status(self) -> os.stat_result:
        """Owner, mode and device of a file that is made here."""
        with storage_errors(f"looking at {self.path}"):
            return os.fstat(self._fd)

    def resize(self, size: int) -> None:
        """Set the length; new bytes read as zeros and count for nothing."""
        with storage_errors(f"resizing {self.path}"):
            os.ftruncate(self._fd, size)
            self._length = size

    def write_at(self, data: memoryview | bytes, offset: int) -> None:
        """Write all of `data` at byte `offset`. Durable after the next barrier.

        Raises:
            DiskFull, StorageError: the write failed; what was written before it stays. Or somebody
                has cut the part: this write would hide that, and bytes that are gone were hashed.
        """
        with storage_errors(f"writing {self.path}"):
            if os.fstat(self._fd).st_size != self._length:
                raise self._touched()
            osfile.write_all(self._fd, data, offset)
            self._length = max(self._length, offset + len(data))

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from byte `offset`; returns how many bytes there were."""
        with storage_errors(f"reading {self.path}"):
            return osfile.read_into(self._fd, view, offset)

    def clone_from(self, fd: int) -> bool:
        """Share the blocks of an open file instead of copying them; False if that cannot be.

        The part has to be empty. What the other file becomes later does not show in it.
        """
        return osfile.clone(fd, self._fd)

    def barrier(self) -> None:
        """Make every write that has returned durable.

        Raises:
            StorageError: the disk failed. Everything since the last good barrier counts as lost,
                and every later barrier raises too.
        """
        if self.failed:
            raise StorageError(f"an earlier sync of {self.path} failed")
        try:
            with storage_errors(f"syncing {self.path}"):
                osfile.sync_data(self._fd)
        except BaseException:
            self.failed = True
            raise

    def publish(self, final: Path, *, replaces: Stamp | None) -> Stamp:
        """Barrier, rename to `final`, folder sync; returns the stamp of the published file.

        Args:
            final: the name; its folder exists.
            replaces: what stood there when the plan was made, None for nothing.

        Raises:
            Occupied: something else stands there by now; the part is untouched.
            StorageError: a sync or the rename failed, or the part has lost its name.
        """
        self.barrier()
        stamp = self.rename(final, replaces=replaces)
        with storage_errors(f"syncing {final.parent}"):
            osfile.sync_folder(final.parent)
        return stamp

    def rename(self, final: Path, *, replaces: Stamp | None) -> Stamp:
        """The middle of `publish()`, for those who sync many parts before and a folder after.

        Raises:
            Occupied, StorageError: as `publish()`.
        """
        with storage_errors(f"publishing {final}"):
            check_unchanged(final, replaces)
            self.check_named()
            if sys.platform == "win32":
                self.close()  # an open file cannot be renamed there
            os.replace(self.path, final)
            # Of what we wrote, not of whatever has the name by now.
            return Stamp.of(os.fstat(self._fd) if self.open else final.lstat())

    def check_named(self) -> None:
        """Refuse if the part's name does not lead to what was written, or not only its name does.

        Raises:
            StorageError: somebody removed, replaced, linked, cut or lengthened the part.
        """
        if self._released is not None:
            with storage_errors(f"looking at {self.path}"):
                same = Stamp.of(self.path.lstat()) == self._released
        else:
            status = os.fstat(self._fd)
            ours = (status.st_nlink, status.st_size) == (1, self._length)
            same = ours and osfile.is_named(self._fd, self.path)
        if not same:
            raise self._touched()

    def _touched(self) -> StorageError:
        return StorageError(
            f"{self.path} was removed, replaced or resized by another program while it was in use",
            hint="run the same command again",
        )

    def remove(self) -> None:
        """Remove the part, if its name still leads to it."""
        with storage_errors(f"removing {self.path}"):
            if self._fd < 0 or osfile.is_named(self._fd, self.path):
                osfile.remove_quietly(self.path)

    def release(self) -> None:
        """Close the descriptor after a barrier, and keep what is needed to publish later.

        Only for parts whose name is ours alone: the lock goes with the descriptor.
        """
        self._released = Stamp.of(os.fstat(self._fd))
        self.close()

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            osfile.close_written(fd)


def open_private(folder: Path, stem: str, *, locks: bool, token: str) -> PartFile:
    """An empty part that no other process touches, for a file that is fetched in one go.

    Where locks hold it has the plain name, so that the next run uses up what a killed one left;
    if somebody works under that name right now, and where locks may lie, the name is ours alone.

    Raises:
        StorageError: it cannot be made.
    """
    if locks:
        path = folder / f"{stem}.part"
        with storage_errors(f"making {path}"):
            fd = osfile.make_file(path)
            try:
                if osfile.try_lock(fd) and osfile.is_named(fd, path):
                    if os.fstat(fd).st_nlink == 1:
                        # Only under the lock: the bytes may be somebody's a moment before.
                        os.ftruncate(fd, 0)
                        return PartFile(path, fd)
                    osfile.remove_quietly(path)  # its other name keeps the bytes
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
    return PartFile.create(folder / f"{stem}.{token}.part", None)


def check_unchanged(final: Path, expected: Stamp | None) -> None:
    """Refuse if what stands at `final` is not what the plan saw there.

    Raises:
        Occupied: somebody put, changed or removed something meanwhile.
    """
    try:
        status = final.lstat()
    except FileNotFoundError:
        return  # gone is as good as never there: nothing can be lost
    if expected is None or Stamp.of(status) != expected:
        raise Occupied(
            f"{final} appeared or changed while it was being downloaded",
            hint="nothing was overwritten; look at it and run again",
        )
