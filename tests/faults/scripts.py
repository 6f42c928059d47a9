"""Wrong answers by name: one function for each thing that a server does to a request for bytes."""

from __future__ import annotations

import gzip
from functools import cache

from aiohttp import web

from modelhaul.core.span import Span
from tests.faults.switchboard import Ask, Wrong, plain

KIB = 1 << 10


def moved(by: int) -> Wrong:
    """A range that begins `by` bytes off, with an honest head."""

    def make(ask: Ask) -> web.StreamResponse | None:
        start = ask.span.start + by
        if not ask.ranged or start < 0 or start >= ask.span.stop:
            return None
        span = Span(start, ask.span.stop)
        return ask.answer(ask.data[span.start : span.stop], Content_Range=ask.content_range(span))

    return plain(make)


def longer(ask: Ask) -> web.StreamResponse | None:
    """A thousand bytes more than asked for, with an honest head."""
    span = Span(ask.span.start, min(ask.span.stop + 1000, len(ask.data)))
    return ask.answer(ask.data[span.start : span.stop], Content_Range=ask.content_range(span))


def shorter(ask: Ask) -> web.StreamResponse | None:
    """A hundred bytes fewer than asked for, with an honest head."""
    if ask.span.length <= 100:
        return None
    span = Span(ask.span.start, ask.span.stop - 100)
    return ask.answer(ask.data[span.start : span.stop], Content_Range=ask.content_range(span))


def flipped(ask: Ask) -> web.StreamResponse | None:
    """The first byte is another: whatever is used of the answer has it."""
    body = bytearray(ask.body)
    body[0] ^= 0x40
    return ask.answer(bytes(body))


def whole(ask: Ask) -> web.StreamResponse | None:
    """The range is ignored."""
    return ask.answer(ask.data, status=200, Content_Range=None)


def other_version(ask: Ask) -> web.StreamResponse | None:
    """Another file of the same length, and it says so."""
    body = bytes(byte ^ 1 for byte in ask.body[:KIB]) + ask.body[KIB:]
    return ask.answer(body, ETag='"another"')


async def cut(ask: Ask) -> web.StreamResponse | None:
    """The body ends at its half, in good order."""
    await ask.partly(ask.span.length // 2)
    return ask.close()


async def broken(ask: Ask) -> web.StreamResponse | None:
    """A reset after 256 KiB."""
    await ask.partly(256 * KIB)
    return ask.reset()


async def refused(ask: Ask) -> web.StreamResponse | None:
    """A reset instead of an answer."""
    return ask.reset()


async def silent(ask: Ask) -> web.StreamResponse | None:
    """Half of the body, and then nothing, for ever."""
    await ask.partly(ask.span.length // 2)
    return await ask.until_gone()


async def crawling(ask: Ask) -> web.StreamResponse | None:
    """A byte a second."""
    await ask.partly(64 * KIB)
    return await ask.until_gone(ask.body[64 * KIB :])


async def trickling_head(ask: Ask) -> web.StreamResponse | None:
    """A byte of the head a second."""
    return await ask.until_gone(ask.status_line())


def more_head(lines: str) -> Wrong:
    """`lines` follow the true head; the connection ends after the body."""

    async def answer(ask: Ask) -> web.StreamResponse | None:
        ask.raw(ask.status_line() + lines.encode() + b"\r\n" + ask.body)
        return ask.close()

    return answer


async def early_hints(ask: Ask) -> web.StreamResponse | None:
    """Two informational answers come before the real one."""
    ask.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2)
    ask.raw(ask.status_line() + b"\r\n" + ask.body)
    return ask.close()


async def trailed(ask: Ask) -> web.StreamResponse | None:
    """One chunk, and a trailer after the last."""
    head = ask.status_line(Content_Length=None, Transfer_Encoding="chunked")
    ask.raw(head + b"\r\n%x\r\n" % ask.span.length + ask.body)
    ask.raw(b"\r\n0\r\nX-Checksum: 5\r\n\r\n")
    return ask.close()


async def cut_chunks(ask: Ask) -> web.StreamResponse | None:
    """In chunks, and the connection ends within one."""
    head = ask.status_line(Content_Length=None, Transfer_Encoding="chunked")
    ask.raw(head + b"\r\n%x\r\n" % ask.span.length + ask.body[: ask.span.length // 2])
    return ask.close()


async def old_and_lying(ask: Ask) -> web.StreamResponse | None:
    """HTTP/1.0 that promises to keep the connection, and ends it."""
    head = ask.status_line(Connection="keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
    ask.raw(head + b"\r\n" + ask.body)
    return ask.close()


async def no_http(ask: Ask) -> web.StreamResponse | None:
    """Something that is not HTTP at all."""
    ask.raw(b"\x16\x03\x01\x02\x00 220 welcome\r\n\r\n")
    return ask.close()


async def half_a_head(ask: Ask) -> web.StreamResponse | None:
    """The connection ends within the head."""
    ask.raw(ask.status_line()[:60])
    return ask.close()


async def hung_up(ask: Ask) -> web.StreamResponse | None:
    """The connection ends in good order, without an answer."""
    return ask.close()


async def mute(ask: Ask) -> web.StreamResponse | None:
    """Not a byte, for ever."""
    return await ask.until_gone()


async def babbling(ask: Ask) -> web.StreamResponse | None:
    """A second answer follows that nobody asked for, on a connection that stays open."""
    head = ask.status_line() + b"\r\n"
    ask.raw(head + ask.body + head + bytes(ask.span.length))
    return await ask.until_gone()


async def without_length(ask: Ask) -> web.StreamResponse | None:
    """Neither length nor chunks: the end of the connection is the end, here at half."""
    head = ask.status_line(Content_Length=None)
    ask.raw(head + b"Connection: close\r\n\r\n" + ask.body[: ask.span.length // 2])
    return ask.close()


async def in_chunks(ask: Ask) -> web.StreamResponse | None:
    """A range in chunked transfer coding."""
    response = web.StreamResponse(status=206 if ask.ranged else 200, headers=ask.head())
    response.enable_chunked_encoding()
    await response.prepare(ask.request)
    for start in range(0, ask.span.length, 100_000):
        await response.write(ask.body[start : start + 100_000])
    await response.write_eof()
    return response


def squeezed(ask: Ask) -> web.StreamResponse | None:
    """Compressed, though nobody takes that."""
    return ask.answer(gzip.compress(ask.body, 1), Content_Encoding="gzip")


@cache
def zeros() -> bytes:
    """A hundred MiB of them, compressed."""
    return gzip.compress(bytes(100 << 20), 1)


def bomb(ask: Ask) -> web.StreamResponse | None:
    """Little that would become much."""
    return ask.answer(zeros(), Content_Encoding="gzip")


def page(ask: Ask) -> web.StreamResponse | None:
    """A login page, with the best of consciences."""
    return web.Response(text="<html>Please log in</html>", content_type="text/html")


def pointer(ask: Ask) -> web.StreamResponse | None:
    """A Git LFS pointer in place of what it points to."""
    return web.Response(
        text="version https://git-lfs.github.com/spec/v1\n"
        f"oid sha256:{'0' * 64}\nsize {len(ask.data)}\n",
    )


def several_parts(ask: Ask) -> web.StreamResponse | None:
    """multipart/byteranges for one range."""
    return ask.answer(Content_Type="multipart/byteranges; boundary=x")


def status(code: int, **headers: str) -> Wrong:
    """An error status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return plain(lambda ask: web.Response(status=code, headers=named))


def changed(**changes: str | None) -> Wrong:
    """The true answer with other headers."""
    return plain(lambda ask: ask.answer(**changes) if ask.ranged else None)


def other_total(ask: Ask) -> web.StreamResponse | None:
    """The right range of a file that is a byte longer."""
    return ask.answer(Content_Range=ask.content_range(total=len(ask.data) + 1))


def without_total(ask: Ask) -> web.StreamResponse | None:
    """The right range of a file whose size it does not know."""
    return ask.answer(Content_Range=ask.content_range().partition("/")[0] + "/*")


def sloppy(ask: Ask) -> web.StreamResponse | None:
    """The unit is spelt as in a request."""
    return ask.answer(Content_Range=ask.content_range().replace("bytes ", "bytes="))


def other_tags(ask: Ask) -> web.StreamResponse | None:
    """Each edge has its own entity tag for the same bytes."""
    return ask.answer(ETag=f'"edge {ask.number % 3}"')


def redirected(location: str) -> Wrong:
    """To somewhere else."""
    return plain(lambda ask: web.Response(status=302, headers={"Location": location}))


def in_circles(ask: Ask) -> web.StreamResponse | None:
    """To itself."""
    return web.Response(status=302, headers={"Location": str(ask.request.rel_url)})


def other_way(ask: Ask) -> web.StreamResponse | None:
    """A relative address, another one each time, that serves."""
    if "r" in ask.request.query:
        return None
    where = ask.request.rel_url.update_query(r=str(ask.number))
    return web.Response(status=307, headers={"Location": str(where)})


def foreign_way(ask: Ask) -> web.StreamResponse | None:
    """An address with letters that may not stand in one."""
    if "r" in ask.request.query:
        return None
    return web.Response(status=302, headers={"Location": f"{ask.request.rel_url}&r=\u6a21 x"})


def hops(count: int) -> Wrong:
    """So many more redirects before the bytes; the hub's own is one already."""

    def make(ask: Ask) -> web.StreamResponse | None:
        gone = int(ask.request.query.get("hop", "0"))
        if gone == count:
            return None
        where = ask.request.rel_url.update_query(hop=str(gone + 1))
        return web.Response(status=302, headers={"Location": str(where)})

    return plain(make)


def unsatisfiable(ask: Ask) -> web.StreamResponse | None:
    """416 for a range that exists."""
    return web.Response(status=416, headers={"Content-Range": f"bytes */{len(ask.data)}"})


def good_for(size: int, wrong: Wrong) -> Wrong:
    """True bytes until `size` of them were sent, all answers together; then `wrong`, for ever.

    An answer that the bytes do not reach for goes on as `wrong` does: silent, or with its end.
    """
    left = size

    async def answer(ask: Ask) -> web.StreamResponse | None:
        nonlocal left
        count = min(left, ask.span.length)
        left -= count
        if count == ask.span.length:
            return None
        if count == 0:
            return await wrong(ask)
        await ask.partly(count)
        return await wrong(ask) if wrong is mute else ask.close()

    return answer
