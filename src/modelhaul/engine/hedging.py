"""Second requests beside late ones: what they read into, and how ownership moves.

A hedge reads into one block of memory. What its rival has meanwhile is dropped from it; when the
hedge is ahead the rival is ended, and once the rival's request is over (its running write awaited,
its last record queued) the hedge owns the rest: the block is taken over by an ordinary receiver,
and from there on it is a request like any other. Until then nothing of it is written.

If the rival ends by itself, for better or worse, the hedge is dropped or owns what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anyio

from modelhaul.core.hedging import LEAD, MOST, Allowance, candidate, cost, over_read, wins
from modelhaul.core.scheduler import Lease, Scheduler, Usable
from modelhaul.engine.buffers import Block
from modelhaul.engine.context import Context
from modelhaul.engine.task import LeaseReceiver, Task
from modelhaul.net.push import commit
from modelhaul.net.transport import Answer


class Hedges:
    """The hedges of a run.

    Args:
        context: the run.
        scheduler: hands their leases out.
        tasks: the files of the run by the key of their job.
        revoke: ends the request of a lease.
    """

    def __init__(
        self,
        context: Context,
        scheduler: Scheduler,
        tasks: Mapping[int, Task],
        *,
        revoke: Callable[[Lease], None],
    ) -> None:
        self.allowance = Allowance(context.options.repeats)
        self._context = context
        self._scheduler = scheduler
        self._tasks = tasks
        self._revoke = revoke
        self._receivers: dict[Lease, HedgeReceiver] = {}

    def begin(self, now: float, usable: Usable) -> Lease | None:
        """A hedge for the lease that needs one most; None if none does, or nothing is to spare.

        Args:
            now: seconds, monotonic.
            usable: whether a source may be asked now.
        """
        if len(self._receivers) >= MOST:
            return None
        chunk = self._context.options.chunk
        most = min(self.allowance.left, chunk)
        found = candidate(self._scheduler, now, usable, most=most)
        if found is None:
            return None
        late, source = found
        # A body cannot be continued by another: the hedge of one has to hold all of it.
        block = self._context.pool.take_spare(cost(late) if late.body else LEAD)
        if block is None:
            return None
        lease = self._scheduler.hedge(late, source, now)
        self.allowance.reserve(cost(late))
        task = self._tasks[late.job.key]
        self._receivers[lease] = HedgeReceiver(self, self._context, task, lease, block)
        return lease

    def receiver(self, lease: Lease) -> LeaseReceiver | None:
        """What takes the bytes of a hedge; None for every other lease."""
        return self._receivers.get(lease)

    def close(self, lease: Lease) -> bool:
        """A request is over. True if a hedge beside it owns the rest now."""
        hedge = lease.hedge
        self.allowance.spend(over_read(lease))
        self._scheduler.close(lease)
        if hedge is None:
            return False
        if hedge.revoked:
            self._revoke(hedge)
            return False
        self._receivers[hedge].inherit()
        return True

    # -- called by the receivers; never waits ----------------------------------------------------

    def arrived(self, hedge: Lease, count: int) -> None:
        """Bytes came that the hedge does not own yet."""
        self._scheduler.advance(hedge, count, anyio.current_time())
        self._context.heard(hedge)

    def overtake(self, late: Lease) -> None:
        """The hedge has won: end the request that it runs beside."""
        late.revoked = True
        self._revoke(late)

    def settle(self, hedge: Lease, reserved: int, wasted: int) -> None:
        """The hedge has its own way now, or none: its memory is free again."""
        del self._receivers[hedge]
        self.allowance.settle(reserved, wasted)


class HedgeReceiver(LeaseReceiver):
    """Holds what a hedge brings until it owns it; then passes it on to the file's own receiver.

    `_block[:_fill]` belongs at `_start`. Without a block it is only the other receiver.
    """

    def __init__(
        self, hedges: Hedges, context: Context, task: Task, lease: Lease, block: Block
    ) -> None:
        assert lease.rival is not None
        self._hedges = hedges
        self._context = context
        self._task = task
        self._lease = lease
        self._rival = lease.rival
        self._block: Block | None = block
        self._start = lease.position
        self._fill = 0
        self._reserved = lease.remaining
        self._wasted = 0
        self._answer: Answer | None = None
        self._owner: LeaseReceiver | None = None
        self._owned = anyio.Event()

    def started(self, answer: Answer) -> None:
        self._answer = answer
        if self._owner is not None:
            self._owner.started(answer)

    def wanted(self) -> int:
        if self._block is None:
            assert self._owner is not None
            return self._owner.wanted()
        if self._lease.revoked or (self._owner is None and not self._rival.remaining):
            return 0
        return max(0, self._lease.stop - self._start - self._fill)

    async def wait_buffer(self) -> memoryview:
        if not self._closing:
            await self._context.wait_throttle()
        if self._closing:
            await self._take_over()
        return self._room() if self._owner is None else await self._owner.wait_buffer()

    def buffer_nowait(self) -> memoryview | None:
        if self._block is None:
            assert self._owner is not None
            return self._owner.buffer_nowait()
        return None if self._closing or self._context.throttled() else self._room()

    def when_buffer(self, call: Callable[[], None]) -> bool:
        owner = self._owner if self._block is None else None
        return owner is not None and owner.when_buffer(call)

    @property
    def _closing(self) -> bool:
        """The rival's request is ended, or over: from here on what comes needs its owner."""
        return self._rival.revoked or self._owner is not None

    def _room(self) -> memoryview:
        assert self._block is not None
        room = min(self._block.size - self._fill, self.wanted())
        return self._block.view[self._fill : self._fill + room]

    def commit(self, count: int) -> None:
        if self._block is None:
            assert self._owner is not None
            self._owner.commit(count)
            return
        self._fill += count
        if self._owner is not None:
            return
        self._hedges.arrived(self._lease, count)
        if not self._lease.body:
            self._forget(self._rival.position)
        if not self._rival.revoked and wins(self._lease):
            self._hedges.overtake(self._rival)

    def passed(self, count: int) -> None:
        self._context.heard(self._lease)

    def _forget(self, position: int) -> None:
        """The rival has everything before `position`."""
        passed = min(max(0, position - self._start), self._fill)
        if passed:
            assert self._block is not None
            view, rest = self._block.view, self._fill - passed
            view[:rest] = view[passed : self._fill]
            self._start += passed
            self._fill = rest
            self._waste(passed)

    def _waste(self, count: int) -> None:
        """Bytes of the hedge that nobody will use."""
        self._wasted += count
        self._task.tally.hedged += count
        self._task.tally.fetched += count
        self._context.repeated(self._lease, count)

    def inherit(self) -> None:
        """The rival's request is over; the rest is the hedge's own."""
        late = self._rival
        if self._lease.body:
            self._wasted += late.position
            self._task.tally.hedged += late.position
        else:
            self._forget(late.position)
        if self._fill:
            self._context.heard(self._lease)
        self._owner = self._task.receiver(self._lease)
        if self._answer is not None:
            self._owner.started(self._answer)
        self._owned.set()

    async def _take_over(self) -> None:
        """Wait for ownership and have the owner's receiver take what is in memory."""
        await self._owned.wait()
        if self._block is not None:
            assert self._owner is not None
            await commit(self._block.view[: self._fill], self._owner)
            self._give_back()

    def _give_back(self) -> None:
        block, self._block = self._block, None
        if block is not None:
            self._context.pool.give(block)
            self._hedges.settle(self._lease, self._reserved, self._wasted)

    async def finish(self, answer: Answer) -> None:
        if self._closing:
            await self._take_over()
        if self._owner is not None:
            await self._owner.finish(answer)

    def close(self) -> None:
        if self._block is not None:
            taken = 0 if self._owner is None else self._lease.position - self._start
            self._waste(self._fill - taken)
            self._give_back()
        if self._owner is not None:
            self._owner.close()
