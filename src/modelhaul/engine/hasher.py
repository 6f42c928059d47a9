"""Digests of one large file's contiguous prefix, following the frontier as it grows.

Written blocks are kept until the hashing has passed them, where memory allows: reading them back
costs a copy, and two changes of thread per 64 KiB. What lies behind a gap is kept only within a
share of the pool, the nearest first. What was not kept is read back from the part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from modelhaul.core.digests import Digests
from modelhaul.core.repo import RemoteFile
from modelhaul.engine.buffers import Block
from modelhaul.engine.context import Context
from modelhaul.store.hashing import Follower
from modelhaul.store.sink import PartFile

MIB = 1 << 20
#: Bytes read back and hashed per thread call: short enough to stop soon, long enough to cost
#: nothing.
HASH_STEP = 32 * MIB
#: Bytes hashed out of memory per thread call: then others get their turn.
_TURN = 64 * MIB


class Hasher:
    """The digests of a growing prefix, and the blocks it still needs.

    Args:
        context: the run.
        file: what the whole of it should be.
        frontier: end of the contiguous prefix that is written, in bytes.
        advanced: called whenever more of it is hashed.
    """

    def __init__(
        self,
        context: Context,
        file: RemoteFile,
        *,
        frontier: Callable[[], int],
        advanced: Callable[[], None],
    ) -> None:
        self._context = context
        self._file = file
        self._frontier = frontier
        self._advanced = advanced
        self._wake = asyncio.Event()
        self._kept: dict[int, tuple[Block, int]] = {}  # by offset: written, not hashed yet
        self._restart()

    def _restart(self) -> None:
        self._follower = Follower(self._file)
        self._at = 0  # end of what is hashed, or being read back
        self._joined = 0  # from there on, end of what is kept without a gap

    @property
    def position(self) -> int:
        """Bytes hashed so far."""
        return self._follower.position

    def reached(self, stop: int) -> bool:
        """Whether everything before `stop` is hashed, and no thread is at it any more."""
        return self._follower.position >= stop and not self._kept

    def digests(self) -> Digests:
        """Of the first `position` bytes."""
        return self._follower.digests()

    def wake(self) -> None:
        """The frontier may have moved."""
        self._wake.set()

    def keep(self, offset: int, block: Block, length: int) -> bool:
        """Take over a block whose first `length` bytes are written at `offset`.

        False if it would not help, or if the memory is wanted elsewhere: it stays the caller's.
        """
        if not length or offset < self._joined:
            return False
        if offset > self._joined and not self._put_aside(offset, block.size):
            return False
        self._kept[offset] = block, length
        if offset == self._joined:
            self._joined += length
            self._join()
        return True

    def _put_aside(self, offset: int, size: int) -> bool:
        """Find room for a block behind a gap; those that are farther away give way."""
        others = 2 * self._context.lanes.capacity() * size
        while not self._context.pool.put_aside(size, others=others):
            farthest = max(self._kept, default=0)
            if farthest <= offset:
                return False
            block, _ = self._kept.pop(farthest)
            self._context.pool.take_back(block.size)
            self._context.pool.give(block)
        return True

    def _join(self) -> None:
        """What was behind a gap that is closed now is no longer aside."""
        self._joined = max(self._joined, self._at)
        while (found := self._kept.get(self._joined)) is not None:
            block, length = found
            self._context.pool.take_back(block.size)
            self._joined += length

    async def run(self, part: PartFile) -> None:
        """Hash what is written, until cancelled.

        Raises:
            StorageError: it cannot be read back.
        """
        while True:
            if self._at in self._kept:
                await self._context.threads.hash(self._feed, self._at)
            elif (stop := self._next_stop()) > self._at:
                self._at = stop
                self._join()
                await self._context.threads.hash(self._follower.advance, part, stop)
                self._advanced()
            else:
                self._wake.clear()
                await self._wake.wait()

    def _next_stop(self) -> int:
        """How far to read back: up to the frontier, or to what is in memory."""
        return min(self._frontier(), self._at + HASH_STEP, *self._kept)

    def _feed(self, at: int) -> None:
        """In a thread: hash out of memory, as long as blocks come, for one turn."""
        stop = at + _TURN
        while at < stop and (found := self._kept.get(at)) is not None:
            block, length = found
            self._follower.feed(block.view[:length])
            self._context.threads.tell(self._fed, at)
            at += length

    def _fed(self, offset: int) -> None:
        # Kept until it is hashed, even if nobody waits for that any more.
        block, length = self._kept.pop(offset)
        self._at = offset + length
        self._context.pool.give(block)
        self._advanced()

    def restart(self) -> None:
        """Begin again at byte 0: bytes will be written anew. Only once everything is hashed."""
        self.close()
        self._restart()

    def close(self) -> None:
        """Give all memory back."""
        for offset, (block, _) in self._kept.items():
            if offset >= self._joined:
                self._context.pool.take_back(block.size)
            self._context.pool.give(block)
        self._kept.clear()
