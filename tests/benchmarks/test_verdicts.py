"""Medians and verdicts: what the results page claims."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.verdicts import (
    AtLeast,
    AtMost,
    LikeHealthy,
    NoSlower,
    Ratio,
    few_runs,
    figure,
    has_failed,
    metric,
    spread,
)


def record(**rows: list[float]) -> dict[str, Any]:
    """Rows with these wall seconds; `modelhaul` is ours, the others are peers."""
    return {
        "rows": {
            name: {
                "kind": "modelhaul" if name == "modelhaul" else "peer",
                "runs": [{"wall": value} for value in values],
                "skipped": None,
            }
            for name, values in rows.items()
        }
    }


def test_a_median_is_the_middle_and_not_the_mean() -> None:
    """One bad run moves the most and not the median."""
    found = spread([1.0, 9.0, 1.2])

    assert (found.median, found.least, found.most) == (1.2, 1.0, 9.0)


@pytest.mark.parametrize(("ours", "met"), [(0.5, True), (0.51, False)])
def test_a_ratio_is_met_up_to_its_limit(ours: float, met: bool) -> None:
    """The limit itself is good enough."""
    verdict = Ratio(("aria2c",), "wall", 0.5).judge(record(modelhaul=[ours], aria2c=[1.0]))

    assert verdict.met is met
    assert verdict.value == f"{ours:.2f}"


@pytest.mark.parametrize(("ours", "value"), [(0.504, "0.504"), (0.496, "0.496"), (0.5, "0.50")])
def test_a_ratio_beside_its_limit_shows_on_which_side_it_is(ours: float, value: str) -> None:
    """Two decimals would say 0.50 of all of them."""
    verdict = Ratio(("aria2c",), "wall", 0.5).judge(record(modelhaul=[ours], aria2c=[1.0]))

    assert verdict.value == value


def test_several_rows_are_added_up() -> None:
    """The floor is what copying and hashing take together."""
    rows = record(modelhaul=[2.6], copy=[1.0], hash=[1.0])

    assert Ratio(("copy", "hash"), "wall", 1.3).judge(rows).met


def test_what_was_skipped_is_neither_met_nor_missed() -> None:
    """And the verdict says why."""
    rows = record(modelhaul=[1.0], aria2c=[])
    rows["rows"]["aria2c"]["skipped"] = "aria2c is not installed"

    verdict = Ratio(("aria2c",), "wall", 0.5).judge(rows)

    assert verdict.met is None
    assert verdict.word == "skipped"
    assert "not installed" in verdict.value


def test_a_row_that_failed_once_has_no_figures() -> None:
    """Not even those of its good runs: a tool that is wrong now and then is not fast."""
    rows = record(modelhaul=[1.0, 1.0])
    rows["rows"]["modelhaul"]["skipped"] = "failed in run 3: wrong bytes"

    assert metric(rows, "modelhaul", "wall") is None
    verdict = AtMost("modelhaul", "wall", 2).judge(rows)
    assert verdict.met is None
    assert verdict.word == "**failed**"


def test_no_slower_compares_with_the_fastest_peer() -> None:
    """Rows that are no peers do not count."""
    rows = record(modelhaul=[1.5], slow=[9.0], fast=[1.4], floor=[0.1])
    rows["rows"]["floor"]["kind"] = "floor"

    verdict = NoSlower().judge(rows)

    assert verdict.met is False
    assert "fast)" in verdict.what


@pytest.mark.parametrize(
    ("healthy", "frozen", "met"),
    [(1.0, 2.0, True), (1.0, 2.1, False), (20.0, 23.0, True), (20.0, 23.1, False)],
)
def test_a_frozen_run_may_take_a_second_or_a_seventh_more(
    healthy: float, frozen: float, met: bool
) -> None:
    """Whichever is more."""
    rows = record(healthy=[healthy], frozen=[frozen])

    assert LikeHealthy("frozen", "healthy").judge(rows).met is met


def test_a_case_that_did_not_get_there_shows_nothing() -> None:
    """Memory at 64 connections needs 64 connections."""
    assert AtLeast("modelhaul", "wall", 64).judge(record(modelhaul=[63])).met is False


def test_too_few_runs_are_noticed() -> None:
    """Five are needed, three where one takes more than half a minute."""
    rows = record(enough=[1.0] * 5, few=[1.0] * 4, long=[31.0] * 3, longer=[31.0] * 2)

    assert few_runs(rows) == ["few", "longer"]


def test_a_missing_tool_is_no_failure() -> None:
    """The exit code tells the two apart."""
    rows = record(modelhaul=[1.0], aria2c=[])
    rows["rows"]["aria2c"]["skipped"] = "aria2c is not installed"
    assert not has_failed(rows)

    rows["rows"]["modelhaul"]["skipped"] = "failed in run 1: wrong bytes"
    assert has_failed(rows)


def test_a_case_whose_origin_does_not_start_has_failed() -> None:
    """A case that cannot run here has not."""
    assert not has_failed({"rows": {}, "skipped": "needs root"})
    assert has_failed({"rows": {}, "skipped": "failed: origin did not start"})


def test_figures_have_the_digits_they_are_worth() -> None:
    """Milliseconds below a second, whole mebibytes."""
    assert figure(0.1234, "wall") == "0.123 s"
    assert figure(12.345, "wall") == "12.35 s"
    assert figure(93.7, "peak") == "94 MiB"
