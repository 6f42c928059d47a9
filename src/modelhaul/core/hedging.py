"""Which late request gets a second one beside it: decisions only, no I/O, no clock.

A request that is *taken back* is replaced at once; a *hedge* runs beside it, owns nothing, and the
first to have the bytes wins. So it may come sooner, at half the patience, and it may be wrong: it
costs bytes that arrive twice, and those have a limit.

A hedge has won when it is ahead by `LEAD` or has all there is. It need not be complete: from there
on it can do alone what is left, and two connections for the same bytes would only cost.
"""

from __future__ import annotations

from modelhaul.core.scheduler import Lease, Scheduler, Usable
from modelhaul.core.sources import Host, SourceState, usual

MIB = 1 << 20

#: Hedges at once.
MOST = 2
#: Bytes by which a hedge must be ahead: more than a server's first gust.
LEAD = 64 * 1024
#: A new connection must be done in this part of the time that the late one still needs.
PAYS = 2.0
#: Bytes that may arrive twice: this part of a run, or this many if that is more.
SHARE = 50
LEAST = 32 * MIB


class Allowance:
    """Bytes of a run that may arrive twice.

    What a hedge might cost is reserved when it begins and settled when it ends. Over-read bytes
    (on their way when we closed a connection) are spent too; nobody can prevent those, but what
    they use up, hedges cannot.
    """

    __slots__ = ("least", "reserved", "spent", "total")

    def __init__(self, least: int = LEAST) -> None:
        self.least = least
        self.total = 0  # bytes of the run's files
        self.spent = 0
        self.reserved = 0

    @property
    def limit(self) -> int:
        """Bytes that may arrive twice, altogether."""
        return max(self.total // SHARE, self.least)

    @property
    def left(self) -> int:
        """Bytes that a new hedge may cost."""
        return max(0, self.limit - self.spent - self.reserved)

    def reserve(self, count: int) -> None:
        """A hedge begins that may cost `count` bytes, not more than `left`."""
        assert count <= self.left
        self.reserved += count

    def settle(self, reserved: int, wasted: int) -> None:
        """It has ended, and `wasted` bytes arrived twice instead of the `reserved` ones."""
        self.reserved -= reserved
        self.spent += wasted

    def spend(self, count: int) -> None:
        """Bytes were wasted that nobody had reserved."""
        self.spent += count


def candidate(
    scheduler: Scheduler, now: float, usable: Usable, *, most: int
) -> tuple[Lease, SourceState] | None:
    """The late lease that needs a hedge most, and the source to ask; None if there is none.

    Only for a moment at which a connection is free and nothing is left to lease or to split, and
    at which neither the disk nor the user's limit sets the pace.

    Args:
        scheduler: whose leases are looked at.
        now: seconds, monotonic.
        usable: whether a source may be asked now.
        most: bytes that a hedge may fetch; never more than a chunk.
    """
    late = [lease for lease in scheduler.leases if _could_be(lease, most)]
    for lease in sorted(late, key=lambda one: scheduler.expected(one, now), reverse=True):
        source = _elsewhere(scheduler, lease, usable, now)
        if source is not None and _is_late(scheduler, lease, source, now):
            return lease, source
    return None


def cost(lease: Lease) -> int:
    """Bytes that a hedge of this lease fetches: what is left, or the whole of a body."""
    return lease.stop if lease.body else lease.remaining


def wins(hedge: Lease) -> bool:
    """Whether a hedge that owns nothing yet should own the rest."""
    rival = hedge.rival
    assert rival is not None
    lead = hedge.position - rival.position
    return lead > 0 and (lead >= LEAD or hedge.remaining == 0)


def over_read(lease: Lease) -> int:
    """Bytes on their way, not taken over, if this request is ended now; an estimate.

    Nobody can count them. What a connection holds is about its rate times a round trip.
    """
    if lease.stop == lease.asked and not lease.revoked:
        return 0  # it ended by itself
    return min(lease.asked - lease.position, int(lease.rate * lease.source.host.round_trip))


def _could_be(lease: Lease, most: int) -> bool:
    """Whether a lease may be hedged at all."""
    return (
        lease.remaining > 0
        and cost(lease) <= most
        and lease.body == lease.job.whole  # a source without ranges serves one body, that one
        and not (lease.revoked or lease.held or lease.hedge)
    )


def _elsewhere(
    scheduler: Scheduler, lease: Lease, usable: Usable, now: float
) -> SourceState | None:
    """The source to ask instead: on another host if there is one."""
    job, host = lease.job, lease.source.host
    source = scheduler.choose(job, lambda one: one.host is not host and usable(one), now)
    if source is None:
        source = scheduler.choose(job, usable, now)
    return source if source is not None and (source.ranges or job.whole) else None


def _is_late(scheduler: Scheduler, lease: Lease, source: SourceState, now: float) -> bool:
    """Whether it is far over its expected time: silent, or slower than a new one would be."""
    host = lease.source.host
    # Half of what a take-back needs: a mistake costs less. Each hedge in vain doubles it.
    patience = _patience(host, source.host) / 2 * 2.0 ** min(lease.hedged, 6)
    if lease.first_byte is None and host.round_trip > 0:
        patience = max(patience, scheduler.due(lease, source.host, now))
    if now - lease.last_byte >= patience:
        return True
    rate = source.host.delivers or host.delivers
    if lease.first_byte is None or now - lease.first_byte < patience or rate <= 0:
        return False
    anew = 2 * (source.host.round_trip or host.round_trip) + cost(lease) / rate
    return scheduler.expected(lease, now) > max(patience, PAYS * anew)


def _patience(host: Host, other: Host) -> float:
    """Seconds of silence after which a take-back would be due; infinite if nobody knows.

    Of two hosts the quicker one says it: it could have the bytes by then.
    """
    known = [host.patience(answered=True)] if host.round_trip > 0 else []
    if other is not host and other.round_trip > 0:
        known.append(usual(other.round_trip, answered=True))
    return min(known, default=float("inf"))
