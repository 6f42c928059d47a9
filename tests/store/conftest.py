"""Fixtures for tests that need more than a folder: small disks, system calls made visible."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.store.helpers import STRACE


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mounts file systems until the test ends: `mount("tmpfs", folder, options="size=64k")`."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    mounted: list[Path] = []

    def act(kind: str, point: Path, *, options: str = "rw", device: Path | None = None) -> None:
        command = ["mount", "-t", kind, "-o", options, str(device or kind), str(point)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"this root may not mount: {done.stderr.strip()}")
        mounted.append(point)

    yield act
    for point in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(point)], check=True)


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
