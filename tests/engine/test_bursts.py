"""An update that is published all at once: nothing before its time, nothing held open, no leak."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from modelhaul.core.plan import Action, FilePlan
from modelhaul.engine.context import Options
from modelhaul.engine.task import Order
from modelhaul.store.osfile import Stamp
from tests.engine.harness import CHUNK, MIB, ORIGIN, Rig, payload, remote
from tests.support.inline import InlineThreads
from tests.support.network import FakeNetwork, Served
from tests.support.virtual import virtual


def burst_rig(target: Path, network: FakeNetwork) -> Rig:
    options = Options(chunk=CHUNK, small=32 * 1024, burst=True, files_at_once=2)
    return Rig(target, network, options=options, threads=InlineThreads(sync=0.01))


def replacing(rig: Rig, path: str, data: bytes, *, copy_from: Path | None = None) -> Order:
    """Bring `data` to `path`, where other content stands now."""
    file = remote(path, data)
    order = rig.order(file, copy_from=copy_from)
    if copy_from is not None:
        order = replace(order, plan=FilePlan(file=file, action=Action.COPY), sources=())
    stamp = Stamp.of((rig.target / path).lstat())
    return replace(order, placement=replace(order.placement, replaces=stamp))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def old(target: Path, *names: str) -> None:
    for name in names:
        (target / name).write_text("old")


def test_a_copy_of_what_is_there_waits_for_the_others(target: Path) -> None:
    """Its bytes are on this disk, and it still shows nothing if another file cannot be had."""
    kept = payload(MIB, 1)
    old(target, "copy", "bad")
    (target / "kept").write_bytes(kept)
    rig = burst_rig(target, FakeNetwork({}))

    results = virtual(
        lambda: rig.bring(
            replacing(rig, "copy", kept, copy_from=target / "kept"),
            replacing(rig, "bad", payload(MIB, 2)),
        )
    )

    assert all(result.error is not None for result in results)
    assert (target / "copy").read_text() == "old"
    assert not [name for name in rig.left() if ".copy" in name]


def test_a_copy_of_what_is_there_comes_with_the_others(target: Path) -> None:
    """All are proven: all change."""
    kept, new = payload(MIB, 1), payload(MIB, 2)
    old(target, "copy", "new", "twin")
    (target / "kept").write_bytes(kept)
    rig = burst_rig(target, FakeNetwork({f"{ORIGIN}/new": Served(new)}))
    twin = replacing(rig, "twin", new)
    twin = replace(twin, plan=replace(twin.plan, action=Action.COPY), sources=())

    results = virtual(
        lambda: rig.bring(
            replacing(rig, "copy", kept, copy_from=target / "kept"),
            replacing(rig, "new", new),
            twin,
        )
    )

    assert [result.how for result in results] == ["copied", "fetched", "copied"]
    assert (target / "copy").read_bytes() == kept
    assert (target / "new").read_bytes() == (target / "twin").read_bytes() == new
    assert rig.left() == []


def test_waiting_for_the_others_does_not_count_as_proving(target: Path) -> None:
    """The verdict over a file is there long before the burst, for small and for large ones."""
    small, large, last = payload(20_000, 1), payload(MIB, 2), payload(3 * MIB, 3)
    files = {"small": small, "large": large, "last": last}
    old(target, *files)
    served = {f"{ORIGIN}/{name}": Served(data) for name, data in files.items()}
    rig = burst_rig(target, FakeNetwork({**served, f"{ORIGIN}/last": Served(last, rate=100_000)}))

    results = virtual(lambda: rig.bring(*(replacing(rig, *item) for item in files.items())))

    assert [result.how for result in results] == ["fetched"] * 3
    proofs = [result.proof_seconds for result in results]
    assert all(proof is not None and 0 <= proof < 1 for proof in proofs), proofs


def test_files_that_wait_hold_nothing_open(target: Path) -> None:
    """Hundreds of proven files wait for the last one: descriptors are few."""
    files = {f"f{n:02}": payload(40_000, n) for n in range(60)}
    last = payload(3 * MIB, 99)
    old(target, *files, "last")
    served = {f"{ORIGIN}/{name}": Served(data) for name, data in files.items()}
    rig = burst_rig(target, FakeNetwork({**served, f"{ORIGIN}/last": Served(last, rate=100_000)}))
    before, most = open_files(), []

    async def main() -> None:
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while True:
                    most.append(open_files() - before)
                    await anyio.sleep(0.1)

            group.start_soon(watch)
            results = await rig.bring(
                *(replacing(rig, name, data) for name, data in files.items()),
                replacing(rig, "last", last),
            )
            assert all(result.error is None for result in results)
            group.cancel_scope.cancel()

    virtual(main)

    assert max(most) < 20
    assert all((target / name).read_bytes() == data for name, data in files.items())
    assert rig.left() == []


@pytest.mark.parametrize("seconds", [0.021, 0.03, 0.05, 0.08, 0.15, 0.3])
def test_a_stop_at_any_moment_closes_everything(target: Path, seconds: float) -> None:
    """Cancelled while small parts are synced for the burst: no descriptor, no part is left."""
    files = {f"f{n}": payload(9000, n) for n in range(8)}
    last = payload(MIB, 99)
    old(target, *files, "last")
    served = {f"{ORIGIN}/{name}": Served(data) for name, data in files.items()}
    network = FakeNetwork({**served, f"{ORIGIN}/last": Served(last, rate=50_000)})
    rig = burst_rig(target, network)
    before = open_files()

    async def main() -> None:
        task = asyncio.ensure_future(
            rig.bring(
                *(replacing(rig, name, data) for name, data in files.items()),
                replacing(rig, "last", last),
            )
        )
        await anyio.sleep(seconds)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    virtual(main)

    assert open_files() == before
    assert not [name for name in rig.left() if ".whole" in name]
    assert (target / "f0").read_text() == "old"
