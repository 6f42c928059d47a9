"""Contents of files."""

from __future__ import annotations

import random


def payload(size: int, seed: int = 1) -> bytes:
    """Bytes that look like nothing in particular, the same every time."""
    return random.Random(seed).randbytes(size)


def older(data: bytes) -> bytes:
    """Another version of it, of the same size: of each 64 KiB one byte is another.

    Whoever mixed the two would have to look at the whole to notice.
    """
    other = bytearray(data)
    other[:: 64 << 10] = bytes(byte ^ 1 for byte in other[:: 64 << 10])
    return bytes(other)
