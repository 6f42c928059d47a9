"""What people and programs see: what a view is, and how lines are printed. Results go to stdout.

A view is a listener for events with a beginning and an end. Those that show something are loaded
only where they are needed: `views.py` for lines, `progress.py` for a terminal.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from modelhaul.errors import HaulError, StorageError

if TYPE_CHECKING:
    from modelhaul.events import Event


class View:
    """Shows nothing: `--quiet`. The base of the others."""

    def __init__(self) -> None:
        self._path: str | None = None
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

    def __call__(self, event: Event) -> None:
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
