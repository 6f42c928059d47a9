"""What stands at a final name: memory first, hashing only where memory does not say. Blocks."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from modelhaul.core.plan import Found
from modelhaul.core.repo import RemoteFile
from modelhaul.store import osfile
from modelhaul.store.hashing import hash_file
from modelhaul.store.index import Entry, Known, ProvenIndex, grain_ns, wait_for_grain
from modelhaul.store.osfile import Stamp, storage_error, storage_errors


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen at a final name.

    Attributes:
        found: kind of thing.
        stamp: of the name itself (a link is not followed), None for nothing.
        known: what memory says about that very state, None if nothing; of a link, about what it
            leads to, which is never ours.
        verdict: whether the content is the wanted one; None if only hashing can tell.
    """

    found: Found
    stamp: Stamp | None = None
    known: Known | None = None
    verdict: bool | None = False


#: What is seen where nothing is.
NOTHING = Sight(Found.NOTHING)


def look(path: Path, file: RemoteFile, index: ProvenIndex, *, trust: bool) -> Sight:
    """See what is at `path`, without reading content.

    Args:
        path: the final name.
        file: what should be there.
        index: memory of proven files.
        trust: believe the memory; without it only a new hash counts.
    """
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return NOTHING
    except OSError as error:
        if error.errno == errno.ELOOP:
            return NOTHING  # a folder on the way is a link in circles; nothing is there
        raise storage_error(error, f"looking at {path}") from error
    stamp = Stamp.of(status)
    if stat.S_ISDIR(status.st_mode):
        return Sight(Found.FOLDER, stamp)
    if stat.S_ISLNK(status.st_mode):
        return Sight(Found.LINK, stamp, *_behind_link(path, file, index, trust=trust))
    if not stat.S_ISREG(status.st_mode):
        return Sight(Found.OTHER, stamp)
    known = index.lookup(path, stamp)
    return Sight(Found.FILE, stamp, known, _verdict(file, stamp.size, known, trust=trust))


def is_missing(folder: Path) -> bool:
    """Whether there is no such folder, and so nothing in it either."""
    with storage_errors(f"looking at {folder}"):
        return not folder.is_dir()


def _verdict(file: RemoteFile, size: int, known: Known | None, *, trust: bool) -> bool | None:
    if file.size is not None and file.size != size:
        return False
    if file.content is not None:
        return known.matches(file) if trust and known is not None else None
    # Nobody states a digest: only what we fetched ourselves, under the same validator, counts.
    return bool(
        trust
        and known is not None
        and known.ours
        and file.validator is not None
        and known.validator == file.validator
    )


def _behind_link(
    path: Path, file: RemoteFile, index: ProvenIndex, *, trust: bool
) -> tuple[Known | None, bool | None]:
    """What is known of what a link leads to, and the verdict.

    A link that the user made may lead to the wanted bytes; reading them does no harm. Those from
    blobs into the store that huggingface_hub shares between repositories do, as a rule.
    """
    try:
        real = _behind(path)
        status = real.lstat()
    except OSError:
        return None, False
    if not stat.S_ISREG(status.st_mode) or file.content is None or status.st_size != file.size:
        return None, False
    known = index.lookup(real, Stamp.of(status))
    if known is not None:
        # Even if we put that there: the link is somebody else's, and not ours to replace.
        known = replace(known, ours=False)
    return known, _verdict(file, status.st_size, known, trust=trust)


def _behind(link: Path) -> Path:
    """Where a link leads to in the end; unlike `Path.resolve` with one error for all that fails."""
    return Path(os.path.realpath(link, strict=True))


def prove(
    path: Path,
    file: RemoteFile,
    index: ProvenIndex,
    *,
    check: Callable[[int], None] | None = None,
    fresh: bool = False,
) -> Known | None:
    """Hash what is at `path`, and remember what it is, wanted or not.

    What is wrong is remembered too: the disk may have changed it without a trace in its times, and
    an earlier proof would be believed for ever.

    Args:
        path: a regular file or a link to one; remembered is what the link leads to.
        file: what should be there; it has a digest.
        index: memory of proven files.
        check: called with each number of bytes read; may raise to stop.
        fresh: from the disk, not from what the system has of it in memory.

    Returns:
        What is known of it now; None if it is not the wanted content.

    Raises:
        StorageError: it cannot be read, or changed while it was.
    """
    link = path.is_symlink()
    with storage_errors(f"looking at {path}"):
        if link:
            path = _behind(path)
        began = Stamp.of(path.lstat())
    # A change in the same tick as the last one would not show in the times: let the tick pass
    # before the first byte is read. Where ticks are seconds, the result is not remembered.
    wait_for_grain(began)
    settled = time.time_ns() - began.ctime_ns >= grain_ns(began)
    digests, stamp = hash_file(path, file, check=check, sync=True, fresh=fresh)
    right = digests.matches(file) is True
    before = index.lookup(path, stamp)
    known = Known.of(digests, ours=before is not None and before.ours)
    if settled and stamp == began:
        index.remember([Entry(path, stamp, known)])
    return replace(known, ours=known.ours and not link) if right else None


def room(folder: Path) -> int:
    """Bytes that may still be written to the file system of `folder` (which may not exist yet)."""
    existing = osfile.nearest_existing(folder)
    with storage_errors(f"looking at {existing}"):
        return shutil.disk_usage(existing).free
