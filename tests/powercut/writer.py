"""The real engine in a process of its own, saying what it believes to be durable.

A mark is written after the call it speaks of has returned: it may come late, never early. Marks are
lines of JSON, one key each:

    {"started": [start, stop]}        the part, empty, and its journal are durable
    {"recorded": [[start, stop], …]}  runs have been recorded
    {"synced": [[start, stop], …]}    these runs are durable and vouched for
    {"published": "path"}             the file stands under its final name, durable

`--mistake` plants one that the power-cut test has to find.

    python -m tests.powercut.writer --hub URL --target FOLDER --state FOLDER --marks FILE
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import modelhaul
from modelhaul.core.journal import Have, Record
from modelhaul.engine import large, pieces
from modelhaul.events import Event, FileDone
from modelhaul.store.claim import Claim, Wanted
from modelhaul.store.journalfile import JournalFile, parse_journal
from tests.support.mistakes import MISTAKES

#: Bytes/s of the download, and seconds between barriers: several of them in a second and a half.
RATE = 3 << 20
BARRIER_SECONDS = 0.2

Mark = Callable[[str, object], None]


# -- marks -----------------------------------------------------------------------------------------


def open_marks(path: Path) -> Mark:
    """Writes marks to a file."""
    fd = os.open(path, os.O_WRONLY)

    def mark(key: str, value: object) -> None:
        os.write(fd, json.dumps({key: value}).encode())

    return mark


def mark_what_is_durable(mark: Mark) -> None:
    """Have the store say what it has made durable."""
    claim, append = large.claim, JournalFile.append
    synced = JournalFile.synced

    def claim_and_say(folder: Path, wanted: Wanted, *, locks: bool, token: str) -> Claim | None:
        made = claim(folder, wanted, locks=locks, token=token)
        if made is not None:
            mark("started", [0, wanted.size])
        return made

    def append_and_say(journal: JournalFile, records: list[Record]) -> None:
        append(journal, records)
        if runs := [record for record in records if isinstance(record, Have)]:
            mark("recorded", pairs(runs))

    def synced_and_say(journal: JournalFile, count: int) -> None:
        synced(journal, count)
        _, slots, _ = parse_journal(journal.content())
        mark("synced", pairs([run for run in slots[:count] if isinstance(run, Have)]))

    large.claim = claim_and_say
    JournalFile.append = append_and_say
    JournalFile.synced = synced_and_say


def pairs(runs: list[Have]) -> list[list[int]]:
    """Start and stop of each run."""
    return [[run.span.start, run.span.stop] for run in runs]


# -- the run ---------------------------------------------------------------------------------------


async def download(hub: str, target: Path, state: Path, mark: Mark, *, force: bool) -> None:
    """One download, slow enough for several barriers."""

    def published(event: Event) -> None:
        if isinstance(event, FileDone):
            mark("published", event.path)

    async with modelhaul.Client(
        endpoint=hub, state_dir=state, connections=4, limit_rate=RATE, memory=8 << 20
    ) as client:
        await client.download("acme/tiny", local_dir=target, force=force, on_event=published)


def main() -> None:
    """Prepare the engine and run it."""
    parser = argparse.ArgumentParser()
    for name in ("--target", "--state", "--marks"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--hub", required=True)
    parser.add_argument("--mistake", choices=MISTAKES)
    parser.add_argument("--force", action="store_true")
    asked = parser.parse_args()
    mark = open_marks(asked.marks)
    # Many small runs and quick barriers: the same order on a smaller scale.
    large.BARRIER_SECONDS = BARRIER_SECONDS
    pieces.RECORD_MIN, pieces.RECORD_SECONDS, pieces.RECORD_AGE = 1, 0.05, 0.05
    if asked.mistake:
        MISTAKES[asked.mistake].plant()
    mark_what_is_durable(mark)
    asyncio.run(download(asked.hub, asked.target, asked.state, mark, force=asked.force))


if __name__ == "__main__":
    main()
