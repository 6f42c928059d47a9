"""Write the table of docs/reliability.md: every fault that a test is marked with, and its promise.

A test says what goes wrong and what is promised, `@pytest.mark.fault(what, promise, number=...)`;
this collects the marks (heavy tests included, nothing is run) and groups them by number.

    python tools/reliability.py            write the table
    python tools/reliability.py --check    exit 1 if it is not what would be written

Either fails if a number of docs/faults.md has neither a test nor a reason in the document.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "reliability.md"
#: What each number means, in a line.
NAMES = ROOT / "docs" / "faults.md"
COUNT = 125
BEGIN, END = "<!-- table: begin, by make reliability -->", "<!-- table: end -->"
#: The first number of each group.
GROUPS = {
    1: "Ranges and lengths",
    22: "Identity: which bytes are the file",
    36: "Status codes, redirects, credentials",
    55: "Encoding and protocol",
    62: "Time, speed, connections",
    76: "Disk",
    96: "Names and listings",
    106: "Process, journal, two at once",
}
OTHERS = "Without a number"


@dataclass(frozen=True, slots=True)
class Row:
    """One fault.

    Attributes:
        numbers: its numbers in the list; empty for none.
        what: what goes wrong.
        promise: what is promised.
        test: file and function.
        needs: `root`, if it is skipped without; `torture`, if it only runs then.
    """

    numbers: tuple[int, ...]
    what: str
    promise: str
    test: str
    needs: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The heading that it stands under."""
        if not self.numbers:
            return OTHERS
        return GROUPS[max(first for first in GROUPS if first <= self.numbers[0])]

    @property
    def line(self) -> str:
        """A line of the table."""
        numbers = ", ".join(map(str, self.numbers)) or "-"
        test = f"`{self.test}`" + "".join(f" ({need})" for need in self.needs)
        cells = (numbers, self.what, self.promise, test)
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


class Collector:
    """A pytest plugin that keeps the rows of what is collected."""

    def __init__(self) -> None:
        self._needs: dict[Row, set[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """All tests are known."""
        for item in session.items:
            for mark in item.iter_markers("fault"):
                needs = {need for need in ("root", "torture") if item.get_closest_marker(need)}
                row = _row(item, mark)
                # A row with light cases and heavy ones is one that CI runs.
                self._needs[row] = self._needs.get(row, needs) & needs

    @property
    def rows(self) -> list[Row]:
        """The rows, each once."""
        return [replace(row, needs=tuple(sorted(needs))) for row, needs in self._needs.items()]


def _row(item: pytest.Item, mark: pytest.Mark) -> Row:
    what, promise = mark.args
    number = mark.kwargs.get("number")
    if number is None:
        number = ()
    numbers = number if isinstance(number, tuple) else (number,)
    return Row(numbers, what, promise, item.nodeid.partition("[")[0])


def collected() -> list[Row]:
    """The rows of all marked tests, in the order of the table."""
    marked = [
        path
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "mark.fault" in (text := path.read_text()) or "tests.faults.cases" in text
    ]
    collector, said = Collector(), io.StringIO()
    os.environ["TORTURE"] = "1"
    os.chdir(ROOT)
    words = ["--collect-only", "-q", "-p", "no:cacheprovider", *map(str, marked)]
    with contextlib.redirect_stdout(said):
        code = pytest.main(words, plugins=[collector])
    if code != pytest.ExitCode.OK:
        sys.exit(f"the tests cannot be collected:\n{said.getvalue()}")
    headings = [*GROUPS.values(), OTHERS]
    return sorted(
        collector.rows, key=lambda row: (headings.index(row.group), row.numbers, row.test)
    )


def table(rows: list[Row]) -> str:
    """The generated part of the document."""
    tests = len({row.test for row in rows})
    numbers = len(numbers_of(rows))
    lines = [
        f"{len(rows)} rows, {tests} tests: {numbers} of the {COUNT} numbers, and what has none.",
        "What is tried in several ways (by aiohttp, on a small file, on a plain URL) has several.",
    ]
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            lines += [
                "",
                f"### {group}",
                "",
                "| no. | fault | promise | test |",
                "|---|---|---|---|",
            ]
        lines.append(row.line)
    return "\n".join(lines)


def numbers_of(rows: list[Row]) -> set[int]:
    """The numbers that have a test."""
    return {number for row in rows for number in row.numbers}


def unaccounted(rows: list[Row], names: str, by_hand: str) -> list[str]:
    """What is wrong with the numbers, in words.

    Args:
        rows: those of the tests.
        names: the list of faults.
        by_hand: the parts of the document that are not generated.
    """
    expected = list(range(1, COUNT + 1))
    named = [int(number) for number in re.findall(r"^(\d+)\. \S", names, re.MULTILINE)]
    excused = {int(number) for number in re.findall(r"^\| (\d+) \|", by_hand, re.MULTILINE)}
    wrong = []
    if named != expected:
        wrong.append(f"{NAMES.name} does not name 1 to {COUNT}, each once and in order")
    if missing := sorted(set(expected) - numbers_of(rows) - excused):
        wrong.append(f"neither a test nor a reason for {', '.join(map(str, missing))}")
    return wrong


def main() -> int:
    """Write or check."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--check", action="store_true")
    check = options.parse_args().check
    text = DOCUMENT.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{DOCUMENT} has no lines {BEGIN!r} and {END!r}")
    rows = collected()
    if wrong := unaccounted(rows, NAMES.read_text(), head + tail):
        sys.exit("\n".join(wrong))
    written = f"{head}{BEGIN}\n\n{table(rows)}\n\n{END}{tail}"
    if written == text:
        return 0
    if check:
        old, new = set(text.splitlines()), set(written.splitlines())
        print("docs/reliability.md is not up to date: run make reliability", file=sys.stderr)
        for line in [*sorted(old - new), *sorted(new - old)][:20]:
            print(f"  {'-' if line in old else '+'} {line}", file=sys.stderr)
        return 1
    DOCUMENT.write_text(written)
    print(f"{DOCUMENT.relative_to(ROOT)}: {len(rows)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
