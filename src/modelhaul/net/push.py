"""Moving a body that comes as pieces of memory into a receiver's buffers, and no byte too many."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import anyio

from modelhaul.core.origin import shown
from modelhaul.errors import ConnectionLost, ProtocolError, TransportError
from modelhaul.net.transport import Answer, Receiver, Request

#: Seconds that the end of a message may come after its last byte.
_LAST_CHUNK = 0.5

Read = Callable[[], Awaitable[bytes]]


async def push(read: Read, request: Request, answer: Answer, receiver: Receiver) -> None:
    """Move a body into the receiver's buffers until it ends or no more is wanted.

    Args:
        read: gives the next bytes, b"" at the end of the body.
        request: what was asked.
        answer: the head of the answer.
        receiver: takes the bytes of the span.

    Raises:
        ConnectionLost: the body ended early.
        ProtocolError: it is longer than it said.
        TransportError: as `read`.
    """
    where = request.url
    end = answer.stop if answer.stop is not None else request.size
    skip = request.span.start - answer.start
    position = answer.start
    while receiver.wanted() > 0:
        data = await read()
        if not data:
            break
        position += len(data)
        view = memoryview(data)
        if end is not None and position > end:
            view = view[: max(0, len(view) - (position - end))]
        dropped = min(skip, len(view))
        if dropped:
            skip -= dropped
            receiver.passed(dropped)
        await commit(view[dropped:], receiver)
        if end is not None and position > end:
            raise ProtocolError(f"{shown(where)} sends more than it said")
    if receiver.wanted() > 0:
        # Where a server states no length, the size of the file is what the body must reach.
        if end is not None and position < end:
            raise cut_short(where, position - answer.start, end - answer.start)
    elif answer.framed and position == end:
        await _finish(read, where)


async def commit(view: memoryview, receiver: Receiver) -> None:
    """Copy bytes into the receiver's buffers, as long as it wants them."""
    while view:
        buffer = await receiver.wait_buffer()
        if not buffer:
            return  # the rest was given to somebody else
        count = min(len(buffer), len(view))
        buffer[:count] = view[:count]
        receiver.commit(count)
        view = view[count:]


def cut_short(url: str, got: int, expected: int) -> ConnectionLost:
    """The error for a body that ended too early."""
    return ConnectionLost(f"{shown(url)} stopped after {got} bytes of {expected}")


async def _finish(read: Read, url: str) -> None:
    """Let the parser see the end of the message, so that the connection can be used again.

    Every byte is here: if the end does not come soon, the connection is given up instead.
    """
    with anyio.move_on_after(_LAST_CHUNK), contextlib.suppress(TransportError):
        if await read():
            raise ProtocolError(f"{shown(url)} sends more than it said")
