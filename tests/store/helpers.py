"""What the tests of the disk layer share. Imports no pytest: second processes import it too."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from modelhaul.core.journal import Have
from modelhaul.core.span import Span, SpanSet
from modelhaul.store.claim import Claim, Wanted, claim, part_name

REPOSITORY = Path(__file__).parents[2]
STRACE = shutil.which("strace")

CHUNK = 100
SIZE = 1000
DATA = random.Random(1).randbytes(SIZE)
WANTED = Wanted(
    identity=f"sha256:{hashlib.sha256(DATA).hexdigest()}",
    size=SIZE,
    label="acme/tiny: model.bin",
    chunk=CHUNK,
)
STEM = part_name(WANTED.identity, WANTED.size)


# -- work on a claim -----------------------------------------------------------------------------


def spans(*pairs: tuple[int, int]) -> SpanSet:
    """The set of some `[start, stop)`."""
    return SpanSet(Span(start, stop) for start, stop in pairs)


def have(start: int, stop: int, data: bytes = DATA) -> Have:
    """The record of a run with the right bytes."""
    return Have(Span(start, stop), crc32(data[start:stop]), 7)


def put(mine: Claim, start: int, stop: int) -> None:
    """Write and record the right bytes of one run."""
    mine.part.write_at(DATA[start:stop], start)
    mine.journal.append([have(start, stop)])


def vouch(mine: Claim) -> None:
    """Make what was put durable, and say so."""
    count = mine.journal.used
    mine.part.barrier()
    mine.journal.synced(count)


def claimed(folder: Path, wanted: Wanted = WANTED, *, locks: bool = True, token: str = "") -> Claim:
    """A claim that must succeed."""
    mine = claim(folder, wanted, locks=locks, token=token)
    assert mine is not None
    return mine


def damage(path: Path, offset: int) -> None:
    """Change one byte in place: inode and size stay."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def descriptors() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


# -- second processes ----------------------------------------------------------------------------

_PRELUDE = """
import os, sys
from pathlib import Path

def pause(text="ready"):
    print(text, flush=True)
    sys.stdin.readline()

"""


class Second:
    """A running second process: it speaks in lines and waits in `pause()`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def id(self) -> int:
        """Its process id."""
        return self._process.pid

    def line(self) -> str:
        """Wait for the next line it prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the second process ended early"
        return line.rstrip("\n")

    def go(self) -> None:
        """Let it go on after a `pause()`."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._process.kill()
        self._process.wait()

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        return self._process.wait()


@contextlib.contextmanager
def second_process(code: str, *args: object, under: tuple[str, ...] = ()) -> Iterator[Second]:
    """Run Python code beside us; it may call `pause()` and is killed at the end.

    Args:
        code: the program.
        args: become `sys.argv[1:]`.
        under: a command that runs it, with its arguments.
    """
    command = [*under, *_python(code, args)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        try:
            yield Second(process)
        finally:
            process.kill()


def run_python(code: str, *args: object, env: dict[str, str] | None = None) -> str:
    """Run Python code to its end in a process of its own; returns what it printed."""
    done = subprocess.run(
        _python(code, args), capture_output=True, text=True, cwd=REPOSITORY, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _python(code: str, args: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-c", _PRELUDE + textwrap.dedent(code), *map(str, args)]


# -- system calls --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traced:
    """What a traced program did.

    Attributes:
        exit_code: -9 if it was killed.
        steps: its system calls on files in the folder, such as `fdatasync x.part` or
            `rename x.part model.bin`.
        points: for each step the system call's name and how often it had been called by then.
    """

    exit_code: int
    steps: list[str]
    points: list[tuple[str, int]]


def trace(code: str, folder: Path, *, calls: str, kill: tuple[str, int] | None = None) -> Traced:
    """Run Python code under strace.

    Args:
        code: the program; `sys.argv[1]` is the folder.
        folder: only calls on files in it are returned.
        calls: names of the system calls, with commas.
        kill: SIGKILL it at this point: the name of a system call and which of them.
    """
    assert STRACE is not None
    log = folder.parent / f"{folder.name}.strace"
    command = [STRACE, "-f", "-y", "-s", "0", "-o", str(log), "-e", f"trace={calls}"]
    if kill is None:
        command += ["--seccomp-bpf"]  # much faster; but signals cannot be injected with it
    else:
        command += ["-e", f"inject={kill[0]}:signal=KILL:when={kill[1]}"]
    done = subprocess.run(
        command + _python(code, (folder,)), capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode in (0, -9), done.stderr
    return _traced(done.returncode, log.read_text(), folder)


def _traced(exit_code: int, log: str, folder: Path) -> Traced:
    steps, points = [], []
    counts: Counter[str] = Counter()
    for line in log.splitlines():
        match = re.match(r"(?:\d+ +)?(\w+)\((.*)", line)
        if match is None:
            continue
        name = match[1]
        counts[name] += 1
        if str(folder) in line:
            paths = [one or other for one, other in re.findall(r'<(/[^>]*)>|"(/[^"]*)"', match[2])]
            steps.append(" ".join([name, *(Path(path).name for path in paths)]))
            points.append((name, counts[name]))
    return Traced(exit_code, steps, points)
