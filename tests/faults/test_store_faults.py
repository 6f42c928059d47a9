"""What a store can do to a download: the installed command against a switchboard of faults.

One file of 8 MiB with a stated SHA-256. Each case says which outcome is promised: the right bytes
and exit 0, or an error with its exit code and nothing under the final name.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from aiohttp import web

from modelhaul.core.span import Span
from tests.e2e.conftest import World, content, last_line, machine, tree
from tests.faults.switchboard import Ask, Switchboard, Wrong, every, first, only, plain

pytestmark = pytest.mark.command

KIB = 1 << 10
DATA = content(8 << 20, 5)
NAME = "model.safetensors"
TOKEN = "ms-secret-token"


@dataclass(frozen=True, slots=True)
class Case:
    """A fault and its promise.

    Attributes:
        name: for people and for the test's id.
        wrong: the script.
        code: the exit code; 0 promises the right bytes.
        says: what the error has to say.
    """

    name: str
    wrong: Wrong
    code: int = 0
    says: str = ""


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
    """One byte is another."""
    body = bytearray(ask.body)
    body[len(body) // 2] ^= 0x40
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


def unsatisfiable(ask: Ask) -> web.StreamResponse | None:
    """416 for a range that exists."""
    return web.Response(status=416, headers={"Content-Range": f"bytes */{len(ask.data)}"})


RIGHT = [
    Case("ranges are ignored", plain(whole)),
    Case("every second range is ignored", every(2, plain(whole))),
    Case("a range begins too high", first(2, moved(4096))),
    Case("a range begins too low", first(2, moved(-4096))),
    Case("206 without Content-Range", first(2, changed(Content_Range=None))),
    Case("206 with an unreadable Content-Range", first(2, changed(Content_Range="bytes a-b/c"))),
    Case("206 with an unsatisfied Content-Range", first(2, changed(Content_Range="bytes */9"))),
    Case("the unit of Content-Range is sloppy", plain(sloppy)),
    Case("the total changes once", only(1, plain(other_total))),
    Case("ranges are shorter than asked", plain(shorter)),
    Case("ranges are longer than asked", plain(longer)),
    Case("bodies are cut at half", first(3, cut)),
    Case("bodies are reset after 256 KiB", first(3, broken)),
    Case("connections are reset at once", first(3, refused)),
    Case("no length, cut at half", first(3, without_length)),
    Case("ranges in chunks", in_chunks),
    Case("a multipart answer", first(2, plain(several_parts))),
    Case("416 for a range that exists", first(2, plain(unsatisfiable))),
    Case("replaced in the middle, then back", only(1, plain(other_version))),
    Case("no validator", changed(ETag=None)),
    Case("a weak validator", changed(ETag='W/"x"')),
    Case("each edge has its own validator", plain(other_tags)),
    Case("one byte is flipped", only(0, plain(flipped))),
    Case("a login page once", first(1, plain(page))),
    Case("429 with a pause", first(2, status(429, Retry_After="1"))),
    Case(
        "429 with a date in the past",
        first(2, status(429, Retry_After="Mon, 01 Jan 2001 00:00:00 GMT")),
    ),
    Case("429 with nonsense", first(2, status(429, Retry_After="-5 soon"))),
    *(
        Case(f"{code} three times", first(3, status(code)))
        for code in (408, 425, 500, 502, 503, 504, 520, 527)
    ),
    Case("the signature has expired", first(1, status(403))),
    Case("404 from one that lags", first(1, status(404))),
    Case("redirected elsewhere each time", plain(other_way)),
    Case("compressed though nobody asked", first(2, plain(squeezed))),
    Case("informational answers before", early_hints),
    Case("an answer too many", first(2, babbling)),
    Case("a header of 1 MB", first(2, more_head("X-Long: " + "a" * (1 << 20) + "\r\n"))),
    Case("10,000 headers", first(2, more_head("X-Many: a\r\n" * 10_000))),
    Case("two lengths", first(2, more_head("Content-Length: 5\r\n"))),
    Case("a length and chunks", first(2, more_head("Transfer-Encoding: chunked\r\n"))),
    Case("one connection goes silent", only(1, silent)),
    Case("one connection crawls", only(1, crawling)),
    Case("one head trickles", only(1, trickling_head)),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[World]:
    """A hub with one file; its store is at another origin and takes faults."""
    with machine(tmp_path) as world:
        world.extra["MODELSCOPE_API_TOKEN"] = TOKEN
        world.put("acme/one", {NAME: DATA})
        yield world


def fault(world: World, wrong: Wrong) -> Switchboard:
    """Put a script in place."""
    board = Switchboard(DATA, f'"{hashlib.sha256(DATA).hexdigest()}"', wrong)
    world.hub.fault = board
    return board


def nothing_left_its_place(world: World) -> None:
    """No credential reached the store, no file lies outside of the target."""
    at_store = [seen for seen in world.hub.seen if seen.server == "cdn"]
    assert at_store
    assert not any(TOKEN in str(seen.headers) for seen in at_store)
    assert {path.name for path in world.work.iterdir()} <= {"m"}


@pytest.mark.parametrize("case", RIGHT, ids=lambda case: case.name)
def test_right_bytes_in_spite_of(store: World, case: Case) -> None:
    """What the data can be had in spite of ends with the right bytes."""
    board = fault(store, case.wrong)

    done = store.run("download", "acme/one", "--local-dir", "m", timeout=90)

    assert done.returncode == 0, done.stderr
    assert tree(store.work / "m") == {NAME: DATA}
    assert last_line(done.stdout) == str(store.work / "m")
    assert "every file has its SHA-256" in done.stderr
    assert board.given > 0
    nothing_left_its_place(store)


REFUSED = [
    Case("the total is always another", plain(other_total), 7, "the hub says"),
    Case("another version for ever", plain(other_version), 8, "SHA-256"),
    Case("one byte is flipped for ever", plain(flipped), 8, "SHA-256"),
    Case("a login page for ever", plain(page), 7, "web page"),
    Case("a pointer in place of the file", plain(pointer), 7, "the hub says"),
    Case("compressed for ever", plain(squeezed), 7, "encoding"),
    Case("a bomb", plain(bomb), 7, "encoding"),
    Case("416 for ever", plain(unsatisfiable), 7, "416"),
    Case("403 for ever", status(403), 4, "403"),
    Case("401 for ever", status(401), 4, "401"),
    Case("402 for ever", status(402), 4, "402"),
    Case("451 for ever", status(451), 4, "451"),
    Case("404 for ever", status(404), 4, "404"),
    Case("410 for ever", status(410), 4, "410"),
    Case("400 for ever", status(400), 7, "400"),
    Case("a pause of ten years", status(429, Retry_After="315360000"), 5, "429"),
    Case("a loop", plain(in_circles), 7, "redirect"),
    Case("redirected to a file", redirected("file:///etc/passwd"), 7, "redirect"),
    Case("redirected to ftp", redirected("ftp://127.0.0.1/x"), 7, "redirect"),
    Case("redirected nowhere", redirected(""), 7, "redirect"),
    Case("redirected by 8 KB", redirected("http://127.0.0.1:9/" + "a" * 8192), 6, "127.0.0.1:9"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_clear_error_and_nothing_under_the_final_name(store: World, case: Case) -> None:
    """What cannot be had ends with an error of its class, soon."""
    store.extra["MODELHAUL_PATIENCE"] = "10"
    board = fault(store, case.wrong)

    done = store.run("download", "acme/one", "--local-dir", "m", timeout=90)

    assert done.returncode == case.code, done.stderr
    assert case.says in done.stderr
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert done.stdout == ""
    assert not (store.work / "m" / NAME).exists()
    assert board.given > 0
    nothing_left_its_place(store)
