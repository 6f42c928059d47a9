"""Sending a file or a range of it, counted and perhaps slowed down."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import aiofiles
import anyio
from aiohttp import web

from modelhaul.core.pace import Throttle
from modelhaul.core.span import Span
from modelhaul.server.shelf import ServedFile

_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")
_STEP = 1 << 18


def parse_range(text: str | None, size: int) -> Span | None:
    """The span that a `Range` header asks for; None to send everything.

    RFC 9110 section 14.2: a header that is not understood is ignored.

    Raises:
        web.HTTPRequestRangeNotSatisfiable: it lies behind the end.
    """
    match = _RANGE.fullmatch(text.strip()) if text is not None else None
    if match is None or (not match[1] and not match[2]):
        return None
    if match[1]:
        start = int(match[1])
        stop = min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    else:
        start, stop = max(0, size - int(match[2])), size
    if start >= size or start >= stop:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
    return Span(start, stop)


@dataclass(frozen=True, slots=True)
class RequestLog:
    """One line of JSON per answer that carried bytes of a file, with the bytes really sent."""

    file: TextIO

    def write(self, *, path: str, span: Span, status: int, sent: int, seconds: float) -> None:
        """Record an answer; `sent` bytes were handed to the network."""
        entry = {
            "time": time.time(),
            "path": path,
            "start": span.start,
            "stop": span.stop,
            "status": status,
            "sent": sent,
            "seconds": round(seconds, 3),
        }
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a request log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


async def send_file(
    request: web.Request,
    file: ServedFile,
    *,
    headers: Mapping[str, str],
    rate: float | None,
    log: RequestLog | None,
) -> web.StreamResponse:
    """Answer with the file or the range of it that was asked for.

    Not by `web.FileResponse`: that sends a neighbouring `w.bin.gz` to clients that take gzip.

    Args:
        request: what was asked.
        file: what to send.
        headers: more headers, or other ones.
        rate: bytes/s for this answer, None for no limit.
        log: where to count the bytes, None not to.
    """
    asked = parse_range(request.headers.get("Range"), file.size)
    span = asked or Span(0, file.size)
    standard = {"ETag": f'"{file.sha256}"', "Accept-Ranges": "bytes"}
    response = web.StreamResponse(
        status=200 if asked is None else 206, headers={**standard, **headers}
    )
    response.content_type = "application/octet-stream"
    response.content_length = span.length
    if asked is not None:
        response.headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{file.size}"
    sent = Sent()
    began = time.monotonic()
    try:
        await response.prepare(request)
        if request.method != "HEAD" and span.length:
            if rate is None and log is None and _has_sendfile():
                await _send_by_kernel(request, file.disk, span, sent)
            else:
                await _send_counted(request, response, file.disk, span, rate, sent)
            if sent.count < span.length and request.transport is not None:
                # The file has shrunk. Only a cut connection tells the client.
                request.transport.abort()
                return response
        await response.write_eof()
    except ConnectionError:
        # The client has had enough: a shortened lease, a kill, a Ctrl-C. aiohttp raises the plain
        # class when it was waiting for room, sendfile a broken pipe.
        pass
    finally:
        if log is not None:
            seconds = time.monotonic() - began
            log.write(
                path=file.path, span=span, status=response.status, sent=sent.count, seconds=seconds
            )
    return response


@dataclass(slots=True)
class Sent:
    """How many bytes of a body were handed to the network."""

    count: int = 0


def _has_sendfile() -> bool:
    """asyncio's own loop has it, uvloop has not."""
    return isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)


async def _send_by_kernel(request: web.Request, disk: Path, span: Span, sent: Sent) -> None:
    """`sendfile`: no byte passes through this program."""
    async with await anyio.open_file(disk, "rb", buffering=0) as file:
        source = file.wrapped
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError  # sendfile says RuntimeError to that
        sent.count = await asyncio.get_running_loop().sendfile(
            transport, source, span.start, span.length
        )


async def _send_counted(
    request: web.Request,
    response: web.StreamResponse,
    disk: Path,
    span: Span,
    rate: float | None,
    sent: Sent,
) -> None:
    """Piece by piece, so that what was sent is known when the client goes away."""
    throttle = None if rate is None else Throttle(rate, burst=0.05)
    # A slow answer is a trickle, not a burst and a pause that looks like a dead connection.
    step = _STEP if rate is None else min(_STEP, max(4096, int(rate / 20)))
    async with aiofiles.open(disk, "rb") as source:
        await source.seek(span.start)
        while sent.count < span.length:
            data = await source.read(min(step, span.length - sent.count))
            if not data:
                return
            # What was handed over counts, also when the connection is lost while we wait for room:
            # some of it is on its way. At most a piece and aiohttp's 64 KiB have not left yet.
            transport = request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError
            sent.count += len(data)
            await response.write(data)
            if throttle is not None:
                await anyio.sleep(throttle.spend(len(data), time.monotonic()))
