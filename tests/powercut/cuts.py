"""From the log of a disk to what it may hold after a power cut, at any moment of the log.

A flush makes every write before it durable. Of what was written since, a cut keeps any part, in
blocks of 4 KiB: that is what disks write at once, and what ext4 counts on for its superblock.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from modelhaul.core.span import Span, SpanSet
from tests.powercut.disk import FLUSH, MARK, WRITE, Event

BLOCK = 4096
#: How much of what was not flushed survives: nothing, some, all.
SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclass(frozen=True, slots=True, order=True)
class Cut:
    """The power fails.

    Attributes:
        index: before this event of the log.
        share: of the blocks that were not flushed, each survives with this probability.
        seed: of the dice for that.
    """

    index: int
    share: float
    seed: int


@dataclass(slots=True)
class Duties:
    """What must hold after a cut, by the marks that came before it."""

    started: bool = False
    synced: SpanSet = field(default_factory=SpanSet)
    published: set[str] = field(default_factory=set)

    def take(self, mark: bytes) -> None:
        """One more mark."""
        match json.loads(mark):
            case {"started": _}:
                self.started = True
            case {"synced": runs}:
                for start, stop in runs:
                    self.synced.add(Span(start, stop))
            case {"published": path}:
                self.published.add(path)


def choose_cuts(
    events: Sequence[Event], *, seed: int, random_ones: int, all_kinds: bool
) -> list[Cut]:
    """Where the order of things can show: at flushes, after promises, and anywhere.

    Args:
        events: the log.
        seed: of the dice.
        random_ones: so many cuts anywhere.
        all_kinds: at each flush and promise every share, not just one or two of them.
    """
    dice = random.Random(seed)
    cuts = []
    for index, event in enumerate(events):
        # A flush right after another one: the disk cannot have changed.
        if event.kind == FLUSH and index and events[index - 1].kind != FLUSH:
            shares = SHARES if all_kinds else (dice.choice(SHARES),)
            cuts += [Cut(index, share, dice.getrandbits(32)) for share in shares]
        elif event.kind == MARK and _promises(event):
            shares = SHARES if all_kinds else (0.0, 1.0)
            cuts += [Cut(index + 1, share, dice.getrandbits(32)) for share in shares]
    for _ in range(random_ones):
        cuts.append(Cut(dice.randrange(len(events)), dice.choice(SHARES), dice.getrandbits(32)))
    return sorted(cuts)


def _promises(event: Event) -> bool:
    return b'"synced"' in event.data or b'"published"' in event.data


def replay(
    base: bytes, events: Sequence[Event], cuts: Sequence[Cut]
) -> Iterator[tuple[Cut, bytearray, Duties]]:
    """For each cut, in the order of the log: what is on the disk, and what was promised."""
    flushed = bytearray(base)
    pending: list[tuple[int, bytes]] = []
    duties = Duties()
    left = sorted(cuts, reverse=True)
    for index in range(len(events) + 1):
        while left and left[-1].index == index:
            cut = left.pop()
            yield cut, _survivors(flushed, pending, cut), duties
        if index == len(events):
            return
        event = events[index]
        if event.kind == WRITE:
            pending += _blocks(event)
        elif event.kind == FLUSH:
            _apply(flushed, pending)
            pending.clear()
        else:
            duties.take(event.data)


def _blocks(event: Event) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(event.data):
        offset = event.offset + at
        size = BLOCK - offset % BLOCK
        yield offset, event.data[at : at + size]
        at += size


def _survivors(flushed: bytearray, pending: list[tuple[int, bytes]], cut: Cut) -> bytearray:
    disk = bytearray(flushed)
    dice = random.Random(cut.seed)
    _apply(disk, [write for write in pending if dice.random() < cut.share])
    return disk


def _apply(disk: bytearray, writes: list[tuple[int, bytes]]) -> None:
    for offset, data in writes:
        disk[offset : offset + len(data)] = data
