"""A folder of `owner/name/` trees as repositories: what is in them, and under which commit.

A plain folder has no history, so a commit is made up: the SHA-1 over paths, sizes and digests of
the files. As long as nothing changes the commit stays; when something does, the old commit is gone.

Nor does it say what is kept in git itself and what in LFS, which is how the Hugging Face Hub names
a file. The rule here: LFS is what is 10 MiB or larger (above that the real hub takes nothing else)
or has an ending that repositories there are born with in their `.gitattributes`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from modelhaul.core.names import RESERVED_FOLDER
from modelhaul.core.repo import Kind, is_commit, is_revision
from modelhaul.engine.threads import Threads
from modelhaul.store.gitnames import blob_name
from modelhaul.store.hashing import hash_file
from modelhaul.store.index import Entry, Known, ProvenIndex
from modelhaul.store.osfile import Stamp, storage_errors

DEFAULT_REVISION = "master"
#: What the Hugging Face Hub calls it; a folder that is really named so goes before.
DEFAULT_ALIAS = "main"
_LFS_FROM = 10 << 20
_LFS_ENDING = re.compile(
    r".*\.(7z|arrow|bin|bz2|ckpt|ftz|gguf|gz|h5|joblib|mlmodel|model|msgpack|npy|npz|onnx|ot|parquet"
    r"|pb|pickle|pkl|pt|pth|rar|safetensors|tar|tflite|tgz|wasm|xz|zip|zst)",
    re.IGNORECASE,
)
_KIND_FOLDERS: dict[str, Kind] = {"models": "model", "datasets": "dataset", "spaces": "space"}
_MOST_LISTED = 10_000
_SKIPPED = frozenset({RESERVED_FOLDER, ".git"})


@dataclass(frozen=True, slots=True)
class ServedFile:
    """One file: its path in the repository, and where and what it is on disk.

    Attributes:
        git_sha1: its name as a git blob; None for a file in LFS.
    """

    path: str
    disk: Path
    stamp: Stamp
    sha256: str
    git_sha1: str | None = None

    @property
    def is_lfs(self) -> bool:
        """Whether it is kept in LFS and named by its SHA-256."""
        return self.git_sha1 is None

    @property
    def size(self) -> int:
        return self.stamp.size

    def unchanged(self) -> bool:
        """Whether the file on disk is still the one that was hashed."""
        try:
            return Stamp.of(self.disk.stat()) == self.stamp
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class ServedSnapshot:
    """The files of a repository at one moment."""

    commit: str
    created: int
    files: dict[str, ServedFile] = field(repr=False)

    def below(self, root: str, *, recursive: bool) -> tuple[list[str], list[ServedFile]]:
        """Folders and files below the folder `root`, or of all levels; empty for the top."""
        prefix = root.strip("/")
        prefix = f"{prefix}/" if prefix else ""
        folders: dict[str, None] = {}
        files = []
        for path, file in self.files.items():
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            depth = len(parts) - 1 if recursive else min(1, len(parts) - 1)
            for level in range(1, depth + 1):
                folders[prefix + "/".join(parts[:level])] = None
            if recursive or len(parts) == 1:
                files.append(file)
        return list(folders), files


@dataclass(frozen=True, slots=True, order=True)
class Shelved:
    """A repository on the shelf, and the folders of its revisions."""

    kind: Kind
    owner: str
    name: str
    folders: tuple[tuple[str, Path], ...] = field(compare=False)

    @property
    def id(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}"

    def folder(self, revision: str) -> Path | None:
        """The folder of a revision that has this name."""
        named = dict(self.folders)
        if revision == DEFAULT_ALIAS and revision not in named:
            revision = DEFAULT_REVISION
        return named.get(revision)


class Shelf:
    """The repositories below a folder.

    `owner/name` is a model and its revision `master`; `owner/name@REV` is revision REV of it.
    Datasets are below `datasets/`, spaces below `spaces/`; models may be below `models/`, too.

    Args:
        root: the folder.
        index: remembers digests, so that a restart does not hash everything again.
        threads: where hashing runs.
    """

    def __init__(self, root: Path, index: ProvenIndex, threads: Threads) -> None:
        self.root = root
        self._index = index
        self._threads = threads
        self._snapshots: dict[Path, tuple[tuple[tuple[str, Stamp], ...], ServedSnapshot]] = {}
        self._listed: dict[tuple[Kind, str, str, str], ServedSnapshot] = {}
        self._locks: dict[Path, anyio.Lock] = {}

    async def repositories(self) -> list[Shelved]:
        """What is on the shelf now."""
        return await self._threads.write(lambda: sorted(_scan(self.root)))

    async def find(self, kind: Kind, owner: str, name: str) -> Shelved | None:
        """One repository as it is now, None if there is none of that name."""
        for shelved in await self.repositories():
            if (shelved.kind, shelved.owner, shelved.name) == (kind, owner, name):
                return shelved
        return None

    async def snapshot(self, shelved: Shelved, revision: str) -> ServedSnapshot | None:
        """A revision as it is now, by name or by commit; None if there is none. Hashes what is new.

        What it was is remembered, for `listed()`.
        """
        folder = shelved.folder(revision)
        if folder is not None:
            return self._remember(shelved, await self._read(folder), revision)
        # Only then does it take a look at all of them.
        for _, folder in shelved.folders if is_commit(revision) else ():
            found = await self._read(folder)
            if found.commit == revision:
                return self._remember(shelved, found)
        return None

    async def listed(
        self, kind: Kind, owner: str, name: str, revision: str, *, anew: bool = False
    ) -> ServedSnapshot | None:
        """A revision as it was listed last; looked at now if it never was, or if `anew`.

        Serving a file must not cost a look at all the others.
        """
        known = self._listed.get((kind, owner, name, revision))
        if known is not None and not anew:
            return known
        shelved = await self.find(kind, owner, name)
        return None if shelved is None else await self.snapshot(shelved, revision)

    def _remember(
        self, shelved: Shelved, found: ServedSnapshot, name: str | None = None
    ) -> ServedSnapshot:
        if len(self._listed) > _MOST_LISTED:
            self._listed.clear()  # of a folder that changes for months; it costs a look
        for revision in (found.commit, name):
            if revision is not None:
                self._listed[shelved.kind, shelved.owner, shelved.name, revision] = found
        return found

    async def by_digest(self, sha256: str) -> ServedFile | None:
        """Any file with this digest among what has been listed."""
        for _, found in self._snapshots.values():
            for file in found.files.values():
                if file.sha256 == sha256:
                    return file
        return None

    async def _read(self, folder: Path) -> ServedSnapshot:
        async with self._locks.setdefault(folder, anyio.Lock()):
            listing = await self._threads.write(_walk, folder)
            state = tuple((path, stamp) for path, _, stamp in listing)
            known = self._snapshots.get(folder)
            if known is not None and known[0] == state:
                return known[1]
            files = await self._threads.hash(self._hash, listing)
            found = _snapshot(files)
            self._snapshots[folder] = (state, found)
            return found

    def _hash(self, listing: list[tuple[str, Path, Stamp]]) -> dict[str, ServedFile]:
        files = {}
        new = []
        for path, disk, stamp in listing:
            known = self._index.lookup(disk, stamp)
            sha256 = known.sha256 if known is not None else None
            git_sha1 = known.git_sha1 if known is not None else None
            in_git = not _belongs_in_lfs(path, stamp.size)
            if sha256 is None or (in_git and git_sha1 is None):
                digests, read = hash_file(disk, check=lambda _: self._threads.check_cancelled())
                sha256 = digests.sha256
                git_sha1 = _git_sha1(disk, read.size) if in_git else None
                ours = known is not None and known.ours
                validator = known.validator if known is not None else None
                new.append(Entry(disk, read, Known(sha256, validator, ours, git_sha1)))
            files[path] = ServedFile(path, disk, stamp, sha256, git_sha1 if in_git else None)
        self._index.remember(new)
        return files


async def find_file(
    shelf: Shelf, kind: Kind, owner: str, name: str, revision: str, path: str
) -> tuple[ServedSnapshot | None, ServedFile | None]:
    """A revision as it was listed last, and one file of it that is still what was listed.

    None for what there is not. What has changed is looked at anew, once.
    """
    found = None
    for anew in (False, True):
        found = await shelf.listed(kind, owner, name, revision, anew=anew)
        file = found.files.get(path) if found is not None else None
        if file is not None and file.unchanged():
            return found, file
    return found, None


def _belongs_in_lfs(path: str, size: int) -> bool:
    # LFS itself leaves an empty file as it is.
    return size >= _LFS_FROM or (size > 0 and _LFS_ENDING.fullmatch(path) is not None)


def _git_sha1(disk: Path, size: int) -> str:
    """The name of a file as a git blob; it is small, or it would be in LFS.

    Should it change meanwhile, it has another stamp, and nobody believes what was computed.

    Raises:
        StorageError: it cannot be read.
    """
    with storage_errors(f"reading {disk}"), disk.open("rb") as file:
        return blob_name(file.read(size))


def _snapshot(files: dict[str, ServedFile]) -> ServedSnapshot:
    sha1 = hashlib.sha1(usedforsecurity=False)
    for path in sorted(files):
        file = files[path]
        sha1.update(f"{path}\0{file.size}\0{file.sha256}\n".encode())
    created = max((file.stamp.mtime_ns for file in files.values()), default=0) // 1_000_000_000
    return ServedSnapshot(sha1.hexdigest(), created, files)


def _scan(root: Path) -> Iterator[Shelved]:
    for owner in _folders(root):
        kind = _KIND_FOLDERS.get(owner.name)
        if kind is not None:
            for inner in _folders(owner):
                yield from _repositories(kind, inner)
        else:
            yield from _repositories("model", owner)


def _repositories(kind: Kind, owner: Path) -> Iterator[Shelved]:
    folders: dict[str, dict[str, Path]] = {}
    for folder in _folders(owner):
        name, _, revision = folder.name.partition("@")
        revision = revision or DEFAULT_REVISION
        if name and is_revision(revision):
            folders.setdefault(name, {})[revision] = folder
    for name, revisions in folders.items():
        # master first: it is what most people ask for
        order = sorted(revisions.items(), key=lambda item: (item[0] != DEFAULT_REVISION, item[0]))
        yield Shelved(kind, owner.name, name, tuple(order))


def _folders(parent: Path) -> Iterator[Path]:
    try:
        children = sorted(parent.iterdir())
    except OSError:
        return
    for child in children:
        if child.is_dir() and not child.name.startswith("."):
            yield child


def _walk(folder: Path) -> list[tuple[str, Path, Stamp]]:
    """Regular files below a folder, links followed: (path with `/`, place, stamp).

    A link to a folder above itself is not gone round again; a name that is not Unicode cannot be
    listed and is left out.
    """
    found = []
    for at, folders, names in os.walk(folder, followlinks=True):
        inner = [name for name in sorted(folders) if name not in _SKIPPED]
        folders[:] = [name for name in inner if not _goes_round(folder, Path(at, name))]
        for name in sorted(names):
            disk = Path(at, name)
            path = disk.relative_to(folder).as_posix()
            if _is_text(path) and disk.is_file():
                found.append((path, disk, Stamp.of(disk.stat())))
    return found


def _goes_round(top: Path, folder: Path) -> bool:
    """Whether a link leads back to a folder that it is in, or nowhere."""
    if not folder.is_symlink():
        return False
    try:
        real = folder.resolve(strict=True)
    except (OSError, RuntimeError):
        return True
    return any(real == above.resolve() for above in folder.parents if above.is_relative_to(top))


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
