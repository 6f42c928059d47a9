"""A note on disk that an update of a mutable snapshot is half published. Blocks.

Written and made durable before the first file of the update is renamed, removed when the last of
them is known to be in place: as long as it stands, the snapshot may show files of two commits. It
names the files in question, because the next run may be for others and proves nothing about them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from modelhaul.store import osfile
from modelhaul.store.claim import MARKER
from modelhaul.store.osfile import storage_errors

#: A listing's answer, which the names come from, is not longer.
_MOST_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Marker:
    """The marker of one snapshot folder."""

    path: Path

    @classmethod
    def of(cls, state: Path, root: Path) -> Marker:
        """The marker for the snapshot at `root`, in the state folder `state`."""
        name = hashlib.sha256(os.fsencode(root)).hexdigest()[:20]
        return cls(state / f"{name}{MARKER}")

    def exists(self) -> bool:
        """Whether an update was begun and not finished."""
        return self.path.exists()

    def pending(self) -> frozenset[str] | None:
        """Files that may be older than the update; empty without a marker.

        None: it stands and does not say (cut by a crash, or another version's), so it may be any.
        """
        try:
            fields = json.loads(osfile.read_small(self.path, _MOST_BYTES))
            paths = fields["pending"]
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            return None
        return frozenset(paths)

    def set(self, *, label: str, commit: str | None, pending: Collection[str] | None) -> None:
        """Make it durable.

        Args:
            label, commit: what the update is, for people.
            pending: paths of its files, None if nobody knows them.

        Raises:
            StorageError: it cannot be written.
        """
        with storage_errors(f"writing {self.path}"):
            osfile.make_folders(self.path.parent)
            fd = osfile.make_file(self.path, truncate=True)
            try:
                paths = None if pending is None else sorted(pending)
                text = json.dumps({"label": label, "commit": commit, "pending": paths})
                osfile.write_all(fd, text.encode(), 0)
                osfile.sync_data(fd)
            finally:
                os.close(fd)
            osfile.sync_folder(self.path.parent)

    def clear(self) -> None:
        """Remove it; it may be gone."""
        with storage_errors(f"removing {self.path}"):
            osfile.remove_quietly(self.path)
