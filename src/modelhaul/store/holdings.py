"""Where else on this disk the content of a file may lie. Blocks.

Three places tell a digest without reading: our memory of proven files, a name in a store of blobs,
and nothing else. In a snapshot of the same repository only path and size can be compared, so what
is found there has to be hashed before it counts. Whatever is found is hashed once more while it is
copied: what is said here is a hope, never a proof.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelhaul.core.repo import RemoteFile, RepoRef
from modelhaul.store.index import ProvenIndex
from modelhaul.store.layout import legacy_places, snapshot_folder
from modelhaul.store.layout_huggingface import is_blob, repositories, repository_folder
from modelhaul.store.osfile import Stamp


@dataclass(frozen=True, slots=True)
class Held:
    """A file that may have the wanted content.

    Attributes:
        path: a regular file, links resolved.
        sure: memory or its name says that it has; else it must be hashed first.
    """

    path: Path
    sure: bool


class Holdings:
    """What can be found on this disk.

    Args:
        index: the memory of proven files.
        blobs: folders whose files are named by their SHA-256 or their git name.
        snapshots: folders that hold the repository in this or another state.
    """

    def __init__(
        self,
        index: ProvenIndex,
        *,
        blobs: Sequence[Path] = (),
        snapshots: Sequence[Path] = (),
    ) -> None:
        self._index = index
        self._blobs = blobs
        self._snapshots = snapshots

    @classmethod
    def around(
        cls, index: ProvenIndex, ref: RepoRef, *, modelscope: Path, huggingface: Path
    ) -> Holdings:
        """What both hubs' caches hold of anything, and of a repository of this name on either.

        Args:
            index: the memory of proven files.
            ref: what is wanted.
            modelscope, huggingface: the caches, which need not exist.
        """
        blobs = [folder / "blobs" for folder in repositories(huggingface)]
        snapshots = _children(huggingface / repository_folder(ref) / "snapshots")
        if ref.owner:
            new = snapshot_folder(modelscope, ref.kind, ref.owner, ref.name)
            oldest, hub = legacy_places(modelscope, ref)
            snapshots += [*_children(new / "snapshots"), *oldest, *hub]
        # Most of these places do not exist, and each would be asked for every file.
        snapshots = [folder for folder in snapshots if folder.is_dir()]
        return cls(index, blobs=blobs, snapshots=snapshots)

    def find(self, files: Iterable[RemoteFile]) -> dict[str, Held]:
        """The best place of each file's content, by `RemoteFile.content`.

        A file without a digest, or without bytes, is not looked for.
        """
        wanted = {_digest(file): file for file in files if file.size}
        wanted.pop("", None)  # without one
        remembered, named = self._index.find(wanted), self._named()
        found: dict[str, Held] = {}
        if not (remembered or named or self._snapshots):
            return found
        for digest, file in wanted.items():
            held = (
                self._remembered(file, remembered.get(digest, ()))
                or _first(file, named.get(digest, ()))
                or self._beside(file)
            )
            if held is not None and file.content is not None:
                found[file.content] = held
        return found

    def _remembered(self, file: RemoteFile, paths: Iterable[Path]) -> Held | None:
        # Blobs first: a file that is wanted in another cache may be the same one then.
        for path in sorted(paths, key=is_blob, reverse=True):
            stamp = _stamp(path)
            if stamp is None or stamp.size != file.size:
                continue
            known = self._index.lookup(path, stamp)
            if known is not None and known.matches(file):
                return Held(path, sure=True)
        return None

    def _named(self) -> dict[str, list[Path]]:
        """All blobs, by the digest that their name states."""
        found: dict[str, list[Path]] = {}
        for folder in self._blobs:
            try:
                names = os.listdir(folder)
            except OSError:
                continue  # not there, or not ours to read: nothing is held there
            for name in names:
                found.setdefault(name, []).append(folder / name)
        return found

    def _beside(self, file: RemoteFile) -> Held | None:
        for folder in self._snapshots:
            real = _real(folder / file.path)
            stamp = None if real is None else _stamp(real)
            if real is None or stamp is None or stamp.size != file.size:
                continue
            known = self._index.lookup(real, stamp)
            same = None if known is None else known.matches(file)
            if same is not False:
                return Held(real, sure=same is True)
        return None


def _children(folder: Path) -> list[Path]:
    """What lies in a folder; nothing if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _digest(file: RemoteFile) -> str:
    """What a store of blobs calls the content; "" if nobody states it."""
    return (file.git_sha1 if file.named_by_git else file.sha256) or ""


def _first(file: RemoteFile, paths: Iterable[Path]) -> Held | None:
    """The first of these that is a file of the right size."""
    for path in paths:
        real = _real(path)
        stamp = None if real is None else _stamp(real)
        if real is not None and stamp is not None and stamp.size == file.size:
            return Held(real, sure=True)
    return None


def _real(path: Path) -> Path | None:
    """The path without links; None if it leads nowhere."""
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError):  # a loop of links is the second before Python 3.13
        return None


def _stamp(path: Path) -> Stamp | None:
    """The stamp of a regular file, None for anything else."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return Stamp.of(status) if stat.S_ISREG(status.st_mode) else None
