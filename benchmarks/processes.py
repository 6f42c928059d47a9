"""Starting programs: clients that are measured, and helpers that are ended again.

What a newcomer gets wrong: Linux hands the parent's peak memory down to a spawned child's
`ru_maxrss`. So this process must stay small; everything large is made and hashed in pieces.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process took: exit code, wall and CPU seconds (user + system), peak MiB."""

    code: int
    wall: float
    cpu: float
    peak: float


def measure(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path, timeout: float
) -> Usage:
    """Run a command to its exit; its stdout goes to `log`, its stderr to `log` + `.err`.

    It is killed after `timeout` seconds; the exit code is negative then.
    """
    create = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), create, 0o644),
        (os.POSIX_SPAWN_OPEN, 2, f"{log}.err", create, 0o644),
    ]
    began = time.monotonic()
    pid = os.posix_spawn(command[0], command, environment, file_actions=actions, setpgroup=0)
    try:
        timer = threading.Timer(timeout, _kill_group, [pid])
        timer.start()
        _, status, used = os.wait4(pid, 0)
        wall = time.monotonic() - began
    except BaseException:
        _kill_group(pid)
        raise
    finally:
        timer.cancel()
    return Usage(
        os.waitstatus_to_exitcode(status),
        wall,
        used.ru_utime + used.ru_stime,
        used.ru_maxrss / 1024,
    )


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


@contextmanager
def helper(
    module: str, *arguments: object, prefix: Sequence[str] = (), log: Path
) -> Iterator[Helper]:
    """A module of this package as a process of its own, ready once it has printed one line."""
    command = [*prefix, sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode().strip()
        if not line:
            raise RuntimeError(f"{module} did not start:\n{tail(log)}")
        yield Helper(line, process)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


@dataclass(frozen=True, slots=True)
class Helper:
    """A running helper and the line it printed when it was ready."""

    line: str
    process: subprocess.Popen[bytes]

    def end(self) -> str:
        """End it; returns what else it has printed."""
        self.process.terminate()
        assert self.process.stdout is not None
        rest = self.process.stdout.read().decode()
        self.process.wait(5)
        return rest


def die_with_parent() -> None:
    """Called by helpers: whatever ends the benchmark ends them too. Survives `exec`."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:
        sys.exit("the parent is gone already")


def tail(log: Path, lines: int = 8) -> str:
    """The last lines of a log, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
