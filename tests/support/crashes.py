"""A model of what a crash leaves: from the system calls of a real run to the disks there may be.

`Tape` notes what is done to files below a folder. A crash after any of these steps keeps all that
a sync has made durable, and of the rest any part: the model makes no use of what file systems do
beyond their promise. Two things it takes for granted, as every journalling file system gives them:
a block of 4 KiB is written or not; and a rename, of the old name and the new one together, has
happened or not, and is durable with the folder of the new name.

At each step every choice of what is lost is tried if so many steps as `every` or fewer are open
(not durable yet). Of more: none, all, each alone, all but each, and `SOME` choices by dice.
"""

from __future__ import annotations

import itertools
import os
import random
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

BLOCK = 4096
#: Open steps of which every choice is tried: at the default in seconds, at the most in a minute.
EVERY_CHOICE, MOST_CHOICES = 6, 12
#: Choices by dice where there are more.
SOME = 12


@dataclass(frozen=True, slots=True)
class Wrote:
    """Bytes of a file, within one block."""

    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Sized:
    """The length of a file; `least` never shortens it."""

    file: int
    size: int
    least: bool = False


@dataclass(frozen=True, slots=True)
class Synced:
    """Bytes and length of a file are durable."""

    file: int


@dataclass(frozen=True, slots=True)
class Named:
    """A name for a new file, or for a new folder (None)."""

    path: Path
    file: int | None


@dataclass(frozen=True, slots=True)
class Renamed:
    """A file has another name."""

    path: Path
    to: Path
    file: int


@dataclass(frozen=True, slots=True)
class Removed:
    """A name is gone."""

    path: Path


@dataclass(frozen=True, slots=True)
class FolderSynced:
    """Names in a folder are durable."""

    path: Path


@dataclass(frozen=True, slots=True)
class Promised:
    """From here on somebody relies on something."""

    what: str
    value: Any = None


Step = Wrote | Sized | Synced | Named | Renamed | Removed | FolderSynced | Promised


@dataclass(slots=True)
class Disk:
    """What a crash left.

    Attributes:
        names: the files that can be reached, by path.
        contents: their bytes.
    """

    names: dict[Path, int] = field(default_factory=dict)
    contents: dict[int, bytearray] = field(default_factory=dict)

    def read(self, path: Path) -> bytes | None:
        """The bytes of a file; None if there is none."""
        file = self.names.get(path)
        return None if file is None else bytes(self.contents.get(file, b""))

    def copy(self) -> Disk:
        """Another disk with the same on it."""
        contents = {file: bytearray(content) for file, content in self.contents.items()}
        return Disk(dict(self.names), contents)

    def take(self, step: Step) -> None:
        """Do a step."""
        match step:
            case Wrote(file, offset, data):
                content = self._long_enough(file, offset + len(data))
                content[offset : offset + len(data)] = data
            case Sized(file, size, least):
                content = self._long_enough(file, size)
                if not least:
                    del content[size:]
            case Named(path, int(file)):
                self.names[path] = file
            case Renamed(path, to, file):
                self.names.pop(path, None)
                self.names[to] = file
            case Removed(path):
                self.names.pop(path, None)

    def lose(self, folder: Path) -> None:
        """A folder is not there, nor what was in it."""
        self.names = {path: file for path, file in self.names.items() if folder not in path.parents}

    def _long_enough(self, file: int, size: int) -> bytearray:
        content = self.contents.setdefault(file, bytearray())
        if len(content) < size:
            content.extend(bytes(size - len(content)))
        return content


class Tape:
    """Notes what is done to files below a folder, in one thread.

    What is there already is durable.

    Attributes:
        steps: so far, in order.
        inodes: by file.
    """

    def __init__(self, root: Path) -> None:
        self.steps: list[Step] = []
        self.inodes: list[int] = []
        self._root = root
        self._files: dict[int, int] = {}  # by inode: numbers are used again
        for path in sorted(root.rglob("*")):
            self._found(path)

    def _found(self, path: Path) -> None:
        if path.is_dir():
            self.steps.append(Named(path, None))
        else:
            file = self._new(path.stat().st_ino)
            content = Wrote(file, 0, path.read_bytes())
            self.steps += [Named(path, file), content, Synced(file)]
        self.steps.append(FolderSynced(path.parent))

    def _new(self, inode: int) -> int:
        self._files[inode] = len(self.inodes)
        self.inodes.append(inode)
        return self._files[inode]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Listen to the system calls by which files are changed."""
        listeners: dict[str, Callable[..., None]] = {
            "pwrite": self._wrote,
            "ftruncate": self._sized,
            "posix_fallocate": lambda fd, start, size: self._sized(fd, start + size, least=True),
            "fdatasync": self._synced,
            "fsync": self._synced,
            "replace": lambda path, to: self._renamed(Path(path), Path(to)),
            "rename": lambda path, to: self._renamed(Path(path), Path(to)),
            "link": self._linked,
            "unlink": lambda path: self._note_below(Removed, Path(path)),
            "rmdir": lambda path: self._note_below(Removed, Path(path)),
            "mkdir": lambda path, mode=0: self._note_below(Named, Path(path), None),
        }
        for name, listener in listeners.items():
            monkeypatch.setattr(os, name, _tapped(getattr(os, name), listener))
        monkeypatch.setattr(os, "open", self._opening(os.open))

    def _opening(self, really: Callable[..., int]) -> Callable[..., int]:
        def act(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
            new = bool(flags & os.O_CREAT) and not os.path.lexists(path)
            fd = really(path, flags, mode, **more)
            if new and self._below(Path(path)):
                self.steps.append(Named(Path(path), self._new(os.fstat(fd).st_ino)))
            elif flags & os.O_TRUNC:
                self._sized(fd, 0)
            return fd

        return act

    def _below(self, path: Path) -> bool:
        return path.is_relative_to(self._root)

    def _note_below(self, step: Callable[..., Step], path: Path, *more: Any) -> None:
        if self._below(path):
            self.steps.append(step(path, *more))

    def _renamed(self, path: Path, to: Path) -> None:
        if self._below(to):
            self.steps.append(Renamed(path, to, self._files[to.lstat().st_ino]))

    def _linked(self, path: Any, to: Any, *, dst_dir_fd: int, **more: Any) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{dst_dir_fd}"), to)
        self._note_below(Named, name, self._files[name.lstat().st_ino])

    def _file(self, fd: int) -> int | None:
        return self._files.get(os.fstat(fd).st_ino)

    def _wrote(self, fd: int, data: memoryview, offset: int) -> None:
        file = self._file(fd)
        if file is not None:
            raw = bytes(data)
            at = 0
            while at < len(raw):
                size = BLOCK - (offset + at) % BLOCK
                self.steps.append(Wrote(file, offset + at, raw[at : at + size]))
                at += size

    def _sized(self, fd: int, size: int, *, least: bool = False) -> None:
        file = self._file(fd)
        if file is not None:
            self.steps.append(Sized(file, size, least))

    def _synced(self, fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            self._note_below(FolderSynced, Path(os.readlink(f"/proc/self/fd/{fd}")))
        elif (file := self._file(fd)) is not None:
            self.steps.append(Synced(file))


def _tapped(really: Callable[..., Any], listener: Callable[..., None]) -> Callable[..., Any]:
    def act(*args: Any, **more: Any) -> Any:
        result = really(*args, **more)
        listener(*args, **more)
        return result

    return act


@dataclass(frozen=True, slots=True)
class Crash:
    """A crash.

    Attributes:
        at: before this step.
        lost: steps that did not reach the disk.
        disk: what it left.
        promises: made before it.
        extreme: nothing was lost that could be, or all.
    """

    at: int
    lost: tuple[int, ...]
    disk: Disk
    promises: list[Promised]
    extreme: bool


def crashes(steps: list[Step], since: int = 0, *, every: int = EVERY_CHOICE) -> Iterator[Crash]:
    """Crashes before step `since` or later, at each with many choices of what is lost.

    Args:
        steps: of a run.
        since: where crashes begin.
        every: so many open steps are few enough for every choice.
    """
    for at in range(since, len(steps) + 1):
        done = steps[:at]
        open_ones = open_steps(done)
        first = open_ones[0] if open_ones else at
        base = Disk()
        for step in done[:first]:
            base.take(step)
        promises = [step for step in done if isinstance(step, Promised)]
        for lost in _choices(open_ones, every):
            disk = base.copy()
            for number in range(first, at):
                if number not in lost:
                    disk.take(done[number])
            for step in (done[number] for number in lost):
                if isinstance(step, Named) and step.file is None:
                    disk.lose(step.path)
            extreme = len(lost) in (0, len(open_ones))
            yield Crash(at, lost, disk, promises, extreme)


def open_steps(done: list[Step]) -> list[int]:
    """The steps that no later sync covers."""
    synced: set[int | Path] = set()
    found = []
    for number in reversed(range(len(done))):
        match done[number]:
            case Synced(file):
                synced.add(file)
            case FolderSynced(path):
                synced.add(path)
            case Wrote(file=file) | Sized(file=file) if file not in synced:
                found.append(number)
            case Named(path=path) | Removed(path=path) if path.parent not in synced:
                found.append(number)
            case Renamed(to=to) if to.parent not in synced:
                found.append(number)
    return found[::-1]


def _choices(open_ones: list[int], every: int) -> Iterator[tuple[int, ...]]:
    if len(open_ones) <= every:
        for count in range(len(open_ones) + 1):
            yield from itertools.combinations(open_ones, count)
        return
    yield ()
    yield tuple(open_ones)
    for one in open_ones:
        yield (one,)
        yield tuple(other for other in open_ones if other != one)
    chance = random.Random(open_ones[0])
    for _ in range(SOME):
        yield tuple(one for one in open_ones if chance.random() < 0.5)
