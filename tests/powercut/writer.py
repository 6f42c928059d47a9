"""The real engine in a process of its own, saying what it believes to be durable.

A mark is written after the call it speaks of has returned: it may come late, never early. Marks are
lines of JSON, one key each:

    {"started": [start, stop]}        the part, empty, and its journal are durable
    {"recorded": [[start, stop], …]}  runs have been recorded
    {"synced": [[start, stop], …]}    these runs are durable and vouched for
    {"published": "path"}             the file stands under its final name, durable

`--bug` plants one of the mistakes that the power-cut test has to catch.

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
from modelhaul.core.journal import Have, Record, Synced
from modelhaul.core.span import SpanSet
from modelhaul.engine import large, pieces
from modelhaul.engine.large import LargeFile
from modelhaul.events import Event, FileDone
from modelhaul.store import osfile
from modelhaul.store.claim import JOURNAL, PART, Claim, Wanted
from modelhaul.store.journalfile import JournalFile, parse_journal
from modelhaul.store.osfile import Stamp
from modelhaul.store.sink import PartFile

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
        say_synced(mark, journal, count)

    large.claim = claim_and_say
    JournalFile.append = append_and_say
    JournalFile.synced = synced_and_say


def say_synced(mark: Mark, journal: JournalFile, count: int) -> None:
    """Mark the runs in the first `count` slots of a journal."""
    _, slots, _ = parse_journal(journal.content())
    mark("synced", pairs([record for record in slots[:count] if isinstance(record, Have)]))


def pairs(runs: list[Have]) -> list[list[int]]:
    """Start and stop of each run."""
    return [[run.span.start, run.span.stop] for run in runs]


# -- mistakes --------------------------------------------------------------------------------------


def plant_barrier(
    mark: Mark, *, bytes_first: bool = True, late: bool = False, ledger: bool = True
) -> None:
    """Another barrier: step 3 of the crash order, gone wrong.

    Args:
        mark: where the mistaken engine still says that it did well.
        bytes_first: sync the part before the record that vouches for it.
        late: count the records after the sync of the part, not before it.
        ledger: sync the journal.
    """

    async def barrier(self: LargeFile) -> None:
        claimed = self._claimed
        before = claimed.journal.used
        self._unsynced = SpanSet()

        def sync() -> None:
            if bytes_first:
                claimed.part.barrier()
            count = claimed.journal.used if late else before
            claimed.journal.append([Synced(count)])
            if ledger:
                claimed.journal.sync()
            say_synced(mark, claimed.journal, count)

        await self.context.threads.sync(sync)

    LargeFile._barrier = barrier


def plant_publish(order: str) -> None:
    """Another publication: steps 5 and 6, in the order that the words of `order` name."""

    def publish(part: PartFile, final: Path, *, replaces: Stamp | None) -> Stamp:
        stamp = None
        for step in order.split():
            match step:
                case "barrier":
                    part.barrier()
                case "rename":
                    stamp = part.rename(final, replaces=replaces)
                case "folder":
                    osfile.sync_folder(final.parent)
                case "unlink":
                    journal = part.path.with_name(part.path.name.removesuffix(PART) + JOURNAL)
                    journal.unlink()
                    osfile.sync_folder(journal.parent)
        assert stamp is not None
        return stamp

    PartFile.publish = publish


BUGS: dict[str, Callable[[Mark], None]] = {
    "no barrier before the record": lambda mark: plant_barrier(mark, bytes_first=False),
    "records counted after the barrier": lambda mark: plant_barrier(mark, late=True),
    "journal not synced": lambda mark: plant_barrier(mark, ledger=False),
    # With the folder in between: ext4 would write the bytes before it commits the rename.
    "rename before the barrier": lambda mark: plant_publish("rename folder barrier"),
    "no barrier before the rename": lambda mark: plant_publish("rename folder"),
    "folder not synced": lambda mark: plant_publish("barrier rename"),
    "journal removed before the rename": lambda mark: plant_publish("barrier unlink rename folder"),
}


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
    parser.add_argument("--bug", choices=BUGS)
    parser.add_argument("--force", action="store_true")
    asked = parser.parse_args()
    mark = open_marks(asked.marks)
    # Many small runs and quick barriers: the same order on a smaller scale.
    large.BARRIER_SECONDS = BARRIER_SECONDS
    pieces.RECORD_MIN, pieces.RECORD_SECONDS, pieces.RECORD_AGE = 1, 0.05, 0.05
    mark_what_is_durable(mark)
    if asked.bug:
        BUGS[asked.bug](mark)
    asyncio.run(download(asked.hub, asked.target, asked.state, mark, force=asked.force))


if __name__ == "__main__":
    main()
