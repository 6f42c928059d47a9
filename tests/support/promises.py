"""What an unfinished file has to account for after a crash, whatever disk it was on."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from modelhaul.core import journal as format_
from modelhaul.core.journal import JournalUnreadable
from modelhaul.core.span import SpanSet
from modelhaul.store.journalfile import parse_journal


def lost_progress(
    part: bytes | None, journal: bytes | None, *, inode: int, vouched: SpanSet
) -> Iterator[str]:
    """All that is wrong with part and journal of a file that is not in its place, in words.

    Args:
        part, journal: their bytes; None if it is not there.
        inode: of the part.
        vouched: bytes that had been made durable, as a barrier said.
    """
    if part is None or journal is None:
        yield "neither the file nor both part and journal are there"
        return
    try:
        header, slots, _ = parse_journal(journal)
    except JournalUnreadable as error:
        yield f"the journal cannot be read: {error}"
        return
    if (header.inode, header.size) != (inode, len(part)):
        yield "the journal is of another part"
        return
    ledger = format_.replay(slots)
    for run in ledger.runs:
        counts = run not in ledger.claims
        if counts and crc32(part[run.span.start : run.span.stop]) != run.crc:
            yield f"{run.span} counts and is not there"
    for span in vouched:
        if ledger.durable.gaps(span):
            yield f"{span} was vouched for and does not count"
