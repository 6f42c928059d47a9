"""Several processes on one target, with locks that hold, lie, or are not to be believed."""

from __future__ import annotations

import random
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import hub as hubs
from tests.support.lives import Life, Log, ended, fetched_again, fresh, safe
from tests.support.sent_twice import MIB, sent
from tests.support.world import content, tree

pytestmark = [
    pytest.mark.command,
    pytest.mark.skipif(sys.platform != "linux", reason="the launcher needs /proc"),
]

LARGE = {"a.safetensors": content(9 * MIB, 1), "b.safetensors": content(5 * MIB + 1, 2)}
SMALL = {f"small/{number}.json": content(20_000 + number, number) for number in range(8)}
FILES = {**LARGE, "copy.safetensors": LARGE["b.safetensors"], **SMALL}
SIZES = {path: len(data) for path, data in FILES.items()}
COMMAND = ["download", "acme/both", "--local-dir", "m"]
ROUNDS = [*range(5), *(pytest.param(seed, marks=pytest.mark.torture) for seed in range(5, 100))]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hubs.TestHub]:
    """A hub on which a download takes about half a second."""
    with hubs.hub_with({"acme/both": FILES}, tmp_path_factory.mktemp("hub"), rate=4e6) as running:
        yield running


NUMBERS = pytest.mark.parametrize("count", [2, 8])


@pytest.mark.fault(
    "several processes on one target", "all exit 0, each byte is sent once", number=(113, 115)
)
@NUMBERS
def test_processes_on_one_target_share_the_work(
    hub: hubs.TestHub, tmp_path: Path, count: int
) -> None:
    """One works on a large file, the others wait for it; all end well."""
    world = fresh(hub, tmp_path)
    log = Log(hub)
    log.more()

    lives = [Life(world, *COMMAND) for _ in range(count)]
    with ended(lives):
        codes = [life.wait() for life in lives]

    assert codes == [0] * count, [life.errors for life in lives]
    assert tree(world.work / "m") == FILES
    assert not (world.work / "m" / ".modelhaul").exists()
    large = [entry for entry in log.more() if entry["path"] not in SMALL]
    assert sent(large) <= sum(map(len, LARGE.values())) + 4 * MIB


@pytest.mark.fault("every lock is granted", "a part for each process, all exit 0", number=113)
@NUMBERS
@pytest.mark.parametrize("locks", ["unknown", "lie"])
def test_locks_that_lie_cost_bandwidth_only(
    hub: hubs.TestHub, tmp_path: Path, locks: str, count: int
) -> None:
    """Nobody writes where another process writes: the lock is asked for what it is worth."""
    world = fresh(hub, tmp_path)

    lives = [Life(world, *COMMAND, locks=locks) for _ in range(count)]
    with ended(lives):
        codes = [life.wait() for life in lives]

    assert codes == [0] * count, [life.errors for life in lives]
    assert tree(world.work / "m") == FILES
    assert not (world.work / "m" / ".modelhaul").exists()


@pytest.mark.fault(
    "locks keep out the process that has them and nobody else, and nothing shows that",
    "no wrong byte, nobody waits for ever; some exit 9, and the next run brings what is missing",
    number=(113, 114),
)
@NUMBERS
def test_locks_that_nobody_else_sees_cost_runs_and_no_bytes(
    hub: hubs.TestHub, tmp_path: Path, count: int
) -> None:
    """No process can find this out alone: parts and names are still compared before each use."""
    world = fresh(hub, tmp_path)

    lives = [Life(world, *COMMAND, locks="alone") for _ in range(count)]
    with ended(lives):
        codes = {life.wait() for life in lives}
    there = tree(world.work / "m")
    last = Life(world, *COMMAND)

    assert codes <= {0, 9}, [life.errors for life in lives]
    assert {path: data for path, data in there.items() if path[0] != "."}.items() <= FILES.items()
    assert last.wait() == 0, last.errors
    assert Life(world, "clean", "m").wait() == 0
    assert tree(world.work / "m") == FILES


@pytest.mark.fault(
    "some of several processes are killed", "the others exit 0, nothing recorded is sent again"
)
@pytest.mark.whole
@pytest.mark.parametrize("seed", ROUNDS)
def test_random_kills_among_several(hub: hubs.TestHub, tmp_path: Path, seed: int) -> None:
    """Whoever survives ends well, and so does the next run; what was recorded is not sent again."""
    world = fresh(hub, tmp_path)
    chance = random.Random(seed)
    locks = ("", "unknown", "lie")[seed % 3]
    log = Log(hub)
    log.more()

    lives = [Life(world, *COMMAND, locks=locks) for _ in range(chance.randint(2, 4))]
    victims = chance.sample(lives, chance.randint(1, len(lives)))
    with ended(lives):
        for victim in victims:
            victim.process.join(chance.uniform(0.0, 0.4))
            victim.process.kill()
        codes = {life.wait() for life in victims}
        survived = [life.wait() for life in lives if life not in victims]
    log.more()
    kept = safe(world.work / "m", SIZES)
    last = Life(world, *COMMAND, locks=locks)

    assert codes <= {0, -signal.SIGKILL}
    assert set(survived) <= {0}, [life.errors for life in lives]
    assert last.wait() == 0, last.errors
    assert fetched_again(kept, log.more()) == 0
    found = tree(world.work / "m")
    left = {path for path in found if path.startswith(".modelhaul/")}
    assert {path: data for path, data in found.items() if path not in left} == FILES
    # What has a name of its own may belong to a process that is alive, for all another can tell:
    # parts where locks do not hold, and small ones of who came second. `clean` is told by a person.
    assert locks or all(re.search(r"\.(whole|copy)\.[0-9a-f-]+\.part$", path) for path in left)
    assert Life(world, "clean", "m").wait() == 0
    assert tree(world.work / "m") == FILES
