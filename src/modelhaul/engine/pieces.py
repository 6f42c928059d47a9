"""From the receivers of one large file to its part and journal: steps 1 and 2 of the crash order.

Receivers fill blocks and put them into a queue; one thread call at a time takes the CRC of what is
queued, writes it, and appends the records of runs that have ended. One at a time is what keeps the
CRC of a run in order. The call goes on as long as pieces come, and tells the loop of each group: a
call per group would wait for the loop between any two, half of the time. A piece stays in the
queue until it is written: a stop in between finds it there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import anyio
from zlib_ng.zlib_ng import crc32

from modelhaul.core.journal import Have, Record
from modelhaul.core.scheduler import Lease
from modelhaul.core.span import Span, chunk_stop
from modelhaul.engine.buffers import Block, Rank, Waiter
from modelhaul.engine.context import Context
from modelhaul.engine.task import LeaseReceiver
from modelhaul.net.transport import Answer
from modelhaul.store.claim import Claim

MIB = 1 << 20
#: Runs are recorded so often, in seconds, once they are so long or so old: what a kill may cost per
#: connection. Not by the barriers alone: on a busy disk those take seconds.
RECORD_SECONDS = 0.25
RECORD_MIN = 1 * MIB
RECORD_AGE = 2.0
#: Bytes written before the loop is told: their blocks come back then.
_GROUP = 2 * MIB
#: A thread call goes on for so many bytes, or so many seconds: then others get their turn.
_TURN = 64 * MIB
_TURN_SECONDS = 0.25


def source_mark(name: str) -> int:
    """What records call a source."""
    return crc32(name.encode())


@dataclass(slots=True, eq=False)
class Piece:
    """Bytes that arrived: `block[:length]` belongs at `offset`.

    Attributes:
        last: the owner has ended.
        stored: written; if a later piece of the group cannot be, it is not written again.
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
    began: float

    @property
    def length(self) -> int:
        return self.stop - self.start

    def record(self) -> Have:
        return Have(Span(self.start, self.stop), self.crc, self.source)


class PieceReceiver(LeaseReceiver):
    """Fills blocks with the bytes of one lease and hands them to the file's writer.

    Blocks end at chunk ends, so that a piece never belongs to two runs.
    """

    def __init__(self, writer: PieceWriter, lease: Lease) -> None:
        self.lease = lease
        self._writer = writer
        self._context = writer.context
        self._block: Block | None = None
        self._fill = 0
        self._start = lease.position
        self._begun = 0.0
        self._waiter: Waiter | None = None

    @property
    def held(self) -> int:
        """Bytes that arrived and are not handed over yet."""
        return self._fill if self._block is not None else 0

    def started(self, answer: Answer) -> None:
        self.lease.version = answer.validator
        if answer.ranged:
            self.lease.source.ranged()

    def wanted(self) -> int:
        return 0 if self.lease.revoked else self.lease.remaining

    async def wait_buffer(self) -> memoryview:
        view = self.buffer_nowait()
        if view is not None:
            return view
        self._leave_line()
        with self._context.held(self.lease):
            await self._context.wait_throttle()
            if self._block is None:
                self._begin(await self._context.pool.take(self._block_size(), self._rank()))
        return self._room()

    def buffer_nowait(self) -> memoryview | None:
        if self._context.throttled():
            return None
        if self._block is None:
            block = self._context.pool.take_nowait(self._block_size())
            if block is None:
                return None
            self._begin(block)
        return self._room()

    def when_buffer(self, call: Callable[[], None]) -> bool:
        if self._block is not None or self._context.throttled():
            return False

        def lend(block: Block) -> None:
            self._waiter = None
            self._begin(block)
            self._context.listen(self.lease)
            call()

        self._context.hold(self.lease)
        self._waiter = self._context.pool.when_free(self._block_size(), lend, self._rank())
        return True

    def _leave_line(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.cancel()

    def _rank(self) -> Rank:
        return self.lease.job.key, self.lease.position

    def _block_size(self) -> int:
        context = self._context
        return context.pool.block_size(self.lease.remaining, context.lanes.capacity())

    def _begin(self, block: Block) -> None:
        self._block, self._fill, self._start = block, 0, self.lease.position
        self._begun = self._context.now()

    def _room(self) -> memoryview:
        """What is free of the block, as far as it is wanted: the lease may have been shortened."""
        block, fill, position = self._block, self._fill, self.lease.position
        assert block is not None
        to_chunk_end = chunk_stop(position, self._context.options.chunk) - position
        return block.view[fill : fill + min(block.size - fill, self.wanted(), to_chunk_end)]

    def commit(self, count: int) -> None:
        lease = self.lease
        assert self._block is not None
        assert count <= lease.remaining
        self._fill += count
        self._writer.received(lease, count)
        at_chunk_end = lease.position % self._context.options.chunk == 0
        if self._fill == self._block.size or at_chunk_end or lease.remaining == 0:
            self.hand_over()

    def passed(self, count: int) -> None:
        self._context.heard(self.lease)

    def hand_over(self) -> None:
        """Give what has arrived to the writer."""
        block, self._block = self._block, None
        if block is not None and self._fill:
            self._writer.put(Piece(self.lease, self._start, block, self._fill))
        elif block is not None:
            self._context.pool.give(block)

    def hand_over_if_due(self, recorded: int, now: float) -> None:
        """Give it to the writer if there is enough to record, or if it has lain here for long.

        Args:
            recorded: bytes of the lease's run that are written and not recorded yet.
            now: seconds, monotonic.
        """
        if self.held and (recorded + self.held >= RECORD_MIN or now - self._begun >= RECORD_AGE):
            self.hand_over()

    async def finish(self, answer: Answer) -> None:
        """Nothing: a range proves nothing by itself."""

    def close(self) -> None:
        self._leave_line()
        self.hand_over()
        self._writer.put(Piece(self.lease, self.lease.position, None, 0, last=True))
        self._writer.receiver_closed(self)


class PieceWriter:
    """The queue of one file, and the thread calls that empty it into part and journal.

    Args:
        context: the run.
        received: called with each lease and number of bytes that arrive.
        written: called after each group with the pieces that were written and the runs that were
            recorded.
        keep: offered each block that was written, with its offset and length; takes it over if it
            returns True.
    """

    def __init__(
        self,
        context: Context,
        *,
        received: Callable[[Lease, int], None],
        written: Callable[[list[Piece], list[Have]], None],
        keep: Callable[[int, Block, int], bool],
    ) -> None:
        self.context = context
        self.received = received
        self.receivers: set[PieceReceiver] = set()
        self._written = written
        self._keep = keep
        self._queue: deque[Piece] = deque()
        self._put = 0
        self._stored = 0
        self._cuts_asked = 0
        self._cuts_begun = 0
        self._cuts_made = 0
        self._closed = False
        self._runs: dict[Lease, _Run] = {}
        self._ended: list[Have] = []
        self._wake = asyncio.Event()
        self._group_done = asyncio.Event()
        self._receiver_gone = asyncio.Event()

    # -- called by the receivers; never waits ----------------------------------------------------

    def receiver(self, lease: Lease) -> PieceReceiver:
        """Something that takes the bytes of a lease."""
        receiver = PieceReceiver(self, lease)
        self.receivers.add(receiver)
        return receiver

    def receiver_closed(self, receiver: PieceReceiver) -> None:
        """A request is over."""
        self.receivers.discard(receiver)
        self._receiver_gone.set()

    def put(self, piece: Piece) -> None:
        """Queue bytes for writing."""
        if self._closed:
            self._give_back(piece)
            return
        self._queue.append(piece)
        self._put += 1
        self._wake.set()

    def cut(self) -> None:
        """Have every run recorded that is long or old enough."""
        now = self.context.now()
        for receiver in list(self.receivers):
            run = self._runs.get(receiver.lease)
            receiver.hand_over_if_due(0 if run is None else run.length, now)
        self._cuts_asked += 1
        self._wake.set()

    # -- writing ---------------------------------------------------------------------------------

    async def run(self, claimed: Claim) -> None:
        """Write what is queued, until cancelled, or until a barrier has failed.

        Raises:
            StorageError: the disk failed; what is not written yet stays queued.
        """
        while not claimed.part.failed:
            if self._has_work():
                await self.context.threads.write(self._store, claimed)
            else:
                self._wake.clear()
                await self._wake.wait()

    def _has_work(self) -> bool:
        return bool(self._queue) or self._cuts_begun < self._cuts_asked

    async def keep_records(self) -> None:
        """Have runs recorded now and then, until cancelled."""
        while True:
            await anyio.sleep(RECORD_SECONDS)
            self.cut()

    async def wait_drained(self) -> None:
        """Wait until everything that is queued now is written, and a cut has been made."""
        target, cuts = self._put, self._cuts_asked
        while self._stored < target or self._cuts_made < cuts:
            await self._group_done.wait()

    def _store(self, claimed: Claim) -> None:
        """In a thread: write and record group after group, for one turn."""
        left, end = _TURN, self.context.now() + _TURN_SECONDS
        over = False
        # After a failed barrier nothing new counts: the kernel may have dropped what was written.
        while self._has_work() and not over and not claimed.part.failed:
            pieces = self._store_group(claimed)
            left -= sum(piece.length for piece in pieces)
            over = left <= 0 or self.context.now() >= end
            # A cut covers all that was queued before it, as far as this turn gets.
            asked = self._cuts_asked
            if not over and len(pieces) < len(self._queue):
                asked = self._cuts_begun
            recorded = self._record(claimed, cut=self._cuts_begun < asked)
            self._cuts_begun = asked
            for _ in pieces:
                self._queue.popleft()
            self.context.threads.tell(self._group_stored, pieces, recorded, asked)

    def _group_stored(self, pieces: list[Piece], recorded: list[Have], cuts: int) -> None:
        for piece in pieces:
            self._stored += 1
            block = piece.block
            if block is not None and not self._keep(piece.offset, block, piece.length):
                self.context.pool.give(block)
        self._cuts_made = cuts
        self._written(pieces, recorded)
        self._group_done.set()
        self._group_done.clear()

    def _store_group(self, claimed: Claim) -> list[Piece]:
        """In a thread: write the pieces that come next."""
        pieces: list[Piece] = []
        size = 0
        while size < _GROUP and len(pieces) < len(self._queue):
            piece = self._queue[len(pieces)]
            self._store_piece(claimed, piece)
            pieces.append(piece)
            size += piece.length
        return pieces

    def _store_piece(self, claimed: Claim, piece: Piece) -> None:
        if piece.stored:
            return
        run = self._runs.get(piece.owner)
        if piece.block is not None:
            data = piece.block.view[: piece.length]
            if run is None:
                source = source_mark(piece.owner.source.name)
                run = _Run(piece.offset, piece.offset, 0, source, self.context.now())
                self._runs[piece.owner] = run
            assert run.stop == piece.offset
            # From memory and before the write: what the disk makes of it is another question.
            crc = crc32(data, run.crc)
            claimed.part.write_at(data, piece.offset)
            run.crc = crc
            run.stop += piece.length
        if run is not None and (piece.last or run.stop % self.context.options.chunk == 0):
            self._ended.append(self._runs.pop(piece.owner).record())
        piece.stored = True

    def _record(self, claimed: Claim, *, cut: bool) -> list[Have]:
        """In a thread: append the records of runs that have ended, or are to be cut."""
        if cut:
            now = self.context.now()
            for owner, run in list(self._runs.items()):
                if run.length >= RECORD_MIN or now - run.began >= RECORD_AGE:
                    self._ended.append(self._runs.pop(owner).record())
        return self._append(claimed)

    def _append(self, claimed: Claim) -> list[Have]:
        """In a thread: append the records of ended runs."""
        claimed.journal.append(list[Record](self._ended))
        recorded, self._ended = self._ended, []
        return recorded

    def _store_rest(self, claimed: Claim) -> None:
        """In a thread: write all that is queued."""
        for piece in list(self._queue):
            self._store_piece(claimed, piece)

    def append_all(self, claimed: Claim) -> None:
        """In a thread, and not beside `run()`: append the records of all runs, ended or not."""
        self._ended += [run.record() for run in self._runs.values() if run.length]
        self._runs.clear()
        self._append(claimed)

    # -- the end ---------------------------------------------------------------------------------

    async def salvage(self, claimed: Claim, seconds: float) -> None:
        """Save what has arrived, as far as the disk still takes it; no barrier.

        Args:
            claimed: part and journal.
            seconds: longest wait for the receivers to hand over their last bytes.

        Raises:
            StorageError: the disk failed.
        """
        with anyio.move_on_after(seconds):
            while self.receivers:
                self._receiver_gone.clear()
                await self._receiver_gone.wait()
        if claimed.part.failed or not claimed.open:
            return  # after a failed barrier nothing new counts; a discarded part holds nothing
        try:
            await self.context.threads.write(self._store_rest, claimed)
        finally:
            await self.context.threads.write(self.append_all, claimed)

    def close(self) -> None:
        """Give all memory back; what still comes is dropped."""
        self._closed = True
        for piece in self._queue:
            self._give_back(piece)
        self._queue.clear()

    def _give_back(self, piece: Piece) -> None:
        if piece.block is not None:
            self.context.pool.give(piece.block)
