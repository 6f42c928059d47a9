"""Where a scenario runs: over loopback, or between two namespaces with a long line between them.

A *place* says how to start a program on the server's side and how on the client's side, and
which address the server has for the client.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import helper

ROUND_TRIP_MS = 50.0
_SERVER, _CLIENT = "10.88.0.1", "10.88.0.2"
_PROBE = """
import socket, sys, time
best = 9.0
for _ in range(5):
    began = time.monotonic()
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()
    best = min(best, time.monotonic() - began)
print(best * 1000)
"""


@dataclass(frozen=True, slots=True)
class Place:
    """How programs are started on either side of the line."""

    host: str
    server: tuple[str, ...] = ()
    client: tuple[str, ...] = ()

    def round_trip_ms(self, port: int) -> float:
        """The time that a connection takes to be made, the best of five."""
        command = [*self.client, sys.executable, "-c", _PROBE, self.host, str(port)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return float(done.stdout)


LOOPBACK = Place("127.0.0.1")


def why_not_wide() -> str | None:
    """Why there can be no long line here; None if there can."""
    if sys.platform != "linux":
        return "needs Linux"
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun"
    for program in ("ip", "nsenter"):
        if shutil.which(program) is None:
            return f"needs the program {program}"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        return f"needs the right to make network namespaces ({tried.stderr.strip()})"
    return None


@contextmanager
def wide_area(log: Path) -> Iterator[Place]:
    """Two namespaces with a line of `ROUND_TRIP_MS` between them, removed at the end."""
    names = [f"modelhaul-{os.getpid()}-{side}" for side in ("server", "client")]
    made = []
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            made.append(name)
        server, client = ((*_enter(name),) for name in names)
        for prefix in (server, client):
            # Else the kernel remembers how fast the last run could go, and the next starts there.
            _set(prefix, "net/ipv4/tcp_no_metrics_save", "1")
        # Else a connection among many, or a capped one, sends packets of a few kilobytes, and the
        # line, which costs the same for each, is measured instead of the clients.
        _set(server, "net/ipv4/tcp_min_tso_segs", "40")
        ends = (names[0], _SERVER, names[1], _CLIENT)
        with helper("delaylink", *ends, ROUND_TRIP_MS, log=log):
            yield Place(_SERVER, server, client)
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False)


def _enter(namespace: str) -> list[str]:
    # Not `ip netns exec`: that mounts things besides, and the time is measured.
    return [shutil.which("nsenter") or "nsenter", f"--net=/run/netns/{namespace}"]


def _set(prefix: tuple[str, ...], name: str, value: str) -> None:
    line = f"echo {value} > /proc/sys/{name}"
    subprocess.run([*prefix, "/bin/sh", "-c", line], check=True)
