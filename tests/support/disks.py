"""Disks that are mounted for a test, as root; the test is skipped where that may not be."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from modelhaul.store import osfile


def mount(*words: str) -> None:
    """Run `mount` with these words."""
    if os.geteuid() != 0:
        pytest.skip("mounting a disk needs root")
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"this root may not mount: {done.stderr.strip()}")


def unmount(point: Path) -> None:
    """Lazily: the loop device of an image may take a moment to let go."""
    subprocess.run(["umount", "--lazy", str(point)], check=True)


@contextmanager
def mounted(image: Path, point: Path, options: str = "loop,errors=continue") -> Iterator[None]:
    """An image of a file system, mounted while the block runs; gone for good behind it."""
    mount("-o", options, str(image), str(point))
    try:
        yield
    finally:
        subprocess.run(["umount", str(point)], check=True)


class SmallDisk:
    """A file system in memory."""

    def __init__(self, point: Path) -> None:
        self.point = point

    def mount(self, options: str) -> None:
        """Mount it, or change its options."""
        kind = "remount," if os.path.ismount(self.point) else ""
        mount("-t", "tmpfs", "-o", kind + options, "tmpfs", str(self.point))

    @property
    def free(self) -> int:
        """Bytes that may still be written."""
        status = os.statvfs(self.point)
        return status.f_bavail * status.f_frsize

    def leave(self, room: int) -> None:
        """Have a file of somebody else's that leaves `room` bytes free."""
        other = self.point / "other"
        other.unlink(missing_ok=True)
        with other.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.free - room)


@contextmanager
def small_disk_at(point: Path) -> Iterator[SmallDisk]:
    """A small disk that nothing is mounted on yet; nothing is behind the block."""
    if os.geteuid() != 0:
        pytest.skip("mounting a disk needs root")
    point.mkdir()
    try:
        yield SmallDisk(point)
    finally:
        if os.path.ismount(point):
            unmount(point)


class SharingDisk:
    """Stands where `modelhaul.store` calls `fcntl`: a disk whose files can share blocks.

    That the blocks are copied is seen by nobody but the disk.

    Attributes:
        shared: how often that was asked for.
    """

    def __init__(self) -> None:
        self.shared = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(fcntl, name)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> SharingDisk:
        """Put it where the store finds the system."""
        monkeypatch.setattr(osfile, "fcntl", self)
        return self

    def ioctl(self, fd: int, request: int, source: int) -> int:
        """FICLONE, the only one that is used."""
        assert request == 0x40049409
        self.shared += 1
        size = os.fstat(source).st_size
        os.ftruncate(fd, size)
        os.pwrite(fd, os.pread(source, size, 0), 0)
        return 0
