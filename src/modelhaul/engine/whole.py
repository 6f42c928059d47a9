"""Files that are fetched by one request: small ones, and those whose size nobody knows.

They have no journal. Each is hashed while it is written to a part; then a batch of them is made
durable at once: every part synced, only then every part renamed, then one sync per folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio

from modelhaul.core.digests import Digests
from modelhaul.core.scheduler import Job, Lease
from modelhaul.core.sources import SourceState
from modelhaul.engine.buffers import Block
from modelhaul.engine.burst import Burst
from modelhaul.engine.context import Context
from modelhaul.engine.task import LeaseReceiver, Order, Task
from modelhaul.engine.threads import SYNCERS
from modelhaul.errors import (
    ConnectionLost,
    HaulError,
    IntegrityError,
    Occupied,
    ProtocolError,
    StorageError,
    single_error,
)
from modelhaul.events import FileProgress
from modelhaul.net.transport import Answer
from modelhaul.store import osfile
from modelhaul.store.claim import WHOLE, part_name
from modelhaul.store.hashing import ContentHash, hash_file
from modelhaul.store.index import Entry, Known
from modelhaul.store.osfile import Stamp, storage_errors
from modelhaul.store.sink import PartFile, open_private

BATCH_FILES = 256
BATCH_BYTES = 64 << 20
BATCH_SECONDS = 1.0
#: What an unknown size counts as: larger than any file.
UNBOUNDED = 1 << 62


class WholeReceiver(LeaseReceiver):
    """Passes a body on to its file, one block at a time."""

    def __init__(self, file: WholeFile, lease: Lease) -> None:
        self._file = file
        self._lease = lease
        self._block: Block | None = None
        self._fill = 0

    def started(self, answer: Answer) -> None:
        """Nothing to do: what the body must be is known from the listing, or not at all."""

    def wanted(self) -> int:
        return 0 if self._lease.revoked else self._lease.remaining

    async def wait_buffer(self) -> memoryview:
        context = self._file.context
        with context.held(self._lease):
            await context.wait_throttle()
            if self._block is None:
                self._block = await context.pool.take(self._block_size())
            elif self._fill == self._block.size:
                await self._file.store(self._block.view)
                self._fill = 0
        return self._room(self._block)

    def buffer_nowait(self) -> memoryview | None:
        context = self._file.context
        if context.throttled():
            return None
        if self._block is None:
            self._block = context.pool.take_nowait(self._block_size())
        if self._block is None or self._fill == self._block.size:
            return None
        return self._room(self._block)

    def when_buffer(self, call: Callable[[], None]) -> bool:
        return False  # what fills the block has to be written first

    def _block_size(self) -> int:
        context = self._file.context
        return context.pool.block_size(self._lease.remaining, context.lanes.capacity())

    def _room(self, block: Block) -> memoryview:
        room = min(block.size - self._fill, self.wanted())
        return block.view[self._fill : self._fill + room]

    def commit(self, count: int) -> None:
        self._fill += count
        self._file.received(self._lease, count)

    def passed(self, count: int) -> None:
        self._file.context.heard(self._lease)

    async def finish(self, answer: Answer) -> None:
        size = self._file.order.file.size
        if size is not None and self._lease.remaining:
            # The body ended where it said it would, and that is not where the file ends.
            raise ConnectionLost(
                f"{self._file.order.file.path}: {self._lease.position} bytes came of {size}"
            )
        if self._lease.stop == UNBOUNDED:
            if not answer.framed and self._file.order.file.content is None:
                raise ProtocolError(
                    f"{self._file.order.file.path}: the server states no length, so nobody can"
                    " tell whether the whole file arrived",
                    hint="give its --sha256",
                )
            self._lease.stop = self._lease.position
        if self._block is not None and self._fill:
            await self._file.store(self._block.view[: self._fill])
        await self._file.complete(self._lease)

    def close(self) -> None:
        block, self._block = self._block, None
        if block is not None:
            self._file.context.pool.give(block)


class WholeFile(Task):
    """A file that is fetched by one request and begins again if that fails."""

    def __init__(self, order: Order, job: Job, context: Context, batch: Batch) -> None:
        super().__init__(order, job)
        self.context = context
        self._batch = batch
        self._part: PartFile | None = None
        self._hash = ContentHash(order.file)
        self._written = 0
        self._wrong: list[str] = []  # the source of each answer with wrong bytes

    def receiver(self, lease: Lease) -> LeaseReceiver:
        self._hash = ContentHash(self.order.file)
        self._written = 0
        return WholeReceiver(self, lease)

    def received(self, lease: Lease, count: int) -> None:
        """`count` bytes arrived."""
        self.tally.fetched += count
        self.tally.last_byte = self.context.received(lease, count)

    def progress(self) -> FileProgress:
        job = self.job
        rate = sum(lease.rate for lease in job.leases) if job is not None else 0.0
        return FileProgress(
            path=self.order.file.path,
            size=self.order.file.size,
            done=self._written,
            verified=self._written,
            rate=rate,
        )

    async def store(self, data: memoryview) -> None:
        """Write and hash the next bytes; they belong to the caller again afterwards."""
        await self.context.threads.write(self._store, data)

    def _store(self, data: memoryview) -> None:
        if self._written == 0:
            self._restart()
        assert self._part is not None
        self._part.write_at(data, self._written)
        self._hash.update(data)
        self._written += len(data)

    def _restart(self) -> None:
        """In a thread: an empty part, with the folders it needs."""
        if self._part is not None:
            self._part.resize(0)
            return
        file, placement = self.order.file, self.order.placement
        placement.make_way()
        stem = part_name(file.identity or f"path:{placement.relative}", file.size or 0) + WHOLE
        # A part that is closed before it is published has no lock to protect it.
        locks = self.context.locks and self.context.burst is None
        token = f"{self.context.token}-{id(self):x}"
        self._part = open_private(placement.state, stem, locks=locks, token=token)

    async def complete(self, lease: Lease | None = None) -> None:
        """All bytes are written: check the digest and hand over to the batch.

        Args:
            lease: what brought them; None for a file without any.

        Raises:
            IntegrityError: it was wrong once more.
        """
        if self._written == 0:
            await self.context.threads.write(self._restart)
        file, digests = self.order.file, self._hash.digests()
        if not digests.admits(file):
            if lease is None or not self._fetch_again(lease):
                times = len(self._wrong)
                origins = f" (fetched {times} times, from {', '.join(self.origins)})"
                raise IntegrityError(
                    f"{file.path}: {digests.difference(file)}{origins if times else ''}",
                    hint="source and listing disagree; nothing was left under its name",
                )
            return
        self.tally.proven = anyio.current_time()
        if lease is not None:
            self._judge_sources(lease.source)
        assert self._part is not None
        part, self._part = self._part, None
        # Round trips are what such files cost: a few of them count as a megabyte of progress.
        self.context.recorded(max(self._written, 64 * 1024))
        # From here on the batch counts them.
        size, self._written = self._written, 0
        await self._batch.add(Ready(self, part, digests, size))

    def _judge_sources(self, right: SourceState) -> None:
        """The file is right with the bytes of this source: what came before was wrong."""
        assert self.job is not None
        for source in self.job.sources:
            if source.name in self._wrong:
                path = self.order.file.path
                self.tally.disproven[source.called] = None
                text = f"{source.called} sent wrong bytes of {path}, which were fetched again"
                self.context.lied(source, path, text)
        if right.name not in self._wrong:
            right.standing.prove()

    def _fetch_again(self, lease: Lease) -> bool:
        """Have the file asked for once more, from each source once; False if that was done.

        Over new connections in any case, and from the only source a second time; also from one
        that was wrong while the others only failed, and then it is over.
        """
        job, source = lease.job, lease.source
        before = set(self._wrong)
        self._wrong.append(source.name)
        job.wrong.add(source.name)
        others = {one.name for one in job.sources if one.alive}.difference(self._wrong)
        if source.name in before or (before and not others):
            return False
        job.believed = None
        able = [one.name for one in job.askable() if one.name in others]
        job.believed = able[0] if able else None
        self.context.renew(lease.began)
        self.context.again(job)
        return True

    def discard(self) -> None:
        """In a thread: remove the part of a file that is given up or interrupted."""
        part, self._part = self._part, None
        if part is not None:
            with storage_errors(f"removing {part.path}"):
                part.remove()
            part.close()


@dataclass(slots=True, eq=False)
class Ready:
    """A file whose bytes are right and written; only durability and the name are missing."""

    file: WholeFile
    part: PartFile
    digests: Digests
    size: int
    error: HaulError | None = None
    kept: bool = False


class Batch:
    """Publishes ready files together, so that many small files cost few syncs."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._ready: list[Ready] = []
        #: Bytes that wait to be published.
        self.size = 0
        self._begun = anyio.Event()
        self._full = anyio.Event()

    async def add(self, ready: Ready) -> None:
        """Take a file in. It is the batch's from here on, whatever happens meanwhile."""
        context = self._context
        self._ready.append(ready)
        self.size += ready.size
        if context.burst is not None:
            # It may take long until the burst: keep no descriptor open that long.
            try:
                await context.threads.sync(_rest, ready.part)
            except HaulError:
                self._ready.remove(ready)
                self.size -= ready.size
                await context.threads.write(_discard, ready)
                raise
            context.burst.arrive()
        self._begun.set()
        if len(self._ready) >= BATCH_FILES or self.size >= BATCH_BYTES:
            self._full.set()

    def hurry(self) -> None:
        """No more files are coming: do not wait for company."""
        self._full.set()

    async def run(self) -> None:
        """Publish batches until cancelled."""
        while True:
            await self._begun.wait()
            if self._context.burst is not None:
                await self._publish_burst(self._context.burst)
                continue
            with anyio.move_on_after(BATCH_SECONDS):
                await self._full.wait()
            await self._publish(self._take())

    async def close(self) -> None:
        """The run is over, however: publish what is ready, unless it had to wait for others."""
        if self._context.burst is not None:
            await self._give_up(self._take())
        else:
            await self._publish(self._take())

    async def _give_up(self, batch: list[Ready]) -> None:
        for ready in batch:
            await self._context.threads.write(_discard, ready)

    def _take(self) -> list[Ready]:
        batch, self._ready, self.size = self._ready, [], 0
        self._begun, self._full = anyio.Event(), anyio.Event()
        return batch

    async def _publish_burst(self, burst: Burst) -> None:
        try:
            await burst.wait()
        except HaulError as error:
            batch = self._take()
            await self._give_up(batch)
            for ready in batch:
                ready.file.fail(error)
            return
        await self._publish(self._take())

    async def _publish(self, batch: list[Ready]) -> None:
        # Begun is finished: a cancelled half would leave open parts that nobody knows.
        with anyio.CancelScope(shield=True):
            await self._publish_shielded(batch)

    async def _publish_shielded(self, batch: list[Ready]) -> None:
        context = self._context
        try:
            async with anyio.create_task_group() as group:
                # As many threads as may sync at once, each with its share: a call for each file
                # would cost more than syncing it.
                files = [ready for ready in batch if ready.part.open]
                for share in range(min(SYNCERS, len(files))):
                    group.start_soon(context.threads.sync, _sync, files[share::SYNCERS])
        except BaseExceptionGroup as failed:
            raise single_error(failed) from failed
        stamps = await context.threads.sync(self._rename, batch)
        for ready in batch:
            if ready.error is not None:
                ready.file.fail(ready.error)
            elif ready.kept:
                ready.file.succeed("kept", size=ready.size, digest=ready.digests.sha256)
            elif ready in stamps:
                ready.file.succeed("fetched", size=ready.size, digest=ready.digests.sha256)

    def _rename(self, batch: list[Ready]) -> dict[Ready, Stamp]:
        """In a thread: rename all that are synced, then sync each folder once, then remember."""
        stamps: dict[Ready, Stamp] = {}
        folders: dict[Path, list[Ready]] = {}
        for ready in batch:
            if ready.error is None:
                try:
                    stamp = _rename_one(ready)
                    if stamp is None:
                        ready.kept = True
                    else:
                        stamps[ready] = stamp
                        folder = ready.file.order.placement.final.parent
                        folders.setdefault(folder, []).append(ready)
                except HaulError as error:
                    ready.error = error
            if ready.error is not None:
                _discard(ready)
            ready.part.close()
        for folder, members in folders.items():
            try:
                with storage_errors(f"syncing {folder}"):
                    osfile.sync_folder(folder)
            except HaulError as error:
                for ready in members:
                    ready.error = error
                    del stamps[ready]
        self._context.index.remember(
            Entry(ready.file.order.placement.final, stamp, _known(ready))
            for ready, stamp in stamps.items()
        )
        return stamps


def _sync(files: list[Ready]) -> None:
    """In a thread: make parts durable, one after the other."""
    for ready in files:
        try:
            ready.part.barrier()
        except HaulError as error:
            ready.error = error


def _rest(part: PartFile) -> None:
    """In a thread: make a part durable and close it until it is published."""
    part.barrier()
    part.release()


def _rename_one(ready: Ready) -> Stamp | None:
    """Rename a part; None if another process has put the same bytes there meanwhile."""
    placement = ready.file.order.placement
    placement.check_way()
    try:
        return ready.part.rename(placement.final, replaces=placement.replaces)
    except Occupied:
        if not _is_same(placement.final, ready):
            raise
        _discard(ready)
        return None


def _is_same(final: Path, ready: Ready) -> bool:
    try:
        return hash_file(final)[0].sha256 == ready.digests.sha256
    except StorageError:
        return False  # what stands there cannot be read: it is not ours to say what it is


def _discard(ready: Ready) -> None:
    ready.part.remove()
    ready.part.close()


def _known(ready: Ready) -> Known:
    file = ready.file.order.file
    validator = file.validator if file.content is None else None
    return Known.of(ready.digests, validator=validator, ours=True)
