"""Blocking calls made where they are asked for: no thread, so virtual time stays exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import anyio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class InlineThreads:
    """Implements `modelhaul.engine.threads.Threads` without threads.

    Args:
        seconds: virtual seconds that each kind of call takes (`write`, `hash`, `sync`).
    """

    def __init__(self, **seconds: float) -> None:
        self._seconds = seconds
        self.calls: list[str] = []

    async def write(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._run("write", call, *args)

    async def hash(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._run("hash", call, *args)

    async def sync(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._run("sync", call, *args)

    def tell(self, call: Callable[[*Ts], None], *args: *Ts) -> None:
        call(*args)

    def check_cancelled(self) -> None:
        """Nothing to check: an inline call cannot be cancelled from outside."""

    async def _run(self, kind: str, call: Callable[[*Ts], T], *args: *Ts) -> T:
        self.calls.append(kind)
        await anyio.lowlevel.checkpoint()
        # Like a real thread, a call that has begun is waited for, cancelled or not.
        with anyio.CancelScope(shield=True):
            await anyio.sleep(self._seconds.get(kind, 0.0))
            return call(*args)
