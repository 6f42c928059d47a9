"""Where Hugging Face's tools put files and look for them, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from modelhaul.core.names import fault
from modelhaul.core.repo import Kind, RemoteFile, RepoRef, Snapshot
from modelhaul.errors import ProtocolError, StorageError, UnsafeName
from modelhaul.store.layout import Layout
from modelhaul.store.layout_huggingface import HuggingFaceCache, HuggingFaceFolder, repositories
from tests.store.helpers import descriptors

COMMIT, NEWER = "1" * 40, "2" * 40
REPO = "models--acme--tiny"
CONTENT = {
    "config.json": b"{}\n",
    "empty.txt": b"",
    "model.safetensors": b"weights" * 10,
    "sub dir/deep/same.json": b"{}\n",
    "sub dir/模型+a&b.txt": b"odd",
}


def sha1(data: bytes) -> str:
    """What `git hash-object` says."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def listed(path: str, data: bytes) -> RemoteFile:
    """A file as the hub lists it: weights in LFS, the rest in git."""
    if path.endswith(".safetensors"):
        return RemoteFile(path, len(data), sha256=sha256(data))
    return RemoteFile(path, len(data), git_sha1=sha1(data))


def snapshot(
    content: dict[str, bytes] = CONTENT,
    *,
    commit: str | None = COMMIT,
    revision: str | None = None,
    kind: Kind = "model",
    owner: str = "acme",
) -> Snapshot:
    """A revision of the repository."""
    ref = RepoRef("huggingface", kind, owner, "tiny", revision)
    return Snapshot(ref, commit, tuple(listed(path, data) for path, data in content.items()))


def fill(
    layout: Layout,
    found: Snapshot,
    content: dict[str, bytes] = CONTENT,
    *,
    only: Sequence[str] = (),
    finish: bool = True,
) -> None:
    """Put files in their places, in the order of a run."""
    files = [file for file in found.files if not only or file.path in only]
    layout.before([file.path for file in files])
    for file in files:
        final = layout.final(file.path)
        final.parent.mkdir(parents=True, exist_ok=True)
        final.write_bytes(content[file.path])
    layout.after(files)
    if finish:
        layout.finish()


def cached(hub: Path, found: Snapshot | None = None, content: dict[str, bytes] = CONTENT) -> Path:
    """A cache with a whole snapshot; the repository's folder in it."""
    found = found or snapshot(content)
    layout = HuggingFaceCache.at(hub, found)
    fill(layout, found, content)
    assert not list(layout.state.iterdir())
    layout.state.rmdir()  # as a run does in the end
    return layout.root


def names(folder: Path) -> list[str]:
    """Everything below a folder that is no folder."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of everything below a folder."""
    return {
        path.relative_to(folder).as_posix(): (path.lstat().st_ino, path.lstat().st_ctime_ns)
        for path in folder.rglob("*")
    }


# -- the cache ---------------------------------------------------------------------------------


def test_a_cache_is_what_the_official_client_makes(tmp_path: Path) -> None:
    """Blobs by their names, relative links, the ref without a newline; nothing else anywhere."""
    root = cached(tmp_path / "hub")

    lfs, config = sha256(CONTENT["model.safetensors"]), sha1(b"{}\n")
    assert root == tmp_path / "hub" / REPO
    assert os.listdir(tmp_path / "hub") == [REPO]
    assert names(root / "blobs") == sorted([lfs, config, sha1(b""), sha1(b"odd")])
    assert (root / "blobs" / lfs).read_bytes() == CONTENT["model.safetensors"]
    links = {name: os.readlink(root / "snapshots" / name) for name in names(root / "snapshots")}
    assert links == {
        f"{COMMIT}/config.json": f"../../blobs/{config}",
        f"{COMMIT}/empty.txt": f"../../blobs/{sha1(b'')}",
        f"{COMMIT}/model.safetensors": f"../../blobs/{lfs}",
        f"{COMMIT}/sub dir/deep/same.json": f"../../../../blobs/{config}",
        f"{COMMIT}/sub dir/模型+a&b.txt": f"../../../blobs/{sha1(b'odd')}",
    }
    for path, data in CONTENT.items():
        assert (root / "snapshots" / COMMIT / path).read_bytes() == data
    assert (root / "refs" / "main").read_bytes() == COMMIT.encode()
    assert sorted(os.listdir(root)) == ["blobs", "refs", "snapshots", "trees"]


def test_the_tree_is_kept_as_huggingface_hub_2_keeps_it(tmp_path: Path) -> None:
    """Sorted, indented by one; of an LFS file the blob is the pointer's."""
    content = {"w.safetensors": b"weights", "a.txt": b"a", "模.txt": b""}
    root = cached(tmp_path, content=content)

    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(b'weights')}\nsize 7\n"
    ).encode()
    assert (root / "trees" / f"{COMMIT}.json").read_text() == (
        "{\n"
        ' "format_version": 1,\n'
        ' "files": {\n'
        '  "a.txt": {\n'
        '   "size": 1,\n'
        f'   "blob_id": "{sha1(b"a")}"\n'
        "  },\n"
        '  "w.safetensors": {\n'
        '   "size": 7,\n'
        f'   "blob_id": "{sha1(pointer)}",\n'
        f'   "lfs_sha256": "{sha256(b"weights")}",\n'
        '   "lfs_size": 7\n'
        "  },\n"
        '  "\\u6a21.txt": {\n'
        '   "size": 0,\n'
        f'   "blob_id": "{sha1(b"")}"\n'
        "  }\n"
        " }\n"
        "}"
    )


def test_the_tree_has_the_names_that_the_hub_states(tmp_path: Path) -> None:
    """A pointer in another form has another name; of what lies in xet there is one more."""
    said = RemoteFile("w", 7, sha256=sha256(b"weights"), pointer="e" * 40, xet="d" * 64)
    found = replace(snapshot({}), files=(said, RemoteFile("a", 1, git_sha1="f" * 40)))

    HuggingFaceCache.at(tmp_path, found).before([])

    tree = json.loads((tmp_path / REPO / "trees" / f"{COMMIT}.json").read_text())
    assert list(tree["files"].items()) == [
        ("a", {"size": 1, "blob_id": "f" * 40}),
        (
            "w",
            {
                "size": 7,
                "blob_id": "e" * 40,
                "lfs_sha256": sha256(b"weights"),
                "lfs_size": 7,
                "xet_hash": "d" * 64,
            },
        ),
    ]


@pytest.mark.parametrize(
    ("kind", "owner", "folder"),
    [
        ("model", "acme", "models--acme--tiny"),
        ("dataset", "acme", "datasets--acme--tiny"),
        ("space", "acme", "spaces--acme--tiny"),
        ("model", "", "models--tiny"),
    ],
)
def test_a_repository_has_a_folder_of_its_own(
    tmp_path: Path, kind: Kind, owner: str, folder: str
) -> None:
    """By kind, owner and name; the oldest have no owner."""
    layout = HuggingFaceCache.at(tmp_path, snapshot(kind=kind, owner=owner))

    assert layout.root == tmp_path / folder
    assert layout.shown == tmp_path / folder / "snapshots" / COMMIT
    assert layout.state == tmp_path / folder / ".modelhaul"
    assert layout.owned
    assert not layout.mutable
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1"])
def test_the_name_of_a_revision_is_written(tmp_path: Path, revision: str) -> None:
    """In folders, where it has slashes."""
    root = cached(tmp_path, snapshot(revision=revision))

    assert names(root / "refs") == [revision]
    assert (root / "refs" / revision).read_bytes() == COMMIT.encode()


def test_a_commit_is_no_name(tmp_path: Path) -> None:
    """Who asks for a commit needs no ref."""
    root = cached(tmp_path, snapshot(revision=COMMIT))

    assert not (root / "refs").exists()


def test_revisions_share_their_blobs(tmp_path: Path) -> None:
    """A second commit costs what changed; the first stays whole."""
    first = cached(tmp_path)
    before = state_of(first / "blobs")
    newer = {**CONTENT, "config.json": b'{"new": 1}\n'}
    found = snapshot(newer, commit=NEWER)
    layout = HuggingFaceCache.at(tmp_path, found)
    there = [file for file in found.files if layout.final(file.path).exists()]

    fill(layout, found, newer, only=["config.json"], finish=False)
    layout.after(there)
    layout.finish()

    assert len(there) == 4
    assert state_of(first / "blobs").items() >= before.items()
    assert len(names(first / "blobs")) == 5
    for path in CONTENT:
        assert (first / "snapshots" / COMMIT / path).read_bytes() == CONTENT[path]
        assert (first / "snapshots" / NEWER / path).read_bytes() == newer[path]
    assert (first / "refs" / "main").read_bytes() == NEWER.encode()


def test_what_their_tools_need_is_there_before_the_first_byte(tmp_path: Path) -> None:
    """A kill leaves no broken repository, and the listing says what is missing."""
    layout = HuggingFaceCache.at(tmp_path, snapshot())

    layout.before(CONTENT)

    assert (layout.root / "snapshots").is_dir()
    assert names(layout.root) == [f"trees/{COMMIT}.json"]


def test_the_name_is_changed_last(tmp_path: Path) -> None:
    """As long as something is missing, who looks up the branch gets the old commit."""
    root = cached(tmp_path)
    newer = {**CONTENT, "config.json": b"new"}
    found = snapshot(newer, commit=NEWER)
    layout = HuggingFaceCache.at(tmp_path, found)

    fill(layout, found, newer, only=["config.json"], finish=False)

    assert (root / "refs" / "main").read_bytes() == COMMIT.encode()
    assert names(root / "snapshots" / NEWER) == ["config.json"]
    # And their tools know from the tree that this is not all of it.
    assert len(json.loads((root / "trees" / f"{NEWER}.json").read_text())["files"]) == 5


def test_a_selection_is_linked_alone(tmp_path: Path) -> None:
    """The tree names all files all the same: it is the commit's, not the selection's."""
    found = snapshot()
    layout = HuggingFaceCache.at(tmp_path, found)

    fill(layout, found, only=["config.json"])

    assert names(layout.root / "snapshots") == [f"{COMMIT}/config.json"]
    assert (layout.root / "refs" / "main").read_bytes() == COMMIT.encode()
    tree = json.loads((layout.root / "trees" / f"{COMMIT}.json").read_text())
    assert sorted(tree["files"]) == sorted(CONTENT)


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    """A second run over a whole snapshot changes no name and no time of anything."""
    root = cached(tmp_path)
    before = state_of(root)

    found = snapshot()
    layout = HuggingFaceCache.at(tmp_path, found)
    layout.after(found.files)
    layout.finish()

    assert state_of(root) == before


@pytest.mark.parametrize("wrong", ["elsewhere", "file", "dangling"])
def test_a_name_that_leads_elsewhere_is_put_right(tmp_path: Path, wrong: str) -> None:
    """By one rename: there is no moment without the name."""
    root = cached(tmp_path)
    pointer = root / "snapshots" / COMMIT / "config.json"
    pointer.unlink()
    if wrong == "file":
        # As an old client left it, or a user: it is taken for what it is and replaced.
        pointer.write_bytes(b"else")
    else:
        (tmp_path / "elsewhere").write_bytes(b"else")
        pointer.symlink_to(tmp_path / wrong)

    found = snapshot()
    layout = HuggingFaceCache.at(tmp_path, found)
    fill(layout, found)

    assert pointer.read_bytes() == CONTENT["config.json"]
    assert pointer.is_symlink() == (wrong != "file")
    assert not (tmp_path / "elsewhere").exists() or (tmp_path / "elsewhere").read_bytes() == b"else"


def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """Names come from a server; a link in the snapshot may lead anywhere."""
    found = snapshot()
    layout = HuggingFaceCache.at(tmp_path / "hub", found)
    (tmp_path / "elsewhere").mkdir()
    (layout.root / "snapshots" / COMMIT).mkdir(parents=True)
    (layout.root / "snapshots" / COMMIT / "sub dir").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(UnsafeName):
        fill(layout, found)

    assert not list((tmp_path / "elsewhere").iterdir())
    assert not (layout.root / "refs").exists()


def test_a_folder_that_is_a_link_does_not_cost_the_others(tmp_path: Path) -> None:
    """All that can be linked is."""
    found = snapshot()
    layout = HuggingFaceCache.at(tmp_path / "hub", found)
    (layout.root / "snapshots" / COMMIT).mkdir(parents=True)
    (layout.root / "snapshots" / COMMIT / "sub dir").symlink_to(tmp_path)

    with pytest.raises(UnsafeName):
        fill(layout, found)

    assert {path for path in CONTENT if (layout.shown / path).exists()} == {
        path for path in CONTENT if not path.startswith("sub dir/")
    }


@pytest.mark.parametrize("folder", ["refs", "trees", "snapshots"])
def test_a_linked_folder_of_the_cache_gets_no_books(tmp_path: Path, folder: str) -> None:
    """Their tools never make one."""
    found = snapshot()
    layout = HuggingFaceCache.at(tmp_path / "hub", found)
    (tmp_path / "elsewhere").mkdir()
    layout.root.mkdir(parents=True)
    (layout.root / folder).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(UnsafeName):
        fill(layout, found)

    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_linked_folder_of_metadata_is_not_entered(tmp_path: Path) -> None:
    """Neither to strike what is said of a file nor to say it."""
    found = snapshot()
    layout = HuggingFaceFolder.at(tmp_path / "m", found)
    (tmp_path / "elsewhere").mkdir()
    kept = tmp_path / "elsewhere" / "config.json.metadata"
    kept.write_bytes(b"mine")
    books = tmp_path / "m" / ".cache" / "huggingface"
    books.mkdir(parents=True)
    (books / "download").symlink_to(tmp_path / "elsewhere")
    for file in found.files:
        layout.final(file.path).parent.mkdir(parents=True, exist_ok=True)
        layout.final(file.path).write_bytes(CONTENT[file.path])

    for step in (layout.before, lambda paths: layout.after(found.files)):
        with pytest.raises(UnsafeName):
            step(["config.json"])

    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == [kept.name]
    assert kept.read_bytes() == b"mine"


@pytest.mark.parametrize("place", ["refs/main", "trees"])
def test_what_would_block_for_ever_is_not_read(tmp_path: Path, place: str) -> None:
    """A FIFO where a book should be is replaced, or left alone."""
    found = snapshot()
    layout = HuggingFaceCache.at(tmp_path, found)
    fifo = layout.root / (place if place != "trees" else f"trees/{COMMIT}.json")
    fifo.parent.mkdir(parents=True)
    os.mkfifo(fifo)

    fill(layout, found)

    assert (layout.shown / "config.json").read_bytes() == CONTENT["config.json"]


def test_a_repository_may_lie_on_another_disk(tmp_path: Path) -> None:
    """By a link in the cache: everything of it goes there, and the name stays the user's."""
    (tmp_path / "hub").mkdir()
    (tmp_path / "big").mkdir()
    (tmp_path / "hub" / REPO).symlink_to(tmp_path / "big")

    found = snapshot()
    layout = HuggingFaceCache.at(tmp_path / "hub", found)
    fill(layout, found)

    assert layout.root == tmp_path / "big"
    assert layout.shown == tmp_path / "hub" / REPO / "snapshots" / COMMIT
    assert (layout.shown / "config.json").read_bytes() == CONTENT["config.json"]
    assert layout.state.parent == tmp_path / "big"


def test_an_unsafe_name_is_not_even_looked_at(tmp_path: Path) -> None:
    """The run refuses it; the layout must not stumble over it."""
    found = snapshot({"../../../../x": b"evil", "a\0b": b"evil", "good": b"good"})

    layout = HuggingFaceCache.at(tmp_path, found)
    fill(layout, found, {"good": b"good"}, only=["good"])

    assert (layout.shown / "good").read_bytes() == b"good"


def test_without_a_commit_there_is_no_layout(tmp_path: Path) -> None:
    """A hub that does not say which commit it serves, or says what would be a path."""
    for commit in (None, "../../x", "main"):
        for at in (HuggingFaceCache.at, HuggingFaceFolder.at):
            with pytest.raises(ProtocolError):
                at(tmp_path, snapshot(commit=commit))


def test_a_listing_with_a_nameless_file_is_not_kept(tmp_path: Path) -> None:
    """Their tools would take the tree for the whole; the file stands in the snapshot itself."""
    found = snapshot()
    nameless = RemoteFile("new", 1, validator='"v"')
    found = Snapshot(found.ref, found.commit, (*found.files, nameless))
    layout = HuggingFaceCache.at(tmp_path, found)

    fill(layout, found, {**CONTENT, "new": b"1"})

    assert not (layout.root / "trees").exists()
    assert layout.final("new") == layout.shown / "new"
    assert not layout.final("new").is_symlink()


# -- where links cannot be made ------------------------------------------------------------------


def test_a_file_that_stands_in_the_snapshot_itself_is_used(tmp_path: Path) -> None:
    """Their client leaves it there where links are off; it is not wanted as a blob besides."""
    found = snapshot()
    plain = HuggingFaceCache.at(tmp_path, found).shown / "model.safetensors"
    plain.parent.mkdir(parents=True)
    plain.write_bytes(CONTENT["model.safetensors"])

    layout = HuggingFaceCache.at(tmp_path, found)
    assert layout.final("model.safetensors") == plain
    fill(layout, found, only=["config.json", "model.safetensors"])

    assert not plain.is_symlink()
    assert names(layout.root / "blobs") == [sha1(CONTENT["config.json"])]


def test_without_links_the_files_stand_in_the_snapshot(tmp_path: Path) -> None:
    """`blobs` is not even made, as the official client leaves it empty."""
    found = snapshot()
    layout = HuggingFaceCache.at(tmp_path / "hub", found, links=False)
    fill(layout, found)

    for path, data in CONTENT.items():
        assert layout.final(path) == layout.shown / path
        assert (layout.shown / path).read_bytes() == data
    assert sorted(os.listdir(layout.root)) == [".modelhaul", "refs", "snapshots", "trees"]
    assert (layout.root / "refs" / "main").read_bytes() == COMMIT.encode()


# -- places that cannot be written ---------------------------------------------------------------


def test_a_read_only_cache_can_be_used(tmp_path: Path, mount: Callable[..., None]) -> None:
    """All is there: neither the tree nor the ref, which an old client left out, is an error."""
    (tmp_path / "hub").mkdir()
    mount("tmpfs", tmp_path / "hub")
    root = cached(tmp_path / "hub")
    (root / "trees" / f"{COMMIT}.json").unlink()
    (root / "refs" / "main").write_text(NEWER)
    subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "hub")], check=True)

    found = snapshot()
    layout = HuggingFaceCache.at(tmp_path / "hub", found)
    layout.after(found.files)
    layout.finish()

    assert (layout.shown / "config.json").read_bytes() == CONTENT["config.json"]
    assert (root / "refs" / "main").read_text() == NEWER


def test_a_link_that_is_missing_in_a_read_only_cache_is_an_error(
    tmp_path: Path, mount: Callable[..., None]
) -> None:
    """The file would not be where the report says."""
    (tmp_path / "hub").mkdir()
    mount("tmpfs", tmp_path / "hub")
    root = cached(tmp_path / "hub")
    (root / "snapshots" / COMMIT / "config.json").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "hub")], check=True)

    found = snapshot()
    with pytest.raises(StorageError, match="linking"):
        HuggingFaceCache.at(tmp_path / "hub", found).after(found.files)


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, tiny_disk: Callable[..., Path]
) -> None:
    """Neither a cut ref nor a link draft, and no descriptor."""
    disk = tiny_disk(kib=64)
    found = snapshot()
    layout = HuggingFaceCache.at(disk, found)
    fill(layout, found, finish=False)
    filler, room = disk / "filler", os.statvfs(disk)
    filler.write_bytes(bytes(room.f_bavail * room.f_bsize))
    before = descriptors()

    with pytest.raises(StorageError):
        layout.finish()

    assert descriptors() == before
    assert not (layout.root / "refs" / "main").exists()
    assert not layout.state.exists() or not list(layout.state.iterdir())
    filler.unlink()
    layout.finish()
    assert (layout.root / "refs" / "main").read_bytes() == COMMIT.encode()


def test_the_repositories_of_a_cache_are_found(tmp_path: Path) -> None:
    """By the names of their folders; a cache that is not there has none."""
    for name in (
        "models--o--n",
        "models--gpt2",
        "datasets--o--d",
        "spaces--o--s",
        "blobs",
        ".locks",
    ):
        (tmp_path / name).mkdir()

    assert [path.name for path in repositories(tmp_path)] == [
        "datasets--o--d",
        "models--gpt2",
        "models--o--n",
        "spaces--o--s",
    ]
    assert repositories(tmp_path / "gone") == []


# -- a local folder ----------------------------------------------------------------------------


def metadata(root: Path, path: str) -> tuple[str, str, float]:
    """What is said of a file: commit, content, moment."""
    text = (root / ".cache/huggingface/download" / f"{path}.metadata").read_text()
    commit, name, moment, rest = text.split("\n")
    assert rest == ""
    return commit, name, float(moment)


def test_a_local_folder_has_metadata_beside_the_files(tmp_path: Path) -> None:
    """As the official client writes them, and nothing else."""
    found = snapshot()
    layout = HuggingFaceFolder.at(tmp_path / "m", found)
    began = time.time()

    fill(layout, found)

    layout.state.rmdir()
    books = tmp_path / "m" / ".cache" / "huggingface"
    assert names(tmp_path / "m") == sorted(
        [
            *CONTENT,
            ".cache/huggingface/.gitignore",
            ".cache/huggingface/CACHEDIR.TAG",
            f".cache/huggingface/trees/{COMMIT}.json",
            *(f".cache/huggingface/download/{path}.metadata" for path in CONTENT),
        ]
    )
    assert (books / ".gitignore").read_bytes() == b"*"
    assert len((books / "CACHEDIR.TAG").read_bytes()) == 191
    for path, data in CONTENT.items():
        commit, name, moment = metadata(tmp_path / "m", path)
        lfs = path.endswith(".safetensors")
        assert (commit, name) == (COMMIT, sha256(data) if lfs else sha1(data))
        assert began <= moment <= time.time()
    assert not layout.owned
    assert fault(".cache/huggingface/download/config.json.metadata", reserved=layout.reserved)


def test_metadata_that_are_believed_are_left_alone(tmp_path: Path) -> None:
    """A second run writes nothing at all."""
    found = snapshot()
    layout = HuggingFaceFolder.at(tmp_path, found)
    fill(layout, found)
    layout.state.rmdir()
    before = state_of(tmp_path)

    layout.after(found.files)
    layout.finish()

    assert state_of(tmp_path) == before


@pytest.mark.parametrize(
    "said", ["", "x\ny\n1\n", f"{COMMIT}\n{'0' * 40}\n9e9\n", f"{COMMIT}\nNAME\n1\n", "{COMMIT}"]
)
def test_metadata_that_are_not_believed_are_renewed(tmp_path: Path, said: str) -> None:
    """Damaged, of other content, or older than the file: the official client would ask again."""
    found = snapshot()
    layout = HuggingFaceFolder.at(tmp_path, found)
    fill(layout, found)
    name = sha1(CONTENT["config.json"])
    place = tmp_path / ".cache/huggingface/download/config.json.metadata"
    place.write_text(said.replace("NAME", name))

    layout.after(found.files)

    commit, content, moment = metadata(tmp_path, "config.json")
    assert (commit, content) == (COMMIT, name)
    assert moment >= (tmp_path / "config.json").stat().st_mtime - 1


def test_metadata_are_struck_before_a_file_changes(tmp_path: Path) -> None:
    """A kill between the two must not leave a lie behind."""
    found = snapshot()
    layout = HuggingFaceFolder.at(tmp_path, found)
    fill(layout, found)

    layout.before(["config.json", "unknown"])

    left = names(tmp_path / ".cache/huggingface/download")
    assert left == sorted(f"{path}.metadata" for path in CONTENT if path != "config.json")


def test_a_file_from_the_future_is_described_too(tmp_path: Path) -> None:
    """A clock was wrong: their client must not take the file for changed."""
    found = snapshot()
    layout = HuggingFaceFolder.at(tmp_path, found)
    fill(layout, found)
    later = time.time() + 1e6
    os.utime(tmp_path / "config.json", (later, later))

    layout.after(found.files)

    assert metadata(tmp_path, "config.json")[2] == pytest.approx(later)


def test_a_new_commit_with_the_same_content_is_said(tmp_path: Path) -> None:
    """Who pins that commit then needs to ask nothing."""
    fill(HuggingFaceFolder.at(tmp_path, snapshot()), snapshot())

    found = snapshot(commit=NEWER)
    HuggingFaceFolder.at(tmp_path, found).after(found.files)

    assert {metadata(tmp_path, path)[0] for path in CONTENT} == {NEWER}
    assert len(list((tmp_path / ".cache/huggingface/trees").iterdir())) == 2
