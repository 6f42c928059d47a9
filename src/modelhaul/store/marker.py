"""A note on disk that an update of a mutable snapshot is half published. Blocks.

Written and made durable before the first file of the update is renamed, removed after the last: as
long as it stands, the snapshot may show files of two commits.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from modelhaul.store import osfile
from modelhaul.store.claim import MARKER
from modelhaul.store.osfile import storage_errors


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

    def set(self, *, label: str, commit: str | None) -> None:
        """Make it durable.

        Raises:
            StorageError: it cannot be written.
        """
        with storage_errors(f"writing {self.path}"):
            osfile.make_folders(self.path.parent)
            fd = osfile.open_file(self.path, create=True, truncate=True)
            try:
                text = json.dumps({"label": label, "commit": commit})
                osfile.write_all(fd, text.encode(), 0)
                osfile.sync_data(fd)
            finally:
                os.close(fd)
            osfile.sync_folder(self.path.parent)

    def clear(self) -> None:
        """Remove it; it may be gone."""
        with storage_errors(f"removing {self.path}"):
            osfile.remove_quietly(self.path)
