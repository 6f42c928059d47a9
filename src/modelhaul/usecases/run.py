"""What every download does once its files are compared: check room, run, report."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio

from modelhaul.core.plan import (
    Action,
    FilePlan,
    Found,
)
from modelhaul.core.repo import RemoteFile, Source
from modelhaul.core.units import count_text, size_text
from modelhaul.engine.context import Options
from modelhaul.engine.driver import Engine, done_event
from modelhaul.engine.task import Order, Placement
from modelhaul.errors import (
    DiskFull,
    HaulError,
    Occupied,
    UnsafeName,
    single_error,
)
from modelhaul.events import (
    FileFailed,
    Finished,
)
from modelhaul.report import FileResult, Incomplete, Report
from modelhaul.settings import Settings
from modelhaul.store import claim, mounts, osfile, presence, twins
from modelhaul.store.holdings import Holdings
from modelhaul.store.layout import Layout
from modelhaul.store.marker import Marker
from modelhaul.usecases.compare import Prepared, is_there
from modelhaul.usecases.job import Emitter, Job, Resources
from modelhaul.usecases.places import Elsewhere

#: Room that is left to others: folders, journals, the file system's own books.
_SPARE = 16 << 20


async def execute(resources: Resources, prepared: Prepared, emit: Emitter) -> Report:
    """Bring the files of a plan, and say that it is finished.

    Raises:
        HaulError: as `bring`.
    """
    report = await bring(resources, prepared, emit)
    emit(
        Finished(
            path=report.path,
            files=len(report.files),
            size=report.size,
            fetched=report.fetched,
            reused=report.reused,
            copied=report.copied,
            connections=report.connections,
            by_source=dict(report.by_source),
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
    new = not await resources.threads.write(layout.root.exists)
    await _check_room(resources, prepared)
    state, locks = await resources.threads.write(_state_of, layout)
    await ask_elsewhere(prepared)
    orders = _orders(prepared, state)
    burst = layout.mutable and prepared.plan.replaces
    update = _Update(job, Marker.of(state, layout.root), [order.file.path for order in orders])
    await resources.threads.write(update.look, emit)

    async def recheck(order: Order) -> bool:
        return await is_there(resources, order)

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
    results |= {result.path: result for result in await _run(engine, orders, job.elsewhere)}
    for path in (plan.file.path for plan in prepared.plan if plan.action is Action.SHARE):
        results[path] = result = _of_the_same(results[prepared.shared[path]], path)
        emit(done_event(result) if result.error is None else _failed_event(path, result.error))
    in_place = [file for file in job.files if results[file.path].error is None]
    if orders or in_place:
        await resources.threads.write(layout.after, in_place)
    complete = len(in_place) == len(job.files)
    if complete:
        await resources.threads.write(layout.finish)
    await resources.threads.write(update.settle, in_place, emit)
    await resources.threads.write(_tidy, state, locks, emit)
    await resources.threads.write(_remove_empty, [layout.root] if new and not in_place else [])
    prepared.memory.tell(emit)
    _tell_failing(results.values(), emit)
    report = Report(
        path=str(layout.shown),
        name=job.name,
        revision=job.revision,
        commit=job.commit,
        files=tuple(results[file.path] for file in job.files),
        seconds=time.monotonic() - started,
        connections=engine.meter.most_connections,
        by_source=dict(engine.meter.by_source),
        notes=tuple(emit.notes),
    )
    if not complete:
        raise _incomplete(report)
    return report


async def ask_elsewhere(prepared: Prepared) -> None:
    """Hear what other places have, if anything is to be fetched at all."""
    elsewhere = prepared.job.elsewhere
    if elsewhere is not None and any(plan.action is Action.FETCH for plan in prepared.plan):
        await elsewhere.ask()


async def _run(
    engine: Engine, orders: Sequence[Order], elsewhere: Elsewhere | None
) -> list[FileResult]:
    """Run the engine; places that have not said yet what they have join when they do."""
    if elsewhere is None or all(order.plan.action is not Action.FETCH for order in orders):
        return await engine.run(orders)

    async def join() -> None:
        await elsewhere.join(engine.join)
        engine.no_more_places()

    engine.expect_places()
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(join)
            results = await engine.run(orders)
            group.cancel_scope.cancel()
    except BaseExceptionGroup as failed:
        raise single_error(failed) from failed
    elsewhere.tell_silent()
    return results


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
            f"{count_text(len(left), 'file')} in {self._job.layout.shown} may still be older than"
            f" that update: `modelhaul download {self._job.name}` brings them"
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


def _unsafe_name(plan: FilePlan) -> UnsafeName:
    printable = "".join(char if char.isprintable() else "?" for char in plan.file.path)[:200]
    return UnsafeName(
        f"refused to write {printable!r}: {plan.reason}",
        hint="leave it out with --exclude; only its publisher can give it another name",
    )


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
            if plan.action is Action.COPY and _needs_no_room(prepared, file):
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


def _needs_no_room(prepared: Prepared, file: RemoteFile) -> bool:
    """Whether a file that is to be copied will only get a second name, as far as can be told."""
    layout, source = prepared.job.layout, prepared.held.get(file.content or "")
    if source is None or prepared.sights[file.path].stamp is not None:
        return False  # what stands there is replaced, which a link cannot
    return twins.would_link(source, layout.final(file.path), layout.root)


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
            relative=layout.place(plan.file.path),
            state=state,
            replaces=prepared.sights[plan.file.path].stamp,
        )
        content = plan.file.content
        fetch = plan.action is Action.FETCH
        there = None if fetch or content is None else kept.get(content, prepared.held.get(content))
        orders.append(
            Order(
                plan=plan,
                placement=placement,
                # Those of a copy are for when it cannot be copied after all.
                sources=job.sources(plan.file) + (twins.get(content, ()) if fetch else ()),
                label=f"{job.name}: {plan.file.path}" if plan.file.path != job.name else job.name,
                copy_from=there,
                copy_else=partial(_held_else, job.holdings, plan.file),
            )
        )
    return orders


def _held_else(holdings: Holdings | None, file: RemoteFile, tried: Collection[Path]) -> Path | None:
    """One more place on this disk where the content of a file may lie. Blocks."""
    if holdings is None or file.content is None:
        return None
    held = holdings.find([file], without=tried).get(file.content)
    return None if held is None else held.path


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
        how="copied",
        fetched=0,
        hedged=0,
        reused=first.size,
        proof_seconds=None,
        sources=(),
        failing=(),
    )


def _failed(path: str, error: HaulError) -> FileResult:
    return FileResult(path=path, final="", how="failed", size=0, error=error)


def _tell_failing(results: Iterable[FileResult], emit: Emitter) -> None:
    """Name each source that failed and was left out, once, however many files it was for.

    Not one that was set aside: that was told when it was.
    """
    files: dict[str, list[str]] = {}
    for result in results:
        for name in result.failing:
            files.setdefault(name, []).append(result.path)
    for name, paths in files.items():
        if any(name in note for note in emit.notes):
            continue
        what = paths[0] if len(paths) == 1 else f"{len(paths)} files"
        emit.note(f"source {name} failed, and others brought the rest of {what}")


def _tidy(state: Path, locks: bool, emit: Emitter) -> None:
    """Remove the state folder if it is empty; say what older runs left in it."""
    if not state.is_dir():
        return
    left = []
    for work in claim.unfinished(state):
        # Published, and killed before the journal went: it speaks of nothing any more. Or a small
        # file or a copy, which would be begun anew: another process may have brought it meanwhile.
        worthless = work.void or work.stem.endswith((claim.WHOLE, claim.COPY))
        # Of a draft nobody knows whose it is: if its owner is alive, it makes another one.
        draft = work.stem.endswith(osfile.DRAFT)
        if draft or (worthless and locks and not work.busy):
            remove = osfile.remove_quietly if draft else osfile.remove_unlocked
            for path in work.paths:
                try:
                    remove(path)
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
            f"{state} has {count_text(len(left), 'unfinished part')} of {whose}"
            f" ({size_text(size)}): `modelhaul parts` lists them, `modelhaul clean` removes them"
        )
    _remove_empty([state])


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        # Else somebody works there, or something was left.
        with contextlib.suppress(OSError):
            folder.rmdir()


def _incomplete(report: Report) -> HaulError:
    """The error for a report with failures; if all failed of one cause, that one's own."""
    failed = sum(result.error is not None for result in report.files)
    nothing = failed == len(report.files)
    first = report.causes[0]
    kinds: Collection[type] = {type(error) for error in report.causes}
    if nothing and len(kinds) == 1:
        first.message += f" ({count_text(failed - 1, 'more file')} likewise)" if failed > 1 else ""
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
