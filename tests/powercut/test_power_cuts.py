"""The power fails while the real engine downloads, at every moment that can matter.

A download is recorded on a disk that remembers the order of its writes and flushes, and replayed up
to a cut; what was not flushed survives in part. Then the disk is mounted, held against what the
engine had promised, and the engine runs again on it. A test that never fails proves nothing: the
same is done with mistakes planted in the engine, and each has to be found.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.mistakes import MISTAKES

pytestmark = [pytest.mark.command, pytest.mark.root]

REPOSITORY = Path(__file__).parents[2]
NAMESPACE = ("unshare", "--mount", "--propagation", "private")
#: Recordings differ in where their threads stand; a mistake that hides in one shows in another.
MOST_RECORDINGS = 4


def what_is_missing() -> str | None:
    """Why no power can be cut on this machine; None if it can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "mounting disks needs root"
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not os.access(device, os.W_OK):
            return f"there is no {device}"
    for program in ("unshare", "mount", "umount", "mkfs.ext4"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    with tempfile.TemporaryDirectory() as folder:
        # Not only a tmpfs: a container may have /dev/loop-control and no loop device.
        image, point = Path(folder) / "image", Path(folder) / "point"
        point.mkdir()
        with image.open("wb") as file:
            file.truncate(8 << 20)
        for command in (
            ["mkfs.ext4", "-q", str(image)],
            [*NAMESPACE, "mount", "-o", "loop", str(image), str(point)],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                return f"this root may not mount a disk: {done.stderr.strip()}"
    return None


@pytest.fixture(scope="module", autouse=True)
def _needs_disks() -> None:
    """Skips where no disk can be mounted."""
    if missing := what_is_missing():
        pytest.skip(missing)


def trial(folder: Path, *options: str, limit: int) -> dict[str, Any]:
    """Run one trial; returns its verdict. See `tests.powercut.trial`."""
    folder.mkdir()
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-m", "tests.powercut.trial", str(folder), *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=limit,
    )
    assert done.returncode == 0, done.stderr
    sys.stdout.write(done.stdout)  # the counts: pytest -rP shows them
    return json.loads(done.stdout)


@pytest.mark.timeout(150)
@pytest.mark.fault(
    "the power fails during a download",
    "what was made durable is there and counts, a final name has the whole file, the next run ends"
    " well and fetches nothing twice",
    number=93,
)
def test_a_power_cut_costs_nothing_that_was_durable(tmp_path: Path) -> None:
    """At each flush and after each promise, with any part of what was not flushed."""
    verdict = trial(tmp_path / "trial", "--resume", "--random", "5", limit=140)

    assert verdict["syncs"] >= 1  # or there was nothing to lose
    assert verdict["cuts"] == verdict["resumed"] >= 35
    assert verdict["bad"] == []
    assert verdict["forgotten"] == []


@pytest.mark.torture
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "options",
    [
        ("--seed", "1"),
        ("--seed", "2"),
        ("--seed", "3", "--options", "data=writeback,nodelalloc"),
        ("--seed", "4", "--options", "noauto_da_alloc", "--old"),
        ("--seed", "5", "--old"),
    ],
    ids=["first", "second", "writeback", "replacing unaided", "replacing"],
)
def test_hundreds_of_power_cuts_cost_nothing_that_was_durable(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """The same with every share of what was not flushed, and on other kinds of ext4."""
    verdict = trial(
        tmp_path / "trial", *options, "--resume", "--random", "60", "--all-kinds", limit=1490
    )

    assert verdict["syncs"] >= 1
    assert verdict["cuts"] == verdict["resumed"] >= 200
    assert verdict["bad"] == []
    assert verdict["forgotten"] == []


#: What CI looks for; the others are found by `make torture`.
_QUICK = ("no barrier before the record", "no barrier before the rename")
_UNAIDED = ("--old", "--options", "noauto_da_alloc")


@pytest.mark.timeout(450)
@pytest.mark.parametrize(
    ("mistake", "options"),
    [
        *(pytest.param(name, (), id=name) for name in _QUICK),
        *(
            pytest.param(name, (), id=name, marks=pytest.mark.torture)
            for name in MISTAKES
            if name not in _QUICK
        ),
        # ext4 helps who replaces a file without a sync, unless it is told not to.
        *(
            pytest.param(name, _UNAIDED, id=f"{name}, replacing", marks=pytest.mark.torture)
            for name in ("no barrier before the rename", "rename before the barrier")
        ),
    ],
)
def test_a_mistake_in_the_order_is_found(
    tmp_path: Path, mistake: str, options: tuple[str, ...]
) -> None:
    """Without this the tests above would only show that ext4 is good at hiding mistakes."""
    for seed in range(MOST_RECORDINGS):
        verdict = trial(
            tmp_path / f"trial{seed}",
            *("--first", "--random", "20", "--seed", str(seed), "--mistake", mistake),
            *options,
            limit=110,
        )
        if verdict["bad"]:
            return

    pytest.fail(f"{MOST_RECORDINGS} recordings, and nobody noticed: {mistake}")
