"""Contents of files."""

from __future__ import annotations

import random


def payload(size: int, seed: int = 1) -> bytes:
    """Bytes that look like nothing in particular, the same every time."""
    return random.Random(seed).randbytes(size)
