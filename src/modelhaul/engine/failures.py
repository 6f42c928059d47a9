"""What a failed request means is decided in core/judge.py; here it is carried out.

For the origin (its lane), the source, the signed address, the file and the budget of the run.
Which of many failures that come together count is seen here too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import anyio

from modelhaul.core.judge import Judgement, final_error, judge
from modelhaul.core.retry import Budget
from modelhaul.core.scheduler import Job, Lease, Scheduler
from modelhaul.core.sources import Host, SourceState
from modelhaul.engine.asking import Asking
from modelhaul.engine.places import Places
from modelhaul.engine.task import Task
from modelhaul.errors import HaulError, OtherVersion
from modelhaul.events import Event, Retrying, SourceDropped

#: A failed request that brought this many bytes costs nothing.
USEFUL = 64 * 1024
#: Failures in a row after which a source that was to bring everything alone has others beside it.
MOST_STRIKES = 3
#: The same where all others have sent wrong bytes: as long as a server alone is waited for.
MOST_WAITS = 8


class Failures:
    """Carries judgements out, and gives a file up when nobody is left to ask for it.

    Args:
        scheduler, tasks, places: of the run; the tasks by the key of their job.
        emit: tells the listener.
        stop: ends the run with an error.
        revoke: ends the request of a lease.
        chance: random numbers in `[0, 1)`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        tasks: Mapping[int, Task],
        places: Places,
        *,
        emit: Callable[[Event], None],
        stop: Callable[[HaulError], None],
        revoke: Callable[[Lease], None],
        chance: Callable[[], float],
    ) -> None:
        self.budget = Budget()
        #: More sources may join: no file is given up for want of one until they have.
        self.expecting = False
        self._scheduler = scheduler
        self._tasks = tasks
        self._places = places
        self._emit = emit
        self._stop = stop
        self._revoke = revoke
        self._chance = chance
        self._gone: dict[int, HaulError] = {}

    def failed(self, asking: Asking, error: HaulError) -> None:
        """A request failed: carry out what that means."""
        task, source, job = asking.task, asking.lease.source, asking.lease.job
        if task.result is not None:
            return
        judgement, before = judge(error, signed=asking.signed), source.alive
        if judgement.give_up:
            task.fail(error)
            for lease in job.leases:
                self._revoke(lease)
            return
        costs = self._carry_out(judgement, asking, error)
        if before and not source.alive:
            path = task.order.file.path
            self._emit(SourceDropped(path=path, source=source.called, reason=error.message))
            self._places.lacked(source, job, error.message)
        elif costs:
            self._places.failed(source, job, error.message)
        waits = self._let_others_help(asking)
        if not job.alive():
            self._last_source_gone(job, error)
        elif costs and not waits and not self._is_better(job, source) and not self.budget.spend():
            self._stop(error)
            return
        else:
            self.retrying(asking, error.message)
        if job.whole and not job.leases:  # else a hedge has taken it over
            self._scheduler.again(job)

    @staticmethod
    def _let_others_help(asking: Asking) -> bool:
        """After a failure: have others asked as well, as far as they are to be believed.

        True if it was waited for and nobody else is asked, because all others sent wrong bytes;
        that has a bound of its own.
        """
        job, source = asking.lease.job, asking.lease.source
        others = [one for one in job.sources if one.alive and one is not source]
        honest = [one for one in others if one.name not in job.wrong]
        # By the file as well: an origin that serves all others well is never left alone.
        strikes = max(source.strikes, asking.lane.health.strikes)
        if source.name == job.believed and honest and strikes >= MOST_STRIKES:
            job.believed = None  # the others may have the right bytes after all
            if job.whole:
                job.doubted.add(source.name)
        waits = source.alive and source.name not in job.wrong and bool(others) and not honest
        if waits and strikes >= MOST_WAITS:
            job.believed = None  # they have the second chance that an only source has
            job.wrong.clear()
            job.doubted.add(source.name)
        return waits

    @staticmethod
    def _is_better(job: Job, than: SourceState) -> bool:
        """Whether another source that may be asked fails less: the run depends on that one."""
        failures = than.standing.failures
        return any(one.standing.failures < failures for one in job.askable())

    def taken_back(self, asking: Asking, *, overtaken: bool) -> None:
        """We ended the request ourselves; `overtaken` if a hedge goes on with it."""
        lease, task = asking.lease, asking.task
        if overtaken:
            if self._scheduler.late(lease, anyio.current_time()):
                self.late(asking)
            self.retrying(asking, "a second connection goes on in its place")
            return
        if lease.job.whole and task.result is None:
            self._scheduler.again(lease.job)
        elif not self._scheduler.knows(lease.job):
            return
        if asking.postponed:
            return  # nothing was asked
        self.retrying(asking, "the connection is silent or too slow")

    def late(self, asking: Asking) -> None:
        """A request was late while another host answers: that is a failure of its place."""
        lease, source = asking.lease, asking.lease.source
        if _is_useful(lease):
            return
        trouble = "it is silent or too slow"
        source.strikes += 1
        now, chance = anyio.current_time(), self._chance()
        asking.lane.health.bad(now, chance=chance, reason=trouble)
        self._places.failed(source, lease.job, trouble)

    def hedge_failed(self, asking: Asking, error: HaulError) -> None:
        """A hedge failed. Its bytes have an owner: only what it says of the origin counts."""
        self._tell_origin(judge(error, signed=asking.signed), asking, error)

    def retrying(self, asking: Asking, reason: str) -> None:
        """Tell the listener that bytes will be asked for again."""
        path = asking.task.order.file.path
        self._emit(Retrying(path=path, source=asking.lane.host.name, reason=reason))

    def check_hope(self, task: Task) -> None:
        """Give a file up when it wants bytes, no source is left and no request is under way."""
        job = task.job
        if job is None or task.result is not None or job.leases or job.alive() or self.expecting:
            return
        if self._scheduler.wants(job):
            self._scheduler.remove(job)
            task.abort(final_error(self._gone[job.key], time.time()))

    def _carry_out(self, judgement: Judgement, asking: Asking, error: HaulError) -> bool:
        """Tell origin, source and address; True if the next try costs from the budget."""
        source, lease = asking.lease.source, asking.lease
        useful = _is_useful(lease)
        if useful:
            # Whatever ended it, it worked: a line that is cut every megabyte goes on for ever.
            asking.lane.health.good()
        counts = self._tell_origin(judgement, asking, error)
        if (judgement.strike and counts) or judgement.pause is not None:
            source.strikes += 1
        if judgement.ignored:
            source.ignored()
            if not source.ranges:
                source.standing.ignore(error.message)
        if isinstance(error, OtherVersion) and asking.task.order.file.content is not None:
            # No fault of the source: we insisted on a version, and its digest is known.
            if not source.other_version():
                lease.job.version = None  # then the digest alone has to tell
        elif judgement.fault and counts:
            source.fault()
        if judgement.drop:
            source.alive = False
        return judgement.costs and counts and not useful

    def _tell_origin(self, judgement: Judgement, asking: Asking, error: HaulError) -> bool:
        """Tell origin and address; False if the failure came with others that counted."""
        now, lane = anyio.current_time(), asking.lane
        if not judgement.expire and not judgement.ignored:
            asking.lease.source.failed(now)
        counts = True  # requests that fail together are one failure
        if judgement.slower:
            lane.pace.refused(now, lane.active)
        if judgement.pause is not None:
            lane.health.pause(now, judgement.pause, reason=error.message)
        if judgement.strike:
            counts = lane.health.bad(now, chance=self._chance(), reason=error.message)
        if judgement.expire and asking.target is not None:
            counts = asking.location.expire(asking.target)
        if judgement.gone:
            self._drop_origin(lane.host, error)
        return counts

    def _drop_origin(self, host: Host, error: HaulError) -> None:
        """An origin wants to be left alone for longer than a run: no file asks it any more."""
        for task in self._tasks.values():
            if task.result is not None or task.job is None:
                continue
            for source in task.job.sources:
                if source.host is host:
                    source.alive = False
                    self._places.gone(source, error.message)
            if not task.job.alive():
                self._last_source_gone(task.job, error)
            self.check_hope(task)

    def _last_source_gone(self, job: Job, error: HaulError) -> None:
        """No source is left: bodies that are on their way may end, nothing else is asked."""
        self._gone[job.key] = error
        for lease in job.leases:
            if lease.first_byte is None:
                self._revoke(lease)


def _is_useful(lease: Lease) -> bool:
    """Whether it worked for a while: what it brought is kept."""
    return not lease.job.whole and lease.position - lease.start >= USEFUL
