"""`net.connection` without a network: what it tells its socket, in virtual time."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from typing import cast

import anyio
import h11
import pytest

from modelhaul.errors import TimedOut
from modelhaul.net.connection import Connection
from modelhaul.net.transport import Answer
from tests.net.bucket import Bucket
from tests.support.virtual import virtual

URL = "http://hub.test/file"
IDLE = 30.0


class Wire(asyncio.Transport):
    """A transport of which the test is the other end."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Nobody reads what is asked."""

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def abort(self) -> None:
        """Nothing to close."""


class Socket:
    """Remembers how many bytes the kernel was asked to gather, each time.

    Args:
        buffer: bytes of the kernel's receive buffer.
    """

    def __init__(self, buffer: int = 4_000_000) -> None:
        self.buffer = buffer
        self.gathered: list[int] = []

    def fileno(self) -> int:
        return 1

    def setsockopt(self, level: int, name: int, value: int) -> None:
        assert (level, name) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self.gathered.append(value)

    def getsockopt(self, level: int, name: int) -> int:
        assert (level, name) == (socket.SOL_SOCKET, socket.SO_RCVBUF)
        return self.buffer


class Line:
    """A connection with a body of `size` bytes on its way."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.socket = Socket()
        self.bucket = Bucket(size, lend=1 << 20)
        self.connection = Connection()
        self.connection.socket = cast(socket.socket, self.socket)
        self.connection.connection_made(Wire())

    async def fetch(self) -> None:
        """Ask, and receive the body."""
        question = h11.Request(method="GET", target="/file", headers=[("Host", "hub.test")])
        await self.connection.ask(question, URL, IDLE)
        answer = Answer(
            start=0, stop=self.size, size=self.size, validator=None, ranged=False, framed=True
        )
        await self.connection.receive(self.bucket, answer, URL, IDLE)

    def deliver(self, data: bytes) -> None:
        """Bytes come in, as many at a time as there is room."""
        while data:
            room = self.connection.get_buffer(-1)
            count = min(len(room), len(data))
            room[:count] = data[:count]
            self.connection.buffer_updated(count)
            data = data[count:]


def on_line(size: int, feed: Callable[[Line], Awaitable[None]]) -> Line:
    """Fetch a body whose bytes `feed` delivers after the head."""

    async def main() -> Line:
        line = Line(size)
        async with anyio.create_task_group() as group:
            group.start_soon(line.fetch)
            await anyio.sleep(0.01)
            line.deliver(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
            await anyio.sleep(0.0)
            await feed(line)
        return line

    return virtual(main)


async def steadily(line: Line, count: int, *, piece: int = 10_000, every: float = 0.001) -> None:
    """Deliver `count` bytes in small pieces, like a long line does."""
    for _ in range(count // piece):
        line.deliver(bytes(piece))
        await anyio.sleep(every)


def test_on_a_fast_line_the_kernel_gathers_what_comes_in_a_fiftieth_of_a_second() -> None:
    """10 MB/s in pieces of 10 kB: woken for 200 kB, not for each."""
    line = on_line(3_000_000, lambda line: steadily(line, 3_000_000))

    assert 190_000 <= line.socket.gathered[0] <= 210_000
    assert len(line.bucket.data) == 3_000_000


def test_the_end_of_a_body_never_waits_in_the_kernel() -> None:
    """The server sends no more; and with TLS up to a record less than that is still in there."""
    kept = 16_000  # of a record that is not whole yet

    async def feed(line: Line) -> None:
        """Like a kernel: nothing is handed over before as much is there as was asked for."""
        taken = 0
        for sent in range(0, line.size + 1, 10_000):
            gather = line.socket.gathered[-1] if line.socket.gathered else 1
            if sent - taken - kept >= gather:
                line.deliver(bytes(sent - taken))
                taken = sent
            await anyio.sleep(0.001)
        gather = line.socket.gathered[-1]
        assert gather == 1 or line.size - taken - kept >= gather
        line.deliver(bytes(line.size - taken))

    line = on_line(1_500_000, feed)

    assert len(line.bucket.data) == line.size
    assert line.socket.gathered[-1] == 1
    assert max(line.socket.gathered) > 100_000


def test_no_more_is_gathered_than_a_quarter_of_the_kernels_buffer() -> None:
    """Asked for more, the kernel would never open the window any farther."""

    async def feed(line: Line) -> None:
        line.socket.buffer = 131_072
        await steadily(line, 3_000_000)

    line = on_line(3_000_000, feed)

    assert max(line.socket.gathered) == 131_072 // 4


def test_what_comes_slowly_is_taken_at_once() -> None:
    """100 kB/s: gathering would make a healthy line look silent."""
    line = on_line(50_000, lambda line: steadily(line, 50_000, piece=1000, every=0.01))

    assert line.socket.gathered == []


def test_a_line_that_gets_slow_is_listened_to_again() -> None:
    """What it has sent must not wait in the kernel for more."""

    async def feed(line: Line) -> None:
        await steadily(line, 2_000_000)
        assert line.socket.gathered[-1] > 1
        await anyio.sleep(0.25)
        assert line.socket.gathered[-1] == 1
        line.deliver(bytes(1_000_000))

    on_line(3_000_000, feed)


def test_silence_is_counted_from_the_last_byte() -> None:
    """Whatever was gathered: after the idle timeout, and not before."""
    ended = []

    async def main() -> None:
        line = Line(3_000_000)

        async def fetch() -> None:
            with pytest.raises(TimedOut):
                await line.fetch()
            ended.append(anyio.current_time())

        async with anyio.create_task_group() as group:
            group.start_soon(fetch)
            await anyio.sleep(0.01)
            line.deliver(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n")
            await anyio.sleep(0.0)
            await steadily(line, 1_000_000)
            ended.append(anyio.current_time())

    virtual(main)

    assert ended[1] - ended[0] == pytest.approx(IDLE, abs=0.01)


def test_waiting_for_memory_is_not_the_servers_silence() -> None:
    """A disk that takes longer than the idle timeout: the body goes on afterwards."""
    size = 100_000

    async def main() -> Line:
        line = Line(size)
        free = anyio.Event()
        line.bucket = Fasting(size, free)
        async with anyio.create_task_group() as group:
            group.start_soon(line.fetch)
            await anyio.sleep(0.01)
            line.deliver(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
            await anyio.sleep(0.0)
            line.deliver(bytes(60_000))
            await anyio.sleep(3 * IDLE)
            assert len(line.bucket.data) == 60_000
            line.bucket.feed()
            line.deliver(bytes(40_000))
        return line

    assert len(virtual(main).bucket.data) == size


def test_bytes_that_come_while_there_is_no_memory_keep_their_order() -> None:
    """A loop may hand over more although it was asked to pause, and memory may come just then."""
    size = 100_000
    data = random.Random(1).randbytes(size)

    async def main() -> Line:
        line = Line(size)
        line.bucket = Fasting(size, anyio.Event())
        async with anyio.create_task_group() as group:
            group.start_soon(line.fetch)
            await anyio.sleep(0.01)
            line.deliver(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
            await anyio.sleep(0.01)
            line.deliver(data[:60_000])
            assert len(line.bucket.data) == 60_000
            line.deliver(data[60_000:70_000])  # nobody's memory
            line.bucket.feed()
            line.deliver(data[70_000:])
        return line

    assert bytes(virtual(main).bucket.data) == data


class Fasting(Bucket):
    """Has no memory after its first buffer until it is fed; calls back then."""

    def __init__(self, want: int, free: anyio.Event) -> None:
        super().__init__(want, lend=60_000)
        self._free = free
        self._call: Callable[[], None] | None = None

    def buffer_nowait(self) -> memoryview | None:
        if self.data and not self._free.is_set():
            return None
        return super().buffer_nowait()

    def when_buffer(self, call: Callable[[], None]) -> bool:
        self._call = call
        return True

    def feed(self) -> None:
        self._free.set()
        assert self._call is not None
        self._call()
