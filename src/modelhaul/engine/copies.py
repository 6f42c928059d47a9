"""Files whose content is on this disk already: copied there, hashed on the way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import anyio

from modelhaul.core.digests import Digests
from modelhaul.engine.context import Context
from modelhaul.engine.task import Order, Task
from modelhaul.errors import HaulError, IntegrityError, Occupied, StorageError
from modelhaul.events import FileProgress, Note
from modelhaul.store import osfile, presence
from modelhaul.store.claim import COPY, part_name
from modelhaul.store.hashing import STEP, ContentHash
from modelhaul.store.index import Entry, Known
from modelhaul.store.osfile import storage_errors
from modelhaul.store.sink import PartFile, open_private


class Unusable(IntegrityError):
    """What was to be copied cannot be read, or holds other bytes by now."""


class CopyFile(Task):
    """One more place for content that is on this disk."""

    def __init__(self, order: Order, context: Context) -> None:
        super().__init__(order, None)
        self.context = context
        self._done = 0
        self._tried: list[Path] = []  # and of no use
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
        """Copy from `source` and set `result`.

        If that has other bytes, copy from another place, or have it fetched.
        """
        place: Path | None = source
        while place is not None:
            place = await self._try(place)

    async def _try(self, source: Path) -> Path | None:
        """Copy from one place; if that is of no use, gives another one to copy from."""
        threads, burst = self.context.threads, self.context.burst
        try:
            part = await threads.hash(self._copy, source)
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
        except Unusable as error:
            return await self._else(source, error)
        except HaulError as error:
            self.fail(error)
            return None
        self.tally.reused = self._done
        self.succeed("copied", size=self._done, digest=self._copied.sha256)
        return None

    async def _else(self, source: Path, error: Unusable) -> Path | None:
        """Another place to copy from, if there is one; else have it fetched, if that can be."""
        self._done = 0
        self._tried.append(source)
        place = await self.context.threads.write(self.order.copy_else, self._tried)
        if place is not None:
            self.context.emit(Note(message=f"{error.message}; {place} is copied instead"))
        elif self.order.sources:
            self.context.emit(Note(message=f"{error.message}; it is fetched instead"))
            self.context.fetch_instead(self)
        else:
            self.fail(error)
        return place

    @property
    def _copied(self) -> Digests:
        assert self._digests is not None
        return self._digests

    def _copy(self, source: Path) -> PartFile:
        """In a thread: read, hash, write; then a barrier. Without the lock: it may wait long."""
        file, placement = self.order.file, self.order.placement
        placement.make_way()
        stem = part_name(file.identity or placement.relative, file.size or 0) + COPY
        token = f"{self.context.token}-{id(self):x}"
        locks = self.context.locks and self.context.burst is None
        part = open_private(placement.state, stem, locks=locks, token=token)
        try:
            self._digests = self._fill(part, source)
            if not self._digests.matches(file):
                self._disprove(source)
                raise self._changed(source)
            part.barrier()
            if self.context.burst is not None:
                part.release()
        except BaseException:
            # Whatever ended it: nobody else knows of this part yet.
            _put_away(part)
            raise
        return part

    def _fill(self, part: PartFile, source: Path) -> Digests:
        """In a thread: bring the bytes over, without writing them where blocks can be shared."""
        content = ContentHash(self.order.file)
        buffer = memoryview(bytearray(STEP))
        with _usable(source):
            fd = osfile.open_content(source)
        try:
            size = os.fstat(fd).st_size
            if self.order.file.size not in (size, None):
                raise self._changed(source)
            shared = part.clone_from(fd)
            while True:
                # Of shared blocks those of the part: the other file may change meanwhile.
                with _usable(source):
                    count = (
                        part.read_into(buffer, self._done)
                        if shared
                        else osfile.read_into(fd, buffer, self._done)
                    )
                if not count or self._done > size:  # it grows; it might do so for ever
                    return content.digests()
                content.update(buffer[:count])
                if not shared:
                    part.write_at(buffer[:count], self._done)
                self._done += count
                self.context.threads.check_cancelled()
        finally:
            os.close(fd)

    def _changed(self, source: Path) -> Unusable:
        return Unusable(
            f"{self.order.file.path}: {source}, which should hold the same bytes, has changed",
            hint="run again with --force to check every file",
        )

    def _disprove(self, source: Path) -> None:
        """In a thread: have the memory know what `source` really holds, or each run would read it.

        That is one more reading, by the rules of the memory; it happens once.
        """
        check = self.context.threads.check_cancelled
        with contextlib.suppress(StorageError):  # then nothing is remembered
            presence.prove(source, self.order.file, self.context.index, check=lambda count: check())

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
