"""Mistakes in the crash order, to be planted in the engine: tests of the order must find them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhaul.core.journal import Synced, Void
from modelhaul.core.span import SpanSet
from modelhaul.engine.large import LargeFile
from modelhaul.store import osfile
from modelhaul.store.claim import JOURNAL, PART
from modelhaul.store.journalfile import JournalFile
from modelhaul.store.osfile import Stamp
from modelhaul.store.sink import PartFile


@dataclass(frozen=True, slots=True)
class Mistake:
    """A method, and what stands in its place."""

    owner: type
    method: str
    wrong: Callable[..., Any]

    def plant(self) -> None:
        """For the rest of this process."""
        setattr(self.owner, self.method, self.wrong)


def barrier(*, bytes_first: bool, late: bool) -> Mistake:
    """Another step 3 of the crash order.

    Args:
        bytes_first: sync the part before the record that vouches for it.
        late: count the records after the sync of the part, not before it.
    """

    async def wrong(self: LargeFile) -> None:
        claimed = self._claimed
        before = claimed.journal.used
        self._unsynced = SpanSet()

        def sync() -> None:
            if bytes_first:
                claimed.part.barrier()
            claimed.journal.synced(claimed.journal.used if late else before)

        await self.context.threads.sync(sync)

    return Mistake(LargeFile, "_barrier", wrong)


def publish(order: str) -> Mistake:
    """Another step 5 and 6: in the order that the words name."""

    def wrong(part: PartFile, final: Path, *, replaces: Stamp | None) -> Stamp:
        stamp = None
        journal = part.path.with_name(part.path.name.removesuffix(PART) + JOURNAL)
        for step in order.split():
            match step:
                case "barrier":
                    part.barrier()
                case "rename":
                    stamp = part.rename(final, replaces=replaces)
                case "folder":
                    osfile.sync_folder(final.parent)
                case "unlink":
                    journal.unlink()
                case "state":
                    osfile.sync_folder(journal.parent)
        assert stamp is not None
        return stamp

    return Mistake(PartFile, "publish", wrong)


MISTAKES = {
    "no barrier before the record": barrier(bytes_first=False, late=False),
    "records counted after the barrier": barrier(bytes_first=True, late=True),
    "journal not synced": Mistake(
        JournalFile, "synced", lambda journal, count: journal.append([Synced(count)])
    ),
    # With the folder in between: ext4 writes the bytes of a file before it commits its rename,
    # where the file is synced next.
    "rename before the barrier": publish("rename folder barrier"),
    "no barrier before the rename": publish("rename folder"),
    "folder not synced": publish("barrier rename"),
    "journal removed before the rename": publish("barrier unlink state rename folder"),
}

#: On ext4 the first two come to nothing: it commits changes of names in their order. The third
#: needs a file whose digest was wrong.
SUBTLE_MISTAKES = {
    "rename just before the barrier": publish("rename barrier folder"),
    "journal removed before the rename, and not synced": publish("barrier unlink rename folder"),
    "rewritten before it is voided": Mistake(
        JournalFile, "void", lambda journal, spans: journal.append([Void(span) for span in spans])
    ),
}
