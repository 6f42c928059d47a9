"""Real file systems that are full, read-only, or fail to sync, and the real command."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from modelhaul.core.span import Span, SpanSet
from modelhaul.core.units import size_text
from modelhaul.server.body import parse_range
from tests.engine.harness import payload
from tests.faults.onefile import DATA, DOUBT, MIB, NAME, SIZE, STOPS, recorded, without
from tests.faults.runs import content_of
from tests.support.disks import SmallDisk, mounted, small_disk_at
from tests.support.world import World, machine, tree


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A small disk that nothing is mounted on yet."""
    with small_disk_at(tmp_path / "small") as disk:
        yield disk


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fresh machine and a hub with one large file."""
    with machine(tmp_path) as world:
        world.put("acme/one", {NAME: DATA})
        yield world


def take_asked(world: World) -> SpanSet:
    """Bytes of the file that the hub's store was asked for since the last time."""
    spans = [
        parse_range(seen.headers.get("Range"), SIZE) or Span(0, SIZE)
        for seen in world.hub.seen
        if seen.server == "cdn"
    ]
    world.hub.seen.clear()
    return SpanSet(spans)


#: What a run leaves to others (`usecases/run.py`).
SPARE = 16 * MIB


@pytest.mark.command
@pytest.mark.fault("others fill the disk during a download", STOPS, number=(76, 77))
@pytest.mark.root
def test_a_disk_that_fills_up_is_an_error_and_space_is_all_the_next_run_needs(
    world: World, small_disk: SmallDisk
) -> None:
    """Exit 9; too little space is then refused with both numbers, what is there being counted."""
    small_disk.mount("size=48m")
    target = small_disk.point / "m"

    def fill(request: web.Request) -> None:
        if request.path.startswith("/blob/"):
            small_disk.leave(6 * MIB)
            world.hub.fault = lambda request: None

    world.hub.fault = fill

    full = world.run("download", "acme/one", "--local-dir", target)
    had = recorded(small_disk.point)
    take_asked(world)
    small_disk.leave(SPARE + SIZE - had.total - MIB)
    refused = world.run("download", "acme/one", "--local-dir", target)
    asked_in_vain = take_asked(world)
    small_disk.leave(SPARE + SIZE - had.total + MIB)
    again = world.run("download", "acme/one", "--local-dir", target)

    assert [full.returncode, refused.returncode, again.returncode] == [9, 9, 0], again.stderr
    assert "no space left: writing" in full.stderr
    assert "make room and run the same command again" in full.stderr
    assert "Traceback" not in full.stderr
    assert full.stdout == refused.stdout == ""
    assert 5 * MIB < had.total <= 6 * MIB
    assert "not enough room" in refused.stderr
    assert f"{size_text(SIZE - had.total)} needed, " in refused.stderr
    assert " MB free; nothing was fetched" in refused.stderr
    assert not asked_in_vain
    assert take_asked(world) == without(had)
    assert tree(target) == {NAME: DATA}


@pytest.mark.command
@pytest.mark.fault("no room for what another repository's cache has already",
                   "what can get a second name is brought all the same, and what cannot is refused",
                   number=76)  # fmt: skip
@pytest.mark.usefixtures("usual_umask")
@pytest.mark.root
def test_what_only_gets_a_second_name_needs_no_room(world: World, small_disk: SmallDisk) -> None:
    """Where a copy would not fit: exit 9 if it had to be one, and else not."""
    small_disk.mount("size=40m")
    cache = small_disk.point / "hub"
    world.extra.update(HF_ENDPOINT=world.hub.url, HF_HUB_CACHE=str(cache))
    world.put("acme/two", {NAME: DATA})

    first = world.run("download", "hf:acme/one")
    (blob,) = cache.glob("*/blobs/*")
    small_disk.leave(SPARE + MIB)
    blob.chmod(0o664)
    refused = world.run("download", "hf:acme/two")
    blob.chmod(0o644)
    second = world.run("download", "hf:acme/two")

    codes = [done.returncode for done in (first, refused, second)]
    assert codes == [0, 9, 0], first.stderr + second.stderr
    assert "not enough room" in refused.stderr
    names = list(cache.glob("*/blobs/*"))
    assert len(names) == 2
    assert names[0].samefile(names[1])


@pytest.mark.command
@pytest.mark.fault("the inodes of the disk are used up", STOPS, number=94)
@pytest.mark.root
def test_a_disk_without_inodes_keeps_whole_files_and_goes_on_later(
    world: World, small_disk: SmallDisk
) -> None:
    """Many small files: those that are there are whole, the others come when there is room."""
    files = {f"{number:02}.txt": payload(500, number) for number in range(40)}
    world.put("acme/many", files)
    small_disk.mount("size=48m,nr_inodes=24")
    target = small_disk.point / "m"

    full = world.run("download", "acme/many", "--local-dir", target)
    there = content_of(target, files)
    small_disk.mount("size=48m,nr_inodes=200")
    again = world.run("download", "acme/many", "--local-dir", target)

    assert [full.returncode, again.returncode] == [9, 0], again.stderr
    assert "no space left: " in full.stderr
    assert "Traceback" not in full.stderr
    assert there.items() <= files.items()
    assert len(there) < len(files)
    assert tree(target) == files


@pytest.mark.command
@pytest.mark.fault("the target is read-only", "an error at once, nothing is fetched", number=82)
@pytest.mark.parametrize("there", [True, False], ids=["folder is there", "folder is new"])
@pytest.mark.root
def test_a_read_only_disk_is_no_reason_to_fetch(
    world: World, small_disk: SmallDisk, there: bool
) -> None:
    """Exit 9, and who may write there is the hint."""
    small_disk.mount("size=48m")
    if there:
        (small_disk.point / "m").mkdir()
    small_disk.mount("size=48m,ro")

    done = world.run("download", "acme/one", "--local-dir", small_disk.point / "m")

    assert done.returncode == 9
    assert "Read-only file system: " in done.stderr
    assert "check who may write there" in done.stderr
    assert "Traceback" not in done.stderr
    assert world.hub.files_asked() == []


@pytest.mark.command
@pytest.mark.fault("files may not be as large as the model (ulimit -f, FAT)",
                   "an error that says so, nothing is fetched", number=79)  # fmt: skip
def test_a_limit_on_the_size_of_files_shows_before_the_first_byte(world: World) -> None:
    """The part gets its length when it is made; the next run, without the limit, succeeds."""
    limited = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -f 2048; exec "$@"', "sh",
         *world.command("download", "acme/one", "--local-dir", "m")],
        env=world.environment, cwd=world.work, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    asked_for = world.hub.files_asked()
    again = world.run("download", "acme/one", "--local-dir", "m")

    assert [limited.returncode, again.returncode] == [9, 0], limited.stderr
    assert "file too large for this file system" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert asked_for == []
    assert tree(world.work / "m") == {NAME: DATA}


@pytest.mark.command
@pytest.mark.fault("an unusual umask", "files and folders have the permissions it asks for",
                   number=95)  # fmt: skip
def test_permissions_are_those_of_the_umask(world: World) -> None:
    """Of large, small and copied files, whatever their parts had."""
    world.put("acme/one", {"sub/small.txt": b"small", "sub/copy.bin": DATA})

    done = subprocess.run(
        world.command("download", "acme/one", "--local-dir", "m"),
        env=world.environment, cwd=world.work, capture_output=True, text=True, timeout=60,
        umask=0o027,
    )  # fmt: skip

    modes = {
        str(path.relative_to(world.work)): oct(path.stat().st_mode & 0o777)
        for path in world.work.rglob("*")
    }
    assert done.returncode == 0, done.stderr
    assert modes == {
        "m": "0o750", "m/sub": "0o750", f"m/{NAME}": "0o640",
        "m/sub/small.txt": "0o640", "m/sub/copy.bin": "0o640",
    }  # fmt: skip


@pytest.mark.command
@pytest.mark.fault("a thin disk has promised more than it has: a sync fails, pages are dropped",
                   DOUBT, number=(77, 80))  # fmt: skip
@pytest.mark.root
def test_a_real_sync_error_loses_nothing_but_what_it_covered(
    world: World, small_disk: SmallDisk
) -> None:
    """ext4 in an image on a full disk: writing works, syncing does not, and the bytes are gone."""
    for program in ("mkfs.ext4", "e2fsck"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    small_disk.mount("size=16m")
    image, point = small_disk.point / "image", world.work / "thin"
    point.mkdir()
    image.touch()
    os.truncate(image, 64 * MIB)
    make = ["mkfs.ext4", "-q", "-O", "^has_journal", "-E", "nodiscard", str(image)]
    subprocess.run(make, check=True)

    with mounted(image, point):
        small_disk.leave(6 * MIB)
        broken = world.run("download", "acme/one", "--local-dir", "thin/m")
        there = (point / "m" / NAME).exists()
    small_disk.mount("size=64m")
    mended = subprocess.run(["e2fsck", "-fy", str(image)], capture_output=True)
    with mounted(image, point):
        again = world.run("download", "acme/one", "--local-dir", "thin/m")
    with mounted(image, point):
        found = tree(point / "m")

    assert mended.returncode < 4
    assert [broken.returncode, again.returncode] == [9, 0], broken.stderr + again.stderr
    assert ": syncing " in broken.stderr
    assert not there
    assert found == {NAME: DATA}
