"""Publishing all at once: an update of a mutable snapshot shows either the old files or the new."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from modelhaul.errors import HaulError


class Burst:
    """A gate that opens when every file has been proven, or never.

    Args:
        count: files that must be proven.
        before: awaited once, before the first of them is published.
    """

    def __init__(self, count: int, before: Callable[[], Awaitable[None]]) -> None:
        self._left = count
        self._before = before
        self._ready = anyio.Event()
        self._open = anyio.Event()
        self._error: HaulError | None = None

    def arrive(self) -> None:
        """One more file is proven."""
        self._left -= 1
        if self._left == 0:
            self._ready.set()

    def fail(self, error: HaulError) -> None:
        """A file was given up: nothing will be published."""
        if not self._open.is_set():
            self._error = self._error or error
            self._ready.set()

    async def keep_gate(self) -> None:
        """Open the gate when the time has come; runs beside the files."""
        await self._ready.wait()
        if self._error is None:
            await self._before()
        self._open.set()

    async def wait(self) -> None:
        """Wait for the gate.

        Raises:
            HaulError: another file was given up.
        """
        await self._open.wait()
        if self._error is not None:
            raise HaulError(
                f"held back because of another file: {self._error.message}",
                hint="an update is published all at once; run the same command again",
            )
