"""What a run thinks of a place, and when it is set aside."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modelhaul.core.sources import (
    MOST_FAILURES,
    MOST_LIES,
    MOST_WITHOUT,
    Standing,
)

Event = Callable[[Standing], None]
WAYS: dict[str, tuple[Event, int, Event]] = {
    "fails": (lambda one: one.fail("x"), MOST_FAILURES, lambda one: one.serve(small=True)),
    "has it not": (
        lambda one: one.lack("x", small=False),
        MOST_WITHOUT,
        lambda one: one.serve(small=False),
    ),
    "lies": (lambda one: one.lie("x"), MOST_LIES, lambda one: one.prove()),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_place_is_of_no_use_after_so_many_in_a_row(way: str) -> None:
    """Not before, and not if something good came in between."""
    bad, most, good = WAYS[way]
    standing = Standing("mirror")
    seen = []

    for _ in range(most - 1):
        bad(standing)
        seen.append(standing.useless(beside=True))
    good(standing)
    for _ in range(most):
        seen.append(standing.useless(beside=True))
        bad(standing)

    assert not any(seen)
    assert standing.useless(beside=True)


@pytest.mark.parametrize("way", WAYS)
def test_the_repository_itself_is_always_of_use(way: str) -> None:
    """Nobody could take its place."""
    bad, most, _ = WAYS[way]
    standing = Standing("hub", own=True)

    for _ in range(most):
        bad(standing)
        standing.lack("x", small=True)

    assert not standing.useless(beside=True)
    assert not standing.useless_for_small()


def test_failures_count_only_beside_a_place_that_works() -> None:
    """Else it may be the line."""
    standing = Standing("mirror")

    for _ in range(2 * MOST_FAILURES):
        standing.fail("x")

    assert not standing.useless(beside=False)
    assert standing.useless(beside=True)


def test_answers_do_not_make_up_for_lies() -> None:
    """A range that is answered well may be wrong; only a digest says that it is right."""
    standing = Standing("mirror")

    for _ in range(MOST_LIES):
        standing.serve(small=True)
        standing.lie("x")

    assert standing.useless(beside=True)


def test_small_files_that_are_not_there_say_nothing_of_large_ones() -> None:
    """Nor the other way round: a place may have the weights alone."""
    standing = Standing("mirror")

    for _ in range(MOST_WITHOUT):
        standing.serve(small=False)
        standing.lack("x", small=True)

    assert standing.useless_for_small()
    assert not standing.useless(beside=True)


def test_a_place_is_set_aside_once() -> None:
    """It is not news a second time."""
    standing = Standing("mirror", last=True, lies=MOST_LIES, without_small=MOST_WITHOUT)

    assert not standing.useless(beside=True)
    assert not standing.useless_for_small()
    assert standing.is_last(small=True)
    assert standing.is_last(small=False)
