"""What a server may have to send twice because a download was killed, by the server's own log.

Per open connection 1 MiB (less than that is in no journal), what came in the last second (small
files are published and parts made durable about every second), and what the server had sent but
the download had never got to see, since it lay in kernels. The server counts what it hands over,
so both ends of a connection have such bytes, and its process the piece that it was handing over.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1 << 20
#: What the server has counted as sent and not yet given to its kernel, per connection: the piece
#: under way and aiohttp's buffer (`modelhaul.server.body`).
HELD_BY_SERVER = (256 + 64) << 10
#: The line of a request log (`modelhaul.server.body.RequestLog`).
Entry = dict[str, Any]

_LISTENING = "0A"  # state in /proc/net/tcp


@dataclass(frozen=True)
class Kill:
    """When a download was killed, and the bytes that lay in kernels just before."""

    time: float
    received: int
    unsent: int


def before_kill(process: int, server: int) -> Kill:
    """To be called right before `process`, which is downloading from `server`, is killed."""
    received = sum(received for received, _ in connections(process))
    unsent = sum(unsent for _, unsent in connections(server))
    return Kill(time.time(), received, unsent)


def connections(process: int) -> list[tuple[int, int]]:
    """Bytes in the receive and in the send queue of each TCP connection of a process.

    From /proc, since not every machine has `ss`. Empty on systems without it: nothing is allowed
    for queues there, which makes the check stricter.
    """
    inodes = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    found = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[9] in inodes and fields[3] != _LISTENING:
                    unsent, _, received = fields[4].partition(":")
                    found.append((int(received, 16), int(unsent, 16)))
    return found


def allowance(before: list[Entry], kill: Kill) -> dict[str, int]:
    """Bytes that may be sent again, by reason; `before` is what the log has up to the kill."""
    cut = cut_short(before)
    return {
        f"1 MiB x {cut} connections": cut * MIB,
        "what was sent in the last second": sent_within(before, kill.time - 1.0, kill.time),
        "receive queues of the download": kill.received,
        "send queues of the server": kill.unsent,
        "inside the server's process": cut * HELD_BY_SERVER,
    }


def cut_short(entries: list[Entry]) -> int:
    """Answers that did not get to their end."""
    return sum(entry["sent"] < entry["stop"] - entry["start"] for entry in entries)


def sent(entries: list[Entry]) -> int:
    """Bytes of files that were sent."""
    return sum(entry["sent"] for entry in entries)


def sent_within(entries: list[Entry], start: float, stop: float) -> int:
    """Bytes that the server sent between two moments, each answer taken as even."""
    total = 0.0
    for entry in entries:
        began = entry["time"] - entry["seconds"]
        # An answer that was cut sent nothing after the kill: its end is when that was noticed.
        ended = min(entry["time"], stop)
        if ended > began:
            inside = max(0.0, ended - max(began, start))
            total += entry["sent"] * inside / (ended - began)
    return int(total)
