"""One file of a plan as the engine sees it: where it goes, where it comes from, what came of it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from modelhaul.core.plan import FilePlan
from modelhaul.core.repo import RemoteFile, Source
from modelhaul.core.scheduler import Job, Lease
from modelhaul.errors import HaulError
from modelhaul.events import FileProgress
from modelhaul.net.transport import Answer, Receiver
from modelhaul.report import FileResult, How
from modelhaul.store import osfile
from modelhaul.store.osfile import Stamp, storage_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one file lands.

    Attributes:
        final: its final name.
        root: the target below which every folder is checked.
        relative: path of `final` below `root`, with `/`.
        state: folder for its part and journal, on the same file system.
        replaces: stamp of what stands at the final name and will give way, None for nothing.
    """

    final: Path
    root: Path
    relative: str
    state: Path
    replaces: Stamp | None

    def make_way(self) -> None:
        """In a thread: check the folders that lead to the final name, and make what is missing.

        Raises:
            StorageError: one of them is a link or a file, or cannot be made.
        """
        self.check_way()
        with storage_errors(f"making folders for {self.final}"):
            osfile.make_folders(self.state)
            osfile.make_folders(self.final.parent)

    def check_way(self) -> None:
        """In a thread, and once more before the final name is given: a transfer may take hours.

        Raises:
            UnsafeName, Occupied: a folder on the way is a link or a file by now.
        """
        with storage_errors(f"looking at the folders of {self.final}"):
            osfile.check_parents(self.root, self.relative)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One file to bring: what, where to, where from.

    Attributes:
        plan: what was decided.
        placement: where it lands.
        sources: best first; of a copy those to fetch it from if it cannot be copied.
        label: how people call it, for the journal.
        copy_from: a file on this disk that has the same content; only for copies.
        copy_else: blocks, and gives another one, given those that turned out to be of no use.
    """

    plan: FilePlan
    placement: Placement
    sources: tuple[Source, ...] = ()
    label: str = ""
    copy_from: Path | None = None
    copy_else: Callable[[Collection[Path]], Path | None] = lambda tried: None

    @property
    def file(self) -> RemoteFile:
        return self.plan.file


@dataclass(slots=True)
class Tally:
    """What is counted about one file while it is in motion. Bytes and seconds."""

    fetched: int = 0
    hedged: int = 0
    reused: int = 0
    last_byte: float | None = None
    proven: float | None = None
    disproven: dict[str, None] = field(default_factory=dict)

    @property
    def proof_seconds(self) -> float | None:
        """From the last byte to the verdict; None without either."""
        if self.last_byte is None or self.proven is None:
            return None
        return self.proven - self.last_byte


class LeaseReceiver(Receiver, Protocol):
    """A receiver with an end: everything right, or whatever it was."""

    async def finish(self, answer: Answer) -> None:
        """The request brought all it was asked for. Called before `close()`.

        Raises:
            HaulError: the bytes are not what they should be, or the disk failed.
        """

    def close(self) -> None:
        """No more bytes will come. Never waits."""


class Task:
    """A file in motion: what large and whole files have in common for the driver."""

    def __init__(self, order: Order, job: Job | None) -> None:
        self.order = order
        self.job = job
        self.tally = Tally()
        self.result: FileResult | None = None
        #: Set by the driver; called once, when the result is there.
        self.on_result: Callable[[Task], None] = lambda _: None

    def receiver(self, lease: Lease) -> LeaseReceiver:
        """Something that takes the bytes of a lease of this file."""
        raise NotImplementedError

    def abort(self, error: HaulError) -> None:
        """Give the file up from outside. What arrived is kept where it can be."""
        self.fail(error)

    def progress(self) -> FileProgress:
        """Amounts for a view."""
        raise NotImplementedError

    @property
    def origins(self) -> tuple[str, ...]:
        """Where bytes came from, also those that had to be fetched again."""
        return () if self.job is None else tuple(self.job.origins)

    def succeed(self, how: How, *, size: int, digest: str | None) -> None:
        """The file stands under its final name."""
        file, tally = self.order.file, self.tally
        self._end(
            FileResult(
                path=file.path,
                final=str(self.order.placement.final),
                how=how,
                size=size,
                sha256=digest,
                verified=file.content is not None,
                fetched=tally.fetched,
                hedged=tally.hedged,
                reused=tally.reused,
                proof_seconds=tally.proof_seconds if how == "fetched" else None,
                sources=self.origins,
                disproven=tuple(tally.disproven),
                failing=self._failing(),
            )
        )

    def _failing(self) -> tuple[str, ...]:
        """Sources that failed in the end, where another one went on."""
        sources = self.job.sources if self.job is not None else []
        well = {source.called for source in sources if source.alive and source.well}
        failing = dict.fromkeys(source.called for source in sources if source.failing)
        return tuple(name for name in failing if name not in well) if well else ()

    def fail(self, error: HaulError) -> None:
        """The file is given up."""
        file, tally = self.order.file, self.tally
        self._end(
            FileResult(
                path=file.path,
                final=str(self.order.placement.final),
                how="failed",
                size=file.size or 0,
                fetched=tally.fetched,
                hedged=tally.hedged,
                reused=tally.reused,
                sources=self.origins,
                error=error,
            )
        )

    def _end(self, result: FileResult) -> None:
        if self.result is None:
            self.result = result
            self.on_result(self)
