"""A body that ends early, says nothing, or goes by unread: never success, never a hot loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from modelhaul import events
from modelhaul.engine.context import Options
from modelhaul.errors import TransportError
from tests.engine.harness import CHUNK, MIB, ORIGIN, Rig, payload, remote
from tests.support.network import FakeNetwork, Fault, Served
from tests.support.virtual import virtual


@pytest.mark.fault("a small body ends early, as its own headers say", "never a file", number=10)
@pytest.mark.parametrize("size", [20_000, 3 * MIB])
@pytest.mark.parametrize("etag", [None, '"v1"'])
def test_a_body_that_ends_before_the_size_is_never_a_file(
    target: Path, size: int, etag: str | None
) -> None:
    """The size is known, no digest is: chunks or a closed connection may end anywhere."""
    data = payload(size)
    network = FakeNetwork(
        {f"{ORIGIN}/w": Served(data, headers={"etag": '"v1"'})},
        lambda asked: Fault(ends=size // 2, ignore_range=True),
    )
    rig = Rig(target, network)

    with pytest.raises(TransportError):
        virtual(lambda: rig.bring(rig.order(remote("w", data, digest=None, etag=etag))))

    assert not (target / "w").exists()
    assert len(network.asked) < 60


def test_a_server_that_caps_a_whole_answer_does_not_end_the_file(target: Path) -> None:
    """206 with the first half for a request without a range: half a file is no file."""
    data = payload(20_000)
    half = {"content-range": "bytes 0-9999/20000", "content-length": "10000"}
    network = FakeNetwork(
        {f"{ORIGIN}/w": Served(data)},
        lambda asked: Fault(headers=half, short=10_000),
    )
    rig = Rig(target, network)

    with pytest.raises(TransportError, match="10000 bytes came of 20000"):
        virtual(lambda: rig.bring(rig.order(remote("w", data, digest=None))))

    assert not (target / "w").exists()


def test_skipping_what_is_there_already_is_no_silence(target: Path) -> None:
    """A resume from a server without ranges: minutes of bytes go by before the first new one."""
    data = payload(8 * MIB)
    fast = FakeNetwork({f"{ORIGIN}/w": Served(data, rate=1e6)})
    slow = FakeNetwork(
        {f"{ORIGIN}/w": Served(data, rate=50_000)}, lambda asked: Fault(ignore_range=True)
    )
    rig = Rig(target, fast, options=Options(chunk=CHUNK, small=32 * 1024, idle_timeout=20.0))

    async def some() -> None:
        with anyio.move_on_after(0.6):
            await rig.bring(rig.order(remote("w", data)))

    virtual(some)
    rig.network = slow
    (result,) = virtual(lambda: rig.bring(rig.order(remote("w", data))))

    assert result.error is None
    assert result.reused > MIB
    reasons = [event.reason for event in rig.events_of(events.Retrying)]
    assert all("ignores the range" in reason for reason in reasons)
    assert (target / "w").read_bytes() == data


@pytest.mark.fault(
    "a pause of more than five minutes while others arrive",
    "running bodies end, nothing else is asked",
    number=37,
)
def test_a_long_pause_of_an_origin_lets_running_bodies_end(target: Path) -> None:
    """One file is refused for hours while another one is half there: that one arrives."""
    first, second = payload(MIB, 1), payload(MIB, 2)
    network = FakeNetwork(
        {f"{ORIGIN}/a": Served(first, rate=1e6), f"{ORIGIN}/b": Served(second, delay=0.5)},
        lambda asked: (
            Fault(status=429, headers={"retry-after": "4000"}) if asked.url.endswith("b") else None
        ),
    )
    rig = Rig(target, network)
    rig.options = replace(rig.options, small=4 * MIB)

    results = virtual(
        lambda: rig.bring(rig.order(remote("a", first)), rig.order(remote("b", second)))
    )

    assert [result.error is None for result in results] == [True, False]
    assert (target / "a").read_bytes() == first
