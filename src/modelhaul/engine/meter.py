"""Counters of a run; views read them, nothing decides by them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from modelhaul.engine.task import Order, Task
from modelhaul.events import FileProgress, Statistics

#: Seconds over which the shown rate is taken.
_WINDOW = 4.0
_MOST_SHOWN = 8


class Meter:
    """What a run has done so far. Bytes, files, seconds."""

    def __init__(self) -> None:
        self.received = 0
        self.by_source: Counter[str] = Counter()
        self.most_connections = 0
        self._total = 0
        self._files = 0
        self._files_done = 0
        self._done = 0
        self._reused = 0
        self._history: deque[tuple[float, int]] = deque()

    def add(self, order: Order) -> None:
        """A file will be brought."""
        self._files += 1
        self._total += order.file.size or 0

    def keep(self, size: int) -> None:
        """A file is there already."""
        self._files += 1
        self._files_done += 1
        self._total += size
        self._done += size
        self._reused += size

    def finished(self, task: Task) -> None:
        """A file has its result."""
        result = task.result
        if result is not None and result.error is None:
            self._files_done += 1
            self._done += result.size
            self._reused += result.reused
            if task.order.file.size is None:
                self._total += result.size

    def statistics(
        self,
        now: float,
        *,
        connections: int,
        waiting: str | None,
        moving: Iterable[Task],
        ready: int,
    ) -> Statistics:
        """The amounts at this moment.

        Args:
            now: seconds, monotonic.
            connections: requests in flight.
            waiting: why nothing moves.
            moving: files in motion.
            ready: bytes of files that wait to be published.
        """
        rate = self._rate(now)
        active: list[FileProgress] = []
        done, verified, reused = self._done + ready, self._done + ready, self._reused
        for task in moving:
            progress = task.progress()
            done += progress.done
            verified += progress.verified
            reused += task.tally.reused
            active.append(progress)
        return Statistics(
            total=self._total,
            done=done,
            verified=verified,
            reused=reused,
            fetched=self.received,
            files=self._files,
            files_done=self._files_done,
            connections=connections,
            rate=rate,
            eta=max(0, self._total - done) / rate if rate > 0 else None,
            waiting=waiting,
            active=tuple(active[:_MOST_SHOWN]),
        )

    def _rate(self, now: float) -> float:
        history = self._history
        history.append((now, self.received))
        while len(history) > 2 and history[1][0] <= now - _WINDOW:
            history.popleft()
        then, before = history[0]
        return (self.received - before) / (now - then) if now > then else 0.0
