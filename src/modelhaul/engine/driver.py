"""The engine: asks the scheduler what to fetch, has it fetched, and judges how it went.

One task per request and one per large file in motion; no worker waits for work. Whatever changes
what could be done next (a request ended, a file was added, a pause is over) ends in `_dispatch()`,
which asks the scheduler until it has nothing more to give.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from modelhaul.core.pace import Throttle
from modelhaul.core.plan import Action
from modelhaul.core.repo import RemoteFile, Source, name_beside, names_of
from modelhaul.core.scheduler import Job, Lease, Scheduler
from modelhaul.core.sources import SourceState
from modelhaul.core.transfer import State
from modelhaul.engine.asking import Asking
from modelhaul.engine.buffers import BufferPool
from modelhaul.engine.burst import Burst
from modelhaul.engine.context import Options
from modelhaul.engine.copies import CopyFile
from modelhaul.engine.failures import Failures
from modelhaul.engine.hedging import Hedges
from modelhaul.engine.lanes import Lane, Lanes
from modelhaul.engine.large import LargeFile
from modelhaul.engine.locations import Location
from modelhaul.engine.meter import Meter
from modelhaul.engine.places import Places
from modelhaul.engine.task import Order, Task
from modelhaul.engine.threads import Threads
from modelhaul.engine.whole import Batch, WholeFile
from modelhaul.errors import (
    DiskFull,
    HaulError,
    ProtocolError,
    Stalled,
    StorageError,
    TransportError,
    single_error,
)
from modelhaul.events import (
    Event,
    FileDone,
    FileFailed,
    Progress,
    Statistics,
    Waiting,
)
from modelhaul.net.transport import Transport
from modelhaul.report import FileResult
from modelhaul.store.index import ProvenIndex

TICK = 0.1
PROGRESS_EVERY = 0.25
#: Seconds without a limit after which rates are those of the line again.
_UNLIMITED = 1.0
#: Large files that may be open beyond need, so that one can be proven while the next is fetched.
_OPEN_AHEAD = 2


class Engine:
    """One run: brings the files of a plan. Implements `Context` for them."""

    def __init__(
        self,
        *,
        transport: Transport,
        lanes: Lanes,
        pool: BufferPool,
        threads: Threads,
        throttle: Throttle | None,
        index: ProvenIndex,
        options: Options,
        emit: Callable[[Event], None],
        recheck: Callable[[Order], Awaitable[bool]],
        locks: bool,
        token: str,
        before_burst: Callable[[], None] = lambda: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.lanes = lanes
        self.pool = pool
        self.threads = threads
        self.index = index
        self.options = options
        self.locks = locks
        self.token = token
        self.meter = Meter()
        self._transport = transport
        self._throttle = throttle
        self._debt_until = 0.0
        self._clock: Callable[[], float] = time.monotonic  # the loop's, once it runs
        self._held_back = False  # the user's limit has made somebody wait since the last tick
        self._emit = emit
        self._recheck = recheck
        self._before_burst = before_burst
        self.burst: Burst | None = None
        self._scheduler = Scheduler(chunk=options.chunk, idle_timeout=options.idle_timeout)
        self._all: list[Task] = []  # by key, as ordered
        self._tasks: dict[int, Task] = {}  # those that fetch
        self._places = Places(self._scheduler, emit=emit, revoke=self._revoke)
        self._failures = Failures(
            self._scheduler,
            self._tasks,
            self._places,
            emit=emit,
            stop=self._stop,
            revoke=self._revoke,
            chance=chance,
        )
        self._locations: dict[SourceState, Location] = {}
        self._askings: dict[Lease, Asking] = {}
        self._hedges = Hedges(self, self._scheduler, self._tasks, revoke=self._revoke)
        self._limited_at = -math.inf  # when the disk or the user's limit last set the pace
        self._large: deque[LargeFile] = deque()
        self._whole: deque[WholeFile] = deque()
        self._copies: dict[str, list[CopyFile]] = {}  # by content, until they can begin
        self._copying: dict[CopyFile, None] = {}  # that have their source; most may be waiting
        self._whole_left = 0
        self._unfinished = 0
        self._idle = False
        self._last_news = 0.0
        self._renewed = -math.inf
        self._fatal: HaulError | None = None
        self._group: TaskGroup | None = None
        self._batch = Batch(self)
        self._moving: dict[int, LargeFile] = {}

    # -- the run -------------------------------------------------------------------------------

    async def run(self, orders: Sequence[Order]) -> list[FileResult]:
        """Bring every file of `orders`; one result each, in their order.

        A file that cannot be had is a result with an error; the others go on. Cancelled: running
        writes are finished, parts and journals are left in order.

        Raises:
            StorageError, TransportError, QuotaError: nothing more can be done for any file.
        """
        tasks = self._all = [self._task(key, order) for key, order in enumerate(orders)]
        self._unfinished = len(tasks)
        self._clock = asyncio.get_running_loop().time
        self._last_news = self._clock()
        if tasks:
            try:
                async with anyio.create_task_group() as group:
                    self._group = group
                    group.start_soon(self._batch.run)
                    group.start_soon(self._beat)
                    if self.options.burst:
                        self.burst = Burst(self._proofs(), self._open_burst)
                        group.start_soon(self.burst.keep_gate)
                    self._begin()
            except BaseExceptionGroup as failed:
                raise single_error(failed) from failed
            finally:
                with anyio.CancelScope(shield=True):
                    await self._batch.close()
                    await self.threads.write(self._discard_parts, tasks)
        self._progress()
        if self._fatal is not None:
            raise self._fatal
        self._places.settle()
        return [task.result for task in tasks if task.result is not None]

    def _proofs(self) -> int:
        """Files that are proven before a burst: all but copies of what the burst itself brings."""
        copies = [copy for some in self._copies.values() for copy in some]
        ready = sum(copy.order.copy_from is not None for copy in copies)
        return len(self._large) + len(self._whole) + ready

    async def _open_burst(self) -> None:
        await self.threads.sync(self._before_burst)

    def _task(self, key: int, order: Order) -> Task:
        self.meter.add(order)
        task: Task
        if order.plan.action is Action.COPY:
            task = copy = CopyFile(order, self)
            assert order.file.content is not None
            self._copies.setdefault(order.file.content, []).append(copy)
        else:
            task = self._fetched(key, order)
        task.on_result = self._finished
        return task

    def _fetched(self, key: int, order: Order) -> Task:
        size = order.file.size
        whole = size is None or size <= self.options.small or order.file.identity is None
        names = names_of(order.sources)
        sources = [
            self._source(order, source, name)
            for name, source in zip(names, order.sources, strict=True)
        ]
        job = Job(key=key, size=size, sources=sources, whole=whole)
        self._hedges.allowance.total += size or 0
        if whole:
            file = WholeFile(order, job, self, self._batch)
            self._whole.append(file)
            self._whole_left += 1
            self._tasks[key] = file
            return file
        large = LargeFile(order, job, self)
        self._large.append(large)
        self._scheduler.pending += size or 0
        self._tasks[key] = large
        return large

    def _source(self, order: Order, source: Source, name: str) -> SourceState:
        state = SourceState(
            name,
            self.lanes.lane(str(source.origin)).host,
            source.fallback,
            source.place,
            standing=self._places.standing(order, source),
        )
        self._locations[state] = Location(source)
        return state

    def expect_places(self) -> None:
        """More places may join: until `no_more_places()` no file is given up for want of one."""
        self._failures.expecting = True

    def no_more_places(self) -> None:
        """All have joined that will."""
        self._failures.expecting = False
        for task in self._tasks.values():
            self._failures.check_hope(task)
        self._feed()
        self._dispatch()

    def join(self, where: Callable[[RemoteFile], Source | None]) -> None:
        """Take in one more place for the files that are not done yet.

        Args:
            where: says where it has a file, None if it has it not.
        """
        for task in self._tasks.values():
            if task.job is None or task.result is not None:
                continue
            source = where(task.order.file)
            if source is None:
                continue
            name = name_beside(source, {state.name for state in task.job.sources})
            if name is not None:
                task.job.sources.append(self._source(task.order, source, name))
        self._dispatch()

    def _begin(self) -> None:
        for content, copies in list(self._copies.items()):
            source = copies[0].order.copy_from
            if source is not None:
                self._start_copies(content, source)
        self._expect_short()
        self._feed()
        self._dispatch()

    def _expect_short(self) -> None:
        """Tell the origins how many small files are waiting for them."""
        waiting = Counter(
            file.order.sources[0].origin for file in self._whole if file.order.sources
        )
        for origin, count in waiting.items():
            self.lanes.lane(str(origin)).pace.expect(count)

    def _finished(self, task: Task) -> None:
        """A file has its result."""
        result = task.result
        assert result is not None
        self._unfinished -= 1
        self.meter.finished(task)
        if isinstance(task, WholeFile):
            self._whole_left -= 1
        if result.error is not None:
            self._emit_failure(result)
            if self.burst is not None:
                self.burst.fail(result.error)
            if type(result.error) in (DiskFull, StorageError):
                # The disk's trouble, not the file's: the others would meet it too.
                self._stop(result.error)
        else:
            self.emit(done_event(result))
        content = task.order.file.content
        if content is not None and task.order.plan.action is Action.FETCH:
            final = task.order.placement.final
            self._start_copies(content, final if result.error is None else None)
        if self._unfinished == 0 and self._group is not None:
            self._group.cancel_scope.cancel()

    def _emit_failure(self, result: FileResult) -> None:
        error = result.error
        assert error is not None
        self.emit(FileFailed(path=result.path, message=error.message, hint=error.hint))

    def _start_copies(self, content: str, source: Path | None) -> None:
        for copy in self._copies.pop(content, ()):
            if source is None:
                copy.fail(HaulError(f"{copy.order.file.path}: its twin could not be fetched"))
            elif self._group is not None:
                self._group.start_soon(self._copy, copy, source)

    async def _copy(self, copy: CopyFile, source: Path) -> None:
        self._copying[copy] = None
        try:
            await copy.run(source)
        finally:
            del self._copying[copy]

    def _discard_parts(self, tasks: list[Task]) -> None:
        for task in tasks:
            if isinstance(task, WholeFile):
                task.discard()

    def _stop(self, error: HaulError) -> None:
        """End the run because of `error`; progress is kept."""
        if self._fatal is None:
            self._fatal = error
            if self._group is not None:
                self._group.cancel_scope.cancel()

    # -- what the files ask for (Context) --------------------------------------------------------

    def emit(self, event: Event) -> None:
        self._emit(event)

    def received(self, lease: Lease, count: int) -> float:
        # Once per piece of a body: the loop's clock is the same as anyio's, without finding out
        # each time which loop that is.
        now = self._clock()
        self._scheduler.advance(lease, count, now)
        self._last_news = now
        self._count(lease, count, now)
        return now

    def repeated(self, lease: Lease, count: int) -> None:
        self._count(lease, count, self._clock())

    def _count(self, lease: Lease, count: int, now: float) -> None:
        self.meter.received += count
        self.meter.by_source[lease.source.called] += count
        asking = self._askings.get(lease)
        if asking is not None:
            asking.lane.received += count
        if self._throttle is not None:
            delay = self._throttle.spend(count, now)
            self._debt_until = now + delay

    def heard(self, lease: Lease) -> None:
        self._last_news = self._clock()
        self._scheduler.hear(lease, self._last_news)

    def now(self) -> float:
        return self._clock()

    def hold(self, lease: Lease) -> None:
        self._scheduler.hold(lease)

    def listen(self, lease: Lease) -> None:
        self._scheduler.hear(lease, self._clock())

    @contextmanager
    def held(self, lease: Lease) -> Iterator[None]:
        self.hold(lease)
        try:
            yield
        finally:
            self.listen(lease)

    def recorded(self, count: int) -> None:
        self._failures.budget.earn(count)

    def add_job(self, job: Job) -> None:
        self._scheduler.add(job)
        self._failures.check_hope(self._tasks[job.key])
        self._dispatch()

    def remove_job(self, job: Job) -> None:
        for lease in self._scheduler.remove(job):
            self._revoke(lease)
        self._dispatch()

    def frontier_moved(self) -> None:
        if self._scheduler.blocked:
            self._dispatch()

    def more_work(self) -> None:
        self._last_news = self._clock()
        self._dispatch()

    def fetch_instead(self, task: Task) -> None:
        plan = replace(task.order.plan, action=Action.FETCH, reuse=0)
        key = self._all.index(task)
        self._all[key] = fetched = self._fetched(
            key, replace(task.order, plan=plan, copy_from=None)
        )
        fetched.on_result = self._finished
        self._feed()
        self._dispatch()

    def renew(self, since: float) -> None:
        # What was asked before the last renewal came over connections that nobody keeps.
        if since >= self._renewed:
            self._renewed = self._clock()
            self._transport.renew()

    def lied(self, source: SourceState, path: str, note: str) -> None:
        self._places.lied(source, path, note)

    def again(self, job: Job) -> None:
        self._scheduler.again(job)

    def throttled(self) -> bool:
        return self._debt_until > 0.0 and self._debt_until > self._clock()

    async def wait_throttle(self) -> None:
        if self.throttled():
            self._held_back = True
            await anyio.sleep_until(self._debt_until)

    async def recheck(self, order: Order) -> bool:
        return await self._recheck(order)

    # -- feeding the scheduler ---------------------------------------------------------------------

    def _feed(self) -> None:
        """Open large files and line up whole ones, as many as can be worked on."""
        assert self._group is not None
        if self._whole_left and not self._whole and not self._scheduler.busy_whole():
            self._batch.hurry()
        capacity = self.lanes.capacity()
        while self._whole and self._scheduler.waiting_whole() < 2 * capacity:
            file = self._whole.popleft()
            if file.order.file.size == 0:
                self._group.start_soon(self._complete_empty, file)
            else:
                assert file.job is not None
                self._scheduler.add(file.job)
                self._failures.check_hope(file)
        while self._large:
            # One that waits for the burst does no work any more.
            working = sum(file.state is not State.PUBLISHING for file in self._moving.values())
            busy = self._scheduler.unleased() >= 2 * capacity * self.options.chunk
            if working >= self.options.files_at_once or (busy and working >= _OPEN_AHEAD):
                break
            large = self._large.popleft()
            self._scheduler.pending -= large.order.file.size or 0
            self._moving[large.ranges.key] = large
            self._group.start_soon(self._bring, large)

    async def _bring(self, file: LargeFile) -> None:
        try:
            await file.run()
        finally:
            del self._moving[file.ranges.key]
        self._feed()
        self._dispatch()

    async def _complete_empty(self, file: WholeFile) -> None:
        try:
            await file.complete()
        except HaulError as error:
            file.fail(error)

    # -- requests ----------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Start every request that can be made now."""
        if self._group is None or self._fatal is not None:
            return
        now = self._clock()
        while self.lanes.has_room():
            lease = self._scheduler.next(now, self._usable, self.lanes.capacity())
            if lease is None:
                # Nothing to do, or no room on the lanes that have something to do?
                self._idle = any(lane.active and lane.has_room() for lane in self.lanes)
                return
            self._idle = False
            self._start(lease)

    def _start(self, lease: Lease) -> None:
        """Make the request of a lease."""
        assert self._group is not None
        task = self._tasks[lease.job.key]
        asking = Asking(
            task, lease, self._locations[lease.source], self.lanes, self._lane(lease.source)
        )
        self.meter.most_connections = max(self.meter.most_connections, self.lanes.active)
        self._askings[lease] = asking
        self._group.start_soon(self._fetch, asking)

    def _hedge(self, now: float, *, limited: bool) -> None:
        """Have late requests made a second time, if a slow connection says anything now."""
        if limited or self.throttled():
            self._limited_at = now
        if self._idle and now - self._limited_at >= _UNLIMITED:
            while self.lanes.has_room():
                lease = self._hedges.begin(now, self._usable)
                if lease is None:
                    return
                self._start(lease)

    def _lane(self, source: SourceState) -> Lane:
        return self.lanes.lane(source.host.name)

    def _usable(self, source: SourceState) -> bool:
        lane = self._lane(source)
        return lane.has_room() and lane.health.delay(self._clock()) == 0.0

    async def _fetch(self, asking: Asking) -> None:
        """One request, from the lease to the judgement of it."""
        lease = asking.lease
        receiver = self._hedges.receiver(lease) or asking.task.receiver(lease)
        failure: HaulError | None = None
        try:
            with asking.scope:
                answer = await asking.run(self._transport, receiver)
                if lease.job.whole:
                    # Storing it needs no connection: somebody else can have it.
                    asking.free()
                    self._dispatch()
                await receiver.finish(answer)
                if lease.remaining and lease.position == lease.start and not lease.revoked:
                    raise ProtocolError(
                        f"{asking.task.order.file.path}: {asking.lane.host.name} sends nothing of"
                        " what was asked for"
                    )
        except HaulError as error:
            failure = error
        finally:
            receiver.close()
            asking.free()
            del self._askings[lease]
            overtaken = self._hedges.close(lease)
        if lease.rival is not None:
            if failure is not None and not lease.revoked:
                self._failures.hedge_failed(asking, failure)
        elif asking.scope.cancelled_caught or (
            lease.revoked and isinstance(failure, TransportError)
        ):
            self._failures.taken_back(asking, overtaken=overtaken)
        elif failure is not None:
            self._failures.failed(asking, failure)
        else:
            asking.lane.completed += 1
            asking.lane.health.good()
            lease.source.served(lease.began, small=lease.job.whole)
        self._failures.check_hope(asking.task)
        self._feed()
        self._dispatch()

    # -- the beat ----------------------------------------------------------------------------------

    async def _beat(self) -> None:
        """A few times a second: rates, late connections, pauses that are over, patience."""
        shown = 0.0
        while True:
            await anyio.sleep(TICK)
            now = self._clock()
            self._scheduler.tick(now)
            limited, self._held_back = self.pool.starved or self._held_back, False
            self.lanes.tick(now, limited=limited)
            late = self._scheduler.overdue(
                now, idle=self._idle, usable=self._usable, limited=limited
            )
            for lease in late:
                if self._scheduler.take_back(lease, now):
                    self._failures.late(self._askings[lease])
                self._revoke(lease)
            self._feed()
            self._dispatch()
            self._hedge(now, limited=limited)
            self._check_patience(now)
            if now - shown >= PROGRESS_EVERY:
                shown = now
                self._progress()

    def _revoke(self, lease: Lease) -> None:
        asking = self._askings.get(lease)
        if asking is not None:
            asking.scope.cancel()

    def _check_patience(self, now: float) -> None:
        if not self._scheduler.hungry():
            self._last_news = now  # proving, waiting for a lock or for the disk
        elif now - self._last_news > self.options.patience:
            self._stop(
                Stalled(
                    f"no new byte from any source for {self.options.patience:.0f} s",
                    hint="check the network and run the same command again: what arrived is kept",
                )
            )

    def _waiting(self, now: float) -> str | None:
        """Why nothing is being fetched, in words."""
        if self.lanes.active or not self._scheduler.hungry():
            return None
        paused = [
            (lane.health.delay(now), lane) for lane in self.lanes if lane.health.delay(now) > 0
        ]
        if not paused:
            return None
        delay, lane = min(paused, key=lambda entry: entry[0])
        return f"{lane.health.reason}; next try in {max(1, math.ceil(delay))} s"

    def statistics(self) -> Statistics:
        """Amounts of the run at this moment."""
        now = self._clock()
        return self.meter.statistics(
            now,
            connections=self.lanes.active,
            waiting=self._waiting(now),
            moving=self._in_motion(),
            ready=self._batch.size,
        )

    def _in_motion(self) -> Iterator[Task]:
        # One that has its result is counted already, even if its files are still being closed.
        yield from (file for file in self._moving.values() if file.result is None)
        yield from (copy for copy in self._copying if copy.begun and copy.result is None)
        for lease in self._scheduler.leases:
            if lease.job.whole:
                yield self._tasks[lease.job.key]

    def _progress(self) -> None:
        statistics = self.statistics()
        self.emit(Progress(statistics=statistics))
        if statistics.waiting is not None:
            self.emit(Waiting(reason=statistics.waiting, seconds=PROGRESS_EVERY))


def done_event(result: FileResult) -> FileDone:
    """The event for a file that stands in its place."""
    return FileDone(
        path=result.path,
        size=result.size,
        how=result.how,
        sha256=result.sha256,
        verified=result.verified,
        fetched=result.fetched,
        proof_seconds=result.proof_seconds,
        disproven=result.disproven,
        failing=result.failing,
    )
