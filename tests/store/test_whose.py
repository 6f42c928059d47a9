"""Which repository a folder says it holds."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from modelhaul.core.repo import RepoRef
from modelhaul.store.whose import Holding, holding


def made(path: Path, **books: bytes) -> Path:
    """A folder with a file in it and some books."""
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    for name, content in books.items():
        (path / f".{name}").write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("below", "ref"),
    [
        ("models/o--n/snapshots/master", RepoRef("modelscope", "model", "o", "n", "master")),
        ("models/o--a--b/snapshots/v1.0", RepoRef("modelscope", "model", "o", "a--b", "v1.0")),
        ("datasets/o--n.x/snapshots/dev/1", RepoRef("modelscope", "dataset", "o", "n.x", "dev/1")),
    ],
)
def test_a_folder_of_the_cache_names_its_repository(
    tmp_path: Path, below: str, ref: RepoRef
) -> None:
    """Kind, owner, name and revision stand in its path."""
    folder = made(tmp_path / "cache" / below)

    assert holding(folder, None) == Holding(ref, tmp_path / "cache")


def test_a_link_to_a_folder_of_the_cache_is_that_folder(tmp_path: Path) -> None:
    """People link a model to where a program looks for it."""
    folder = made(tmp_path / "cache/models/o--n/snapshots/master")
    (tmp_path / "here").symlink_to(folder)

    assert holding(tmp_path / "here", None) == holding(folder, None)


@pytest.mark.parametrize("below", ["hub/models/o/n___5", "models/o/n___5", "o/n___5"])
def test_a_folder_of_the_old_cache_names_its_repository_in_its_book(
    tmp_path: Path, below: str
) -> None:
    """`.mdl` has the name with `___` for dots, `.mv` the revision."""
    book = pickle.dumps({"id": "o/n___5"})
    folder = made(tmp_path / "cache" / below, mdl=book, mv=b"Revision:v2,CreatedAt:1700000000")

    ref = RepoRef("modelscope", "model", "o", "n.5", "v2")
    assert holding(folder, None) == Holding(ref, tmp_path / "cache")


def test_a_dataset_of_the_old_cache_is_known_by_its_path(tmp_path: Path) -> None:
    """`.msc` says that the folder is the cache's."""
    folder = made(tmp_path / "cache/datasets/o/n", msc=pickle.dumps([]))

    ref = RepoRef("modelscope", "dataset", "o", "n")
    assert holding(folder, None) == Holding(ref, tmp_path / "cache")


def test_a_revision_that_was_given_wins(tmp_path: Path) -> None:
    """Then the folder is no longer the cache's place of what it is compared with."""
    folder = made(tmp_path / "cache/models/o--n/snapshots/master")

    assert holding(folder, "v1") == Holding(RepoRef("modelscope", "model", "o", "n", "v1"), None)


class Evil:
    """A pickle that would make a folder when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (Path("/tmp/pwned-by-a-test"),)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("below", "books"),
    [
        ("plain", {}),
        ("models/snapshots/master", {}),
        ("models/o--n/snapshots", {}),
        ("models/o--n/blobs/master", {}),
        ("spaces/o--n/snapshots/master", {}),
        ("models/--n/snapshots/master", {}),
        ("models/o--n/snapshots/a~b", {}),
        ("plain", {"mdl": b"junk"}),
        ("plain", {"mdl": pickle.dumps({"id": "unknown"})}),
        ("plain", {"mdl": pickle.dumps({"id": 5})}),
        ("plain", {"mdl": pickle.dumps(["o/n"])}),
        ("plain", {"mdl": pickle.dumps(Evil())}),
    ],
)
def test_any_other_folder_says_nothing(tmp_path: Path, below: str, books: dict[str, bytes]) -> None:
    """A plain folder, what only looks like a cache's, a book that cannot be read."""
    assert holding(made(tmp_path / below, **books), None) is None
    assert not Path("/tmp/pwned-by-a-test").exists()
