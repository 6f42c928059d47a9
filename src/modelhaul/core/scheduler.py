"""Which bytes are asked for next, from which source: decisions only, no I/O, no clock.

The driver calls `next()` whenever a connection could be used and acts on the answer; it reports
bytes with `advance()` and the end of a request with `close()`. Two things are easily got wrong:

* A lease is not a chunk. Chunks are the grid of planning; a lease is a run of them handed to one
  connection as one request, long where round trips are dear.
* A byte that is missing has exactly one place: `job.todo` or one lease. Splitting lowers the
  owner's stop first and makes the thief's lease from the rest. A hedge (core/hedging.py) is a
  lease that owns nothing until the one it runs beside has been closed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from modelhaul.core.sources import SILENT_SECONDS, Host, SourceState, blend, usual
from modelhaul.core.span import Span, SpanSet

MIB = 1 << 20

CHUNK = 4 * MIB
LONGEST_LEASE = 256 * MIB
ROUND_TRIPS_PER_LEASE = 20
# Seconds over which a rate is measured; a body that is over sooner has none.
BEAT = 0.1
# How far past the frontier a lease may begin: so many leases for each connection.
LEASES_AHEAD = 1.5
# A split must save this much, or the round trip it costs is not worth it.
SMALLEST_SPLIT = 1 * MIB
SPLIT_ROUND_TRIPS = 4
# Less than that is split if it saves so many seconds: where all connections are slow, a megabyte
# is a long time. Not of one that is slow among others, or silent: beside that a hedge runs.
SPLIT_SECONDS = 1.0
SPLIT_ALIGN = 64 * 1024


@dataclass(slots=True, eq=False)
class Job:
    """One file that wants bytes.

    Attributes:
        key: the driver's own name for it.
        size: bytes; None if unknown, which needs `whole`.
        whole: fetched by one request without a range: small files and unknown sizes.
        todo: missing bytes that no lease owns.
        frontier: end of the contiguous prefix that is on disk; the driver moves it, and holds it
            back while the hashing is behind.
        behind: the hashing is behind: a second connection for the same bytes would not help.
        believed: name of the source to ask while it is alive, where another one may have lied.
        wrong: names of those whose own bytes the digest has disproven; they are asked only if no
            other one is alive.
        doubted: names of those that failed when they were believed; a whole file is asked of them
            only if no other one is alive.
        origins: where bytes came from, in the order in which they began to come.
        version: the validator that answers must have though a digest is known, None for any.
    """

    key: int
    size: int | None
    sources: list[SourceState]
    whole: bool = False
    todo: SpanSet = field(default_factory=SpanSet)
    frontier: int = 0
    behind: bool = False
    believed: str | None = None
    wrong: set[str] = field(default_factory=set)
    doubted: set[str] = field(default_factory=set)
    origins: dict[str, None] = field(default_factory=dict)
    version: str | None = None
    leases: list[Lease] = field(default_factory=list, repr=False)

    def alive(self) -> bool:
        """Whether any source is left."""
        return any(source.alive for source in self.sources)

    def askable(self) -> list[SourceState]:
        """The sources of the best kind that is alive, whether they may be asked now or not."""
        some = [source for source in self.sources if source.alive]
        if len(some) <= 1:
            return some
        some = [source for source in some if source.name == self.believed] or some
        some = [source for source in some if source.name not in self.wrong] or some
        some = [source for source in some if not source.standing.is_last(small=self.whole)] or some
        if self.whole:
            some = [source for source in some if source.name not in self.doubted] or some
        return [source for source in some if not source.fallback] or some


@dataclass(slots=True, eq=False)
class Lease:
    """A run of bytes that one connection fetches from one source: one request.

    Attributes:
        start: first byte asked for.
        stop: where to stop; may be lowered while the request runs.
        position: the next byte to arrive; everything before it has been taken over.
        body: the request has no range, its body begins at byte 0; it is never split.
        rate: bytes/s lately.
        began, last_byte: seconds, monotonic; `first_byte` is None until one came.
        held: the receiver waits for memory or for the user's limit: its silence is ours.
        revoked: taken back; what still arrives is not used.
        asked: where the request ends; `stop` may be lower by now.
        hedge: the request that runs beside it because this one is late.
        rival: of a hedge, the lease that owns what it fetches; None of every owner.
        hedged: hedges that were begun for these bytes so far.
        version: the strong validator of its answer, None before one came or if it has none.
        host: the one that it was meant for; a redirect may have led it elsewhere.
        origin: where it was sent.
    """

    job: Job
    source: SourceState
    start: int
    stop: int
    position: int
    body: bool
    began: float
    last_byte: float
    first_byte: float | None = None
    rate: float = 0.0
    held: bool = False
    revoked: bool = False
    asked: int = 0
    hedge: Lease | None = field(default=None, repr=False)
    rival: Lease | None = field(default=None, repr=False)
    hedged: int = 0
    version: str | None = None
    host: Host | None = field(default=None, repr=False)
    origin: str = ""
    _mark: tuple[float, int] = (0.0, 0)

    @property
    def remaining(self) -> int:
        """Bytes still to come."""
        return self.stop - self.position


Usable = Callable[[SourceState], bool]


def anyone(source: SourceState) -> bool:
    """Every source may be asked."""
    return True


class Scheduler:
    """Hands out leases and takes them back."""

    def __init__(self, *, chunk: int = CHUNK, idle_timeout: float = 30.0) -> None:
        self._chunk = chunk
        self._idle_timeout = idle_timeout
        self._ranged: dict[int, Job] = {}
        self._whole: deque[Job] = deque()
        self._leases: dict[Lease, None] = {}  # in the order in which they were handed out
        self._whole_active = 0
        #: The last `next()` left bytes alone because they are too far past the frontier.
        self.blocked = False
        #: Bytes of files that are planned and not added yet; they make leases long.
        self.pending = 0

    def add(self, job: Job) -> None:
        """Take a job in; a ranged one brings its `todo`."""
        if job.whole:
            self._whole.append(job)
        else:
            # Files are opened side by side and come in any order; they are served in theirs.
            self._ranged[job.key] = job
            self._ranged = dict(sorted(self._ranged.items()))

    def remove(self, job: Job) -> list[Lease]:
        """Forget a job. Returns its leases that are still out, revoked."""
        self._ranged.pop(job.key, None)
        if job in self._whole:
            self._whole.remove(job)
        for lease in job.leases:
            lease.revoked = True
        return list(job.leases)

    @property
    def leases(self) -> Iterator[Lease]:
        """The leases that are out."""
        return iter(self._leases)

    def unleased(self) -> int:
        """Bytes of ranged jobs that nobody fetches yet."""
        return sum(job.todo.total for job in self._ranged.values())

    def waiting_whole(self) -> int:
        """Whole-file jobs that nobody fetches yet."""
        return len(self._whole)

    def busy_whole(self) -> bool:
        """Whether any whole-file job is waiting or being fetched."""
        return bool(self._whole) or self._whole_active > 0

    def hungry(self) -> bool:
        """Whether bytes are wanted from the network, asked for or not."""
        return bool(self._leases) or bool(self._whole) or self.unleased() > 0

    def wants(self, job: Job) -> bool:
        """Whether a job waits for somebody to fetch bytes of it."""
        return job in self._whole if job.whole else job.key in self._ranged and bool(job.todo)

    def knows(self, job: Job) -> bool:
        """Whether a ranged job still wants bytes."""
        return job.key in self._ranged

    # -- handing out -------------------------------------------------------------------------

    def next(self, now: float, usable: Usable, connections: int) -> Lease | None:
        """The next request to make, or None if there is nothing to do for one more connection.

        Args:
            now: seconds, monotonic.
            usable: whether a source may be asked now (its host has room and is not paused).
            connections: how many connections the run has or may have; sizes leases and window.
        """
        # Small files go first, so that configs arrive early, but not on all connections:
        # they are round trips, and the line would lie idle meanwhile.
        if self._whole_active < max(1, connections // 2):
            lease = self._next_whole(now, usable)
            if lease is not None:
                return lease
        blocked: list[Job] = []
        self.blocked = False
        for job in self._ranged.values():
            if not job.todo:
                continue
            source = self.choose(job, usable, now)
            if source is None:
                continue
            lease = self._take(job, source, now, connections)
            if lease is not None:
                return lease
            blocked.append(job)
        self.blocked = bool(blocked)
        lease = self._next_whole(now, usable)
        if lease is not None:
            return lease
        return self._steal(now, usable, blocked)

    def _next_whole(self, now: float, usable: Usable) -> Lease | None:
        for _ in range(len(self._whole)):
            job = self._whole.popleft()
            source = self.choose(job, usable, now)
            if source is None:
                self._whole.append(job)
                continue
            stop = 1 << 62 if job.size is None else job.size
            return self._lease(job, source, Span(0, stop), now, body=True)
        return None

    def choose(self, job: Job, usable: Usable, now: float) -> SourceState | None:
        """The source that should be asked next for a job; None if none may be asked now."""
        first = job.askable()
        if not job.whole:
            first = [source for source in first if source.ranges] or first
        several = len(first) > 1
        heard = several and any(source.host.round_trip for source in first)
        fastest = max((source.host.delivers for source in first), default=0.0) if several else 0.0
        best = None
        best_load = 0.0
        for source in first:
            host = source.host
            if not source.ranges and source.active:
                continue
            # One that keeps silent while others answer is asked by one request at a time.
            if (heard and host.active and host.mute(now)) or not usable(source):
                continue
            # By what it delivers. A source not heard of yet counts as a very fast one, so that it
            # is asked at once; until it has shown what it does it is one like the others.
            rate = host.delivers or (fastest if source.active else 0.0) or 1e12
            load = (source.active + 1) / rate
            if best is None or load < best_load:
                best, best_load = source, load
        return best

    def _take(self, job: Job, source: SourceState, now: float, connections: int) -> Lease | None:
        first = job.todo.first()
        if first is None:
            return None
        if not source.ranges:
            return self._lease(job, source, first, now, body=True)
        worth = max(self._chunk, self._worthwhile(source.host))
        # Not too far past the frontier: the hashing has to keep up, and what lies ahead of it
        # should still be in memory, or at least in the page cache.
        if first.start > job.frontier + int(LEASES_AHEAD * worth * connections):
            return None
        left = (self.unleased() + self.pending) // (2 * max(1, connections))
        length = max(self._chunk, min(worth, left))
        stop = -(-(first.start + length) // self._chunk) * self._chunk
        return self._lease(job, source, first.clip(first.start, stop), now, body=False)

    @staticmethod
    def _worthwhile(host: Host) -> int:
        """Bytes of a request that are worth its round trip."""
        # Of a near one that no beat has measured chunks will do: so the window fits into memory.
        rate = host.delivers if host.round_trip >= BEAT else host.rate
        return min(int(ROUND_TRIPS_PER_LEASE * host.round_trip * rate), LONGEST_LEASE)

    def _lease(self, job: Job, source: SourceState, span: Span, now: float, *, body: bool) -> Lease:
        lease = self._request(job, source, span, now, body=body)
        self._own(lease)
        return lease

    @staticmethod
    def _request(job: Job, source: SourceState, span: Span, now: float, *, body: bool) -> Lease:
        source.active += 1
        if source.host.active == 0:
            source.host.asked = now
        source.host.active += 1
        return Lease(
            job=job,
            source=source,
            start=span.start,
            stop=span.stop,
            position=span.start,
            body=body,
            began=now,
            last_byte=now,
            asked=span.stop,
            host=source.host,
            _mark=(now, span.start),
        )

    def _own(self, lease: Lease) -> None:
        """What the lease still has to bring is its own from here on."""
        job = lease.job
        job.todo.remove(Span(lease.position, lease.stop))
        job.leases.append(lease)
        self._leases[lease] = None
        if job.whole:
            self._whole_active += 1

    def hedge(self, late: Lease, source: SourceState, now: float) -> Lease:
        """A second request for what a lease still has to bring; it owns none of it.

        Close it like any lease. When the late one is closed first, see there.
        """
        start = 0 if late.body else late.position
        hedge = self._request(late.job, source, Span(start, late.stop), now, body=late.body)
        late.hedged += 1
        hedge.hedged = late.hedged
        hedge.rival, late.hedge = late, hedge
        return hedge

    # -- helping out -------------------------------------------------------------------------

    def _steal(self, now: float, usable: Usable, blocked: list[Job]) -> Lease | None:
        """Split the lease that will take longest; the frontier's first if the window blocks.

        Not those of a file that waits for its hashing: that would only break them up.
        """
        victims: list[Lease] = []
        behind = [job for job in blocked if job.behind]
        for job in blocked:
            if job.behind:
                continue
            ranged = [
                lease for lease in job.leases if not (lease.body or lease.revoked or lease.hedge)
            ]
            if ranged:
                victims.append(min(ranged, key=lambda lease: lease.position))
        victims += sorted(
            (
                lease
                for lease in self._leases
                if not (lease.body or lease.revoked or lease.hedge or lease.job in behind)
            ),
            key=lambda lease: self.expected(lease, now),
            reverse=True,
        )
        for victim in victims:
            source = self.choose(victim.job, usable, now)
            if source is None or not source.ranges:
                continue
            at = self._split_point(victim, source.host, now)
            if at is not None:
                rest = Span(at, victim.stop)
                victim.stop = at
                return self._lease(victim.job, source, rest, now, body=False)
        return None

    def expected(self, lease: Lease, now: float) -> float:
        """Seconds the lease will still take."""
        rate = self._rate_now(lease, now)
        return lease.remaining / rate if rate > 0 else float("inf")

    @staticmethod
    def _rate_now(lease: Lease, now: float) -> float:
        """Bytes/s of a lease, discounted while it is silent.

        One that has not had the time to deliver anything is taken for as good as its host.
        """
        rate = lease.rate or lease.source.host.delivers
        silence = now - lease.last_byte
        patience = 2 * lease.source.host.round_trip + 0.1
        return rate if silence <= patience else rate * patience / silence

    def _split_point(self, victim: Lease, thief: Host, now: float) -> int | None:
        """Where to cut so that both ends finish together; None if it is not worth it."""
        theirs = self._rate_now(victim, now)
        ours = thief.delivers or theirs
        well = 0 < victim.rate <= theirs and victim.rate >= victim.source.host.delivers / 2
        least = SPLIT_ALIGN if well else SMALLEST_SPLIT
        if victim.remaining < 2 * least:
            return None
        share = theirs / (theirs + ours) if theirs + ours > 0 else 0.5
        at = victim.position + int(victim.remaining * share)
        at = max(-(-at // SPLIT_ALIGN) * SPLIT_ALIGN, victim.position + SPLIT_ALIGN)
        rest = victim.stop - at
        if rest < least or at <= victim.position:
            return None
        if theirs > 0 and ours > 0:
            alone = victim.remaining / theirs
            together = max((at - victim.position) / theirs, thief.round_trip + rest / ours)
            worth = SPLIT_ROUND_TRIPS * thief.round_trip
            if alone - together < (worth if rest >= SMALLEST_SPLIT else max(worth, SPLIT_SECONDS)):
                return None
        return at

    # -- what happened -----------------------------------------------------------------------

    def advance(self, lease: Lease, count: int, now: float) -> None:
        """`count` bytes arrived and were taken over."""
        if lease.first_byte is None:
            lease.first_byte = now
            lease.source.host.learn_round_trip(now - lease.began)
            lease.job.origins[lease.origin] = None
            # What comes with the first byte was on its way before it: not part of a rate.
            lease._mark = (now, lease.position + count)
        lease.position += count
        lease.last_byte = now

    def hold(self, lease: Lease) -> None:
        """From here on nothing is read for the lease, for reasons of our own."""
        lease.held = True

    def hear(self, lease: Lease, now: float) -> None:
        """The lease's server is not silent, or has just been listened to again."""
        lease.held = False
        lease.last_byte = now

    def close(self, lease: Lease) -> None:
        """The request is over; what did not arrive is free for others.

        A whole-file lease that did not bring everything starts again from byte 0. If a hedge ran
        beside the lease and is not behind it, it owns the rest now; else it is revoked.
        """
        job = lease.job
        lease.source.active -= 1
        if lease.host is not None:
            lease.host.active -= 1
        if lease.rival is not None:
            lease.rival.hedge = None
            return
        self._leases.pop(lease, None)
        job.leases.remove(lease)
        if job.whole:
            self._whole_active -= 1
        else:
            lease.source.host.learn_delivery(
                lease.position - lease.start, lease.last_byte - lease.began
            )
            if lease.position < lease.stop and job.key in self._ranged:
                job.todo.add(Span(lease.position, lease.stop))
        hedge, lease.hedge = lease.hedge, None
        if hedge is not None:
            self._inherit(hedge, lease)

    def _inherit(self, hedge: Lease, late: Lease) -> None:
        wanted = late.job.whole or late.job.key in self._ranged
        behind = not hedge.body and hedge.position < late.position
        if not late.remaining or not wanted or behind:
            hedge.revoked = True
        if hedge.revoked:
            return
        # What it has in memory is taken over once more, by its owner: not a second time a rate.
        hedge._mark = (hedge.last_byte, hedge.position)
        hedge.start = hedge.position = 0 if hedge.body else late.position
        hedge.rival = None
        self._own(hedge)

    def take_back(self, lease: Lease, now: float) -> bool:
        """The request will be ended by us, its bytes asked for anew. True as of `late()`."""
        lease.revoked = True
        if self._beside(lease):
            return self.late(lease, now)
        # Alone each counts: a slow server is rather waited for than asked in vain.
        lease.source.host.taken_back += 1
        return False

    def late(self, lease: Lease, now: float) -> bool:
        """The lease was late while another host answers; True if that is news of its own host.

        Requests that were out together are late together, which counts once. The first one to who
        was never heard of is given more time (see `due()`): so it is late by itself.
        """
        host = lease.source.host
        counted = now <= host.struck or (lease.began <= host.struck and not self._is_first(lease))
        if counted or not self._beside(lease):
            return False
        host.struck = now
        host.taken_back += 1
        return True

    @staticmethod
    def _beside(lease: Lease, usable: Usable = anyone) -> list[SourceState]:
        """The sources of the same file on other hosts that answer."""
        host = lease.source.host
        return [
            source
            for source in lease.job.askable()
            if source.host is not host and source.host.round_trip > 0 and usable(source)
        ]

    def again(self, job: Job) -> None:
        """A whole-file job has to be fetched once more."""
        self._whole.append(job)

    def tick(self, now: float) -> None:
        """Refresh the rates; call it a few times a second."""
        rates: dict[Host, list[float]] = {}
        for lease in self._leases:
            since, position = lease._mark
            elapsed = now - since
            if lease.first_byte is None or elapsed < BEAT:
                continue
            rate = max(0, lease.position - position) / elapsed
            lease.rate = blend(lease.rate, rate)
            lease._mark = (now, lease.position)
            if rate > 0:
                rates.setdefault(lease.source.host, []).append(rate)
        for host, some in rates.items():
            host.learn_rate(sum(some) / len(some))

    def overdue(
        self,
        now: float,
        *,
        idle: bool,
        usable: Usable = anyone,
        limited: bool = False,
    ) -> list[Lease]:
        """Leases that should be taken back: their connection is dead, silent or crawls.

        Args:
            now: seconds, monotonic.
            idle: a connection is free and found nothing to do: then patience is short, because
                these bytes are what everybody waits for.
            usable: whether a source may be asked now.
            limited: the disk or the user's limit sets the pace: a slow connection says nothing,
                only a silent one does.
        """
        return [
            lease
            for lease in self._leases
            if lease.remaining
            and not (lease.revoked or lease.held)
            and self._is_late(lease, now, idle=idle, usable=usable, limited=limited)
        ]

    def _is_late(
        self, lease: Lease, now: float, *, idle: bool, usable: Usable, limited: bool
    ) -> bool:
        silence = now - lease.last_byte
        if silence >= self._idle_timeout:
            return True
        # A connection to who never answers is worth more elsewhere, even if none is free.
        if not idle and (silence < SILENT_SECONDS or not lease.source.host.mute(now)):
            return False
        limit = lease.source.host.patience(answered=lease.first_byte is not None)
        limit = min(limit, self._patience_beside(lease, usable, now))
        # Whether another connection is faster is for its hedge to show, if it has one.
        unknown = idle and not limited and lease.hedge is None
        return silence >= limit or (unknown and self._crawls(lease, limit, now))

    def _patience_beside(self, lease: Lease, usable: Usable, now: float) -> float:
        """Patience with a source, by how those answer that could do its work."""
        answered = lease.first_byte is not None
        others = [source.host for source in self._beside(lease, usable)]
        if not others:
            return float("inf")
        slow = usual(max(other.round_trip for other in others), answered=answered)
        slow *= 2.0 ** min(lease.source.host.taken_back, 6)
        if answered:
            return slow
        return max(slow, min(self.due(lease, other, now) for other in others))

    def due(self, lease: Lease, other: Host, now: float) -> float:
        """Seconds after which an answer is late, however soon another host would answer.

        What counts is when the other would have the bytes. One that is known to be far has two
        round trips, unless the other would be done before its answer is to be expected. One that
        was never heard of has half as long as the other would need, so waiting in vain makes that
        half as much again; and only for its first request, so it costs one connection, once.
        """
        host = lease.source.host
        if other.delivers == 0 or lease.job.size is None:
            return 0.0
        anew = other.round_trip + lease.remaining / other.delivers
        if host.round_trip > 0:
            expected = host.round_trip - (now - lease.last_byte)
            return 2 * host.round_trip if anew >= expected else 0.0
        asked_before = host.taken_back > 0 and lease.began > host.struck
        return anew / 2 if self._is_first(lease) and not asked_before else 0.0

    def _is_first(self, lease: Lease) -> bool:
        """Whether it is the first request that is out to a host that was never heard of."""
        host = lease.source.host
        return host.round_trip == 0 and lease is next(
            (one for one in self._leases if one.source.host is host), None
        )

    def _crawls(self, lease: Lease, limit: float, now: float) -> bool:
        """Whether a new connection would be done long before this one."""
        host = lease.source.host
        if lease.first_byte is None or host.rate <= 0 or now - lease.first_byte < limit:
            return False
        anew = 2 * host.round_trip + lease.remaining / host.rate
        if lease.job.whole:
            anew += lease.position / host.rate
        return self.expected(lease, now) > max(limit, 4 * anew)
