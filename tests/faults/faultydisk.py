"""A disk that fails by script: stands where `modelhaul.store` calls the operating system.

Everything it does not spoil is really done, so what lies in the folder afterwards is what a
process would have left. It also keeps the book that the kernel keeps: which bytes of a part were
written, and which of them a good sync has vouched for since.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from modelhaul.core.span import Span, SpanSet
from modelhaul.store import journalfile, osfile, sink


@dataclass(frozen=True, slots=True)
class Failing:
    """Which calls fail, and how.

    Attributes:
        call: name of the function of `os`.
        name: shell pattern of the file's name; folders have a slash at the end.
        number: the error.
        after: such calls that succeed before.
        times: such calls that fail then, None for all.
    """

    call: str
    name: str
    number: int
    after: int = 0
    times: int | None = None


class FaultyDisk:
    """Implements what `modelhaul.store` uses of the module `os`.

    Attributes:
        failing: the script; may be changed while it is used.
        most: bytes that one write takes at most; None for no limit.
        nth: counted over all calls from 0, the one that fails; None for none.
        calls: how many calls there were.
        met: how often each call was made, by name and ending of the file's name.
        failed: calls that were made to fail.
        written: bytes of parts that were written, by the part's name.
        durable: those of them that a good sync has covered.
        bad: bytes of parts that cannot be read until they are written anew.
    """

    def __init__(self, *failing: Failing, most: int | None = None) -> None:
        self.failing = list(failing)
        self.most = most
        self.nth: int | None = None
        self.calls = 0
        self.met: Counter[tuple[str, str]] = Counter()
        self.failed: list[str] = []
        self.written: dict[str, SpanSet] = {}
        self.durable: dict[str, SpanSet] = {}
        self.bad = SpanSet()
        self._passed: Counter[Failing] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
        """Put it where the store's modules find the system."""
        for module in (osfile, sink, journalfile):
            monkeypatch.setattr(module, "os", self)
        return self

    def install_below(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
        """Be met by what changes names below `root` through `pathlib`, and by locks, too.

        Looks at names (stat, listing a folder) are not met.
        """
        self.install(monkeypatch)
        for name in ("mkdir", "unlink", "rmdir", "link", "symlink"):
            monkeypatch.setattr(os, name, self._met_by(name, getattr(os, name), root))
        monkeypatch.setattr(osfile, "fcntl", _Locks(self))
        return self

    def _met_by(self, name: str, really: Callable[..., Any], root: Path) -> Callable[..., Any]:
        def call(path: Any = ".", *args: Any, **more: Any) -> Any:
            if isinstance(path, str | Path) and Path(path).is_relative_to(root):
                self._meet(name, path)
            return really(path, *args, **more)

        return call

    def _meet(self, call: str, path: str | Path) -> None:
        name = os.path.basename(path) + ("/" if _is_folder(path) else "")
        self.met[call, os.path.splitext(name)[1] or name] += 1
        self.calls += 1
        if self.calls - 1 == self.nth:
            self.failed.append(f"{call} {name}")
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        for failing in self.failing:
            if failing.call != call or not fnmatchcase(name, failing.name):
                continue
            self._passed[failing] += 1
            at = self._passed[failing] - failing.after
            if at > 0 and (failing.times is None or at <= failing.times):
                self.failed.append(f"{call} {name}")
                raise OSError(failing.number, os.strerror(failing.number))

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        """Write, perhaps less than asked for."""
        path = _path(fd)
        self._meet("pwrite", path)
        count = os.pwrite(fd, memoryview(data)[: self.most], offset)
        if path.endswith(".part"):
            span = Span(offset, offset + count)
            self.written.setdefault(os.path.basename(path), SpanSet()).add(span)
            self.bad.remove(span)
        return count

    def preadv(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        """Read."""
        path = _path(fd)
        self._meet("preadv", path)
        if path.endswith(".part") and self.bad.overlaps(Span(offset, offset + len(buffers[0]))):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.preadv(fd, buffers, offset)

    def fdatasync(self, fd: int) -> None:
        """Make bytes durable."""
        path = _path(fd)
        self._meet("fdatasync", path)
        os.fdatasync(fd)
        name = os.path.basename(path)
        if name in self.written:
            self.durable[name] = self.written[name].copy()

    def fsync(self, fd: int) -> None:
        """Make names durable."""
        self._meet("fsync", _path(fd))
        os.fsync(fd)

    def posix_fallocate(self, fd: int, start: int, size: int) -> None:
        """Reserve blocks."""
        self._meet("posix_fallocate", _path(fd))
        os.posix_fallocate(fd, start, size)

    def ftruncate(self, fd: int, size: int) -> None:
        """Set a length."""
        self._meet("ftruncate", _path(fd))
        os.ftruncate(fd, size)

    def replace(self, source: Path, target: Path) -> None:
        """Rename."""
        self._meet("replace", source)
        os.replace(source, target)

    def link(self, source: str | Path, target: str | Path, **where: Any) -> None:
        """Give a second name."""
        self._meet("link", target)
        os.link(source, target, **where)

    def close(self, fd: int) -> None:
        """Close; a network file system reports only now what it could not write."""
        path = _path(fd)
        os.close(fd)
        self._meet("close", path)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        """Open."""
        self._meet("open", path)
        return os.open(path, flags, mode)


class _Locks:
    """Implements what `modelhaul.store.osfile` uses of the module `fcntl`."""

    def __init__(self, disk: FaultyDisk) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(fcntl, name)

    def flock(self, fd: int, operation: int) -> None:
        """Lock."""
        self._disk._meet("flock", _path(fd))
        fcntl.flock(fd, operation)


_really_stat = os.stat


def _is_folder(path: str | Path) -> bool:
    try:
        return stat.S_ISDIR(_really_stat(path).st_mode)
    except OSError:
        return False


def _path(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


FULL, QUOTA, BROKEN, READ_ONLY = errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS
