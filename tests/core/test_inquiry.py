"""Whose bytes to believe when the digest is wrong."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelhaul.core.inquiry import Inquiry
from modelhaul.core.span import Span, SpanSet

SIZE = 12
WHOLE = SpanSet([Span(0, SIZE)])
A, B, C = 1, 2, 3


def spans(*pairs: tuple[int, int]) -> SpanSet:
    return SpanSet(Span(*pair) for pair in pairs)


def test_the_only_source_gets_one_more_chance_with_everything() -> None:
    """Nobody to compare with: all bytes once more, and then no more."""
    inquiry = Inquiry(SIZE)

    assert inquiry.next([A], {A: WHOLE}) == (A, WHOLE)
    assert inquiry.next([A], {A: WHOLE}) is None


def test_the_source_that_brought_most_is_believed_first() -> None:
    """That leaves least to be fetched."""
    inquiry = Inquiry(SIZE)

    assert inquiry.next([A, B], {A: spans((0, 4)), B: spans((4, 12))}) == (B, spans((0, 4)))


def test_the_other_source_is_believed_next_and_brings_only_what_it_has_not_brought() -> None:
    """B was wrong too; of what B brought anew A had the same bytes up to 3."""
    inquiry = Inquiry(SIZE)
    inquiry.next([A, B], {A: spans((0, 4)), B: spans((4, 12))})

    assert inquiry.next([A, B], {A: spans((0, 3)), B: WHOLE}) == (A, spans((3, 12)))


def test_a_source_that_brought_all_of_it_has_had_its_chance() -> None:
    """A mirror that was never asked is the next one, for everything."""
    inquiry = Inquiry(SIZE)

    assert inquiry.next([A, B], {A: WHOLE}) == (B, WHOLE)


def test_a_source_that_failed_when_it_was_believed_is_believed_once_more_after_the_others() -> None:
    """B has filled in for A and is no better alone: A was only away for a moment."""
    inquiry = Inquiry(SIZE)
    inquiry.next([A, B], {A: spans((0, 8)), B: spans((8, 12))})
    inquiry.forgive(A)

    other = inquiry.next([A, B], {A: spans((0, 8)), B: spans((8, 12))})
    again = inquiry.next([A, B], {B: WHOLE})
    inquiry.forgive(A)

    assert other == (B, spans((0, 8)))
    assert again == (A, WHOLE)
    assert inquiry.next([A, B], {A: spans((0, 8)), B: spans((8, 12))}) is None


def test_two_sources_that_agree_on_everything_end_it() -> None:
    """A third one need not be asked: it is the digest that is wrong."""
    inquiry = Inquiry(SIZE)
    brought = {A: WHOLE, B: WHOLE}

    assert inquiry.next([A, B, C], brought) is None
    assert inquiry.agreed(brought) == [A, B]


@given(
    versions=st.lists(st.lists(st.sampled_from("xy"), min_size=4, max_size=4), max_size=4),
    first=st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_a_file_that_one_source_has_is_found_and_each_source_is_believed_once(
    versions: list[list[str]], first: list[int]
) -> None:
    """Sources that always send the same, one of them the right bytes, whoever brought what first.

    Either the file comes right within a round for each source, or two wrong ones agree.
    """
    right = ["x"] * 4
    serves = dict(enumerate([right, *versions]))
    holders = [one % len(serves) for one in first]
    disk = [serves[holder][at] for at, holder in enumerate(holders)]
    said = {(holder, at) for at, holder in enumerate(holders)}
    inquiry = Inquiry(4)
    rounds = 0
    while disk != right:
        brought: dict[int, SpanSet] = {}
        for source, at in said:
            if serves[source][at] == disk[at]:
                brought.setdefault(source, SpanSet()).add(Span(at, at + 1))
        believed = inquiry.next(list(serves), brought)
        if believed is None:
            assert len(inquiry.agreed(brought)) > 1
            return
        source, missing = believed
        for span in missing:
            for at in range(span.start, span.stop):
                disk[at] = serves[source][at]
                said.add((source, at))
        rounds += 1
        assert rounds <= len(serves)
