"""Records to Markdown: the table of targets, then what was measured, case by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.bench import Case
from benchmarks.verdicts import FAILED, Record, Spread, few_runs, figure, is_trial, metric

_COLUMNS = (("wall", "wall"), ("cpu", "CPU"), ("peak", "peak RSS"))
_HEAD = (
    "Made by `python -m benchmarks`; do not edit. How it is measured and which rules hold is in"
    " [README.md](README.md). Ratios are of medians in one run, ours over theirs: smaller is"
    " better. In brackets: least and most. A peak below about 31 MiB is that of the program that"
    " starts the others."
)
_NOTES = (
    ("proof", "last byte to verified"),
    ("connections", "connections at most"),
    ("rate", "rate"),
    ("late", "latest timer of the loop"),
    ("blocked", "calls that were held"),
)


def results_page(records: Mapping[str, Record], cases: Sequence[Case]) -> str:
    """RESULTS.md: of the cases that have a record, in their order."""
    measured = [(case, records[case.name]) for case in cases if case.name in records]
    lines = [
        "# Results",
        "",
        _HEAD,
        "",
        "![wall seconds](results.svg)",
        "",
        "## Targets",
        "",
        "| scenario | what | measured | target | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case, record in measured:
        for target in case.targets:
            verdict = target.judge(record)
            word = "trial" if is_trial(record) else verdict.word
            cells = (case.name, verdict.what, verdict.value, verdict.limit, word)
            lines.append(_row(cells))
    for case, record in measured:
        lines += ["", *_section(case, record)]
    lines += ["", *_surroundings(measured)]
    return "\n".join(lines) + "\n"


def _section(case: Case, record: Record) -> list[str]:
    scale = record.get("scale", 1)
    smaller = f" (a trial: sizes times {scale:g})" if scale != 1 else ""
    lines = [f"## {case.name}: {record['title']}{smaller}", ""]
    if record.get("skipped"):
        lines.append(f"skipped: {record['skipped']}")
    else:
        lines += _table(record)
    lines += ["", *_circumstances(record)]
    few = few_runs(record)
    if few:
        all_ = "all rows" if len(few) == len(record["rows"]) else "; ".join(few)
        lines += ["", f"**Too few runs to count**: {all_}."]
    return lines


def _table(record: Record) -> list[str]:
    heads = ["", *(title for _, title in _COLUMNS), "runs", ""]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for name, row in record["rows"].items():
        if row.get("skipped"):
            word = "" if str(row["skipped"]).startswith(FAILED) else "skipped: "
            lines.append(_row([name, "", "", "", str(len(row["runs"])), word + row["skipped"]]))
            continue
        cells = [_cell(metric(record, name, key), key) for key, _ in _COLUMNS]
        lines.append(_row([name, *cells, str(len(row["runs"])), _notes(record, name)]))
    return lines


def _cell(found: Spread | None, name: str) -> str:
    """Median, and from where to where in brackets."""
    if found is None:
        return ""
    unit = figure(found.median, name)
    if name == "peak":
        return f"{unit} ({found.least:.0f}-{found.most:.0f})"
    places = 3 if found.median < 1 else 2
    return f"{unit} ({found.least:.{places}f}-{found.most:.{places}f})"


def _notes(record: Record, row: str) -> str:
    found = [(metric(record, row, key), key, title) for key, title in _NOTES]
    return ", ".join(
        f"{title} {figure(it.median, key)}" for it, key, title in found if it is not None
    )


def _circumstances(record: Record) -> list[str]:
    lines = []
    if record.get("facts"):
        lines.append(_sentence(record["facts"]) + ";")
    if record.get("command"):
        lines.append(f"{record.get('date', '')}, `{record['command']}`")
    return [" ".join(lines)] if lines else []


def _surroundings(measured: Sequence[tuple[Case, Record]]) -> list[str]:
    """Machine and versions, once for all cases that have the same."""
    groups: dict[tuple[str, str], list[str]] = {}
    for case, record in measured:
        key = (_sentence(record.get("machine", {})), _sentence(record.get("versions", {})))
        groups.setdefault(key, []).append(case.name)
    lines = ["## Machine and versions"]
    for (machine, versions), names in groups.items():
        which = "All" if len(groups) == 1 else ", ".join(names)
        lines += ["", f"{which}: {machine}. {versions}."]
    return lines


def _sentence(pairs: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} {value}" for name, value in pairs.items())


def _row(cells: Sequence[str]) -> str:
    # What a tool said when it failed may be anything.
    clean = (" ".join(cell.split()).replace("|", "\\|")[:300] for cell in cells)
    return f"| {' | '.join(clean)} |"
