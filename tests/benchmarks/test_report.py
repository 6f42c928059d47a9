"""Page and picture: made from records alone."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from benchmarks.picture import results_picture
from benchmarks.report import results_page
from benchmarks.scenarios import ARIA2_8, CASES, COPY, OURS, choose


def sample_record() -> dict[str, Any]:
    """A record of lan-http with one row skipped and one that failed."""
    run = {"wall": 2.0, "cpu": 2.5, "peak": 90.0, "proof": 0.05}
    return {
        "title": "one file & more",
        "facts": {"target": "tmpfs"},
        "rows": {
            OURS: {"kind": "modelhaul", "runs": [run] * 5, "skipped": None},
            ARIA2_8: {"kind": "peer", "runs": [{**run, "wall": 5.0}] * 5, "skipped": None},
            "curl": {"kind": "note", "runs": [], "skipped": "curl is not installed"},
            COPY: {"kind": "floor", "runs": [], "skipped": "failed in run 1: a | b\nc"},
        },
        "date": "2026-01-01",
        "command": "python -m benchmarks lan-http",
        "machine": {"cores": "2"},
        "versions": {"modelhaul": "0.1.0"},
    }


def test_the_page_has_verdicts_figures_and_circumstances() -> None:
    """Ratios against targets, medians with least and most, machine, versions, command."""
    page = results_page({"lan-http/tmpfs": sample_record()}, CASES)

    assert f"| lan-http/tmpfs | wall / {ARIA2_8} | 0.40 | <= 0.5 | met |" in page
    assert "**missed**" in page  # CPU 1.0 of aria2's
    assert "| 2.00 s (2.00-2.00) | 2.50 s (2.50-2.50) | 90 MiB (90-90) | 5 |" in page
    assert "All: cores 2. modelhaul 0.1.0." in page
    assert "`python -m benchmarks lan-http`" in page


def test_what_is_missing_stands_in_the_page_with_its_reason() -> None:
    """Skipped and failed rows; what a tool said does not break the table."""
    page = results_page({"lan-http/tmpfs": sample_record()}, CASES)

    assert "skipped: curl is not installed" in page
    assert "failed in run 1: a \\| b c" in page


def test_a_trial_is_called_one() -> None:
    """Small sizes and few runs never look like results."""
    record = {**sample_record(), "scale": 0.1}
    record["rows"][OURS]["runs"] = record["rows"][OURS]["runs"][:1]

    page = results_page({"lan-http/tmpfs": record}, CASES)

    assert "(a trial: sizes times 0.1)" in page
    assert "| trial |" in page
    assert "| met |" not in page
    assert f"**Too few runs to count**: {OURS}." in page


def test_a_skipped_case_says_why() -> None:
    """Without root there is no long line."""
    record = {**sample_record(), "rows": {}, "skipped": "needs root"}

    page = results_page({"wan/file": record}, CASES)

    assert "skipped: needs root" in page
    assert "| needs root | <= 1 | skipped |" in page


def test_the_picture_is_xml_with_a_bar_per_row() -> None:
    """Floors and rows without figures have none."""
    picture = results_picture({"lan-http/tmpfs": sample_record()}, CASES)

    tree = ElementTree.fromstring(picture)
    bars = [it for it in tree.iter() if it.tag.endswith("rect")][1:]
    assert len(bars) == 2
    assert float(bars[0].get("width", "0")) < float(bars[1].get("width", "0"))
    assert "one file &amp; more" in picture


def test_scenarios_are_chosen_by_name_or_part() -> None:
    """No name means all."""
    assert [case.name for case in choose(["wan"])] == ["wan/repo", "wan/file"]
    assert [case.name for case in choose(["lan-http/disk"])] == ["lan-http/disk"]
    assert choose([]) == list(CASES)
