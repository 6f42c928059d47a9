"""Many small files over a long line: how wide a run begins, and what follows a refusal."""

from __future__ import annotations

from pathlib import Path

import anyio

from tests.engine.harness import ORIGIN, Rig, payload, remote
from tests.support.inline import InlineThreads
from tests.support.network import Asked, FakeNetwork, Fault, Served
from tests.support.virtual import virtual

ROUND_TRIP = 0.05


def small_files(count: int) -> dict[str, bytes]:
    return {f"f{number:03}": payload(2000, number) for number in range(count)}


def network_of(files: dict[str, bytes]) -> FakeNetwork:
    return FakeNetwork(
        {f"{ORIGIN}/{name}": Served(data, delay=ROUND_TRIP) for name, data in files.items()}
    )


def bring(rig: Rig, files: dict[str, bytes]) -> float:
    """Bring them all; virtual seconds."""

    async def main() -> float:
        before = anyio.current_time()
        results = await rig.bring(*(rig.order(remote(name, data)) for name, data in files.items()))
        assert [result.error for result in results] == [None] * len(files)
        return anyio.current_time() - before

    seconds = virtual(main)
    assert all((rig.target / name).read_bytes() == data for name, data in files.items())
    return seconds


def at_first(network: FakeNetwork) -> int:
    """Requests that were made at the very beginning."""
    return sum(asked.time == network.asked[0].time for asked in network.asked)


def test_many_small_files_begin_wide(target: Path) -> None:
    """Without a climb from eight: 400 files take a dozen round trips and not thirty."""
    files = small_files(400)
    rig = Rig(target, network := network_of(files), connections=64)

    seconds = bring(rig, files)

    assert at_first(network) == 32
    assert seconds < 14 * ROUND_TRIP


def test_a_few_small_files_do_not(target: Path) -> None:
    """A connection for one or two files does not pay."""
    files = small_files(40)
    rig = Rig(target, network := network_of(files), connections=64)

    bring(rig, files)

    assert at_first(network) == 10


def test_a_maximum_is_a_maximum_for_small_files_too(target: Path) -> None:
    """As the user said."""
    files = small_files(100)
    rig = Rig(target, network := network_of(files), connections=4)

    bring(rig, files)

    assert network.most_active == 4


def test_a_server_that_wants_fewer_is_obeyed(target: Path) -> None:
    """Above eight at once it answers 503: the files all come, and it is not asked for ever more."""
    files = small_files(400)
    network = network_of(files)
    refused = []

    def fault(asked: Asked) -> Fault | None:
        if network.active <= 8:
            return None
        refused.append(asked)
        return Fault(status=503)

    network.fault = fault
    rig = Rig(target, network, connections=64)

    bring(rig, files)

    assert len(refused) < 100


def test_a_batch_is_made_durable_by_a_few_calls(target: Path) -> None:
    """Not by one per file, and none of its files is renamed before all are synced."""
    files = small_files(200)
    threads = InlineThreads()
    rig = Rig(target, network_of(files), connections=64, threads=threads)

    bring(rig, files)

    assert threads.calls.count("sync") < 40
