"""Connections per origin, and how many count."""

from __future__ import annotations

from modelhaul.core.pace import START
from modelhaul.engine.lanes import Lanes

HUB, STORE, MIRROR = "https://hub.test", "https://cdn.test", "https://mirror.test"


def test_only_origins_in_use_count() -> None:
    """A hub that has said where the bytes are needs no part of window and memory any more."""
    lanes = Lanes(cap=64, host_cap=64)
    assert lanes.capacity() == START  # nobody is known

    hub, store, mirror = (lanes.lane(name) for name in (HUB, STORE, MIRROR))
    assert lanes.capacity() == 3 * START  # nobody is in use

    lanes.enter(store)
    assert lanes.capacity() == START
    lanes.enter(mirror)
    lanes.enter(hub)
    assert lanes.capacity() == 3 * START
    lanes.leave(hub)
    assert lanes.capacity() == 2 * START


def test_no_more_count_than_are_allowed() -> None:
    """However many origins there are."""
    lanes = Lanes(cap=10, host_cap=64)
    for name in (HUB, STORE):
        lanes.enter(lanes.lane(name))

    assert lanes.capacity() == 10
