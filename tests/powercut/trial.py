"""One trial: record a download, cut the power many times, look at the disk, resume there.

Runs as a program, as root, in a mount namespace of its own: whatever it mounts is gone when it
ends, however it ends. Prints one line of JSON, see `Verdict`.

    unshare --mount --propagation private python -m tests.powercut.trial FOLDER [options]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.powercut.check import broken_promises, forgotten_runs, resume
from tests.powercut.cuts import choose_cuts, replay
from tests.powercut.disk import FLUSH, MARK, WRITE
from tests.powercut.record import FILES, TARGET, Kind, Recording, mounted, record, run, write_disk
from tests.support.hub import hub_with
from tests.support.mistakes import MISTAKES


@dataclass(slots=True)
class Verdict:
    """What a trial found.

    Attributes:
        writes, flushes, syncs: how much happened while it was recorded.
        cuts: how many cuts were looked at.
        resumed: on how many of them the engine ran again.
        forgotten: what barriers left out.
        bad: for each cut that broke a promise: where it was, and what was wrong.
    """

    writes: int = 0
    flushes: int = 0
    syncs: int = 0
    cuts: int = 0
    resumed: int = 0
    forgotten: list[str] = field(default_factory=list)
    bad: list[dict[str, object]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    """How the power is cut.

    Attributes:
        seed: of all dice.
        random_ones, all_kinds: as in `choose_cuts()`.
        resume: run the engine again on each cut.
        first: stop at the first broken promise.
    """

    seed: int
    random_ones: int
    all_kinds: bool
    resume: bool
    first: bool


async def examine(recording: Recording, folder: Path, hub: str, kind: Kind, plan: Plan) -> Verdict:
    """Cut, look, resume."""
    events = recording.events
    verdict = Verdict(
        writes=sum(event.kind == WRITE for event in events),
        flushes=sum(event.kind == FLUSH for event in events),
        syncs=sum(event.kind == MARK and b'"synced"' in event.data for event in events),
        forgotten=forgotten_runs(events),
    )
    cuts = choose_cuts(
        events, seed=plan.seed, random_ones=plan.random_ones, all_kinds=plan.all_kinds
    )
    image, disk = folder / "cut", folder / "disk"
    for cut, content, duties in replay(recording.base, events, cuts):
        write_disk(image, content)
        with mounted(image, disk):
            wrong = broken_promises(disk / TARGET, duties, old=kind.old)
            if plan.resume and not wrong:
                with tempfile.TemporaryDirectory(dir=folder) as state:
                    wrong = await resume(hub, disk / TARGET, Path(state), duties, old=kind.old)
                verdict.resumed += 1
        verdict.cuts += 1
        if wrong:
            verdict.bad.append({**asdict(cut), "wrong": wrong})
            if plan.first:
                break
    return verdict


def main() -> None:
    """Read the arguments, run the trial in a folder in memory, print the verdict."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--options", default="rw")
    parser.add_argument("--old", action="store_true")
    parser.add_argument("--mistake", choices=MISTAKES, default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", type=int, default=20)
    parser.add_argument("--all-kinds", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--first", action="store_true")
    asked = parser.parse_args()
    kind = Kind(asked.options, asked.old, asked.mistake)
    plan = Plan(asked.seed, asked.random, asked.all_kinds, asked.resume, asked.first)
    folder: Path = asked.folder
    run("mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(folder))
    with hub_with({"acme/tiny": FILES}, folder) as hub:
        recording = record(folder, hub.url, kind)
        verdict = asyncio.run(examine(recording, folder, hub.url, kind, plan))
    sys.stdout.write(json.dumps(asdict(verdict)) + "\n")


if __name__ == "__main__":
    main()
