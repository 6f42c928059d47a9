"""Disks that are mounted for a test, as root; the test is skipped where that may not be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


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
def mounted(image: Path, point: Path) -> Iterator[None]:
    """An image of a file system, mounted while the block runs; gone for good behind it."""
    mount("-o", "loop,errors=continue", str(image), str(point))
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
