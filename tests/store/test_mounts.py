"""`store.mounts`: on which file systems a lock can be believed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from modelhaul.store.mounts import LOCAL, locks_hold, parse_fdinfo, parse_mountinfo
from tests.store.helpers import run_python

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
FDINFO = "pos:\t0\nflags:\t02300000\nmnt_id:\t28\nino:\t4711\n"


def test_each_line_gives_a_mount_number_and_a_type() -> None:
    """Optional fields vary in number and names hold anything: the type is behind the lone dash."""
    assert parse_mountinfo(MOUNTINFO) == {
        22: "sysfs",
        28: "ext4",
        90: "xfs",
        91: "nfs4",
        92: "lustre",
        93: "tmpfs",
        94: "fuse.s3fs",
        95: "fuseblk",
        96: "overlay",
        97: "cifs",
        98: "9p",
        99: "btrfs",
    }


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "28 1 259:2 / / rw,relatime",
        "1 0 0:1 / /a rw - ",
        " - ext4 /dev/sda rw",
        "first 1 259:2 / / rw - ext4 /dev/sda rw",
        "-1 1 259:2 / / rw - ext4 /dev/sda rw",
        "\u00b2 1 259:2 / / rw - ext4 /dev/sda rw",
    ],
)
def test_a_line_that_says_nothing_is_passed_over(line: str) -> None:
    """An unknown format must not end the run; what is readable still counts."""
    good = "7 1 259:2 / / rw - ext4 /dev/sda rw"

    assert parse_mountinfo(f"{line}\n{good}\n") == {7: "ext4"}


def test_the_mount_number_of_an_open_file_is_read() -> None:
    """It stands in a line of its own, wherever that is."""
    assert parse_fdinfo(FDINFO) == 28
    assert parse_fdinfo("mnt_id:\t5") == 5


@pytest.mark.parametrize("text", ["", "nonsense", "pos:\t0\nflags:\t02\n", "mnt_id:\tx", "mnt_id:"])
def test_a_file_without_a_mount_number_is_nowhere(text: str) -> None:
    """Old kernels do not tell; unknown is not local."""
    assert parse_fdinfo(text) is None


def test_the_running_system_tells_where_an_open_folder_is(tiny_disk: Callable[..., Path]) -> None:
    """The number that it gives for a descriptor is one of its mounts, of the right type."""
    fd = os.open(tiny_disk(), os.O_RDONLY)

    try:
        number = parse_fdinfo(Path(f"/proc/self/fdinfo/{fd}").read_text())
    finally:
        os.close(fd)

    assert number is not None
    assert parse_mountinfo(Path("/proc/self/mountinfo").read_text())[number] == "tmpfs"


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


@pytest.mark.parametrize("kind", [None, "", "ext", "EXT4", "ext4 "])
def test_an_unknown_file_system_is_not_believed(kind: str | None) -> None:
    """Unknown is not local, and neither is what only looks like a known name."""
    assert kind not in LOCAL


def test_locks_hold_on_a_local_disk(tmp_path: Path, tiny_disk: Callable[..., Path]) -> None:
    """Asked of the running system, through a link too: a memory disk is local, procfs is not."""
    disk = tiny_disk()
    (tmp_path / "link").symlink_to(disk)
    (tmp_path / "system").symlink_to("/proc/self")

    assert locks_hold(disk)
    assert locks_hold(tmp_path / "link")
    assert not locks_hold(Path("/proc"))
    assert not locks_hold(tmp_path / "system")


GRANTING = """
import fcntl
from modelhaul.store.mounts import locks_hold
fcntl.flock = lambda fd, operation: None
print(locks_hold(Path(sys.argv[1])))
"""


def test_locks_that_everybody_gets_do_not_hold(tiny_disk: Callable[..., Path]) -> None:
    """On whatever file system: a lock is tried before it is believed."""
    assert run_python(GRANTING, tiny_disk()) == "False\n"


def test_many_may_ask_at_once_whether_locks_hold(tiny_disk: Callable[..., Path]) -> None:
    """Who finds the lock taken by another that asks has its answer too."""
    disk = tiny_disk()
    fd = os.open(disk, os.O_RDONLY)

    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        answer = locks_hold(disk)
    finally:
        os.close(fd)

    assert answer


def test_nested_mounts_and_alike_names_are_told_apart(
    tmp_path: Path, mount: Callable[..., None]
) -> None:
    """Each folder is judged by the file system that it is on, not by its name's beginning."""
    mount("tmpfs", tmp_path)
    (tmp_path / "vm").mkdir()
    (tmp_path / "vms").mkdir()
    mount("proc", tmp_path / "vm")
    mount("tmpfs", tmp_path / "vm" / "fs")

    assert locks_hold(tmp_path)
    assert not locks_hold(tmp_path / "vm")
    assert not locks_hold(tmp_path / "vm" / "sys")
    assert locks_hold(tmp_path / "vms")
    assert locks_hold(tmp_path / "vm" / "fs")


@pytest.mark.parametrize(("first", "second"), [("tmpfs", "proc"), ("proc", "tmpfs")])
def test_a_later_mount_on_the_same_point_hides_the_earlier(
    tmp_path: Path, mount: Callable[..., None], first: str, second: str
) -> None:
    """What was mounted last is what a program sees."""
    mount(first, tmp_path)
    mount(second, tmp_path)

    assert locks_hold(tmp_path) is (second == "tmpfs")


def test_a_later_mount_above_hides_those_below(tmp_path: Path, mount: Callable[..., None]) -> None:
    """A share mounted over a folder hides the local disk mounted inside that folder before."""
    (tmp_path / "a" / "sys").mkdir(parents=True)
    mount("tmpfs", tmp_path / "a" / "sys")
    before = locks_hold(tmp_path / "a" / "sys")

    mount("proc", tmp_path / "a")

    assert before
    assert not locks_hold(tmp_path / "a" / "sys")


def test_what_is_no_folder_is_unknown(tmp_path: Path, tiny_disk: Callable[..., Path]) -> None:
    """Nothing can be asked of a missing folder or a file: unknown is not local."""
    disk = tiny_disk()
    (disk / "file").write_bytes(b"")

    assert not locks_hold(disk / "missing")
    assert not locks_hold(disk / "file")
