"""How many connections: the controller on simulated lines in virtual time, and the user's limit.

A `Simulation` moves bytes like water: connections share a line evenly, each at most at its own
rate, and pay a round trip per request. The controller gets its samples each tenth of a second, as
the driver gives them, and a request that has begun is finished, as the driver does it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.core.pace import FORGIVE, FORGIVE_MOST, START, Pace, Sample, Throttle
from tests.support.properties import thorough

MB = 1_000_000
STEP = 0.01


@dataclass
class Line:
    """What lies between us and a server.

    Attributes:
        rate: bytes/s of all connections together.
        each: bytes/s of one connection.
        round_trip: seconds from a request to its first byte.
        request: bytes that one request brings.
        welcome: connections that the server takes; more are refused.
        burst: bytes that a new connection brings at once, out of buffers on the way.
    """

    rate: float
    each: float = inf
    round_trip: float = 0.05
    request: float = 16 * MB
    welcome: int | None = None
    burst: float = 0.0


@dataclass
class Connection:
    """One request after the other: `waits` for the first byte, then `left` bytes."""

    waits: float
    left: float
    burst: float = 0.0


@dataclass
class Simulation:
    """A pace and its line; `history` has one (target, received) per step."""

    line: Line
    pace: Pace = field(default_factory=lambda: Pace(cap=64))
    connections: list[Connection] = field(default_factory=list)
    received: float = 0.0
    completed: int = 0
    refusals: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)
    _opened: int = 0
    _paused_until: float = 0.0

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return len(self.history) * STEP

    def run(self, seconds: float) -> None:
        """Let this much time pass."""
        for _ in range(round(seconds / STEP)):
            self._open()
            self._move()
            self.history.append((self.pace.target, self.received))
            if len(self.history) % 10 == 0:
                self.pace.observe(
                    Sample(
                        now=self.now,
                        received=int(self.received),
                        completed=self.completed,
                        active=len(self.connections),
                        limited=False,
                        round_trip=self.line.round_trip,
                    )
                )

    def _open(self) -> None:
        while len(self.connections) < self.pace.target and self.now >= self._paused_until:
            if self.line.welcome is not None and len(self.connections) >= self.line.welcome:
                self.refusals += 1
                self.pace.refused(self.now, len(self.connections))
                self._paused_until = self.now + 1.0  # as its Retry-After says
                return
            # The first ones are cut differently, so that they do not go in step for ever.
            self._opened += 1
            part = self._opened * 0.618 % 1 if self._opened <= START else 1.0
            first = self.line.round_trip
            self.connections.append(Connection(first, self.line.request * part, self.line.burst))

    def _move(self) -> None:
        flowing = [one for one in self.connections if one.waits <= 0]
        rate = min(self.line.each, self.line.rate / max(1, len(flowing)))
        for one in list(self.connections):
            if one.waits > 0:
                one.waits -= STEP
                continue
            got = min(one.left, rate * STEP + one.burst)
            one.burst = 0.0
            one.left -= got
            self.received += got
            if one.left < 1:
                self.completed += 1
                if len(self.connections) > self.pace.target:
                    self.connections.remove(one)
                else:
                    one.waits, one.left = self.line.round_trip, self.line.request

    def rate(self, since: float, until: float) -> float:
        """Bytes/s between two moments of the past."""
        first, last = (round(moment / STEP) - 1 for moment in (since, until))
        return (self.history[last][1] - self.history[first][1]) / (until - since)

    def targets(self, since: float, until: float) -> list[int]:
        """The targets between two moments of the past."""
        first, last = (round(moment / STEP) for moment in (since, until))
        return [target for target, _ in self.history[first:last]]


class Feed:
    """Samples without a line: bytes and requests per second are functions of the connections."""

    def __init__(self, pace: Pace, *, round_trip: float = 0.02) -> None:
        self.pace = pace
        self.now = 0.0
        self.received = 0.0
        self.completed = 0.0
        self.round_trip = round_trip

    def run(
        self,
        seconds: float,
        rate: Callable[[int], float],
        requests: Callable[[int], float] = lambda active: 100.0,
        *,
        limited: bool = False,
        idle: int = 0,
    ) -> list[int]:
        """One sample each tenth of a second; returns the targets after them."""
        targets = []
        for _ in range(round(10 * seconds)):
            active = self.pace.target - idle
            self.now += 0.1
            self.received += rate(active) / 10
            self.completed += requests(active) / 10
            self.pace.observe(
                Sample(
                    now=self.now,
                    received=int(self.received),
                    completed=int(self.completed),
                    active=active,
                    limited=limited,
                    round_trip=self.round_trip,
                )
            )
            targets.append(self.pace.target)
        return targets


def flat(active: int) -> float:
    """A line that one connection fills."""
    return 100.0 * MB


def growing(active: int) -> float:
    """A line on which each connection brings its own share."""
    return 10.0 * MB * active


# -- lines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_size", [16 * MB, 64 * MB, 256 * MB])
def test_a_line_with_slow_connections_is_used_within_five_seconds(request_size: float) -> None:
    """400 MB/s at 12 MB/s a connection take 33 of them: 90 % are there after five seconds."""
    simulation = Simulation(Line(400 * MB, each=12 * MB, request=request_size))

    simulation.run(5.0)

    assert simulation.rate(4.0, 5.0) >= 0.9 * 400 * MB


@pytest.mark.parametrize("request_size", [16 * MB, 64 * MB, 256 * MB])
def test_a_line_with_slow_connections_stays_in_use(request_size: float) -> None:
    """What was reached in five seconds is kept for minutes, however long a request takes."""
    simulation = Simulation(Line(400 * MB, each=12 * MB, request=request_size))

    simulation.run(120.0)

    worst = min(simulation.rate(at, at + 10.0) for at in range(10, 110, 10))
    assert worst >= 0.8 * 400 * MB


@pytest.mark.parametrize("burst", [0.5 * MB, 2 * MB, 6 * MB])
@pytest.mark.parametrize("round_trip", [0.002, 0.02, 0.05])
def test_bursts_out_of_buffers_do_not_end_the_climb(burst: float, round_trip: float) -> None:
    """The first rates are too good, so doubling seems to bring nothing: undoing it tells."""
    line = Line(400 * MB, each=4 * MB, request=16 * MB, burst=burst, round_trip=round_trip)
    simulation = Simulation(line)

    simulation.run(8.0)

    assert simulation.rate(7.0, 8.0) >= 0.9 * 64 * 4 * MB


def test_a_line_whose_capacity_halves_stays_in_use() -> None:
    """The rest of it is used as well as the whole was."""
    simulation = Simulation(Line(100 * MB, each=5 * MB))
    simulation.run(20.0)

    simulation.line.rate = 50 * MB
    simulation.run(60.0)

    worst = min(simulation.rate(at, at + 10.0) for at in range(20, 80, 10))
    assert worst >= 0.9 * 50 * MB


@pytest.mark.parametrize("rate", [10 * MB, 100 * MB, 1000 * MB])
@pytest.mark.parametrize("request_size", [64 * MB, 256 * MB])
def test_a_fat_pipe_settles_at_eight_or_below(rate: float, request_size: float) -> None:
    """One connection fills it: more are a burden for everybody."""
    simulation = Simulation(Line(rate, request=request_size))

    simulation.run(30.0)

    settled = simulation.targets(10.0, 30.0)
    assert median(settled) <= 8
    assert max(settled) <= 10


def test_small_files_get_as_many_connections_as_allowed() -> None:
    """Ten thousand files of 10 kB are round trips: eight connections would take a minute."""
    simulation = Simulation(Line(400 * MB, each=100 * MB, request=10_000))

    simulation.run(12.0)

    assert min(simulation.targets(5.0, 12.0)) >= 48
    assert simulation.completed >= 10_000


@pytest.mark.parametrize("welcome", [3, 8, 20])
def test_a_server_is_not_asked_for_more_than_it_takes_again_and_again(welcome: int) -> None:
    """Refusals are learnt from: not more than one in fifteen seconds."""
    simulation = Simulation(Line(400 * MB, each=12 * MB, welcome=welcome))

    simulation.run(60.0)

    assert 1 <= simulation.refusals <= 4
    assert max(simulation.targets(5.0, 60.0)) <= welcome + 1


def test_a_server_that_refuses_above_eight_gets_six_to_eight() -> None:
    """Not fewer: it likes eight."""
    simulation = Simulation(Line(400 * MB, each=12 * MB, welcome=8))

    simulation.run(120.0)

    settled = simulation.targets(20.0, 120.0)
    assert 6 <= median(settled) <= 8
    assert min(settled) >= 5
    assert simulation.refusals <= 8


# -- steps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cap", "start"), [(1, 1), (4, 4), (8, 8), (64, 8), (1000, 8)])
def test_a_host_begins_with_eight_connections_or_as_many_as_allowed(cap: int, start: int) -> None:
    """Enough to learn from, few enough to be polite."""
    assert Pace(cap=cap).target == start


@pytest.mark.parametrize(
    ("requests", "cap", "start"),
    [(0, 64, 8), (12, 64, 8), (40, 64, 10), (400, 64, 32), (400, 20, 20), (400, 2, 2)],
)
def test_a_host_with_many_short_requests_begins_wider(requests: int, cap: int, start: int) -> None:
    """Four requests for each connection at least, four times the usual start at most."""
    pace = Pace(cap=cap)

    pace.expect(requests)

    assert pace.target == start


def test_what_is_known_of_a_host_counts_more_than_what_is_waiting() -> None:
    """Once its rate was judged, and after it has refused."""
    measured, refused = Pace(cap=64), Pace(cap=64)
    settled = Feed(measured).run(10.0, flat)[-1]
    refused.refused(0.1, active=8)

    measured.expect(1000)
    refused.expect(1000)

    assert measured.target == settled
    assert refused.target < 8


@pytest.mark.parametrize("how", ["limited", "idle"])
def test_samples_that_say_nothing_do_not_keep_a_host_narrow(how: str) -> None:
    """The listing came first, or the disk was slow: nothing is known of the host yet."""
    pace = Pace(cap=64)
    Feed(pace).run(5.0, flat, limited=how == "limited", idle=8 if how == "idle" else 0)

    pace.expect(1000)

    assert pace.target == 32


def test_the_pause_between_two_runs_is_not_judged() -> None:
    """A minute without transfers would make the next doubling look as if it had paid nothing."""
    feed = Feed(Pace(cap=64))
    feed.run(0.3, growing)
    before = feed.pace.target

    feed.now += 60.0
    first = feed.run(0.1, growing)[-1]
    after = feed.run(1.5, growing)

    assert 8 < before < 64
    assert first == before
    assert after[-1] == 64


def test_connections_double_while_that_pays() -> None:
    """Up to the cap, and there it stays while every connection brings its share."""
    feed = Feed(Pace(cap=64))

    targets = feed.run(10.0, growing)

    assert sorted(set(targets[:15])) == [8, 16, 32, 64]
    assert targets.index(64) < 15


def test_doubling_that_does_not_pay_is_undone() -> None:
    """Neither more bytes nor more requests: sixteen are given up at once."""
    feed = Feed(Pace(cap=64))

    targets = feed.run(2.0, flat)

    assert max(targets) == 16
    assert targets[-1] == 8
    assert targets.count(16) <= 4


def test_doubling_without_any_answered_request_is_judged_by_bytes() -> None:
    """Long leases answer no request for seconds: no requests are not as many requests."""
    feed = Feed(Pace(cap=64))

    targets = feed.run(30.0, flat, lambda active: 0.0)

    assert max(targets) <= 16
    assert median(targets) <= 8


def test_a_step_that_pays_in_requests_only_is_kept() -> None:
    """Small files: the bytes say little, the answers per second tell."""
    feed = Feed(Pace(cap=64))

    targets = feed.run(5.0, flat, lambda active: 40.0 * active)

    assert max(targets) == 64
    assert min(targets[-20:]) >= 56


def test_a_step_is_not_judged_by_what_arrives_right_after_it() -> None:
    """Two round trips belong to the old level: on a far line, steps are slow."""
    feed = Feed(Pace(cap=64), round_trip=0.5)

    targets = feed.run(6.0, growing)

    changes = [at for at in range(1, len(targets)) if targets[at] != targets[at - 1]]
    assert targets[-1] == 64
    # Two seconds less one sample: the last one of the waiting time is where measuring begins.
    assert all(later - at >= 19 for at, later in pairwise(changes))


def test_careful_steps_follow_a_line_that_gets_better() -> None:
    """After doubling has stopped, one more is tried every few seconds."""
    feed = Feed(Pace(cap=64))
    feed.run(2.0, flat)
    assert feed.pace.target == 8

    targets = feed.run(30.0, growing)

    assert targets[-1] > 12
    assert all(abs(one - other) <= max(1, max(one, other) // 8) for one, other in pairwise(targets))


def test_connections_that_bring_nothing_are_let_go() -> None:
    """On a line that is full anyway, fewer are as good, and better for everybody else."""
    feed = Feed(Pace(cap=64))

    targets = feed.run(60.0, flat)

    assert max(targets[30:]) <= 9
    assert max(targets[-100:]) < 8


# -- samples that say nothing ----------------------------------------------------------------------


@pytest.mark.parametrize("rate", [flat, growing])
def test_samples_that_something_else_limited_change_nothing(rate: Callable[[int], float]) -> None:
    """The disk, the user's limit or a lack of work say nothing about the host."""
    feed = Feed(Pace(cap=64))

    targets = feed.run(20.0, rate, limited=True)

    assert set(targets) == {8}


@pytest.mark.parametrize("rate", [flat, growing])
def test_samples_with_idle_connections_change_nothing(rate: Callable[[int], float]) -> None:
    """What eight bring is not known while seven work."""
    feed = Feed(Pace(cap=64))

    targets = feed.run(20.0, rate, idle=1)

    assert set(targets) == {8}


@pytest.mark.parametrize("how", ["limited", "idle"])
def test_a_step_is_not_judged_over_a_time_that_does_not_count(how: str) -> None:
    """The disk stalls while sixteen are tried: they are judged by the time after it."""
    feed = Feed(Pace(cap=64))
    while feed.pace.target == 8:
        feed.run(0.1, growing)

    during = feed.run(3.0, lambda active: 0.0, limited=how == "limited", idle=how == "idle")
    after = feed.run(1.0, growing)

    assert set(during) == {16}
    assert after[-1] >= 32


# -- refusals --------------------------------------------------------------------------------------


def test_a_refusal_takes_a_third_of_the_connections() -> None:
    """Of those that were open, if they were fewer than allowed."""
    pace, sparse = Pace(cap=64, start=40), Pace(cap=64, start=40)

    pace.refused(1.0, 40)
    sparse.refused(1.0, 10)

    assert pace.target == 28
    assert sparse.target == 7


def test_a_refusal_while_no_other_connection_works_changes_nothing() -> None:
    """It says nothing about how many are welcome: how often to ask is another matter."""
    refused, spared = Feed(Pace(cap=64)), Feed(Pace(cap=64))

    for late in range(5):
        refused.pace.refused(late / 100, 0)

    assert refused.pace.target == spared.pace.target == START
    assert refused.run(10.0, growing) == spared.run(10.0, growing)


def test_a_host_that_refuses_beside_a_single_connection_keeps_it() -> None:
    """There has to be one to learn from, and one is what it took."""
    pace = Pace(cap=64)

    pace.refused(1.0, 1)

    assert pace.target == 1


def test_a_wave_of_refusals_counts_once() -> None:
    """They answer requests that were made together."""
    pace = Pace(cap=64, start=40)

    for late in range(20):
        pace.refused(1.0 + late / 40, 40)

    assert pace.target == 28


def test_a_refusal_after_the_wave_counts_again() -> None:
    """The server still wants less."""
    pace = Pace(cap=64, start=40)
    pace.refused(1.0, 40)

    pace.refused(3.0, 28)

    assert pace.target == 19


def refused_last_at_sixteen(refusals: int) -> Feed:
    """So many refusals, the last of them just now while sixteen connections worked."""
    feed = Feed(Pace(cap=64, start=64))
    for _ in range(refusals - 1):
        feed.pace.refused(feed.now, 63)
        feed.pace.target = 64
        feed.now += 2.0
    feed.pace.refused(feed.now, 16)
    return feed


@pytest.mark.parametrize(
    ("refusals", "seconds"),
    [
        (1, FORGIVE),
        (2, 2 * FORGIVE),
        (3, 4 * FORGIVE),
        (4, 8 * FORGIVE),
        (5, FORGIVE_MOST),
        (9, FORGIVE_MOST),
    ],
)
def test_what_was_refused_is_not_tried_again_soon(refusals: int, seconds: float) -> None:
    """What worked is the ceiling for a while, however well more would pay.

    Each refusal doubles that while, up to a minute.
    """
    feed = refused_last_at_sixteen(refusals)

    before = feed.run(seconds - 0.2, growing)
    after = feed.run(seconds, growing)
    later = feed.run(seconds, growing)

    assert max(before) <= 16
    assert max(after) <= 24
    assert 16 < max(later) <= 36


def test_a_refusal_is_forgiven_by_half_at_a_time() -> None:
    """Servers get less busy: the ceiling rises in steps, faster each time if nothing happens."""
    feed = refused_last_at_sixteen(4)

    highest = [max(feed.run(8 * FORGIVE - 0.1, growing)) for _ in range(5)]

    assert all(high <= most for high, most in zip(highest, [16, 24, 36, 54, 64], strict=True))
    assert all(one < other for one, other in pairwise(highest))
    assert highest[-1] == 64


# -- always ----------------------------------------------------------------------------------------


@thorough
@given(
    cap=st.integers(1, 70),
    start=st.integers(1, 100),
    happenings=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.05, 0.1, 0.2, 1.0, 3.0, 40.0]),  # seconds passed
            st.integers(0, 10**9),  # bytes
            st.integers(0, 500),  # requests
            st.one_of(st.none(), st.integers(0, 100)),  # active, None: as many as allowed
            st.booleans(),  # limited
            st.integers(0, 5),  # 0: a refusal
        ),
        max_size=60,
    ),
)
def test_the_target_stays_between_one_and_the_cap(
    cap: int,
    start: int,
    happenings: list[tuple[float, int, int, int | None, bool, int]],
) -> None:
    """Whatever is reported, there is always a connection and never more than allowed."""
    pace = Pace(cap=cap, start=start)
    now, received, completed = 0.0, 0, 0

    assert 1 <= pace.target <= cap
    for passed, count, requests, some, limited, kind in happenings:
        now, received, completed = now + passed, received + count, completed + requests
        active = pace.target if some is None else some
        if kind == 0:
            pace.refused(now, active)
        else:
            pace.observe(Sample(now, received, completed, active, limited, 0.05))

        assert 1 <= pace.target <= cap


# -- the user's limit ------------------------------------------------------------------------------


@thorough
@given(
    rate=st.floats(1e3, 1e9),
    burst=st.floats(0.01, 2.0),
    reads=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 2)), min_size=1, max_size=40),
)
def test_who_waits_as_told_never_exceeds_the_limit_by_more_than_the_burst(
    rate: float, burst: float, reads: list[tuple[float, float]]
) -> None:
    """Over every window: what was read before the last block is within rate x time + burst.

    The last block is read in debt, and paid for by waiting after it.
    """
    throttle = Throttle(rate, burst=burst)
    now = 0.0
    log: list[tuple[float, int]] = []

    for idle, seconds in reads:
        now += idle
        count = int(seconds * rate)
        log.append((now, count))
        now += throttle.spend(count, now)

    for first, (begin, _) in enumerate(log):
        total = 0
        for moment, count in log[first:]:
            assert total <= (rate * (moment - begin) + rate * burst) * (1 + 1e-6) + 1
            total += count


@thorough
@given(rate=st.floats(1e3, 1e9), block=st.integers(1, 10**6))
def test_who_always_wants_more_gets_the_whole_limit(rate: float, block: int) -> None:
    """Waiting costs nothing beyond the limit itself."""
    throttle = Throttle(rate)
    now, total = 0.0, 0

    for _ in range(200):
        total += block
        now += throttle.spend(block, now)

    assert total <= rate * (now + 0.25) * (1 + 1e-6) + block
    if now > 0:
        assert total >= rate * now * (1 - 1e-6)


def test_within_the_burst_nobody_waits() -> None:
    """A quarter of a second's bytes are free at the beginning, the next ones are not."""
    throttle = Throttle(1000.0)

    waits = [throttle.spend(125, 5.0) for _ in range(4)]

    assert waits == [0.0, 0.0, 0.125, 0.25]


def test_idle_time_is_not_saved_up_beyond_the_burst() -> None:
    """After an hour of silence the limit still holds."""
    throttle = Throttle(1000.0)
    throttle.spend(1, 0.0)

    wait = throttle.spend(1250, 3600.0)

    assert wait == 1.0


def test_less_than_a_byte_per_second_is_a_limit_too() -> None:
    """It is the user's word."""
    throttle = Throttle(0.5)

    wait = throttle.spend(1, 0.0)

    assert wait == 1.75


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_limit_of_nothing_is_refused(rate: float) -> None:
    """It would be a wait without an end."""
    with pytest.raises(ValueError, match="more than 0"):
        Throttle(rate)
