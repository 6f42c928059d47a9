"""Which late request gets a second one, when that one has won, and what it may cost."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.core.hedging import LEAD, LEAST, MIB, SHARE, Allowance, candidate, over_read, wins
from modelhaul.core.scheduler import CHUNK, Job, Lease, Scheduler
from modelhaul.core.sources import Host, SourceState
from modelhaul.core.span import Span, SpanSet
from tests.support.properties import thorough


def always(source: SourceState) -> bool:
    return True


def host(name: str = "hub", *, round_trip: float = 0.05, rate: float = 10e6) -> Host:
    return Host(name, round_trip=round_trip, rate=rate)


def leased(
    size: int, *sources: SourceState, whole: bool = False, rates: Iterable[float] = ()
) -> tuple[Scheduler, Lease]:
    """One lease for all of one file, at 0.0; then a tenth of a second of each rate."""
    scheduler = Scheduler(chunk=max(size, 1))
    todo = SpanSet() if whole else SpanSet([Span(0, size)])
    scheduler.add(Job(key=0, size=size, sources=list(sources), whole=whole, todo=todo))
    lease = scheduler.next(0.0, always, 1)
    assert lease is not None
    for beat, rate in enumerate(rates, 1):
        scheduler.advance(lease, round(rate / 10), beat / 10)
        scheduler.tick(beat / 10)
    return scheduler, lease


def hub(**of_host: float) -> SourceState:
    return SourceState("hub", host(**of_host))


def moment(scheduler: Scheduler, *, until: float = 40.0, most: int = CHUNK) -> float | None:
    """The tenth of a second at which the only lease is late, if nothing comes any more."""
    for tenth in range(round(10 * until)):
        if candidate(scheduler, tenth / 10, always, most=most) is not None:
            return tenth / 10
    return None


# -- who is late -----------------------------------------------------------------------------------


def test_silence_is_late_at_half_the_patience_of_a_take_back() -> None:
    """Half a second, where a round trip is short; with or without a first byte."""
    answered, _ = leased(MIB, hub(), rates=[1e6])
    unanswered, _ = leased(MIB, hub())

    assert moment(answered) == pytest.approx(0.6)
    assert moment(unanswered) == pytest.approx(0.5)


def test_a_far_server_gets_four_round_trips() -> None:
    """Silence is counted in round trips where they are long."""
    scheduler, _ = leased(MIB, hub(round_trip=1.0))

    assert moment(scheduler) == pytest.approx(4.0)


def test_a_server_of_which_nothing_is_known_is_never_late() -> None:
    """Not one answer so far: nobody knows what to expect."""
    scheduler, _ = leased(MIB, SourceState("new", Host("new")))

    assert moment(scheduler) is None


@pytest.mark.parametrize("round_trip", [0.0, 2.0])
def test_who_is_silent_or_far_is_late_by_the_measure_of_who_could_do_its_work(
    round_trip: float,
) -> None:
    """The other one would have answered long before."""
    slow = SourceState("slow", host("slow", round_trip=round_trip, rate=100e6))
    scheduler, lease = leased(MIB, slow, SourceState("quick", host("quick", rate=1e6)))

    assert lease.source is slow
    assert moment(scheduler) == pytest.approx(0.5)


def test_who_is_far_is_not_late_by_the_measure_of_who_is_slow() -> None:
    """Three seconds as ever, and the other would need ten: it has two round trips."""
    far = SourceState("far", host("far", round_trip=3.0, rate=100e6))
    scheduler, lease = leased(MIB, far, SourceState("slow", host("slow", rate=0.1e6)))

    assert lease.source is far
    assert moment(scheduler) == pytest.approx(6.0)


def test_each_hedge_in_vain_doubles_the_patience() -> None:
    """Perhaps the server is just slow with this file."""
    scheduler, lease = leased(MIB, hub())
    moments = []

    for _ in range(4):
        moments.append(moment(scheduler))
        scheduler.close(scheduler.hedge(lease, lease.source, 0.0))

    assert moments == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize(("rate", "is_late"), [(50e3, True), (6e6, False)])
def test_slow_is_late_if_a_new_connection_would_be_done_in_half_the_time(
    rate: float, *, is_late: bool
) -> None:
    """The host gives 10 MB/s to others; this connection is never silent."""
    scheduler, _ = leased(3 * MIB, hub(), rates=[rate] * 8)

    assert (candidate(scheduler, 0.8, always, most=CHUNK) is not None) == is_late


def test_the_end_of_a_slow_connection_is_not_worth_a_hedge() -> None:
    """A few kilobytes are here sooner than the head of another answer."""
    scheduler, lease = leased(MIB, hub(), rates=[50e3] * 8)
    scheduler.advance(lease, lease.remaining - 10_000, 0.8)

    assert candidate(scheduler, 0.8, always, most=CHUNK) is None


@pytest.mark.parametrize("why", ["held", "revoked", "hedged", "all here"])
def test_these_are_never_late(why: str) -> None:
    """Its silence is ours, it is being ended, it has a hedge, it waits for our disk."""
    scheduler, lease = leased(MIB, hub(), rates=[1e6])
    match why:
        case "held":
            scheduler.hold(lease)
        case "revoked":
            scheduler.take_back(lease, 0.1)
        case "hedged":
            scheduler.hedge(lease, lease.source, 0.1)
        case _:
            scheduler.advance(lease, lease.remaining, 0.1)

    assert moment(scheduler) is None


def test_no_hedge_is_longer_than_what_it_may_cost() -> None:
    """At most a chunk, at most what is left of the allowance; of a body all counts."""
    ranged, _ = leased(MIB, hub(), rates=[1e6])
    body, _ = leased(MIB, hub(), whole=True, rates=[1e6])

    assert moment(ranged, most=MIB - 100_000) is not None
    assert moment(ranged, most=MIB - 100_001) is None
    assert moment(body, most=MIB) is not None
    assert moment(body, most=MIB - 1) is None


def test_a_body_without_ranges_is_not_hedged() -> None:
    """Its source can only begin at byte 0 again."""
    scheduler, lease = leased(MIB, SourceState("hub", host(), ranges=False))

    assert lease.body
    assert moment(scheduler) is None


def test_a_lease_with_a_hedge_is_not_split() -> None:
    """Both have the same end."""
    scheduler, lease = leased(64 * MIB, hub())
    scheduler.hedge(lease, lease.source, 0.0)

    assert scheduler.next(10.0, always, 8) is None


def test_a_crawling_lease_is_left_to_its_hedge_and_a_silent_one_is_not() -> None:
    """If the hedge is not faster, taking back gains nothing; if both are dead it does."""
    scheduler, lease = leased(MIB, hub(), rates=[1e6, *[10e3] * 19])
    before = scheduler.overdue(2.0, idle=True)
    scheduler.hedge(lease, lease.source, 2.0)

    hedged = scheduler.overdue(2.0, idle=True)
    silent = scheduler.overdue(3.0, idle=True)

    assert (before, hedged, silent) == ([lease], [], [lease])


# -- who is asked ----------------------------------------------------------------------------------


def test_another_host_is_asked_if_there_is_one() -> None:
    """However much faster the late one used to be."""
    fast, slow = SourceState("a", host("a", rate=10e6)), SourceState("b", host("b", rate=1e6))
    scheduler, lease = leased(MIB, fast, slow)

    found = candidate(scheduler, 2.0, always, most=CHUNK)

    assert lease.source is fast
    assert found == (lease, slow)


def test_the_same_host_is_asked_where_the_other_is_a_fallback_or_paused() -> None:
    """The rules for sources are those of every request."""
    first, other = SourceState("a", host("a")), SourceState("b", host("b"))
    scheduler, lease = leased(MIB, first, other)

    paused = candidate(scheduler, 2.0, lambda one: one is first, most=CHUNK)
    other.fallback = True
    fallback = candidate(scheduler, 2.0, always, most=CHUNK)
    nobody = candidate(scheduler, 2.0, lambda one: False, most=CHUNK)

    assert paused == fallback == (lease, first)
    assert nobody is None


# -- who wins --------------------------------------------------------------------------------------


def test_a_hedge_wins_when_it_is_clearly_ahead_or_has_all() -> None:
    """A first gust is not enough, unless it is all there was to get."""
    scheduler, late = leased(MIB, hub())
    hedge = scheduler.hedge(late, late.source, 1.0)
    scheduler.advance(late, 1000, 1.1)
    steps = []

    for count in (1000, LEAD - 1, 1):
        scheduler.advance(hedge, count, 1.2)
        steps.append(wins(hedge))
    scheduler.advance(late, late.remaining - 10, 1.3)
    steps.append(wins(hedge))
    scheduler.advance(hedge, hedge.remaining, 1.4)
    steps.append(wins(hedge))
    scheduler.advance(late, 10, 1.5)
    steps.append(wins(hedge))

    assert steps == [False, False, True, False, True, False]


@given(late_has=st.integers(0, MIB), hedge_has=st.integers(0, MIB), body=st.booleans())
@thorough
def test_whoever_ends_every_byte_has_one_owner(
    late_has: int, hedge_has: int, *, body: bool
) -> None:
    """The late one stops anywhere: the rest is the hedge's if that is not behind, else nobody's."""
    scheduler, late = leased(MIB, hub(), whole=body)
    hedge = scheduler.hedge(late, late.source, 0.0)
    scheduler.advance(late, late_has, 1.0)
    scheduler.advance(hedge, hedge_has, 1.0)

    scheduler.close(late)

    owns = late_has < MIB and (body or hedge_has >= late_has)
    assert (hedge.rival is None) == owns != hedge.revoked
    assert late.job.leases == ([hedge] if owns else [])
    if not body:
        owned = hedge.remaining if owns else 0
        assert late_has + owned + late.job.todo.total == MIB
        assert hedge.position == late_has or not owns


# -- what it costs ---------------------------------------------------------------------------------


@given(
    total=st.integers(0, 10**13),
    hedges=st.lists(st.tuples(st.integers(0, 8 * MIB), st.floats(0, 1), st.booleans())),
)
@thorough
def test_hedges_never_cost_more_than_their_allowance(
    total: int, hedges: list[tuple[int, float, bool]]
) -> None:
    """In any order of beginnings and ends, whatever share of each was wasted."""
    allowance = Allowance()
    allowance.total = total
    running: list[tuple[int, int]] = []

    for size, share, ends in hedges:
        if size <= allowance.left:
            allowance.reserve(size)
            running.append((size, int(share * size)))
        if ends and running:
            allowance.settle(*running.pop(0))
        assert 0 <= allowance.spent + allowance.reserved <= allowance.limit
    for pair in running:
        allowance.settle(*pair)

    assert allowance.reserved == 0
    assert allowance.spent <= allowance.limit == max(total // SHARE, LEAST)


def test_over_read_bytes_leave_less_for_hedges() -> None:
    """Nobody can prevent them; when they have used everything up there is nothing to hedge with."""
    allowance = Allowance()

    allowance.spend(LEAST + 1)

    assert allowance.left == 0


def test_what_a_connection_holds_is_over_read_when_we_end_it() -> None:
    """About its rate times a round trip, and no more than was asked for; nothing if it ended."""
    _, lease = leased(8 * MIB, hub(round_trip=0.1), rates=[1e6] * 30)
    before = over_read(lease)

    lease.stop = lease.position + MIB
    shortened = over_read(lease)
    lease.position = lease.asked - 1000
    nearly_all = over_read(lease)

    assert before == 0
    assert shortened == pytest.approx(100_000, rel=0.01)
    assert nearly_all == 1000
