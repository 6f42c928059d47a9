"""Where files land: a plain folder, one file, ModelScope's cache new and old. Blocks.

A layout answers three questions: the final place of a repository path, the state folder for parts
and journals (on the same file system, reserved for us), and whether what stands there belongs to
the tools (a cache: it may be replaced) or to the user (it is refused).
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelhaul.core.names import RESERVED_FOLDER
from modelhaul.core.repo import Kind, RemoteFile, RepoRef
from modelhaul.store import osfile
from modelhaul.store.osfile import storage_errors
from modelhaul.store.pickles import MOST_BYTES, load_restricted

DEFAULT_REVISION = "master"


class Layout(Protocol):
    """What the use cases need to know about a place on disk.

    Attributes:
        root: where files go, links resolved.
        shown: the path that reports and stdout name.
        state: the folder for parts, journals and locks; may not exist.
        owned: the files belong to the tools, so other content is replaced, not refused.
        mutable: other content comes under the same names when the revision moves on: an update is
            published all at once, and files that are gone upstream are named.
        reserved: names at the top (lower case) that no repository file may have.
    """

    @property
    def root(self) -> Path: ...
    @property
    def shown(self) -> Path: ...
    @property
    def state(self) -> Path: ...
    @property
    def owned(self) -> bool: ...
    @property
    def mutable(self) -> bool: ...
    @property
    def reserved(self) -> Collection[str]: ...

    def place(self, path: str) -> str:
        """Where the file of this repository path stands below `root`, with `/`."""
        ...

    def final(self, path: str) -> Path:
        """The same as a path of this system. Costs more: a listing may have 100,000 files."""
        ...

    def is_named(self, path: str) -> bool:
        """Whether tools that look for this repository path find what stands at `final(path)`."""
        ...

    def before(self, changing: Iterable[str]) -> None:
        """Called before files at these paths are put in place or replaced."""
        ...

    def after(self, files: Iterable[RemoteFile]) -> None:
        """Called when these files stand in their places."""
        ...

    def finish(self) -> None:
        """Called last, and only if everything that was wanted stands in its place."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """`--local-dir`: a plain tree that holds the repository's files and nothing of ours."""

    root: Path
    shown: Path
    owned: bool = False
    mutable: bool = False
    reserved: Collection[str] = ()

    @classmethod
    def at(cls, folder: Path) -> LocalFolder:
        """The layout below `folder`, which need not exist."""
        shown, root = osfile.resolved(folder)
        return cls(root, shown)

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
        """A plain tree keeps no books."""

    def after(self, files: Iterable[RemoteFile]) -> None:
        """A plain tree keeps no books."""

    def finish(self) -> None:
        """A plain tree keeps no books."""


@dataclass(frozen=True, slots=True)
class SingleFile:
    """`get URL -o PATH`: one file under the name that the user chose."""

    root: Path
    shown: Path
    name: str
    owned: bool = False
    mutable: bool = False
    reserved: Collection[str] = ()

    @classmethod
    def at(cls, path: Path) -> SingleFile:
        """The layout of one file; its folder need not exist."""
        shown = osfile.resolved(path.parent)[0] / path.name
        return cls(osfile.resolved(shown.parent)[1], shown, shown.name)

    @property
    def state(self) -> Path:
        return self.root / RESERVED_FOLDER

    def place(self, path: str) -> str:
        return self.name

    def final(self, path: str) -> Path:
        return self.root / self.name

    def is_named(self, path: str) -> bool:
        """The place has the name."""
        return True

    def before(self, changing: Iterable[str]) -> None:
        """A single file keeps no books."""

    def after(self, files: Iterable[RemoteFile]) -> None:
        """A single file keeps no books."""

    def finish(self) -> None:
        """A single file keeps no books."""


@dataclass(frozen=True, slots=True)
class ModelScopeCache:
    """The layout of modelscope 1.38 and later: `models/owner--name/snapshots/<revision>/`.

    Real files, no blobs, no links. `snapshots/master` follows the branch: it is mutable.
    """

    cache: Path
    root: Path
    shown: Path
    owned: bool = True
    mutable: bool = True
    reserved: Collection[str] = ()

    @classmethod
    def at(cls, cache: Path, ref: RepoRef) -> ModelScopeCache:
        """The snapshot of `ref` in the cache at `cache`, which need not exist."""
        folder = snapshot_folder(cache, ref.kind, ref.owner, ref.name)
        shown = folder / "snapshots" / (ref.revision or DEFAULT_REVISION)
        return cls(osfile.resolved(cache)[1], osfile.resolved(shown)[1], shown)

    @property
    def state(self) -> Path:
        return _state_near(self.cache, self.root)

    def place(self, path: str) -> str:
        return path

    def final(self, path: str) -> Path:
        return self.root / path

    def is_named(self, path: str) -> bool:
        """The place has the name."""
        return True

    def before(self, changing: Iterable[str]) -> None:
        """This layout keeps no books."""

    def after(self, files: Iterable[RemoteFile]) -> None:
        """This layout keeps no books."""

    def finish(self) -> None:
        """This layout keeps no books."""


@dataclass(frozen=True, slots=True)
class LegacyCache:
    """The layout of modelscope 1.37 and earlier: `[hub/]models/owner/name___5/`, with books.

    Where such a folder exists every ModelScope tool, old or new, reads it first and whatever the
    revision: so it is what we fill. Its books are `.msc` (a pickled list of path and commit, by
    which the old client believes a file without hashing it) and `.mv`, `.mdl`, which stay as they
    are.
    """

    cache: Path
    root: Path
    shown: Path
    owned: bool = True
    mutable: bool = True
    # A repository file of that name would be unpickled by the old client.
    reserved: Collection[str] = (".msc", ".mdl", ".mv")

    @property
    def state(self) -> Path:
        return _state_near(self.cache, self.root)

    def place(self, path: str) -> str:
        return path

    def final(self, path: str) -> Path:
        return self.root / path

    def is_named(self, path: str) -> bool:
        """The place has the name."""
        return True

    def before(self, changing: Iterable[str]) -> None:
        """Strike files from the book before they change or come, so that it is never wrong."""
        gone = set(changing)
        before = self._read()
        rows = [row for row in before if row["Path"] not in gone]
        if len(rows) != len(before):
            self._write(rows)

    def after(self, files: Iterable[RemoteFile]) -> None:
        """Enter files into the book with the commit that last touched them."""
        known = {file.path: file.revision for file in files if file.revision}
        before = self._read()
        rows = [row for row in before if row["Path"] not in known]
        rows += [{"Path": path, "Revision": revision} for path, revision in known.items()]
        if sorted(map(str, rows)) != sorted(map(str, before)):
            self._write(rows)

    def finish(self) -> None:
        """The book is right already."""

    def _read(self) -> list[dict[str, str]]:
        try:
            value = load_restricted(osfile.read_small(self.root / ".msc", MOST_BYTES + 1))
        except (OSError, ValueError):
            # Unreadable: the old client starts a new book then, and so do we.
            return []
        rows = value if isinstance(value, list) else []
        return [
            {"Path": row["Path"], "Revision": row["Revision"]}
            for row in rows
            if isinstance(row, dict)
            and isinstance(row.get("Path"), str)
            and isinstance(row.get("Revision"), str)
        ]

    def _write(self, rows: list[dict[str, str]]) -> None:
        book = self.root / ".msc"

        def write(draft: Path) -> None:
            fd = osfile.open_file(draft, create=True, truncate=True)
            try:
                osfile.write_all(fd, pickle.dumps(rows, protocol=4), 0)
                osfile.sync_data(fd)
            finally:
                os.close(fd)

        with storage_errors(f"writing {book}"):
            osfile.put_in_place(book, write, state=self.state)
            osfile.sync_folder(self.root)


def snapshot_folder(cache: Path, kind: Kind, owner: str, name: str) -> Path:
    """The repository's folder in the new cache layout."""
    return cache / f"{kind}s" / f"{owner}--{name}"


def find_cache(cache: Path, ref: RepoRef) -> ModelScopeCache | LegacyCache:
    """The layout in which the official package looks for `ref` in this cache.

    The order is that of `snapshot_download` in modelscope 1.40.2, which puts some older places
    (`find_reusable_legacy_repo_dir`) before those of modelscope-hub (`_find_legacy_repo_dir`)
    unless one of the two newer ones exists.
    """
    cache, real = osfile.resolved(cache)
    new = ModelScopeCache.at(cache, ref)
    older, hub = legacy_places(cache, ref)
    newer = [hub[0], snapshot_folder(cache, ref.kind, ref.owner, ref.name)]
    places = hub if any(map(_has_entries, newer)) else older + hub
    for folder in places:
        if _has_entries(folder):
            return LegacyCache(real, osfile.resolved(folder)[1], folder)
    return new


def legacy_places(cache: Path, ref: RepoRef) -> tuple[list[Path], list[Path]]:
    """Where older packages put a repository: the oldest ones, and those of modelscope-hub."""
    segment, safe = f"{ref.kind}s", ref.name.replace(".", "___")
    oldest = [
        cache / ref.owner / ref.name,
        cache / ref.owner / safe,
        cache / "hub" / ref.owner / ref.name,
        cache / "hub" / ref.owner / safe,
        cache / segment / ref.owner / ref.name,
    ]
    hub = [cache / segment / ref.owner / safe, cache / "hub" / segment / ref.owner / safe]
    return oldest, hub


def _has_entries(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(iter(entries), None) is not None
    except OSError:
        return False


def _state_near(cache: Path, root: Path) -> Path:
    """The cache's state folder, or one beside the files where those lie on another device.

    People put single repositories of a cache on other disks by a link; a rename cannot cross.
    """
    if osfile.nearest_existing(root).stat().st_dev == osfile.nearest_existing(cache).stat().st_dev:
        return cache / RESERVED_FOLDER
    return root / RESERVED_FOLDER


def strangers(layout: Layout, listed: Collection[str]) -> list[str]:
    """Files in an owned layout that the listing does not have: gone upstream, or never there."""
    found = []
    for folder, folders, files in os.walk(layout.root):
        folders[:] = [name for name in folders if name != RESERVED_FOLDER]
        for name in files:
            path = Path(folder, name).relative_to(layout.root).as_posix()
            if path not in listed and path not in layout.reserved:
                found.append(path)
    return sorted(found)
