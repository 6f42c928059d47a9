"""What every download does once its files are known: look, decide, check room, run, report."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import anyio

from modelhaul.core import names
from modelhaul.core.pace import Throttle
from modelhaul.core.plan import (
    ABSENT,
    Action,
    FilePlan,
    Found,
    Plan,
    Presence,
    decide,
    share,
)
from modelhaul.core.repo import RemoteFile, Source
from modelhaul.core.units import size_text
from modelhaul.engine.buffers import BufferPool
from modelhaul.engine.context import Options
from modelhaul.engine.driver import Engine, done_event
from modelhaul.engine.lanes import Lanes
from modelhaul.engine.task import Order, Placement
from modelhaul.engine.threads import Threads
from modelhaul.errors import (
    DiskFull,
    HaulError,
    Occupied,
    StorageError,
    UnsafeName,
    single_error,
)
from modelhaul.events import (
    Checking,
    Event,
    FileFailed,
    Finished,
    Listener,
    Note,
    Planned,
    Progress,
    Statistics,
)
from modelhaul.net.transport import Transport
from modelhaul.report import FileResult, Incomplete, Report
from modelhaul.settings import Settings
from modelhaul.store import claim, mounts, osfile, presence
from modelhaul.store.index import ProvenIndex
from modelhaul.store.layout import Layout
from modelhaul.store.marker import Marker
from modelhaul.store.presence import Sight

log = logging.getLogger("modelhaul")

#: Files looked at per thread call.
_LOOK_AT_ONCE = 2000
#: Room that is left to others: folders, journals, the file system's own books.
_SPARE = 16 << 20


@dataclass(frozen=True, slots=True)
class Resources:
    """What a client owns and its runs share."""

    settings: Settings
    transport: Transport
    lanes: Lanes
    pool: BufferPool
    threads: Threads
    throttle: Throttle | None
    index: ProvenIndex


class Emitter:
    """Hands events to the listener; a listener that raises is logged once and changes nothing."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self._complained = False
        self.notes: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note):
            self.notes.append(event.message)
        if self._listener is None:
            return
        try:
            self._listener(event)
        except Exception:
            # It is not our code, and a broken view must not cost a download.
            if not self._complained:
                self._complained = True
                log.exception("the event listener failed; the download goes on")

    def note(self, message: str) -> None:
        """Tell something that a person may want to know."""
        self(Note(message=message))

    @property
    def listening(self) -> bool:
        """Whether anybody wants events."""
        return self._listener is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A download whose files are known.

    Attributes:
        name: what people call it.
        revision, commit: of a repository, else None.
        files: what is wanted.
        whole: that is all there is, not a selection.
        layout: where it lands.
        sources: where the bytes of a file can be had.
        force: believe no memory, and overwrite files that are not ours.
        trusted: the names are the user's own words, or were judged: nobody need look at them.
    """

    name: str
    revision: str | None
    commit: str | None
    files: Sequence[RemoteFile]
    whole: bool
    layout: Layout
    sources: Callable[[RemoteFile], tuple[Source, ...]]
    force: bool
    trusted: bool = False


class _Memory:
    """Tells once per run that the memory of proven files could not be used."""

    def __init__(self, index: ProvenIndex) -> None:
        self._index = index
        self._missed = index.missed
        self._told = False

    def tell(self, emit: Emitter) -> None:
        """Say so if it failed since the run began and nobody has been told."""
        if not self._told and self._index.missed > self._missed:
            self._told = True
            emit.note(f"{self._index.problem}: files that are here may be hashed again")


@dataclass(slots=True)
class Prepared:
    """A job with its plan: all that is needed to run it.

    Attributes:
        sights: what was seen at the final names; of unsafe names nothing.
        shared: files that stand in the place of another file of the run, and the path of that.
        memory: tells if the memory of proven files fails this run.
        unreadable: files of which that was all that could be told, each with the reason.
    """

    job: Job
    plan: Plan
    sights: Mapping[str, Sight]
    shared: Mapping[str, str]
    memory: _Memory
    unreadable: Mapping[str, str] = field(default_factory=dict)


async def prepare(resources: Resources, job: Job, emit: Emitter) -> Prepared:
    """Compare what is wanted with what is there. Changes nothing on disk but memory.

    Raises:
        StorageError: the disk cannot be read.
    """
    prepared = await compare(resources, job, emit)
    tell_plan(prepared.plan, emit)
    return prepared


def tell_plan(plan: Plan, emit: Emitter) -> None:
    """Say what will be done."""
    emit(Planned(files=len(plan), fetch=plan.fetch, reuse=plan.reuse, copy=plan.copy))


async def compare(
    resources: Resources, job: Job, emit: Emitter, *, patient: bool = False
) -> Prepared:
    """`prepare()` without a word about the plan.

    Args:
        resources, job, emit: the run.
        patient: a file that cannot be read is one that is not the wanted one, not the end.
    """
    unreadable: dict[str, str] = {}
    memory = _Memory(resources.index)
    unsafe = await _unsafe(resources, job)
    safe = [file for file in job.files if file.path not in unsafe]
    shared = _shared(job.layout, safe)
    wanted = [file for file in safe if file.path not in shared]
    sights, too_long = await _look(resources, job, wanted)
    if too_long:
        unsafe |= too_long
        wanted = [file for file in wanted if file.path not in too_long]
    sights |= await _prove(resources, job, wanted, sights, emit, unreadable if patient else None)
    recorded = await resources.threads.write(_recorded, job.layout, wanted)
    plans: list[FilePlan] = []
    for file in job.files:
        if file.path in unsafe:
            reason = unsafe[file.path]
            plans.append(FilePlan(file=file, action=Action.REFUSE, reason=reason, unsafe=True))
            continue
        if file.path in shared:
            plans.append(FilePlan(file=file, action=Action.SHARE))
            continue
        sight, parts = sights[file.path], recorded.get(file.path, 0)
        seen = ABSENT
        if parts or sight.found is not Found.NOTHING:
            seen = Presence(
                found=sight.found,
                same=sight.verdict is True,
                ours=sight.known is not None and sight.known.ours,
                recorded=parts,
            )
        plans.append(decide(file, seen, owned=job.layout.owned, force=job.force))
    memory.tell(emit)
    return Prepared(job, Plan(tuple(share(plans))), sights, shared, memory, unreadable)


async def execute(resources: Resources, prepared: Prepared, emit: Emitter) -> Report:
    """Bring the files of a plan, and say that it is finished.

    Raises:
        HaulError: as `bring`.
    """
    report = await bring(resources, prepared, emit)
    emit(
        Finished(
            path=report.path,
            size=report.size,
            fetched=report.fetched,
            reused=report.reused,
            connections=report.connections,
            seconds=report.seconds,
            verified=report.verified,
            by_git_name=sum(file.named_by_git for file in prepared.job.files),
        )
    )
    return report


async def bring(
    resources: Resources, prepared: Prepared, emit: Emitter, *, partly: bool = False
) -> Report:
    """Bring the files of a plan.

    Args:
        resources, prepared, emit: the run.
        partly: where something stands in the way only that file fails.

    Raises:
        Occupied: files that are not ours stand in the way; nothing was fetched.
        DiskFull: there is not enough room; nothing was fetched.
        Incomplete: some files could not be had; the others are there.
        HaulError: the only file, or the run as a whole, failed like this.
    """
    started = time.monotonic()
    job, layout = prepared.job, prepared.job.layout
    if not partly:
        _check_occupied(prepared)
    await _check_room(resources, prepared)
    state, locks = await resources.threads.write(_state_of, layout)
    orders = _orders(prepared, state)
    burst = layout.mutable and prepared.plan.replaces
    update = _Update(job, Marker.of(state, layout.root), [order.file.path for order in orders])
    await resources.threads.write(update.look, emit)

    async def recheck(order: Order) -> bool:
        return await _is_there(resources, order)

    engine = Engine(
        transport=resources.transport,
        lanes=resources.lanes,
        pool=resources.pool,
        threads=resources.threads,
        throttle=resources.throttle,
        index=resources.index,
        options=_options(resources.settings, burst=burst),
        emit=emit,
        recheck=recheck,
        locks=locks,
        token=f"{os.getpid():x}-{time.time_ns():x}",
        before_burst=update.begin,
    )
    results: dict[str, FileResult] = {}
    for plan in prepared.plan:
        if plan.action is Action.REFUSE:
            error = _unsafe_name(plan) if plan.unsafe else _occupied(prepared, [plan])
            results[plan.file.path] = _failed(plan.file.path, error)
            emit(_failed_event(plan.file.path, error))
        elif plan.action is Action.KEEP:
            results[plan.file.path] = kept = _kept(prepared, plan)
            engine.meter.keep(kept.size)
            emit(done_event(kept))
        elif plan.action is Action.SHARE:
            engine.meter.keep(plan.file.size or 0)
    if orders:
        changing = [order.file.path for order in orders]
        await resources.threads.write(layout.before, changing)
    results |= {result.path: result for result in await engine.run(orders)}
    for path, first in prepared.shared.items():
        results[path] = result = _of_the_same(results[first], path)
        emit(done_event(result) if result.error is None else _failed_event(path, result.error))
    in_place = [file for file in job.files if results[file.path].error is None]
    if orders or in_place:
        await resources.threads.write(layout.after, in_place)
    complete = len(in_place) == len(job.files)
    if complete:
        await resources.threads.write(layout.finish)
    await resources.threads.write(update.settle, in_place, emit)
    await resources.threads.write(_tidy, state, locks, emit)
    prepared.memory.tell(emit)
    report = Report(
        path=str(layout.shown),
        name=job.name,
        revision=job.revision,
        commit=job.commit,
        files=tuple(results[file.path] for file in job.files),
        seconds=time.monotonic() - started,
        connections=engine.meter.most_connections,
        notes=tuple(emit.notes),
    )
    if not complete:
        raise _incomplete(report)
    return report


class _Update:
    """What is known of updates of a snapshot that were begun and not finished. Blocks.

    Args:
        job: the run.
        marker: of its snapshot.
        changing: paths that this run puts in place.
    """

    def __init__(self, job: Job, marker: Marker, changing: Collection[str]) -> None:
        self._job = job
        self._marker = marker
        self._changing = changing
        self._pending: Collection[str] | None = frozenset()

    def look(self, emit: Emitter) -> None:
        """See what an earlier run left."""
        self._pending = self._marker.pending()
        if self._pending is None or self._pending:
            emit.note(
                f"an earlier update of {self._job.layout.shown} was interrupted while it was"
                " published"
            )

    def begin(self) -> None:
        """The first file is about to be replaced."""
        if self._pending is not None:
            self._pending = {*self._pending, *self._changing}
        self._write(self._pending)

    def settle(self, in_place: Collection[RemoteFile], emit: Emitter) -> None:
        """These files are as they should be: strike them, and the marker with the last of them."""
        before = self._pending
        if before is not None and not before:
            return
        if self._job.whole and len(in_place) == len(self._job.files):
            # Whatever the marker names or fails to name: there is nothing else to be older.
            self._marker.clear()
            return
        if before is None:
            return
        left = set(before).difference(file.path for file in in_place)
        if not left:
            self._marker.clear()
            return
        if len(left) < len(before):
            self._write(left)
        emit.note(
            f"{len(left)} files in {self._job.layout.shown} may still be older than that update:"
            f" `modelhaul download {self._job.name}` brings them"
        )

    def _write(self, pending: Collection[str] | None) -> None:
        self._marker.set(label=self._job.name, commit=self._job.commit, pending=pending)


def _options(settings: Settings, *, burst: bool) -> Options:
    return Options(
        files_at_once=settings.files_at_once,
        patience=settings.patience,
        idle_timeout=settings.idle_timeout,
        reserve=settings.reserve,
        burst=burst,
    )


def _failed_event(path: str, error: HaulError) -> FileFailed:
    return FileFailed(path=path, message=error.message, hint=error.hint)


# -- looking -----------------------------------------------------------------------------------


async def _unsafe(resources: Resources, job: Job) -> dict[str, str]:
    """Files whose names must not or cannot be written, each with the reason."""
    if job.trusted:
        return {}
    windows = sys.platform == "win32"
    refused: dict[str, str] = {}
    for file in job.files:
        why = names.fault(file.path, windows=windows, reserved=job.layout.reserved)
        if why is not None:
            refused[file.path] = why
    paths = [file.path for file in job.files if file.path not in refused]
    clashes = names.collisions(paths, fold=True)
    # Only where it matters is it worth asking the file system whether it cares.
    if clashes and not await resources.threads.write(_folds_names, job.layout):
        clashes = names.collisions(paths, fold=False)
    return refused | clashes


def _shared(layout: Layout, files: Iterable[RemoteFile]) -> dict[str, str]:
    """Files that stand in the place of another one before them, and the path of that."""
    first: dict[Path, str] = {}
    shared = {}
    for file in files:
        holder = first.setdefault(layout.final(file.path), file.path)
        if holder != file.path:
            shared[file.path] = holder
    return shared


def _folds_names(layout: Layout) -> bool:
    return osfile.folds_names(osfile.nearest_existing(layout.root))


def _unsafe_name(plan: FilePlan) -> UnsafeName:
    printable = "".join(char if char.isprintable() else "?" for char in plan.file.path)[:200]
    return UnsafeName(
        f"refused to write {printable!r}: {plan.reason}",
        hint="leave it out with --exclude; only its publisher can give it another name",
    )


async def _look(
    resources: Resources, job: Job, files: Sequence[RemoteFile]
) -> tuple[dict[str, Sight], dict[str, str]]:
    """What is seen at the final names; and the paths that the file system cannot hold, and why."""
    sights: dict[str, Sight] = {}
    too_long: dict[str, str] = {}
    # By folder, since a new target has none of them and a listing may be long. Only that a folder
    # is missing is remembered, not what one holds: the file system may find a name by another
    # spelling than the one that it lists.
    missing: dict[Path, bool] = {}

    def look(some: Sequence[RemoteFile]) -> None:
        for file in some:
            final = job.layout.final(file.path)
            folder = final.parent
            if missing.get(folder):
                sights[file.path] = presence.NOTHING
                continue
            try:
                sight = presence.look(final, file, resources.index, trust=not job.force)
            except UnsafeName:
                if job.trusted:
                    raise  # the user's own word: to leave it out is no advice
                too_long[file.path] = "the name is too long for this file system"
                continue
            if sight.found is Found.NOTHING and folder not in missing:
                missing[folder] = presence.is_missing(folder)
            if sight.verdict is False and not job.force and _was_published(job, file, sight):
                sight = replace(sight, verdict=True)
            sights[file.path] = sight

    for at in range(0, len(files), _LOOK_AT_ONCE):
        await resources.threads.write(look, files[at : at + _LOOK_AT_ONCE])
    return sights, too_long


async def _prove(
    resources: Resources,
    job: Job,
    files: Sequence[RemoteFile],
    sights: Mapping[str, Sight],
    emit: Emitter,
    unreadable: dict[str, str] | None,
) -> dict[str, Sight]:
    """Hash what only hashing can tell; what was seen of those that hold the wanted content.

    What cannot be read goes into `unreadable` with the reason; without that it raises.
    """
    proven: dict[str, Sight] = {}
    doubtful = [file for file in files if sights[file.path].verdict is None]
    if not doubtful:
        return proven
    total = sum(file.size or 0 for file in doubtful)
    emit(Checking(files=len(doubtful), size=total))
    hashed = 0

    def check(count: int) -> None:
        nonlocal hashed
        hashed += count
        resources.threads.check_cancelled()

    async def prove(file: RemoteFile) -> None:
        final = job.layout.final(file.path)
        # By force no memory is believed: neither ours of proven files nor the system's of the disk.
        call = partial(presence.prove, final, file, resources.index, check=check, fresh=job.force)
        try:
            known = await resources.threads.hash(call)
        except StorageError as error:
            if unreadable is None:
                raise
            unreadable[file.path] = error.message
            return
        if known is not None:
            proven[file.path] = replace(sights[file.path], known=known, verdict=True)

    async def show() -> None:
        while True:
            await anyio.sleep(0.25)
            emit(
                Progress(
                    statistics=Statistics(
                        total=total, done=hashed, verified=hashed, files=len(doubtful)
                    )
                )
            )

    try:
        async with anyio.create_task_group() as beat:
            if emit.listening:
                beat.start_soon(show)
            async with anyio.create_task_group() as group:
                for file in doubtful:
                    group.start_soon(prove, file)
            beat.cancel_scope.cancel()
    except BaseExceptionGroup as failed:
        raise single_error(failed) from failed
    return proven


def _was_published(job: Job, file: RemoteFile, sight: Sight) -> bool:
    """Whether a run of ours was killed just after it had put this very file in its place.

    Only asked where no digest can tell: the journal that was left behind does.
    """
    if file.content is not None or file.identity is None or file.size is None:
        return False
    if sight.stamp is None or sight.stamp.size != file.size:
        return False
    state = job.layout.state
    return sight.stamp.inode == claim.published_inode(state, identity=file.identity, size=file.size)


def _recorded(layout: Layout, files: Iterable[RemoteFile]) -> dict[str, int]:
    """Bytes of each file that unfinished parts hold."""
    state = layout.state
    if not state.is_dir():
        return {}
    return {
        file.path: count
        for file in files
        if file.identity is not None
        and file.size
        and (count := claim.recorded(state, identity=file.identity, size=file.size))
    }


async def _is_there(resources: Resources, order: Order) -> bool:
    """Whether somebody else has put the wanted content in its place meanwhile."""

    def call() -> bool:
        sight = presence.look(order.placement.final, order.file, resources.index, trust=True)
        if sight.verdict is not None:
            return sight.verdict
        return presence.prove(order.placement.final, order.file, resources.index) is not None

    return await resources.threads.hash(call)


# -- checking ----------------------------------------------------------------------------------


def _check_occupied(prepared: Prepared) -> None:
    refused = [plan for plan in prepared.plan if plan.action is Action.REFUSE and not plan.unsafe]
    if refused:
        error = _occupied(prepared, refused)
        error.message += "; nothing was fetched"
        raise error


def _occupied(prepared: Prepared, refused: Sequence[FilePlan]) -> Occupied:
    first = refused[0]
    final = prepared.job.layout.final(first.file.path)
    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    forcible = not any(
        prepared.sights[plan.file.path].found in (Found.FOLDER, Found.OTHER) for plan in refused
    )
    return Occupied(
        f"{final}: {first.reason}{more}",
        hint="move it away, choose another folder, or overwrite it with --force"
        if forcible
        else "move it away or choose another folder",
    )


async def _check_room(resources: Resources, prepared: Prepared) -> None:
    """Refuse a plan that cannot fit; what parts occupy already is counted."""
    layout = prepared.job.layout

    def call() -> tuple[int, int]:
        need = 0
        state = layout.state
        for plan in prepared.plan:
            file = plan.file
            if plan.action not in (Action.FETCH, Action.COPY) or not file.size:
                continue
            need += file.size
            if plan.reuse and plan.action is Action.FETCH and file.identity is not None:
                there = claim.stored(state, identity=file.identity, size=file.size)
                need -= min(file.size, there)
        return need, presence.room(layout.root)

    need, have = await resources.threads.write(call)
    if need and need + _SPARE > have:
        raise DiskFull(
            f"not enough room at {layout.shown}: {size_text(need)} needed, {size_text(have)} free;"
            " nothing was fetched",
            hint="make room, choose another folder, or fetch fewer files with --include",
        )


def _state_of(layout: Layout) -> tuple[Path, bool]:
    """The state folder, and whether locks hold on its file system.

    Raises:
        UnsafeName: it is a link.
    """
    state = layout.state
    osfile.check_own_folder(state)
    return state, mounts.locks_hold(osfile.nearest_existing(state))


def _orders(prepared: Prepared, state: Path) -> list[Order]:
    job, layout = prepared.job, prepared.job.layout
    kept = {
        plan.file.content: layout.final(plan.file.path)
        for plan in prepared.plan
        if plan.action is Action.KEEP and plan.file.content is not None
    }
    twins: dict[str | None, tuple[Source, ...]] = {}
    for plan in prepared.plan:
        if plan.action in (Action.COPY, Action.SHARE):
            # Where the copy could be had is one more place for the file that it is a copy of.
            more = tuple(replace(source, fallback=True) for source in job.sources(plan.file))
            twins[plan.file.content] = twins.get(plan.file.content, ()) + more
    orders = []
    for plan in prepared.plan:
        if plan.action not in (Action.FETCH, Action.COPY):
            continue
        final = layout.final(plan.file.path)
        placement = Placement(
            final=final,
            root=layout.root,
            relative=final.relative_to(layout.root).as_posix(),
            state=state,
            replaces=prepared.sights[plan.file.path].stamp,
        )
        fetch = plan.action is Action.FETCH
        content = plan.file.content
        orders.append(
            Order(
                plan=plan,
                placement=placement,
                sources=job.sources(plan.file) + twins.get(content, ()) if fetch else (),
                label=f"{job.name}: {plan.file.path}" if plan.file.path != job.name else job.name,
                copy_from=None if fetch or content is None else kept.get(content),
            )
        )
    return orders


# -- reporting ---------------------------------------------------------------------------------


def _kept(prepared: Prepared, plan: FilePlan) -> FileResult:
    file, known = plan.file, prepared.sights[plan.file.path].known
    size = file.size or 0
    return FileResult(
        path=file.path,
        final=str(prepared.job.layout.final(file.path)),
        how="kept",
        size=size,
        sha256=file.sha256 or (known.sha256 if known else None),
        verified=file.content is not None,
        reused=size,
    )


def _of_the_same(first: FileResult, path: str) -> FileResult:
    """The result of a file that stands in the place of another one."""
    if first.error is not None:
        return _failed(path, HaulError(f"{path}: it has the content of {first.path}, which failed"))
    return replace(
        first,
        path=path,
        how="kept" if first.how == "kept" else "copied",
        fetched=0,
        hedged=0,
        reused=first.size,
        proof_seconds=None,
        sources=(),
    )


def _failed(path: str, error: HaulError) -> FileResult:
    return FileResult(path=path, final="", how="failed", size=0, error=error)


def _tidy(state: Path, locks: bool, emit: Emitter) -> None:
    """Remove the state folder if it is empty; say what older runs left in it."""
    if not state.is_dir():
        return
    left = []
    for work in claim.unfinished(state):
        # Published, and killed before the journal went: it speaks of nothing any more. Or a small
        # file or a copy, which would be begun anew: another process may have brought it meanwhile.
        worthless = work.void or work.stem.endswith((claim.WHOLE, claim.COPY))
        if worthless and locks and not work.busy:
            for path in work.paths:
                try:
                    osfile.remove_unlocked(path)
                except OSError as error:
                    # A link, or another user's. The files are in place: that is no reason to fail.
                    emit.note(f"{path} was left where it is: {error.strerror or error}")
        elif not work.busy:
            left.append(work)
    if left:
        size = sum(work.stored for work in left)
        # Where locks do not hold nobody knows who is alive, and `clean` would remove theirs too.
        whose = "earlier runs" if locks else "earlier runs or of processes at work"
        emit.note(
            f"{len(left)} unfinished parts of {whose} ({size_text(size)}) are in {state}:"
            " `modelhaul parts` lists them, `modelhaul clean` removes them"
        )
    try:
        state.rmdir()
    except OSError:
        return  # somebody works there, or something was left


def _incomplete(report: Report) -> HaulError:
    """The error for a report with failures; if all failed of one cause, that one's own."""
    failed = sum(result.error is not None for result in report.files)
    nothing = failed == len(report.files)
    first = report.causes[0]
    kinds: Collection[type] = {type(error) for error in report.causes}
    if nothing and len(kinds) == 1:
        first.message += f" ({failed - 1} more files likewise)" if failed > 1 else ""
        return first
    many = (
        f"none of the {failed} files could be had"
        if nothing
        else f"{failed} of {len(report.files)} files could not be had"
    )
    error = Incomplete(f"{many}; first {first.message}", report=report)
    error.hint = first.hint
    if error.retryable and not first.retryable and first.hint is not None:
        error.hint = f"{first.hint}; and run the same command again for the others"
    elif error.retryable and first.hint is None:
        error.hint = "run the same command again: what arrived is kept"
    error.__cause__ = first
    return error
