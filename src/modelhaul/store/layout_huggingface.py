"""Where Hugging Face's tools put files and look for them: their cache, and `--local-dir`. Blocks.

The cache holds content once, under its name (`blobs/`), and links to it from a folder per commit
(`snapshots/`). So the final name of a file is that of the blob: its content never changes, and
revisions share it. The links come after, and the name of the branch (`refs/`) last: who looks up
`main` without a network gets what it was before, or all that was wanted.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelhaul.core.names import RESERVED_FOLDER, fault
from modelhaul.core.repo import RemoteFile, RepoRef, Snapshot, is_commit
from modelhaul.errors import HaulError, Occupied, ProtocolError, StorageError, UnsafeName
from modelhaul.store import osfile
from modelhaul.store.gitnames import blob_name, lfs_pointer
from modelhaul.store.osfile import storage_errors

DEFAULT_REVISION = "main"

_REPOSITORY = re.compile("(model|dataset|space)s--.")
_BLOB = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
#: Their own folder inside a `--local-dir`.
_BOOKS = ".cache/huggingface"
#: Bytes of metadata that are read: three short lines.
_MOST_METADATA = 1 << 12
#: What huggingface_hub 1.0 and later write, byte for byte.
_CACHE_TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# This file is a cache directory tag created by huggingface_hub.\n"
    b"# For information about cache directory tags, see:\n"
    b"#\thttps://bford.info/cachedir/\n"
)


@dataclass(frozen=True, slots=True)
class HuggingFaceCache:
    """`models--owner--name/` with `blobs`, `snapshots`, `refs` and `trees`.

    Only what the oldest supported client knows is written at the top of the cache: huggingface_hub
    0.35 takes a `CACHEDIR.TAG` there for a broken repository. Its locks are not taken either; like
    ours they only save work, every file comes to its name by a rename.

    Attributes:
        commit, ref: what the files are of, and the name by which it was asked for.
        listing: all files of the commit, wanted or not.
        places: of each file, where its bytes stand below `root`.
    """

    root: Path
    shown: Path
    commit: str
    ref: str
    listing: tuple[RemoteFile, ...] = field(repr=False)
    places: Mapping[str, str] = field(repr=False)
    owned: bool = True
    mutable: bool = False
    reserved: Collection[str] = ()

    @classmethod
    def at(cls, cache: Path, snapshot: Snapshot, *, links: bool = True) -> HuggingFaceCache:
        """The layout of a snapshot in the cache at `cache`, which need not exist.

        Args:
            cache: what their tools call `HF_HUB_CACHE`.
            snapshot: a revision with all its files.
            links: make links where the file system can.

        Raises:
            ProtocolError: the hub did not say which commit it is.
        """
        ref, commit = snapshot.ref, _commit_of(snapshot)
        folder = osfile.resolved(cache)[0] / repository_folder(ref)
        root = osfile.resolved(folder)[1]
        return cls(
            root,
            folder / "snapshots" / commit,
            commit,
            ref.revision or DEFAULT_REVISION,
            snapshot.files,
            _places(root, commit, snapshot.files, links=links),
        )

    @property
    def state(self) -> Path:
        """Not at the top of the cache, where their scan takes everything for a repository."""
        return self.root / RESERVED_FOLDER

    def place(self, path: str) -> str:
        return self.places[path]

    def final(self, path: str) -> Path:
        return self.root / self.places[path]

    def is_named(self, path: str) -> bool:
        """Whether the snapshot links to the blob, or has the file itself."""
        pointer = self._pointer(path)
        return self.places[path] == pointer or self._is_linked(pointer, self.places[path])

    def before(self, changing: Iterable[str]) -> None:
        """Make what their scan misses in a repository that is on its way."""
        with storage_errors(f"making folders in {self.root}"):
            osfile.make_folders(self.root / "snapshots")
        self._write_tree()

    def after(self, files: Iterable[RemoteFile]) -> None:
        """Link files from the snapshot to their blobs, durably."""
        changed: dict[Path, None] = {}
        refused: list[HaulError] = []
        for file in files:
            place = self.places[file.path]
            pointer = self._pointer(file.path)
            try:
                if place != pointer and self._link(pointer, place, checked=changed):
                    changed[(self.root / pointer).parent] = None
            except (UnsafeName, Occupied) as error:
                refused.append(error)  # a folder that is none of ours; the others come
        with storage_errors(f"syncing {self.shown}"):
            for folder in changed:
                osfile.sync_folder(folder)
        self._write_tree()
        if refused:
            raise refused[0]

    def finish(self) -> None:
        """Say that the name of the revision now means this commit."""
        if self.ref != self.commit:
            with _unless_read_only():
                _put(self.root, f"refs/{self.ref}", self.commit.encode())

    def _pointer(self, path: str) -> str:
        return f"snapshots/{self.commit}/{path}"

    def _is_linked(self, pointer: str, place: str) -> bool:
        try:
            return os.readlink(self.root / pointer) == _target(pointer, place)
        except OSError:
            return False  # nothing there, or no link

    def _link(self, pointer: str, place: str, *, checked: Collection[Path]) -> bool:
        """Make a snapshot's name lead to a blob; whether anything had to be done."""
        if self._is_linked(pointer, place):
            return False
        link, target = self.root / pointer, _target(pointer, place)
        with storage_errors(f"linking {link}"):
            if link.parent not in checked:
                osfile.check_parents(self.root, pointer)
                osfile.make_folders(link.parent)
            with _draft(self.state, lambda draft: os.symlink(target, draft)) as draft:
                os.replace(draft, link)
        return True

    def _write_tree(self) -> None:
        with _unless_read_only():
            _write_tree(self.root, "trees", self.commit, self.listing)


@dataclass(frozen=True, slots=True)
class HuggingFaceFolder:
    """`--local-dir`: a plain tree, with their metadata in `.cache/huggingface/`.

    The metadata say which commit and content a file is. They are believed as long as the file is
    not younger than they are, so they are struck before a file changes and written after it.
    """

    root: Path
    shown: Path
    commit: str
    listing: tuple[RemoteFile, ...] = field(repr=False)
    owned: bool = False
    mutable: bool = False
    # A repository's own file there could tell their tools anything of the others.
    reserved: Collection[str] = (_BOOKS,)

    @classmethod
    def at(cls, folder: Path, snapshot: Snapshot) -> HuggingFaceFolder:
        """The layout of a snapshot below `folder`, which need not exist.

        Raises:
            ProtocolError: the hub did not say which commit it is.
        """
        shown, root = osfile.resolved(folder)
        return cls(root, shown, _commit_of(snapshot), snapshot.files)

    @property
    def state(self) -> Path:
        return self.root / RESERVED_FOLDER

    def place(self, path: str) -> str:
        return path

    def final(self, path: str) -> Path:
        return self.root / path

    def is_named(self, path: str) -> bool:
        """The place has the name."""
        return True

    def before(self, changing: Iterable[str]) -> None:
        """Strike what is said of files that change."""
        for path in changing:
            metadata = self.root / _metadata(path)
            with storage_errors(f"removing {metadata}"):
                osfile.check_parents(self.root, _metadata(path))
                osfile.remove_quietly(metadata)

    def after(self, files: Iterable[RemoteFile]) -> None:
        """Say of files which commit and content they are."""
        with _unless_read_only():
            for name, content in ((".gitignore", b"*"), ("CACHEDIR.TAG", _CACHE_TAG)):
                if not (self.root / _BOOKS / name).exists():
                    _put(self.root, f"{_BOOKS}/{name}", content)
            for file in files:
                self._describe(file)
            _write_tree(self.root, f"{_BOOKS}/trees", self.commit, self.listing)

    def finish(self) -> None:
        """All has been said."""

    def _describe(self, file: RemoteFile) -> None:
        name = content_name(file)
        if name is None:
            return
        metadata, final = _metadata(file.path), self.final(file.path)
        with storage_errors(f"looking at {final}"):
            changed = final.stat().st_mtime
        if _still_said(self.root / metadata, self.commit, name, changed):
            return
        # A file of the user's may be younger than now, by a clock that was wrong.
        moment = max(time.time(), changed)
        said = f"{self.commit}\n{name}\n{moment}\n".encode()
        # Not synced: lost, it costs their tools a question; torn, it is thrown away.
        _put(self.root, metadata, said, durable=False)


def _target(pointer: str, place: str) -> str:
    """What the link at `pointer` says of `place`; both are below one folder."""
    return os.path.relpath(place, os.path.dirname(pointer))


def repository_folder(ref: RepoRef) -> str:
    """The name of a repository's folder in the cache."""
    return "--".join([f"{ref.kind}s", *filter(None, (ref.owner, ref.name))])


def repositories(cache: Path) -> list[Path]:
    """The folders of all repositories in a cache; none if it does not exist."""
    try:
        return sorted(child for child in cache.iterdir() if _REPOSITORY.match(child.name))
    except OSError:
        return []


def content_name(file: RemoteFile) -> str | None:
    """The name of a blob, and what metadata call the content: as git, or LFS, names it."""
    return file.git_sha1 or file.sha256


def is_blob(path: Path) -> bool:
    """Whether a path is that of a blob in the folder of a repository: written once, then replaced.

    Their tools too bring a blob to its name by a rename, and never write into it again.
    """
    blobs = path.parent
    return (
        blobs.name == "blobs"
        and _BLOB.fullmatch(path.name) is not None
        and _REPOSITORY.match(blobs.parent.name) is not None
    )


def _commit_of(snapshot: Snapshot) -> str:
    if snapshot.commit is None or not is_commit(snapshot.commit):
        raise ProtocolError(
            f"{snapshot.ref}: the hub does not say which commit it is",
            hint="the layouts of Hugging Face need it; name a revision, or another --endpoint",
        )
    return snapshot.commit


def _places(root: Path, commit: str, files: Iterable[RemoteFile], *, links: bool) -> dict[str, str]:
    """Where the bytes of each file stand below `root`.

    As a rule that is a blob. Where links cannot be made, their tools put the file itself into the
    snapshot; so do we, and a file that stands there is not fetched again as a blob.
    """
    places: dict[str, str] = {}
    new = False
    for file in files:
        pointer, name = f"snapshots/{commit}/{file.path}", content_name(file)
        mode = _mode(root / pointer) if fault(file.path) is None else None
        itself = name is None or (mode is not None and stat.S_ISREG(mode))
        places[file.path] = pointer if itself else f"blobs/{name}"
        new = new or mode is None
    # Asked only if there is a link to make, since asking means writing.
    if not links or (new and not osfile.takes_links(osfile.nearest_existing(root))):
        places = {file.path: f"snapshots/{commit}/{file.path}" for file in files}
    return places


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except OSError:
        return None


def _metadata(path: str) -> str:
    """Where a `--local-dir` says what the file of this path is."""
    return f"{_BOOKS}/download/{path}.metadata"


def _write_tree(root: Path, trees: str, commit: str, files: Iterable[RemoteFile]) -> None:
    """The listing as huggingface_hub 2 keeps it: by it, it knows offline that nothing is missing.

    Nothing is written of a listing in which a file has no name, for that would not be the whole.
    """
    rows: dict[str, dict[str, object]] = {}
    for file in sorted(files, key=lambda file: file.path):
        if file.size is None or content_name(file) is None:
            return
        if file.git_sha1 is not None:
            rows[file.path] = {"size": file.size, "blob_id": file.git_sha1}
        else:
            assert file.sha256 is not None
            pointer = blob_name(lfs_pointer(file.sha256, file.size))
            row = {"size": file.size, "blob_id": pointer}
            rows[file.path] = row | {"lfs_sha256": file.sha256, "lfs_size": file.size}
    target = f"{trees}/{commit}.json"
    if not (root / target).exists():
        text = json.dumps({"format_version": 1, "files": rows}, indent=1)
        _put(root, target, text.encode())


def _still_said(metadata: Path, commit: str, name: str, changed: float) -> bool:
    """Whether the metadata say this already, and are believed: by the rule of their reader."""
    try:
        said = osfile.read_small(metadata, _MOST_METADATA).decode().split("\n")
        return said[:2] == [commit, name] and changed - 1 <= float(said[2])
    except (OSError, ValueError, IndexError):
        return False


def _put(root: Path, relative: str, data: bytes, *, durable: bool = True) -> None:
    """Make a file below `root` hold `data`, by a rename; nothing is written if it does.

    Raises:
        UnsafeName, Occupied: a folder on the way is a link or a file: of theirs none is.
    """
    target = root / relative
    with storage_errors(f"writing {target}"):
        osfile.check_parents(root, relative)
        if _holds(target, data):
            return
        osfile.make_folders(target.parent)
        with _draft(
            root / RESERVED_FOLDER, lambda draft: _write(draft, data, durable=durable)
        ) as draft:
            os.replace(draft, target)
        if durable:
            osfile.sync_folder(target.parent)


def _write(path: Path, data: bytes, *, durable: bool) -> None:
    fd = osfile.open_file(path, create=True, truncate=True)
    try:
        osfile.write_all(fd, data, 0)
        if durable:
            osfile.sync_data(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _draft(state: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Something in the state folder that is about to be renamed to where it belongs.

    Never beside that: what a kill leaves there, their tools would take for a file or a branch.
    """
    draft = state / f"{os.getpid():x}-{threading.get_ident():x}.draft"
    try:
        for last in (False, False, True):
            try:
                make(draft)
                break
            except (FileNotFoundError, FileExistsError):
                # The first time; or another run of ours has ended and taken the empty folder away;
                # or one that had our numbers was killed right here.
                if last:
                    raise
                osfile.make_folders(state)
                osfile.remove_quietly(draft)
        yield draft
    except BaseException:
        osfile.remove_quietly(draft)
        raise


def _holds(target: Path, data: bytes) -> bool:
    try:
        return osfile.read_small(target, len(data) + 1) == data
    except OSError:
        return False


@contextlib.contextmanager
def _unless_read_only() -> Iterator[None]:
    """Let books go unwritten where nothing may be written.

    There the files were there before: what is missing costs their tools a question at most, and
    they do the same.
    """
    try:
        yield
    except StorageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in _READ_ONLY:
            raise
