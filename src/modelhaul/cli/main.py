"""The entry point: spellings first, then the option parser, then a verb."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from modelhaul.cli.download import download
from modelhaul.cli.get import get
from modelhaul.cli.output import write_line
from modelhaul.cli.parts import clean, parts
from modelhaul.cli.serve import serve
from modelhaul.cli.session import INTERRUPTED
from modelhaul.cli.spelling import normal
from modelhaul.cli.verify import verify
from modelhaul.version import __version__

app = typer.Typer(
    name="modelhaul",
    no_args_is_help=True,
    # Plain help and errors: loading rich for them takes longer than everything else.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
_VERBS = {verb.__name__: verb for verb in (download, get, verify, serve, parts, clean)}
for _verb in _VERBS.values():
    app.command()(_verb)


def _version(wanted: bool) -> None:
    if wanted:
        write_line(sys.stdout, f"modelhaul {__version__}")
        raise typer.Exit


@app.callback()
def modelhaul(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Move model weights: fast, resumable, proven by digest.

    \b
    Exit codes: 0 done, 2 usage, 3 some files missing, 4 not found or no access, 5 quota,
    6 network, 7 protocol, 8 wrong bytes, 9 disk, 130 interrupted.
    """


#: New objects between two looks of the garbage collector. The program's own code is 60,000 that
#: stay, a long listing is more: at the usual 700 it looks at them again and again for nothing (8 %
#: of loading, 3 to 10 % of a plan of 100,000 files).
_COLLECT_EVERY = 10_000


def _command(words: Sequence[str]) -> str:
    """Program and verb as they were typed: their help is the one to read."""
    # Not from the error: not every one of the parser's knows where it was.
    verb = words[0] if words else ""
    return f"modelhaul {verb}" if verb in _VERBS else "modelhaul"


def _open_standard_streams() -> None:
    """Give descriptors 0 to 2 to nobody else.

    Where one was closed by the caller (`>&-`), the next file or socket would get its number: a
    part would take our messages, and the loop refuses to work with such a socket.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _take_sigterm() -> None:
    """Let SIGTERM be what Ctrl-C is, until a command keeps watch for both.

    Its default ends the process with 143, and a caller that asks for a stop during start-up has to
    get the same answer as a moment later. Who started us with it ignored meant that.
    """
    here = threading.current_thread() is threading.main_thread()
    if here and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    code: object
    gc.set_threshold(_COLLECT_EVERY, 20, 20)
    try:
        _take_sigterm()
        _open_standard_streams()
        words = normal(sys.argv[1:] if arguments is None else arguments)
        code = app(args=words, prog_name="modelhaul", standalone_mode=False)
    except TyperException as error:
        text = error.format_message()
        if text.startswith("Usage:"):
            write_line(sys.stderr, text)  # no command at all: the help is the error
        else:
            write_line(sys.stderr, f"modelhaul: {text}")
            write_line(sys.stderr, f"  try: {_command(words)} --help")
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    # Else the interpreter looks through every object once more before it goes, for 30 ms.
    gc.freeze()
    sys.exit(code if isinstance(code, int) else 0)
