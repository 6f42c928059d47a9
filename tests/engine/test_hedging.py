"""A late connection's bytes are asked for a second time; the first to have them wins, once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from modelhaul import events
from modelhaul.core.repo import Source
from modelhaul.engine.buffers import BufferPool
from modelhaul.engine.context import Options
from modelhaul.net.push import commit
from modelhaul.net.transport import Answer, Receiver, Redirect, Request
from modelhaul.report import FileResult
from modelhaul.store.claim import unfinished
from tests.engine.harness import CHUNK, MIB, ORIGIN, Rig, payload, remote, source
from tests.support.inline import InlineThreads
from tests.support.network import Asked, FakeNetwork, Fault, Served
from tests.support.virtual import virtual

MIRROR = "https://mirror.test"
DATA = payload(2 * MIB)
RATE = 1e6
Faults = Callable[[Asked], Fault | None]


def nothing(asked: Asked) -> Fault | None:
    """Every answer is right."""
    return None


def late(fault: Fault, *, then: Faults = nothing) -> Faults:
    """The first request for the last chunk goes wrong; later ones are up to `then`."""
    seen: list[int] = []

    def look(asked: Asked) -> Fault | None:
        if asked.span.stop < len(DATA):
            return None
        seen.append(asked.number)
        return fault if len(seen) == 1 else then(asked)

    return look


@dataclass
class Ran:
    """What came of a run."""

    result: FileResult
    seconds: float
    network: FakeNetwork
    rig: Rig

    def tail(self) -> list[Asked]:
        """The requests that reach the end of the file."""
        return [asked for asked in self.network.asked if asked.span.stop == len(DATA)]

    @property
    def reasons(self) -> list[str]:
        return [event.reason for event in self.rig.seen if isinstance(event, events.Retrying)]


@dataclass
class Scene:
    """One large file over eight connections of 1 MB/s: eight leases of a chunk, two rounds."""

    target: Path
    faults: Faults = nothing
    sources: tuple[Source, ...] = ()
    served: dict[str, Served] = field(
        default_factory=lambda: {f"{ORIGIN}/w": Served(DATA, rate=RATE)}
    )
    rig: dict[str, object] = field(default_factory=dict)

    def run(self) -> Ran:
        network = FakeNetwork(self.served, self.faults)
        rig = Rig(self.target, network, **self.rig)  # type: ignore[arg-type]

        async def main() -> tuple[FileResult, float]:
            before = anyio.current_time()
            (result,) = await rig.bring(rig.order(remote("w", DATA), *self.sources))
            return result, anyio.current_time() - before

        result, seconds = virtual(main)
        assert rig.engine is not None
        assert rig.engine.pool.lent == 0
        if result.error is None:
            assert (self.target / "w").read_bytes() == DATA
        return Ran(result, seconds, network, rig)


class Stubborn(FakeNetwork):
    """Its connections have something to say even when they are being ended."""

    refused = 0

    async def fetch(self, request: Request, receiver: Receiver) -> Answer | Redirect:
        try:
            return await super().fetch(request, receiver)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await commit(memoryview(bytes(64 * 1024)), receiver)
            self.refused += receiver.wanted() == 0
            raise


# -- it wins ---------------------------------------------------------------------------------------


def test_a_silent_connection_at_the_end_is_overtaken(target: Path) -> None:
    """Half a second of silence, then a second request; the first never says anything again."""
    ran = Scene(target, late(Fault(silent=100_000))).run()

    first, second = ran.tail()
    assert ran.result.error is None
    assert ran.reasons == ["a second connection goes on in its place"]
    assert ran.seconds < 0.9
    assert second.span.start == first.span.start + 100_000
    assert ran.network.sent == len(DATA)
    assert ran.result.fetched == len(DATA)
    assert ran.result.hedged == 0


def test_a_slow_connection_at_the_end_is_overtaken(target: Path) -> None:
    """It is never silent; both run for a moment, and what it brings after losing is not used."""
    ran = Scene(target, late(Fault(rate=100_000, step=4096))).run()

    assert ran.result.error is None
    assert ran.reasons == ["a second connection goes on in its place"]
    assert ran.seconds < 1.2  # alone it would be 2.6
    assert ran.result.fetched == len(DATA) + ran.result.hedged
    assert 0 < ran.result.hedged < CHUNK


def test_a_server_that_does_not_answer_one_request_is_asked_again_beside_it(target: Path) -> None:
    """Not even a head: the second request needs only a block of its own."""
    ran = Scene(target, late(Fault(delay=60.0))).run()

    assert ran.result.error is None
    assert ran.reasons == ["a second connection goes on in its place"]
    assert ran.seconds < 1.5


def test_the_other_source_is_asked_where_there_is_one(target: Path) -> None:
    """What makes one host late may make its next answer late as well."""
    served = {f"{host}/w": Served(DATA, rate=RATE) for host in (ORIGIN, MIRROR)}
    sources = (source(f"{ORIGIN}/w"), source(f"{MIRROR}/w"))

    ran = Scene(target, late(Fault(silent=100_000)), sources, served).run()

    first, second = ran.tail()
    assert ran.reasons == ["a second connection goes on in its place"]
    assert {first.url, second.url} == {f"{ORIGIN}/w", f"{MIRROR}/w"}


def test_the_losers_late_bytes_are_never_written(target: Path) -> None:
    """The first connection brings one more block, of wrong bytes, while it is being ended."""
    network = Stubborn({f"{ORIGIN}/w": Served(DATA, rate=RATE)}, late(Fault(silent=100_000)))
    rig = Rig(target, network, threads=InlineThreads(write=0.05))

    (result,) = virtual(lambda: rig.bring(rig.order(remote("w", DATA))))

    assert result.error is None
    assert network.refused == 1
    assert rig.events_of(events.Repairing) == []
    assert (target / "w").read_bytes() == DATA


def test_a_running_write_of_the_loser_ends_before_the_winner_writes(target: Path) -> None:
    """Writes take a quarter of a second, longer than all the winner needs."""
    ran = Scene(
        target, late(Fault(silent=150_000)), rig={"threads": InlineThreads(write=0.25)}
    ).run()

    assert ran.result.error is None
    assert ran.rig.events_of(events.Repairing) == []
    assert ran.network.sent == len(DATA)


# -- it does not win -------------------------------------------------------------------------------


def test_the_first_connection_may_win_after_all(target: Path) -> None:
    """It was silent for 0.7 s and goes on before its hedge has an answer: that one is dropped."""
    hedge = Fault(delay=0.1, rate=600_000)
    faults = late(Fault(pause=(100_000, 0.7)), then=lambda asked: hedge)

    ran = Scene(target, faults).run()

    assert ran.result.error is None
    assert len(ran.tail()) == 2
    assert ran.reasons == []
    assert ran.result.hedged > 0
    assert ran.result.fetched == len(DATA) + ran.result.hedged == ran.network.sent


@pytest.mark.parametrize(
    "wrong",
    [
        Fault(status=404),
        Fault(status=429, headers={"retry-after": "1"}),
        Fault(headers={"content-range": f"bytes 0-9/{len(DATA) + 1}"}),
        Fault(ignore_range=True),
        Fault(cut=10),
    ],
    ids=["missing", "slower", "size", "whole", "cut"],
)
def test_a_wrong_answer_to_a_hedge_does_no_harm(target: Path, wrong: Fault) -> None:
    """The owner goes on, its source stays, nobody is told of a retry."""
    faults = late(Fault(pause=(100_000, 0.9)), then=lambda asked: wrong)

    ran = Scene(target, faults).run()

    assert ran.result.error is None
    assert len(ran.tail()) == 2
    assert ran.reasons == []
    assert ran.rig.events_of(events.SourceDropped) == []


def test_a_hedge_with_another_version_of_the_file_does_no_harm(target: Path) -> None:
    """Without a digest the validator decides, for a hedge as for any other request."""
    network = FakeNetwork(
        {f"{ORIGIN}/w": Served(DATA, rate=RATE, headers={"etag": '"v1"'})},
        late(
            Fault(pause=(100_000, 0.9)),
            then=lambda asked: Fault(headers={"etag": '"v2"'}),
        ),
    )
    rig = Rig(target, network)

    (result,) = virtual(lambda: rig.bring(rig.order(remote("w", DATA, digest=None, etag='"v1"'))))

    assert result.error is None
    assert (target / "w").read_bytes() == DATA
    assert len([asked for asked in network.asked if asked.span.stop == len(DATA)]) == 2
    assert rig.events_of(events.Retrying) == []


def test_a_first_connection_that_breaks_leaves_the_rest_to_its_hedge(target: Path) -> None:
    """The hedge is under way already: no third request."""
    faults = late(Fault(pause=(100_000, 0.7), cut=100_000), then=lambda asked: Fault(delay=0.3))

    ran = Scene(target, faults).run()

    assert ran.result.error is None
    assert ran.reasons == ["the connection was cut"]
    assert len(ran.tail()) == 2
    assert ran.network.sent == len(DATA)


# -- it is not made --------------------------------------------------------------------------------


def test_bytes_that_may_arrive_twice_have_a_limit(target: Path) -> None:
    """2 % of this file is less than what is late: taken back in its own time, not hedged."""
    options = Options(chunk=CHUNK, small=32 * 1024, repeats=0)

    ran = Scene(target, late(Fault(silent=100_000)), rig={"options": options}).run()

    assert ran.result.error is None
    assert ran.reasons == ["the connection is silent or too slow"]
    assert ran.seconds > 1.3  # with a hedge it is less than 0.9


@pytest.mark.fault("the user limits the rate to a trickle", "no false alarm", number=74)
def test_under_a_rate_limit_nothing_is_asked_for_twice(target: Path) -> None:
    """Everything is slow because the user wants it so."""
    ran = Scene(target, late(Fault(rate=20_000)), rig={"limit_rate": 150_000.0}).run()

    assert ran.result.error is None
    assert ran.result.hedged == 0
    assert "a second connection goes on in its place" not in ran.reasons


def test_nothing_is_hedged_while_the_disk_is_the_slow_one(target: Path) -> None:
    """Receivers wait for memory: how slow a connection looks says nothing about its server."""
    rig: dict[str, object] = {"threads": InlineThreads(write=1.5), "memory": MIB}

    ran = Scene(target, rig=rig).run()

    assert ran.result.error is None
    assert ran.reasons == []
    assert ran.network.sent == len(DATA)


def test_a_hedge_takes_only_memory_that_nobody_will_miss() -> None:
    """Half of the pool stays free beside it, and nobody may be waiting."""
    pool = BufferPool(MIB)

    spare = pool.take_spare(300 * 1024)
    assert spare is not None
    sizes = [spare.size, pool.take_spare(64 * 1024), pool.take_spare(2 * MIB)]
    pool.give(spare)
    again = pool.take_spare(1)

    assert sizes == [512 * 1024, None, None]
    assert again is not None
    assert again.size == pool.lent == 64 * 1024


def test_a_server_of_which_nothing_is_known_is_not_hedged(target: Path) -> None:
    """Its first answer may take as long as it likes: nobody knows what is late."""
    served = {f"{ORIGIN}/w": Served(DATA, rate=RATE, delay=8.0)}

    ran = Scene(target, served=served).run()

    assert len(ran.network.asked) == 8
    assert ran.result.hedged == 0


def test_there_are_never_more_than_two_hedges(target: Path) -> None:
    """Four connections fall silent together, hedges do not answer: two of them are asked."""

    def four(asked: Asked) -> Fault | None:
        if asked.number >= 8:
            return Fault(delay=0.4)
        return Fault(silent=100_000) if asked.number >= 4 else None

    ran = Scene(target, four).run()

    times = [asked.time for asked in ran.network.asked[8:]]
    assert ran.result.error is None
    assert len([time for time in times if time < times[0] + 0.25]) == 2


# -- small files -----------------------------------------------------------------------------------


def small_files(target: Path, faults: Faults, *, sizes: int = 20_000) -> tuple[Rig, FakeNetwork]:
    """Ten small files, of which one is late."""
    served = {f"{ORIGIN}/f{n}": Served(payload(sizes, n), rate=RATE) for n in range(10)}
    network = FakeNetwork(served, faults)
    return Rig(target, network, options=Options(chunk=MIB, small=MIB)), network


def bring_small(rig: Rig, *, sizes: int = 20_000) -> list[FileResult]:
    """Bring them, and see that they are right."""

    async def main() -> list[FileResult]:
        orders = [rig.order(remote(f"f{n}", payload(sizes, n))) for n in range(10)]
        return list(await rig.bring(*orders))

    results = virtual(main)
    for n, result in enumerate(results):
        assert result.error is None
        assert (rig.target / f"f{n}").read_bytes() == payload(sizes, n)
    assert rig.engine is not None
    assert rig.engine.pool.lent == 0
    return results


def test_a_small_file_without_an_answer_is_asked_for_beside_the_first_request(target: Path) -> None:
    """The first request also looks for the file's address: nobody waits for what it finds."""
    rig, network = small_files(
        target, lambda asked: Fault(delay=100.0) if asked.number == 9 else None
    )

    bring_small(rig)

    assert len(network.asked) == 11
    assert network.asked[10].url == network.asked[9].url
    assert network.asked[10].time < network.asked[9].time + 0.7
    assert network.sent == 10 * 20_000


def test_a_small_file_that_stops_half_way_is_had_from_its_hedge_alone(target: Path) -> None:
    """What the first connection brought is thrown away: a body has one origin."""
    sizes = 300_000
    rig, network = small_files(
        target, lambda asked: Fault(silent=100_000) if asked.number == 9 else None, sizes=sizes
    )

    results = bring_small(rig, sizes=sizes)

    late_one = next(result for result in results if result.hedged)
    assert len(network.asked) == 11
    assert late_one.hedged == 100_000
    assert late_one.fetched == sizes + 100_000
    assert network.sent == 10 * sizes + 100_000


def test_a_small_file_whose_first_connection_wins_is_written_once(target: Path) -> None:
    """It goes on before the hedge has an answer."""
    rig, network = small_files(
        target,
        lambda asked: (
            Fault(pause=(10_000, 0.7))
            if asked.number == 9
            else Fault(delay=5.0)
            if asked.number == 10
            else None
        ),
    )

    results = bring_small(rig)

    assert len(network.asked) == 11
    assert not any(result.hedged for result in results)
    assert rig.events_of(events.Retrying) == []


def test_a_small_file_whose_first_connection_breaks_is_its_hedges(target: Path) -> None:
    """Its hedge is under way: the file is not lined up once more."""
    rig, network = small_files(
        target,
        lambda asked: (
            Fault(pause=(10_000, 0.7), cut=10_000)
            if asked.number == 9
            else Fault(delay=0.9)
            if asked.number == 10
            else None
        ),
    )

    bring_small(rig)

    assert len(network.asked) == 11
    (retry,) = rig.events_of(events.Retrying)
    assert retry.reason == "the connection was cut"  # type: ignore[union-attr]


def test_a_small_file_that_cannot_be_stored_is_given_up_with_its_hedge(target: Path) -> None:
    """Its folder cannot be made while a hedge is under way: one failure, nothing published."""
    data = payload(900_000)
    network = FakeNetwork(
        {f"{ORIGIN}/{name}": Served(data, rate=RATE) for name in ("a", "link/b")},
        lambda asked: Fault(pause=(512 * 1024, 0.75)) if asked.number == 1 else None,
    )
    rig = Rig(target, network, options=Options(chunk=MIB, small=MIB))
    (target / "link").symlink_to(target.parent)

    results = virtual(
        lambda: rig.bring(rig.order(remote("a", data)), rig.order(remote("link/b", data)))
    )

    assert len(network.asked) == 3
    assert [result.error is None for result in results] == [True, False]
    assert not (target.parent / "b").exists()
    assert network.sent < len(data) + 600_000 + 400_000  # the hedge ended with the file
    assert rig.engine is not None
    assert rig.engine.pool.lent == 0


# -- addresses, stops ------------------------------------------------------------------------------


def test_a_hedge_finds_the_address_that_the_late_request_was_to_find(target: Path) -> None:
    """The hub does not answer for the second file; what its hedge finds serves all of them."""
    cdn = "https://cdn.test"
    files = {"a": DATA, "b": DATA[:MIB]}
    served = {f"{cdn}/{name}": Served(data, rate=RATE) for name, data in files.items()}
    for name in files:
        served[f"{ORIGIN}/{name}"] = Served(redirect=lambda asked: cdn + asked.url[-2:])
    hung: list[Asked] = []

    def hang(asked: Asked) -> Fault | None:
        if asked.url == f"{ORIGIN}/b" and not hung:
            hung.append(asked)
            return Fault(delay=500.0)
        return None

    network = FakeNetwork(served, hang)
    rig = Rig(target, network)
    orders = [
        rig.order(remote(name, data), source(f"{ORIGIN}/{name}", Authorization="Bearer secret"))
        for name, data in files.items()
    ]

    (_, result) = virtual(lambda: rig.bring(*orders))

    assert result.error is None
    assert network.asked[-1].time < hung[0].time + 1.5
    assert result.sources == (cdn,)
    for asked in network.asked:
        assert ("Authorization" in asked.headers) == asked.url.startswith(ORIGIN)


@pytest.mark.parametrize("seconds", [0.69, 0.71, 0.73, 0.76, 0.79, 0.83, 0.86])
@pytest.mark.parametrize("write", [0.0, 0.03])
def test_a_stop_while_a_hedge_runs_loses_nothing_that_was_written(
    target: Path, seconds: float, write: float
) -> None:
    """Before it is asked, while it is behind or ahead, takes over, owns the rest."""
    network = FakeNetwork({f"{ORIGIN}/w": Served(DATA, rate=RATE)}, late(Fault(silent=100_000)))
    rig = Rig(target, network, threads=InlineThreads(write=write))

    async def stopped() -> None:
        with anyio.move_on_after(seconds):
            await rig.bring(rig.order(remote("w", DATA)))

    virtual(stopped)
    assert rig.engine is not None
    assert rig.engine.pool.lent == 0
    (work,) = unfinished(target / ".modelhaul")
    rest = Scene(target).run()

    assert work.have >= len(DATA) - CHUNK + 100_000
    assert rest.result.reused == work.have
    assert rest.network.sent == len(DATA) - work.have


def test_a_stop_while_a_small_file_is_hedged_leaves_nothing(target: Path) -> None:
    """Every moment from before the hedge to after it has taken over."""
    for hundredth in range(45, 90, 3):
        rig, _ = small_files(
            target,
            lambda asked: Fault(silent=100_000) if asked.number == 9 else None,
            sizes=300_000,
        )

        async def stopped(rig: Rig = rig, seconds: float = hundredth / 100) -> None:
            orders = [rig.order(remote(f"f{n}", payload(300_000, n))) for n in range(10)]
            with anyio.move_on_after(seconds):
                await rig.bring(*orders)

        virtual(stopped)

        assert rig.engine is not None
        assert rig.engine.pool.lent == 0
        assert rig.left() == []
        for n in range(10):
            (target / f"f{n}").unlink(missing_ok=True)
