"""Which file systems have locks that hold.

`flock` succeeds for everybody on Lustre, GPFS, some NFS and many FUSE mounts: a lock that lies is
worse than none. So locks are believed only on file systems known to be local, and only if one is
seen to keep somebody out. Elsewhere every process works on a part of its own (see `store.claim`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from modelhaul.store import osfile

# Kernel names of local file systems whose flock is the kernel's own. FUSE, 9p, virtiofs and
# everything over a network are left out on purpose.
# fmt: off
LOCAL = frozenset({
    "apfs", "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfs", "hfsplus",
    "jfs", "msdos", "nilfs2", "ntfs3", "overlay", "ramfs", "reiserfs", "rootfs", "squashfs",
    "tmpfs", "ubifs", "udf", "ufs", "vfat", "xfs", "zfs",
})
# fmt: on


def parse_mountinfo(text: str) -> dict[int, str]:
    """File system type by mount number, from `/proc/self/mountinfo` (proc(5))."""
    mounts = {}
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        number = before.split(" ")[0]
        if dash and number.isascii() and number.isdigit() and after:
            mounts[int(number)] = after.split(" ", 1)[0]
    return mounts


def parse_fdinfo(text: str) -> int | None:
    """The mount number in `/proc/self/fdinfo/<n>` (proc(5)), None if it is not there."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "mnt_id" and value.strip().isdigit():
            return int(value)
    return None


def locks_hold(folder: Path) -> bool:
    """Whether an exclusive lock on a file in `folder` really excludes other processes."""
    try:
        return _is_local(folder) and _keeps_out(folder)
    except OSError:
        return False


def _is_local(folder: Path) -> bool:
    if sys.platform == "win32":
        return False
    if sys.platform == "darwin":
        # No mountinfo there. Disks of other machines are mounted below these.
        real = os.path.realpath(folder)
        return not real.startswith(("/Volumes/", "/net/", "/Network/"))
    # By the open folder, not by comparing paths: mounts hide one another.
    fd = _open_folder(folder)
    try:
        number = parse_fdinfo(Path(f"/proc/self/fdinfo/{fd}").read_text())
    finally:
        os.close(fd)
    mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
    return number is not None and mounts.get(number) in LOCAL


def _keeps_out(folder: Path) -> bool:
    """Whether a lock keeps others out, tried on the folder itself, opened twice.

    A sandbox or a preloaded library may grant every lock on any file system. Two processes in one
    part would then publish a file that the other still writes, or empties.
    """
    first, second = _open_folder(folder), _open_folder(folder)
    try:
        # Refused the first already: another process tries the same right now.
        return not (osfile.try_lock(first) and osfile.try_lock(second))
    finally:
        os.close(first)
        os.close(second)


def _open_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
