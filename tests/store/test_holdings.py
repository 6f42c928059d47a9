"""What is on this disk already: by memory, by name, by place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelhaul.core.repo import RemoteFile, RepoRef
from modelhaul.store.holdings import Held, Holdings
from modelhaul.store.index import Entry, Known, ProvenIndex
from modelhaul.store.osfile import Stamp
from tests.support.watch import disk_calls

DATA = b"weights" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()
WANTED = RemoteFile("sub/model.bin", len(DATA), sha256=DIGEST)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[ProvenIndex]:
    made = ProvenIndex(tmp_path / "state" / "proven.sqlite")
    yield made
    made.close()


def put(path: Path, data: bytes = DATA) -> Path:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def remember(index: ProvenIndex, path: Path, digest: str = DIGEST) -> None:
    """As after a download."""
    index.remember([Entry(path, Stamp.of(path.lstat()), Known(digest, None, ours=True))])


def found(holdings: Holdings, file: RemoteFile = WANTED) -> Held | None:
    return holdings.find([file]).get(file.content or "")


def test_what_was_proven_anywhere_is_found(tmp_path: Path, index: ProvenIndex) -> None:
    """Under whatever name."""
    path = put(tmp_path / "elsewhere" / "any.name")
    remember(index, path)

    assert found(Holdings(index)) == Held(path, sure=True)


def test_of_what_was_proven_a_blob_is_found_first(tmp_path: Path, index: ProvenIndex) -> None:
    """Whenever that was: only a blob can get a second name. Else the newest."""
    paths = [
        tmp_path / "plain" / "model.bin",
        tmp_path / "models--o--n" / "blobs" / DIGEST,
        tmp_path / "later" / "model.bin",
    ]
    for path in paths:
        remember(index, put(path))

    first = found(Holdings(index))
    paths[1].unlink()

    assert first == Held(paths[1], sure=True)
    assert found(Holdings(index)) == Held(paths[2], sure=True)


def test_what_was_proven_and_has_changed_since_is_not(tmp_path: Path, index: ProvenIndex) -> None:
    """Another content of the same length, and one that is gone."""
    changed, gone = put(tmp_path / "changed"), put(tmp_path / "gone")
    remember(index, changed)
    remember(index, gone)
    changed.write_bytes(DATA[::-1])
    gone.unlink()

    assert found(Holdings(index)) is None


def test_what_git_names_is_found_by_that_name(tmp_path: Path, index: ProvenIndex) -> None:
    """Proven anywhere, or in a store of blobs; the Hub states nothing else of a small file."""
    name = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest()
    file = RemoteFile("config.json", len(DATA), git_sha1=name)
    blob = put(tmp_path / "blobs" / name)

    assert found(Holdings(index, blobs=[tmp_path / "blobs"]), file) == Held(blob, sure=True)

    proven = put(tmp_path / "proven")
    known = Known(DIGEST, None, ours=True, git_sha1=name)
    index.remember([Entry(proven, Stamp.of(proven.lstat()), known)])
    assert found(Holdings(index), file) == Held(proven, sure=True)


def test_a_blob_is_found_by_its_name(tmp_path: Path, index: ProvenIndex) -> None:
    """In any of the stores, and by way of a link into a shared one."""
    shared = put(tmp_path / "shared" / "xyz")
    store = tmp_path / "hub" / "models--o--n" / "blobs"
    store.mkdir(parents=True)
    (store / DIGEST).symlink_to(shared)

    holdings = Holdings(index, blobs=[tmp_path / "missing", store])

    assert found(holdings) == Held(shared, sure=True)


@pytest.mark.parametrize("size", [0, len(DATA) - 1])
def test_a_blob_of_another_size_is_not(tmp_path: Path, index: ProvenIndex, size: int) -> None:
    """Cut short, whatever its name says."""
    put(tmp_path / "blobs" / DIGEST, DATA[:size])

    assert found(Holdings(index, blobs=[tmp_path / "blobs"])) is None


def test_a_file_at_the_same_place_of_another_snapshot_has_to_be_hashed(
    tmp_path: Path, index: ProvenIndex
) -> None:
    """Path and size say that it may be the one, no more."""
    blob = put(tmp_path / "blob", DATA[::-1])
    link = tmp_path / "snapshot" / WANTED.path
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)

    assert found(Holdings(index, snapshots=[tmp_path / "snapshot"])) == Held(blob, sure=False)


@pytest.mark.parametrize("same", [True, False])
def test_what_is_known_of_it_is_not_hashed_again(
    tmp_path: Path, index: ProvenIndex, same: bool
) -> None:
    """Neither the right one nor a wrong one."""
    path = put(tmp_path / "snapshot" / WANTED.path)
    remember(index, path, DIGEST if same else "0" * 64)

    expected = Held(path, sure=True) if same else None
    assert found(Holdings(index, snapshots=[tmp_path / "snapshot"])) == expected


@pytest.mark.parametrize(
    "file",
    [RemoteFile("model.bin", len(DATA)), RemoteFile("model.bin", 0, sha256=DIGEST)],
)
def test_what_no_digest_names_is_not_looked_for(
    tmp_path: Path, index: ProvenIndex, file: RemoteFile
) -> None:
    """Nothing could be proven of it."""
    put(tmp_path / "snapshot" / "model.bin", DATA[: file.size])

    assert Holdings(index, snapshots=[tmp_path / "snapshot"]).find([file]) == {}


def test_a_folder_or_a_loop_of_links_is_nothing(tmp_path: Path, index: ProvenIndex) -> None:
    """Nor is a pipe: reading it would wait for ever."""
    (tmp_path / "a" / WANTED.path).mkdir(parents=True)
    loop = tmp_path / "b" / WANTED.path
    loop.parent.mkdir(parents=True)
    loop.symlink_to(loop)

    assert found(Holdings(index, snapshots=[tmp_path / "a", tmp_path / "b"])) is None


def test_thousands_of_digests_are_found_at_once(tmp_path: Path, index: ProvenIndex) -> None:
    """More than one question to the database may hold."""
    path = put(tmp_path / "one")
    remember(index, path)
    files = [RemoteFile(f"f{n}", 5, sha256=f"{n:064x}") for n in range(2500)]

    assert Holdings(index).find([*files, WANTED]) == {WANTED.content: Held(path, sure=True)}


def test_where_nothing_is_held_the_disk_is_not_asked_for_every_file(
    tmp_path: Path, index: ProvenIndex
) -> None:
    """A listing may have 100,000 files, and a new machine has no caches."""
    files = [RemoteFile(f"d/f{n}", 5, sha256=f"{n:064x}") for n in range(1000)]
    ref = RepoRef("modelscope", "model", "o", "n")

    with disk_calls() as calls:
        holdings = Holdings.around(
            index, ref, modelscope=tmp_path / "ms", huggingface=tmp_path / "hf"
        )
        assert holdings.find(files) == {}

    assert len(calls) < 100
