"""Verdicts, waiting and giving up, with time and chance as numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.core.retry import (
    FIRST_DELAY,
    LONGEST_DELAY,
    MIB,
    Budget,
    Health,
    Verdict,
    backoff,
    verdict,
)
from tests.support.properties import thorough

chances = st.floats(0, 1, exclude_max=True)
EXPECTED = {
    Verdict.BODY: {200, 206},
    Verdict.REDIRECT: {301, 302, 303, 307, 308},
    Verdict.SLOWER: {429, 503},
    Verdict.RETRY: {408, 425, *range(500, 600)} - {503},
    Verdict.MISSING: {404, 410},
    Verdict.DENIED: {401, 402, 403, 407, 451},
    Verdict.RANGE: {416},
}


@pytest.mark.parametrize("meaning", list(EXPECTED))
def test_these_statuses_have_this_verdict(meaning: Verdict) -> None:
    """Exactly the listed statuses of 100 to 599 mean this."""
    found = {status for status in range(100, 600) if verdict(status) is meaning}

    assert found == EXPECTED[meaning]


def test_every_other_status_is_refused() -> None:
    """What nobody thought of is an answer that asking again will not change."""
    known = set().union(*EXPECTED.values())

    others = {verdict(status) for status in range(100, 600) if status not in known}

    assert others == {Verdict.REFUSED}


@thorough
@given(attempt=st.integers(1, 10**6), chance=chances)
def test_a_wait_is_never_negative_and_never_longer_than_the_longest(
    attempt: int, chance: float
) -> None:
    """However many attempts failed, the wait is between 0 and LONGEST_DELAY."""
    wait = backoff(attempt, chance)

    assert 0 <= wait <= LONGEST_DELAY


@thorough
@given(attempt=st.integers(1, 100), chance=chances)
def test_the_next_wait_may_be_twice_as_long_until_the_longest(attempt: int, chance: float) -> None:
    """The same chance gives a doubled wait after one more failure, up to the ceiling."""
    once, twice = backoff(attempt, chance), backoff(attempt + 1, chance)

    assert twice == pytest.approx(min(2 * once, chance * LONGEST_DELAY))


def test_chance_spreads_a_wait_over_its_whole_length() -> None:
    """Full jitter: clients that failed together do not come back together."""
    waits = [backoff(3, part / 10) for part in range(10)]

    assert waits[0] == 0
    assert waits == pytest.approx([8 * FIRST_DELAY * part / 10 for part in range(10)])


def test_a_budget_lasts_for_its_failures_and_then_no_more() -> None:
    """The failure after the last one paid for is final, and stays so."""
    budget = Budget(initial=3)

    spent = [budget.spend() for _ in range(5)]

    assert spent == [True, True, True, False, False]
    assert budget.left == 0


def test_each_recorded_mib_pays_for_one_failure() -> None:
    """A line that is cut every megabyte goes on for ever."""
    budget = Budget(initial=1)

    paid = []
    for _ in range(1000):
        budget.earn(MIB)
        paid.append(budget.spend())

    assert all(paid)
    assert budget.left == 1


def test_a_mebibyte_that_is_not_full_pays_for_nothing() -> None:
    """The last byte of it counts."""
    budget = Budget(initial=0)

    budget.earn(MIB - 1)
    before = budget.left
    budget.earn(1)

    assert (before, budget.left) == (0, 1)


def test_a_run_that_never_got_a_byte_survives_eight_failures_and_a_good_one_sixty_four() -> None:
    """A dead server is reported soon, a run that has shown that it works has patience."""
    fresh, proven = Budget(), Budget()
    proven.earn(10_000 * MIB)

    survived = []
    for budget in (fresh, proven):
        failures = 0
        while budget.spend():
            failures += 1
        survived.append(failures)

    assert survived == [8, 64]


@thorough
@given(amounts=st.lists(st.integers(0, 3 * MIB), max_size=60))
def test_small_gains_add_up(amounts: list[int]) -> None:
    """No recorded byte is lost between two reports of progress."""
    budget = Budget(initial=0, ceiling=10**6)

    for amount in amounts:
        budget.earn(amount)

    assert budget.left == sum(amounts) // MIB


@thorough
@given(
    moves=st.lists(st.one_of(st.none(), st.integers(0, 100 * MIB)), max_size=60),
    ceiling=st.integers(8, 80),
)
def test_a_budget_stays_between_nothing_and_its_ceiling(
    moves: list[int | None], ceiling: int
) -> None:
    """No history of failures and gains leaves these bounds."""
    budget = Budget(initial=8, ceiling=ceiling)

    for gain in moves:
        if gain is None:
            before = budget.left
            assert budget.spend() == (before > 0)
        else:
            budget.earn(gain)

        assert 0 <= budget.left <= ceiling


def test_a_healthy_origin_may_be_asked_at_once() -> None:
    """Nothing to wait for before the first failure."""
    health = Health()

    assert health.delay(12.0) == 0.0


def test_a_failure_makes_the_origin_wait() -> None:
    """The wait counts down and ends."""
    health = Health()

    counted = health.bad(100.0, chance=0.5, reason="reset")

    assert counted
    assert health.delay(100.0) == pytest.approx(backoff(1, 0.5))
    assert health.delay(100.0 + backoff(1, 0.5)) == 0.0
    assert health.reason == "reset"


def test_a_wave_of_failures_counts_once() -> None:
    """Requests that were in flight together fail together: one strike, one wait."""
    health = Health()
    health.bad(100.0, chance=0.5, reason="the first")
    wait = health.delay(100.0)

    counted = [health.bad(100.0 + late / 100, chance=0.9, reason="next") for late in range(40)]

    assert not any(counted)
    assert health.strikes == 1
    assert health.delay(100.0) == wait
    assert health.reason == "the first"


@pytest.mark.parametrize("chance", [0.0, 0.001, 0.05])
def test_a_wave_of_failures_counts_once_whatever_the_chance(chance: float) -> None:
    """A short wait does not make two failures of two requests in flight together."""
    health = Health()

    counted = [health.bad(now, chance=chance, reason="reset") for now in (0.0, 0.01, 0.02, 0.05)]

    assert counted == [True, False, False, False]


def test_a_failure_after_the_wait_counts_again() -> None:
    """The next attempt that fails doubles the wait."""
    health = Health()
    health.bad(0.0, chance=0.5, reason="first")

    counted = health.bad(1.0, chance=0.5, reason="second")

    assert counted
    assert health.delay(1.0) == pytest.approx(backoff(2, 0.5))


def test_a_good_answer_forgets_the_failures() -> None:
    """The wait after the next failure is that of a first one."""
    health = Health()
    for moment in (0.0, 10.0, 20.0, 30.0):
        health.bad(moment, chance=0.5, reason="reset")

    health.good()
    health.bad(100.0, chance=0.5, reason="reset")

    assert health.strikes == 1
    assert health.delay(100.0) == pytest.approx(backoff(1, 0.5))


def test_what_the_server_asks_for_wins_over_our_own_wait() -> None:
    """`Retry-After` is longer than the backoff: it counts, and a failure cannot shorten it."""
    health = Health()
    health.bad(0.0, chance=0.5, reason="reset")

    health.pause(0.0, 120.0, reason="busy")
    counted = health.bad(1.0, chance=0.0, reason="reset")

    assert not counted
    assert health.delay(0.0) == 120.0
    assert health.reason == "busy"


def test_a_short_pause_does_not_shorten_a_wait() -> None:
    """The later of two moments is kept."""
    health = Health()
    for moment in (0.0, 50.0, 100.0):
        health.bad(moment, chance=0.9, reason="reset")
    wait = health.delay(100.0)

    health.pause(100.0, 0.1, reason="busy")

    assert health.delay(100.0) == wait


@thorough
@given(
    happenings=st.lists(
        st.tuples(
            st.sampled_from(["bad", "pause", "good"]), st.floats(0, 10), chances, st.floats(0, 300)
        ),
        max_size=40,
    )
)
def test_the_end_of_a_wait_never_moves_back(
    happenings: list[tuple[str, float, float, float]],
) -> None:
    """Whatever is reported, an origin is not asked before the moment that was settled."""
    health, now = Health(), 0.0

    for what, passed, chance, seconds in happenings:
        now += passed
        before = health.delay(now)
        if what == "bad":
            health.bad(now, chance=chance, reason="reset")
        elif what == "pause":
            health.pause(now, seconds, reason="busy")
        else:
            health.good()

        assert health.delay(now) >= before
