"""The official client judges: what we serve it downloads, what we write it finds.

modelscope 1.40.2 is a test dependency; it runs as its own command and in processes of its own, as
it reads its environment when it is imported.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.world import BIN, MODEL, World, content, last_line, tree

pytestmark = [pytest.mark.command, pytest.mark.official, pytest.mark.timeout(120)]


def official(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the official command line."""
    return subprocess.run(
        [str(BIN / "modelscope"), *arguments],
        env={**world.environment, "PYTHONWARNINGS": "ignore"},
        cwd=world.work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )


def python(world: World, code: str) -> str:
    """Run a program that uses the official package; returns the last line that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**world.environment, "PYTHONWARNINGS": "ignore"},
        cwd=world.work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return last_line(done.stdout)


def test_it_downloads_a_model_from_our_hub(world: World) -> None:
    """`modelscope download` against `modelhaul serve`: the same bytes, redirects included."""
    done = official(world, "download", "acme/tiny", "--local_dir", "theirs")

    assert done.returncode == 0, done.stderr
    assert tree(world.work / "theirs") == MODEL
    assert any(seen.server == "cdn" for seen in world.hub.seen)


def test_it_downloads_a_dataset_from_our_hub(world: World) -> None:
    """Pages of a dataset."""
    files = {f"data/p{n:03}.txt": b"%d" % n for n in range(250)}
    world.put("datasets/acme/ds", files)

    done = official(world, "download", "--dataset", "acme/ds", "--local_dir", "theirs")

    assert done.returncode == 0, done.stderr
    assert tree(world.work / "theirs") == files


def test_it_downloads_a_revision_from_our_hub(world: World) -> None:
    """A folder name@v1.0.0 is revision v1.0.0."""
    world.put("acme/tiny@v1.0.0", {"config.json": b"old\n"})

    done = official(
        world, "download", "--model", "acme/tiny", "--revision", "v1.0.0", "--local_dir", "theirs"
    )

    assert done.returncode == 0, done.stderr
    assert tree(world.work / "theirs") == {"config.json": b"old\n"}


def test_what_it_wrote_is_checked_and_repaired_by_its_path(world: World) -> None:
    """`modelhaul verify PATH`: the cache of the official client says what it holds."""
    assert official(world, "download", "acme/tiny").returncode == 0
    (root,) = {path.parent for path in world.cache.rglob("tokenizer.json")}
    (root / "tokenizer.json").write_bytes(bytes(len(MODEL["tokenizer.json"])))

    found = world.run("verify", root)
    repaired = world.run("verify", root, "--repair")

    assert found.returncode == 8, found.stderr
    assert "wrong: tokenizer.json" in found.stderr
    assert repaired.returncode == 0, repaired.stderr
    assert (root / "tokenizer.json").read_bytes() == MODEL["tokenizer.json"]


def test_it_resumes_and_takes_ranges_from_our_hub(world: World) -> None:
    """Its parallel mode asks for ranges of one file."""
    world.extra.update(
        MODELSCOPE_DOWNLOAD_PARALLEL_WORKERS="3",
        MODELSCOPE_DOWNLOAD_PARALLEL_THRESHOLD_MB="1",
        MODELSCOPE_DOWNLOAD_PART_SIZE_MB="2",
    )

    done = official(world, "download", "acme/tiny", "--local_dir", "theirs")

    assert done.returncode == 0, done.stderr
    assert tree(world.work / "theirs") == MODEL
    assert sum("Range" in seen.headers for seen in world.hub.seen if seen.server == "cdn") > 4


def test_offline_it_finds_what_we_downloaded(world: World) -> None:
    """`snapshot_download(local_files_only=True)` returns our folder, with every byte."""
    world.run("download", "acme/tiny")
    world.hub.seen.clear()

    found = python(
        world,
        "from modelscope import snapshot_download;"
        "print(snapshot_download('acme/tiny', local_files_only=True))",
    )

    assert tree(Path(found)) == MODEL
    assert world.hub.seen == []


def test_offline_it_finds_a_revision_and_a_dataset(world: World) -> None:
    """By revision, and datasets by their own function."""
    world.put("acme/tiny@v1.0.0", {"config.json": b"old\n"})
    world.put("datasets/acme/ds", {"data.txt": b"1\n"})
    world.run("download", "acme/tiny", "--revision", "v1.0.0")
    world.run("download", "--dataset", "acme/ds")

    model = python(
        world,
        "from modelscope import snapshot_download;"
        "print(snapshot_download('acme/tiny', revision='v1.0.0', local_files_only=True))",
    )
    dataset = python(
        world,
        "from modelscope import snapshot_download;"
        "print(snapshot_download('acme/ds', repo_type='dataset', local_files_only=True))",
    )

    assert tree(Path(model)) == {"config.json": b"old\n"}
    assert tree(Path(dataset)) == {"data.txt": b"1\n"}


def test_a_run_of_it_after_ours_fetches_nothing(world: World) -> None:
    """It takes our cache for its own."""
    world.run("download", "acme/tiny")
    world.hub.seen.clear()

    done = official(world, "download", "acme/tiny")

    assert done.returncode == 0, done.stderr
    assert world.hub.files_asked() == []
    assert tree(world.cache / "models/acme--tiny/snapshots/master") == MODEL


def test_a_run_of_ours_after_it_fetches_nothing(world: World) -> None:
    """We take its cache for ours: one hashing, no byte."""
    official(world, "download", "acme/tiny")
    world.hub.seen.clear()

    done = world.run("download", "acme/tiny")

    assert done.returncode == 0, done.stderr
    assert world.hub.files_asked() == []


def test_its_cache_verify_accepts_what_we_wrote(world: World) -> None:
    """`modelscope cache verify` hashes our files against the listing."""
    world.put("acme/tiny", {"more/w.bin": content(3_000_000, 8)})
    world.run("download", "acme/tiny")

    done = official(world, "cache", "verify", "acme/tiny", "--fail-on-missing-files")

    assert done.returncode == 0, done.stdout + done.stderr


def test_its_saved_login_works_for_us(world: World, tmp_path: Path) -> None:
    """A cookie jar that its own configuration wrote gives us the token."""
    python(
        world,
        "from modelscope_hub.config import HubConfig;"
        f"HubConfig(endpoint={world.hub.url!r}).save_token('ms-good'); print('saved')",
    )
    world.hub.seen.clear()

    done = world.run("download", "acme/tiny", "config.json")

    assert done.returncode == 0, done.stderr
    assert world.hub.seen
    assert all(seen.headers["Authorization"] == "Bearer ms-good" for seen in world.hub.seen)
