"""The places of a run, over all its files: each is named once when it turns out to be of no use.

What is thought of a place is decided in core/sources.py; here the listener is told, and requests
that it has not answered yet are made elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

from modelhaul.core.repo import Source
from modelhaul.core.scheduler import Job, Lease, Scheduler
from modelhaul.core.sources import SourceState, Standing
from modelhaul.engine.task import Order
from modelhaul.events import Event, Note

#: Failures in a row at the end of a run that say more than that its last request was late.
_AILING = 3


class Places:
    """What a run thinks of its places, and says of them.

    Args:
        scheduler: of the run.
        emit: tells the listener.
        revoke: ends the request of a lease.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        emit: Callable[[Event], None],
        revoke: Callable[[Lease], None],
    ) -> None:
        self._scheduler = scheduler
        self._emit = emit
        self._revoke = revoke
        self._standings: dict[str, Standing] = {}

    def standing(self, order: Order, source: Source) -> Standing:
        """What is thought of the place of a source; the first of an order is the repository's."""
        name, own = _name(source), _name(order.sources[0])
        if name not in self._standings:
            self._standings[name] = Standing(name, own=name == own)
        return self._standings[name]

    def failed(self, source: SourceState, job: Job, trouble: str) -> None:
        """A request of this source failed, or was late."""
        source.standing.fail(trouble)
        self._review(source.standing, job)

    def lacked(self, source: SourceState, job: Job, trouble: str) -> None:
        """It does not give this file."""
        source.standing.lack(trouble, small=job.whole)
        self._review(source.standing, job)

    def lied(self, source: SourceState, path: str, note: str) -> None:
        """Its bytes of a file were wrong, as is known now that the file is right."""
        standing = source.standing
        standing.lie(path)
        if standing.useless(beside=True):
            self._set_aside(standing)
            for lease in self._leases(standing):
                self._revoke(lease)
        elif not standing.last:  # else it was said once for all
            self._emit(Note(message=note))

    def gone(self, source: SourceState, trouble: str) -> None:
        """Its origin is of no more use for the whole run."""
        standing = source.standing
        standing.trouble = trouble
        if not (standing.own or standing.last):
            self._set_aside(standing)

    def settle(self) -> None:
        """The run is over: name the places that were of little use and were not named yet."""
        for standing in self._standings.values():
            if standing.own or standing.last or not standing.trouble or standing.lies:
                continue
            if standing.served == 0 and not standing.last_small:
                self._tell(standing, "was of no use")
            elif standing.unranged and not standing.served_large:
                self._tell(standing, "brought none of the large files")
            elif standing.failures >= _AILING:
                self._tell(standing, "was of no use at the end")

    def _review(self, standing: Standing, job: Job) -> None:
        others = [one.standing for one in job.askable() if one.standing is not standing]
        if standing.useless(beside=any(other.failures == 0 for other in others)):
            self._set_aside(standing)
        elif standing.useless_for_small():
            standing.last_small = True
            self._tell(standing, "is not used any more for small files")
            self._revoke_unanswered(standing)

    def _set_aside(self, standing: Standing) -> None:
        standing.last = True
        self._tell(standing, "is not used any more")
        self._revoke_unanswered(standing)

    def _revoke_unanswered(self, standing: Standing) -> None:
        for lease in self._leases(standing):
            if lease.first_byte is None:
                self._revoke(lease)

    def _leases(self, standing: Standing) -> list[Lease]:
        """Its requests whose bytes somebody else has as well."""
        return [
            lease
            for lease in self._scheduler.leases
            if lease.source.standing is standing
            and standing.is_last(small=lease.job.whole)
            and any(one.standing is not standing for one in lease.job.askable())
        ]

    def _tell(self, standing: Standing, what: str) -> None:
        self._emit(Note(message=f"source {standing.place} {what}: {standing.trouble}"))


def _name(source: Source) -> str:
    return source.place or str(source.origin)
