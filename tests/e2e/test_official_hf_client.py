"""huggingface_hub judges: what we serve it downloads, what we write it takes for its own.

Three generations of it, each in an environment of its own: the last with requests (0.35), the one
with httpx (1.11), and the newest (2.4), which keeps listings and shares blobs between repositories.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.world import MODEL, World, content, last_line, tree

ROOT = Path(__file__).parents[2]
VERSIONS = ["0.35", "1.11", "2.4"]
REPO = "models--acme--tiny"
#: With two files of equal content, which the cache holds once.
WHOLE = {**MODEL, "sub/twin.safetensors": MODEL["model-00002-of-00002.safetensors"]}

pytestmark = [
    pytest.mark.command,
    pytest.mark.official,
    pytest.mark.timeout(120),
    pytest.mark.parametrize("version", VERSIONS),
]


@pytest.fixture
def world(world: World, version: str) -> World:
    """A machine whose hub is also that of Hugging Face's tools."""
    if not _program(version, "hf").exists():
        pytest.skip(f"huggingface_hub {version} is not installed: `make test` does it")
    world.extra.update(
        HF_ENDPOINT=world.hub.url,
        # They would ask the internet.
        HF_HUB_DISABLE_UPDATE_CHECK="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
    )
    world.put("acme/tiny", WHOLE)
    return world


def _program(version: str, name: str) -> Path:
    return ROOT / f".venv-hf-{version}" / "bin" / name


def official(
    world: World, version: str, program: str, *arguments: str, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of an official environment."""
    environment = {**world.environment, "PYTHONWARNINGS": "ignore", **extra}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [str(_program(version, program)), *arguments],
        env=environment,
        cwd=world.work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )


def hf(world: World, version: str, *arguments: str, **extra: str) -> str:
    """Run `hf`, which must succeed; what it said."""
    done = official(world, version, "hf", *arguments, **extra)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(world: World, version: str, code: str, **extra: str) -> Any:
    """Run a program that uses the official package; the JSON in its last line."""
    done = official(world, version, "python", "-c", f"import json\n{code}", **extra)
    assert done.returncode == 0, done.stderr
    return json.loads(last_line(done.stdout))


def ours(world: World, *arguments: str) -> None:
    """Run `modelhaul download`, which must succeed."""
    done = world.run("download", *arguments)
    assert done.returncode == 0, done.stderr


def hub_folder(world: World) -> Path:
    """The cache of Hugging Face's tools."""
    return world.home / ".cache" / "huggingface" / "hub"


def shape(folder: Path) -> dict[str, str | bytes]:
    """Links with their targets and files with their bytes, at all levels."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


# -- what we serve -------------------------------------------------------------------------------


def test_it_downloads_from_our_hub_and_we_take_its_cache(world: World, version: str) -> None:
    """Every byte of a model, redirects included; then we fetch nothing."""
    hf(world, version, "download", "acme/tiny")
    redirected = any(seen.server == "cdn" for seen in world.hub.seen)
    world.hub.seen.clear()
    ours(world, "hf:acme/tiny")

    root = hub_folder(world) / REPO
    commit = (root / "refs" / "main").read_text()
    assert tree(root / "snapshots" / commit) == WHOLE
    assert redirected
    assert world.hub.files_asked() == []


def test_it_lists_our_hub_and_understands_our_errors(world: World, version: str) -> None:
    """More files than a page has, names of revisions, and a class of its own for each error."""
    world.put("datasets/acme/ds", {f"p{number:04}.txt": b"" for number in range(1100)})
    world.put("acme/tiny@v1.0", {"config.json": b"old\n"})

    said = python(
        world,
        version,
        """
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
def error(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except Exception as error:
        return type(error).__name__
rows = list(api.list_repo_tree("acme/ds", repo_type="dataset", recursive=True))
refs = api.list_repo_refs("acme/tiny")
info = api.model_info("acme/tiny", files_metadata=True)
paths = api.get_paths_info("acme/tiny", ["sub", "config.json", "unknown"], expand=True)
print(json.dumps([
    len({row.path for row in rows}),
    [[ref.name for ref in refs.branches], [ref.name for ref in refs.tags]],
    {row.rfilename: row.lfs is not None for row in info.siblings},
    [row.path for row in paths],
    error(api.model_info, "acme/unknown"),
    error(api.model_info, "acme/tiny", revision="v9"),
    error(hf_hub_download, "acme/tiny", "unknown"),
    error(hf_hub_download, "acme/tiny", "config.json", revision="v9"),
]))""",
    )

    assert said[:2] == [1100, [["main"], ["v1.0"]]]
    assert said[2] == {path: path.endswith(".safetensors") for path in WHOLE}
    assert said[3] == ["sub", "config.json"]
    entry = "EntryNotFoundError" if version == "0.35" else "RemoteEntryNotFoundError"
    assert said[4:] == [
        "RepositoryNotFoundError",
        "RevisionNotFoundError",
        entry,
        "RevisionNotFoundError",
    ]
    (absent,) = (hub_folder(world) / REPO / ".no_exist").rglob("unknown")
    assert absent.parent.name == (hub_folder(world) / REPO / "refs" / "main").read_text()


# -- what we write -------------------------------------------------------------------------------


def test_our_cache_is_what_it_writes_itself(world: World, version: str) -> None:
    """Name by name, link by link, byte by byte."""
    hf(world, version, "download", "acme/tiny", HF_HUB_CACHE=str(world.work / "theirs"))
    ours(world, "hf:acme/tiny")

    theirs = shape(world.work / "theirs")
    made = shape(hub_folder(world))
    extra = {path for path in theirs if path.startswith(".locks/") or path == "CACHEDIR.TAG"}
    if version != "2.4":
        # Only the newest keeps the listing.
        made = {path: what for path, what in made.items() if f"{REPO}/trees/" not in path}
    assert made == {path: what for path, what in theirs.items() if path not in extra}


def test_it_takes_our_cache_for_its_own(world: World, version: str) -> None:
    """Offline it finds every file, its scan warns of nothing, and online it fetches nothing."""
    world.put("acme/tiny@v1.0", {"config.json": b"old\n"})
    ours(world, "hf:acme/tiny")
    ours(world, "hf:acme/tiny", "--revision", "v1.0")
    world.hub.seen.clear()

    said = python(
        world,
        version,
        f"""
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download
found = scan_cache_dir()
print(json.dumps([
    [str(warning) for warning in found.warnings],
    sorted(name for repo in found.repos for name in repo.refs),
    sum(len(repo.revisions) for repo in found.repos),
    snapshot_download("acme/tiny", local_files_only=True),
    snapshot_download("acme/tiny", revision="v1.0"),
    [hf_hub_download("acme/tiny", path, local_files_only=True) for path in {list(WHOLE)!r}],
]))""",
        HF_HUB_OFFLINE="1",
    )
    offline = list(world.hub.seen)
    again = hf(world, version, "download", "acme/tiny")

    assert said[:3] == [[], ["main", "v1.0"], 2]
    assert tree(Path(said[3])) == WHOLE
    assert tree(Path(said[4])) == {"config.json": b"old\n"}
    assert [Path(path).read_bytes() for path in said[5]] == list(WHOLE.values())
    assert offline == []
    assert said[3] in again
    assert world.hub.files_asked() == []


def test_its_commands_accept_our_cache(world: World, version: str) -> None:
    """`hf cache ls` lists it, and `hf cache verify` hashes all of it."""
    ours(world, "hf:acme/tiny")

    if version == "0.35":
        listing = hf(world, version, "cache", "scan")
    else:
        listing = hf(world, version, "cache", "ls")
        strict = ("--fail-on-missing-files", "--fail-on-extra-files")
        checked = hf(world, version, "cache", "verify", "acme/tiny", *strict)
        assert str(len(WHOLE)) in checked

    assert "acme/tiny" in listing
    assert "main" in listing
    assert "warning" not in listing.lower()


@pytest.mark.usefixtures("usual_umask")
def test_a_file_that_two_repositories_share_is_safe_from_it(world: World, version: str) -> None:
    """It brought one, we made a second name for the other: what it replaces or removes, stays here.

    Its blobs have the rights of ours, or there would be no second name.
    """
    weights = content(3_000_000, 4)
    name = hashlib.sha256(weights).hexdigest()
    for repo in ("one", "two"):
        world.put(f"acme/{repo}", {"w.safetensors": weights, "config.json": repo.encode()})
    hf(world, version, "download", "acme/one")
    ours(world, "hf:acme/two")
    one, two = (hub_folder(world) / f"models--acme--{repo}" for repo in ("one", "two"))
    shared = (one / "blobs" / name).samefile(two / "blobs" / name)

    hf(world, version, "download", "acme/one", "--force-download")
    replaced = not (one / "blobs" / name).samefile(two / "blobs" / name)
    (one / "blobs" / name).unlink()
    (one / "blobs" / name).hardlink_to(two / "blobs" / name)
    warnings, found = python(
        world,
        version,
        """
from huggingface_hub import scan_cache_dir, snapshot_download
found = scan_cache_dir()
commits = [rev.commit_hash for repo in found.repos if repo.repo_id == "acme/one"
           for rev in repo.revisions]
found.delete_revisions(*commits).execute()
print(json.dumps([
    [str(warning) for warning in found.warnings],
    snapshot_download("acme/two", local_files_only=True),
]))""",
    )

    assert shared
    assert replaced
    assert warnings == []
    assert not one.exists()
    assert tree(Path(found)) == {"w.safetensors": weights, "config.json": b"two"}


# -- local folders -------------------------------------------------------------------------------


def test_a_folder_is_the_same_whoever_writes_it(world: World, version: str) -> None:
    """But for the time in the metadata, and listings that only the newest has; and ours fetches
    nothing into one that is there.
    """
    hf(world, version, "download", "acme/tiny", "--local-dir", "theirs")
    theirs = described(world.work / "theirs")
    ours(world, "hf:acme/tiny", "--local-dir", "ours")
    made = described(world.work / "ours")
    world.hub.seen.clear()
    ours(world, "hf:acme/tiny", "--local-dir", "theirs")

    newer = {".cache/huggingface/CACHEDIR.TAG"} if version == "0.35" else set()
    if version != "2.4":
        newer |= {path for path in made if "/trees/" in path}
    assert {path: what for path, what in made.items() if path not in newer} == {
        path: what for path, what in theirs.items() if not path.endswith(".lock")
    }
    assert world.hub.files_asked() == []


def described(folder: Path) -> dict[str, str | bytes]:
    """The shape of a folder, without the times in its metadata."""
    found: dict[str, str | bytes] = {}
    for path, what in shape(folder).items():
        if path.endswith(".metadata"):
            assert isinstance(what, bytes)
            commit, name, moment, _ = what.split(b"\n")
            assert float(moment) > 0
            found[path] = commit + name
        else:
            found[path] = what
    return found


def test_it_takes_our_folder_for_its_own(world: World, version: str) -> None:
    """Online nothing is fetched, verify misses nothing, offline it is the folder."""
    ours(world, "hf:acme/tiny", "--local-dir", "m")
    world.hub.seen.clear()

    hf(world, version, "download", "acme/tiny", "--local-dir", "m")
    heads = [seen.path for seen in world.hub.seen if "/resolve/" in seen.path]
    if version != "0.35":
        # 1.11 takes metadata, its own too, for files that do not belong there.
        strict = ["--fail-on-missing-files"]
        strict += ["--fail-on-extra-files"] if version == "2.4" else []
        hf(world, version, "cache", "verify", "acme/tiny", "--local-dir", "m", *strict)
    said = python(
        world,
        version,
        """
from huggingface_hub import hf_hub_download, snapshot_download
print(json.dumps([
    snapshot_download("acme/tiny", local_dir="m"),
    hf_hub_download("acme/tiny", "config.json", local_dir="m", local_files_only=True),
]))""",
        HF_HUB_OFFLINE="1",
    )

    assert heads == []
    # The oldest gives paths as they were given.
    assert [world.work / path for path in said] == [world.work / "m", world.work / "m/config.json"]
    assert (world.work / "m" / "config.json").read_bytes() == WHOLE["config.json"]
