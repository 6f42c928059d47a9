"""One large file in motion: part, journal, hashing behind the frontier, proof, publication.

The crash order of docs/internals/journal.md is all here, from top to bottom of `LargeFile.run`:
claim (0), pieces written and recorded (1, 2) by `PieceWriter`, barriers (3) by `_keep_barriers`,
proof (4) by `_prove` with engine/repair.py, publication (5) and removal of the journal (6) by
`_publish`.

A barrier may run beside the writing: it vouches only for what was recorded before it began.
"""

from __future__ import annotations

import asyncio
import contextlib

import anyio

from modelhaul.core.journal import Have
from modelhaul.core.scheduler import Job, Lease
from modelhaul.core.span import Span, SpanSet
from modelhaul.core.transfer import Change, State, step
from modelhaul.engine.burst import Burst
from modelhaul.engine.context import Context
from modelhaul.engine.hasher import HASH_STEP, Hasher
from modelhaul.engine.pieces import Piece, PieceWriter
from modelhaul.engine.repair import Repair, damaged
from modelhaul.engine.task import LeaseReceiver, Order, Task
from modelhaul.errors import HaulError, IntegrityError, Occupied, StorageError, single_error
from modelhaul.events import FileProgress, FileStarted, Note, Repairing, Waiting
from modelhaul.store.claim import Claim, Wanted, claim
from modelhaul.store.index import Entry, Known
from modelhaul.store.osfile import Stamp
from modelhaul.store.sink import check_unchanged

MIB = 1 << 20
BARRIER_SECONDS = 1.0
BARRIER_BYTES = 256 * MIB
#: Seconds between looks at a lock that another process holds.
LOCK_POLL = 0.25
#: How long a stop may wait for the last bytes to be handed over.
STOP_SECONDS = 1.0


class LargeFile(Task):
    """A file that is fetched in ranges, journalled, and continued after any interruption."""

    def __init__(self, order: Order, job: Job, context: Context) -> None:
        super().__init__(order, job)
        self.context = context
        self.ranges = job
        self.state = State.OPENING
        assert order.file.size is not None
        self._size = order.file.size
        self._claim: Claim | None = None
        self._aborted: HaulError | None = None
        self._have = SpanSet()
        self._prefix = 0  # bytes at the beginning that an earlier run left
        self._most = 0  # bytes recorded at the best moment: only more than that is progress
        self._hasher = Hasher(context, order.file, frontier=self._frontier, advanced=self._hashed)
        self._writer = PieceWriter(
            context, received=self._received, written=self._wrote, keep=self._hasher.keep
        )
        self._unsynced = SpanSet()
        self._since_barrier = 0
        self._repairs = Repair(context, order, job, self.tally)
        self._wake_barrier = asyncio.Event()
        self._wake_prover = asyncio.Event()

    # -- called by the driver and the receivers; never waits -----------------------------------

    def receiver(self, lease: Lease) -> LeaseReceiver:
        return self._writer.receiver(lease)

    def _received(self, lease: Lease, count: int) -> None:
        """`count` bytes arrived for a lease."""
        self.tally.fetched += count
        self.tally.last_byte = self.context.received(lease, count)

    def _frontier(self) -> int:
        """End of the contiguous prefix that is written."""
        return self._have.frontier()

    def _hashed(self) -> None:
        """More of it is hashed."""
        self._move_frontier()
        self._wake_prover.set()

    def _move_frontier(self) -> None:
        """Let requests begin farther ahead, but not while the hashing is far behind.

        What arrives faster than it is hashed would only have to be read back, and the digest would
        come long after the last byte. What an earlier run left is hashed beside the network.
        """
        frontier, hashed = self._have.frontier(), self._hasher.position
        most = hashed + self.context.options.unhashed if hashed >= self._prefix else self._size
        self.ranges.frontier, self.ranges.behind = min(frontier, most), frontier > most
        self.context.frontier_moved()

    def abort(self, error: HaulError) -> None:
        self._aborted = error
        self._wake_prover.set()

    def progress(self) -> FileProgress:
        return FileProgress(
            path=self.order.file.path,
            size=self._size,
            done=self._have.total,
            verified=self._hasher.position,
            rate=sum(lease.rate for lease in self.ranges.leases),
        )

    # -- the way of the file -------------------------------------------------------------------

    async def run(self) -> None:
        """Bring the file to its end and set `result`. Cancelled: part and journal are in order."""
        try:
            if await self._open():
                await self._fetch_and_prove()
                if self.context.burst is None or await self._wait_for(self.context.burst):
                    await self._publish()
        except HaulError as error:
            self._change(Change.FAILED)
            self.fail(error)
        finally:
            with anyio.CancelScope(shield=True):
                await self._close()

    def _change(self, change: Change) -> None:
        self.state = step(self.state, change)

    @property
    def _claimed(self) -> Claim:
        assert self._claim is not None
        return self._claim

    # -- 0: part and journal -------------------------------------------------------------------

    async def _open(self) -> bool:
        """Claim part and journal; False if another process finished the file meanwhile."""
        file, context = self.order.file, self.context
        self._claim = await self._wait_claim()
        # Somebody else may have finished it, while we waited or just before we came.
        if await context.threads.write(self._moved_on) and await context.recheck(self.order):
            await self._settle_with_what_is_there()
            self._change(Change.FOUND_COMPLETE)
            return False
        self._have = self._claim.have
        self._unsynced = self._claim.unsynced.copy()
        self._most = self.tally.reused = self._have.total
        self._change(Change.OPENED)
        context.emit(FileStarted(path=file.path, size=self._size, present=self._have.total))
        return True

    async def _wait_claim(self) -> Claim:
        """The claim, once no other process has it."""
        waited = False
        while True:
            claimed = await self.context.threads.hash(self._enter)
            if claimed is not None:
                break
            if self._aborted is not None:
                raise self._aborted
            if not waited:
                reason = f"another process is fetching {self.order.file.path}"
                self.context.emit(Waiting(reason=reason, seconds=LOCK_POLL))
            waited = True
            await anyio.sleep(LOCK_POLL)
        for note in claimed.notes:
            self.context.emit(Note(message=note))
        return claimed

    async def _settle_with_what_is_there(self) -> None:
        """Somebody else put the wanted content in its place."""
        await self.context.threads.write(self._claimed.discard)
        self.tally.reused = self._size
        self.succeed("kept", size=self._size, digest=self.order.file.sha256)

    def _moved_on(self) -> bool:
        """In a thread: whether the final name is not what it was when the plan was made."""
        placement = self.order.placement
        try:
            check_unchanged(placement.final, placement.replaces)
        except HaulError:
            return True
        return False

    def _enter(self) -> Claim | None:
        """In a thread: the folders, then the claim."""
        file, placement, context = self.order.file, self.order.placement, self.context
        assert file.identity is not None
        placement.make_way()
        wanted = Wanted(
            identity=file.identity,
            size=self._size,
            label=self.order.label,
            chunk=context.options.chunk,
            reserve=context.options.reserve,
        )
        return claim(placement.state, wanted, locks=context.locks, token=context.token)

    async def _fetch_and_prove(self) -> None:
        """Fetch until the digest is right, with writer, hasher and barriers beside."""
        self.ranges.todo = self._have.gaps(Span(0, self._size))
        self.ranges.frontier = self._prefix = self._have.frontier()
        self.context.add_job(self.ranges)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._writer.run, self._claimed)
                group.start_soon(self._writer.keep_records)
                group.start_soon(self._hash)
                group.start_soon(self._keep_barriers)
                self._check_arrival()
                while not await self._prove():
                    pass
                group.cancel_scope.cancel()
        except BaseExceptionGroup as failed:
            error = single_error(failed)
            if isinstance(error, IntegrityError):
                # Not before: a barrier may have been at work on them.
                with anyio.CancelScope(shield=True):
                    await self.context.threads.write(self._claimed.discard)
            raise error from failed
        finally:
            self.context.remove_job(self.ranges)

    # -- 1 and 2: bytes at their offsets, then their records (engine/pieces.py) ----------------

    def _wrote(self, pieces: list[Piece], recorded: list[Have]) -> None:
        """Bytes are at their offsets, runs are recorded."""
        for piece in pieces:
            if piece.length:
                self._have.add(Span(piece.offset, piece.offset + piece.length))
                self._since_barrier += piece.length
                self._repairs.brought(piece.owner, piece.length)
        for have in recorded:
            self._unsynced.add(have.span)
        if self._have.total > self._most:
            self.context.recorded(self._have.total - self._most)
            self._most = self._have.total
        self._move_frontier()
        self._hasher.wake()
        if self._since_barrier >= BARRIER_BYTES:
            self._wake_barrier.set()
        self._check_arrival()

    def _check_arrival(self) -> None:
        if self._have.total == self._size and self.state in (State.FETCHING, State.REPAIRING):
            self._change(Change.ARRIVED)
            self._wake_prover.set()

    # -- 3: barriers ---------------------------------------------------------------------------

    async def _keep_barriers(self) -> None:
        while True:
            with anyio.move_on_after(BARRIER_SECONDS):
                await self._wake_barrier.wait()
            self._wake_barrier.clear()
            self._since_barrier = 0
            self._writer.cut()
            await self._writer.wait_drained()
            if self._unsynced:
                await self._barrier()

    async def _barrier(self) -> None:
        """Make what is recorded durable and say so; counted before the sync begins."""
        claimed = self._claimed
        count = claimed.journal.used
        covered, self._unsynced = self._unsynced, SpanSet()

        def sync() -> None:
            claimed.part.barrier()
            claimed.journal.synced(count)

        try:
            await self.context.threads.sync(sync)
        except StorageError:
            # The kernel may have dropped these pages and still read them back from its cache, so
            # no CRC would notice: they do not count any more. If even that cannot be written,
            # the error on its way says why the run ends.
            for span in self._unsynced:
                covered.add(span)
            # What is recorded from here on goes the same way, in `_close()`.
            with contextlib.suppress(StorageError), anyio.CancelScope(shield=True):
                await self.context.threads.sync(claimed.journal.void, list(covered))
            raise

    # -- 4: proof ------------------------------------------------------------------------------

    async def _hash(self) -> None:
        """Hash what is written, until cancelled.

        Raises:
            StorageError: it cannot be read back; what is damaged there does not count any more.
        """
        try:
            await self._hasher.run(self._claimed.part)
        except StorageError:
            # Left as it is, every later run would stop at this place; fetched and written anew, the
            # disk may put it elsewhere.
            at = self._hasher.position
            with contextlib.suppress(StorageError), anyio.CancelScope(shield=True):
                within = Span(at, at + HASH_STEP)
                wrong = await self.context.threads.hash(damaged, self._claimed, within)
                await self.context.threads.sync(self._claimed.journal.void, list(wrong))
            raise

    async def _prove(self) -> bool:
        """Wait for the last byte and the digest; False if bytes have to be fetched again."""
        while self.state is not State.PROVING or not self._hasher.reached(self._size):
            if self._aborted is not None:
                raise self._aborted
            await self._wake_prover.wait()
            self._wake_prover.clear()
        if self._hasher.digests().admits(self.order.file):
            self.tally.proven = anyio.current_time()
            await self._repairs.tell_whose_bytes_were_wrong(self._claimed)
            self._change(Change.PROVEN)
            return True
        await self._repair()
        return False

    async def _repair(self) -> None:
        """Mark for fetching what is wrong (engine/repair.py).

        Raises:
            IntegrityError: it was wrong again: part and journal are worthless.
            StorageError: the disk goes on changing it.
        """
        await self._writer.wait_drained()
        wrong, reason = await self._repairs.next(self._claimed, self._hasher.digests())
        self._change(Change.DISPROVEN)
        self.context.emit(Repairing(path=self.order.file.path, size=wrong.total, reason=reason))
        await self.context.threads.sync(self._claimed.journal.void, list(wrong))
        for span in wrong:
            self._have.remove(span)
            self._unsynced.remove(span)
        self._hasher.restart()
        self.ranges.frontier = self._prefix = self._have.frontier()
        self.ranges.todo = wrong
        self._hasher.wake()
        self.context.more_work()

    # -- 5 and 6: publication ------------------------------------------------------------------

    async def _wait_for(self, burst: Burst) -> bool:
        """Wait until every file is proven; False if another process has published this one.

        Without open files: they may be thousands, descriptors are not. That gives up the lock, so
        what is found afterwards has to be the very part that was left.
        """
        part = self._claimed.part

        def rest() -> Stamp:
            self._writer.append_all(self._claimed)
            count = self._claimed.journal.used
            part.barrier()
            self._claimed.journal.synced(count)
            stamp = part.stamp()
            self._claimed.close()
            return stamp

        left = await self.context.threads.sync(rest)
        burst.arrive()
        await burst.wait()
        self._claim = await self._wait_claim()
        found = await self.context.threads.write(self._claim.part.stamp)
        if found == left and self._claim.have.total == self._size:
            return True
        if not await self.context.recheck(self.order):
            raise StorageError(
                f"{part.path} was changed by another program while it waited to be published",
                hint="run the same command again",
            )
        await self._settle_with_what_is_there()
        self._change(Change.PUBLISHED)
        return False

    async def _publish(self) -> None:
        """Barrier, rename, folder sync; then the journal goes and the memory learns of it."""
        claimed, placement, file = self._claimed, self.order.placement, self.order.file
        digests = self._hasher.digests()
        validator = file.validator if file.content is None else None

        def publish() -> None:
            placement.check_way()
            stamp = claimed.part.publish(placement.final, replaces=placement.replaces)
            known = Known.of(digests, validator=validator, ours=True)
            # Before the journal goes: after a kill in between, the journal still tells whose the
            # file is.
            self.context.index.remember([Entry(placement.final, stamp, known)])
            claimed.finished()

        try:
            await self.context.threads.sync(publish)
        except Occupied:
            if not await self.context.recheck(self.order):
                raise
            await self.context.threads.write(claimed.discard)
        self._change(Change.PUBLISHED)
        self.succeed("fetched", size=self._size, digest=digests.sha256)

    # -- the end -------------------------------------------------------------------------------

    async def _close(self) -> None:
        """Write and record what has arrived, without a barrier, and close the files."""
        if self.state not in (State.DONE, State.FAILED):
            self._change(Change.STOPPED)
        if self._claim is None:
            return
        try:
            if self.state is not State.DONE:
                # What ends the run is on its way already; a disk that fails now adds nothing.
                with contextlib.suppress(StorageError):
                    await self._writer.salvage(self._claim, STOP_SECONDS)
                    if self._claim.part.failed and self._claim.open:
                        # Recorded beside the barrier that failed.
                        void = self._claim.journal.void
                        await self.context.threads.sync(void, list(self._unsynced))
        finally:
            self._writer.close()
            self._hasher.close()
            # Even closing may wait for the disk: network file systems write back then.
            await self.context.threads.write(self._claim.close)
