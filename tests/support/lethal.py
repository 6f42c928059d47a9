"""The real command, dying at a chosen step or with locks that lie.

`live()` is for a process of its own. It wraps the system's calls and then runs the product's own
`main()`: so the product needs no hook, and what is killed is a process like any other. A step is
named for what is done and to what: `write HAVE`, `rename part`, `sync folder`.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelhaul.cli.main import main
from modelhaul.engine import large
from modelhaul.store import mounts
from modelhaul.store.index import ProvenIndex

if sys.platform != "win32":
    import fcntl

#: Names of the product's own files, and what a step calls them; the first that fits counts.
KINDS = {
    r".*\.whole\..*part": "small part",
    r".*\.copy\..*part": "copy",
    r".*\.part": "part",
    r".*\.journal": "journal",
    r".*\.update": "marker",
    r".*\.draft": "draft",
    r"\.modelhaul-probe-.*": "probe",
    r"\.modelhaul": "state folder",
}
#: What a draft becomes, by the folder of Hugging Face's cache that it is renamed into.
DRAFTS = {"snapshots": "link", "refs": "ref", "trees": "listing"}
#: First byte of a record; zeros where the file system cannot reserve room for them.
RECORDS = {0: "zeros", 1: "HAVE", 2: "VOID", 3: "SYNCED"}


@dataclass(frozen=True)
class How:
    """What is unusual about a run.

    Attributes:
        output: path for its output, without the endings `.out` and `.err`.
        root: only what is done below this folder is a step.
        point: `before|after <step> <n>`: SIGKILL before or after the n-th time of this step.
        record: a file that gets one line per step.
        locks: `lie`: every lock is granted. `unknown`: that, on an unknown kind of file system.
            `alone`: a lock keeps out this process only, nobody else; as over some networks.
        barrier: seconds between barriers, so that a short download has several.
    """

    output: str
    root: str
    point: str = ""
    record: str = ""
    locks: str = ""
    barrier: float = 0.0


class Steps:
    """Counts the steps, writes them down, and kills at the chosen one."""

    def __init__(self, how: How) -> None:
        self._root = os.path.realpath(how.root)
        self._side, _, rest = how.point.partition(" ")
        self._step, _, number = rest.rpartition(" ")
        self._number = int(number or 0)
        self._record = -1
        if how.record:
            self._record = os.open(how.record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def run(self, step: str | None, call: Callable[[], Any]) -> Any:
        """Make a call that is the given step; None: it is none."""
        if step is None:
            return call()
        with self._lock:
            self._counts[step] += 1
            here = (step, self._counts[step]) == (self._step, self._number)
            if self._record >= 0:
                os.write(self._record, f"{step}\n".encode())
        if here and self._side == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return call()
        finally:
            if here:
                os.kill(os.getpid(), signal.SIGKILL)

    def kind(self, target: object) -> str | None:
        """What a path or a descriptor leads to, in a word; None for what does not count."""
        if isinstance(target, int):
            path = os.readlink(f"/proc/self/fd/{target}").removesuffix(" (deleted)")
        else:
            path = os.path.abspath(os.fsdecode(os.fspath(target)))
        if not path.startswith(self._root + os.sep):
            return None
        name = os.path.basename(path)
        for pattern, kind in KINDS.items():
            if re.fullmatch(pattern, name):
                return kind
        return "file" if os.path.isfile(path) else "folder"


def wrap(steps: Steps) -> None:
    """Put the counting in front of every call that changes a disk."""

    def about(verb: str, target: object) -> str | None:
        kind = steps.kind(target)
        return None if kind is None else f"{verb} {kind}"

    def plain(owner: Any, name: str, verb: str) -> None:
        real = getattr(owner, name)

        def call(target: object, *args: Any, **more: Any) -> Any:
            return steps.run(about(verb, target), lambda: real(target, *args, **more))

        setattr(owner, name, call)

    for name, verb in {
        "ftruncate": "resize",
        "posix_fallocate": "allocate",
        "fdatasync": "sync",
        "fsync": "sync",
        "unlink": "remove",
        "mkdir": "make",
        "rmdir": "remove",
    }.items():
        plain(os, name, verb)
    plain(fcntl, "flock", "lock")
    _wrap_rename(steps, about)
    _wrap_link(steps, about)
    _wrap_open(steps, about)
    _wrap_write(steps, about)


def _wrap_rename(steps: Steps, about: Callable[[str, object], str | None]) -> None:
    real = os.replace

    def replace(source: Any, target: Any, **more: Any) -> None:
        step = about("rename", source)
        if step == "rename draft":
            below = os.path.relpath(target, os.path.dirname(os.path.dirname(source)))
            step = f"rename {DRAFTS.get(below.partition(os.sep)[0], 'draft')}"
        steps.run(step, lambda: real(source, target, **more))

    os.replace = replace


def _wrap_link(steps: Steps, about: Callable[[str, object], str | None]) -> None:
    real = os.symlink

    def symlink(source: Any, target: Any, *args: Any, **more: Any) -> None:
        step = about("link", target)
        steps.run(step, lambda: real(source, target, *args, **more))

    os.symlink = symlink


def _wrap_open(steps: Steps, about: Callable[[str, object], str | None]) -> None:
    real = os.open

    def open_(path: Any, flags: int, *args: Any, **more: Any) -> int:
        step = about("create", path) if flags & os.O_CREAT else None
        return steps.run(step, lambda: real(path, flags, *args, **more))

    os.open = open_


def _wrap_write(steps: Steps, about: Callable[[str, object], str | None]) -> None:
    real = os.pwrite

    def pwrite(fd: int, data: Any, offset: int) -> int:
        step = about("write", fd)
        if step == "write journal":
            what = RECORDS[bytes(data[:1])[0]] if offset else "header"
            step = f"write {what}"
        return steps.run(step, lambda: real(fd, data, offset))

    os.pwrite = pwrite


def wrap_memory(steps: Steps) -> None:
    """The memory of proven files is written by SQLite, past all wrappers: the call is the step."""
    real = ProvenIndex.remember

    def remember(self: ProvenIndex, entries: Any) -> None:
        steps.run("remember", lambda: real(self, entries))

    ProvenIndex.remember = remember


class OwnLocks:
    """Locks of which other processes know nothing."""

    def __init__(self) -> None:
        self._owners: dict[tuple[int, int], int] = {}
        self._mutex = threading.Lock()

    def flock(self, fd: int, operation: int) -> None:
        """Lock or unlock, never waiting: nothing of ours asks to wait."""
        with self._mutex:
            file = _identity(fd)
            assert file is not None
            owner = self._owners.get(file, fd)
            # A descriptor that was closed has given its lock up.
            if owner != fd and _identity(owner) == file:
                raise BlockingIOError
            if operation & fcntl.LOCK_UN:
                self._owners.pop(file, None)
            else:
                self._owners[file] = fd


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def spoil_locks(how: str) -> None:
    """Locks that succeed for everybody or for each process, on a believed file system or not."""
    fcntl.flock = OwnLocks().flock if how == "alone" else lambda fd, operation: None
    if how == "unknown":
        mounts.LOCAL = frozenset()


def live(arguments: list[str], environment: dict[str, str], folder: str, how: How) -> None:
    """Be the command line from here on, as if started in `folder`; its output goes to `how.out`."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, ending in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(how.output + ending, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if how.point or how.record:
        steps = Steps(how)
        wrap(steps)
        wrap_memory(steps)
    if how.locks:
        spoil_locks(how.locks)
    if how.barrier:
        large.BARRIER_SECONDS = how.barrier
    sys.stdout, sys.stderr = (open(number, "w") for number in (1, 2))  # noqa: SIM115
    main(arguments)
