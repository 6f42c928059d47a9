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
        # Two at least: a long check of one file must not keep another one from being hashed.
        self._hash = anyio.CapacityLimiter(max(2, os.cpu_count() or 1))
        self._sync = anyio.CapacityLimiter(SYNCERS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: Exception | None = None

    async def write(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._run(self._write, call, *args)

    async def hash(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._run(self._hash, call, *args)

    async def sync(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._run(self._sync, call, *args)

    async def _run(self, limiter: anyio.CapacityLimiter, call: Callable[[*Ts], T], *args: *Ts) -> T:
        self._loop = asyncio.get_running_loop()
        result = await to_thread.run_sync(call, *args, limiter=limiter)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return result

    def tell(self, call: Callable[[*Ts], None], *args: *Ts) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._called, call, *args)

    def _called(self, call: Callable[[*Ts], None], *args: *Ts) -> None:
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001
            # In the loop nobody would hear of it: whoever waits for a call does.
            self._failure = self._failure or error

    def check_cancelled(self) -> None:
        from_thread.check_cancelled()
