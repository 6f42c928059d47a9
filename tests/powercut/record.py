"""A download on a disk that remembers: the recording that all cuts are made from. Needs root."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.powercut.disk import READY, WRITE, Event, read_log

MIB = 1 << 20
#: The engine wants 16 MiB to spare.
DISK_SIZE = 32 * MIB
MODEL = "model.safetensors"
#: What the hub has. Small files go another way: no journal, published in a batch.
FILES = {
    MODEL: random.Random(1).randbytes(4 * MIB + 12_345),
    "config.json": b'{"model_type": "tiny"}\n',
    "sub/tokenizer.json": random.Random(2).randbytes(70_000),
}
#: What may stand under the final name before the download.
OLD = random.Random(3).randbytes(3 * MIB)
TARGET = "target"
#: Seconds that any one program may take.
PATIENCE = 50


@dataclass(frozen=True, slots=True)
class Kind:
    """What a recording is of.

    Attributes:
        options: of the mount.
        old: another file stands under the final name already.
        mistake: what is planted in the engine, if anything.
    """

    options: str = "rw"
    old: bool = False
    mistake: str = ""


@dataclass(frozen=True, slots=True)
class Recording:
    """A disk before, and all that happened to it."""

    base: bytes
    events: list[Event]


def record(folder: Path, hub: str, kind: Kind) -> Recording:
    """Download on a fresh disk.

    Args:
        folder: empty, in memory.
        hub: address of the hub that has `FILES`.
        kind: how.
    """
    image, log = folder / "image", folder / "log"
    fuse, disk = folder / "fuse", folder / "disk"
    for made in (fuse, disk):
        made.mkdir()
    make_disk(image)
    if kind.old:
        with mounted(image, disk):
            (disk / TARGET).mkdir()
            (disk / TARGET / MODEL).write_bytes(OLD)
    base = image.read_bytes()
    with serving(fuse, image, log), mounted(fuse / "disk", disk, kind.options):
        download(hub, disk / TARGET, folder / "state", fuse / "mark", kind)
    events = list(read_log(log))
    replayed = bytearray(base)
    for event in events:
        if event.kind == WRITE:
            replayed[event.offset : event.offset + len(event.data)] = event.data
    if replayed != image.read_bytes():
        raise RuntimeError("the log does not account for what is on the disk")
    return Recording(base, events)


def download(hub: str, target: Path, state: Path, marks: Path, kind: Kind) -> None:
    """Run the real engine in a process of its own."""
    command = [sys.executable, "-m", "tests.powercut.writer", "--hub", hub]
    command += ["--target", str(target), "--state", str(state), "--marks", str(marks)]
    if kind.mistake:
        command += ["--mistake", kind.mistake]
    if kind.old:
        command += ["--force"]
    run(*command)


def make_disk(image: Path) -> None:
    """An empty ext4 that does all its work at once, so that nothing is initialised later."""
    with image.open("wb") as file:
        file.truncate(DISK_SIZE)
    options = "-q -F -b 4096 -N 128 -J size=4 -E nodiscard,lazy_itable_init=0,lazy_journal_init=0"
    run("mkfs.ext4", *options.split(), str(image))


def write_disk(image: Path, content: bytearray) -> None:
    """Make an image of these bytes; a disk is mostly zeros, and those cost nothing."""
    step, zeros = 1 << 16, bytes(1 << 16)
    with image.open("wb", buffering=0) as file:
        file.truncate(len(content))
        for at in range(0, len(content), step):
            block = content[at : at + step]
            if block != zeros:
                os.pwrite(file.fileno(), block, at)


@contextlib.contextmanager
def mounted(image: Path, point: Path, options: str = "rw") -> Iterator[None]:
    """Mount an image through a loop device, which goes with the mount."""
    run("mount", "-t", "ext4", "-o", f"loop,{options}", str(image), str(point))
    try:
        yield
    finally:
        run("umount", str(point))


@contextlib.contextmanager
def serving(point: Path, image: Path, log: Path) -> Iterator[None]:
    """Serve an image as `point/disk`. The log is whole afterwards."""
    command = [sys.executable, "-m", "tests.powercut.disk", str(point), str(image), str(log)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            if server.stdout.readline() != READY:
                raise RuntimeError("the disk did not start")
            yield
            # Lazily: the kernel may take a moment to give up the loop device.
            run("umount", "--lazy", str(point))
            server.wait(PATIENCE)
        finally:
            # Dead or not: with its descriptor the connection ends, and nobody waits for it.
            server.kill()


def run(*command: str) -> None:
    """Run a program to its end.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed ({done.returncode}): {done.stderr or done.stdout}")
