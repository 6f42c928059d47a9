"""Medians, ratios and whether a target is met: numbers in, words out, nothing measured here.

A *record* is what one case left behind, as it stands in results.json: `{"rows": {name: row}}`, a
row `{"kind": ..., "runs": [{"wall": ..}, ...], "skipped": reason or None}`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Record = Mapping[str, Any]

UNITS = {
    "wall": "s", "cpu": "s", "peak": "MiB", "proof": "s", "first request": "s", "late": "s",
    "rate": "MB/s",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some runs, and how far they went."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def metric(record: Record, row: str, name: str) -> Spread | None:
    """One row's figure, None if there is none: a row that failed once has none either."""
    found = record["rows"].get(row)
    if found is None or found.get("skipped"):
        return None
    values = [run[name] for run in found["runs"] if run.get(name) is not None]
    return spread(values) if values else None


def why_missing(record: Record, rows: Sequence[str]) -> str:
    """Why a comparison cannot be made."""
    if record.get("skipped"):
        return str(record["skipped"])
    for row in rows:
        found = record["rows"].get(row)
        if found is None:
            return f"{row}: not measured"
        if not found["runs"] or found.get("skipped"):
            return f"{row}: {found.get('skipped') or 'not measured'}"
    return "not measured"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the table of targets; `met` is None if nothing can be said."""

    what: str
    value: str
    limit: str
    met: bool | None

    @property
    def word(self) -> str:
        if self.met is None:
            return f"**{FAILED}**" if f"{FAILED} " in self.value else "skipped"
        return "met" if self.met else "**missed**"


class Target(Protocol):
    """Something a case has to reach."""

    def judge(self, record: Record) -> Verdict:
        """What has become of it."""
        ...


@dataclass(frozen=True, slots=True)
class Ratio:
    """Our median over the peer's (or the sum of several rows') is at most a limit."""

    against: tuple[str, ...]
    metric: str
    limit: float
    stretch: float | None = None
    row: str = "modelhaul"

    def judge(self, record: Record) -> Verdict:
        what = f"{self.metric} / {' + '.join(self.against)}"
        limit = f"<= {self.limit:g}"
        if self.stretch is not None:
            limit += f" (stretch {self.stretch:g})"
        ours = metric(record, self.row, self.metric)
        others = [metric(record, name, self.metric) for name in self.against]
        theirs = [other.median for other in others if other is not None]
        if ours is None or len(theirs) < len(others):
            return Verdict(what, why_missing(record, (self.row, *self.against)), limit, None)
        ratio = ours.median / sum(theirs)
        return Verdict(what, _ratio(ratio, self.limit), limit, ratio <= self.limit)


@dataclass(frozen=True, slots=True)
class NoSlower:
    """Our median is at most that of the fastest peer of the case."""

    metric: str = "wall"
    row: str = "modelhaul"

    def judge(self, record: Record) -> Verdict:
        what = f"{self.metric} / fastest peer"
        ours = metric(record, self.row, self.metric)
        peers = {
            name: found.median
            for name, row in record["rows"].items()
            if row["kind"] == "peer" and (found := metric(record, name, self.metric)) is not None
        }
        if ours is None or not peers:
            return Verdict(what, why_missing(record, (self.row,)), "<= 1", None)
        fastest = min(peers, key=lambda name: peers[name])
        ratio = ours.median / peers[fastest]
        return Verdict(f"{what} ({fastest})", _ratio(ratio, 1.0), "<= 1", ratio <= 1)


@dataclass(frozen=True, slots=True)
class AtMost:
    """Our median itself is at most a limit."""

    row: str
    metric: str
    limit: float

    def judge(self, record: Record) -> Verdict:
        unit = UNITS.get(self.metric, "")
        what, limit = f"{self.metric} of {self.row}", f"<= {self.limit:g} {unit}"
        ours = metric(record, self.row, self.metric)
        if ours is None:
            return Verdict(what, why_missing(record, (self.row,)), limit, None)
        return Verdict(what, figure(ours.median, self.metric), limit, ours.median <= self.limit)


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A figure reaches what the case is about; else the case has shown nothing."""

    row: str
    metric: str
    limit: float

    def judge(self, record: Record) -> Verdict:
        what, limit = f"{self.metric} of {self.row}", f">= {self.limit:g}"
        ours = metric(record, self.row, self.metric)
        if ours is None:
            return Verdict(what, why_missing(record, (self.row,)), limit, None)
        return Verdict(what, figure(ours.median, self.metric), limit, ours.median >= self.limit)


@dataclass(frozen=True, slots=True)
class LikeHealthy:
    """A run with a fault takes at most 1.15 times the healthy one, or a second more."""

    row: str
    healthy: str

    def judge(self, record: Record) -> Verdict:
        what, limit = f"wall of {self.row}", "<= max(1.15 x, 1 s more)"
        ours, healthy = (metric(record, name, "wall") for name in (self.row, self.healthy))
        if ours is None or healthy is None:
            return Verdict(what, why_missing(record, (self.row, self.healthy)), limit, None)
        allowed = max(1.15 * healthy.median, healthy.median + 1.0)
        value = f"{ours.median:.2f} s, healthy {healthy.median:.2f} s"
        return Verdict(what, value, f"{limit}: {allowed:.2f} s", ours.median <= allowed)


def _ratio(ratio: float, limit: float) -> str:
    """Two decimals; three where two would hide on which side of the limit it is."""
    short = f"{ratio:.2f}"
    return f"{ratio:.3f}" if float(short) == limit != ratio else short


def figure(value: float, name: str) -> str:
    """A number with its unit, as precise as it is worth."""
    unit = UNITS.get(name, "")
    if unit == "s":
        return f"{value:.3f} s" if value < 1 else f"{value:.2f} s"
    return f"{value:.0f} {unit}".strip()


def has_failed(record: Record) -> bool:
    """Whether the case or a row went wrong; one whose tool is missing did not."""
    whole = str(record.get("skipped") or "")
    reasons = [whole, *(str(row.get("skipped") or "") for row in record["rows"].values())]
    return any(reason.startswith(FAILED) for reason in reasons)


def is_trial(record: Record) -> bool:
    """Whether it breaks the rules, so that its verdicts say nothing: small sizes, few runs."""
    return record.get("scale", 1) != 1 or bool(few_runs(record))


def few_runs(record: Record) -> list[str]:
    """Rows measured less often than the rules ask for: five runs, three where one is over 30 s."""
    found = []
    for name, row in record["rows"].items():
        walls = [run["wall"] for run in row["runs"]]
        if walls and len(walls) < (3 if statistics.median(walls) > LONG else 5):
            found.append(name)
    return found


#: How the reason begins for a row or a case that went wrong.
FAILED = "failed"
#: Seconds from which a run counts as long, and the runs that are enough then.
LONG = 30.0
ENOUGH_IF_LONG = 3
