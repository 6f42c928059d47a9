"""SECURITY.md names tests, and cases of tests: each of them is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
CASES = sorted(set(re.findall(r'`(tests/[\w/]+\.py)::\w+`, case "([^"]+)"', PAGE)))


@cache
def functions_in(path: str) -> frozenset[str]:
    """The names of the test functions of a file."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_test_that_the_page_names_exists(path: str, name: str) -> None:
    """A threat whose test was renamed or removed would only look held."""
    assert name in functions_in(path)


@pytest.mark.parametrize(("path", "case"), CASES)
def test_a_case_that_the_page_names_exists(path: str, case: str) -> None:
    """A test of many cases shows a threat only by one of them."""
    tree = ast.parse((ROOT / path).read_text())

    assert case in {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}


def test_every_threat_names_a_test() -> None:
    """Each row of a table ends with one."""
    rows = [line for line in PAGE.splitlines() if line[:2] == "| "]
    threats = [row for row in rows if not row.startswith(("| threat |", "| --- |"))]

    assert len(threats) > 20
    assert not [row for row in threats if "::test_" not in row.split(" | ")[-1]]
    assert len(CASES) >= 2
