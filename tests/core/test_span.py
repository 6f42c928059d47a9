"""Spans and span sets, against a model that is a plain set of byte numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from modelhaul.core.span import Span, SpanSet, chunk_stop
from tests.support.properties import thorough

END = 48


def bytes_of(span: Span) -> set[int]:
    return set(range(span.start, span.stop))


def set_of(model: set[int]) -> SpanSet:
    return SpanSet(Span(byte, byte + 1) for byte in model)


spans = st.builds(
    lambda one, other: Span(min(one, other), max(one, other)),
    st.integers(0, END),
    st.integers(0, END),
)


class SpanSetMachine(RuleBasedStateMachine):
    """Every operation of a span set, beside the same on a set of byte numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.set = SpanSet()
        self.model: set[int] = set()

    @rule(span=spans)
    def add(self, span: Span) -> None:
        self.set.add(span)
        self.model |= bytes_of(span)

    @rule(span=spans)
    def remove(self, span: Span) -> None:
        self.set.remove(span)
        self.model -= bytes_of(span)

    @rule(span=spans)
    def gaps(self, span: Span) -> None:
        assert self.set.gaps(span) == set_of(bytes_of(span) - self.model)

    @rule(start=st.integers(0, END))
    def frontier(self, start: int) -> None:
        expected = start
        while expected in self.model:
            expected += 1
        assert self.set.frontier(start) == expected

    @rule(start=st.integers(0, END))
    def first(self, start: int) -> None:
        later = [byte for byte in self.model if byte >= start]
        found = self.set.first(start)
        if not later:
            assert found is None
        else:
            assert found == Span(min(later), self.set.frontier(min(later)))

    @rule(span=spans)
    def overlaps(self, span: Span) -> None:
        assert self.set.overlaps(span) == bool(bytes_of(span) & self.model)

    @rule(span=spans)
    def covers(self, span: Span) -> None:
        assert self.set.covers(span) == (bytes_of(span) <= self.model)

    @rule(span=spans)
    def go_on_with_a_copy(self, span: Span) -> None:
        original = self.set
        self.set = original.copy()
        assert self.set == original
        original.add(span)
        original.remove(Span(0, END // 2))

    @invariant()
    def holds_the_bytes_of_the_model(self) -> None:
        found = [byte for span in self.set for byte in range(span.start, span.stop)]
        assert found == sorted(self.model)
        assert self.set.total == len(self.model)
        assert bool(self.set) == bool(self.model)

    @invariant()
    def is_sorted_and_coalesced(self) -> None:
        pieces = list(self.set)
        assert len(self.set) == len(pieces)
        assert all(piece.length > 0 for piece in pieces)
        neighbours = pairwise(pieces)
        assert all(one.stop < other.start for one, other in neighbours)


TestSpanSet = SpanSetMachine.TestCase
TestSpanSet.settings = settings(thorough, max_examples=100, stateful_step_count=30)


@thorough
@given(pieces=st.lists(spans, max_size=12))
def test_the_order_of_adding_does_not_matter(pieces: list[Span]) -> None:
    """A set made of the same spans in any order is the same set."""
    forwards = SpanSet(pieces)

    backwards = SpanSet(reversed(pieces))

    assert forwards == backwards
    assert repr(forwards) == repr(backwards)


@thorough
@given(pieces=st.lists(spans, max_size=12), within=spans)
def test_gaps_and_bytes_make_up_the_whole(pieces: list[Span], within: Span) -> None:
    """What is there and what is missing are apart, and together they are everything."""
    have = SpanSet(pieces)

    missing = have.gaps(within)

    assert not any(have.overlaps(gap) for gap in missing)
    whole = have.copy()
    for gap in missing:
        whole.add(gap)
    assert whole.covers(within)


def test_sets_of_other_bytes_are_not_equal() -> None:
    """Equality is about the bytes, and a set is equal to nothing that is not a set."""
    one = SpanSet([Span(0, 3)])

    others = [SpanSet([Span(0, 4)]), SpanSet([Span(1, 3)]), SpanSet(), "[0, 3)"]

    assert all(one != other for other in others)
    assert one == SpanSet([Span(2, 3), Span(0, 2)])


def test_spans_that_only_touch_become_one() -> None:
    """Neighbours without a gap are one span, so a file that is whole has one."""
    halves = SpanSet([Span(0, 5)])

    halves.add(Span(5, 10))

    assert list(halves) == [Span(0, 10)]


def test_http_ranges_are_closed() -> None:
    """`bytes=a-b` includes b, a span excludes its stop."""
    span = Span(0, 10)

    text = span.http_range()

    assert text == "bytes=0-9"


def test_one_byte_is_a_range_from_itself_to_itself() -> None:
    """The shortest HTTP range names one byte twice."""
    span = Span(7, 8)

    text = span.http_range()

    assert text == "bytes=7-7"


def test_an_empty_span_has_no_http_range() -> None:
    """HTTP cannot ask for nothing: `bytes=5-4` would be ignored and bring the whole file."""
    span = Span(5, 5)

    with pytest.raises(ValueError, match="empty"):
        span.http_range()


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3), (-2, -1)])
def test_a_span_that_runs_backwards_or_below_zero_cannot_be_made(start: int, stop: int) -> None:
    """Such numbers are a bug or an attack, never a range of a file."""
    with pytest.raises(ValueError, match="not a span"):
        Span(start, stop)


def test_the_frontier_and_the_first_span_are_those_of_the_whole_file() -> None:
    """Unless another start is given, both are looked for from byte 0 on."""
    prefix, later = SpanSet([Span(0, 1), Span(5, 9)]), SpanSet([Span(1, 3)])

    assert (prefix.frontier(), prefix.first()) == (1, Span(0, 1))
    assert (later.frontier(), later.first()) == (0, Span(1, 3))
    assert (SpanSet().frontier(), SpanSet().first()) == (0, None)


@thorough
@given(span=spans, window=spans)
def test_clip_is_the_intersection(span: Span, window: Span) -> None:
    """What remains is inside both, and empty where they have nothing in common."""
    clipped = span.clip(window.start, window.stop)

    assert bytes_of(clipped) == bytes_of(span) & bytes_of(window)
    assert clipped in window


@thorough
@given(one=spans, other=spans)
def test_a_span_contains_another_if_it_has_all_its_bytes(one: Span, other: Span) -> None:
    """Containment of spans with bytes in them is that of their bytes."""
    contained = other in one

    if other.length:
        assert contained == (bytes_of(other) <= bytes_of(one))
    else:
        assert contained == (one.start <= other.start <= one.stop)


@thorough
@given(position=st.integers(0, 10**15), chunk=st.integers(1, 10**10))
def test_the_chunk_of_a_byte_ends_behind_it_on_the_grid(position: int, chunk: int) -> None:
    """The stop is the first multiple of the chunk size that lies behind the byte."""
    stop = chunk_stop(position, chunk)

    assert stop % chunk == 0
    assert stop - chunk <= position < stop


def test_the_first_byte_of_a_chunk_belongs_to_it() -> None:
    """A byte on the grid begins a chunk, it does not end one."""
    assert [chunk_stop(byte, 8) for byte in (0, 7, 8, 15, 16)] == [8, 8, 16, 16, 24]
