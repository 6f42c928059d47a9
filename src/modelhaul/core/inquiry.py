"""A file whose digest is wrong though the disk is not to blame: whose bytes to believe next.

Nobody can tell from the bytes which of them are wrong. So the file is completed with the bytes of
one source alone, then of the next: the digest says when it is right. What two sources have both
brought alike is fetched no third time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelhaul.core.span import Span, SpanSet


class Inquiry:
    """Believes each source once, and once more if it could not bring what it was to bring.

    Args:
        size: bytes of the file.
    """

    def __init__(self, size: int) -> None:
        self._whole = Span(0, size)
        self._believed: set[int] = set()
        self._forgiven: set[int] = set()

    def next(
        self, sources: Sequence[int], brought: Mapping[int, SpanSet]
    ) -> tuple[int, SpanSet] | None:
        """The source to believe, and the bytes that have to come from it. None: give up.

        Args:
            sources: who can still be asked.
            brought: for each source, dead ones too, the bytes that it has brought as they are now.
        """
        if len(sources) == 1:
            # Nobody to compare with: all of it once more.
            (only,) = sources
            return None if self._again(only) else (only, SpanSet([self._whole]))
        if len(self.agreed(brought)) > 1:
            return None  # it is the digest that nobody can confirm
        # Who has brought most first: that leaves least to be fetched. Last who has failed before:
        # by then it is known of the others whether it is worth waiting for.
        order = sorted(sources, key=lambda one: (one in self._forgiven, -_total(brought, one)))
        for source in order:
            if self._again(source):
                continue
            missing = brought.get(source, SpanSet()).gaps(self._whole)
            if missing:
                return source, missing
        return None

    def forgive(self, source: int) -> None:
        """It failed while it was believed, and others helped out: it has one more chance."""
        if source not in self._forgiven:
            self._forgiven.add(source)
            self._believed.discard(source)

    def agreed(self, brought: Mapping[int, SpanSet]) -> list[int]:
        """The sources that have brought the whole file as it is now."""
        return [source for source, spans in brought.items() if spans.covers(self._whole)]

    def _again(self, source: int) -> bool:
        """Whether it was believed before; from here on it was."""
        before = source in self._believed
        self._believed.add(source)
        return before


def _total(brought: Mapping[int, SpanSet], source: int) -> int:
    return brought[source].total if source in brought else 0
