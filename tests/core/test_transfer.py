"""The states of a file in motion: the table, and what can never happen by it."""

from __future__ import annotations

from itertools import product

import pytest

from modelhaul.core.transfer import Change, IllegalChange, State, step

FORWARD = {
    (State.OPENING, Change.OPENED): State.FETCHING,
    (State.OPENING, Change.FOUND_COMPLETE): State.DONE,
    (State.FETCHING, Change.ARRIVED): State.PROVING,
    (State.PROVING, Change.PROVEN): State.PUBLISHING,
    (State.PROVING, Change.DISPROVEN): State.REPAIRING,
    (State.REPAIRING, Change.ARRIVED): State.PROVING,
    (State.PUBLISHING, Change.PUBLISHED): State.DONE,
}
FINAL = (State.DONE, State.FAILED, State.STOPPED)
MOVING = tuple(state for state in State if state not in FINAL)
GIVING_UP = {
    (state, change): end
    for state in MOVING
    for change, end in ((Change.FAILED, State.FAILED), (Change.STOPPED, State.STOPPED))
}
LEGAL = FORWARD | GIVING_UP


def edges() -> list[tuple[State, Change, State]]:
    """Every step that `step()` allows, found by trying all of them."""
    found = []
    for state, change in product(State, Change):
        try:
            found.append((state, change, step(state, change)))
        except IllegalChange:
            continue
    return found


def reachable(start: State, *, without: tuple[State, ...] = ()) -> set[State]:
    """States that can be reached from `start` without entering those of `without`."""
    seen, todo = {start}, [start]
    while todo:
        state = todo.pop()
        for before, _, after in edges():
            if before is state and after not in seen and after not in without:
                seen.add(after)
                todo.append(after)
    return seen


@pytest.mark.parametrize(("state", "change"), list(LEGAL))
def test_a_legal_change_leads_to_the_next_state(state: State, change: Change) -> None:
    """The table is the diagram of the module."""
    after = step(state, change)

    assert after is LEGAL[state, change]


@pytest.mark.parametrize(
    ("state", "change"), [pair for pair in product(State, Change) if pair not in LEGAL]
)
def test_any_other_change_raises_and_names_both(state: State, change: Change) -> None:
    """An order that should be impossible is a bug that says what was tried and where."""
    with pytest.raises(IllegalChange) as caught:
        step(state, change)

    assert change.name in str(caught.value)
    assert state.name in str(caught.value)


@pytest.mark.parametrize("state", FINAL)
def test_nothing_happens_after_the_end(state: State) -> None:
    """A file that is done, failed or stopped stays so for this run."""
    assert not [edge for edge in edges() if edge[0] is state]


@pytest.mark.parametrize("state", MOVING)
def test_a_file_in_motion_can_always_be_given_up_and_can_still_succeed(state: State) -> None:
    """No state is a trap: failure, cancellation and success are reachable from each."""
    assert reachable(state) >= set(FINAL)


def test_every_state_is_reachable() -> None:
    """A state that nothing leads to would be dead code."""
    assert reachable(State.OPENING) == set(State)


@pytest.mark.parametrize("gate", [State.PROVING, State.PUBLISHING])
def test_nothing_is_published_without_proof(gate: State) -> None:
    """From the first byte on, the way to DONE leads through the proof and the barrier."""
    around = reachable(State.FETCHING, without=(gate,))

    assert State.DONE not in around


def test_only_a_file_found_complete_is_done_without_being_fetched() -> None:
    """Into DONE lead the publication, and what another process finished meanwhile."""
    ways = {(before, change) for before, change, after in edges() if after is State.DONE}

    assert ways == {
        (State.PUBLISHING, Change.PUBLISHED),
        (State.OPENING, Change.FOUND_COMPLETE),
    }


def test_what_was_disproven_is_proven_again() -> None:
    """A repair leads back to the proof and nowhere else but to giving up."""
    after = {after for before, _, after in edges() if before is State.REPAIRING}

    assert after == {State.PROVING, State.FAILED, State.STOPPED}
