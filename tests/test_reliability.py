"""docs/reliability.md: its table is what the marks of the tests say, and no number is forgotten."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.reliability import COUNT, Row, unaccounted

ROOT = Path(__file__).parent.parent


def test_the_table_of_faults_is_what_the_tests_say() -> None:
    """A test that was added, renamed or dropped shows in the document, or this says so."""
    checked = subprocess.run(
        [sys.executable, ROOT / "tools" / "reliability.py", "--check"],
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


NAMES = "".join(f"{number}. something\n" for number in range(1, COUNT + 1))
ALL_TESTED = [Row((number,), "what", "promise", "test") for number in range(1, COUNT + 1)]


def test_each_number_has_a_test_or_a_reason() -> None:
    """Of a number that is in neither nobody would know."""
    but_two = [row for row in ALL_TESTED if row.numbers[0] not in (87, 114)]

    assert unaccounted(ALL_TESTED, NAMES, "") == []
    assert unaccounted(but_two, NAMES, "| 87 | a fault | a reason |\n") == [
        "neither a test nor a reason for 114"
    ]


@pytest.mark.parametrize("line", ["", "7. something\n7. else\n", "7.\n"])
def test_each_number_is_named_once(line: str) -> None:
    """Or the table would speak of faults that nobody can look up."""
    names = NAMES.replace("7. something\n", line, 1)

    assert unaccounted(ALL_TESTED, names, "") == [
        "faults.md does not name 1 to 125, each once and in order"
    ]
