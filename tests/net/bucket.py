"""A receiver that keeps what it gets, and can change its mind in the middle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from modelhaul.net.transport import Answer


class Bucket:
    """Implements `modelhaul.net.transport.Receiver`.

    Args:
        want: bytes wanted; may be lowered while the body comes.
        lend: longest buffer that is handed out.
        before: awaited before each buffer is handed out.
    """

    def __init__(
        self,
        want: int,
        *,
        lend: int = 1 << 16,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.want = want
        self.data = bytearray()
        self.answer: Answer | None = None
        self.starts = 0
        self.skipped = 0
        self._lend = lend
        self._before = before
        self._lent: bytearray | None = None
        self._grown = anyio.Event()

    def started(self, answer: Answer) -> None:
        self.starts += 1
        self.answer = answer

    def wanted(self) -> int:
        return max(0, self.want - len(self.data))

    async def wait_buffer(self) -> memoryview:
        if self._before is not None and self._lent is None:
            await self._before()
        return self._room()

    def buffer_nowait(self) -> memoryview | None:
        if self._before is not None and self._lent is None:
            return None
        return self._room()

    def when_buffer(self, call: Callable[[], None]) -> bool:
        return False

    def _room(self) -> memoryview:
        if self._lent is None or len(self._lent) > self.wanted():
            self._lent = bytearray(min(self._lend, self.wanted()))
        return memoryview(self._lent)

    def commit(self, count: int) -> None:
        assert self._lent is not None
        assert 0 < count <= len(self._lent)
        self.data += self._lent[:count]
        self._lent = None
        self._grown.set()
        self._grown = anyio.Event()

    def passed(self, count: int) -> None:
        self.skipped += count

    async def wait_bytes(self, count: int) -> None:
        """Wait until so many bytes have arrived."""
        while len(self.data) < count:
            await self._grown.wait()
