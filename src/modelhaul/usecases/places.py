"""The places that `--source` names, asked what they have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import anyio

from modelhaul.core.origin import origin_of
from modelhaul.core.places import Mirror, Offer, OtherRepo, Place, Prefix, SameElsewhere
from modelhaul.core.repo import HubName, RemoteFile, RepoRef, Snapshot, Source
from modelhaul.errors import HaulError, NotFound, single_error
from modelhaul.hubs.base import Hub

#: Seconds that a place may be silent while it says what it has, and that it may take in all: the
#: repository itself is there already.
_MOST_SILENCE, _MOST_SECONDS = 20.0, 120.0
#: Seconds for which a run waits for the others before it begins.
_SOON = 1.0

#: Says where a file can be had at one place, None if not there.
Where = Callable[[RemoteFile], Source | None]
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


class Elsewhere:
    """The places beside a repository that may have its files.

    All are asked at the same time, and waited for only briefly: who has not said by then what it
    has is asked beside the run, and joins it. A place that cannot be asked, or has nothing of it,
    is named in a note and left out: the repository itself has everything.

    Args:
        places: what the user named.
        ref: the repository.
        files: what is wanted of it.
        open_hub: opens the hub of a place.
        note: is told what is not used, and why.
    """

    def __init__(
        self,
        places: Sequence[Place],
        ref: RepoRef,
        files: Sequence[RemoteFile],
        open_hub: OpenHub,
        note: Callable[[str], None],
    ) -> None:
        self._ref = ref
        self._files = files
        self._open_hub = open_hub
        self._note = note
        self._unheard: dict[str, Place] = {}
        for place in places:
            label = _label(place)
            # Who is meant by name as well is named if it cannot be used.
            if label and not isinstance(self._unheard.get(label), OtherRepo):
                self._unheard[label] = place
        self._labels = tuple(self._unheard)
        self._asked = False
        self._found: dict[str, _Listed | _Folder] = {}

    def sources(self, file: RemoteFile) -> tuple[Source, ...]:
        """Where else a file can be had, as far as known."""
        heard = [self._found[label] for label in self._labels if label in self._found]
        return tuple(source for place in heard if (source := place.source(file)) is not None)

    async def ask(self) -> None:
        """Ask all, and wait for those that answer soon."""
        self._asked = True
        with anyio.move_on_after(_SOON):
            await self._ask_all(lambda _: None)

    async def join(self, joined: Callable[[Where], None]) -> None:
        """Ask those that did not answer soon, once more and with patience.

        Args:
            joined: called for each as soon as it has said what it has.
        """
        await self._ask_all(joined)

    def tell_silent(self) -> None:
        """It is over: name those that have been asked and have not said everything until now."""
        for label in self._unheard if self._asked else ():
            self._note(f"source {label} was not used: it has not said yet what it has")

    async def _ask_all(self, joined: Callable[[Where], None]) -> None:
        async def ask(label: str, place: Place) -> None:
            found = await _ask(label, place, self._ref, self._open_hub, self._note)
            del self._unheard[label]
            if found is not None:
                self._found[label] = found
                _tell(found, self._files, self._note)
                joined(found.source)

        try:
            async with anyio.create_task_group() as group:
                for label, place in self._unheard.items():
                    group.start_soon(ask, label, place)
        except BaseExceptionGroup as failed:
            raise single_error(failed) from failed


def _label(place: Place) -> str:
    """What people call a place; "" if there is none."""
    if isinstance(place, Prefix):
        return place.url
    if isinstance(place, Mirror):
        return place.endpoint
    if place.ref is None:
        return ""
    return place.ref.with_hub + (f"@{place.ref.revision}" if place.ref.revision else "")


async def _ask(
    label: str, place: Place, ref: RepoRef, open_hub: OpenHub, note: Callable[[str], None]
) -> _Listed | _Folder | None:
    if isinstance(place, Prefix):
        return _Folder(label, place)
    wanted, endpoint = (ref, place.endpoint) if isinstance(place, Mirror) else (place.ref, None)
    assert wanted is not None
    try:
        with anyio.fail_after(_MOST_SILENCE) as limit:
            end = anyio.current_time() + _MOST_SECONDS

            def answered() -> None:
                limit.deadline = min(end, anyio.current_time() + _MOST_SILENCE)

            hub = await open_hub(wanted.hub, endpoint, answered)
            snapshot = await hub.resolve(wanted)
    except TimeoutError:
        note(f"source {label} is not used: it does not answer")
    except HaulError as error:
        # On the other hub there is often none of that name, which is no news.
        if not (isinstance(place, SameElsewhere) and isinstance(error, NotFound)):
            note(f"source {label} is not used: {error.message}")
    else:
        return _Listed(label, hub, snapshot, Offer(snapshot.files))
    return None


def _tell(
    place: _Listed | _Folder, files: Sequence[RemoteFile], note: Callable[[str], None]
) -> None:
    served = sum(place.source(file) is not None for file in files)
    if not served:
        note(f"source {place.label} is not used: no file there is known to be the same")
    elif served < len(files):
        note(f"source {place.label} has {served} of {len(files)} files")
