"""Digests of files and of growing prefixes. Blocks; hashlib releases the interpreter lock."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from modelhaul.core.digests import Digests
from modelhaul.core.repo import RemoteFile
from modelhaul.store import osfile
from modelhaul.store.gitnames import blob_hash
from modelhaul.store.osfile import Stamp, storage_errors
from modelhaul.store.sink import PartFile

#: Bytes read and hashed at a time: large enough that calls cost little, small enough that the copy
#: stays in a core's own cache: with 256 KiB or more, reading cached pages took three times as long.
STEP = 1 << 16


class ContentHash:
    """The digests of content that comes piece by piece: those that `file` is judged by.

    SHA-256 always, for reports and memory. As a git blob only what is named by that.

    Args:
        file: what the content should be, None if nobody says.
    """

    def __init__(self, file: RemoteFile | None = None) -> None:
        self._sha256 = hashlib.sha256()
        self._git = blob_hash(file.size or 0) if file is not None and file.named_by_git else None

    def update(self, data: bytes | memoryview) -> None:
        """Hash what comes next."""
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)

    def digests(self) -> Digests:
        """Of all that has come."""
        git = None if self._git is None else self._git.hexdigest()
        return Digests(self._sha256.hexdigest(), git)


class Follower:
    """The digests of a part's contiguous prefix, extended as the prefix grows.

    Args:
        file: what the part becomes, None if nobody says.
    """

    def __init__(self, file: RemoteFile | None = None) -> None:
        self._hash = ContentHash(file)
        self._buffer = memoryview(bytearray(STEP))
        #: Bytes hashed so far.
        self.position = 0

    def advance(self, part: PartFile, stop: int) -> None:
        """Hash the part's bytes up to `stop`; all of them have been written.

        Raises:
            StorageError: they cannot be read back.
        """
        while self.position < stop:
            view = self._buffer[: min(STEP, stop - self.position)]
            count = part.read_into(view, self.position)
            if count == 0:
                raise osfile.storage_error(
                    OSError(5, "the file is shorter than what was written"),
                    f"reading {part.path}",
                )
            self.feed(view[:count])

    def feed(self, data: memoryview) -> None:
        """Hash the bytes that come next, out of memory."""
        self._hash.update(data)
        self.position += len(data)

    def digests(self) -> Digests:
        """Of the first `position` bytes."""
        return self._hash.digests()


def hash_file(
    path: Path,
    file: RemoteFile | None = None,
    *,
    check: Callable[[int], None] | None = None,
    sync: bool = False,
    fresh: bool = False,
) -> tuple[Digests, Stamp]:
    """The digests of a file, and the stamp of exactly the bytes that were read.

    Args:
        path: a regular file; a symbolic link is followed.
        file: what it should be, None if nobody says.
        check: called with each number of bytes read; may raise to stop.
        sync: make the bytes durable as well: what is remembered must survive a power cut.
        fresh: from the disk, not from what the system has of it in memory.

    Raises:
        StorageError: it cannot be read, or it changed while it was.
    """
    with storage_errors(f"reading {path}"):
        fd = osfile.open_content(path)
        try:
            before = Stamp.of(os.fstat(fd))
            if fresh:
                osfile.forget_cached(fd)
            content = ContentHash(file)
            buffer = memoryview(bytearray(STEP))
            offset = 0
            while count := osfile.read_into(fd, buffer, offset):
                content.update(buffer[:count])
                offset += count
                if check is not None:
                    check(count)
                if offset > before.size:
                    break  # it grows; it might do so for ever
            if sync:
                osfile.sync_data(fd)
            if Stamp.of(os.fstat(fd)) != before:
                raise OSError(5, "it changed while it was being hashed")
        finally:
            os.close(fd)
    return content.digests(), before
