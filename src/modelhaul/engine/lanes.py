"""Connections per origin and over all: one account for everything that a client does."""

from __future__ import annotations

from collections.abc import Iterator

from modelhaul.core.pace import Pace, Sample
from modelhaul.core.retry import Health
from modelhaul.core.sources import Host

_SAMPLE_EVERY = 0.1


class Lane:
    """One origin: what was learnt about it, how many connections it should and does have."""

    __slots__ = ("active", "completed", "health", "host", "pace", "received")

    def __init__(self, name: str, cap: int) -> None:
        self.host = Host(name)
        self.pace = Pace(cap=cap)
        self.health = Health()
        self.active = 0
        self.received = 0
        self.completed = 0

    def has_room(self) -> bool:
        """Whether one more connection may be opened now."""
        return self.active < self.pace.target


class Lanes:
    """The lanes of a client; remembered as long as it lives."""

    def __init__(self, *, cap: int, host_cap: int) -> None:
        self._cap = cap
        self._host_cap = min(cap, host_cap)
        self._lanes: dict[str, Lane] = {}
        self._sampled = 0.0
        self.active = 0

    def lane(self, origin: str) -> Lane:
        """The lane of an origin."""
        found = self._lanes.get(origin)
        if found is None:
            found = self._lanes[origin] = Lane(origin, self._host_cap)
        return found

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def has_room(self) -> bool:
        """Whether one more connection may be opened anywhere."""
        return self.active < self._cap

    def capacity(self) -> int:
        """Connections that are allowed now, over all origins that are in use.

        Before any is, over all that are known. A hub that only says where the bytes are does not
        count: the window and the blocks of the store's connections go by this.
        """
        used = wanted = 0
        for lane in self._lanes.values():  # asked for each block: a generator costs as much again
            wanted += lane.pace.target
            if lane.active:
                used += lane.pace.target
        return min(self._cap, used or wanted or 8)

    def enter(self, lane: Lane) -> None:
        """A connection to the lane's origin is taken into use."""
        lane.active += 1
        self.active += 1

    def leave(self, lane: Lane) -> None:
        """It is free again."""
        lane.active -= 1
        self.active -= 1

    def tick(self, now: float, *, limited: bool) -> None:
        """Report all lanes to their pace; `limited` if something else held them back."""
        if now - self._sampled < _SAMPLE_EVERY:
            return
        self._sampled = now
        for lane in self._lanes.values():
            lane.pace.observe(
                Sample(
                    now=now,
                    received=lane.received,
                    completed=lane.completed,
                    active=lane.active,
                    limited=limited,
                    round_trip=lane.host.round_trip,
                )
            )
