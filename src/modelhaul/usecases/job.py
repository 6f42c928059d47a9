"""What a run is given: the job, what the client shares with it, and who listens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelhaul.core.pace import Throttle
from modelhaul.core.repo import RemoteFile, Source
from modelhaul.engine.buffers import BufferPool
from modelhaul.engine.lanes import Lanes
from modelhaul.engine.threads import Threads
from modelhaul.events import Event, Listener, Note
from modelhaul.net.transport import Transport
from modelhaul.settings import Settings
from modelhaul.store.holdings import Holdings
from modelhaul.store.index import ProvenIndex
from modelhaul.store.layout import Layout
from modelhaul.usecases.places import Elsewhere

log = logging.getLogger("modelhaul")


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
        holdings: where else on this disk its content may lie, None for nowhere.
        elsewhere: the places beside the repository, None for none; `sources` knows what they say.
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
    holdings: Holdings | None = None
    elsewhere: Elsewhere | None = None
