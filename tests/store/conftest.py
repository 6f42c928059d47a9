"""Fixtures for tests that need more than a folder: small disks, system calls made visible."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.store.helpers import STRACE
from tests.support import disks


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mounts file systems until the test ends: `mount("tmpfs", folder, options="size=64k")`."""
    mounted: list[Path] = []

    def act(kind: str, point: Path, *, options: str = "rw", device: Path | None = None) -> None:
        disks.mount("-t", kind, "-o", options, str(device or kind), str(point))
        mounted.append(point)

    yield act
    for point in reversed(mounted):
        disks.unmount(point)


@pytest.fixture
def tiny_disk(tmp_path: Path, mount: Callable[..., None]) -> Callable[..., Path]:
    """Makes file systems of a few KiB in memory: `tiny_disk(kib=256, read_only=False)`."""
    numbers = itertools.count()

    def make(*, kib: int = 256, read_only: bool = False) -> Path:
        point = tmp_path / f"disk{next(numbers)}"
        point.mkdir()
        mount("tmpfs", point, options=f"size={kib}k" + (",ro" if read_only else ""))
        return point

    return make


@pytest.fixture(scope="session")
def needs_strace() -> None:
    """Skips where system calls cannot be watched."""
    if STRACE is None:
        pytest.skip("strace is not installed")
    done = subprocess.run([STRACE, "-e", "trace=none", "true"], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"strace may not watch here: {done.stderr.strip()}")
