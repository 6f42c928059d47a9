"""What is on a disk after a power cut, held against what the engine had promised before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import modelhaul
from modelhaul.core import journal as format_
from modelhaul.core.journal import Ledger
from modelhaul.core.span import Span, SpanSet
from modelhaul.store.claim import JOURNAL, PART, part_name
from modelhaul.store.journalfile import parse_journal
from tests.powercut.cuts import Duties
from tests.powercut.disk import MARK, Event
from tests.powercut.record import FILES, MODEL, OLD
from tests.support.promises import lost_progress

DATA = FILES[MODEL]
STEM = part_name(f"sha256:{hashlib.sha256(DATA).hexdigest()}", len(DATA))


def broken_promises(target: Path, duties: Duties, *, old: bool) -> list[str]:
    """All that is wrong on the disk, in words.

    Args:
        target: the folder of the download.
        duties: what was promised before the cut.
        old: `OLD` stands under the final name until the file is published.
    """
    wrong = []
    for path, data in FILES.items():
        before = OLD if old and path == MODEL else None
        allowed = (data,) if path in duties.published else (data, before)
        if _content(target / path) not in allowed:
            wrong.append(f"what stands under {path} is neither the file nor what was there before")
    if duties.started and _content(target / MODEL) != DATA:
        wrong += _unaccounted(target / ".modelhaul", duties)
    return wrong


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _unaccounted(state: Path, duties: Duties) -> list[str]:
    """The file is not in its place: part and journal have to account for it."""
    part, journal = state / (STEM + PART), state / (STEM + JOURNAL)
    inode = part.stat().st_ino if part.exists() else 0
    content = _content(part)
    wrong = list(lost_progress(content, _content(journal), inode=inode, vouched=duties.synced))
    if content is not None and not wrong:
        # Here every byte that was ever recorded is the right one.
        _, slots, _ = parse_journal(journal.read_bytes())
        wrong = _false_records(content, format_.replay(slots))
    return wrong


def _false_records(content: bytes, ledger: Ledger) -> list[str]:
    """Runs that count as they are, and are not what the file has there."""
    return [
        f"{span} counts and is wrong on the disk"
        for span in ledger.durable
        if content[span.start : span.stop] != DATA[span.start : span.stop]
    ]


def forgotten_runs(events: Sequence[Event]) -> list[str]:
    """Runs that a barrier left out, though they were recorded before the one before it ended.

    So that a cut costs what was recorded since the last barrier but one, and not more.
    """
    wrong = []
    recorded, due = SpanSet(), SpanSet()
    for event in events:
        match json.loads(event.data) if event.kind == MARK else None:
            case {"recorded": runs}:
                for start, stop in runs:
                    recorded.add(Span(start, stop))
            case {"synced": runs}:
                covered = SpanSet(Span(start, stop) for start, stop in runs)
                left = [gap for span in due for gap in covered.gaps(span)]
                if left:
                    wrong.append(f"{left} was recorded and a later barrier does not vouch for it")
                due = recorded.copy()
    return wrong


async def resume(hub: str, target: Path, state: Path, duties: Duties, *, old: bool) -> list[str]:
    """Run the engine on what the cut left; all that went wrong, in words."""
    was_there = _content(target / MODEL) == DATA
    async with modelhaul.Client(endpoint=hub, state_dir=state, connections=4) as client:
        report = await client.download("acme/tiny", local_dir=target, force=old)
    wrong = [
        f"{path} is wrong after another run"
        for path, data in FILES.items()
        if _content(target / path) != data
    ]
    (model,) = [file for file in report.files if file.path == MODEL]
    kept = len(DATA) if was_there else duties.synced.total
    if len(DATA) - model.fetched < kept:
        wrong.append(f"{model.fetched} bytes were fetched, though {kept} had been made durable")
    state_folder = target / ".modelhaul"
    if duties.started and state_folder.exists() and any(state_folder.iterdir()):
        wrong.append(f"left behind: {sorted(path.name for path in state_folder.iterdir())}")
    return wrong
