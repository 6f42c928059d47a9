"""The places that `--source` names, asked what they have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import anyio

from modelhaul.core.origin import origin_of
from modelhaul.core.places import Mirror, Offer, Place, Prefix, SameElsewhere
from modelhaul.core.repo import HubName, RemoteFile, RepoRef, Snapshot, Source
from modelhaul.errors import HaulError, NotFound, single_error
from modelhaul.events import Waiting
from modelhaul.hubs.base import Hub
from modelhaul.usecases.job import Emitter

#: Seconds that a place may be silent while it says what it has, and that it may take in all: the
#: repository itself is there already.
_MOST_SILENCE, _MOST_SECONDS = 20.0, 120.0
#: Seconds after which the user is told what is waited for.
_WORTH_TELLING = 2.0

#: Opens a hub, at its usual address or at an endpoint, with the token that belongs there; what it
#: is given last is called at each answer.
OpenHub = Callable[[HubName, str | None, Callable[[], None]], Awaitable[Hub]]


@dataclass(frozen=True, slots=True)
class _Listed:
    """A repository at some hub, and what it has."""

    label: str
    hub: Hub
    snapshot: Snapshot
    offer: Offer

    def source(self, file: RemoteFile) -> Source | None:
        """Where this file can be had there; None if it has it not, or another one."""
        listed = self.offer.match(file)
        if listed is None:
            return None
        # The last is the one that works on every server: by branch, where by commit is tried first.
        # That a branch may move on does not matter to what a digest judges.
        last = self.hub.sources(self.snapshot, listed)[-1]
        return replace(last, fallback=False, place=self.label)


@dataclass(frozen=True, slots=True)
class _Folder:
    """Files behind a URL: nobody says what is there, so digests judge."""

    label: str
    prefix: Prefix

    def source(self, file: RemoteFile) -> Source | None:
        """Where this file would be; None if nothing would judge what comes."""
        if file.content is None:
            return None
        url = self.prefix.file_url(file.path)
        return Source(url, origin_of(url), place=self.label)


async def more_sources(
    places: Sequence[Place],
    ref: RepoRef,
    files: Sequence[RemoteFile],
    open_hub: OpenHub,
    emit: Emitter,
) -> Callable[[RemoteFile], tuple[Source, ...]]:
    """Ask all places at the same time; gives where else a file can be had.

    A place that cannot be asked, or has nothing of it, is named in a note and left out: the
    repository itself has everything.
    """
    found: list[_Listed | _Folder | None] = [None] * len(places)

    async def ask(at: int, place: Place) -> None:
        found[at] = await _ask(place, ref, open_hub, emit)

    async def tell() -> None:
        await anyio.sleep(_WORTH_TELLING)
        emit(Waiting(reason="other sources have not said yet what they have", seconds=0.0))

    try:
        async with anyio.create_task_group() as patience:
            patience.start_soon(tell)
            async with anyio.create_task_group() as group:
                for at, place in enumerate(places):
                    group.start_soon(ask, at, place)
            patience.cancel_scope.cancel()
    except BaseExceptionGroup as failed:
        raise single_error(failed) from failed
    useful = [one for one in found if one is not None]
    for one in useful:
        _tell(one, files, emit)

    def sources(file: RemoteFile) -> tuple[Source, ...]:
        return tuple(source for place in useful if (source := place.source(file)) is not None)

    return sources


async def _ask(
    place: Place, ref: RepoRef, open_hub: OpenHub, emit: Emitter
) -> _Listed | _Folder | None:
    if isinstance(place, Prefix):
        return _Folder(place.url, place)
    wanted, endpoint = (ref, place.endpoint) if isinstance(place, Mirror) else (place.ref, None)
    if wanted is None:
        return None
    revision = f"@{wanted.revision}" if wanted.revision else ""
    label = endpoint or f"{wanted.with_hub}{revision}"
    try:
        with anyio.fail_after(_MOST_SILENCE) as limit:
            end = anyio.current_time() + _MOST_SECONDS

            def answered() -> None:
                limit.deadline = min(end, anyio.current_time() + _MOST_SILENCE)

            hub = await open_hub(wanted.hub, endpoint, answered)
            snapshot = await hub.resolve(wanted)
    except TimeoutError:
        emit.note(f"source {label} is not used: it does not answer")
    except HaulError as error:
        # On the other hub there is often none of that name, which is no news.
        if not (isinstance(place, SameElsewhere) and isinstance(error, NotFound)):
            emit.note(f"source {label} is not used: {error.message}")
    else:
        return _Listed(label, hub, snapshot, Offer(snapshot.files))
    return None


def _tell(place: _Listed | _Folder, files: Sequence[RemoteFile], emit: Emitter) -> None:
    served = sum(place.source(file) is not None for file in files)
    if not served:
        emit.note(f"source {place.label} is not used: no file there is known to be the same")
    elif served < len(files):
        emit.note(f"source {place.label} has {served} of {len(files)} files")
