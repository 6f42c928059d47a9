"""Sizes and rates as people write and read them. Decimal, as hubs and disks are labelled."""

from __future__ import annotations

import re

from modelhaul.errors import UsageError

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_FACTORS = {
    "": 1, "b": 1,
    "k": 10**3, "kb": 10**3, "kib": 1 << 10,
    "m": 10**6, "mb": 10**6, "mib": 1 << 20,
    "g": 10**9, "gb": 10**9, "gib": 1 << 30,
    "t": 10**12, "tb": 10**12, "tib": 1 << 40,
    "p": 10**15, "pb": 10**15, "pib": 1 << 50,
    "kbit": 125, "mbit": 125_000, "gbit": 125_000_000,
}  # fmt: skip
_SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]+)?)\s*([A-Za-z]*?)(?:/s)?\s*")


def size_text(count: float) -> str:
    """A number of bytes with three digits and a unit, for example `1.23 GB`."""
    value = float(count)
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    if unit == "B":
        return f"{value:.0f} B"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def parse_size(text: str) -> float:
    """Bytes (or bytes/s) from `50MB`, `1.5GiB`, `400Mbit`, `65536`.

    Raises:
        UsageError: not a size, or 0.
    """
    match = _SIZE.fullmatch(text)
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None or float(match[1]) == 0:
        raise UsageError(f"not a size: {text!r}", hint="for example 50MB, 1.5GiB or 400Mbit")
    return float(match[1]) * factor


def count_text(count: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration_text(seconds: float) -> str:
    """Seconds as `0.4s`, `12s`, `3m05s` or `2h04m`; less than a tenth is a tenth, not nothing."""
    if 0 < seconds < 0.95:
        return f"{max(0.1, seconds):.1f}s"
    whole = round(min(max(0.0, seconds), 1e9))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
