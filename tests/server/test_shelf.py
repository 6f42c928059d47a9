"""Folders as repositories: what counts as one, what is in it, and which commit it has."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelhaul.core.repo import is_commit
from modelhaul.server.shelf import ServedSnapshot, Shelf, Shelved
from modelhaul.store.index import Entry, Known, ProvenIndex
from modelhaul.store.osfile import Stamp
from tests.server.conftest import Shelve
from tests.support.inline import InlineThreads
from tests.support.virtual import virtual


@pytest.fixture
def index(tmp_path: Path) -> Iterator[ProvenIndex]:
    found = ProvenIndex(tmp_path / "proven.sqlite")
    yield found
    found.close()


def listed(shelf: Shelf) -> list[tuple[str, str, list[str]]]:
    """Kind, name and revisions of all repositories."""
    found = virtual(shelf.repositories)
    return [(entry.kind, entry.id, [name for name, _ in entry.folders]) for entry in found]


def only(shelf: Shelf) -> Shelved:
    (found,) = virtual(shelf.repositories)
    return found


def read(shelf: Shelf, revision: str = "master") -> ServedSnapshot | None:
    """A revision of the only repository."""
    return virtual(shelf.snapshot, only(shelf), revision)


def test_two_levels_of_folders_are_repositories(shelve: Shelve, index: ProvenIndex) -> None:
    """owner/name is a model, datasets/owner/name a dataset; models/ may be said."""
    root = shelve(
        {
            "Qwen/Qwen3-0.6B/config.json": b"1",
            "models/acme/tiny/w": b"1",
            "datasets/acme/ds/d": b"1",
            "spaces/acme/app/a": b"1",
            "Qwen/a-file": b"1",
            "a-file": b"1",
            ".hidden/x/y": b"1",
            "acme/.hidden/y": b"1",
        }
    )

    assert listed(Shelf(root, index, InlineThreads())) == [
        ("dataset", "acme/ds", ["master"]),
        ("model", "Qwen/Qwen3-0.6B", ["master"]),
        ("model", "acme/tiny", ["master"]),
        ("space", "acme/app", ["master"]),
    ]


def test_revisions_are_folders_beside(shelve: Shelve, index: ProvenIndex) -> None:
    """owner/name@REV; master comes first, and a name that could climb is no revision."""
    root = shelve(
        {
            "o/n@v2/a": b"2",
            "o/n@dev/a": b"d",
            "o/n/a": b"1",
            "o/m@only/a": b"1",
            "o/n@../a": b"x",
            "o/@v1/a": b"x",
        }
    )

    assert listed(Shelf(root, index, InlineThreads())) == [
        ("model", "o/m", ["only"]),
        ("model", "o/n", ["master", "dev", "v2"]),
    ]


def test_a_missing_folder_is_an_empty_shelf(tmp_path: Path, index: ProvenIndex) -> None:
    """Nothing there is nothing to serve, not a crash."""
    assert listed(Shelf(tmp_path / "none", index, InlineThreads())) == []


def test_new_repositories_appear_while_serving(shelve: Shelve, index: ProvenIndex) -> None:
    """The folder is looked at anew each time."""
    shelf = Shelf(shelve({"o/n/a": b"1"}), index, InlineThreads())
    before = listed(shelf)

    shelve({"o/m/a": b"1"})

    assert len(listed(shelf)) == len(before) + 1


def test_a_snapshot_has_every_file_with_size_and_digest(shelve: Shelve, index: ProvenIndex) -> None:
    """Subfolders and odd names included; our own state and .git are not content."""
    content = {"config.json": b"{}", "sub/模型 +&.bin": b"weights", "empty": b"", ".hidden": b"h"}
    hidden = {".modelhaul/parts/x": b"p", ".git/config": b"g", "sub/.git/config": b"g"}
    root = shelve({f"o/n/{path}": data for path, data in {**content, **hidden}.items()})

    found = read(Shelf(root, index, InlineThreads()))

    assert found is not None
    assert {path: (file.size, file.sha256) for path, file in found.files.items()} == {
        path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in content.items()
    }


def test_links_are_followed(shelve: Shelve, tmp_path: Path, index: ProvenIndex) -> None:
    """A Hugging Face cache is links to blobs: files and folders behind links are content."""
    root = shelve({"o/n/a": b"1"})
    (tmp_path / "blobs" / "inner").mkdir(parents=True)
    (tmp_path / "blobs" / "b").write_bytes(b"22")
    (tmp_path / "blobs" / "inner" / "c").write_bytes(b"333")
    (root / "o/n/linked").symlink_to(tmp_path / "blobs" / "b")
    (root / "o/n/folder").symlink_to(tmp_path / "blobs" / "inner")

    found = read(Shelf(root, index, InlineThreads()))

    assert found is not None
    assert {path: file.size for path, file in found.files.items()} == {
        "a": 1,
        "linked": 2,
        "folder/c": 3,
    }


def test_what_is_no_file_is_not_content(shelve: Shelve, index: ProvenIndex) -> None:
    """A dangling link or a pipe would fail, or block, whoever reads it."""
    root = shelve({"o/n/a": b"1"})
    (root / "o/n/dangling").symlink_to("nowhere")
    os.mkfifo(root / "o/n/pipe")

    found = read(Shelf(root, index, InlineThreads()))

    assert found is not None
    assert list(found.files) == ["a"]


def test_the_commit_stays_while_nothing_changes(shelve: Shelve, index: ProvenIndex) -> None:
    """The same content has the same commit, in another place and after a restart too."""
    root = shelve({"o/n/a": b"1", "o/n/b/c": b"2", "p/m/a": b"1", "p/m/b/c": b"2"})

    async def commits() -> set[str]:
        seen = set()
        for _ in range(2):
            shelf = Shelf(root, index, InlineThreads())
            for entry in await shelf.repositories():
                found = await shelf.snapshot(entry, "master")
                assert found is not None
                seen.add(found.commit)
        return seen

    (commit,) = virtual(commits)
    assert is_commit(commit)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"o/n/a": b"3"}, id="content"),
        pytest.param({"o/n/new": b""}, id="new-file"),
        pytest.param({"o/n/b/a": b"1"}, id="new-place"),
    ],
)
def test_a_change_makes_a_new_commit(
    shelve: Shelve, index: ProvenIndex, change: dict[str, bytes]
) -> None:
    """The old commit is gone: a client that pinned it must not get a mixture."""
    shelf = Shelf(shelve({"o/n/a": b"1"}), index, InlineThreads())
    old = read(shelf)
    assert old is not None

    shelve(change)

    new = read(shelf)
    assert new is not None
    assert new.commit != old.commit
    assert read(shelf, old.commit) is None
    assert read(shelf, new.commit) == new


def test_revisions_are_found_by_name_and_by_commit(shelve: Shelve, index: ProvenIndex) -> None:
    """Anything else is unknown."""
    shelf = Shelf(shelve({"o/n/a": b"1", "o/n@v1/a": b"2"}), index, InlineThreads())

    master, tag = read(shelf, "master"), read(shelf, "v1")

    assert master is not None
    assert tag is not None
    assert master.commit != tag.commit
    assert read(shelf, tag.commit) == tag
    assert read(shelf, "v2") is None
    assert read(shelf, "f" * 40) is None
    assert read(shelf, "") is None


def test_a_repository_is_found_by_kind_and_name(shelve: Shelve, index: ProvenIndex) -> None:
    """Case counts, and a dataset is not a model."""
    shelf = Shelf(shelve({"o/n/a": b"1"}), index, InlineThreads())

    assert virtual(shelf.find, "model", "o", "n") is not None
    assert virtual(shelf.find, "dataset", "o", "n") is None
    assert virtual(shelf.find, "model", "O", "n") is None
    assert virtual(shelf.find, "model", "..", "n") is None


def test_digests_are_remembered(shelve: Shelve, index: ProvenIndex) -> None:
    """Restarting the server does not hash terabytes again."""
    root = shelve({"o/n/a": b"1" * 1000})
    first = read(Shelf(root, index, InlineThreads()))
    assert first is not None
    stamp = first.files["a"].stamp

    known = index.lookup(root / "o/n/a", stamp)

    assert known is not None
    assert known.sha256 == first.files["a"].sha256
    assert not known.ours


def test_git_names_are_remembered(shelve: Shelve, index: ProvenIndex) -> None:
    """Beside the SHA-256; of a file in LFS there is none, whatever is remembered."""
    root = shelve({"o/n/a.txt": b"1", "o/n/w.bin": b"2"})
    places = [root / "o/n/a.txt", root / "o/n/w.bin"]
    known = Known("e" * 64, None, ours=False, git_sha1="a" * 40)
    index.remember(Entry(place, Stamp.of(place.stat()), known) for place in places)

    found = read(Shelf(root, index, InlineThreads()))

    assert found is not None
    assert found.files["a.txt"].git_sha1 == "a" * 40
    assert found.files["w.bin"].git_sha1 is None
    assert found.files["w.bin"].sha256 == "e" * 64


def test_a_memory_without_git_names_is_filled_up(shelve: Shelve, index: ProvenIndex) -> None:
    """What a download or an earlier version remembered stays known, and whose it is."""
    root = shelve({"o/n/a.txt": b"1"})
    place = root / "o/n/a.txt"
    stamp = Stamp.of(place.stat())
    index.remember([Entry(place, stamp, Known("e" * 64, '"v"', ours=True))])

    found = read(Shelf(root, index, InlineThreads()))

    git = hashlib.sha1(b"blob 1\x001").hexdigest()
    assert found is not None
    assert found.files["a.txt"].git_sha1 == git
    sha256 = hashlib.sha256(b"1").hexdigest()
    assert index.lookup(place, stamp) == Known(sha256, '"v"', ours=True, git_sha1=git)


def test_the_other_name_of_the_default_revision(shelve: Shelve, index: ProvenIndex) -> None:
    """`main` is `master`, unless there is a folder of that name."""
    root = shelve({"o/n/a": b"1"})
    shelf = Shelf(root, index, InlineThreads())
    assert read(shelf, "main") == read(shelf, "master") is not None

    shelve({"o/n@main/a": b"2"})

    assert read(shelf, "main") != read(shelf, "master")
    assert read(shelf, "main") is not None


def test_nothing_is_hashed_twice_while_serving(shelve: Shelve, index: ProvenIndex) -> None:
    """An unchanged folder costs a look, not a hash."""
    threads = InlineThreads()
    shelf = Shelf(shelve({"o/n/a": b"1"}), index, threads)

    first, second = read(shelf), read(shelf)

    assert first is second
    assert threads.calls.count("hash") == 1


def test_a_file_is_found_by_its_digest(shelve: Shelve, index: ProvenIndex) -> None:
    """That is what signed addresses name; only what was listed can be had."""
    shelf = Shelf(shelve({"o/n/a": b"1", "o/m/b": b"2"}), index, InlineThreads())
    digest = hashlib.sha256(b"1").hexdigest()
    before = virtual(shelf.by_digest, digest)

    async def list_all() -> None:
        for entry in await shelf.repositories():
            await shelf.snapshot(entry, "master")

    virtual(list_all)

    found = virtual(shelf.by_digest, digest)
    assert before is None
    assert found is not None
    assert found.path == "a"
    assert virtual(shelf.by_digest, "0" * 64) is None


def test_a_file_knows_whether_it_is_still_the_one_that_was_hashed(
    shelve: Shelve, index: ProvenIndex
) -> None:
    """Replaced, rewritten or removed: it is not."""
    root = shelve({"o/n/a": b"1", "o/n/b": b"1", "o/n/c": b"1"})
    found = read(Shelf(root, index, InlineThreads()))
    assert found is not None

    (root / "o/n/a").write_bytes(b"22")
    (root / "o/n/b").unlink()

    assert [found.files[path].unchanged() for path in "abc"] == [False, False, True]
