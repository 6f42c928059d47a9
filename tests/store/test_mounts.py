"""`store.mounts`: on which file systems a lock can be believed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelhaul.store.mounts import LOCAL, filesystem_of, locks_hold, parse_mountinfo

# Lines as the kernel prints them (proc(5)), from a laptop, a cluster and a container.
MOUNTINFO = r"""
22 28 0:21 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
28 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw,errors=remount-ro
90 28 259:3 / /home rw,relatime shared:40 - xfs /dev/nvme0n1p3 rw,attr2,inode64
91 90 0:50 / /home/ann/My\040Models\011and\134more rw,relatime shared:41 - nfs4 nas:/m rw,vers=4.2
92 28 0:51 / /scratch rw,relatime - lustre 10.0.0.1@tcp:/scratch rw,flock
93 92 0:52 / /scratch/local rw,relatime - tmpfs tmpfs rw,size=1024k
94 28 0:53 / /mnt/bucket rw,nosuid,nodev - fuse.s3fs s3fs rw,user_id=0,group_id=0
95 28 0:54 / /mnt/ntfs rw,relatime - fuseblk /dev/sdb1 rw,user_id=0
96 28 0:55 / /var/lib/box/merged rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u
97 28 0:56 / /mnt/win rw,relatime shared:9 master:2 propagate_from:2 - cifs //nas/w rw
98 28 0:57 / /mnt/vm rw,relatime - 9p hostshare rw,trans=virtio
99 28 0:58 /sub /data rw,relatime - btrfs /dev/sdc rw,subvolid=256,subvol=/sub
"""
MOUNTS = parse_mountinfo(MOUNTINFO)


def test_each_line_gives_a_mount_point_and_a_type() -> None:
    """Optional fields vary in number: the type stands behind the lone dash."""
    assert MOUNTS[0] == ("/sys", "sysfs")
    assert MOUNTS[1] == ("/", "ext4")
    assert ("/mnt/win", "cifs") in MOUNTS
    assert ("/data", "btrfs") in MOUNTS
    assert len(MOUNTS) == 12


def test_escaped_characters_are_read() -> None:
    """The kernel writes blanks, tabs, newlines and backslashes in octal."""
    assert ("/home/ann/My Models\tand\\more", "nfs4") in MOUNTS
    assert parse_mountinfo(r"1 0 0:1 / /a\012b\043c rw - ext4 d rw") == [("/a\nb#c", "ext4")]


@pytest.mark.parametrize(
    "line",
    ["", "nonsense", "28 1 259:2 / / rw,relatime", "28 1 - ext4 /dev/sda rw", "1 0 0:1 / /a rw - "],
)
def test_a_line_that_says_nothing_is_passed_over(line: str) -> None:
    """An unknown format must not end the run; what is readable still counts."""
    good = "28 1 259:2 / / rw - ext4 /dev/sda rw"

    assert parse_mountinfo(f"{line}\n{good}\n") == [("/", "ext4")]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/root/models", "ext4"),
        ("/home", "xfs"),
        ("/home/bob", "xfs"),
        ("/homework", "ext4"),
        ("/home/ann/My Models\tand\\more/qwen", "nfs4"),
        ("/scratch/me", "lustre"),
        ("/scratch/local", "tmpfs"),
        ("/scratch/local/me", "tmpfs"),
        ("/scratch/locally", "lustre"),
        ("/mnt/bucket/a/b/c", "fuse.s3fs"),
        ("/var/lib/box/merged/etc", "overlay"),
        ("/data/x", "btrfs"),
    ],
)
def test_the_closest_mount_above_a_path_holds_it(path: str, kind: str) -> None:
    """Nested mounts and names that only begin alike are told apart."""
    assert filesystem_of(path, MOUNTS) == kind


def test_a_later_mount_on_the_same_point_hides_the_earlier() -> None:
    """What was mounted last is what a program sees."""
    assert filesystem_of("/data/x", [("/", "ext4"), ("/data", "xfs"), ("/data", "nfs")]) == "nfs"
    assert filesystem_of("/x", [("/", "rootfs"), ("/", "overlay")]) == "overlay"


def test_a_path_that_no_mount_holds_is_unknown() -> None:
    """Unknown is not local."""
    assert filesystem_of("/data", []) is None
    assert filesystem_of("/data", [("/home", "ext4")]) is None
    assert None not in LOCAL


@pytest.mark.parametrize(
    "kind",
    [
        *("nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "afs", "lustre", "gpfs"),
        *("beegfs", "glusterfs", "fuse", "fuseblk", "fuse.sshfs", "fuse.s3fs", "fuse.glusterfs"),
    ],
)
def test_no_network_or_fuse_file_system_is_believed(kind: str) -> None:
    """A lock that succeeds for everybody is worse than none."""
    assert kind not in LOCAL


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "overlay", "tmpfs", "zfs", "apfs"])
def test_common_local_file_systems_are_believed(kind: str) -> None:
    """Containers run on overlay, and everybody else on one of these."""
    assert kind in LOCAL


def test_locks_hold_on_a_local_disk(tmp_path: Path, tiny_disk: Callable[..., Path]) -> None:
    """Asked of the running system, through a link too: a memory disk is local, procfs is not."""
    disk = tiny_disk()
    (tmp_path / "link").symlink_to(disk)
    (tmp_path / "system").symlink_to("/proc/self")

    assert locks_hold(disk)
    assert locks_hold(tmp_path / "link")
    assert not locks_hold(Path("/proc"))
    assert not locks_hold(tmp_path / "system")
