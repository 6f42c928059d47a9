"""What people and programs see: plain lines, JSON lines, or nothing. Results go to stdout.

A view is a listener for events with a beginning and an end. The one for terminals is in
`progress.py`; it is loaded only where there is a terminal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, TextIO

from modelhaul import events
from modelhaul.core.units import count_text, duration_text, size_text
from modelhaul.errors import HaulError, StorageError

_PLAIN_EVERY = 5.0
_JSON_EVERY = 1.0
#: Files below this size get no line of their own: there may be thousands.
_WORTH_A_LINE = 8_000_000
#: JSON events that end a run.
_LAST = frozenset({"finished", "verified", "error", "plan"})


class View:
    """Shows nothing: `--quiet`. The base of the others."""

    def __init__(self) -> None:
        self._path: str | None = None
        self._alone = False  # the run is of one file
        self._lost: OSError | None = None

    def __enter__(self) -> View:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The run is over: nothing is drawn any more, and the result is printed.

        Raises:
            StorageError: the run succeeded, but its result cannot be written to stdout.
        """
        if self._path is not None and error is None:
            self._print(self._path)
        if self._lost is not None and error is None:
            raise _unwritten(self._lost)

    def _print(self, text: str) -> None:
        """A line of the result. That it is lost is said at the end: listeners do not raise."""
        self._lost = self._lost or _write(sys.stdout, text)

    def __call__(self, event: events.Event) -> None:
        """Something happened."""

    def result(self, path: str) -> None:
        """The run succeeded: where the result is will be the last line on stdout."""
        self._path = path

    def error(self, error: HaulError) -> None:
        """The run failed: say what and what to try, in one or two lines."""
        write_line(sys.stderr, f"modelhaul: {printable(error.message)}")
        if error.hint:
            write_line(sys.stderr, f"  try: {printable(error.hint)}")

    def say(self, text: str) -> None:
        """Something worth telling unless told to be quiet."""

    def tell(self, event: events.Event) -> None:
        """Say an event in words, if it is worth it."""
        if isinstance(event, events.Resolved):
            self._alone = event.files == 1
        # Why the only file failed is why the run did, and that is said at its end.
        if self._alone and isinstance(event, events.FileFailed):
            return
        text = describe(event)
        if text is not None:
            self.say(text)


class PlainView(View):
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


def event_name(kind: type) -> str:
    """`FileDone` as `file_done`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def describe(event: events.Event) -> str | None:
    """One line about an event, None if it needs none."""
    match event:
        case events.Resolved(name=name, files=files, size=size, commit=commit):
            pinned = f" at commit {commit[:12]}" if commit else ""
            many = f"{count_text(files, 'file')}, " if files != 1 else ""
            return f"{name}{pinned}: {many}{size_text(size)}"
        case events.Checking(files=files, size=size):
            are = "is" if files == 1 else "are"
            what = f"{count_text(files, 'file')} that {are} here already"
            return f"checking {what} ({size_text(size)})"
        case events.FileChecked(path=path, finding=finding, reason=reason) if finding != "right":
            return f"{finding}: {path}" + (f" ({reason})" if reason else "")
        case events.Planned(fetch=fetch, reuse=reuse, copy=copy) if reuse or copy:
            here = f"; here already: {size_text(reuse)}" if reuse else ""
            to_copy = f"; to copy: {size_text(copy)}" if copy else ""
            return f"to fetch: {size_text(fetch)}{here}{to_copy}"
        case events.FileFailed(path=path, message=message):
            return f"failed: {path}: {message.removeprefix(f'{path}: ')}"
        case events.SourceDropped(path=path, source=source, reason=reason):
            return f"{source} is not used any more for {path}: {reason}"
        case events.Repairing(path=path, size=size, reason=reason):
            return f"repairing {path}: {size_text(size)} are fetched again ({reason})"
        case events.Note(message=message):
            return f"note: {message}"
        case events.Finished():
            return summary(event)
        case events.Verified():
            return verdict(event)
    return None


def summary(event: events.Finished) -> str:
    """The last line about a run."""
    # Of less than a tenth of a second, which is shown as one, a rate would look wrong.
    speed = f" ({size_text(event.fetched / event.seconds)}/s)" if event.seconds >= 0.1 else ""
    proof = (
        f"{_which(event.files)} has its SHA-256"
        if event.verified
        else "no SHA-256 was stated to check"
    )
    if event.verified and event.by_git_name:
        proof += " or git name"
    here = event.reused - event.copied
    amounts = [f"{size_text(event.copied)} copied"] if event.copied else []
    if not event.fetched:
        if here or not event.copied:
            amounts.append(f"{size_text(event.size - event.copied)} here already")
        return f"{', '.join(amounts)}, nothing fetched; {proof}"
    took = f"{size_text(event.fetched)} fetched in {duration_text(event.seconds)}{speed}"
    return f"{', '.join([took, *amounts, f'{size_text(here)} reused'])}; {proof}"


def _which(files: int) -> str:
    return "the file" if files == 1 else "every file"


def verdict(event: events.Verified) -> str:
    """The last line about a check."""
    files = count_text(event.files, "file")
    parts = [f"{files}, {size_text(event.size)}, in {duration_text(event.seconds)}"]
    for count, finding in (
        (event.wrong, "wrong"),
        (event.missing, "missing"),
        (event.repaired, f"repaired ({size_text(event.fetched)} fetched)"),
        (event.unproven, "without a stated digest"),
    ):
        if count:
            parts.append(f"{count} {finding}")
    if not event.wrong and not event.missing:
        proof = f"{_which(event.files)} has its SHA-256"
        proof += " or git name" if event.by_git_name else ""
        parts.append(proof if not event.unproven else "the others have theirs")
    return "; ".join(parts)


def amounts_line(amounts: events.Statistics) -> str:
    """Amounts of a run in one line."""
    percent = 100 * amounts.done // max(1, amounts.total)
    rate = f", {size_text(amounts.rate)}/s" if rate_is_known(amounts) else ""
    left = "" if amounts.eta is None else f", {duration_text(math.ceil(amounts.eta))} left"
    return (
        f"{percent:3d}%  {size_text(amounts.done)} of {size_text(amounts.total)}{rate}{left},"
        f" {amounts.files_done} of {amounts.files} files, {amounts.connections} connections"
    )


def rate_is_known(amounts: events.Statistics) -> bool:
    """Whether the rate says something: before the first byte 0 only means that nobody knows."""
    return amounts.rate > 0 or amounts.fetched > 0


def printable(text: str) -> str:
    """Text that cannot move the cursor: names and messages come from servers."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "?" for char in text)


def write_line(stream: TextIO | None, text: str) -> None:
    """Print a line; a stream that is closed or cannot show a character is no reason to die."""
    _write(stream, text)


def print_line(text: str) -> None:
    """Print a line of the result on stdout.

    Raises:
        StorageError: it cannot be written. A reader that is gone, or a stdout that was closed on
            purpose, is no error.
    """
    print_lines([text])


def print_lines(texts: Iterable[str]) -> None:
    """Print lines of the result on stdout, all in one write: there may be a hundred thousand.

    Raises:
        StorageError: as `print_line`.
    """
    failure = _write(sys.stdout, "\n".join(texts))
    if failure is not None:
        raise _unwritten(failure)


def _unwritten(failure: OSError) -> StorageError:
    return StorageError(
        f"the result cannot be written to stdout: {failure.strerror or failure}",
        hint="where does the redirection lead, and is there room?",
    )


def _write(stream: TextIO | None, text: str) -> OSError | None:
    """Write a line; what stopped it, None where nobody can expect it to arrive."""
    if stream is None:
        return None
    try:
        try:
            stream.write(text + "\n")
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except BrokenPipeError:
        # The reader is gone (`| head`). The download counts.
        _forget(stream)
    except OSError as error:
        _forget(stream)
        return None if error.errno == errno.EBADF else error
    except ValueError:
        return None  # closed on purpose
    return None


def _forget(stream: TextIO) -> None:
    """Let what is still in the stream's buffer go nowhere.

    Else the interpreter would fail over it when it flushes at the end.
    """
    with contextlib.suppress(OSError, ValueError):
        number = stream.fileno()
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), number)
