"""The scheduler: a state machine over its promises, and scenes for its decisions.

Time is a number that the tests move. In the scenes a connection that works is `deliver()`ed to;
nobody reads bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from modelhaul.core.scheduler import (
    CHUNK,
    LONGEST_LEASE,
    MIB,
    SMALLEST_SPLIT,
    SPLIT_ALIGN,
    Job,
    Lease,
    Scheduler,
)
from modelhaul.core.sources import Host, SourceState
from modelhaul.core.span import Span, SpanSet
from tests.support.properties import thorough


def always(source: SourceState) -> bool:
    """Every source may be asked."""
    return True


def ranged(key: int, size: int, *sources: SourceState, have: Iterable[Span] = ()) -> Job:
    """A large file of which nothing but `have` is there."""
    present = SpanSet(have)
    return Job(
        key=key,
        size=size,
        sources=list(sources),
        todo=present.gaps(Span(0, size)),
        frontier=present.frontier(),
    )


def whole(key: int, size: int | None, *sources: SourceState) -> Job:
    """A small file, or one of unknown size."""
    return Job(key=key, size=size, sources=list(sources), whole=True)


def known(name: str = "hub", *, round_trip: float = 0.05, rate: float = 10e6) -> SourceState:
    """A source on a host of its own that was heard of before."""
    return SourceState(name, Host(name, round_trip=round_trip, rate=rate))


def unknown(name: str = "new") -> SourceState:
    """A source on a host that never answered yet."""
    return SourceState(name, Host(name))


def take(scheduler: Scheduler, connections: int = 8, now: float = 0.0) -> Lease:
    """The next lease; there has to be one."""
    lease = scheduler.next(now, always, connections)
    assert lease is not None
    return lease


def take_all(scheduler: Scheduler, connections: int) -> list[Lease]:
    """One lease for each connection."""
    return [take(scheduler, connections) for _ in range(connections)]


def deliver(
    scheduler: Scheduler, leases: Iterable[Lease], rate: float, since: float, until: float
) -> float:
    """Every lease gets `rate` from `since` to `until`, with a tick each tenth; returns `until`.

    The first byte comes after one round trip of the host.
    """
    leases = list(leases)
    for lease in leases:
        if lease.first_byte is None:
            scheduler.advance(lease, 1, since + lease.source.host.round_trip)
    beats = round((until - since) * 10)
    for beat in range(1, beats + 1):
        now = since + beat / 10
        for lease in leases:
            scheduler.advance(lease, min(lease.remaining, round(rate / 10)), now)
        scheduler.tick(now)
    return until


# -- promises, under any order of events -----------------------------------------------------------

Heard = tuple[float, float] | None
Described = list[tuple[int, bool, bool]]

hosts = st.one_of(
    st.none(),
    st.tuples(st.sampled_from([0.01, 0.2, 2.0]), st.sampled_from([1e4, 5e6, 1e9])),
)
sources = st.lists(
    st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 4).map(bool)),
    min_size=1,
    max_size=3,
)
picks = st.integers(0, 63)


class SchedulerMachine(RuleBasedStateMachine):
    """Any mix of files, sources, answers and failures; the books have to be right after each step.

    The model is a list of the bytes that arrived, per file, as bare pairs of numbers. What is drawn
    never depends on what the scheduler did before: equal leases are equal to it, and which of them
    it chooses may differ from run to run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(chunk=4 * MIB, idle_timeout=30.0)
        self.now = 0.0
        self.hosts: list[Host] = []
        self.everything: list[Job] = []
        self.removed: list[Job] = []
        self.waiting: list[Job] = []
        self.out: list[Lease] = []
        self.hedges: list[Lease] = []
        self.arrived: dict[int, list[tuple[int, int]]] = {}
        self.body_stops: dict[Lease, int] = {}
        self.handed_out = self.given_back = 0

    @initialize(heard=st.lists(hosts, min_size=1, max_size=3))
    def make_hosts(self, heard: list[Heard]) -> None:
        for number, known_of_it in enumerate(heard):
            round_trip, rate = known_of_it or (0.0, 0.0)
            self.hosts.append(Host(f"host {number}", round_trip=round_trip, rate=rate))

    def _sources(self, described: Described) -> list[SourceState]:
        return [
            SourceState(
                f"source {at}",
                self.hosts[host % len(self.hosts)],
                fallback=fallback,
                ranges=ranges,
            )
            for at, (host, fallback, ranges) in enumerate(described)
        ]

    @rule(
        described=sources,
        size=st.integers(1, 80 * MIB),
        ends=st.lists(st.floats(0, 1), max_size=4).map(sorted),
    )
    def add_ranged(self, described: Described, size: int, ends: list[float]) -> None:
        edges = [int(size * end) for end in ends]
        have = [Span(*pair) for pair in zip(edges[::2], edges[1::2], strict=False)]
        job = ranged(len(self.everything), size, *self._sources(described), have=have)
        self.arrived[job.key] = [(span.start, span.stop) for span in have]
        self.everything.append(job)
        self.scheduler.add(job)

    @rule(described=sources, size=st.one_of(st.none(), st.integers(1, MIB)))
    def add_whole(self, described: Described, size: int | None) -> None:
        job = whole(len(self.everything), size, *self._sources(described))
        self.everything.append(job)
        self.waiting.append(job)
        self.scheduler.add(job)

    @rule(
        paused=st.integers(0, 7),
        connections=st.integers(1, 16),
        times=st.integers(1, 40),
        rates=st.lists(st.sampled_from([0, 1000, MIB, 20 * MIB]), max_size=4),
    )
    def connections_are_free(
        self, paused: int, connections: int, times: int, rates: list[int]
    ) -> None:
        """Some hosts may be asked; then the network works for a second, or not at all."""
        self._hand_out(paused, connections, times)
        for _ in range(4 if rates else 0):
            self.now += 0.25
            for number, lease in enumerate(self._running()):
                if rate := rates[number % len(rates)]:
                    self._arrive(lease, min(rate // 4, lease.remaining))
            self.scheduler.tick(self.now)

    def _hand_out(self, paused: int, connections: int, times: int) -> None:
        usable = {host for bit, host in enumerate(self.hosts) if not paused & 1 << bit} or set(
            self.hosts
        )
        for _ in range(times):
            lease = self.scheduler.next(self.now, lambda one: one.host in usable, connections)
            if lease is None:
                return
            self._check_new(lease, usable)

    def _check_new(self, lease: Lease, usable: set[Host]) -> None:
        self.handed_out += 1
        assert lease not in self.out
        self.out.append(lease)
        job, source = lease.job, lease.source
        assert job not in self.removed
        assert lease.start == lease.position < lease.stop
        assert source.host in usable
        assert source.alive
        if source.fallback:
            assert not [one for one in job.sources if one.alive and not one.fallback]
        if lease.body:
            self.body_stops[lease] = lease.stop
        if job.whole:
            assert lease.body
            assert lease.start == 0
            self.waiting.remove(job)
        elif not source.ranges:
            assert lease.body
            assert source.active == 1
            assert not [
                one
                for one in job.sources
                if one.alive and one.ranges and one.fallback == source.fallback
            ]
        else:
            assert not lease.body

    def _running(self) -> list[Lease]:
        return [lease for lease in self.out if not lease.revoked and lease.remaining]

    @rule(pick=picks, count=st.integers(1, 40 * MIB), seconds=st.sampled_from([0.0, 0.1, 3.0]))
    def bytes_arrive(self, pick: int, count: int, seconds: float) -> None:
        """On one connection."""
        self.now += seconds
        if running := self._running():
            lease = running[pick % len(running)]
            self._arrive(lease, min(count, lease.remaining))
        self.scheduler.tick(self.now)

    def _arrive(self, lease: Lease, count: int) -> None:
        if not lease.job.whole:
            self.arrived[lease.job.key].append((lease.position, lease.position + count))
        self.scheduler.advance(lease, count, self.now)
        self._move_frontier(lease.job)

    def _move_frontier(self, job: Job) -> None:
        if not job.whole:
            job.frontier = 0
            for start, stop in sorted(self.arrived[job.key]):
                if start <= job.frontier:
                    job.frontier = max(job.frontier, stop)

    @rule(pick=picks, again=st.booleans())
    def request_ends(self, pick: int, again: bool) -> None:
        """Well or badly, early or late."""
        if self.out:
            self._end(self.out[pick % len(self.out)], again=again)

    def _end(self, lease: Lease, *, again: bool) -> None:
        hedge = lease.hedge
        had = 0 if hedge is None else hedge.position
        self.scheduler.close(lease)
        self.given_back += 1
        self.out.remove(lease)
        if hedge is not None and not hedge.revoked:
            # The rest is the hedge's, from where the other stopped; a body begins again.
            assert hedge.rival is None
            assert hedge.start == hedge.position == (0 if hedge.body else lease.position)
            assert lease.position <= had or hedge.body
            self.hedges.remove(hedge)
            self.out.append(hedge)
            self.handed_out += 1
            self.body_stops[hedge] = hedge.stop
        elif lease.job.whole and again and lease.job not in self.removed:
            self.scheduler.again(lease.job)
            self.waiting.append(lease.job)

    @rule(seconds=st.sampled_from([0.5, 2.0, 40.0]), idle=st.booleans())
    def late_ones_are_taken_back(self, seconds: float, idle: bool) -> None:
        self.now += seconds
        late = self.scheduler.overdue(self.now, idle=idle)
        assert len(late) == len(set(late))
        assert set(late) <= set(self._running())
        for lease in [one for one in self.out if one in late]:
            self.scheduler.take_back(lease, self.now)
            self._end(lease, again=True)

    @rule(pick=picks, source=picks)
    def a_hedge_begins(self, pick: int, source: int) -> None:
        """Beside any lease that could have one; it owns nothing."""
        late = [one for one in self._running() if not one.hedge and one.body == one.job.whole]
        if late:
            lease = late[pick % len(late)]
            where = lease.job.sources[source % len(lease.job.sources)]
            hedge = self.scheduler.hedge(lease, where, self.now)
            assert (hedge.rival, lease.hedge) == (lease, hedge)
            assert (hedge.start, hedge.stop) == (0 if lease.body else lease.position, lease.stop)
            self.hedges.append(hedge)

    @rule(pick=picks, count=st.integers(0, 40 * MIB))
    def a_hedge_hears(self, pick: int, count: int) -> None:
        if self.hedges:
            hedge = self.hedges[pick % len(self.hedges)]
            self.scheduler.advance(hedge, min(count, hedge.remaining), self.now)

    @rule(pick=picks)
    def a_hedge_ends(self, pick: int) -> None:
        if self.hedges:
            self._drop(self.hedges[pick % len(self.hedges)])

    def _drop(self, hedge: Lease) -> None:
        self.scheduler.close(hedge)
        self.hedges.remove(hedge)

    @rule(pick=picks)
    def forget(self, pick: int) -> None:
        """Now and then, a file is given up."""
        if pick >= len(self.everything):
            return
        job = self.everything[pick]
        expected = [lease for lease in self.out if lease.job is job]

        returned = self.scheduler.remove(job)

        assert sorted(map(id, returned)) == sorted(map(id, expected))
        assert all(lease.revoked for lease in returned)
        self.removed.append(job)
        if job in self.waiting:
            self.waiting.remove(job)

    @rule(pick=picks, source=picks, what=st.sampled_from(["fault", "served", "ignored", "ranged"]))
    def learn_about_a_source(self, pick: int, source: int, what: str) -> None:
        if self.everything:
            job = self.everything[pick % len(self.everything)]
            getattr(job.sources[source % len(job.sources)], what)()

    # -- the books

    @invariant()
    def every_byte_has_exactly_one_place(self) -> None:
        for job in self.everything:
            if job.whole or job in self.removed:
                continue
            places = [*self.arrived[job.key], *((span.start, span.stop) for span in job.todo)]
            places += [(one.position, one.stop) for one in self.out if one.job is job]
            places = sorted(place for place in places if place[0] < place[1])
            assert job.size is not None
            at = 0
            for start, stop in places:
                assert start == at, f"gap or overlap at {at}: {places}"
                at = stop
            assert at == job.size

    @invariant()
    def leases_out_are_leases_not_back(self) -> None:
        assert set(self.scheduler.leases) == set(self.out)
        assert self.handed_out - self.given_back == len(self.out)
        for job in self.everything:
            assert set(job.leases) == {lease for lease in self.out if lease.job is job}
            for source in job.sources:
                asked = [*self.out, *self.hedges]
                assert source.active == sum(lease.source is source for lease in asked)

    @invariant()
    def counts_are_true(self) -> None:
        assert self.scheduler.waiting_whole() == len(self.waiting)
        fetching = any(lease.job.whole for lease in self.out)
        assert self.scheduler.busy_whole() == (bool(self.waiting) or fetching)
        unleased = sum(
            job.todo.total for job in self.everything if not job.whole and job not in self.removed
        )
        assert self.scheduler.unleased() == unleased
        assert self.scheduler.hungry() == bool(self.out or self.waiting or unleased)

    @invariant()
    def hedges_have_an_end_in_common_with_their_rivals(self) -> None:
        for hedge in self.hedges:
            assert hedge.rival is not None
            assert hedge.stop == hedge.rival.stop
            assert hedge.revoked or hedge.rival.hedge is hedge

    @invariant()
    def bodies_are_never_split(self) -> None:
        assert all(lease.stop == self.body_stops[lease] for lease in self.out if lease.body)

    def teardown(self) -> None:
        """From anywhere, a network that works brings every file to its end."""
        for hedge in list(self.hedges):
            self._drop(hedge)
        for lease in list(self.out):
            self._end(lease, again=True)
        for job in self.everything:
            job.sources[0].alive = True
        rounds = 0
        while self.scheduler.hungry():
            rounds += 1
            assert rounds < 2000
            for _ in range(8):
                lease = self.scheduler.next(self.now, always, 8)
                if lease is None:
                    break
                self._check_new(lease, set(self.hosts))
            assert self.out, "work is left and nobody gets it"
            self.now += 0.5
            for lease in list(self.out):
                if lease.job.size is not None:
                    self._arrive(lease, lease.remaining)
                self._end(lease, again=False)
            self.every_byte_has_exactly_one_place()
        for job in self.everything:
            if job not in self.removed:
                assert not job.todo
            assert not job.leases
            assert all(source.active == 0 for source in job.sources)
        assert not self.scheduler.busy_whole()


SchedulerMachine.TestCase.settings = settings(thorough, max_examples=150, stateful_step_count=50)
TestScheduler = SchedulerMachine.TestCase


# -- how long a lease is ---------------------------------------------------------------------------


def test_a_lease_is_several_chunks_where_round_trips_are_dear() -> None:
    """At 200 ms and 20 MB/s, twenty round trips are 80 MB: one request, not ten."""
    scheduler = Scheduler()
    scheduler.add(ranged(1, 4096 * MIB, known(round_trip=0.2, rate=20e6)))

    lease = take(scheduler)

    assert 80e6 <= lease.remaining <= 80e6 + CHUNK


def test_a_lease_is_one_chunk_where_round_trips_cost_nothing() -> None:
    """Short leases can be given to whoever is fast."""
    scheduler = Scheduler()
    scheduler.add(ranged(1, 4096 * MIB, known(round_trip=0.001, rate=20e6)))

    lease = take(scheduler)

    assert (lease.start, lease.stop) == (0, CHUNK)


def test_a_lease_is_one_chunk_where_nothing_is_known() -> None:
    """The first request to a host does not bet on it."""
    scheduler = Scheduler()
    scheduler.add(ranged(1, 4096 * MIB, unknown()))

    lease = take(scheduler)

    assert (lease.start, lease.stop) == (0, CHUNK)


def test_no_lease_is_longer_than_the_longest() -> None:
    """A satellite link with a fat pipe would ask for gigabytes in one request."""
    scheduler = Scheduler()
    scheduler.add(ranged(1, 100 * 1024 * MIB, known(round_trip=2.0, rate=1e9)))

    lease = take(scheduler)

    assert lease.remaining == LONGEST_LEASE


@pytest.mark.parametrize("connections", [2, 4, 16])
def test_leases_get_short_towards_the_end(connections: int) -> None:
    """No lease is longer than half of a connection's share of what is left."""
    scheduler = Scheduler()
    scheduler.add(ranged(1, 512 * MIB, known(round_trip=1.0, rate=100e6)))

    lengths = [take(scheduler, connections).remaining for _ in range(3)]

    assert lengths[0] == min(LONGEST_LEASE, 512 * MIB // (2 * connections))
    assert lengths == sorted(lengths, reverse=True)


def test_bytes_of_files_to_come_keep_leases_long() -> None:
    """The end of one file is not the end of the run."""
    scheduler = Scheduler()
    scheduler.add(ranged(1, 64 * MIB, known(round_trip=1.0, rate=100e6)))
    scheduler.pending = 100 * 1024 * MIB

    lease = take(scheduler)

    assert lease.remaining == 64 * MIB


def test_leases_end_on_the_grid() -> None:
    """A run that begins anywhere ends at a chunk's end, so the next ones are whole chunks."""
    scheduler = Scheduler(chunk=4 * MIB)
    have = [Span(0, 5 * MIB + 17)]
    scheduler.add(ranged(1, 30 * MIB, known(round_trip=0.001), have=have))

    leases = [take(scheduler) for _ in range(6)]

    assert leases[0].start == 5 * MIB + 17
    assert [lease.stop for lease in leases[:-1]] == [number * 4 * MIB for number in range(3, 8)]
    assert leases[-1].stop == 30 * MIB


def test_a_lease_ends_where_bytes_are_there_already() -> None:
    """What is present is not asked for again, however long a lease might be."""
    scheduler = Scheduler()
    have = [Span(3 * MIB, 5 * MIB)]
    scheduler.add(ranged(1, 512 * MIB, known(round_trip=1.0, rate=100e6), have=have))

    first, second = take(scheduler), take(scheduler)

    assert (first.start, first.stop) == (0, 3 * MIB)
    assert second.start == 5 * MIB


# -- the window ------------------------------------------------------------------------------------


def test_no_lease_begins_far_beyond_the_frontier() -> None:
    """Hashing has to keep up: one and a half leases per connection ahead, no more."""
    scheduler = Scheduler(chunk=MIB)
    job = ranged(1, 2048 * MIB, known(round_trip=0.001))
    scheduler.add(job)
    at_the_frontier = take(scheduler, 4)

    starts = []
    while (lease := scheduler.next(1.0, always, 4)) is not None:
        starts.append(lease.start)
        scheduler.advance(lease, lease.remaining, 1.0)
        scheduler.close(lease)

    assert at_the_frontier.remaining == MIB
    assert starts == [number * MIB for number in range(1, 6 + 1)]


def test_the_window_moves_with_the_frontier() -> None:
    """As soon as the prefix grows, the next lease may begin."""
    scheduler = Scheduler(chunk=MIB)
    job = ranged(1, 256 * MIB, known(round_trip=0.001), have=[Span(MIB, 64 * MIB)])
    scheduler.add(job)
    first = take(scheduler, 1)
    assert (first.start, first.stop) == (0, MIB)
    assert scheduler.next(0.0, always, 1) is None

    job.frontier = 64 * MIB
    lease = scheduler.next(0.0, always, 1)

    assert lease is not None
    assert lease.start == 64 * MIB


def test_the_window_does_not_shrink_with_what_is_left() -> None:
    """Leases get shorter towards the end; what lies ahead of a slow one must not be left alone."""
    scheduler = Scheduler()
    job = ranged(1, 200 * MIB, known(round_trip=0.05, rate=20e6))
    scheduler.add(job)
    job.todo.remove(Span(1 * MIB, 160 * MIB))
    at_the_frontier, ahead = take(scheduler, 8), take(scheduler, 8)

    assert (at_the_frontier.start, ahead.start) == (0, 160 * MIB)


def test_nobody_helps_while_the_hashing_is_what_is_behind() -> None:
    """A second connection for the same bytes would only break up the first."""
    scheduler = Scheduler(chunk=4 * MIB)
    job = ranged(1, 64 * MIB, known(round_trip=0.001, rate=1e6))
    scheduler.add(job)
    take(scheduler, 1)
    job.todo.remove(Span(4 * MIB, 32 * MIB))
    job.behind = True

    while_behind = scheduler.next(0.0, always, 1)
    job.behind = False
    afterwards = scheduler.next(0.0, always, 1)

    assert while_behind is None
    assert afterwards is not None


def test_other_files_are_helped_while_one_waits_for_its_hashing() -> None:
    """One file's hashing says nothing about another one's slow connection."""
    scheduler = Scheduler(chunk=4 * MIB)
    behind = ranged(1, 64 * MIB, known(round_trip=0.001, rate=1e6))
    slow = ranged(2, 4 * MIB, known(round_trip=0.001, rate=1e6))
    scheduler.add(behind)
    take(scheduler, 1)
    behind.todo.remove(Span(4 * MIB, 32 * MIB))
    behind.behind = True
    scheduler.add(slow)
    take(scheduler, 1)

    helper = take(scheduler, 1)

    assert helper.job is slow


def test_next_tells_whether_the_window_held_bytes_back() -> None:
    scheduler = Scheduler(chunk=MIB)
    job = ranged(1, 64 * MIB, known(round_trip=0.001, rate=1e6))
    scheduler.add(job)
    take(scheduler, 1)
    assert not scheduler.blocked
    job.todo.remove(Span(1 * MIB, 32 * MIB))

    scheduler.next(0.0, always, 1)

    assert scheduler.blocked


def blocked_after_two(*rates: float) -> tuple[Scheduler, Job, list[Lease]]:
    """A large file whose window is full with two leases, 0.4 s later, at these bytes/s."""
    scheduler = Scheduler(chunk=16 * MIB)
    job = ranged(1, 2048 * MIB, known(round_trip=0.001, rate=20e6))
    scheduler.add(job)
    leases = [take(scheduler, 1) for _ in rates]
    for beat in range(1, 5):
        for lease, rate in zip(leases, rates, strict=True):
            deliver(scheduler, [lease], rate, (beat - 1) / 10, beat / 10)
    return scheduler, job, leases


def test_a_blocked_connection_helps_the_lease_at_the_frontier() -> None:
    """Not the slowest one: the frontier's is what everybody waits for."""
    scheduler, job, leases = blocked_after_two(20e6, 1e6)
    before = leases[0].stop

    helper = take(scheduler, 1, now=0.4)

    assert job.todo.total > 1024 * MIB
    assert leases[0].position < helper.start < helper.stop == before
    assert leases[0].stop == helper.start


def test_a_blocked_connection_leaves_what_was_taken_back_alone() -> None:
    """The whole of it comes back: splitting it now would make two requests of one."""
    scheduler, _, leases = blocked_after_two(1e6, 1e6)
    before = leases[0].stop
    scheduler.take_back(leases[0], 1.0)

    helper = take(scheduler, 1, now=0.4)

    assert leases[0].stop == before
    assert leases[1].position < helper.start
    assert helper.stop <= 32 * MIB


def test_a_blocked_file_does_not_block_the_next_one() -> None:
    """Beyond the window of one file, connections begin another."""
    scheduler = Scheduler(chunk=MIB)
    source = known(round_trip=0.001)
    scheduler.add(ranged(1, 256 * MIB, source, have=[Span(MIB, 64 * MIB)]))
    scheduler.add(ranged(2, 256 * MIB, known("other", round_trip=0.001)))
    take(scheduler, 1)

    lease = take(scheduler, 1)

    assert lease.job.key == 2


def test_files_are_served_in_their_order_though_they_come_in_another() -> None:
    """They are opened side by side; the first of the listing is the first to be complete."""
    scheduler = Scheduler()
    source = known(round_trip=0.001)
    for key in (3, 1, 2):
        scheduler.add(ranged(key, CHUNK, source))

    leases = take_all(scheduler, 3)

    assert [lease.job.key for lease in leases] == [1, 2, 3]


# -- helping out -----------------------------------------------------------------------------------


def test_an_idle_connection_halves_the_lease_of_an_equal() -> None:
    """Both ends finish together; the victim's stop is lowered before the thief asks."""
    scheduler = Scheduler(chunk=64 * MIB)
    scheduler.add(ranged(1, 64 * MIB, known(round_trip=0.01, rate=10e6)))
    victim = take(scheduler)
    now = deliver(scheduler, [victim], 10e6, 0.0, 3.0)
    left = victim.remaining

    thief = take(scheduler, now=now)

    assert victim.stop == thief.start
    assert thief.stop == 64 * MIB
    assert thief.remaining == pytest.approx(left / 2, abs=SPLIT_ALIGN)
    assert thief.start % SPLIT_ALIGN == 0


@pytest.mark.parametrize(("theirs", "ours"), [(1e6, 3e6), (1e6, 9e6), (5e6, 5e6)])
def test_a_lease_is_split_in_proportion_to_the_rates(theirs: float, ours: float) -> None:
    """Who is three times as fast takes three quarters."""
    scheduler = Scheduler(chunk=64 * MIB)
    slow = known("slow", round_trip=0.01, rate=theirs)
    fast = known("fast", round_trip=0.01, rate=ours)
    scheduler.add(ranged(1, 64 * MIB, slow, fast))
    victim = scheduler.next(0.0, lambda source: source is slow, 8)
    assert victim is not None
    now = deliver(scheduler, [victim], theirs, 0.0, 3.0)
    left = victim.remaining

    thief = scheduler.next(now, lambda source: source is fast, 8)

    assert thief is not None
    assert thief.source is fast
    assert thief.remaining == pytest.approx(left * ours / (ours + theirs), abs=SPLIT_ALIGN)


def test_the_lease_that_would_end_last_is_helped_first() -> None:
    """Among many, the slowest costs the run its time."""
    scheduler = Scheduler(chunk=32 * MIB)
    source = known(round_trip=0.01, rate=10e6)
    scheduler.add(ranged(1, 128 * MIB, source))
    leases = [take(scheduler, 8) for _ in range(4)]
    now = 0.0
    for beat in range(1, 11):
        now = beat / 10
        for number, lease in enumerate(leases):
            scheduler.advance(lease, (200_000, 1_000_000, 50_000, 900_000)[number], now)
        scheduler.tick(now)

    thief = take(scheduler, now=now)

    assert thief.start == leases[2].stop


def test_slow_leases_of_a_busy_host_do_not_hide_one_that_could_be_helped() -> None:
    """Two hosts: four slow leases of one must not keep the other's connections idle."""
    scheduler = Scheduler(chunk=64 * MIB)
    slow, fast = known("slow", rate=0.5e6), known("fast", rate=10e6)
    scheduler.add(ranged(1, 4 * 64 * MIB, slow))
    scheduler.add(ranged(2, 64 * MIB, fast))
    leases = [take(scheduler) for _ in range(5)]
    deliver(scheduler, leases[:4], 0.5e6, 0.0, 1.0)
    deliver(scheduler, leases[4:], 10e6, 0.0, 1.0)

    thief = scheduler.next(1.0, lambda source: source is fast, 8)

    assert thief is not None
    assert thief.job.key == 2
    assert thief.start == leases[4].stop


def test_a_lease_is_split_again_and_again_but_not_below_a_mebibyte() -> None:
    """However many connections are idle, each gets 1 MiB or more, or nothing."""
    scheduler = Scheduler(chunk=16 * MIB)
    scheduler.add(ranged(1, 16 * MIB, known(round_trip=0.001, rate=1e6)))

    leases = []
    while (lease := scheduler.next(0.0, always, 64)) is not None:
        leases.append(lease)

    assert len(leases) == 16
    assert {lease.remaining for lease in leases} == {SMALLEST_SPLIT}


@pytest.mark.parametrize(
    ("others", "split"),
    [
        pytest.param(0.2e6, True, id="all are slow"),
        pytest.param(2e6, False, id="it is slow among others: that is for a hedge"),
    ],
)
def test_less_is_split_where_that_saves_a_second(others: float, split: bool) -> None:
    """At 200 kB/s a megabyte takes five."""
    scheduler = Scheduler(chunk=MIB)
    host = known(rate=others)
    scheduler.add(ranged(1, MIB, host))
    (lease,) = leases = [take(scheduler)]
    now = deliver(scheduler, leases, 0.2e6, 0.0, 1.0)
    host.host.rate = others

    thief = scheduler.next(now, always, 8)

    assert (thief is not None) == split
    if thief is not None:
        assert thief.remaining >= SPLIT_ALIGN
        assert lease.stop == thief.start
        assert abs(lease.remaining - thief.remaining) <= SPLIT_ALIGN


@pytest.mark.parametrize(("size", "split"), [(2 * MIB - 1, False), (2 * MIB, True)])
def test_less_than_two_mebibytes_are_not_split(size: int, split: bool) -> None:
    """Half of it would save less than its round trip costs."""
    scheduler = Scheduler()
    scheduler.add(ranged(1, size, known(round_trip=0.001, rate=1e6)))
    take(scheduler)

    thief = scheduler.next(0.0, always, 8)

    assert (thief is not None) == split


def test_a_split_that_saves_less_than_four_round_trips_is_not_made() -> None:
    """8 MiB at 100 MB/s are there before a connection with 500 ms could help."""
    scheduler = Scheduler(chunk=8 * MIB)
    scheduler.add(ranged(1, 8 * MIB, known(round_trip=0.5, rate=100e6)))
    take(scheduler)

    assert scheduler.next(0.0, always, 8) is None


@pytest.mark.parametrize(("round_trip", "split"), [(0.8, True), (0.9, False)])
def test_the_round_trip_of_the_thief_counts_against_the_split(
    round_trip: float, split: bool
) -> None:
    """8.4 s alone, or half of that and a round trip: what is saved is compared with four more."""
    scheduler = Scheduler(chunk=8 * MIB)
    scheduler.add(ranged(1, 8 * MIB, known(round_trip=round_trip, rate=1e6)))
    take(scheduler)

    thief = scheduler.next(0.0, always, 8)

    assert (thief is not None) == split


def test_a_lease_that_fell_silent_is_split_nearly_to_its_position() -> None:
    """Silence lowers what is expected of a connection, so the thief takes nearly all."""
    scheduler = Scheduler(chunk=64 * MIB)
    scheduler.add(ranged(1, 64 * MIB, known(round_trip=0.01, rate=10e6)))
    victim = take(scheduler)
    deliver(scheduler, [victim], 10e6, 0.0, 1.0)
    left = victim.remaining

    thief = take(scheduler, now=21.0)

    assert thief.remaining > 0.95 * left


def test_a_lease_that_was_taken_back_by_us_is_not_the_slowest_any_more() -> None:
    """A revoked request is over: helping it would be work for nobody."""
    scheduler = Scheduler(chunk=16 * MIB)
    scheduler.add(ranged(1, 32 * MIB, known(round_trip=0.001, rate=1e6)))
    revoked, other = take(scheduler), take(scheduler)
    scheduler.take_back(revoked, 1.0)

    thief = take(scheduler)

    assert revoked.stop == 16 * MIB
    assert thief.start == other.stop


def test_what_a_failed_request_did_not_bring_is_asked_for_again() -> None:
    """Bytes before the break are kept, the rest is free for others."""
    scheduler = Scheduler()
    job = ranged(1, 8 * MIB, known())
    scheduler.add(job)
    failed = take(scheduler)
    scheduler.advance(failed, 3 * MIB, 1.0)

    scheduler.close(failed)
    again = take(scheduler, now=1.0)

    assert (again.start, again.stop) == (3 * MIB, 8 * MIB)


def test_a_removed_file_wants_nothing_back() -> None:
    """Its leases are revoked, and what they did not bring is nobody's any more."""
    scheduler = Scheduler()
    job = ranged(1, 64 * MIB, known())
    scheduler.add(job)
    lease = take(scheduler)

    returned = scheduler.remove(job)
    scheduler.close(lease)

    assert returned == [lease]
    assert lease.revoked
    assert not scheduler.knows(job)
    assert not scheduler.hungry()
    assert scheduler.next(0.0, always, 8) is None


# -- small files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("connections", "small"), [(1, 1), (2, 1), (3, 1), (8, 4), (9, 4)])
def test_small_files_go_first_but_leave_half_of_the_connections(
    connections: int, small: int
) -> None:
    """Configs arrive early, and the line does not lie idle for round trips."""
    scheduler = Scheduler()
    source = known()
    scheduler.add(ranged(0, 4096 * MIB, source))
    for key in range(1, 50):
        scheduler.add(whole(key, 1000, source))

    leases = take_all(scheduler, connections)

    assert [lease.job.whole for lease in leases] == [at < small for at in range(connections)]


def test_small_files_take_all_connections_when_no_large_work_is_left() -> None:
    """The limit protects large files; without them it protects nobody."""
    scheduler = Scheduler()
    for key in range(50):
        scheduler.add(whole(key, 1000, known()))

    leases = take_all(scheduler, 8)

    assert [lease.job.key for lease in leases] == list(range(8))


def test_a_small_file_is_asked_for_in_one_piece() -> None:
    """No range, from byte 0 to its end."""
    scheduler = Scheduler()
    scheduler.add(whole(1, 1234, known()))

    lease = take(scheduler)

    assert (lease.start, lease.stop, lease.body) == (0, 1234, True)


def test_a_file_of_unknown_size_is_one_lease_without_an_end() -> None:
    """Nobody helps it: where it ends is not known."""
    scheduler = Scheduler()
    scheduler.add(whole(1, None, known()))

    lease = take(scheduler)

    assert lease.body
    assert lease.remaining > 1 << 60
    assert scheduler.next(0.0, always, 8) is None


def test_a_small_file_that_broke_off_begins_anew_when_asked() -> None:
    """Its bytes are not kept; `again` puts it in the queue."""
    scheduler = Scheduler()
    job = whole(1, 1000, known())
    scheduler.add(job)
    lease = take(scheduler)
    scheduler.advance(lease, 400, 0.1)
    scheduler.close(lease)
    assert not scheduler.hungry()

    scheduler.again(job)
    second = take(scheduler)

    assert (second.start, second.stop) == (0, 1000)


def test_a_small_file_whose_origin_is_paused_lets_others_pass() -> None:
    """A queue is not a dam."""
    scheduler = Scheduler()
    paused, free = known("paused"), known("free")
    scheduler.add(whole(1, 1000, paused))
    scheduler.add(whole(2, 1000, free))

    lease = scheduler.next(0.0, lambda source: source is free, 8)

    assert lease is not None
    assert lease.job.key == 2
    assert scheduler.waiting_whole() == 1


def test_many_small_files_of_a_paused_origin_let_another_pass() -> None:
    """However long the queue of the paused ones is, and it keeps its order."""
    scheduler = Scheduler()
    paused, free = known("paused"), known("free")
    for key in range(40):
        scheduler.add(whole(key, 1000, paused))
    scheduler.add(whole(99, 1000, free))

    lease = scheduler.next(0.0, lambda source: source is free, 8)
    later = take(scheduler)

    assert lease is not None
    assert lease.job.key == 99
    assert later.job.key == 0


# -- sources ---------------------------------------------------------------------------------------


def test_the_believed_source_is_the_only_one_asked_while_it_is_alive() -> None:
    """Not even when it may not be asked now, nor if it is a fallback; then the others are."""
    scheduler = Scheduler()
    fast, believed = known("fast", rate=1e9), known("believed", rate=1e6)
    believed.fallback = True
    job = ranged(1, 512 * MIB, fast, believed)
    job.believed = "believed"
    scheduler.add(job)

    asked = {lease.source.name for lease in take_all(scheduler, 4)}
    meanwhile = scheduler.next(0.0, lambda source: source is fast, 8)
    believed.alive = False
    after = take(scheduler)

    assert asked == {"believed"}
    assert meanwhile is None
    assert after.source is fast


def test_a_fallback_is_asked_only_when_no_other_source_is_alive() -> None:
    """Not when the others are merely busy or paused."""
    scheduler = Scheduler()
    first, second, fallback = known("first"), known("second"), known("fallback", rate=1e9)
    fallback.fallback = True
    scheduler.add(ranged(1, 512 * MIB, fallback, first, second))

    asked = {take(scheduler).source.name for _ in range(6)}
    meanwhile = scheduler.next(0.0, lambda source: source is fallback, 8)
    first.alive = second.alive = False
    after = take(scheduler)

    assert asked == {"first", "second"}
    assert meanwhile is None
    assert after.source is fallback


def test_sources_get_connections_in_proportion_to_their_rates() -> None:
    """Twice as fast, twice as many."""
    scheduler = Scheduler()
    slow, fast = known("slow", rate=5e6), known("fast", rate=10e6)
    scheduler.add(ranged(1, 4096 * MIB, slow, fast))

    take_all(scheduler, 9)

    assert (slow.active, fast.active) == (3, 6)


def test_who_keeps_silent_while_others_answer_is_asked_by_one_request_at_a_time() -> None:
    """A tenth of a second is time enough for an answer."""
    scheduler = Scheduler()
    new, good = unknown(), known(rate=50e6)
    scheduler.add(ranged(1, 4096 * MIB, new, good))
    first = take(scheduler)

    soon = take(scheduler, now=0.05)
    late = [take(scheduler, now=0.1) for _ in range(3)]
    more = scheduler.next(0.1, lambda source: source is new, 8)
    scheduler.take_back(first, 2.0)
    scheduler.close(first)
    scheduler.take_back(soon, 2.0)
    scheduler.close(soon)
    once_more, others = take(scheduler, now=2.0), [take(scheduler, now=2.0) for _ in range(3)]

    assert first.source is once_more.source is new
    assert {lease.source for lease in [*late, *others]} == {good}
    assert more is None


def test_who_has_answered_and_shown_no_rate_yet_gets_as_much_as_the_others() -> None:
    """It counts as a very fast one only until it was asked."""
    scheduler = Scheduler()
    new, good = known("new", rate=0.0), known("good", rate=10e6)
    scheduler.add(ranged(1, 4096 * MIB, new, good))

    take_all(scheduler, 8)

    assert (new.active, good.active) == (4, 4)


def test_who_brings_its_leases_within_a_beat_gets_connections_by_what_it_brings() -> None:
    """A chunk in three seconds, nearly all of it waiting: seven times what the other gives."""
    scheduler = Scheduler()
    far, slow = unknown("far"), known("slow", rate=0.2e6)
    scheduler.add(ranged(1, 4096 * MIB, far, slow))
    lease = take(scheduler)
    scheduler.advance(lease, MIB, 3.0)
    scheduler.advance(lease, 3 * MIB, 3.04)
    scheduler.close(lease)

    leases = [take(scheduler, now=3.04) for _ in range(8)]

    assert (far.host.rate, far.host.delivers) == (0.0, pytest.approx(CHUNK / 3.04))
    assert (far.active, slow.active) == (7, 1)
    assert {lease.remaining > CHUNK for lease in leases if lease.source is far} == {True}


def test_a_near_host_whose_leases_are_over_within_a_beat_gets_chunks() -> None:
    """Longer ones would not make it faster, and the window would not fit into memory."""
    scheduler = Scheduler()
    near = unknown("near")
    scheduler.add(ranged(1, 4096 * MIB, near))
    lease = take(scheduler)
    scheduler.advance(lease, MIB, 0.02)
    scheduler.advance(lease, 3 * MIB, 0.04)
    scheduler.close(lease)

    assert near.host.delivers > 0
    assert take(scheduler, now=0.04).remaining == CHUNK


def test_sources_that_are_worse_are_asked_only_for_what_no_better_one_has() -> None:
    """Proven wrong bytes of this very file are worse than a bad name, that worse than a failure."""
    lied, useless, failed, good = known("lied"), known("useless"), known("failed"), known("good")
    useless.standing.last = True
    job = whole(1, MIB, lied, useless, failed, good)
    job.wrong, job.doubted = {"lied"}, {"failed"}
    turns = []

    while able := job.askable():
        turns.append([source.name for source in able])
        able[0].alive = False

    assert turns == [["good"], ["failed"], ["useless"], ["lied"]]


def test_a_source_not_heard_of_yet_gets_its_chance() -> None:
    """It counts as a fast one until it has shown what it delivers."""
    scheduler = Scheduler()
    new = unknown()
    scheduler.add(ranged(1, 512 * MIB, known(rate=50e6), new))

    lease = take(scheduler)

    assert lease.source is new


def test_a_dead_source_is_not_asked() -> None:
    """With no source alive there is nothing to hand out, and the file says so."""
    scheduler = Scheduler()
    source = known()
    job = ranged(1, 512 * MIB, source)
    scheduler.add(job)
    scheduler.add(small := whole(2, 1000, source))

    source.alive = False

    assert scheduler.next(0.0, always, 8) is None
    assert not job.alive()
    assert not small.alive()


def test_a_source_without_ranges_gets_one_body_that_nobody_splits() -> None:
    """Its connection brings everything missing, from one request."""
    scheduler = Scheduler()
    source = known()
    source.ranges = False
    scheduler.add(ranged(1, 512 * MIB, source))

    lease = take(scheduler)

    assert (lease.start, lease.stop, lease.body) == (0, 512 * MIB, True)
    assert scheduler.next(5.0, always, 8) is None


def test_a_source_with_ranges_is_preferred_to_one_without() -> None:
    """A body that nobody can split must not take a whole file from the sources that do ranges."""
    scheduler = Scheduler()
    good, bodies = known("good", rate=50e6), known("bodies", rate=60e6)
    bodies.ranges = False
    scheduler.add(ranged(1, 1024 * MIB, good, bodies))

    leases = take_all(scheduler, 4)

    assert [lease.source for lease in leases] == 4 * [good]


def test_a_source_without_ranges_is_used_when_no_other_is_left() -> None:
    """Slow is better than not at all."""
    scheduler = Scheduler()
    good, bodies = known("good", rate=50e6), known("bodies", rate=60e6)
    bodies.ranges = False
    scheduler.add(ranged(1, 1024 * MIB, good, bodies))

    good.alive = False
    lease = take(scheduler)

    assert lease.source is bodies
    assert lease.body


def test_a_body_that_broke_off_is_asked_for_once_more() -> None:
    """One at a time, from where it broke."""
    scheduler = Scheduler()
    source = known()
    source.ranges = False
    scheduler.add(ranged(1, 512 * MIB, source))
    lease = take(scheduler)
    scheduler.advance(lease, 100 * MIB, 1.0)

    scheduler.close(lease)
    again = take(scheduler)

    assert (again.start, again.stop, again.body) == (100 * MIB, 512 * MIB, True)


def test_a_source_that_ignores_its_first_range_does_not_do_ranges() -> None:
    """Nothing speaks for the contrary."""
    source = known()

    source.ignored()

    assert not source.ranges


def test_one_bad_edge_does_not_cost_a_source_its_ranges() -> None:
    """After a range that worked, it takes three in a row."""
    source = known()
    source.ranged()

    history = []
    for what in (source.ignored, source.ignored, source.ranged, source.ignored, source.ignored):
        what()
        history.append(source.ranges)
    source.ignored()

    assert all(history)
    assert not source.ranges


def test_four_faults_in_a_row_drop_a_source() -> None:
    """The fourth is once too often."""
    source = known()

    answers = [source.fault() for _ in range(4)]

    assert answers == [True, True, True, False]
    assert not source.alive


def test_a_right_answer_forgives_the_faults() -> None:
    """Only faults in a row count."""
    source = known()

    for _ in range(10):
        for _ in range(3):
            source.fault()
        source.served()

    assert source.alive


@pytest.mark.parametrize(
    ("what", "failing", "well"),
    [
        ([], False, False),
        (["served"], False, True),
        (["served", "failed"], True, False),
        (["failed", "served"], False, True),
        (["failed", "served before"], True, False),
        (["served", "dropped"], True, True),
    ],
)
def test_a_source_fails_until_it_serves_what_it_was_asked_for_since(
    what: list[str], failing: bool, well: bool
) -> None:
    """What was under way when it failed may still arrive, and says nothing."""
    source = known()

    for moment, happened in enumerate(what, start=1):
        if happened == "failed":
            source.failed(float(moment))
        elif happened == "dropped":
            source.alive = False
        else:
            source.served(moment - (1.5 if happened == "served before" else 0.5))

    assert (source.failing, source.well) == (failing, well)


# -- late ones -------------------------------------------------------------------------------------


def due(scheduler: Scheduler, lease: Lease) -> float:
    """The seconds after which a lease is late, a tenth at a time."""
    tenths = (lease.began + tenth / 10 for tenth in range(300))
    return next(now for now in tenths if lease in scheduler.overdue(now, idle=True)) - lease.began


def silent_lease(source: SourceState, size: int = CHUNK) -> tuple[Scheduler, Lease]:
    """A lease that got its first bytes at 0.05 s and nothing since."""
    scheduler = Scheduler(idle_timeout=30.0)
    scheduler.add(ranged(1, size, source))
    lease = take(scheduler)
    scheduler.advance(lease, 1000, 0.05)
    return scheduler, lease


def test_a_silent_lease_is_late_after_a_second_if_a_connection_is_idle() -> None:
    """Another one could have its bytes sooner."""
    scheduler, lease = silent_lease(known(round_trip=0.05))

    late = {now: scheduler.overdue(now, idle=True) for now in (0.5, 1.0, 1.06)}

    assert late == {0.5: [], 1.0: [], 1.06: [lease]}


def test_a_silent_lease_has_the_idle_timeout_if_nobody_could_help() -> None:
    """Patience is long where taking back gains nothing."""
    scheduler, lease = silent_lease(known(round_trip=0.05))

    late = {now: scheduler.overdue(now, idle=False) for now in (1.06, 30.0, 30.06)}

    assert late == {1.06: [], 30.0: [], 30.06: [lease]}


def test_a_far_server_gets_more_patience() -> None:
    """Silence is counted in round trips where they are long."""
    source = known(round_trip=1.0)
    scheduler = Scheduler()
    scheduler.add(ranged(1, CHUNK, source))
    lease = take(scheduler)
    scheduler.advance(lease, 1000, 1.0)

    late = {now: scheduler.overdue(now, idle=True) for now in (8.9, 9.1)}

    assert late == {8.9: [], 9.1: [lease]}


def test_a_server_that_never_answered_is_late_only_after_the_idle_timeout() -> None:
    """Nothing is known about how slow it may be; a new request would be no better."""
    scheduler = Scheduler(idle_timeout=30.0)
    scheduler.add(ranged(1, CHUNK, unknown()))
    lease = take(scheduler)

    late = {now: scheduler.overdue(now, idle=True) for now in (1.1, 29.9, 30.0)}

    assert late == {1.1: [], 29.9: [], 30.0: [lease]}


def test_a_server_that_never_answered_is_late_soon_if_another_source_answers() -> None:
    """A dead first source costs its idle timeout only if nobody else could help."""
    scheduler = Scheduler(idle_timeout=30.0)
    dead, good = unknown("dead"), known("good", round_trip=0.05, rate=50e6)
    scheduler.add(ranged(1, CHUNK, dead, good))
    victim = take(scheduler)
    assert victim.source is dead

    late = {now: scheduler.overdue(now, idle=True) for now in (1.9, 2.0)}
    helped = scheduler.next(2.0, lambda source: source is good, 8)

    assert late == {1.9: [], 2.0: [victim]}
    assert helped is not None
    assert helped.source is good
    assert helped.start == victim.stop <= SPLIT_ALIGN


def test_a_server_that_never_answered_has_time_while_every_connection_works() -> None:
    """The other source has no room for one more: nobody is free who could ask it."""
    scheduler = Scheduler(idle_timeout=30.0)
    dead = unknown("dead")
    scheduler.add(ranged(1, CHUNK, dead, known("good")))
    take(scheduler)

    assert scheduler.overdue(29.9, idle=False, usable=lambda source: source is dead) == []


def test_a_connection_to_who_never_answered_is_taken_back_though_none_is_idle() -> None:
    """The other source has room, and it is the number of connections that has an end."""
    scheduler = Scheduler(idle_timeout=30.0)
    scheduler.add(ranged(1, CHUNK, unknown("dead"), known("good")))
    lease = take(scheduler)

    late = {now: scheduler.overdue(now, idle=False) for now in (1.9, 2.0)}

    assert late == {1.9: [], 2.0: [lease]}


def test_a_far_server_has_the_patience_of_a_near_one_that_could_do_its_work() -> None:
    """Eight seconds alone; a second where the other would have the bytes, and may be asked."""
    scheduler = Scheduler()
    far, near = known("far", round_trip=1.0, rate=100e6), known("near", rate=1e6)
    scheduler.add(ranged(1, CHUNK, far, near))
    lease = take(scheduler)
    scheduler.advance(lease, 1000, 1.0)

    beside = {now: scheduler.overdue(now, idle=True) for now in (1.9, 2.0)}
    alone = scheduler.overdue(2.0, idle=True, usable=lambda source: source is far)

    assert lease.source is far
    assert beside == {1.9: [], 2.0: [lease]}
    assert alone == []


@pytest.mark.parametrize(("rate", "moment"), [(0.5e6, 4.3), (20e6, 2.0)])
def test_the_first_request_to_who_never_answered_has_half_the_time_that_the_other_would_need(
    rate: float, moment: float
) -> None:
    """More than eight seconds for a chunk; a dead one costs half of that, on one connection."""
    scheduler = Scheduler()
    new = unknown()
    scheduler.add(ranged(1, 512 * MIB, new, known("good", rate=rate)))
    first, second = (scheduler.next(0.0, lambda one: one is new, 8) for _ in range(2))
    assert first is not None
    assert second is not None

    late = {lease: due(scheduler, lease) for lease in (first, second)}
    news = [
        scheduler.take_back(lease, late[lease])
        for lease in sorted((first, second), key=lambda one: late[one])
    ]
    scheduler.close(first)
    scheduler.close(second)
    again = scheduler.next(10.0, lambda one: one is new, 8)
    assert again is not None

    assert late == {first: pytest.approx(moment), second: pytest.approx(2.0)}
    assert news == [True, moment > 2.0]
    assert due(scheduler, again) == pytest.approx(4.0 if moment == 2.0 else 8.0)


@pytest.mark.parametrize(("rate", "moment"), [(1e6, 6.0), (20e6, 2.0)])
def test_who_is_known_to_be_far_has_two_round_trips_if_the_other_needs_longer_than_one(
    rate: float, moment: float
) -> None:
    """It answers after three seconds, as ever; the other would have a chunk after four."""
    scheduler = Scheduler()
    far = known("far", round_trip=3.0, rate=100e6)
    scheduler.add(ranged(1, CHUNK, far, known("near", rate=rate)))
    lease = take(scheduler)

    assert lease.source is far
    assert due(scheduler, lease) == pytest.approx(moment)


def test_a_request_without_an_answer_has_twice_the_patience() -> None:
    """From a server that has answered others, a head may take longer than the next byte."""
    scheduler = Scheduler()
    scheduler.add(ranged(1, CHUNK, known(round_trip=0.05)))
    lease = take(scheduler)

    late = {now: scheduler.overdue(now, idle=True) for now in (1.1, 1.9, 2.0)}

    assert late == {1.1: [], 1.9: [], 2.0: [lease]}


def test_patience_doubles_with_each_request_taken_back() -> None:
    """Perhaps the server is just slow; it is not asked in a circle."""
    source = known(round_trip=0.05)
    patience = []

    for _ in range(8):
        patience.append(source.host.patience(answered=True))
        scheduler, lease = silent_lease(known())
        lease.source.host = source.host
        scheduler.take_back(lease, 1.0)

    assert patience == [1, 2, 4, 8, 16, 32, 64, 64]


@pytest.mark.parametrize(("others", "counted"), [([], 4), ([known("good")], 1)])
def test_requests_that_are_late_together_count_once_if_another_host_answers(
    others: list[SourceState], counted: int
) -> None:
    """Alone each counts: a slow server is rather waited for. Beside another it would wait long."""
    scheduler = Scheduler()
    source = known(rate=100e6)
    scheduler.add(ranged(1, 512 * MIB, source, *others))
    only = [scheduler.next(0.0, lambda one: one is source, 8) for _ in range(4)]
    leases = [lease for lease in only if lease is not None]

    news = [scheduler.take_back(lease, 2.0) for lease in leases]

    assert source.host.taken_back == counted
    assert news == ([True, False, False, False] if others else [False] * 4)


def test_the_next_wave_counts_again() -> None:
    """Requests that were made after the last ones were taken back."""
    scheduler = Scheduler()
    source = known(rate=100e6)
    scheduler.add(ranged(1, 512 * MIB, source, known("good")))

    for now in (2.0, 5.0, 9.0):
        lease = scheduler.next(now - 1.0, lambda one: one is source, 8)
        assert lease is not None
        assert scheduler.take_back(lease, now)

    assert source.host.taken_back == 3


def test_an_answer_brings_patience_back_to_normal() -> None:
    """A new request that is answered proves that taking back helped."""
    host = Host("hub", round_trip=0.05, taken_back=4)

    host.learn_round_trip(0.05)

    assert host.patience(answered=True) == 1


def test_a_lease_taken_back_is_not_taken_back_twice() -> None:
    """Its request may take a moment to end."""
    scheduler, lease = silent_lease(known())

    scheduler.take_back(lease, 1.0)

    assert lease.revoked
    assert scheduler.overdue(1000.0, idle=True) == []


def test_a_lease_with_all_its_bytes_is_never_late() -> None:
    """What it waits for is our own disk."""
    scheduler, lease = silent_lease(known())
    scheduler.advance(lease, lease.remaining, 0.1)

    assert scheduler.overdue(1000.0, idle=True) == []


def crawling(rate: float, seconds: float) -> tuple[Scheduler, Lease]:
    """Seven leases at 10 MB/s and one of 8 MiB that gets `rate`."""
    scheduler = Scheduler(chunk=64 * MIB)
    scheduler.add(ranged(1, 7 * 64 * MIB + 8 * MIB, known(round_trip=0.05, rate=10e6)))
    leases = [take(scheduler, 8) for _ in range(8)]
    for beat in range(1, round(seconds * 10) + 1):
        now = beat / 10
        for lease in leases[:-1]:
            scheduler.advance(lease, 1_000_000, now)
        scheduler.advance(leases[-1], round(rate / 10), now)
        scheduler.tick(now)
    return scheduler, leases[-1]


def test_a_crawling_lease_is_late_though_it_is_never_silent() -> None:
    """A few bytes each tenth of a second would hold a file for ever."""
    scheduler, crawler = crawling(10e3, 2.0)

    late = scheduler.overdue(2.0, idle=True)

    assert late == [crawler]


def test_a_crawling_lease_is_left_alone_while_every_connection_works() -> None:
    """Nobody is free who could do better."""
    scheduler, _ = crawling(10e3, 2.0)

    assert scheduler.overdue(2.0, idle=False) == []


def test_a_lone_lease_that_begins_to_crawl_is_late() -> None:
    """With nobody beside it, it must not teach the host its own crawling."""
    scheduler = Scheduler()
    scheduler.add(whole(1, 6 * MIB, known(round_trip=0.05, rate=10e6)))
    lease = take(scheduler)
    deliver(scheduler, [lease], 10e6, 0.0, 0.5)
    assert lease.remaining < 2 * MIB

    late = []
    for tenth in range(5, 605):
        now = deliver(scheduler, [lease], 100.0, tenth / 10, (tenth + 1) / 10)
        late = late or scheduler.overdue(now, idle=True)

    assert late == [lease]


def test_a_host_that_got_slower_is_known_to_be_slower_after_a_while() -> None:
    """What it can do is unlearnt slowly, and learnt at once."""
    host = Host("hub", rate=10e6)

    for _ in range(5):
        host.learn_rate(1e6)
    soon = host.rate
    for _ in range(200):
        host.learn_rate(1e6)
    late = host.rate
    for _ in range(20):
        host.learn_rate(10e6)

    assert soon > 8e6
    assert late == pytest.approx(1e6, rel=0.05)
    assert host.rate == pytest.approx(10e6, rel=0.05)


def test_a_job_with_leases_can_be_shown() -> None:
    """Each knows the other: a failing test, or a debugger, prints them."""
    scheduler = Scheduler()
    job = ranged(1, 64 * MIB, known())
    scheduler.add(job)
    lease = take(scheduler)

    assert "key=1" in repr(job)
    assert "key=1" in repr(lease)


def test_a_lease_at_half_speed_does_not_crawl() -> None:
    """A new connection would not be done much earlier."""
    scheduler, _ = crawling(5e6, 1.2)

    assert scheduler.overdue(1.2, idle=True) == []
