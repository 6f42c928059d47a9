"""Views that print: plain lines for people and logs, JSON lines for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from types import TracebackType
from typing import Any

from modelhaul import events
from modelhaul.cli.output import View, printable, write_line
from modelhaul.cli.words import amounts_line, describe, event_name
from modelhaul.core.units import size_text
from modelhaul.errors import HaulError

_PLAIN_EVERY = 5.0
_JSON_EVERY = 1.0
#: Files below this size get no line of their own: there may be thousands.
_WORTH_A_LINE = 8_000_000
#: JSON events that end a run.
_LAST = frozenset({"finished", "verified", "error", "plan"})


class TellingView(View):
    """Says events in words; where they are printed is up to `say`."""

    def __init__(self) -> None:
        super().__init__()
        self._alone = False  # the run is of one file
        self._dropped: set[str] = set()

    def tell(self, event: events.Event) -> None:
        """Say an event in words, if it is worth it."""
        if isinstance(event, events.Resolved):
            self._alone = event.files == 1
        # Why the only file failed is why the run did, and that is said at its end.
        if self._alone and isinstance(event, events.FileFailed):
            return
        # Of a source that lacks one file after the other the first is enough; a note names it, too.
        if isinstance(event, events.SourceDropped):
            if event.source in self._dropped:
                return
            self._dropped.add(event.source)
        text = describe(event)
        if text is not None:
            self.say(text)


class PlainView(TellingView):
    """Lines on stderr, few enough for a log file."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = time.monotonic()
        self._waiting = ""

    def __call__(self, event: events.Event) -> None:
        self.tell(event)
        match event:
            case events.Progress(statistics=amounts):
                now = time.monotonic()
                if now - self._shown >= _PLAIN_EVERY and amounts.total:
                    self._shown = now
                    self.say(amounts_line(amounts))
            case events.Waiting(reason=reason) if reason.partition(";")[0] != self._waiting:
                # The countdown in it changes four times a second; the reason does not.
                self._waiting = reason.partition(";")[0]
                self.say(f"waiting: {reason}")
            case events.FileDone(how="fetched", size=size) if size >= _WORTH_A_LINE:
                self.say(f"done: {event.path} ({size_text(size)})")

    def say(self, text: str) -> None:
        write_line(sys.stderr, printable(text))


class JsonView(View):
    """One JSON object per event on stdout; the last one carries the path or the error."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = 0.0
        self._ended = False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # An order to stop is no exception by now: the run has just ended without a last word.
        if not self._ended and (error is None or isinstance(error, KeyboardInterrupt)):
            self.line(
                {
                    "event": "error",
                    "kind": "Interrupted",
                    "message": "interrupted; what arrived is kept",
                    "hint": "the same command goes on where it stopped",
                    "exit_code": 130,
                    "retryable": True,
                }
            )
        super().__exit__(kind, error, trace)

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.Progress):
            now = time.monotonic()
            if now - self._shown < _JSON_EVERY:
                return
            self._shown = now
        self.line({"event": event_name(type(event)), **dataclasses.asdict(event)})

    def line(self, fields: dict[str, Any]) -> None:
        """Print one object."""
        self._ended = self._ended or fields.get("event") in _LAST
        self._print(json.dumps(fields))

    def result(self, path: str) -> None:
        """The `finished` event has said it."""

    def error(self, error: HaulError) -> None:
        super().error(error)
        self.line(
            {
                "event": "error",
                "kind": type(error).__name__,
                "message": error.message,
                "hint": error.hint,
                "exit_code": error.exit_code,
                "retryable": error.retryable,
            }
        )
