"""The states of one file in motion, as a table.

Everything that changes a file's state goes through `step()`, so an order that should be impossible
(publishing what was not proven) raises instead of happening.

    OPENING --> FETCHING --> PROVING --> PUBLISHING --> DONE
       |                      |   ^                      ^
       |                      v   |                      |
       |                    REPAIRING                    |
       +-------------- found complete -------------------+
"""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """Where a file is on its way."""

    OPENING = auto()  # waiting for the lock, replaying the journal
    FETCHING = auto()  # bytes are missing
    PROVING = auto()  # all bytes are there, the digest is not known yet
    REPAIRING = auto()  # the digest was wrong, some bytes are fetched again
    PUBLISHING = auto()  # proven; barrier, rename, folder sync
    DONE = auto()
    FAILED = auto()
    STOPPED = auto()  # cancelled; part and journal stay for the next run


class Change(Enum):
    """What can happen to a file."""

    OPENED = auto()
    FOUND_COMPLETE = auto()  # another process finished it while we waited for the lock
    ARRIVED = auto()
    PROVEN = auto()
    DISPROVEN = auto()
    PUBLISHED = auto()
    FAILED = auto()
    STOPPED = auto()


_TABLE: dict[State, dict[Change, State]] = {
    State.OPENING: {
        Change.OPENED: State.FETCHING,
        Change.FOUND_COMPLETE: State.DONE,
    },
    State.FETCHING: {Change.ARRIVED: State.PROVING},
    State.PROVING: {Change.PROVEN: State.PUBLISHING, Change.DISPROVEN: State.REPAIRING},
    State.REPAIRING: {Change.ARRIVED: State.PROVING},
    State.PUBLISHING: {Change.PUBLISHED: State.DONE},
    State.DONE: {},
    State.FAILED: {},
    State.STOPPED: {},
}
# Giving up is possible anywhere before the end.
for _state, _row in _TABLE.items():
    if _state not in (State.DONE, State.FAILED, State.STOPPED):
        _row[Change.FAILED] = State.FAILED
        _row[Change.STOPPED] = State.STOPPED


class IllegalChange(RuntimeError):
    """A bug: the engine tried an order that the table forbids."""


def step(state: State, change: Change) -> State:
    """The state after `change`.

    Raises:
        IllegalChange: the table has no such step.
    """
    try:
        return _TABLE[state][change]
    except KeyError:
        raise IllegalChange(f"{change.name} in state {state.name}") from None
