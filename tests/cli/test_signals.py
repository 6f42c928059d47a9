"""Signals before there is anything to stop: each in a process of its own, for they may kill it."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.command

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])


def python(code: str, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Run a program that sends itself the signal by `strike()`."""
    head = f"""
    import os
    import time

    def strike():
        os.kill(os.getpid(), {int(number)})
        time.sleep(0.05)  # long enough for a signal that kills

    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=30,
    )


@BOTH
def test_a_signal_in_the_first_step_of_a_command_stops_it(number: signal.Signals) -> None:
    """Imports and look-ups on the disk come before the first await; the watch is kept by then."""
    code = """
    import sys
    import anyio
    from modelhaul.cli.output import View
    from modelhaul.cli.session import run

    async def main():
        strike()
        await anyio.sleep(10)
        return 0

    sys.exit(run(main, View()))
    """

    done = python(code, number)

    assert done.returncode == 130
    said = "stopping; what arrived is kept, the same command goes on where it stopped"
    assert done.stderr == f"modelhaul: {said}\n"


@BOTH
def test_a_signal_before_there_is_a_loop_ends_the_command(number: signal.Signals) -> None:
    """While the words are read: nothing to keep, nothing to say, and the same exit code."""
    code = """
    from modelhaul.cli.main import main

    class Words(list):
        def __iter__(self):
            strike()
            return super().__iter__()

    main(Words(["--version"]))
    """

    done = python(code, number)

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """Who started us with SIGTERM ignored meant it."""
    code = """
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    from modelhaul.cli.main import main

    class Words(list):
        def __iter__(self):
            strike()
            return super().__iter__()

    main(Words(["--version"]))
    """

    done = python(code, signal.SIGTERM)

    assert done.returncode == 0
