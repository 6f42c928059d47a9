"""Which file systems have locks that hold.

`flock` succeeds for everybody on Lustre, GPFS, some NFS and many FUSE mounts: a lock that lies is
worse than none. So locks are believed only on file systems known to be local. Elsewhere every
process works on a part of its own (see `store.claim`).
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")

# Kernel names of local file systems whose flock is the kernel's own. FUSE, 9p, virtiofs and
# everything over a network are left out on purpose.
# fmt: off
LOCAL = frozenset({
    "apfs", "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfs", "hfsplus",
    "jfs", "msdos", "nilfs2", "ntfs3", "overlay", "ramfs", "reiserfs", "rootfs", "squashfs",
    "tmpfs", "ubifs", "udf", "ufs", "vfat", "xfs", "zfs",
})
# fmt: on


def parse_mountinfo(text: str) -> list[tuple[str, str]]:
    """(mount point, type) of each line of `/proc/self/mountinfo`, in mount order (proc(5))."""
    mounts = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split(" ")
        if not dash or len(fields) < 5 or not after:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        mounts.append((point, after.split(" ", 1)[0]))
    return mounts


def filesystem_of(path: str, mounts: list[tuple[str, str]]) -> str | None:
    """The type of the file system that holds an absolute, resolved path; None if unknown."""
    best, found = -1, None
    for point, kind in mounts:
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        # A later mount on the same point hides the earlier one.
        if inside and len(point) >= best:
            best, found = len(point), kind
    return found


def locks_hold(folder: Path) -> bool:
    """Whether an exclusive lock on a file in `folder` really excludes other processes."""
    if sys.platform == "win32":
        return False
    if sys.platform == "darwin":
        # No mountinfo there. Disks of other machines are mounted below these two.
        real = os.path.realpath(folder)
        return not real.startswith(("/Volumes/", "/net/", "/Network/"))
    try:
        text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return False
    return filesystem_of(os.path.realpath(folder), parse_mountinfo(text)) in LOCAL
