"""Half-open byte ranges and sets of them: the arithmetic under everything else.

A newcomer gets one thing wrong: HTTP ranges are closed (`bytes=0-9` is ten bytes), spans are
half-open (`Span(0, 10)`). The two meet in `Span.http_range` and nowhere else.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The bytes `[start, stop)` of a file."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"not a span: [{self.start}, {self.stop})")

    @property
    def length(self) -> int:
        """Bytes in the span."""
        return self.stop - self.start

    def http_range(self) -> str:
        """The span as the value of a `Range` header (RFC 9110 section 14.1.2)."""
        if self.start == self.stop:
            raise ValueError("an empty span has no HTTP range")
        return f"bytes={self.start}-{self.stop - 1}"

    def clip(self, start: int, stop: int) -> Span:
        """The part of this span inside `[start, stop)`, empty if there is none."""
        low = min(max(self.start, start), stop)
        return Span(low, max(low, min(self.stop, stop)))

    def __contains__(self, other: Span) -> bool:
        return self.start <= other.start and other.stop <= self.stop

    def __str__(self) -> str:
        return f"[{self.start}, {self.stop})"


class SpanSet:
    """A set of bytes, kept as sorted spans that neither touch nor overlap.

    Mutable. Adding and removing cost a binary search plus the spans that are merged.
    """

    __slots__ = ("_starts", "_stops", "_total")

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._total = 0
        for span in spans:
            self.add(span)

    @property
    def total(self) -> int:
        """Bytes in the set."""
        return self._total

    def add(self, span: Span) -> None:
        """Put every byte of `span` in; bytes that are in already stay."""
        if span.start == span.stop:
            return
        # Everything from the first span that ends at or after our start to the last that
        # begins at or before our stop is merged: spans that only touch are joined too.
        first = bisect_left(self._stops, span.start)
        last = bisect_right(self._starts, span.stop)
        start, stop = span.start, span.stop
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._replace(first, last, [Span(start, stop)])

    def remove(self, span: Span) -> None:
        """Take every byte of `span` out; bytes that are not in do not matter."""
        if span.start == span.stop:
            return
        first = bisect_right(self._stops, span.start)
        last = bisect_left(self._starts, span.stop)
        if first >= last:
            return
        rest = []
        if self._starts[first] < span.start:
            rest.append(Span(self._starts[first], span.start))
        if span.stop < self._stops[last - 1]:
            rest.append(Span(span.stop, self._stops[last - 1]))
        self._replace(first, last, rest)

    def _replace(self, first: int, last: int, spans: list[Span]) -> None:
        gone = sum(self._stops[first:last]) - sum(self._starts[first:last])
        self._total += sum(span.length for span in spans) - gone
        self._starts[first:last] = [span.start for span in spans]
        self._stops[first:last] = [span.stop for span in spans]

    def frontier(self, start: int = 0) -> int:
        """End of the contiguous run that begins at `start`; `start` itself if it is not in."""
        index = bisect_right(self._starts, start) - 1
        if index >= 0 and start < self._stops[index]:
            return self._stops[index]
        return start

    def first(self, start: int = 0) -> Span | None:
        """The lowest span with a byte at or after `start`, cut to begin there; None if none."""
        index = bisect_right(self._stops, start)
        if index == len(self._starts):
            return None
        return Span(max(start, self._starts[index]), self._stops[index])

    def gaps(self, within: Span) -> SpanSet:
        """The bytes of `within` that are not in the set."""
        missing = SpanSet((within,))
        for span in self:
            if span.start >= within.stop:
                break
            missing.remove(span)
        return missing

    def overlaps(self, span: Span) -> bool:
        """Whether any byte of `span` is in."""
        found = self.first(span.start)
        return found is not None and found.start < span.stop

    def covers(self, span: Span) -> bool:
        """Whether every byte of `span` is in; true of an empty span."""
        return span.start == span.stop or self.frontier(span.start) >= span.stop

    def copy(self) -> SpanSet:
        """An independent set with the same bytes."""
        twin = SpanSet()
        twin._starts, twin._stops, twin._total = self._starts[:], self._stops[:], self._total
        return twin

    def __iter__(self) -> Iterator[Span]:
        return (Span(a, b) for a, b in zip(self._starts, self._stops, strict=True))

    def __len__(self) -> int:
        """How many separate spans, not how many bytes (that is `total`)."""
        return len(self._starts)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SpanSet):
            return NotImplemented
        return self._starts == other._starts and self._stops == other._stops

    def __repr__(self) -> str:
        return f"SpanSet({', '.join(map(str, self))})"


def chunk_stop(position: int, chunk: int) -> int:
    """End of the chunk (a grid of `chunk` bytes from 0) that holds byte `position`."""
    return (position // chunk + 1) * chunk
