"""A folder of `owner/name/` trees as repositories: what is in them, and under which commit.

A plain folder has no history, so a commit is made up: the SHA-1 over paths, sizes and digests of
the files. As long as nothing changes the commit stays; when something does, the old commit is gone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from modelhaul.core.names import RESERVED_FOLDER
from modelhaul.core.repo import Kind, is_revision
from modelhaul.engine.threads import Threads
from modelhaul.store.hashing import hash_file
from modelhaul.store.index import Entry, Known, ProvenIndex
from modelhaul.store.osfile import Stamp

DEFAULT_REVISION = "master"
_MOST_LISTED = 10_000
_SKIPPED = frozenset({RESERVED_FOLDER, ".git"})


@dataclass(frozen=True, slots=True)
class ServedFile:
    """One file: its path in the repository, and where and what it is on disk."""

    path: str
    disk: Path
    stamp: Stamp
    sha256: str

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


class Shelf:
    """The repositories below a folder.

    `owner/name` is a model and its revision `master`; `owner/name@REV` is revision REV of it.
    Datasets are below `datasets/`; models may be below `models/`, too.

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
        for name, folder in shelved.folders:
            if name == revision:
                return self._remember(shelved, await self._read(folder), name)
        for _, folder in shelved.folders:
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
            if known is not None and known.sha256 is not None:
                digest = known.sha256
            else:
                digests, read = hash_file(disk, check=lambda _: self._threads.check_cancelled())
                digest = digests.sha256
                new.append(Entry(disk, read, Known.of(digests, ours=False)))
            files[path] = ServedFile(path, disk, stamp, digest)
        self._index.remember(new)
        return files


def _snapshot(files: dict[str, ServedFile]) -> ServedSnapshot:
    sha1 = hashlib.sha1(usedforsecurity=False)
    for path in sorted(files):
        file = files[path]
        sha1.update(f"{path}\0{file.size}\0{file.sha256}\n".encode())
    created = max((file.stamp.mtime_ns for file in files.values()), default=0) // 1_000_000_000
    return ServedSnapshot(sha1.hexdigest(), created, files)


def _scan(root: Path) -> Iterator[Shelved]:
    for owner in _folders(root):
        if owner.name in ("models", "datasets"):
            kind: Kind = "dataset" if owner.name == "datasets" else "model"
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
