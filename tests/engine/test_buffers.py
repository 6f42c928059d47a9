"""`engine.buffers`: one pool of memory, and the line of those who wait for it."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.engine.buffers import MOST_WAIT, SIZES, Block, BufferPool
from tests.support.virtual import virtual

MIB = 1 << 20


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drained(total: int, clock: Clock | None = None) -> tuple[BufferPool, list[Block]]:
    """A pool of which every mebibyte is lent."""
    pool = BufferPool(total, clock or Clock())
    blocks = []
    while (block := pool.take_nowait(MIB)) is not None:
        blocks.append(block)
    return pool, blocks


def test_never_more_is_lent_than_there_is() -> None:
    pool, blocks = drained(4 * MIB)

    assert len(blocks) == 4
    assert pool.lent == 4 * MIB
    assert pool.take_nowait(SIZES[0]) is None


def test_free_blocks_of_one_size_make_room_for_another() -> None:
    pool, blocks = drained(4 * MIB)
    for block in blocks:
        pool.give(block)

    smaller = [pool.take_nowait(SIZES[0]) for _ in range(4 * MIB // SIZES[0])]

    assert None not in smaller


def test_who_comes_first_in_the_file_is_served_first() -> None:
    """The frontier is what hashing waits for; those far ahead of it can wait."""
    pool, blocks = drained(4 * MIB)
    served: list[str] = []
    pool.when_free(MIB, lambda _: served.append("far"), (0, 900))
    pool.when_free(MIB, lambda _: served.append("next file"), (1, 0))
    pool.when_free(MIB, lambda _: served.append("near"), (0, 100))

    for block in blocks:
        pool.give(block)

    assert served == ["near", "far", "next file"]


def test_who_has_waited_long_is_served_before_who_is_nearer() -> None:
    """Else a server would close a connection that is never read."""
    clock = Clock()
    pool, blocks = drained(4 * MIB, clock)
    served: list[str] = []
    pool.when_free(MIB, lambda _: served.append("far"), (0, 900))
    clock.now = MOST_WAIT
    pool.when_free(MIB, lambda _: served.append("near"), (0, 100))

    pool.give(blocks[0])

    assert served == ["far"]


def test_nobody_overtakes_the_line() -> None:
    pool, blocks = drained(4 * MIB)
    pool.when_free(2 * MIB // 2, lambda _: None)
    pool.when_free(MIB, lambda _: None)

    pool.give(blocks[0])

    assert pool.take_nowait(SIZES[0]) is None
    assert pool.starved


def test_who_leaves_the_line_gets_nothing() -> None:
    pool, blocks = drained(4 * MIB)
    served: list[Block] = []
    waiter = pool.when_free(MIB, served.append)

    waiter.cancel()
    pool.give(blocks[0])

    assert served == []
    assert not pool.starved
    assert pool.lent == 3 * MIB


def test_whoever_is_next_is_served_when_a_greedy_one_leaves() -> None:
    """The line is not held up by somebody who is gone."""
    pool = BufferPool(MIB, Clock())
    small = [pool.take_nowait(SIZES[0]) for _ in range(MIB // SIZES[0])]
    served: list[str] = []
    greedy = pool.when_free(MIB, lambda _: served.append("greedy"), (0, 0))
    pool.when_free(SIZES[0], lambda _: served.append("modest"), (0, 1))
    assert small[0] is not None
    pool.give(small[0])
    assert served == []

    greedy.cancel()

    assert served == ["modest"]


@pytest.mark.parametrize("granted", [False, True])
def test_a_wait_that_is_cancelled_holds_no_memory(granted: bool) -> None:
    """Whether the block has come already or not."""

    async def main() -> int:
        pool, blocks = drained(4 * MIB)
        got: list[Block] = []
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                got.append(await pool.take(MIB))

            group.start_soon(wait)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            assert pool.starved
            if granted:
                pool.give(blocks.pop())
            group.cancel_scope.cancel()
        assert not pool.starved
        return pool.lent - len(blocks + got) * MIB

    assert virtual(main) == 0


def test_two_thirds_may_be_put_aside() -> None:
    pool = BufferPool(6 * MIB)

    assert [pool.put_aside(MIB) for _ in range(5)] == [True, True, True, True, False]
    pool.take_back(MIB)
    assert pool.put_aside(MIB)


def test_nothing_is_put_aside_that_those_who_receive_need() -> None:
    """Many connections need much memory."""
    pool = BufferPool(6 * MIB)

    assert [pool.put_aside(MIB, others=4 * MIB) for _ in range(3)] == [True, True, False]


@pytest.mark.fault(
    "any order of wanting, waiting for and giving back memory",
    "never more than was stated, and none is lost",
    number=120,
)
@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "give", "wait", "leave"]), st.integers(0, 3)),
        max_size=60,
    )
)
def test_whatever_happens_memory_is_bounded_and_comes_back(steps: list[tuple[str, int]]) -> None:
    """And nobody waits while there is a block for whoever is first in line."""
    pool = BufferPool(4 * MIB, Clock())
    owned: list[Block] = []
    waiting = []
    for what, which in steps:
        size = SIZES[which]
        if what == "take":
            block = pool.take_nowait(size)
            if block is not None:
                owned.append(block)
        elif what == "give" and owned:
            pool.give(owned.pop(which % len(owned)))
        elif what == "wait":
            block = pool.take_nowait(size)
            if block is None:
                waiting.append(pool.when_free(size, owned.append, (which,)))
            else:
                owned.append(block)
        elif what == "leave" and waiting:
            waiter = waiting.pop(which % len(waiting))
            if waiter.block is None:
                waiter.cancel()
        assert pool.lent == sum(block.size for block in owned) <= 4 * MIB

    for waiter in waiting:
        if waiter.block is None:
            waiter.cancel()
    for block in owned:
        pool.give(block)
    assert pool.lent == 0
    assert not pool.starved
