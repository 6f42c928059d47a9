"""What other programs can do to an unfinished download, and what is theirs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modelhaul.events import Event, Progress
from tests.faults.faultydisk import FULL, Failing, FaultyDisk
from tests.faults.onefile import DATA, MIB, NAME, SIZE, WHOLE, large
from tests.faults.runs import asked, bring, names, refusal
from tests.support.inline import InlineThreads
from tests.support.world import tree

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the disk that fails by script reads /proc"
)


def part_of(folder: Path) -> Path:
    """The part in the target."""
    (part,) = (folder / "m" / ".modelhaul").glob("*.part")
    return part


def remove_part(folder: Path) -> None:
    """As `rm -rf .modelhaul` would."""
    part_of(folder).unlink()


def replace_part(folder: Path) -> None:
    """A copy of it has its name now: other bytes than those that are written on."""
    part = part_of(folder)
    copy = part.with_name("copy")
    copy.write_bytes(part.read_bytes())
    copy.rename(part)


def move_part(folder: Path) -> None:
    """It was moved away, and a copy put in its place."""
    part = part_of(folder)
    part.rename(folder / "moved")
    part.write_bytes((folder / "moved").read_bytes())


def link_part(folder: Path) -> None:
    """It has a second name, through which somebody may write."""
    os.link(part_of(folder), folder / "second")


def cut_part(folder: Path) -> None:
    """It is empty all of a sudden."""
    os.truncate(part_of(folder), 0)


def lengthen_part(folder: Path) -> None:
    """Something was appended to it."""
    with part_of(folder).open("ab") as part:
        part.write(b"more")


def remove_both(folder: Path) -> None:
    """Part and journal are gone."""
    for path in (folder / "m" / ".modelhaul").iterdir():
        path.unlink()


TOUCHED = "an error that says so, nothing under the final name; the next run brings the file"


@pytest.mark.fault("somebody removes, replaces, links, cuts or lengthens the part", TOUCHED,
                   number=91)  # fmt: skip
@pytest.mark.parametrize("at", [0.4, 1.0], ids=["early", "before the final name"])
@pytest.mark.parametrize(
    "act",
    [remove_part, replace_part, move_part, link_part, cut_part, lengthen_part, remove_both],
)
def test_a_part_that_somebody_touches_is_never_published_wrong(
    tmp_path: Path, act: Callable[[Path], None], at: float
) -> None:
    """Whatever is under the final name in the end has the right digest, whoever hashed it."""
    done = False

    def meddle(event: Event) -> None:
        nonlocal done
        if isinstance(event, Progress) and event.statistics.done >= at * SIZE and not done:
            done = True
            act(tmp_path)

    slow = InlineThreads(write=0.001, sync=0.6)
    error = refusal(large(), tmp_path, connections=2, on_event=meddle, threads=slow)
    there = (tmp_path / "m" / NAME).exists()
    bring(large(), tmp_path, connections=2)

    assert done
    assert "removed, replaced or resized by another program" in error.message
    assert not there
    assert (tmp_path / "m" / NAME).read_bytes() == DATA


GONE = "the file arrives all the same; what is not recorded is fetched again"


@pytest.mark.fault("somebody removes the journal of a running download", GONE, number=92)
def test_a_journal_that_is_removed_while_it_is_written_costs_nothing(tmp_path: Path) -> None:
    """It would only have been needed by the next run."""
    network = large()
    removed: list[Path] = []

    def remove(event: Event) -> None:
        if isinstance(event, Progress) and event.statistics.done > SIZE // 2 and not removed:
            removed.extend((tmp_path / "m" / ".modelhaul").glob("*.journal"))
            removed[0].unlink()

    report = bring(network, tmp_path, connections=2, on_event=remove)

    assert removed
    assert report.fetched == SIZE
    assert (tmp_path / "m" / NAME).read_bytes() == DATA
    assert names(tmp_path / "m") == [NAME]


@pytest.mark.fault("somebody removes the journal of a stopped download", GONE, number=92)
def test_a_part_without_its_journal_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is: the file is fetched from the beginning."""
    FaultyDisk(Failing("pwrite", "*.part", FULL, after=6)).install(monkeypatch)
    refusal(large(), tmp_path, connections=2)
    monkeypatch.undo()
    next((tmp_path / "m" / ".modelhaul").glob("*.journal")).unlink()
    network = large()

    bring(network, tmp_path, connections=2)

    assert asked(network, NAME) == WHOLE
    assert (tmp_path / "m" / NAME).read_bytes() == DATA
    assert names(tmp_path / "m") == [NAME]


@pytest.mark.fault("other tools have left unfinished files beside the final name",
                   "they are neither used nor touched", number=112)  # fmt: skip
def test_unfinished_files_of_other_tools_are_theirs(tmp_path: Path) -> None:
    """Nobody can say what they hold: not even the right bytes under such a name are believed."""
    theirs = [
        f"{NAME}.aria2", f"{NAME}.incomplete", f"{NAME}.part", f"{NAME}.st", f"{NAME}.tmp",
        f".cache/huggingface/download/{NAME}.incomplete", f"._____temp/{NAME}",
    ]  # fmt: skip
    for path in theirs:
        (tmp_path / "m" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / path).write_bytes(DATA[: 5 * MIB])
    network = large()

    bring(network, tmp_path)

    assert asked(network, NAME) == WHOLE
    assert tree(tmp_path / "m") == {NAME: DATA, **dict.fromkeys(theirs, DATA[: 5 * MIB])}
