"""`modelhaul verify`: trees that are right, damaged, incomplete; repaired; interrupted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anyio
import pytest
from aiohttp import web

import modelhaul
from tests.support.world import MODEL, World, last_line, tree

pytestmark = pytest.mark.command

REPO = "acme/tiny"
LARGE, OTHER = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def flip(path: Path) -> None:
    """Change a byte in the middle and leave the time of the last change as it was."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(status.st_size // 2)
        byte = file.read(1)
        file.seek(status.st_size // 2)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def snapshot(world: World) -> Path:
    """The place of the repository in the cache."""
    return world.cache / "models" / "acme--tiny" / "snapshots" / "master"


def asked(world: World) -> set[str]:
    """Files whose bytes the hub was asked for."""
    return {seen.query["FilePath"] for seen in world.hub.files_asked() if "FilePath" in seen.query}


@pytest.fixture(params=["cache", "folder", "path"])
def place(request: pytest.FixtureRequest, world: World) -> tuple[Path, list[str]]:
    """A downloaded tree, and the words that name it: in the cache, plain, by its path."""
    if request.param == "folder":
        assert world.run("download", REPO, "--local-dir", "m").returncode == 0
        return world.work / "m", [REPO, "--local-dir", "m"]
    assert world.run("download", REPO).returncode == 0
    root = snapshot(world)
    return root, [REPO] if request.param == "cache" else [str(root)]


def test_a_tree_is_checked_and_repaired(world: World, place: tuple[Path, list[str]]) -> None:
    """Right: 0. A byte changed and a file gone: 8, both named. --repair fetches these two only."""
    root, words = place
    right = world.run("verify", *words)
    flip(root / LARGE)
    (root / "config.json").unlink()
    before = tree(root)
    world.hub.seen.clear()

    bad = world.run("verify", *words)
    untouched, not_asked = tree(root), asked(world)
    repaired = world.run("verify", *words, "--repair")
    again = world.run("verify", *words, "--quiet")

    assert right.returncode == 0, right.stderr
    assert last_line(right.stdout) == str(root)
    assert "every file has its SHA-256" in last_line(right.stderr)
    assert bad.returncode == 8, bad.stderr
    assert bad.stdout == ""
    assert f"wrong: {LARGE} (its SHA-256 is another)\n" in bad.stderr
    assert "missing: config.json\n" in bad.stderr
    assert "--repair" in last_line(bad.stderr)
    assert (untouched, not_asked) == (before, set())
    assert repaired.returncode == 0, repaired.stderr
    assert "2 repaired" in last_line(repaired.stderr)
    assert asked(world) == {LARGE, "config.json"}
    assert tree(root) == MODEL
    assert (again.returncode, again.stdout, again.stderr) == (0, f"{root}\n", "")


def test_only_missing_files_end_with_3(world: World) -> None:
    """Nothing wrong stands there: what is missing can be fetched by a plain download."""
    world.run("download", REPO, "--local-dir", "m", "--exclude", OTHER)

    done = world.run("verify", REPO, "--local-dir", "m")
    left_out = world.run("verify", REPO, "--local-dir", "m", "--exclude", OTHER)

    assert done.returncode == 3, done.stderr
    assert f"1 missing of {len(MODEL)} files: {OTHER}" in done.stderr
    assert left_out.returncode == 0, left_out.stderr


@pytest.mark.parametrize("how", [[], ["--repair"]], ids=["check", "repair"])
def test_a_place_that_is_no_folder_is_refused(world: World, how: list[str]) -> None:
    """A slip in --local-dir is not a hundred missing files, and a repair does not make it."""
    (world.work / "file").write_text("mine")

    missing = world.run("verify", REPO, "--local-dir", "typo", *how)
    file = world.run("verify", REPO, "--local-dir", "file", *how)

    assert [missing.returncode, file.returncode] == [2, 2]
    assert "typo is not a folder" in missing.stderr
    assert f"modelhaul download {REPO} --local-dir typo" in last_line(missing.stderr)
    assert "file is not a folder" in file.stderr
    assert os.listdir(world.work) == ["file"]


def test_json_tells_each_finding(world: World) -> None:
    """One object per file, counts, and the error as the last line."""
    world.run("download", REPO, "--local-dir", "m")
    flip(world.work / "m" / LARGE)

    done = world.run("verify", REPO, "--local-dir", "m", "--json")

    told = [json.loads(line) for line in done.stdout.splitlines()]
    found = {event["path"]: event["finding"] for event in told if event["event"] == "file_checked"}
    assert done.returncode == 8
    assert found == {**dict.fromkeys(MODEL, "right"), LARGE: "wrong"}
    (counts,) = [event for event in told if event["event"] == "verified"]
    assert (counts["files"], counts["wrong"], counts["missing"]) == (len(MODEL), 1, 0)
    assert (told[-1]["event"], told[-1]["kind"], told[-1]["exit_code"]) == (
        "error",
        "VerifyFailed",
        8,
    )


def test_what_cannot_be_repaired_stays_what_it_was(world: World) -> None:
    """The hub has lost the large file: 8, the old one stands, the other file is repaired."""
    world.run("download", REPO, "--local-dir", "m")
    root = world.work / "m"
    flip(root / LARGE)
    (root / "config.json").unlink()
    wrong = (root / LARGE).read_bytes()
    world.hub.fault = lost

    done = world.run("verify", REPO, "--local-dir", "m", "--repair", "--json")

    told = [json.loads(line) for line in done.stdout.splitlines()]
    (counts,) = [event for event in told if event["event"] == "verified"]
    assert done.returncode == 8, done.stderr
    kept = {path: data for path, data in tree(root).items() if not path.startswith(".modelhaul")}
    assert kept == {**MODEL, LARGE: wrong}
    assert (counts["wrong"], counts["missing"], counts["repaired"]) == (1, 0, 1)


def lost(request: web.Request) -> web.Response | None:
    """The large file is listed and is not there."""
    return web.Response(status=404) if request.query.get("FilePath") == LARGE else None


def test_a_program_gets_a_report(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`await modelhaul.verify()`: that something is wrong is a finding, not an exception."""
    world.run("download", REPO, "--local-dir", "m")
    flip(world.work / "m" / LARGE)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", world.hub.url)
    monkeypatch.setenv("MODELHAUL_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
    here = world.work / "m"

    async def main() -> tuple[modelhaul.VerifyReport, modelhaul.VerifyReport]:
        found = await modelhaul.verify(REPO, local_dir=here)
        return found, await modelhaul.verify(REPO, local_dir=here, repair=True)

    found, repaired = anyio.run(main)

    assert not found.ok
    assert [file.path for file in found.found("wrong")] == [LARGE]
    assert isinstance(found.error, modelhaul.VerifyFailed)
    assert found.error.report is found
    assert repaired.ok
    assert repaired.fetched == len(MODEL[LARGE])
    assert os.fspath(repaired) == str(here)
    assert tree(here) == MODEL
