"""Fixtures for tests that need more than a folder: small disks, system calls made visible."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.store.helpers import STRACE


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts file systems of a few KiB in memory: `tiny_disk(kib=256, read_only=False)`."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    mounted: list[Path] = []

    def mount(*, kib: int = 256, read_only: bool = False) -> Path:
        point = tmp_path / f"disk{len(mounted)}"
        point.mkdir()
        options = f"size={kib}k" + (",ro" if read_only else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"this root may not mount: {done.stderr.strip()}")
        mounted.append(point)
        return point

    yield mount
    for point in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(point)], check=True)


@pytest.fixture
def needs_strace() -> None:
    """Skips where system calls cannot be watched."""
    if STRACE is None:
        pytest.skip("strace is not installed")
    done = subprocess.run([STRACE, "-e", "trace=none", "true"], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"strace may not watch here: {done.stderr.strip()}")
