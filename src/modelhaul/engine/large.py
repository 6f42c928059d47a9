"""One large file in motion: part, journal, hashing behind the frontier, proof, publication.

The crash order of docs/internals/journal.md is all here, from top to bottom of `LargeFile.run`:
claim (0), pieces written and recorded (1, 2) by `_write_pieces`, barriers (3) by `_barriers`, proof
(4), publication (5) and removal of the journal (6) by `_publish`.

One thread call at a time writes the pieces of a file (`_store`): that is what keeps the CRC of a
run in order. A barrier may run beside it: it vouches only for what was recorded before it began.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass

import anyio
from zlib_ng.zlib_ng import crc32

from modelhaul.core.journal import Have, Record
from modelhaul.core.scheduler import Job, Lease
from modelhaul.core.span import Span, SpanSet, chunk_stop
from modelhaul.core.transfer import Change, State, step
from modelhaul.engine.buffers import Block
from modelhaul.engine.burst import Burst
from modelhaul.engine.context import Context
from modelhaul.engine.task import LeaseReceiver, Order, Task
from modelhaul.errors import HaulError, IntegrityError, Occupied, StorageError, single_error
from modelhaul.events import FileProgress, FileStarted, Note, Repairing, Waiting
from modelhaul.net.transport import Answer
from modelhaul.store import osfile
from modelhaul.store.claim import Claim, Wanted, claim, crc_of, read_runs
from modelhaul.store.hashing import STEP, Follower
from modelhaul.store.index import Entry, Known
from modelhaul.store.osfile import Stamp
from modelhaul.store.sink import check_unchanged

MIB = 1 << 20
#: Runs are recorded this often, in seconds, once they are this long: what a kill may cost per
#: connection. Not by the barriers alone: on a busy disk those take seconds.
RECORD_SECONDS = 0.25
RECORD_MIN = 1 * MIB
BARRIER_SECONDS = 1.0
BARRIER_BYTES = 256 * MIB
#: Bytes hashed per thread call: short enough to stop soon, long enough to cost nothing.
HASH_STEP = 32 * MIB
#: Seconds between looks at a lock that another process holds.
LOCK_POLL = 0.25
#: How long a stop may wait for the last bytes to be handed over.
STOP_SECONDS = 1.0
#: Fetched again in full at most once; a disk that goes on changing bytes is given up too.
MOST_REFETCHES = 1
MOST_MENDS = 3


@dataclass(slots=True, eq=False)
class Piece:
    """Bytes that arrived: `block[:length]` belongs at `offset`.

    Attributes:
        last: the owner has ended.
        stored: written; if a later piece of the batch cannot be, it is not written again.
    """

    owner: Lease
    offset: int
    block: Block | None
    length: int
    last: bool = False
    stored: bool = False


@dataclass(slots=True)
class _Run:
    """Neighbouring bytes that one owner wrote and that are not recorded yet."""

    start: int
    stop: int
    crc: int
    source: int

    def record(self) -> Have:
        return Have(Span(self.start, self.stop), self.crc, self.source)


class PieceReceiver(LeaseReceiver):
    """Fills blocks with the bytes of one lease and hands them to the file's writer.

    Blocks end at chunk ends, so that a piece never belongs to two runs.
    """

    def __init__(self, file: LargeFile, lease: Lease) -> None:
        self.lease = lease
        self._file = file
        self._block: Block | None = None
        self._fill = 0
        self._start = lease.position

    @property
    def held(self) -> int:
        """Bytes that arrived and are not handed over yet."""
        return self._fill if self._block is not None else 0

    def started(self, answer: Answer) -> None:
        if answer.ranged:
            self.lease.source.ranged()

    def wanted(self) -> int:
        return 0 if self.lease.revoked else self.lease.remaining

    async def wait_buffer(self) -> memoryview:
        context = self._file.context
        with context.held(self.lease):
            await context.wait_throttle()
            if self._block is None:
                self._begin(await context.pool.take(self._block_size()))
        return self._room()

    def buffer_nowait(self) -> memoryview | None:
        context = self._file.context
        if context.throttled():
            return None
        if self._block is None:
            block = context.pool.take_nowait(self._block_size())
            if block is None:
                return None
            self._begin(block)
        return self._room()

    def _block_size(self) -> int:
        context = self._file.context
        return context.pool.block_size(self.lease.remaining, context.lanes.capacity())

    def _begin(self, block: Block) -> None:
        self._block, self._fill, self._start = block, 0, self.lease.position

    def _room(self) -> memoryview:
        """What is free of the block, as far as it is wanted: the lease may have been shortened."""
        assert self._block is not None
        end = chunk_stop(self.lease.position, self._file.context.options.chunk)
        room = min(self._block.size - self._fill, self.wanted(), end - self.lease.position)
        return self._block.view[self._fill : self._fill + room]

    def commit(self, count: int) -> None:
        lease = self.lease
        assert self._block is not None
        assert count <= lease.remaining
        self._fill += count
        self._file.received(lease, count)
        at_chunk_end = lease.position % self._file.context.options.chunk == 0
        if self._fill == self._block.size or at_chunk_end or lease.remaining == 0:
            self.hand_over()

    def passed(self, count: int) -> None:
        self._file.context.heard(self.lease)

    def hand_over(self) -> None:
        """Give what has arrived to the writer."""
        block, self._block = self._block, None
        if block is not None:
            self._file.put(Piece(self.lease, self._start, block, self._fill))

    async def finish(self, answer: Answer) -> None:
        """Nothing: a range proves nothing by itself."""

    def close(self) -> None:
        self.hand_over()
        self._file.put(Piece(self.lease, self.lease.position, None, 0, last=True))
        self._file.receiver_closed(self)


class LargeFile(Task):
    """A file that is fetched in ranges, journalled, and continued after any interruption."""

    def __init__(self, order: Order, job: Job, context: Context) -> None:
        super().__init__(order, job)
        self.context = context
        self.ranges = job
        self.state = State.OPENING
        self.receivers: set[PieceReceiver] = set()
        assert order.file.size is not None
        self._size = order.file.size
        self._claim: Claim | None = None
        self._closed = False
        self._aborted: HaulError | None = None
        self._have = SpanSet()
        self._most = 0  # bytes recorded at the best moment: only more than that is progress
        self._queue: deque[Piece] = deque()
        self._put = 0
        self._stored = 0
        self._cut = False
        self._runs: dict[Lease, _Run] = {}
        self._ended: list[Have] = []
        self._unsynced = SpanSet()
        self._since_barrier = 0
        self._follower = Follower()
        self._refetches = 0
        self._mends = 0
        self._wake_writer = anyio.Event()
        self._wake_hasher = anyio.Event()
        self._wake_barrier = anyio.Event()
        self._wake_prover = anyio.Event()
        self._batch_done = anyio.Event()
        self._receiver_gone = anyio.Event()

    # -- called by the driver and the receivers; never waits -----------------------------------

    def receiver(self, lease: Lease) -> LeaseReceiver:
        receiver = PieceReceiver(self, lease)
        self.receivers.add(receiver)
        return receiver

    def receiver_closed(self, receiver: PieceReceiver) -> None:
        """A request is over."""
        self.receivers.discard(receiver)
        self._receiver_gone.set()

    def received(self, lease: Lease, count: int) -> None:
        """`count` bytes arrived for a lease."""
        self.tally.fetched += count
        self.tally.last_byte = anyio.current_time()
        self.context.received(lease, count)

    def put(self, piece: Piece) -> None:
        """Queue bytes for writing."""
        if self._closed:
            if piece.block is not None:
                self.context.pool.give(piece.block)
            return
        self._queue.append(piece)
        self._put += 1
        self._wake_writer.set()

    def abort(self, error: HaulError) -> None:
        self._aborted = error
        self._wake_prover.set()

    def progress(self) -> FileProgress:
        return FileProgress(
            path=self.order.file.path,
            size=self._size,
            done=self._have.total,
            verified=self._follower.position,
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
        with osfile.storage_errors(f"making folders for {placement.final}"):
            osfile.check_parents(placement.root, placement.relative)
            osfile.make_folders(placement.state)
            osfile.make_folders(placement.final.parent)
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
        self.ranges.frontier = self._have.frontier()
        self.context.add_job(self.ranges)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._write_pieces)
                group.start_soon(self._follow)
                group.start_soon(self._keep_records)
                group.start_soon(self._keep_barriers)
                self._check_arrival()
                while not await self._prove():
                    pass
                group.cancel_scope.cancel()
        except BaseExceptionGroup as failed:
            raise single_error(failed) from failed
        finally:
            self.context.remove_job(self.ranges)

    # -- 1 and 2: bytes at their offsets, then their records -----------------------------------

    async def _write_pieces(self) -> None:
        while True:
            if self._queue or self._cut:
                await self._write_batch()
            else:
                self._wake_writer = anyio.Event()
                await self._wake_writer.wait()

    async def _write_batch(self) -> None:
        pieces = list(self._queue)
        cut, self._cut = self._cut, False
        # They stay in the queue until they are written: a stop in between finds them there.
        recorded = await self.context.threads.write(self._store, pieces, cut)
        for piece in pieces:
            self._queue.popleft()
            self._stored += 1
            if piece.block is not None:
                self._have.add(Span(piece.offset, piece.offset + piece.length))
                self._since_barrier += piece.length
                self.context.pool.give(piece.block)
        for have in recorded:
            self._unsynced.add(have.span)
        if self._have.total > self._most:
            self.context.recorded(self._have.total - self._most)
            self._most = self._have.total
        self.ranges.frontier = self._have.frontier()
        self._wake_hasher.set()
        if self._since_barrier >= BARRIER_BYTES:
            self._wake_barrier.set()
        self._batch_done.set()
        self._batch_done = anyio.Event()
        self._check_arrival()

    def _store(self, pieces: list[Piece], cut: bool) -> list[Have]:
        """In a thread: write pieces, then append the records of runs that have ended."""
        claimed, chunk = self._claimed, self.context.options.chunk
        for piece in pieces:
            if piece.stored:
                continue
            run = self._runs.get(piece.owner)
            if piece.block is not None:
                data = piece.block.view[: piece.length]
                if run is None:
                    source = crc32(piece.owner.source.name.encode())
                    run = self._runs[piece.owner] = _Run(piece.offset, piece.offset, 0, source)
                assert run.stop == piece.offset
                # From memory and before the write: what the disk makes of it is another question.
                crc = crc32(data, run.crc)
                claimed.part.write_at(data, piece.offset)
                run.crc = crc
                run.stop += piece.length
            if run is not None and (piece.last or run.stop % chunk == 0):
                self._ended.append(self._runs.pop(piece.owner).record())
            piece.stored = True
        if cut:
            for owner, run in list(self._runs.items()):
                if run.stop - run.start >= RECORD_MIN:
                    self._ended.append(self._runs.pop(owner).record())
        return self._append()

    def _append(self) -> list[Have]:
        """In a thread: append the records of ended runs."""
        self._claimed.journal.append(list[Record](self._ended))
        recorded, self._ended = self._ended, []
        return recorded

    def _append_all(self) -> None:
        """In a thread: append the records of all runs, ended or not."""
        self._ended += [run.record() for run in self._runs.values() if run.stop > run.start]
        self._runs.clear()
        self._append()

    async def _keep_records(self) -> None:
        while True:
            await anyio.sleep(RECORD_SECONDS)
            self._cut_runs()

    def _cut_runs(self) -> None:
        """Have the writer record every run that is long enough."""
        for receiver in self.receivers:
            run = self._runs.get(receiver.lease)
            pending = run.stop - run.start if run is not None else 0
            if receiver.held and pending + receiver.held >= RECORD_MIN:
                receiver.hand_over()
        self._cut = True
        self._wake_writer.set()

    async def _drained(self) -> None:
        """Wait until everything that is queued now is written, and a cut has been made."""
        target = self._put
        while self._stored < target or self._cut:
            await self._batch_done.wait()

    def _check_arrival(self) -> None:
        if self._have.total == self._size and self.state in (State.FETCHING, State.REPAIRING):
            self._change(Change.ARRIVED)
            self._wake_prover.set()

    # -- 3: barriers ---------------------------------------------------------------------------

    async def _keep_barriers(self) -> None:
        while True:
            with anyio.move_on_after(BARRIER_SECONDS):
                await self._wake_barrier.wait()
            self._wake_barrier = anyio.Event()
            self._since_barrier = 0
            self._cut_runs()
            await self._drained()
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
            with contextlib.suppress(StorageError), anyio.CancelScope(shield=True):
                await self.context.threads.sync(claimed.journal.void, list(covered))
            raise

    # -- 4: proof ------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Hash the contiguous prefix as it grows."""
        part = self._claimed.part
        while True:
            follower, frontier = self._follower, self._have.frontier()
            if follower.position < frontier:
                stop = min(frontier, follower.position + HASH_STEP)
                await self.context.threads.hash(follower.advance, part, stop)
                self._wake_prover.set()
            else:
                self._wake_hasher = anyio.Event()
                await self._wake_hasher.wait()

    async def _prove(self) -> bool:
        """Wait for the last byte and the digest; False if bytes have to be fetched again."""
        while self.state is not State.PROVING or self._follower.position < self._size:
            if self._aborted is not None:
                raise self._aborted
            await self._wake_prover.wait()
            self._wake_prover = anyio.Event()
        expected = self.order.file.sha256
        if expected is None or self._follower.hexdigest() == expected:
            self._change(Change.PROVEN)
            return True
        await self._repair(expected)
        return False

    async def _repair(self, expected: str) -> None:
        """Mark for fetching what is wrong: what the disk damaged, else everything, once.

        Raises:
            IntegrityError: it was wrong again; part and journal are gone.
        """
        await self._drained()
        wrong = await self.context.threads.hash(self._damaged)
        if wrong and self._mends < MOST_MENDS:
            self._mends += 1
            reason = "these bytes changed on the disk"
        elif self._refetches < MOST_REFETCHES:
            self._refetches += 1
            wrong = SpanSet([Span(0, self._size)])
            reason = "the digest is wrong and the disk is not to blame"
        else:
            await self.context.threads.write(self._claimed.discard)
            origins = ", ".join(self.tally.sources) or "the part on disk"
            raise IntegrityError(
                f"{self.order.file.path}: SHA-256 is {self._follower.hexdigest()},"
                f" should be {expected} (fetched twice, from {origins})",
                hint="source and listing disagree; nothing was left under its name",
            )
        self._change(Change.DISPROVEN)
        self.context.emit(Repairing(path=self.order.file.path, size=wrong.total, reason=reason))
        await self.context.threads.sync(self._claimed.journal.void, list(wrong))
        for span in wrong:
            self._have.remove(span)
            self._unsynced.remove(span)
        self._follower = Follower()
        self.ranges.frontier = self._have.frontier()
        self.ranges.todo = wrong
        self._wake_hasher.set()
        self.context.more_work()

    def _damaged(self) -> SpanSet:
        """In a thread: the recorded runs whose bytes on disk have another CRC by now."""
        _, runs = read_runs(self._claimed.journal.path)
        buffer = memoryview(bytearray(STEP))
        return SpanSet(
            run.span for run in runs if crc_of(self._claimed.part, run.span, buffer) != run.crc
        )

    # -- 5 and 6: publication ------------------------------------------------------------------

    async def _wait_for(self, burst: Burst) -> bool:
        """Wait until every file is proven; False if another process has published this one.

        Without open files: they may be thousands, descriptors are not. That gives up the lock, so
        what is found afterwards has to be the very part that was left.
        """
        part = self._claimed.part

        def rest() -> Stamp:
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
        if self._claim.part.stamp() == left and self._claim.have.total == self._size:
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
        proven_at = anyio.current_time()
        digest = self._follower.hexdigest()
        validator = file.validator if file.sha256 is None else None

        def publish() -> None:
            stamp = claimed.part.publish(placement.final, replaces=placement.replaces)
            known = Known(digest, validator, ours=True)
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
        last = self.tally.last_byte
        proof = None if last is None else proven_at - last
        self.succeed("fetched", size=self._size, digest=digest, proof_seconds=proof)

    # -- the end -------------------------------------------------------------------------------

    async def _close(self) -> None:
        """Write and record what has arrived, without a barrier, and close the files."""
        if self.state not in (State.DONE, State.FAILED):
            self._change(Change.STOPPED)
        if self._claim is None:
            return
        try:
            if self.state is not State.DONE:
                with anyio.move_on_after(STOP_SECONDS):
                    while self.receivers:
                        self._receiver_gone = anyio.Event()
                        await self._receiver_gone.wait()
                # What ends the run is on its way already; a disk that fails now adds nothing.
                with contextlib.suppress(StorageError):
                    await self._salvage(self._claim)
        finally:
            self._closed = True
            for piece in self._queue:
                if piece.block is not None:
                    self.context.pool.give(piece.block)
            self._queue.clear()
            self._claim.close()

    async def _salvage(self, claimed: Claim) -> None:
        """Save what has arrived, as far as the disk still takes it."""
        if claimed.part.failed or not claimed.open:
            return  # after a failed barrier nothing new counts; a discarded part holds nothing
        try:
            await self.context.threads.write(self._store, list(self._queue), False)
        finally:
            await self.context.threads.write(self._append_all)
