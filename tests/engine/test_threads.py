"""`engine.threads`: what a call tells the loop while it is under way."""

from __future__ import annotations

import threading

import anyio
import pytest

from modelhaul.engine.threads import WorkerThreads


def test_the_loop_hears_everything_before_the_call_returns() -> None:
    """In order, on the loop's own thread."""
    heard: list[tuple[int, bool]] = []
    threads = WorkerThreads()

    def hear(number: int) -> None:
        heard.append((number, threading.current_thread() is threading.main_thread()))

    def call() -> str:
        for number in range(3):
            threads.tell(hear, number)
        return "done"

    async def main() -> str:
        return await threads.write(call)

    assert anyio.run(main) == "done"
    assert heard == [(0, True), (1, True), (2, True)]


@pytest.mark.parametrize("kind", ["write", "hash", "sync"])
def test_what_goes_wrong_in_the_loop_reaches_whoever_waits(kind: str) -> None:
    """Else a run would wait for ever for what was to be done there. Once, not for ever after."""
    threads = WorkerThreads()

    def fail() -> None:
        raise ValueError("in the loop")

    async def main() -> str:
        wait = getattr(threads, kind)
        with pytest.raises(ValueError, match="in the loop"):
            await wait(lambda: threads.tell(fail))
        result: str = await wait(lambda: "well")
        return result

    assert anyio.run(main) == "well"
