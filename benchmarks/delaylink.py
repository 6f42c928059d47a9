"""A line with delay between two network namespaces, in user space, for kernels without netem.

Two TUN devices, one moved into each namespace; packets read from one are held for half the round
trip and written to the other. Two things make it exact and fast enough. Segmentation offload is
on, so one read is a super-packet of up to 64 KiB. And the wait is `select`, which takes
microseconds, not `epoll`, which rounds up to milliseconds twice per round trip.

    python -m benchmarks.delaylink NAMESPACE ADDRESS NAMESPACE ADDRESS ROUND_TRIP_MS

Needs root. Prints `up`; the devices go away with the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field

from benchmarks.processes import die_with_parent

# From linux/if_tun.h; the fcntl module does not have them.
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_CHECKSUM_AND_TSO = 1 | 2 | 4
_LARGEST = 65536 + 64  # a super-packet and the header in front of it
_AT_A_TIME = 64  # packets read in a row, so that neither direction starves


@dataclass(slots=True)
class End:
    """One device, and what is on its way to it: (when it is due, packet)."""

    device: int
    coming: deque[tuple[float, bytes]] = field(default_factory=deque)


def open_end(device: str, namespace: str, address: str, peer: str) -> End:
    """A TUN device inside a namespace, up, with an address."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", device.encode(), flags))
    fcntl.ioctl(fd, _TUNSETOFFLOAD, _CHECKSUM_AND_TSO)
    for line in (
        f"ip link set {device} netns {namespace}",
        f"ip -n {namespace} addr add {address} peer {peer} dev {device}",
        # A short queue would drop bursts, which is loss and not delay.
        f"ip -n {namespace} link set {device} mtu 1500 txqueuelen 20000 up",
        f"ip -n {namespace} link set lo up",
    ):
        subprocess.run(line.split(), check=True)
    return End(fd)


def carry(left: End, right: End, delay: float) -> None:
    """Move packets both ways, for ever."""
    ends = {left.device: left, right.device: right}
    across = {left.device: right, right.device: left}
    while True:
        dues = [end.coming[0][0] for end in ends.values() if end.coming]
        wait = max(0.0, min(dues) - time.monotonic()) if dues else None
        readable, _, _ = select.select(ends, (), (), wait)
        for device in readable:
            _take(device, across[device], delay)
        for end in ends.values():
            _give(end)


def _take(device: int, to: End, delay: float) -> None:
    for _ in range(_AT_A_TIME):
        try:
            packet = os.read(device, _LARGEST)
        except BlockingIOError:
            return
        to.coming.append((time.monotonic() + delay, packet))


def _give(end: End) -> None:
    now = time.monotonic()
    while end.coming and end.coming[0][0] <= now:
        # An error means that the device's queue is full or gone: a real line drops, too.
        with contextlib.suppress(OSError):
            os.write(end.device, end.coming.popleft()[1])


def main() -> None:
    die_with_parent()
    left_namespace, left_address, right_namespace, right_address, round_trip = sys.argv[1:6]
    name = f"mh{os.getpid()}"  # devices are born in the root namespace: unique there
    left = open_end(f"{name}a", left_namespace, left_address, right_address)
    right = open_end(f"{name}b", right_namespace, right_address, left_address)
    print("up", flush=True)
    carry(left, right, float(round_trip) / 2000)


if __name__ == "__main__":
    main()
