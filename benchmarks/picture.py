"""Records to a picture: wall seconds as bars, one group per case, drawn by hand as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.bench import Case
from benchmarks.verdicts import LikeHealthy, Record, figure, metric

_WIDTH, _LEFT, _RIGHT = 860, 300, 90
_BAR, _GAP, _HEAD = 16, 4, 30
_COLORS = {"modelhaul": "#1f7a5c", "peer": "#9aa5b1", "floor": "#d8dde3", "note": "#d8dde3"}


def results_picture(records: Mapping[str, Record], cases: Sequence[Case]) -> str:
    """Of the cases that compare something, each scaled to its slowest row."""
    y = 10
    parts: list[str] = []
    for case in cases:
        record = records.get(case.name)
        bars = _bars(record) if record is not None else []
        if record is None or len(bars) < 2 or not _compares(case, record):
            continue
        slowest = max(wall for _, _, wall in bars) or 1.0
        parts.append(_text(10, y + 20, f"{case.name}: {record['title']}", weight="bold"))
        y += _HEAD
        for name, kind, wall in bars:
            width = (_WIDTH - _LEFT - _RIGHT) * wall / slowest
            parts.append(_text(_LEFT - 8, y + 12, name, anchor="end"))
            parts.append(
                f'<rect x="{_LEFT}" y="{y}" width="{max(1.0, width):.1f}" height="{_BAR}"'
                f' fill="{_COLORS[kind]}"/>'
            )
            parts.append(_text(_LEFT + width + 6, y + 12, figure(wall, "wall")))
            y += _BAR + _GAP
        y += 10
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}"'
        f' viewBox="0 0 {_WIDTH} {y}" font-family="sans-serif" font-size="12">'
    )
    ground = f'<rect width="{_WIDTH}" height="{y}" fill="#ffffff"/>'
    return "\n".join([head, ground, *parts, "</svg>", ""])


def _compares(case: Case, record: Record) -> bool:
    """Whether its bars say something beside each other."""
    peers = any(row["kind"] == "peer" for row in record["rows"].values())
    return peers or any(isinstance(target, LikeHealthy) for target in case.targets)


def _bars(record: Record) -> list[tuple[str, str, float]]:
    """(name, kind, median wall) of the rows that have one, without the floors."""
    found = []
    for name, row in record["rows"].items():
        wall = metric(record, name, "wall")
        if wall is not None and row["kind"] != "floor":
            found.append((name, str(row["kind"]), wall.median))
    return found


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}"'
        f' fill="#222222">{escape(text)}</text>'
    )
