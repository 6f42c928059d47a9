"""`store.whose`: which repository a folder of a cache says it holds."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from modelhaul.core.repo import RepoRef
from modelhaul.store.whose import Holding, holding

COMMIT = "1" * 40


@pytest.mark.parametrize(
    ("folder", "ref"),
    [
        (
            f"hub/models--o--n/snapshots/{COMMIT}",
            RepoRef("huggingface", "model", "o", "n", COMMIT),
        ),
        (
            f"hub/datasets--o--n.x/snapshots/{COMMIT}",
            RepoRef("huggingface", "dataset", "o", "n.x", COMMIT),
        ),
        (
            f"hub/spaces--o--n/snapshots/{COMMIT}",
            RepoRef("huggingface", "space", "o", "n", COMMIT),
        ),
        (
            f"hub/models--gpt2/snapshots/{COMMIT}",
            RepoRef("huggingface", "model", "", "gpt2", COMMIT),
        ),
        (
            "hub/models/o--n/snapshots/master",
            RepoRef("modelscope", "model", "o", "n", "master"),
        ),
    ],
)
def test_a_snapshot_of_a_cache_says_whose_it_is(tmp_path: Path, folder: str, ref: RepoRef) -> None:
    """Of both hubs; old repositories of the one have no owner."""
    (tmp_path / folder).mkdir(parents=True)

    assert holding(tmp_path / folder, None) == Holding(ref, tmp_path / "hub")


def test_another_revision_may_be_meant(tmp_path: Path) -> None:
    """It wins over the one in the path."""
    folder = tmp_path / "models--o--n" / "snapshots" / COMMIT
    folder.mkdir(parents=True)

    held = holding(folder, "v1")

    assert held is not None
    assert held.ref.revision == "v1"


@pytest.mark.parametrize(
    "folder",
    [
        "m",
        "models--o--n",
        "models--o--n/blobs",
        "models--o--n/snapshots",
        f"models--o--n/snapshots/{COMMIT}/sub",
        f"models--a--b--c/snapshots/{COMMIT}",
        f"models--/snapshots/{COMMIT}",
        f"things--o--n/snapshots/{COMMIT}",
    ],
)
def test_other_folders_say_nothing(tmp_path: Path, folder: str) -> None:
    """Only a whole snapshot is what a repository holds."""
    (tmp_path / folder).mkdir(parents=True)

    assert holding(tmp_path / folder, None) is None


def test_an_old_book_says_whose_it_is(tmp_path: Path) -> None:
    """`.mdl` names the model, `.mv` the revision."""
    (tmp_path / ".mdl").write_bytes(pickle.dumps({"id": "o/n___1"}))
    (tmp_path / ".mv").write_text("Revision:v1,CreatedAt:1700000000")

    assert holding(tmp_path, None) == Holding(
        RepoRef("modelscope", "model", "o", "n.1", "v1"), None
    )


def test_a_book_of_absurd_size_says_nothing(tmp_path: Path) -> None:
    """A terabyte of holes behind a right beginning: nothing of it is believed, nor read whole."""
    (tmp_path / ".mdl").write_bytes(pickle.dumps({"id": "o/n"}))
    os.truncate(tmp_path / ".mdl", 1 << 40)
    (tmp_path / ".mv").write_text("Revision:v1")
    os.truncate(tmp_path / ".mv", 1 << 40)

    assert holding(tmp_path, None) is None


@pytest.mark.parametrize("name", [".mdl", ".mv", ".msc"])
def test_a_pipe_at_the_name_of_a_book_blocks_nobody(tmp_path: Path, name: str) -> None:
    """Whoever may write there could put one: it is no book."""
    os.mkfifo(tmp_path / name)

    assert holding(tmp_path, None) is None
