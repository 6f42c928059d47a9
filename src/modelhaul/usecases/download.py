"""The use case `download`: a repository's files, from a hub to a folder or a cache."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelhaul.core.origin import Origin, origin_of
from modelhaul.core.places import OtherRepo, Place
from modelhaul.core.repo import HubName, RemoteFile, RepoRef, Snapshot, Source
from modelhaul.core.select import select
from modelhaul.errors import HaulError, Occupied
from modelhaul.events import Resolved, Waiting
from modelhaul.hubs.base import Hub
from modelhaul.hubs.huggingface import HuggingFaceHub
from modelhaul.hubs.modelscope import ModelScopeHub
from modelhaul.net.api import Api, Patience
from modelhaul.report import Report
from modelhaul.settings import DEFAULT_ENDPOINT, DEFAULT_HF_ENDPOINT, Settings, normal_endpoint
from modelhaul.store.credentials import is_private, read_saved_token, read_token_file
from modelhaul.store.holdings import Holdings
from modelhaul.store.layout import Layout, LocalFolder, find_cache, strangers
from modelhaul.store.layout_huggingface import HuggingFaceCache, HuggingFaceFolder
from modelhaul.store.osfile import nearest_existing
from modelhaul.usecases.compare import Prepared, prepare
from modelhaul.usecases.job import Emitter, Job, Resources
from modelhaul.usecases.places import Elsewhere
from modelhaul.usecases.probe import pin
from modelhaul.usecases.run import ask_elsewhere, execute

#: Files without a digest whose servers are asked for a validator at the same time.
_PROBES_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What `download` is asked for.

    Attributes:
        ref: the repository and revision.
        include, exclude: shell patterns over the whole path.
        names: exact paths inside the repository.
        local_dir: a plain folder; None means the cache.
        cache_dir: instead of the settings' cache.
        endpoint, token: instead of the settings'.
        places: where else files may come from.
        force: believe no memory, and overwrite files that are not ours.
    """

    ref: RepoRef
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    names: Sequence[str] = ()
    local_dir: Path | None = None
    cache_dir: Path | None = None
    endpoint: str | None = None
    token: str | None = None
    places: Sequence[Place] = ()
    force: bool = False


async def plan_download(resources: Resources, wish: Wish, emit: Emitter) -> Prepared:
    """Resolve a repository and compare it with what is on disk; fetches no file.

    Raises:
        StorageError: the disk cannot be read.
        HaulError: as `resolve`.
    """
    prepared = await prepare(resources, await resolve(resources, wish, emit), emit)
    await ask_elsewhere(prepared)
    if prepared.job.elsewhere is not None:
        prepared.job.elsewhere.tell_silent()
    return prepared


async def resolve(resources: Resources, wish: Wish, emit: Emitter) -> Job:
    """Ask the hub which files are wanted.

    Raises:
        NotFound, Unauthorized, TransportError, QuotaError, ProtocolError: the hub.
        NothingMatched: a name or pattern matches no file.
        StorageError: the target cannot be looked at.
    """
    settings, patience = resources.settings, _patience(emit)
    hub = await _hub(resources, patience, emit, wish.ref.hub, wish.endpoint, wish.token)
    try:
        snapshot = await hub.resolve(wish.ref)
    except HaulError as error:
        _name_sources(error, wish)
        raise
    files = select(snapshot.files, include=wish.include, exclude=wish.exclude, names=wish.names)
    emit(
        Resolved(
            name=str(wish.ref),
            revision=wish.ref.revision,
            commit=snapshot.commit,
            files=len(files),
            size=sum(file.size or 0 for file in files),
        )
    )
    layout = await resources.threads.write(_place, settings, wish, snapshot)
    await _report_strangers(resources, wish, snapshot, layout, emit)

    quiet = Patience(notify=_nothing, chance=random.random)

    async def open_hub(name: HubName, endpoint: str | None, answered: Callable[[], None]) -> Hub:
        # A mirror may bring bytes that a digest judges: no reason to give it a token.
        known = endpoint is None or origin_of(normal_endpoint(endpoint)) in _homes(settings, name)
        token = None if known else ""
        return await _hub(resources, quiet, emit, name, endpoint, token, answered=answered)

    def here(file: RemoteFile) -> tuple[Source, ...]:
        return hub.sources(snapshot, file)

    elsewhere = Elsewhere(wish.places, wish.ref, files, open_hub, emit.note)

    def sources(file: RemoteFile) -> tuple[Source, ...]:
        return here(file) + elsewhere.sources(file)

    at_once = min(_PROBES_AT_ONCE, settings.connections, settings.host_connections)
    files = await pin(resources.transport, files, here, patience, at_once=at_once)
    holdings = None
    if settings.reuse and not wish.force:
        holdings = await resources.threads.write(_holdings, resources, wish)
    return Job(
        name=str(wish.ref),
        revision=wish.ref.revision,
        commit=snapshot.commit,
        files=files,
        whole=len(files) == len(snapshot.files),
        layout=layout,
        sources=sources,
        force=wish.force,
        holdings=holdings,
        elsewhere=elsewhere if wish.places else None,
    )


def _name_sources(error: HaulError, wish: Wish) -> None:
    """Say what to do if this hub cannot answer and a source is a repository of its own."""
    others = (place.ref for place in wish.places if isinstance(place, OtherRepo))
    here = (wish.ref.hub, wish.ref.id)
    other = next((ref for ref in others if (ref.hub, ref.id) != here), None)
    if other is None:
        return
    kind = "" if other.kind == "model" else f" --repo-type {other.kind}"
    revision = "" if other.revision is None else f" --revision {other.revision}"
    command = f"modelhaul download {other.with_hub}{kind}{revision}"
    if error.hint is None:
        error.hint = command
    else:
        error.hint += f"{'' if error.hint.endswith('?') else ';'} or: {command}"


async def download(resources: Resources, wish: Wish, emit: Emitter) -> Report:
    """Bring a repository's files to this machine, proven.

    Raises:
        as `resolve`, `prepare` and `execute`.
    """
    job = await resolve(resources, wish, emit)
    return await execute(resources, await prepare(resources, job, emit), emit)


def _nothing(reason: str, seconds: float) -> None:
    """Nobody waits for what is asked beside the run."""


def _patience(emit: Emitter) -> Patience:
    def notify(reason: str, seconds: float) -> None:
        emit(Waiting(reason=reason, seconds=seconds))

    return Patience(notify=notify, chance=random.random)


async def _hub(
    resources: Resources,
    patience: Patience,
    emit: Emitter,
    name: HubName,
    endpoint: str | None,
    token: str | None,
    *,
    answered: Callable[[], None] = lambda: None,
) -> Hub:
    """A hub at `endpoint` or at its usual address, with `token` or with the one that is known."""
    settings, of_hf = resources.settings, name == "huggingface"
    usual = settings.hf_endpoint if of_hf else settings.endpoint
    endpoint = usual if endpoint is None else normal_endpoint(endpoint)
    if token is None:
        token = await _known_token(settings, name, origin_of(endpoint), emit)
    token = (token or "").strip() or None
    api = Api(resources.transport, patience, answered=answered)
    return HuggingFaceHub(endpoint, token, api) if of_hf else ModelScopeHub(endpoint, token, api)


def _homes(settings: Settings, name: HubName) -> tuple[Origin, Origin]:
    """The origins of a hub, which its token is for: its own, and the one that is set instead."""
    if name == "huggingface":
        return origin_of(DEFAULT_HF_ENDPOINT), origin_of(settings.hf_endpoint)
    return origin_of(DEFAULT_ENDPOINT), origin_of(settings.endpoint)


async def _known_token(
    settings: Settings, name: HubName, origin: Origin, emit: Emitter
) -> str | None:
    """That of the hub's environment (in the settings), else its saved login, else none."""
    of_hf = name == "huggingface"
    stated = settings.hf_token if of_hf else settings.token
    if stated is not None:
        return stated
    if of_hf:
        saved, note = await _saved_hf_token(settings, origin)
    else:
        saved, note = await read_saved_token(settings.home, origin, time.time())
    if note is not None:
        emit.note(note)
    return saved


async def _saved_hf_token(settings: Settings, origin: Origin) -> tuple[str | None, str | None]:
    """The token that `hf auth login` saved, and a note if it is unreadable.

    The file does not say for which site. It is for the Hub, and for the site that the user has set
    in its place, as its own tools take it; not for one that is named for a single download.
    """
    if origin not in _homes(settings, "huggingface") or not is_private(origin):
        return None, None
    return await read_token_file(settings.hf_token_path)


def _place(settings: Settings, wish: Wish, snapshot: Snapshot) -> Layout:
    """The layout, if there can be a folder where it has its root. Blocks.

    Raises:
        Occupied: something else stands there.
    """
    layout = _layout(settings, wish, snapshot)
    there = nearest_existing(layout.root)
    if not there.is_dir():
        raise Occupied(f"{there} is not a folder", hint="choose another folder, or move that away")
    return layout


def _layout(settings: Settings, wish: Wish, snapshot: Snapshot) -> Layout:
    """The layout follows the hub, so that its own tools find what was brought."""
    if wish.ref.hub == "huggingface":
        if wish.local_dir is not None:
            return HuggingFaceFolder.at(wish.local_dir, snapshot)
        cache = wish.cache_dir or settings.hf_cache_dir
        return HuggingFaceCache.at(cache, snapshot, links=settings.hf_links)
    if wish.local_dir is not None:
        return LocalFolder.at(wish.local_dir)
    return find_cache(wish.cache_dir or settings.cache_dir, wish.ref)


def _holdings(resources: Resources, wish: Wish) -> Holdings:
    """Both hubs' caches; one that was named for this download stands for its hub's own."""
    settings, of_hf = resources.settings, wish.ref.hub == "huggingface"
    named = wish.cache_dir
    return Holdings.around(
        resources.index,
        wish.ref,
        modelscope=settings.cache_dir if named is None or of_hf else named,
        huggingface=settings.hf_cache_dir if named is None or not of_hf else named,
    )


async def _report_strangers(
    resources: Resources, wish: Wish, snapshot: Snapshot, layout: Layout, emit: Emitter
) -> None:
    """Name files of a cached snapshot that the hub does not list any more. They stay."""
    if not layout.mutable:
        return
    listed = {file.path for file in snapshot.files}
    gone = await resources.threads.write(strangers, layout, listed)
    if gone:
        shown = ", ".join(gone[:5]) + (" ..." if len(gone) > 5 else "")
        emit.note(
            f"{len(gone)} files in {layout.shown} are not listed by the hub any more"
            f" and were left there: {shown}"
        )
