"""Running one command: the loop, the signals, the errors, the exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable

from modelhaul.cli.output import View, write_line
from modelhaul.errors import HaulError

INTERRUPTED = 130
#: Seconds after which a stop is forced: a disk that hangs must not keep the terminal.
_FORCE_AFTER = 1.8


def run(
    main: Callable[[], Awaitable[int]],
    view: View,
    *,
    stopping: str = "stopping; what arrived is kept, the same command goes on where it stopped",
    uvloop: bool = True,
) -> int:
    """Run a command to its end; returns the exit code.

    Ctrl-C, SIGTERM and a closed terminal (unless under nohup) stop it in order within two seconds;
    a second one stops it at once. Either way what arrived is kept: the files on disk are right at
    every moment.

    Args:
        main: the command; returns its exit code.
        view: shows what happens, and errors.
        stopping: what is said when a signal comes.
        uvloop: use that loop where it is installed.
    """
    import anyio

    backend: dict[str, object] = {}
    if uvloop and os.environ.get("MODELHAUL_UVLOOP") != "0" and _has_uvloop():
        backend["use_uvloop"] = True
    try:
        with view:
            return anyio.run(_with_signals, main, stopping, backend_options=backend)
    except HaulError as error:
        view.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


def _has_uvloop() -> bool:
    from importlib.util import find_spec

    return find_spec("uvloop") is not None


async def _with_signals(main: Callable[[], Awaitable[int]], stopping: str) -> int:
    import anyio

    from modelhaul.errors import single_error

    code = INTERRUPTED

    async def watch(stop: anyio.CancelScope, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*_stopping_signals()) as signals:
            task_status.started()
            count = 0
            async for _ in signals:
                count += 1
                if count > 1:
                    os._exit(INTERRUPTED)
                write_line(sys.stderr, f"modelhaul: {stopping}")
                timer = threading.Timer(_FORCE_AFTER, os._exit, [INTERRUPTED])
                timer.daemon = True
                timer.start()
                stop.cancel()

    try:
        async with anyio.create_task_group() as group:
            work = anyio.CancelScope()
            # Before the command's first step, which may be long: it imports an HTTP client.
            await group.start(watch, work)
            with work:
                code = await main()
            group.cancel_scope.cancel()
    except BaseExceptionGroup as failed:
        raise single_error(failed) from failed
    return code


def _stopping_signals() -> list[signal.Signals]:
    """What ends a command: also the end of its terminal, unless somebody chose to ignore that."""
    found = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        found.append(hangup)
    return found
