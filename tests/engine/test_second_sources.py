"""A second source that is silent, crawls or fails costs little; a place of no use is named once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from modelhaul import events
from modelhaul.core.scheduler import CHUNK
from modelhaul.core.sources import MOST_FAILURES, MOST_LIES, MOST_WITHOUT
from modelhaul.engine.context import Options
from modelhaul.errors import ConnectFailed, HaulError, NotFound, TransportError
from modelhaul.report import FileResult
from tests.engine.harness import MIB, Rig, payload, remote, source
from tests.support.network import Asked, FakeNetwork, Fault, Served
from tests.support.virtual import virtual

HUB, MIRROR = "https://hub.test", "https://mirror.test"
REFUSED = Fault(error=ConnectFailed("connection refused"))

Fails = Callable[[Asked], Fault | None]


def of_mirror(fault: Fault) -> Fails:
    """Every request of the mirror goes wrong like this."""
    return lambda asked: fault if asked.url.startswith(MIRROR) else None


def rig_of(
    target: Path,
    files: dict[str, bytes],
    fails: Fails,
    *,
    connections: int = 64,
    pipe: float | None = None,
) -> Rig:
    """Both places have these files, with the chunks and the limits of a real run.

    Eight connections are enough for one place, as far as a run can tell at first: the others are
    for the second one.
    """
    target.mkdir(exist_ok=True)
    served = {
        f"{place}/{path}": Served(data, rate=3e6)
        for place in (HUB, MIRROR)
        for path, data in files.items()
    }
    network = FakeNetwork(served, fails, pipe=pipe)
    return Rig(target, network, options=Options(), connections=connections, memory=48 * MIB)


def bring(rig: Rig, files: dict[str, bytes], *places: str) -> tuple[list[FileResult], float]:
    """The results and the seconds that it took."""

    async def main() -> tuple[list[FileResult], float]:
        before = anyio.current_time()
        results = await rig.bring(
            *(
                rig.order(remote(path, data), *(source(f"{place}/{path}") for place in places))
                for path, data in files.items()
            )
        )
        return list(results), anyio.current_time() - before

    return virtual(main)


def asked_of(rig: Rig, place: str) -> list[Asked]:
    assert isinstance(rig.network, FakeNetwork)
    return [asked for asked in rig.network.asked if asked.url.startswith(place)]


def notes(rig: Rig) -> list[str]:
    return [event.message for event in rig.seen if isinstance(event, events.Note)]


# -- silent or slow --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [20_000, 2 * MIB, 24 * MIB, 48 * MIB])
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            fault,
            id=name,
            marks=pytest.mark.fault(
                f"the second of two sources {name}",
                "at most 15 % or a second more than from the first alone; the report names it",
                number=number,
            ),
        )
        for name, fault, number in (
            ("takes connections and says nothing", Fault(delay=1e9), 63),
            ("sends heads and no bodies", Fault(silent=0), 63),
            ("sends two kilobytes every two seconds", Fault(rate=1000.0, step=2000), 62),
            ("sends 200 bytes five times a second", Fault(rate=1000.0, step=200), 62),
        )
    ],
)
def test_a_silent_or_slow_second_source_costs_a_second_at_most(
    target: Path, fault: Fault, size: int
) -> None:
    """The hub alone is the measure."""
    files = {"w": payload(size)}
    alone = rig_of(target / "alone", files, of_mirror(fault))
    both = rig_of(target / "both", files, of_mirror(fault))

    _, good = bring(alone, files, HUB)
    (result,), bad = bring(both, files, HUB, MIRROR)

    assert result.error is None
    assert (target / "both" / "w").read_bytes() == files["w"]
    assert bad <= max(1.15 * good, good + 1.0) + 0.1  # one beat
    assert result.fetched - result.hedged <= size + MIB
    if asked_of(both, MIRROR):
        assert notes(both) == [f"source {MIRROR} was of no use: it is silent or too slow"]


@pytest.mark.parametrize("fault", [Fault(delay=1e9), Fault(silent=0)])
def test_connections_that_are_few_do_not_stay_with_a_silent_source(
    target: Path, fault: Fault
) -> None:
    """Half of them have gone there when it begins: they come back, though none is idle."""
    files = {"w": payload(96 * MIB)}
    alone = rig_of(target / "alone", files, of_mirror(fault), connections=8)
    both = rig_of(target / "both", files, of_mirror(fault), connections=8)

    _, good = bring(alone, files, HUB)
    _, bad = bring(both, files, HUB, MIRROR)

    assert bad <= good + 1.5


def test_many_small_files_are_not_held_up_by_a_silent_source(target: Path) -> None:
    """None waits for it twice, and in the end it is not asked any more."""
    files = {f"f{number:02}": payload(20_000, number) for number in range(60)}
    rig = rig_of(target, files, of_mirror(Fault(silent=0)))

    results, seconds = bring(rig, files, HUB, MIRROR)

    assert all(result.error is None for result in results)
    assert seconds < 4
    assert len(asked_of(rig, MIRROR)) < 25


def test_what_a_silent_source_is_asked_for_later_is_little(target: Path) -> None:
    """A long file over a slow line: it is tried now and then, by one request, and set aside."""
    files = {"w": payload(96 * MIB)}
    rig = rig_of(target, files, of_mirror(Fault(silent=0)), pipe=5e5)

    (result,), _ = bring(rig, files, HUB, MIRROR)

    first = asked_of(rig, MIRROR)[0].time
    later = [asked.time - first for asked in asked_of(rig, MIRROR) if asked.time > first + 1]
    assert result.error is None
    assert len(later) < MOST_FAILURES
    assert all(b - a >= 2 for a, b in pairwise(later))
    assert notes(rig) == [f"source {MIRROR} is not used any more: it is silent or too slow"]


def test_a_source_that_takes_long_for_its_first_answer_is_used_once_it_has_answered(
    target: Path,
) -> None:
    """Six seconds are more than the others need; it is given longer each time, and not dropped."""
    files = {"w": payload(96 * MIB)}
    begun: list[float] = []

    def fails(asked: Asked) -> Fault | None:
        begun.append(asked.time)
        slow = asked.url.startswith(MIRROR) and asked.time < begun[0] + 25
        return Fault(delay=6.0) if slow else None

    rig = rig_of(target, files, fails, pipe=2e6)

    (result,), _ = bring(rig, files, HUB, MIRROR)

    assert result.error is None
    assert set(result.sources) == {HUB, MIRROR}
    assert notes(rig) == []


def test_a_source_that_is_slow_is_waited_for_while_the_other_asks_for_a_pause(
    target: Path,
) -> None:
    """Who is paused cannot do its work: nothing is taken back from it."""
    files = {"w": payload(2 * MIB)}
    begun: list[float] = []

    def fails(asked: Asked) -> Fault | None:
        begun.append(asked.time)
        if asked.url.startswith(HUB):
            paused = asked.time < begun[0] + 100
            return Fault(status=429, headers={"retry-after": "120"}) if paused else None
        return Fault(delay=20.0)

    rig = rig_of(target, files, fails)

    (result,), seconds = bring(rig, files, HUB, MIRROR)

    assert result.error is None
    assert result.sources == (MIRROR,)
    assert seconds < 60


@pytest.mark.parametrize("size", [48 * MIB, 192 * MIB])
def test_a_fast_source_that_takes_long_to_answer_is_not_slower_than_a_slow_one(
    target: Path, size: int
) -> None:
    """Three seconds for the first byte: it was taken for dead, and given up just before it came.

    Eight connections. Those that wait for it go to the hub after two seconds and are there for one
    chunk. Whatever is left then, it brings with all of them, a chunk each in one answer.
    """
    slow, wait = 3e5, 3.0
    rig = rig_of(target, {"w": payload(size)}, lambda asked: None, connections=8)
    assert isinstance(rig.network, FakeNetwork)
    rig.network.files[f"{HUB}/w"].rate = slow
    rig.network.files[f"{MIRROR}/w"].rate = 100e6
    rig.network.files[f"{MIRROR}/w"].delay = wait

    (result,), seconds = bring(rig, {"w": payload(size)}, HUB, MIRROR)

    begun = 2.0 + CHUNK / slow
    answers = -(-(size - 7 * CHUNK) // (8 * CHUNK))
    assert result.error is None
    assert seconds <= begun + answers * (wait + CHUNK / 100e6) + 1.0
    assert not rig.events_of(events.Retrying)[3:]  # those that waited for the first one
    assert notes(rig) == []


# -- failing ---------------------------------------------------------------------------------------


@pytest.mark.fault(
    "the hub asks for a pause of minutes, and the second source refuses connections",
    "the pause is waited out as without the second source",
    number=(36, 65),
)
def test_a_second_source_that_refuses_does_not_end_the_run(target: Path) -> None:
    """Its failures cost nothing while the hub is only paused; it is named once."""
    files = {"w": payload(100_000)}
    first: list[float] = []

    def fails(asked: Asked) -> Fault | None:
        first.append(asked.time)
        if asked.url.startswith(MIRROR):
            return REFUSED
        paused = asked.time < first[0] + 1
        return Fault(status=429, headers={"retry-after": "240"}) if paused else None

    rig = rig_of(target, files, fails)

    (result,), seconds = bring(rig, files, HUB, MIRROR)

    assert result.error is None
    assert 240 <= seconds < 242
    assert len(asked_of(rig, MIRROR)) == MOST_FAILURES
    assert notes(rig) == [f"source {MIRROR} is not used any more: connection refused"]


@pytest.mark.fault("two sources refuse connections", "a typed error within two minutes", number=65)
@pytest.mark.parametrize("size", [20_000, 2 * MIB])
def test_two_sources_that_refuse_end_the_run_as_one_does(target: Path, size: int) -> None:
    """What could be the line's fault is no reason to name one of them; and it has an end."""
    files = {"w": payload(size)}
    alone = rig_of(target / "alone", files, lambda asked: REFUSED)
    both = rig_of(target / "both", files, lambda asked: REFUSED)

    def seconds(rig: Rig, *places: str) -> float:
        async def main() -> float:
            before = anyio.current_time()
            order = rig.order(remote("w", files["w"]), *(source(f"{place}/w") for place in places))
            with pytest.raises(TransportError, match="refused"):
                await rig.bring(order)
            return anyio.current_time() - before

        return virtual(main)

    good, bad = seconds(alone, HUB), seconds(both, HUB, MIRROR)

    assert good / 2 <= bad < 120
    assert notes(both) == []


def test_a_second_source_that_dies_is_named_though_it_brought_something(target: Path) -> None:
    """Cut after two megabytes, then nobody answers: it is a source of the file, and it is named."""
    files = {"w": payload(96 * MIB)}

    def fails(asked: Asked) -> Fault | None:
        if not asked.url.startswith(MIRROR):
            return None
        return Fault(cut=MIB) if asked.number < 20 else REFUSED

    rig = rig_of(target, files, fails, pipe=2e6)

    (result,), _ = bring(rig, files, HUB, MIRROR)

    assert result.error is None
    assert set(result.sources) == {HUB, MIRROR}
    assert notes(rig) == [f"source {MIRROR} is not used any more: connection refused"]


def test_a_source_that_was_cut_before_its_first_byte_is_no_source_of_the_file(
    target: Path,
) -> None:
    """It is named all the same: it was asked in vain."""
    files = {"w": payload(2 * MIB)}
    rig = rig_of(target, files, of_mirror(Fault(cut=0)))

    (result,), _ = bring(rig, files, HUB, MIRROR)

    assert result.sources == (HUB,)
    assert notes(rig) == [f"source {MIRROR} was of no use: the connection was cut"]


def test_a_second_source_that_wants_an_hour_is_named_once(target: Path) -> None:
    """429 with an hour: no file asks it any more, and the hub brings all of them."""
    files = {f"f{number:02}": payload(20_000, number) for number in range(20)}
    rig = rig_of(target, files, of_mirror(Fault(status=429, headers={"retry-after": "3600"})))

    results, _ = bring(rig, files, HUB, MIRROR)

    assert all(result.error is None for result in results)
    (note,) = notes(rig)
    assert note.startswith(f"source {MIRROR} is not used any more: ")


def test_a_second_source_that_works_is_not_named(target: Path) -> None:
    """Nothing is said of places that do what they can."""
    files = {"w": payload(24 * MIB), "x": payload(20_000, 2)}
    rig = rig_of(target, files, lambda asked: None)

    results, _ = bring(rig, files, HUB, MIRROR)

    assert {origin for result in results for origin in result.sources} == {HUB, MIRROR}
    assert notes(rig) == []


# -- over many files -------------------------------------------------------------------------------

MANY = {f"f{number:02}": payload(20_000, number) for number in range(60)}


@pytest.mark.fault(
    "a second source has none of many files",
    "it is asked for a few of them, and named once",
    number=43,
)
def test_a_place_that_has_none_of_the_files_is_not_asked_for_all(target: Path) -> None:
    """A folder that is another one: what was asked for at once, and no more."""
    rig = rig_of(target, MANY, of_mirror(Fault(status=404)))

    results, _ = bring(rig, MANY, HUB, MIRROR)

    asked = len(asked_of(rig, MIRROR))
    assert all(result.error is None for result in results)
    assert MOST_WITHOUT <= asked <= MOST_WITHOUT + 16
    assert len(rig.events_of(events.SourceDropped)) <= asked
    (note,) = notes(rig)
    assert note.startswith(f"source {MIRROR} is not used any more for small files: ")
    assert note.endswith("answers 404")


def test_a_place_that_has_only_the_weights_is_asked_for_them(target: Path) -> None:
    """Small files come first, and it has none of them: that says nothing of the large ones."""
    files = {**MANY, "weights": payload(24 * MIB, 99)}
    rig = rig_of(
        target,
        files,
        lambda asked: (
            Fault(status=404)
            if asked.url.startswith(MIRROR) and not asked.url.endswith("weights")
            else None
        ),
    )

    results, _ = bring(rig, files, HUB, MIRROR)

    assert all(result.error is None for result in results)
    assert set(results[-1].sources) == {HUB, MIRROR}
    (note,) = notes(rig)
    assert note.startswith(f"source {MIRROR} is not used any more for small files: ")


def test_a_place_that_has_most_of_the_files_is_asked_for_all(target: Path) -> None:
    """All but every fourth: what it has not is no reason to leave it out."""
    rig = rig_of(
        target,
        MANY,
        lambda asked: (
            Fault(status=404)
            if asked.url.startswith(MIRROR) and int(asked.url[-2:]) % 4 == 0
            else None
        ),
    )

    results, _ = bring(rig, MANY, HUB, MIRROR)

    assert all(result.error is None for result in results)
    assert len({asked.url for asked in asked_of(rig, MIRROR)}) > 15
    assert notes(rig) == []


@pytest.mark.fault(
    "a second source has none of several large files",
    "each is asked for once or a few times at first, and it is named once",
    number=43,
)
def test_a_place_that_has_none_of_the_large_files_is_set_aside(target: Path) -> None:
    """What counts is files, not the requests that were made for one of them at the same time."""
    files = {f"w{number}": payload(4 * MIB, number) for number in range(8)}
    rig = rig_of(target, files, of_mirror(Fault(status=404)))

    results, _ = bring(rig, files, HUB, MIRROR)

    assert all(result.error is None for result in results)
    dropped = [event.path for event in rig.seen if isinstance(event, events.SourceDropped)]
    assert MOST_WITHOUT <= len(dropped) == len(set(dropped)) < len(files)
    (note,) = notes(rig)
    assert note.startswith(f"source {MIRROR} is not used any more: ")


@pytest.mark.fault(
    "a second source sends wrong bytes of every one of many files",
    "it is asked for a few of them, and named; kept connections are closed a few times",
    number=30,
)
def test_a_place_that_lies_about_every_file_is_not_asked_for_all(target: Path) -> None:
    """Named for each file at first, then once for all; not one is wrong in the end."""
    rig = rig_of(target, MANY, of_mirror(Fault(flip=(5,))))
    assert isinstance(rig.network, FakeNetwork)

    results, _ = bring(rig, MANY, HUB, MIRROR)

    lied = [result for result in results if result.disproven]
    assert all(result.error is None for result in results)
    assert all((target / path).read_bytes() == data for path, data in MANY.items())
    assert MOST_LIES <= len(lied) == len(asked_of(rig, MIRROR)) <= MOST_LIES + 20
    assert len(notes(rig)) == MOST_LIES
    assert notes(rig)[-1].startswith(
        f"source {MIRROR} is not used any more: it sent wrong bytes of {MOST_LIES} files"
    )
    assert len(rig.network.renewed) <= MOST_LIES


def test_a_place_that_was_set_aside_is_asked_for_what_nobody_else_has(target: Path) -> None:
    """The hub has lost its last file, which the mirror has: only that is asked for there."""
    last = max(MANY)

    def fails(asked: Asked) -> Fault | None:
        return Fault(status=404) if asked.url.startswith(HUB) == asked.url.endswith(last) else None

    rig = rig_of(target, MANY, fails)

    results, _ = bring(rig, MANY, HUB, MIRROR)

    assert all(result.error is None for result in results)
    assert results[-1].sources == (MIRROR,)
    assert asked_of(rig, MIRROR)[-1].url == f"{MIRROR}/{last}"
    assert len(notes(rig)) == 1


def test_the_repository_itself_is_never_set_aside(target: Path) -> None:
    """It answers 404 for many files that the mirror has, and is asked for the next all the same."""
    rig = rig_of(
        target, MANY, lambda asked: Fault(status=404) if asked.url.startswith(HUB) else None
    )

    results, _ = bring(rig, MANY, HUB, MIRROR)

    assert all(result.error is None for result in results)
    assert all(result.sources == (MIRROR,) for result in results)
    assert len(asked_of(rig, HUB)) > 2 * MOST_WITHOUT
    assert notes(rig) == []


def test_a_file_that_no_place_has_fails_with_the_error_of_the_last(target: Path) -> None:
    """A place that was set aside is asked before a file is given up."""
    rig = rig_of(target, MANY, lambda asked: Fault(status=404))

    results, _ = bring(rig, MANY, HUB, MIRROR)

    errors: list[HaulError | None] = [result.error for result in results]
    assert all(isinstance(error, NotFound) for error in errors)
    assert {asked.url for asked in asked_of(rig, MIRROR)} == {f"{MIRROR}/{path}" for path in MANY}
