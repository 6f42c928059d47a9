"""Files whose content is on this disk already: copied there, hashed on the way.

Between blobs of Hugging Face's caches a second name of the same file stands in for the copy, where
nobody could tell the two apart (`store/twins.py`). The order is then: hashed, synced, linked, the
folder synced, remembered.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import anyio

from modelhaul.core.digests import Digests
from modelhaul.engine.context import Context
from modelhaul.engine.task import Order, Task
from modelhaul.errors import HaulError, IntegrityError, Occupied
from modelhaul.events import FileProgress, Note
from modelhaul.store import osfile
from modelhaul.store.claim import COPY, part_name
from modelhaul.store.hashing import STEP, ContentHash
from modelhaul.store.index import Entry, Known
from modelhaul.store.osfile import storage_errors
from modelhaul.store.sink import PartFile, open_private
from modelhaul.store.twins import Twin, are_blobs


class Unusable(IntegrityError):
    """What was to be copied cannot be read, or holds other bytes by now."""


class CopyFile(Task):
    """One more place for content that is on this disk."""

    def __init__(self, order: Order, context: Context) -> None:
        super().__init__(order, None)
        self.context = context
        self._done = 0
        self._digests: Digests | None = None  # once it is copied

    @property
    def begun(self) -> bool:
        """Whether any of it has been copied."""
        return self._done > 0

    def progress(self) -> FileProgress:
        file = self.order.file
        return FileProgress(
            path=file.path, size=file.size, done=self._done, verified=self._done, rate=0.0
        )

    async def run(self, source: Path) -> None:
        """Copy from `source` and set `result`; if that has other bytes, have it fetched."""
        try:
            part = await self.context.threads.hash(self._copy, source)
            if part is not None:
                await self._bring(part)
        except HaulError as error:
            if isinstance(error, Unusable) and self.order.sources:
                self._done = 0
                self.context.emit(Note(message=f"{error.message}; it is fetched instead"))
                self.context.fetch_instead(self)
            else:
                self.fail(error)
            return
        self.tally.reused = self._done
        self.succeed("copied", size=self._done, digest=self._copied.sha256)

    async def _bring(self, part: PartFile) -> None:
        """Give a part that is proven and durable its final name."""
        threads, burst = self.context.threads, self.context.burst
        try:
            if burst is not None and self.order.copy_from is not None:
                # One of a file that the update itself brings comes after the burst anyway.
                burst.arrive()
                await burst.wait()
            try:
                await threads.sync(self._publish, part)
            except Occupied:
                # Another process that brings the same may have been faster.
                if not await self.context.recheck(self.order):
                    raise
        finally:
            with anyio.CancelScope(shield=True):
                await threads.write(_put_away, part)

    @property
    def _copied(self) -> Digests:
        assert self._digests is not None
        return self._digests

    def _copy(self, source: Path) -> PartFile | None:
        """In a thread: read, hash, write; then a barrier. Without the lock: it may wait long.

        Returns:
            The part; None if `source` has the final name as well now, so that nothing was written.
        """
        file, placement = self.order.file, self.order.placement
        placement.make_way()
        stem = part_name(file.identity or placement.relative, file.size or 0) + COPY
        token = f"{self.context.token}-{id(self):x}"
        locks = self.context.locks and self.context.burst is None
        part = open_private(placement.state, stem, locks=locks, token=token)
        try:
            with _usable(source):
                fd = osfile.open_content(source)
            try:
                if self._link(part, fd, source):
                    _put_away(part)
                    return None
                self._fill(part, fd, source)
            finally:
                os.close(fd)
            part.barrier()
            if self.context.burst is not None:
                part.release()
        except BaseException:
            # Whatever ended it: nobody else knows of this part yet.
            _put_away(part)
            raise
        return part

    def _link(self, part: PartFile, fd: int, source: Path) -> bool:
        """In a thread: have the very file that is hashed stand under the final name, too.

        Args:
            part: what would be copied to, and empty.
            fd, source: what lies here already.

        Returns:
            False if that may not or cannot be: then it has to be copied.
        """
        placement = self.order.placement
        if placement.replaces is not None or self.context.burst is not None:
            return False  # a link replaces nothing, and waits for nobody
        if not are_blobs(source, placement.final, placement.root):
            return False
        with _usable(source):
            twin = Twin(fd, source)
        if not twin.is_like(part.status()):
            return False
        self._read(source, partial(osfile.read_into, fd))
        placement.check_way()
        if not twin.link(placement.final):
            return False
        twin.remember(placement.final, self._copied, self.context.index)
        return True

    def _fill(self, part: PartFile, fd: int, source: Path) -> None:
        """In a thread: bring the bytes over, without writing them where blocks can be shared."""
        if part.clone_from(fd):
            # Hashed are those of the part: the other file may change meanwhile.
            self._read(source, part.read_into)
        else:
            self._read(source, partial(osfile.read_into, fd), part.write_at)

    def _read(
        self,
        source: Path,
        read: Callable[[memoryview, int], int],
        write: Callable[[memoryview, int], None] | None = None,
    ) -> None:
        """In a thread: hash all that `read` gives, and pass it on to `write`.

        Raises:
            Unusable: these are not the bytes that were promised.
        """
        file = self.order.file
        content = ContentHash(file)
        buffer = memoryview(bytearray(STEP))
        self._done = 0
        while True:
            with _usable(source):
                count = read(buffer, self._done)
            if not count:
                break
            content.update(buffer[:count])
            if write is not None:
                write(buffer[:count], self._done)
            self._done += count
            self.context.threads.check_cancelled()
        self._digests = content.digests()
        if not self._digests.matches(file):
            raise Unusable(
                f"{file.path}: {source}, which should hold the same bytes, has changed",
                hint="run again with --force to check every file",
            )

    def _publish(self, part: PartFile) -> None:
        """In a thread: rename and folder sync; then the memory learns of it."""
        placement = self.order.placement
        placement.check_way()
        stamp = part.rename(placement.final, replaces=placement.replaces)
        with storage_errors(f"syncing {placement.final.parent}"):
            osfile.sync_folder(placement.final.parent)
        known = Known.of(self._copied, ours=True)
        self.context.index.remember([Entry(placement.final, stamp, known)])


@contextlib.contextmanager
def _usable(source: Path) -> Iterator[None]:
    """What goes wrong inside is the fault of the file that is copied, not of the target."""
    try:
        yield
    except OSError as error:
        raise Unusable(f"{source} cannot be read ({error.strerror or error})") from error


def _put_away(part: PartFile) -> None:
    """In a thread: remove the part, if it has not been renamed, and close it."""
    try:
        part.remove()
    finally:
        part.close()
