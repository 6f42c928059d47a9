"""Stopping at any moment and going on: nothing recorded is fetched again, nothing leaks."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelhaul.core.repo import RemoteFile
from modelhaul.engine.task import Order
from modelhaul.errors import HaulError
from tests.engine.harness import CHUNK, MIB, ORIGIN, Rig, payload, remote
from tests.support.inline import InlineThreads
from tests.support.network import FakeNetwork, Fault, Served
from tests.support.virtual import virtual

DATA = payload(6 * MIB)
SMALL = [payload(5000, n) for n in range(5)]


def network(rate: float = 1e6) -> FakeNetwork:
    served = {f"{ORIGIN}/big": Served(DATA, rate=rate)}
    for n, data in enumerate(SMALL):
        served[f"{ORIGIN}/s{n}"] = Served(data, rate=1e5)
    return FakeNetwork(served)


def files() -> list[RemoteFile]:
    return [remote("big", DATA), *(remote(f"s{n}", data) for n, data in enumerate(SMALL))]


def missing(rig: Rig) -> list[Order]:
    """What a plan would fetch: the files that do not stand in their places yet."""
    return [rig.order(file) for file in files() if not (rig.target / file.path).exists()]


def run_until(rig: Rig, seconds: float) -> None:
    async def main() -> None:
        with anyio.move_on_after(seconds):
            await rig.bring(*missing(rig))

    virtual(main)


def finish(rig: Rig) -> None:
    results = virtual(lambda: rig.bring(*missing(rig)))
    assert all(result.error is None for result in results)


@pytest.mark.parametrize("seconds", [0.0, 0.015, 0.1, 0.33, 0.7, 1.01, 1.5])
def test_a_stopped_run_goes_on_where_it_stopped(target: Path, seconds: float) -> None:
    """Of the large file nothing that arrived before the stop is asked for again."""
    rig = Rig(target, first := network())
    run_until(rig, seconds)

    rig.network = second = network()
    finish(rig)

    big = [asked for asked in second.asked if asked.url.endswith("/big")]
    fetched_again = first.sent + sum(asked.span.length for asked in big) - len(DATA)
    # the slices that were on the way when it stopped, and the small ones that began again
    assert fetched_again <= 8 * 64 * 1024 + sum(map(len, SMALL))
    assert (target / "big").read_bytes() == DATA
    assert all((target / f"s{n}").read_bytes() == data for n, data in enumerate(SMALL))
    assert rig.left() == []


def test_a_run_that_is_stopped_again_and_again_gets_there(target: Path) -> None:
    """A tenth of a second at a time: every run adds what it fetched."""
    rig = Rig(target, network())
    sent = 0

    for _ in range(200):
        rig.network = part = network()
        run_until(rig, 0.1)
        sent += part.sent
        if (target / "big").exists():
            break
    finish(rig)

    assert (target / "big").read_bytes() == DATA
    assert sent < 2 * len(DATA)


@pytest.mark.fault(
    "a run is cancelled at any await", "no task, descriptor or lock is left", number=118
)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.integers(0, 1500))
def test_a_cancel_at_any_await_leaves_nothing_behind(
    tmp_path_factory: pytest.TempPathFactory, steps: int
) -> None:
    """Cancelled at the n-th step: no task, no descriptor, no lost buffer; and it resumes."""
    folder = tmp_path_factory.mktemp("run") / "target"
    folder.mkdir()
    threads = InlineThreads(write=0.001, hash=0.002, sync=0.01)
    rig = Rig(folder, network(), threads=threads)
    before = len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        task = asyncio.ensure_future(rig.bring(*missing(rig)))
        for _ in range(steps):
            if task.done():
                break
            await asyncio.sleep(0.0004)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert others == set()

    virtual(main)

    assert len(os.listdir("/proc/self/fd")) == before
    if rig.engine is not None:
        assert rig.engine.lanes.active == 0
        assert rig.engine.pool.lent == 0
    rig.network = network()
    rig.threads = InlineThreads()
    finish(rig)
    assert (folder / "big").read_bytes() == DATA


def test_an_upstream_that_was_replaced_meanwhile_begins_anew(target: Path) -> None:
    """Same name and length, other digest: not one byte of the old part is used."""
    rig = Rig(target, network())
    run_until(rig, 0.5)
    other = payload(len(DATA), 99)
    rig.network = FakeNetwork({f"{ORIGIN}/big": Served(other)})

    (result,) = virtual(lambda: rig.bring(rig.order(remote("big", other))))

    assert result.error is None
    assert result.fetched == len(other)
    assert (target / "big").read_bytes() == other
    assert len(rig.left()) == 2  # the old part and its journal: unfinished work of somebody


def test_a_failed_run_keeps_what_arrived(target: Path) -> None:
    """The network dies for good: an error, and the next run goes on."""
    rig = Rig(target, dying := network())
    dying.fault = lambda asked: Fault(status=500) if asked.number > 20 else None

    with pytest.raises(HaulError):
        virtual(lambda: rig.bring(*missing(rig)))
    sent = dying.sent
    rig.network = second = network()
    finish(rig)

    assert sent > 0
    assert second.sent <= len(DATA) + sum(map(len, SMALL)) - sent + 8 * CHUNK
