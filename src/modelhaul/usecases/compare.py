"""What is wanted against what is there: looking, hashing where memory does not say, deciding."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import anyio

from modelhaul.core import names
from modelhaul.core.plan import (
    ABSENT,
    Action,
    FilePlan,
    Found,
    Plan,
    Presence,
    copied,
    decide,
    share,
)
from modelhaul.core.repo import RemoteFile
from modelhaul.core.units import count_text, size_text
from modelhaul.engine.task import Order
from modelhaul.errors import StorageError, UnsafeName, single_error
from modelhaul.events import Checking, Planned, Progress, Statistics
from modelhaul.store import claim, osfile, presence
from modelhaul.store.index import Known, ProvenIndex
from modelhaul.store.layout import Layout
from modelhaul.store.presence import Sight
from modelhaul.usecases.job import Emitter, Job, Resources

#: Files looked at per thread call.
_LOOK_AT_ONCE = 2000


class Memory:
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
        held: where on this disk content lies that would be fetched else, by `RemoteFile.content`.
    """

    job: Job
    plan: Plan
    sights: Mapping[str, Sight]
    shared: Mapping[str, str]
    memory: Memory
    unreadable: Mapping[str, str] = field(default_factory=dict)
    held: Mapping[str, Path] = field(default_factory=dict)


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
    memory = Memory(resources.index)
    unsafe = await _unsafe(resources, job)
    safe = [file for file in job.files if file.path not in unsafe]
    shared = _shared(job.layout, safe)
    wanted = [file for file in safe if file.path not in shared]
    sights, too_long = await _look(resources, job, wanted)
    if too_long:
        unsafe |= too_long
        unsafe |= {path: too_long[first] for path, first in shared.items() if first in too_long}
        wanted = [file for file in wanted if file.path not in too_long]
    sights |= await _prove(resources, job, wanted, sights, emit, unreadable if patient else None)
    sights |= {path: sights[first] for path, first in shared.items() if first in sights}
    recorded = await resources.threads.write(_recorded, job.layout, wanted)
    plans: list[FilePlan] = []
    for file in job.files:
        if file.path in unsafe:
            reason = unsafe[file.path]
            plans.append(FilePlan(file=file, action=Action.REFUSE, reason=reason, unsafe=True))
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
        plan = decide(file, seen, owned=job.layout.owned, force=job.force)
        if plan.action is Action.FETCH and file.path in shared:
            plan = FilePlan(file=file, action=Action.SHARE)
        plans.append(plan)
    held = await _held(resources, job, plans, emit)
    plans = [
        copied(plan) if plan.action is Action.FETCH and plan.file.content in held else plan
        for plan in plans
    ]
    memory.tell(emit)
    return Prepared(job, Plan(tuple(share(plans))), sights, shared, memory, unreadable, held)


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
    first: dict[str, str] = {}
    shared = {}
    for file in files:
        holder = first.setdefault(layout.place(file.path), file.path)
        if holder != file.path:
            shared[file.path] = holder
    return shared


def _folds_names(layout: Layout) -> bool:
    return osfile.folds_names(osfile.nearest_existing(layout.root))


async def _look(
    resources: Resources, job: Job, files: Sequence[RemoteFile]
) -> tuple[dict[str, Sight], dict[str, str]]:
    """What is seen at the final names; and the paths that the file system cannot hold, and why."""
    sights: dict[str, Sight] = {}
    too_long: dict[str, str] = {}
    # By folder, since a new target has none of them and a listing may be long. Only that a folder
    # is missing is remembered, not what one holds: the file system may find a name by another
    # spelling than the one that it lists.
    missing: dict[str, bool] = {}

    def look(some: Sequence[RemoteFile]) -> None:
        for file in some:
            folder = job.layout.place(file.path).rpartition("/")[0]
            if missing.get(folder):
                sights[file.path] = presence.NOTHING
                continue
            final = job.layout.final(file.path)
            try:
                sight = presence.look(final, file, resources.index, trust=not job.force)
            except UnsafeName:
                if job.trusted:
                    raise  # the user's own word: to leave it out is no advice
                too_long[file.path] = "the name is too long for this file system"
                continue
            if sight.found is Found.NOTHING and folder not in missing:
                missing[folder] = presence.is_missing(final.parent)
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
    doubtful = [file for file in files if sights[file.path].verdict is None]
    places = [(job.layout.final(file.path), file) for file in doubtful]
    # By force no memory is believed: neither ours of proven files nor the system's of the disk.
    proven = await _hash(resources, places, emit, unreadable, fresh=job.force)
    return {
        path: replace(sights[path], known=known, verdict=True) for path, known in proven.items()
    }


async def _hash(
    resources: Resources,
    places: Sequence[tuple[Path, RemoteFile]],
    emit: Emitter,
    unreadable: dict[str, str] | None,
    *,
    fresh: bool = False,
) -> dict[str, Known]:
    """Hash files, several at a time; what is known of those that hold the wanted content."""
    proven: dict[str, Known] = {}
    if not places:
        return proven
    total = sum(file.size or 0 for _, file in places)
    emit(Checking(files=len(places), size=total))
    hashed = 0

    def check(count: int) -> None:
        nonlocal hashed
        hashed += count
        resources.threads.check_cancelled()

    async def prove(place: Path, file: RemoteFile) -> None:
        call = partial(presence.prove, place, file, resources.index, check=check, fresh=fresh)
        try:
            known = await resources.threads.hash(call)
        except StorageError as error:
            if unreadable is None:
                raise
            unreadable[file.path] = error.message
            return
        if known is not None:
            proven[file.path] = known

    async def show() -> None:
        while True:
            await anyio.sleep(0.25)
            emit(
                Progress(
                    statistics=Statistics(
                        total=total, done=hashed, verified=hashed, files=len(places)
                    )
                )
            )

    try:
        async with anyio.create_task_group() as beat:
            if emit.listening:
                beat.start_soon(show)
            async with anyio.create_task_group() as group:
                for place, file in places:
                    group.start_soon(prove, place, file)
            beat.cancel_scope.cancel()
    except BaseExceptionGroup as failed:
        raise single_error(failed) from failed
    return proven


async def _held(
    resources: Resources, job: Job, plans: Sequence[FilePlan], emit: Emitter
) -> dict[str, Path]:
    """Where on this disk what would be fetched lies already, by content."""
    if job.holdings is None:
        return {}
    wanted = [plan.file for plan in plans if plan.action is Action.FETCH]
    found = await resources.threads.write(job.holdings.find, wanted)
    held = {content: place.path for content, place in found.items() if place.sure}
    doubtful = {
        content: (found[content].path, file)
        for file in wanted
        if (content := file.content) is not None and content in found and content not in held
    }
    proven = await _hash(resources, list(doubtful.values()), emit, {})
    held |= {content: place for content, (place, file) in doubtful.items() if file.path in proven}
    _tell_held([(file, held[file.content]) for file in wanted if file.content in held], emit)
    return held


def _tell_held(held: Sequence[tuple[RemoteFile, Path]], emit: Emitter) -> None:
    """Say where what need not be fetched comes from: users wonder."""
    folders = sorted({str(place.parent) for _, place in held})
    if folders:
        size = size_text(sum(file.size or 0 for file, _ in held))
        more = f" and {count_text(len(folders) - 1, 'more folder')}" if len(folders) > 1 else ""
        emit.note(
            f"{count_text(len(held), 'file')} ({size}) on this disk already: will be copied from"
            f" {folders[0]}{more}"
        )


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


async def is_there(resources: Resources, order: Order) -> bool:
    """Whether somebody else has put the wanted content in its place meanwhile."""

    def call() -> bool:
        sight = presence.look(order.placement.final, order.file, resources.index, trust=True)
        if sight.verdict is not None:
            return sight.verdict
        return presence.prove(order.placement.final, order.file, resources.index) is not None

    return await resources.threads.hash(call)
