"""A large file whose every byte is there and whose digest is wrong: what to fetch again, and why.

First the disk is asked: a run that has not the CRC it had in memory was changed by it, and nothing
else is fetched. If all of them have, bytes came wrong, and `core/inquiry.py` says whose to believe
next. Reading a whole part may take minutes: it is done once per question, and a stop ends it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from modelhaul.core.digests import Digests
from modelhaul.core.inquiry import Inquiry
from modelhaul.core.journal import Have
from modelhaul.core.scheduler import Job, Lease
from modelhaul.core.sources import SourceState
from modelhaul.core.span import Span, SpanSet
from modelhaul.core.units import size_text
from modelhaul.engine.context import Context
from modelhaul.engine.pieces import source_mark
from modelhaul.engine.task import Order, Tally
from modelhaul.errors import IntegrityError, StorageError
from modelhaul.events import Note
from modelhaul.store.claim import Claim, crc_of, read_runs
from modelhaul.store.hashing import STEP

#: A disk that goes on changing bytes is given up.
MOST_MENDS = 3


@dataclass(slots=True)
class _Compared:
    """What the runs of a part are, compared with their CRC.

    Attributes:
        runs: as the journal has them.
        damaged: bytes of those that have another CRC now.
        brought: for each source the bytes that it has brought as they are now.
    """

    runs: tuple[Have, ...]
    damaged: SpanSet = field(default_factory=SpanSet)
    brought: dict[int, SpanSet] = field(default_factory=dict)


class Repair:
    """Decides what of one file is fetched again, and remembers whose bytes were doubted.

    Args:
        context: the run.
        order, job, tally: of the file.
    """

    def __init__(self, context: Context, order: Order, job: Job, tally: Tally) -> None:
        assert order.file.size is not None
        self._context = context
        self._file = order.file
        self._job = job
        self._tally = tally
        self._mends = 0
        self._inquiry = Inquiry(order.file.size)
        self._believed: int | None = None  # mark of the source that was believed last
        self._doubted: list[Have] = []  # runs that were fetched again because they may be wrong
        # Bytes by source and by the validator of their answer.
        self._versions: Counter[tuple[str, str | None]] = Counter()

    def brought(self, owner: Lease, count: int) -> None:
        """`count` bytes of a lease were written."""
        self._versions[owner.source.name, owner.version] += count

    async def next(self, claimed: Claim, digests: Digests) -> tuple[SpanSet, str]:
        """What is to be fetched again, and the reason in words; from whom is in the job then.

        What the disk damaged, else what one source has not brought, or all of it once more where
        there is only one.

        Args:
            claimed: part and journal; nothing is being written.
            digests: what it has instead of the stated ones.

        Raises:
            IntegrityError: it was wrong again: part and journal are worthless.
            StorageError: the disk goes on changing bytes; those do not count any more.
        """
        found = await self._context.threads.hash(self._compare, claimed)
        if found.damaged:
            if self._mends == MOST_MENDS:
                await self._context.threads.sync(claimed.journal.void, list(found.damaged))
                raise StorageError(
                    f"this disk keeps changing bytes: {claimed.part.path}",
                    hint="check the disk and the memory of this machine, or choose another disk",
                )
            self._mends += 1
            return found.damaged, "these bytes changed on the disk"
        source, wrong = await self._believe_next(claimed, found, digests)
        self._job.version = self._version_of_most(source.name)
        self._context.renew(self._context.now())
        reason = "the digest is wrong and the disk is not to blame"
        return wrong, f"{reason}; now from {source.called} alone"

    async def tell_whose_bytes_were_wrong(self, claimed: Claim) -> None:
        """The digest is right at last: what is not as it was before was wrong."""
        wrong: list[Have] = []
        if self._doubted:
            wrong = await self._context.threads.hash(self._replaced, claimed)
        sources = {source_mark(source.name): source for source in self._job.sources}
        for mark in dict.fromkeys(run.source for run in wrong):
            source = sources.get(mark)
            name = "a source of an earlier run" if source is None else source.called
            self._tally.disproven[name] = None
            size = SpanSet(run.span for run in wrong if run.source == mark).total
            text = f"{name} sent wrong bytes of {self._file.path}, within {size_text(size)}"
            text += " that were fetched again"
            if source is None:
                self._context.emit(Note(message=text))
            else:
                self._context.lied(source, self._file.path, text)
        brought = {name for name, _ in self._versions}
        for source in self._job.sources:
            if source.name in brought and source.called not in self._tally.disproven:
                source.standing.prove()

    # -- comparing: in a thread --------------------------------------------------------------------

    def _compare(self, claimed: Claim) -> _Compared:
        compared = _Compared(_runs(claimed))
        for run, stands in self._look(claimed, compared.runs):
            if stands:
                compared.brought.setdefault(run.source, SpanSet()).add(run.span)
            else:
                compared.damaged.add(run.span)
        # If the same bytes came in place of a doubted run, both sources have brought them.
        for run, stands in self._look(claimed, () if compared.damaged else self._doubted):
            if stands:
                compared.brought.setdefault(run.source, SpanSet()).add(run.span)
        return compared

    def _replaced(self, claimed: Claim) -> list[Have]:
        """Doubted runs in whose place other bytes came."""
        return [run for run, stands in self._look(claimed, self._doubted) if not stands]

    def _look(self, claimed: Claim, runs: Iterable[Have]) -> Iterator[tuple[Have, bool]]:
        """Each run with whether the part has its bytes; ends by raising if the user stops."""
        buffer = memoryview(bytearray(STEP))
        for run in runs:
            self._context.threads.check_cancelled()
            yield run, crc_of(claimed.part, run.span, buffer) == run.crc

    # -- believing ---------------------------------------------------------------------------------

    async def _believe_next(
        self, claimed: Claim, found: _Compared, digests: Digests
    ) -> tuple[SourceState, SpanSet]:
        """The source that brings what it has not brought yet, so that every byte is of it alone.

        Raises:
            IntegrityError: each had its chance.
        """
        sources = {source_mark(source.name): source for source in self._job.sources}
        before, job = self._believed, self._job
        if before is not None and job.believed is None and sources[before].name not in job.doubted:
            self._inquiry.forgive(before)  # it failed for a moment: its bytes were not judged
        # Who has brought all of it alone is judged: nobody asks that one while there is another.
        alone = self._inquiry.agreed(found.brought)
        job.wrong.update(sources[mark].name for mark in alone if mark in sources)
        alive = [source_mark(source.name) for source in job.sources if source.alive]
        believed = self._inquiry.next(list(dict.fromkeys(alive)), found.brought)
        if believed is None:
            agreed = self._inquiry.agreed(found.brought)
            called = [sources[mark].called for mark in agreed if mark in sources]
            raise self._disproven(called, digests)
        mark, missing = believed
        self._believed, job.believed = mark, sources[mark].name
        self._doubted += [run for run in found.runs if missing.overlaps(run.span)]
        return sources[mark], missing

    def _disproven(self, agreed: list[str], digests: Digests) -> IntegrityError:
        """The error of a file that no source has with the stated digest."""
        wrong = f"{self._file.path}: {digests.difference(self._file)}"
        if len(agreed) > 1:
            return IntegrityError(
                f"{wrong} ({' and '.join(agreed)} have the same bytes)",
                hint="the digest is of another file; nothing was left under its name",
            )
        origins = ", ".join(self._job.origins) or "the part on disk"
        return IntegrityError(
            f"{wrong} (fetched twice, from {origins})",
            hint="source and listing disagree; nothing was left under its name",
        )

    def _version_of_most(self, source: str) -> str | None:
        """The validator of more than half of the bytes of a source, where it had several.

        A store with two versions of a file behind one name would mix them for ever. Where each
        edge has a validator of its own for the same bytes, most have none in common.
        """
        counted, self._versions = self._versions, Counter()
        versions = Counter({tag: count for (name, tag), count in counted.items() if name == source})
        if len(versions) < 2:
            return None
        ((version, most),) = versions.most_common(1)
        return version if 2 * most > versions.total() else None


def damaged(claimed: Claim, within: Span) -> SpanSet:
    """In a thread: recorded runs, some of it in `within`, whose bytes have another CRC now."""
    buffer = memoryview(bytearray(STEP))
    return SpanSet(
        run.span
        for run in _runs(claimed)
        if SpanSet([within]).overlaps(run.span)
        and crc_of(claimed.part, run.span, buffer) != run.crc
    )


def _runs(claimed: Claim) -> tuple[Have, ...]:
    return read_runs(claimed.journal.path)[1]
