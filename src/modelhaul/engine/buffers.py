"""All payload memory, in one pool: bounded in bytes, whatever the number of connections."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

KIB = 1 << 10
SIZES = (64 * KIB, 256 * KIB, 512 * KIB, 1024 * KIB)
#: Seconds after which somebody is served before those of a lower rank.
MOST_WAIT = 5.0

#: Who needs a block more: what comes first in the list of files, and in the file.
Rank = tuple[int, ...]


class Block:
    """A piece of memory that somebody owns until it is given back."""

    __slots__ = ("size", "view")

    def __init__(self, size: int) -> None:
        self.size = size
        self.view = memoryview(bytearray(size))


class Waiter:
    """Somebody in line for a block."""

    __slots__ = ("_pool", "block", "call", "rank", "since", "size")

    def __init__(
        self, pool: BufferPool, size: int, call: Callable[[Block], None], rank: Rank, since: float
    ) -> None:
        self._pool = pool
        self.size = size
        self.call = call
        self.rank = rank
        self.since = since
        self.block: Block | None = None

    def cancel(self) -> None:
        """Leave the line; a block that was not taken into use is given back."""
        self._pool.leave(self)


class BufferPool:
    """Lends blocks, at most `total` bytes of them; who asks for more waits in line.

    Args:
        total: bytes.
        clock: seconds, monotonic.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total = total
        self._allocated = 0
        self._aside = 0
        self._free: dict[int, list[Block]] = {size: [] for size in SIZES}
        self._waiting: list[Waiter] = []

    @property
    def lent(self) -> int:
        """Bytes of blocks that somebody owns."""
        free = sum(size * len(blocks) for size, blocks in self._free.items())
        return self._allocated - free

    @property
    def starved(self) -> bool:
        """Somebody waits for memory: the disk is slower than the network."""
        return bool(self._waiting)

    def block_size(self, want: int, connections: int) -> int:
        """Size of a block for a body of `want` bytes when `connections` share the pool.

        Large blocks make few calls; but each connection holds one while the disk holds others.
        """
        fair = self._total // (3 * max(1, connections))
        chosen = SIZES[0]
        for size in SIZES:
            if size > fair and size > SIZES[0]:
                break
            chosen = size
            if size >= want:
                break
        return chosen

    def take_nowait(self, size: int) -> Block | None:
        """A block of `size` bytes (one of `SIZES`), None if there is none or others wait."""
        return None if self._waiting else self._grab(size)

    def take_spare(self, want: int) -> Block | None:
        """A block of at least `want` bytes for a use that can be done without.

        None unless nobody waits and half of the pool is free beside it, or only put aside: those
        who must have memory never wait for those who might do without.
        """
        size = next((size for size in SIZES if size >= want), None)
        if size is None or self.lent - self._aside + size > self._total // 2:
            return None
        return self.take_nowait(size)

    async def take(self, size: int, rank: Rank = ()) -> Block:
        """A block of `size` bytes (one of `SIZES`), once there is one. Cancelled: none is held.

        Args:
            size: bytes.
            rank: as `when_free()`.
        """
        block = self.take_nowait(size)
        if block is not None:
            return block
        event = anyio.Event()
        waiter = self.when_free(size, lambda _: event.set(), rank)
        try:
            await event.wait()
        except BaseException:
            waiter.cancel()
            raise
        assert waiter.block is not None
        return waiter.block

    def when_free(self, size: int, call: Callable[[Block], None], rank: Rank = ()) -> Waiter:
        """Have `call` called with a block later: for who has just been given none.

        Args:
            size: bytes (one of `SIZES`).
            call: owns the block it is given; called on the loop, must not wait.
            rank: who is lowest is served first, unless somebody has waited for `MOST_WAIT` seconds.
        """
        waiter = Waiter(self, size, call, rank, self._clock())
        self._waiting.append(waiter)
        return waiter

    def put_aside(self, size: int, *, others: int = 0) -> bool:
        """Whether a block of `size` bytes may be kept for later.

        Together at most two thirds of the pool, and not what `others` need: bytes for those who
        receive.
        """
        if self._aside + size > min(self._total * 2 // 3, self._total - others):
            return False
        self._aside += size
        return True

    def take_back(self, size: int) -> None:
        """A block that was put aside is used, or given back."""
        self._aside -= size

    def give(self, block: Block) -> None:
        """Return a block; whoever waits gets the room."""
        self._free[block.size].append(block)
        if self._waiting:
            self._serve()

    def leave(self, waiter: Waiter) -> None:
        """As `Waiter.cancel()`."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)
            self._serve()  # who is next may want less
        elif waiter.block is not None:
            self.give(waiter.block)

    def _serve(self) -> None:
        while self._waiting:
            waiter = self._waiting[0]
            if self._clock() - waiter.since < MOST_WAIT:
                waiter = min(self._waiting, key=lambda one: one.rank)
            block = self._grab(waiter.size)
            if block is None:
                return
            self._waiting.remove(waiter)
            waiter.block = block
            waiter.call(block)

    def _grab(self, size: int) -> Block | None:
        if self._free[size]:
            return self._free[size].pop()
        # Make room out of free blocks of other sizes.
        for blocks in self._free.values():
            while blocks and self._allocated + size > self._total:
                self._allocated -= blocks.pop().size
        if self._allocated + size > self._total:
            return None
        self._allocated += size
        return Block(size)
