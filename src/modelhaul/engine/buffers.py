"""All payload memory, in one pool: bounded in bytes, whatever the number of connections."""

from __future__ import annotations

from collections import deque

import anyio

KIB = 1 << 10
SIZES = (64 * KIB, 256 * KIB, 512 * KIB, 1024 * KIB)


class Block:
    """A piece of memory that somebody owns until it is given back."""

    __slots__ = ("size", "view")

    def __init__(self, size: int) -> None:
        self.size = size
        self.view = memoryview(bytearray(size))


class BufferPool:
    """Lends blocks, at most `total` bytes of them; who asks for more waits in line."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._allocated = 0
        self._free: dict[int, list[Block]] = {size: [] for size in SIZES}
        self._waiting: deque[tuple[int, anyio.Event, list[Block]]] = deque()

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
            if size > fair and size > SIZES[1]:
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

        None unless nobody waits and half of the pool is free beside it: those who must have
        memory never wait for those who might do without.
        """
        size = next((size for size in SIZES if size >= want), None)
        if size is None or self.lent + size > self._total // 2:
            return None
        return self.take_nowait(size)

    async def take(self, size: int) -> Block:
        """A block of `size` bytes (one of `SIZES`). Cancelled: nothing is held."""
        block = self.take_nowait(size)
        if block is not None:
            return block
        event = anyio.Event()
        slot: list[Block] = []
        self._waiting.append((size, event, slot))
        try:
            await event.wait()
        except BaseException:
            if slot:
                self.give(slot[0])
            else:
                self._waiting = deque(entry for entry in self._waiting if entry[1] is not event)
                self._serve()
            raise
        return slot[0]

    def give(self, block: Block) -> None:
        """Return a block; whoever waits longest gets the room."""
        self._free[block.size].append(block)
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            size, event, slot = self._waiting[0]
            block = self._grab(size)
            if block is None:
                return
            self._waiting.popleft()
            slot.append(block)
            event.set()

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
