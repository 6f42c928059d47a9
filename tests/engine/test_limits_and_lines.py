"""How many connections are used on which line, and what a limit or a slow disk says about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from modelhaul import events
from tests.engine.harness import CHUNK, MIB, ORIGIN, Rig, payload, remote
from tests.support.inline import InlineThreads
from tests.support.network import FakeNetwork, Fault, Served
from tests.support.virtual import virtual


async def timed(rig: Rig, name: str, data: bytes) -> float:
    """Seconds that bringing one file takes."""
    before = anyio.current_time()
    (result,) = await rig.bring(rig.order(remote(name, data)))
    assert result.error is None
    return anyio.current_time() - before


def test_a_shared_pipe_that_is_full_gets_no_more_than_eight_connections(target: Path) -> None:
    """Doubling brought nothing, so it is taken back: the lanes really count their bytes."""
    data = payload(40 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data)}, pipe=4e6)
    rig = Rig(target, network, connections=64)

    virtual(lambda: timed(rig, "w", data))

    assert rig.engine is not None
    # eight, and perhaps the one more that is being tried just now
    assert rig.engine.lanes.lane(ORIGIN).pace.target <= 9
    assert network.most_active <= 16


def test_a_line_with_a_limit_per_connection_gets_many(target: Path) -> None:
    """Each connection adds its share, so there are as many as allowed in the end."""
    data = payload(64 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=300_000)})
    rig = Rig(target, network, connections=32)

    virtual(lambda: timed(rig, "w", data))

    assert network.most_active == 32


@pytest.mark.parametrize("limit", [None, 500e6])
def test_a_limit_that_is_never_reached_changes_nothing(target: Path, limit: float | None) -> None:
    """Only a limit that has made somebody wait says anything about the line."""
    data = payload(64 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=300_000)})
    rig = Rig(target, network, connections=32, limit_rate=limit)

    virtual(lambda: timed(rig, "w", data))

    assert network.most_active == 32


@pytest.mark.parametrize("limit", [None, 500e6])
def test_a_dead_connection_is_noticed_under_a_limit_too(target: Path, limit: float | None) -> None:
    """Its silence is its own: nobody made it wait."""
    data = payload(16 * MIB)
    network = FakeNetwork(
        {f"{ORIGIN}/w": Served(data, rate=2e6)},
        lambda asked: Fault(silent=100_000) if asked.number == 5 else None,
    )
    rig = Rig(target, network, limit_rate=limit)

    seconds = virtual(lambda: timed(rig, "w", data))

    assert seconds < 5
    assert len(rig.events_of(events.Retrying)) >= 1


@pytest.mark.parametrize(("unhashed", "bounded"), [(MIB, True), (1024 * MIB, False)])
def test_requests_wait_while_the_hashing_is_far_behind(
    target: Path, unhashed: int, *, bounded: bool
) -> None:
    """The digest comes soon after the last byte, and what is hashed is still in memory."""
    data = payload(48 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=20e6)})
    rig = Rig(target, network, connections=4, memory=8 * MIB)
    rig.options = replace(rig.options, unhashed=unhashed)
    rig.threads = InlineThreads(hash=1.0)

    virtual(lambda: timed(rig, "w", data))

    told = [event for event in rig.seen if isinstance(event, events.Progress)]
    lag = max(
        (file.done - file.verified for event in told for file in event.statistics.active),
        default=0,
    )
    # what is allowed, and the window of two leases per connection
    assert (lag <= MIB + 2 * 4 * CHUNK + 4 * CHUNK) == bounded


def test_what_an_earlier_run_left_is_hashed_beside_the_network(target: Path) -> None:
    """The prefix takes seconds to hash again; requests do not wait for that."""
    data = payload(48 * MIB)
    network = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=1e6)})
    rig = Rig(target, network, connections=4)
    rig.options = replace(rig.options, unhashed=MIB)

    async def begin() -> None:
        with anyio.move_on_after(10.0):
            await rig.bring(rig.order(remote("w", data)))

    virtual(begin)
    rig.threads = InlineThreads(hash=2.0)
    rig.network = again = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=1e6)})
    virtual(lambda: timed(rig, "w", data))

    assert again.asked[7].time - again.asked[0].time < 2.0
