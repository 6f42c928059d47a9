"""Sending a file or a range of it, counted and perhaps slowed down."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import aiofiles
import anyio
from aiohttp import web

from modelhaul.core.pace import Throttle
from modelhaul.core.span import Span
from modelhaul.server.shelf import ServedFile

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
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


def read_log(path: Path) -> list[dict[str, object]]:
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

    Args:
        request: what was asked.
        file: what to send.
        headers: more headers.
        rate: bytes/s for this answer, None for no limit.
        log: where to count the bytes, None not to.
    """
    span = parse_range(request.headers.get("Range"), file.size)
    common = {"ETag": f'"{file.sha256}"', "Accept-Ranges": "bytes", **headers}
    if rate is None and log is None:
        # By the kernel, without a copy: sendfile. It makes an entity tag of its own.
        common.pop("ETag")
        return web.FileResponse(file.disk, headers=common)
    whole = span or Span(0, file.size)
    response = web.StreamResponse(status=200 if span is None else 206, headers=common)
    response.content_type = "application/octet-stream"
    response.content_length = whole.length
    if span is not None:
        response.headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{file.size}"
    sent = 0
    began = time.monotonic()
    try:
        await response.prepare(request)
        if request.method != "HEAD":
            throttle = None if rate is None else Throttle(rate, burst=0.05)
            async with aiofiles.open(file.disk, "rb") as source:
                await source.seek(whole.start)
                while sent < whole.length:
                    data = await source.read(min(_STEP, whole.length - sent))
                    if not data:
                        break
                    await response.write(data)
                    sent += len(data)
                    if throttle is not None:
                        await anyio.sleep(throttle.spend(len(data), time.monotonic()))
        await response.write_eof()
    except ConnectionResetError:
        pass  # the client has had enough: a shortened lease, a kill, a Ctrl-C
    finally:
        if log is not None:
            seconds = time.monotonic() - began
            log.write(
                path=file.path, span=whole, status=response.status, sent=sent, seconds=seconds
            )
    return response
