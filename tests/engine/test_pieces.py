"""`engine.pieces`: receivers that wait for memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from modelhaul.core.scheduler import Job, Lease, Scheduler
from modelhaul.core.sources import Host, SourceState
from modelhaul.core.span import Span, SpanSet
from modelhaul.engine.buffers import Block, BufferPool
from modelhaul.engine.context import Options
from modelhaul.engine.lanes import Lanes
from modelhaul.engine.pieces import PieceReceiver, PieceWriter
from tests.support.virtual import virtual

MIB = 1 << 20


@dataclass
class Run:
    """What a receiver needs of a `Context`."""

    pool: BufferPool = field(default_factory=lambda: BufferPool(MIB))
    lanes: Lanes = field(default_factory=lambda: Lanes(cap=1, host_cap=1))
    options: Options = field(default_factory=Options)
    limited: bool = False
    listening: bool = True

    def throttled(self) -> bool:
        return self.limited

    def hold(self, lease: Lease) -> None:
        self.listening = False

    def listen(self, lease: Lease) -> None:
        self.listening = True

    def now(self) -> float:
        return 0.0


@dataclass
class Starving:
    """A receiver that was just refused memory: somebody else has all of it."""

    run: Run
    receiver: PieceReceiver
    taken: Block
    calls: list[str] = field(default_factory=list)

    def wait(self) -> bool:
        return self.receiver.when_buffer(lambda: self.calls.append("called"))


@pytest.fixture
def starving() -> Iterator[Starving]:
    """Set up as far as needed; at the end nobody may own memory."""

    async def make() -> Starving:
        run = Run()
        scheduler = Scheduler()
        job = Job(key=1, size=8 * MIB, sources=[SourceState("hub", Host("hub"))])
        job.todo = SpanSet([Span(0, 8 * MIB)])
        scheduler.add(job)
        lease = scheduler.next(0.0, lambda source: True, 1)
        assert lease is not None
        writer = PieceWriter(
            run,  # type: ignore[arg-type]
            received=lambda lease, count: None,
            written=lambda pieces, recorded: None,
            keep=lambda offset, block, length: False,
        )
        taken = run.pool.take_nowait(MIB)
        assert taken is not None
        receiver = writer.receiver(lease)
        assert receiver.buffer_nowait() is None
        return Starving(run, receiver, taken)

    made = virtual(make)
    yield made
    assert made.run.pool.lent == 0
    assert not made.run.pool.starved


def test_whoever_was_refused_is_called_when_there_is_memory(starving: Starving) -> None:
    """And meanwhile the silence is ours, not the server's."""
    assert starving.wait()
    assert not starving.run.listening

    starving.run.pool.give(starving.taken)

    assert starving.calls == ["called"]
    assert starving.run.listening
    assert starving.receiver.buffer_nowait()
    starving.receiver.close()


def test_whoever_has_ended_is_not_called(starving: Starving) -> None:
    """The request ended in line: the memory is for somebody else."""
    assert starving.wait()

    starving.receiver.close()
    starving.run.pool.give(starving.taken)

    assert starving.calls == []


def test_memory_that_comes_for_a_lease_that_was_taken_back_goes_back(starving: Starving) -> None:
    """It is granted before the end of the request; nothing is written into it."""
    assert starving.wait()
    starving.receiver.lease.revoked = True

    starving.run.pool.give(starving.taken)

    assert starving.receiver.wanted() == 0
    starving.receiver.close()


def test_a_rate_limit_is_not_waited_for_in_the_line_for_memory(starving: Starving) -> None:
    """Only time ends that: the request has to wait by itself."""
    starving.run.limited = True

    assert not starving.wait()

    starving.run.pool.give(starving.taken)
    starving.receiver.close()
