"""Virtual time: an event loop whose clock jumps to the next timer when nothing else can happen."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


class EverythingWaits(RuntimeError):
    """No timer, no ready callback, no thread: the code under test would hang for ever."""


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise EverythingWaits("nothing is left that could wake this loop")
        self._loop.jump(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop for code that uses no real socket and no thread."""

    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        """Let time pass; a little more, so that timers are really due."""
        self._now += seconds + 1e-9


def virtual(main: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run `main(*args)` to its end in virtual time."""
    return anyio.run(main, *args, backend_options={"loop_factory": VirtualLoop})
