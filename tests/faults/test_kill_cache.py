"""SIGKILL between blob, link, ref and listing of Hugging Face's cache.

Whatever was done: a name of a revision leads to a whole snapshot or to none, every link to the
right bytes, and the next run ends it without fetching a blob again.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.harness import git_sha1
from tests.faults.cases import here
from tests.support import hub as hubs
from tests.support.hub import put
from tests.support.lives import Life, Log, ended, fresh
from tests.support.world import World, content, last_line, tree

pytestmark = [
    pytest.mark.command,
    pytest.mark.skipif(sys.platform != "linux", reason="the launcher needs /proc"),
]

LARGE = content(1_500_000, 1)
# Two in LFS with the same content, which is one blob with two links, and two in git.
NEW = {
    "config.json": b'{"model_type": "tiny"}\n',
    "copy.safetensors": LARGE,
    "model.safetensors": LARGE,
    "sub/tokenizer.json": content(70_000, 2),
}
OLD = {**NEW, "config.json": b"{}\n", "sub/tokenizer.json": content(60_000, 3)}
COMMAND = ["download", "hf:acme/one"]
ROOT = Path(__file__).parents[2]

#: Each step of the cache's own books, and which of its times are tried.
STEPS = {
    "create draft": 2,  # the listing, the ref
    "remove draft": 1,  # of which there is none yet: nor is there its folder
    "write draft": 2,
    "sync draft": 2,
    "rename listing": 1,
    "link draft": 2,  # and two more, which are the same
    "rename link": 4,
    "rename ref": 1,
}
#: What comes just before the first link: a blob gets its name.
BLOBS = {"rename part": 1, "rename small part": 2}
#: Enough for each change: the others are as good as their neighbours.
LIGHT = {
    ("before", "rename listing", 1),
    ("after", "rename listing", 1),
    ("before", "rename part", 1),
    ("after", "rename part", 1),
    ("after", "rename small part", 2),
    ("before", "rename link", 1),
    ("after", "rename link", 1),
    ("after", "rename link", 4),
    ("after", "create draft", 2),
    ("before", "rename ref", 1),
    ("after", "rename ref", 1),
}


def points() -> Iterator[pytest.ParameterSet]:
    """Before and after each step; where the moment is a neighbour's, only when there is time."""
    for step, times in {**STEPS, **BLOBS}.items():
        for number in range(1, times + 1):
            for side in ("before", "after"):
                light = (side, step, number) in LIGHT
                yield pytest.param(side, step, number, marks=() if light else pytest.mark.torture)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A machine in front of a hub with a model."""
    with hubs.hub_with({"acme/one": NEW}, tmp_path / "hub") as hub:
        yield ready(hub, tmp_path)


def made(folder: Path) -> Path:
    """The folder, which is made."""
    folder.mkdir()
    return folder


def ready(hub: hubs.TestHub, folder: Path) -> World:
    """A fresh machine for which the hub is that of Hugging Face's tools."""
    world = fresh(hub, folder)
    world.extra["HF_ENDPOINT"] = hub.url
    return world


def repository(world: World) -> Path:
    """The repository in the cache."""
    return world.home / ".cache" / "huggingface" / "hub" / "models--acme--one"


def die(world: World, side: str, step: str, number: int) -> None:
    """A run that is killed there."""
    life = Life(world, *COMMAND, point=f"{side} {step} {number}")
    with ended([life]):
        assert life.wait() == -signal.SIGKILL, life.errors


def blob(root: Path, path: str, data: bytes) -> Path:
    """Where the bytes of a file stand: what is in LFS by its SHA-256, the others as git says."""
    name = hashlib.sha256(data).hexdigest() if path.endswith(".safetensors") else git_sha1(data)
    return root / "blobs" / name


def named(root: Path) -> dict[str, bytes] | None:
    """The snapshot that `main` leads to; None if there is no such name."""
    ref = root / "refs" / "main"
    return tree(root / "snapshots" / ref.read_text()) if ref.exists() else None


def flaws(root: Path, *versions: dict[str, bytes]) -> Iterator[str]:
    """All that is wrong with a repository whose download may have been killed, in words.

    Args:
        root: its folder in the cache.
        versions: what it was at one time or another.
    """
    if (main := named(root)) is not None and main not in versions:
        yield f"main leads to a snapshot with {sorted(main)}, or with other bytes"
    for path in (root / "blobs").glob("*"):
        data = path.read_bytes()
        if path.name not in (hashlib.sha256(data).hexdigest(), git_sha1(data)):
            yield f"{path.name} has other bytes than its name says"
    for path in (root / "snapshots").rglob("*"):
        inside = path.relative_to(root / "snapshots").as_posix().partition("/")[2]
        if path.is_symlink() and not path.exists():
            yield f"{inside} leads nowhere"
        elif path.is_file() and path.read_bytes() not in [files.get(inside) for files in versions]:
            yield f"{inside} leads to the bytes of something else"
    for path in (root / "trees").glob("*"):
        if set(json.loads(path.read_text())["files"]) not in [set(files) for files in versions]:
            yield f"{path.name} lists other files"
    # What their scan takes for a branch, a revision or a file of its own.
    names = {".modelhaul", "blobs", "refs", "snapshots", "trees"}
    yield from (f"{name} does not belong there" for name in {*os.listdir(root)} - names)
    yield from (
        f"{path} is no branch" for path in (root / "refs").rglob("*") if path.name != "main"
    )


@pytest.mark.fault(
    "SIGKILL between blobs, links, ref and listing of Hugging Face's cache",
    "no name leads to half of a revision; the next run ends it, no blob is sent again",
    number=106,
)
@pytest.mark.parametrize(("side", "step", "number"), [*points()])
def test_a_kill_in_the_cache_is_made_good(world: World, side: str, step: str, number: int) -> None:
    """The branch has its name only when all is there; what is a blob is not asked for again."""
    log, root = Log(world.hub), repository(world)
    die(world, side, step, number)
    log.more()
    found, main = [*flaws(root, NEW)], named(root)
    blobs = {path for path, data in NEW.items() if blob(root, path, data).exists()}

    again = here(world, *COMMAND)

    assert found == []
    assert (main == NEW) is ((side, step) == ("after", "rename ref"))
    assert again.returncode == 0, again.stderr
    assert named(root) == tree(Path(last_line(again.stdout))) == NEW
    assert [*flaws(root, NEW)] == []
    assert sorted(os.listdir(root)) == ["blobs", "refs", "snapshots", "trees"]
    assert blobs.isdisjoint(entry["path"] for entry in log.more())


def test_the_list_of_the_caches_steps_is_complete(world: World, tmp_path: Path) -> None:
    """What a download really does to the books is what the kills are tried on."""
    record = tmp_path / "record"
    life = Life(world, *COMMAND, record=str(record))

    assert life.wait() == 0, life.errors
    steps = record.read_text().splitlines()
    books = {step for step in steps if step.endswith((" draft", " listing", " link", " ref"))}
    assert books == set(STEPS)
    assert all(steps.count(step) >= times for step, times in {**STEPS, **BLOBS}.items())


# -- with an older revision there ----------------------------------------------------------------

UPDATE_POINTS = [
    ("before", "rename listing", 1),
    ("after", "rename small part", 1),
    ("after", "rename link", 1),
    ("after", "rename link", 4),
    ("before", "rename ref", 1),
    ("after", "rename ref", 1),
]


@pytest.mark.fault(
    "SIGKILL while a newer revision comes into Hugging Face's cache",
    "the branch is the old one, whole, until the new one is",
)
@pytest.mark.parametrize(("side", "step", "number"), UPDATE_POINTS)
def test_a_kill_leaves_the_branch_whole(world: World, side: str, step: str, number: int) -> None:
    """Old or new, never in between; and the old snapshot stays as it was."""
    root = repository(world)
    put(world.hub.root, "acme/one", OLD)
    first = here(world, *COMMAND)
    put(world.hub.root, "acme/one", NEW)

    die(world, side, step, number)

    assert first.returncode == 0, first.stderr
    assert [*flaws(root, OLD, NEW)] == []
    assert named(root) == (NEW if (side, step) == ("after", "rename ref") else OLD)
    again = here(world, *COMMAND)
    assert again.returncode == 0, again.stderr
    assert named(root) == NEW
    assert tree(Path(last_line(first.stdout))) == OLD
    assert sorted(os.listdir(root)) == ["blobs", "refs", "snapshots", "trees"]


# -- as the official package sees it, offline ----------------------------------------------------

JUDGE = """
import json, sys
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

def look(cache, revision):
    try:
        return snapshot_download(
            "acme/one", cache_dir=cache, revision=revision, local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None

print(json.dumps([look(*asked) for asked in json.load(sys.stdin)]))
"""


def judged(
    version: str, caches: list[Path], revision: str | None = None
) -> list[dict[str, bytes] | None]:
    """What `snapshot_download` finds in each cache: the files, or None for nothing."""
    done = subprocess.run(
        [str(ROOT / f".venv-hf-{version}" / "bin" / "python"), "-c", JUDGE],
        input=json.dumps([(str(cache), revision) for cache in caches]),
        env={"PATH": os.environ["PATH"], "HOME": str(caches[0].parent), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(last_line(done.stdout))
    return [None if path is None else tree(Path(path)) for path in found]


OFFLINE_POINTS = [
    ("after", "rename small part", 1),
    ("after", "rename link", 1),
    ("before", "rename ref", 1),
    ("after", "rename ref", 1),
]


@pytest.mark.official
@pytest.mark.fault(
    "SIGKILL in Hugging Face's cache, then the official package looks into it offline",
    "it finds the old revision, the new one or none, never half of one",
    number=106,
)
def test_their_offline_lookup_never_finds_half_of_it(tmp_path: Path) -> None:
    """Killed at changes of the books, on a machine without an older revision and on one with it.

    By the branch, and by the commit: of that only the newest can tell that something is missing,
    since it reads the listing.
    """
    versions = sorted(path.name.removeprefix(".venv-hf-") for path in ROOT.glob(".venv-hf-*"))
    if not versions:
        pytest.skip("huggingface_hub is not installed: `make test` does it")
    with hubs.hub_with({"acme/one": OLD}, tmp_path / "hub") as hub:
        machines = [ready(hub, made(tmp_path / str(number))) for number in range(8)]
        empty, outdated = machines[:4], machines[4:]
        for world in outdated:
            assert here(world, *COMMAND).returncode == 0
        put(hub.root, "acme/one", NEW)
        for world, point in zip(machines, OFFLINE_POINTS * 2, strict=True):
            die(world, *point)
        commit = (repository(empty[3]) / "refs" / "main").read_text()
    caches = [repository(world).parent for world in machines]

    by_branch = {version: judged(version, caches) for version in versions}
    by_commit = judged("2.4", caches, commit) if "2.4" in versions else None

    expected = [None, None, None, NEW, OLD, OLD, OLD, NEW]
    assert by_branch == dict.fromkeys(versions, expected)
    assert by_commit in (None, [None, None, NEW, NEW] * 2)
