"""Where blocking calls go. A seam: tests run them inline, so that virtual time stays exact."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple

import anyio
from anyio import from_thread, to_thread

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Enough that a few writes that block (dirty pages, a network disk) do not stop the others.
_WRITERS = 8
# A sync can take seconds; it must never keep a write waiting.
SYNCERS = 16


class Threads(Protocol):
    """Runs a blocking call and returns its result.

    A call that was begun is waited for even when the caller is cancelled: what it uses
    (descriptors, buffers) stays in use until it has returned.
    """

    async def write(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        """Short calls: writing, opening, renaming."""
        ...

    async def hash(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        """Calls that use a core: hashing, checking."""
        ...

    async def sync(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        """Calls that wait for the disk: barriers, publishing."""
        ...

    def tell(self, call: Callable[[*Ts], None], *args: *Ts) -> None:
        """Inside a call: have something called on the loop soon, before the call's own return."""

    def check_cancelled(self) -> None:
        """Called inside a long call: raises if the caller was cancelled."""


class WorkerThreads:
    """The real thing: anyio's worker threads, with a limit per kind of work."""

    def __init__(self) -> None:
        self._write = anyio.CapacityLimiter(_WRITERS)
        self._hash = anyio.CapacityLimiter(os.cpu_count() or 1)
        self._sync = anyio.CapacityLimiter(SYNCERS)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def write(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        self._loop = asyncio.get_running_loop()
        return await to_thread.run_sync(call, *args, limiter=self._write)

    async def hash(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        self._loop = asyncio.get_running_loop()
        return await to_thread.run_sync(call, *args, limiter=self._hash)

    async def sync(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        return await to_thread.run_sync(call, *args, limiter=self._sync)

    def tell(self, call: Callable[[*Ts], None], *args: *Ts) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(call, *args)

    def check_cancelled(self) -> None:
        from_thread.check_cancelled()
