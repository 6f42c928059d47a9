"""A fault, what is promised, and the ways to run the command under it."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable, Container, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modelhaul.cli.main import app
from modelhaul.cli.spelling import normal
from tests.faults.switchboard import Wrong
from tests.support.world import World

#: A number, or numbers, of a fault in the list that docs/reliability.md speaks of.
Numbers = int | tuple[int, ...] | None
Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]

RIGHT_BYTES = "the right bytes, exit 0"


@dataclass(frozen=True, slots=True)
class Case:
    """A fault and its promise.

    Attributes:
        name: what goes wrong: for people, for the test's id and for the table.
        wrong: the script.
        code: the exit code; 0 promises the right bytes.
        says: what the error has to say.
        number: of the fault in the list.
    """

    name: str
    wrong: Wrong
    code: int = 0
    says: str = ""
    number: Numbers = None

    @property
    def promise(self) -> str:
        """What is promised, in words."""
        if self.code == 0:
            return RIGHT_BYTES
        return f'exit {self.code}, "{self.says}", nothing under the name'


def params(cases: Iterable[Case], *, of: str = "", installed: Container[str] = ()) -> list[Any]:
    """Parameters `run` and `case` of a test, each with its row for the table.

    In this process by default; by the installed command for `make torture`.

    Args:
        cases: what goes wrong.
        of: put before the name of each, in the table.
        installed: names of those that the installed command is always run for.
    """
    found = []
    for case in cases:
        row = pytest.mark.fault(f"{of}{case.name}", case.promise, number=case.number)
        heavy = () if case.name in installed else (pytest.mark.torture,)
        found += [
            pytest.param(here, case, id=case.name, marks=row),
            pytest.param(
                process,
                case,
                id=f"{case.name}-installed",
                marks=[row, pytest.mark.command, *heavy],
            ),
        ]
    return found


def here(world: World, *arguments: str | Path) -> Done:
    """Run `modelhaul` in this process: a tenth of what a process of its own costs.

    The command line, the loop and the signals are the real ones; only the interpreter is ours.
    """
    out, err = io.StringIO(), io.StringIO()
    words = [str(argument) for argument in arguments]
    environment = world.environment  # before ours is gone: it takes PATH from there
    with pytest.MonkeyPatch.context() as user:
        for name in [name for name in os.environ if not name.startswith("PYTEST")]:
            user.delenv(name)
        for name, value in environment.items():
            user.setenv(name, value)
        user.chdir(world.work)
        with redirect_stdout(out), redirect_stderr(err):
            code = app(args=normal(words), prog_name="modelhaul", standalone_mode=False)
    return Done(words, code, out.getvalue(), err.getvalue())


def process(world: World, *arguments: str | Path) -> Done:
    """Run `modelhaul` as it was installed."""
    return world.run(*arguments, timeout=90)
