"""SIGKILL at every step of the crash order and at random; journals damaged between two runs.

What counts is what the next run does: right bytes, exit 0, nothing left over, and by the hub's own
log nothing is sent again that was published or recorded.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelhaul.core.journal import LOG_START, PAGE, RECORD_SIZE
from tests.support import hub as hubs
from tests.support.lives import Life, Log, fetched_again, fresh, safe
from tests.support.sent_twice import MIB, allowance, sent
from tests.support.world import World, content, machine, tree

pytestmark = [
    pytest.mark.command,
    pytest.mark.skipif(sys.platform != "linux", reason="the launcher needs /proc"),
]

LARGE = content(6 * MIB, 1)
FILES = {
    "config.json": b'{"model_type": "tiny"}\n',
    "copy.safetensors": LARGE,
    "model.safetensors": LARGE,
    "tokenizer.json": content(70_000, 2),
}
SIZES = {path: len(data) for path, data in FILES.items()}
COMMAND = ["download", "acme/one", "--local-dir", "m", "--connections", "3"]
# Slow enough, and barriers frequent enough, that the large file has several in the middle.
SLOW = [*COMMAND, "--limit-rate", "8M"]
BARRIER = 0.1


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hubs.TestHub]:
    """A hub with a model of large and small files, two of them the same."""
    with hubs.hub_with({"acme/one": FILES}, tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def world(hub: hubs.TestHub, tmp_path: Path) -> World:
    """A fresh machine in front of the hub."""
    return fresh(hub, tmp_path)


def log_of(world: World) -> Log:
    """The hub's log, from here on."""
    log = Log(world.hub)
    log.more()
    return log


# -- at every step -------------------------------------------------------------------------------

#: Each step of a download in the order of its first time, and which of its times are tried.
STEPS = {
    "lock folder": 2,
    "make folder": 1,
    "make state folder": 1,
    # the large file: step 0 of the crash order
    "create journal": 1,
    "lock journal": 1,
    "remove part": 1,
    "create part": 1,
    "resize part": 1,
    "sync part": 3,
    "resize journal": 1,
    "allocate journal": 1,
    "write header": 1,
    "sync journal": 2,
    "sync state folder": 1,
    # 1 to 3; the barrier is the second sync of each
    "write part": 2,
    "write HAVE": 2,
    "write SYNCED": 1,
    # 5 and 6
    "rename part": 1,
    "sync folder": 5,
    "remember": 3,
    "remove journal": 1,
    # small files
    "create small part": 2,
    "lock small part": 1,
    "resize small part": 1,
    "write small part": 2,
    "sync small part": 2,
    "rename small part": 2,
    # content that another file has
    "create copy": 1,
    "lock copy": 1,
    "resize copy": 1,
    "write copy": 2,
    "sync copy": 1,
    "rename copy": 1,
    "remove state folder": 1,
}
#: After these the next step is not the same moment: the folder is synced or the memory told later.
COMMITS = {"write HAVE", "write SYNCED", "rename part", "rename small part", "rename copy"}


def points() -> Iterator[pytest.ParameterSet]:
    """Before each step, and after it: where the next step is as good, only when there is time."""
    for step, times in STEPS.items():
        for number in range(1, times + 1):
            yield pytest.param("before", step, number)
            marks = () if step in COMMITS else pytest.mark.torture
            yield pytest.param("after", step, number, marks=marks)


@pytest.mark.fault(
    "SIGKILL at any step of the crash order", "resumed, nothing safe is sent again", number=106
)
@pytest.mark.parametrize(("side", "step", "number"), [*points()])
def test_a_kill_at_any_step_is_made_good(world: World, side: str, step: str, number: int) -> None:
    """The next run exits 0 with the right bytes, leaves nothing, and fetches nothing safe again."""
    log = log_of(world)
    life = Life(world, *SLOW, barrier=BARRIER, point=f"{side} {step} {number}")
    assert life.wait() == -signal.SIGKILL, life.errors
    log.more()
    kept = safe(world.work / "m", SIZES)

    again = Life(world, *COMMAND)

    assert again.wait() == 0, again.errors
    assert tree(world.work / "m") == FILES
    assert os.listdir(world.work) == ["m"]
    assert fetched_again(kept, log.more()) == 0


def test_the_list_of_steps_is_complete(world: World, tmp_path: Path) -> None:
    """What a download really does to the disk is what the kills are tried on."""
    record = tmp_path / "record"
    life = Life(world, *SLOW, barrier=BARRIER, record=str(record))

    assert life.wait() == 0, life.errors
    steps = record.read_text().splitlines()
    assert set(steps) - {"write zeros"} == set(STEPS)
    assert all(steps.count(step) >= times for step, times in STEPS.items())


# -- in an update that is published all at once --------------------------------------------------

OLD = {"config.json": b"old\n", "model.safetensors": content(3 * MIB, 3), "same.txt": b"same\n"}
NEW = {"config.json": b"new\n", "model.safetensors": content(3 * MIB, 4), "same.txt": b"same\n"}
UPDATE = ["download", "acme/tiny"]

UPDATE_POINTS = [
    ("before", "create marker", 1),
    ("before", "sync marker", 1),
    ("after", "sync state folder", 2),
    ("after", "rename part", 1),
    ("after", "rename small part", 1),
    ("after", "sync folder", 2),
    ("before", "remember", 2),
    ("before", "remove journal", 1),
    ("before", "remove marker", 1),
    ("after", "remove marker", 1),
]


@pytest.fixture
def outdated(tmp_path: Path) -> Iterator[World]:
    """A machine with an old snapshot in its cache, and a hub with a new one."""
    with machine(tmp_path) as world:
        world.put("acme/tiny", OLD)
        first = Life(world, *UPDATE)
        assert first.wait() == 0, first.errors
        world.put("acme/tiny", NEW)
        yield world


@pytest.mark.fault("SIGKILL while an update is published", "every file whole, the next run ends it")
@pytest.mark.parametrize(("side", "step", "number"), UPDATE_POINTS)
def test_a_kill_in_an_update_is_made_good(
    outdated: World, side: str, step: str, number: int
) -> None:
    """Every file is the old or the new one; while there may be both, a marker says so."""
    snapshot = outdated.cache / "models" / "acme--tiny" / "snapshots" / "master"
    state = outdated.cache / ".modelhaul"

    life = Life(outdated, *UPDATE, point=f"{side} {step} {number}")
    assert life.wait() == -signal.SIGKILL, life.errors

    found = tree(snapshot)
    assert found.keys() == OLD.keys()
    assert all(data in (OLD[path], NEW[path]) for path, data in found.items())
    assert found in (OLD, NEW) or list(state.glob("*.update"))
    again = Life(outdated, *UPDATE)
    assert again.wait() == 0, again.errors
    assert tree(snapshot) == NEW
    # Small parts of an update have no lock that would tell that their owner is dead: `clean` knows
    # by the person who says so.
    left = [path.name for path in state.iterdir()] if state.exists() else []
    assert all(".whole." in name for name in left)
    assert ("unfinished part" in again.errors) is bool(left)
    assert Life(outdated, "clean").wait() == 0
    assert not state.exists()


# -- at random -----------------------------------------------------------------------------------

RATE = 4_000_000  # bytes/s of one connection
MANY = {
    "a.safetensors": content(80_000_001, 5),
    "b.safetensors": content(80_000_000, 6),
    "c.bin": content(1_500_000, 7),
    **{f"small/{number}.json": content(40_000 + number, number) for number in range(12)},
}
MANY_SIZES = {path: len(data) for path, data in MANY.items()}
MANY_SIZE = sum(MANY_SIZES.values())
SLOWLY = ["download", "acme/many", "--local-dir", "m", "--connections", "2"]
# 30 kills in CI, half of them in each of two tests that run side by side; 300 by hand. All lives
# together are too short for all bytes, at this rate.
KILLS = 15
SEEDS = [0, 1, *(pytest.param(seed, marks=pytest.mark.torture) for seed in range(2, 20))]


@pytest.fixture(scope="module")
def slow_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hubs.TestHub]:
    """A hub on which a download takes a few seconds."""
    folder = tmp_path_factory.mktemp("slow")
    with hubs.hub_with({"acme/many": MANY}, folder, rate=RATE) as running:
        yield running


@pytest.mark.timeout(180)
@pytest.mark.whole
@pytest.mark.fault(
    "SIGKILL at any moment, again and again",
    "at most 1 MiB per connection, a second and what lay in buffers is sent again",
    number=106,
)
@pytest.mark.parametrize("seed", SEEDS)
def test_kills_at_random_cost_little(slow_hub: hubs.TestHub, tmp_path: Path, seed: int) -> None:
    """What a killed run was sent is safe but for its own allowance; the last run ends well."""
    world = fresh(slow_hub, tmp_path)
    chance = random.Random(seed)
    log = log_of(world)
    had, costs = 0, []

    for number in range(KILLS):
        # All of a short life is its last second, and may be lost: every third is not.
        seconds = chance.uniform(2.0, 3.0) if number % 3 == 2 else chance.uniform(0.05, 0.6)
        life = Life(world, *SLOWLY)
        life.process.join(seconds)
        assert life.process.exitcode is None, f"ended before kill {number}: {life.errors}"
        kill = life.kill()
        entries = log.more()
        kept = safe(world.work / "m", MANY_SIZES)
        before, had = had, sum(spans.total for spans in kept.values())
        lost, allowed = sent(entries) - (had - before), sum(allowance(entries, kill).values())
        costs.append((lost, min(sent(entries), allowed)))
    last = Life(world, *SLOWLY[:-2])

    assert last.wait(60) == 0, last.errors
    assert tree(world.work / "m") == MANY
    assert fetched_again(kept, log.more()) == 0
    assert len(costs) == KILLS
    assert [(lost, allowed) for lost, allowed in costs if lost > allowed] == []
    # Of the long lives much was kept, or nothing here would have been bounded.
    assert had > MANY_SIZE // 8


# -- journals damaged between two runs -----------------------------------------------------------


def cut(length: int) -> Callable[[bytes], bytes]:
    """So many bytes are left of it."""
    return lambda raw: raw[:length]


def flip(*positions: int) -> Callable[[bytes], bytes]:
    """A bit is wrong in these bytes."""

    def damage(raw: bytes) -> bytes:
        wrong = bytearray(raw)
        for position in positions:
            wrong[position] ^= 0x10
        return bytes(wrong)

    return damage


DAMAGES = {
    "cut to nothing": cut(0),
    "cut in the first header": cut(100),
    "cut between the headers": cut(PAGE),
    "cut before the log": cut(LOG_START),
    "cut in the second record": cut(LOG_START + RECORD_SIZE + 5),
    "a bit of the first header": flip(50),
    "a bit of both headers": flip(50, PAGE + 50),
    "a bit of the first record": flip(LOG_START + 9),
    "a bit of each of the first records": flip(*range(LOG_START, LOG_START + 4 * RECORD_SIZE, 32)),
    "overwritten": lambda raw: content(len(raw), 8),
}


@pytest.mark.fault(
    "the journal is cut or damaged", "only its bad records are lost", number=(108, 109)
)
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_journal_costs_what_it_cannot_say(world: World, how: str) -> None:
    """The run goes on with what the journal still says; what nobody can read is put aside."""
    log = log_of(world)
    life = Life(world, *SLOW, barrier=BARRIER, point="before rename part 1")
    assert life.wait() == -signal.SIGKILL, life.errors
    log.more()
    (journal,) = (world.work / "m" / ".modelhaul").glob("*.journal")
    journal.write_bytes(DAMAGES[how](journal.read_bytes()))
    kept = safe(world.work / "m", SIZES)

    again = Life(world, *COMMAND)

    assert again.wait() == 0, again.errors
    assert fetched_again(kept, log.more()) == 0
    found = tree(world.work / "m")
    aside = {path for path in found if path.startswith(".modelhaul/")}
    assert {path: data for path, data in found.items() if path not in aside} == FILES
    assert all(".aside" in path for path in aside)
    assert ("set aside" in again.errors) is bool(aside)
    assert bool(aside) is (how in UNREADABLE)


#: Neither copy of the header is left: nothing in such a journal can be believed.
UNREADABLE = {"cut in the first header", "a bit of both headers", "overwritten"}
