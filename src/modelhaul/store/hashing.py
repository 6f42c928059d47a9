"""SHA-256 of files and of growing prefixes. Blocks; hashlib releases the interpreter lock."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from modelhaul.store import osfile
from modelhaul.store.osfile import Stamp, storage_errors
from modelhaul.store.sink import PartFile

#: Bytes read and hashed at a time: large enough that calls cost little, small enough that the copy
#: stays in a core's own cache: with 256 KiB or more, reading cached pages took three times as long.
STEP = 1 << 16


class Follower:
    """The SHA-256 of a part's contiguous prefix, extended as the prefix grows."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
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
        self._sha256.update(data)
        self.position += len(data)

    def hexdigest(self) -> str:
        """The digest of the first `position` bytes."""
        return self._sha256.hexdigest()


def hash_file(
    path: Path, *, check: Callable[[int], None] | None = None, sync: bool = False
) -> tuple[str, Stamp]:
    """SHA-256 of a file in hex, and the stamp of exactly the bytes that were read.

    Args:
        path: a regular file; a symbolic link is followed.
        check: called with each number of bytes read; may raise to stop.
        sync: make the bytes durable as well: what is remembered must survive a power cut.

    Raises:
        StorageError: it cannot be read, or it changed while it was.
    """
    with storage_errors(f"reading {path}"):
        fd = osfile.open_content(path)
        try:
            before = Stamp.of(os.fstat(fd))
            sha256 = hashlib.sha256()
            buffer = memoryview(bytearray(STEP))
            offset = 0
            while count := osfile.read_into(fd, buffer, offset):
                sha256.update(buffer[:count])
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
    return sha256.hexdigest(), before
