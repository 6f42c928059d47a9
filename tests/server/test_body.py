"""Sending files: ranges, the log of what was really sent, and the limit."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import anyio.abc
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.core.span import Span
from modelhaul.server.body import RequestLog, parse_range, read_log, send_file
from modelhaul.server.serve import running
from modelhaul.server.shelf import ServedFile
from modelhaul.store.osfile import Stamp
from tests.server.conftest import Run

DATA = bytes(range(250)) * 4  # 1000 bytes


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("bytes=0-0", Span(0, 1)),
        ("bytes=0-999", Span(0, 1000)),
        ("bytes=10-19", Span(10, 20)),
        ("bytes=999-", Span(999, 1000)),
        ("bytes=10-", Span(10, 1000)),
        ("bytes=10-5000", Span(10, 1000)),
        ("bytes=-1", Span(999, 1000)),
        ("bytes=-1000", Span(0, 1000)),
        ("bytes=-5000", Span(0, 1000)),
        (" bytes=1-2 ", Span(1, 3)),
    ],
)
def test_ranges_of_the_three_forms_are_understood(text: str, span: Span) -> None:
    """Closed, open-ended, and from the end; cut to the file."""
    assert parse_range(text, 1000) == span


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-2",
        "bytes=1-2,4-5",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=1.0-2",
        "lines=1-2",
        "bytes 1-2",
        "bytes=" + "9" * 30 + "-",
    ],
)
def test_nonsense_is_no_range(text: str | None) -> None:
    """A Range that is not understood is ignored (RFC 9110 section 14.2): everything is sent."""
    assert parse_range(text, 1000) is None


@pytest.mark.parametrize("text", ["bytes=1000-", "bytes=1000-1000", "bytes=5000-6000", "bytes=-0"])
def test_a_range_behind_the_end_is_refused_with_the_size(text: str) -> None:
    """The client learns how long the file is."""
    with pytest.raises(web.HTTPRequestRangeNotSatisfiable) as caught:
        parse_range(text, 1000)

    assert caught.value.headers["Content-Range"] == "bytes */1000"


@pytest.mark.parametrize("text", ["bytes=0-0", "bytes=0-", "bytes=-1"])
def test_an_empty_file_has_no_ranges(text: str) -> None:
    """Every one lies behind the end."""
    with pytest.raises(web.HTTPRequestRangeNotSatisfiable) as caught:
        parse_range(text, 0)

    assert caught.value.headers["Content-Range"] == "bytes */0"


@given(
    st.text(st.sampled_from("bytes=-,0123456789 ٣²") | st.characters(), max_size=20)
    | st.tuples(st.integers(0), st.integers(0)).map(lambda pair: f"bytes={pair[0]}-{pair[1]}"),
    st.integers(0, 10_000),
)
def test_any_range_lies_inside_the_file(text: str, size: int) -> None:
    """Whatever the header says: inside, everything, or 416; never an empty or longer answer."""
    try:
        span = parse_range(text, size)
    except web.HTTPRequestRangeNotSatisfiable:
        return

    assert span is None or 0 <= span.start < span.stop <= size


class LogFile(io.StringIO):
    """A log that can be waited for: the line comes when the server has seen the answer's end."""

    def __init__(self) -> None:
        super().__init__()
        self._written = anyio.Event()

    def write(self, text: str) -> int:
        self._written.set()
        self._written = anyio.Event()
        return super().write(text)

    async def wait_entries(self, count: int) -> list[dict[str, object]]:
        """The entries, once there are so many."""
        with anyio.fail_after(10):
            while self.getvalue().count("\n") < count:
                await self._written.wait()
        return [json.loads(line) for line in self.getvalue().splitlines()]


def served(path: Path) -> ServedFile:
    return ServedFile("sub/w.bin", path, Stamp.of(path.stat()), "f" * 64)


@asynccontextmanager
async def sending(
    path: Path, *, rate: float | None = None, log: RequestLog | None = None
) -> AsyncIterator[str]:
    """A server that sends one file for any request; gives its address."""
    file = served(path)

    async def handler(request: web.Request) -> web.StreamResponse:
        return await send_file(request, file, headers={"X-More": "1"}, rate=rate, log=log)

    app = web.Application()
    app.router.add_get("/", handler)
    async with running(app, "127.0.0.1", 0) as url:
        yield url


@pytest.mark.parametrize("logged", [False, True], ids=["by-the-kernel", "counted"])
@pytest.mark.parametrize(
    ("header", "status", "start", "stop"),
    [
        (None, 200, 0, 1000),
        ("bytes=10-19", 206, 10, 20),
        ("bytes=990-", 206, 990, 1000),
        ("bytes=-7", 206, 993, 1000),
        ("bytes=0-999", 206, 0, 1000),
    ],
)
def test_the_range_that_was_asked_for_is_sent(
    run: Run, tmp_path: Path, logged: bool, header: str | None, status: int, start: int, stop: int
) -> None:
    """Content-Range and length are exact, on the fast way and on the counted one."""
    path = tmp_path / "w.bin"
    path.write_bytes(DATA)
    log = RequestLog(LogFile()) if logged else None

    async def main() -> None:
        headers = {"Range": header} if header else {}
        async with (
            sending(path, log=log) as url,
            aiohttp.ClientSession() as session,
            session.get(url, headers=headers) as answer,
        ):
            assert await answer.read() == DATA[start:stop]
            assert answer.status == status
            assert answer.headers["Content-Length"] == str(stop - start)
            assert answer.headers["Accept-Ranges"] == "bytes"
            assert answer.headers["X-More"] == "1"
            assert answer.headers["ETag"].startswith('"')
            if header is not None:
                assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/1000"

    run(main)


@pytest.mark.parametrize("logged", [False, True], ids=["by-the-kernel", "counted"])
def test_head_sends_no_body(run: Run, tmp_path: Path, logged: bool) -> None:
    """The length is told and nothing is sent."""
    path = tmp_path / "w.bin"
    path.write_bytes(DATA)
    log = RequestLog(LogFile()) if logged else None

    async def main() -> None:
        async with (
            sending(path, log=log) as url,
            aiohttp.ClientSession() as session,
            session.head(url) as answer,
        ):
            assert (answer.status, answer.headers["Content-Length"]) == (200, "1000")
            assert await answer.read() == b""

    run(main)


def test_every_answer_is_logged(run: Run, tmp_path: Path) -> None:
    """Path, span, status, and the bytes that went out."""
    path = tmp_path / "w.bin"
    path.write_bytes(DATA)
    log = LogFile()

    async def main() -> None:
        async with sending(path, log=RequestLog(log)) as url, aiohttp.ClientSession() as session:
            for number, headers in enumerate(({}, {"Range": "bytes=10-19"}), 1):
                async with session.get(url, headers=headers) as answer:
                    await answer.read()
                entries = await log.wait_entries(number)

        told = [(e["path"], e["start"], e["stop"], e["status"], e["sent"]) for e in entries]
        assert told == [("sub/w.bin", 0, 1000, 200, 1000), ("sub/w.bin", 10, 20, 206, 10)]

    run(main)


def test_the_log_can_be_read_while_it_grows(tmp_path: Path) -> None:
    """Each line is written as it comes: a test, or `tail -f`, sees it at once."""
    with (tmp_path / "log").open("a") as file:
        log = RequestLog(file)
        log.write(path="模型\n.bin", span=Span(5, 9), status=206, sent=3, seconds=0.25)

        (entry,) = read_log(tmp_path / "log")

    assert isinstance(entry.pop("time"), float)
    assert entry == {
        "path": "模型\n.bin",
        "start": 5,
        "stop": 9,
        "status": 206,
        "sent": 3,
        "seconds": 0.25,
    }


def test_the_log_counts_what_was_sent_to_a_client_that_hung_up(run: Run, tmp_path: Path) -> None:
    """A shortened lease, a kill, a Ctrl-C: not the file's size but the bytes that went out."""
    path = tmp_path / "w.bin"
    size = 64 << 20
    path.touch()
    os.truncate(path, size)
    log = LogFile()

    async def main() -> None:
        async with sending(path, log=RequestLog(log)) as url, aiohttp.ClientSession() as session:
            async with session.get(url) as answer:
                await answer.content.readexactly(100_000)
            (entry,) = await log.wait_entries(1)

        assert entry["stop"] == size
        assert 100_000 <= entry["sent"] < size

    run(main)


@pytest.mark.parametrize("logged", [False, True], ids=["by-the-kernel", "counted"])
def test_a_client_that_goes_away_is_no_error_of_the_server(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, logged: bool
) -> None:
    """While the server waits for room: no traceback, and the bytes that went out are counted."""
    path = tmp_path / "w.bin"
    size = 64 << 20
    path.touch()
    os.truncate(path, size)
    log = LogFile()

    async def main() -> None:
        async with sending(path, log=RequestLog(log) if logged else None) as url:
            client = await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2]))
            await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await client.receive(1)
            await anyio.sleep(0.2)  # until all the buffers in between are full
            reset = struct.pack("ii", 1, 0)  # no farewell: what a killed process leaves behind
            raw = client.extra(anyio.abc.SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            await client.aclose()
            if logged:
                (entry,) = await log.wait_entries(1)
                assert 0 < entry["sent"] < size
            await anyio.sleep(0.1)

    run(main)

    assert [record.getMessage() for record in caplog.records] == []


def test_the_limit_holds_for_each_answer(run: Run, tmp_path: Path) -> None:
    """Two answers at once at 2 MB/s each take as long as one; neither is faster."""
    path = tmp_path / "w.bin"
    path.write_bytes(DATA * 1000)

    async def main() -> None:
        async def one(session: aiohttp.ClientSession, url: str) -> None:
            async with session.get(url) as answer:
                assert await answer.read() == DATA * 1000

        async with sending(path, rate=2e6) as url, aiohttp.ClientSession() as session:
            began = time.monotonic()
            async with anyio.create_task_group() as group:
                group.start_soon(one, session, url)
                group.start_soon(one, session, url)
            seconds = time.monotonic() - began

        # A million bytes, less the last write and what may be sent at once.
        assert 0.3 <= seconds < 10

    run(main)
