"""SECURITY.md names tests: each of them is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text())))


@cache
def functions_in(path: str) -> frozenset[str]:
    """The names of the test functions of a file."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_test_that_the_page_names_exists(path: str, name: str) -> None:
    """A threat whose test was renamed or removed would only look held."""
    assert name in functions_in(path)


def test_every_threat_names_a_test() -> None:
    """Each row of a table ends with one."""
    rows = [line for line in (ROOT / "SECURITY.md").read_text().splitlines() if line[:2] == "| "]
    threats = [row for row in rows if not row.startswith(("| threat |", "| --- |"))]

    assert len(threats) > 20
    assert not [row for row in threats if "::test_" not in row.split(" | ")[-1]]
