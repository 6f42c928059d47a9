"""One file under two names: when a hard link may stand in for a copy, and making it. Blocks.

Only between blobs of Hugging Face caches. Those are written once and then only replaced, by a
rename, so what happens to one name is never seen under the other. Of any other file it might be:
who edits a file in a plain folder must not change what a cache holds.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from modelhaul.core.digests import Digests
from modelhaul.store import osfile
from modelhaul.store.index import Entry, Known, ProvenIndex
from modelhaul.store.layout_huggingface import is_blob
from modelhaul.store.osfile import Stamp, storage_errors

#: Bytes from which a file is linked. Below, a link would save nothing, and the small text files of
#: a snapshot are what people do edit in place.
LEAST = 1 << 20
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def are_blobs(source: Path, final: Path, root: Path) -> bool:
    """Whether two places are in stores that are written once, by their names.

    Args:
        source: where content lies; links resolved.
        final: where it is wanted.
        root: the target that `final` is in. It has to be the repository's folder itself: further
            down, a repository could have files with such names.
    """
    return final.parent.parent == root and is_blob(final) and is_blob(source)


def would_link(source: Path, final: Path, root: Path) -> bool:
    """Whether it looks as if a link could be made, which takes no room. Only trying tells."""
    if not are_blobs(source, final, root):
        return False
    try:
        there, here = source.lstat(), osfile.nearest_existing(root).stat()
    except OSError:
        return False
    return (
        there.st_size >= LEAST
        and not there.st_mode & _OTHERS_WRITE
        and (there.st_dev, there.st_uid) == (here.st_dev, here.st_uid)
    )


class Twin:
    """An open file that may get a second name instead of being copied."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path
        self._began = os.fstat(fd)

    def is_like(self, copy: os.stat_result) -> bool:
        """Whether a copy would be the same to everybody.

        Args:
            copy: of a file that was made where the copy would be.
        """
        began = self._began
        if began.st_size < LEAST:
            return False
        if began.st_mode & _OTHERS_WRITE:
            # Somebody else could change our file later. (An access list that lets others write
            # shows in the bits of the group.)
            return False
        # Its owner could, too; another mode or group lets others read than this umask and this
        # folder would; and there are no links from one file system to another.
        return _nature(began) == _nature(copy)

    def link(self, final: Path) -> bool:
        """Give the very file that is open its second name, durably; whether that could be done.

        Its bytes have been read through the descriptor and are right. They are synced before the
        name is given, since nobody knows who wrote them, and when.

        Raises:
            StorageError: it has the name, but the folder cannot be synced.
        """
        try:
            osfile.sync_data(self._fd)
            now = os.fstat(self._fd)
            if (_nature(now), _content(now)) != (_nature(self._began), _content(self._began)):
                return False  # it was written to while it was read, or others may do that by now
            osfile.link(self._fd, self._path, final)
        except OSError:
            # No links on this file system, too many of this file, not allowed; or the name is taken
            # by now. Whatever it is: a copy needs no link, and meets what is in its way itself.
            return False
        with storage_errors(f"syncing {final.parent}"):
            osfile.sync_folder(final.parent)
        return True

    def remember(self, final: Path, digests: Digests, index: ProvenIndex) -> None:
        """Tell the memory of the new name, and of the old ones.

        A link changes a time of the file (ctime), and so under all of its names: what was proven
        would have to be hashed again.
        """
        before = Stamp.of(self._began)
        with storage_errors(f"looking at {final}"):
            now = os.fstat(self._fd)
        # With the times of the bytes that were hashed: if it has others by now, this never counts.
        stamp = Stamp(
            before.device, before.inode, before.size, before.mtime_ns, Stamp.of(now).ctime_ns
        )
        known = {self._path: Known.of(digests, ours=False)}
        for path in {self._path, *index.find([digests.sha256]).get(digests.sha256, ())}:
            # Another file with this content has another inode, so it is not found by this stamp.
            remembered = index.lookup(path, before)
            if remembered is not None:
                known[path] = remembered
        known[final] = Known.of(digests, ours=True)
        index.remember(Entry(path, stamp, what) for path, what in known.items())


def _nature(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_uid, status.st_gid, status.st_mode


def _content(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns
