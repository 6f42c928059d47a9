"""Files to be served: random ones that lie in memory, and the folder that a run writes to."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30
_PIECE = 4 * MIB


@dataclass(frozen=True, slots=True)
class Blob:
    """A file of the origin: under its digest, as a content store has it."""

    size: int
    sha256: str
    place: Path


@dataclass(slots=True)
class Stock:
    """Makes blobs in a folder that nginx serves, each once."""

    folder: Path
    _made: dict[tuple[int, int, bool], Blob] = field(default_factory=dict)

    def blob(self, size: int, number: int = 0, *, sparse: bool = False) -> Blob:
        """The `number`-th file of that size; a sparse one is zeros behind its first piece."""
        key = (size, number, sparse)
        if key not in self._made:
            self._made[key] = self._make(size, sparse=sparse)
        return self._made[key]

    def _make(self, size: int, *, sparse: bool) -> Blob:
        store = self.folder / "blob"
        store.mkdir(exist_ok=True)
        new = store / "new"
        sha256 = hashlib.sha256()
        zeros = bytes(_PIECE)
        with new.open("wb") as file:
            for start in range(0, size, _PIECE):
                count = min(_PIECE, size - start)
                piece = zeros[:count] if sparse and start else os.urandom(count)
                sha256.update(piece)
                if piece is zeros or (sparse and start):
                    file.seek(count, os.SEEK_CUR)
                else:
                    file.write(piece)
            file.truncate(size)
        place = store / sha256.hexdigest()
        new.rename(place)
        return Blob(size, sha256.hexdigest(), place)

    def clear(self) -> None:
        """Remove all blobs."""
        shutil.rmtree(self.folder / "blob", ignore_errors=True)
        self._made.clear()


def digest_of(path: Path) -> str:
    """SHA-256 of a file, by small reads (see processes.py)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def what_is_wrong(folder: Path, expected: dict[str, str]) -> str | None:
    """What is wrong with a result, None if it has all the right bytes."""
    for name, sha256 in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if digest_of(path) != sha256:
            return f"{name} has wrong bytes"
    return None


def file_system(path: Path) -> str:
    """The kind of file system that a path is on."""
    best, kind = "", "?"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, found = line.split()[:3]
        inside = mount == "/" or f"{path}/".startswith(f"{mount}/")
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind
