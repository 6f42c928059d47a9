"""What a plain URL can do to `modelhaul get`: nobody says what the file should be.

Without a digest the promise rests on size, one unchanged strong validator and one source per file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from modelhaul.core.span import Span
from tests.faults.cases import Case, Run, here, params
from tests.faults.scripts import (
    changed,
    cut,
    longer,
    moved,
    other_version,
    page,
    shorter,
    squeezed,
)
from tests.faults.switchboard import Ask, PlainUrl, Wrong, first, only, plain
from tests.support.world import World, content, machine

# Uvloop would swallow what the other method raises in the middle of a run.
pytestmark = pytest.mark.timeout(60, method="thread")

DATA = content(8 << 20, 7)
OTHER = content(8 << 20, 8)
DIGEST = hashlib.sha256(DATA).hexdigest()
KEY = "url-secret-key"


@pytest.fixture
def web_of_files(tmp_path: Path) -> Iterator[World]:
    """Two servers, and nothing on them but what a test puts there."""
    with machine(tmp_path) as world:
        yield world


TRUTH = plain(lambda ask: None)


def serve(world: World, wrong: Wrong = TRUTH, data: bytes = DATA, tag: str = '"one"') -> PlainUrl:
    """Put a file at every `/plain/NAME`."""
    board = PlainUrl(data, tag, wrong)
    world.hub.fault = board
    return board


def url(world: World, name: str = "w.bin", *, store: bool = False) -> str:
    """Where it can be had: at the hub's origin or at the store's."""
    return f"{world.hub.cdn if store else world.hub.url}/plain/{name}"


def files(world: World) -> dict[str, bytes]:
    """What lies under a final name in the user's folder."""
    return {path.name: path.read_bytes() for path in world.work.iterdir() if path.is_file()}


# -- how a server can say nothing or too much ----------------------------------------------------


def unranged(**changes: str | None) -> Wrong:
    """200 and the whole file whatever was asked, with other headers."""
    return plain(
        lambda ask: ask.answer(
            ask.data, status=200, Content_Range=None, Accept_Ranges="none", **changes
        )
    )


async def all_in_chunks(ask: Ask) -> web.StreamResponse | None:
    """Chunked, without length, ranges or validator."""
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.enable_chunked_encoding()
    await response.prepare(ask.request)
    for start in range(0, len(ask.data), 1_000_000):
        await response.write(ask.data[start : start + 1_000_000])
    await response.write_eof()
    return response


async def all_in_cut_chunks(ask: Ask) -> web.StreamResponse | None:
    """The same, and it ends within a chunk."""
    ask.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    ask.raw(b"%x\r\n" % len(ask.data) + ask.data[: len(ask.data) // 2])
    return ask.close()


async def until_the_end(ask: Ask) -> web.StreamResponse | None:
    """HTTP/1.0: no length, the end of the connection is the end of the file."""
    ask.raw(b"HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n" + ask.data)
    return ask.close()


def redirect(location: str) -> web.Response:
    """To somewhere else."""
    return web.Response(status=302, headers={"Location": location})


def after_the_probe(wrong: Wrong, times: int) -> Wrong:
    """The question for size and validator is answered rightly, then so many answers are wrong."""

    async def answer(ask: Ask) -> web.StreamResponse | None:
        return await wrong(ask) if 0 < ask.number <= times else None

    return answer


def dated(ask: Ask) -> web.StreamResponse | None:
    """Known by a date only, which is old enough to be strong."""
    return ask.answer(ETag=None, Last_Modified="Mon, 06 Jan 2020 10:00:00 GMT")


def lying_about_ranges(ask: Ask) -> web.StreamResponse | None:
    """Ranges work, and it says that they do not."""
    return ask.answer(Accept_Ranges="none")


RIGHT = [
    Case("no ranges", unranged(), number=1),
    Case("no ranges and no validator", unranged(ETag=None), number=(1, 23)),
    Case("no ranges and a weak validator", unranged(ETag='W/"x"'), number=(1, 23)),
    Case("no size, no ranges, chunked", all_in_chunks, number=17),
    Case("chunked and cut, then whole", first(2, all_in_cut_chunks), number=(12, 17)),
    Case("a date as the only validator", plain(dated), number=23),
    # Without a digest nothing but these checks stands between a wrong range and the file.
    Case("a range begins too high", after_the_probe(moved(4096), 2), number=3),
    Case("a range begins too low", after_the_probe(moved(-4096), 2), number=3),
    Case("206 without Content-Range", after_the_probe(changed(Content_Range=None), 2), number=4),
    Case("ranges are shorter than asked", after_the_probe(plain(shorter), 99), number=8),
    Case("ranges are longer than asked", after_the_probe(plain(longer), 99), number=9),
    Case("bodies are cut at half", after_the_probe(cut, 3), number=10),
    Case("replaced in the middle, then back", only(1, plain(other_version)), number=22),
    Case("a login page once", after_the_probe(plain(page), 1), number=28),
    Case("compressed though nobody asked", after_the_probe(plain(squeezed), 2), number=55),
    Case("Accept-Ranges: none, though ranges work", plain(lying_about_ranges), number=20),
    Case(
        "a name in Content-Disposition that climbs",
        plain(lambda ask: ask.answer(Content_Disposition='attachment; filename="../../evil.bin"')),
        number=96,
    ),
]


@pytest.mark.parametrize(
    ("run", "case"), params(RIGHT, of="plain URL: ", installed={"no size, no ranges, chunked"})
)
def test_a_url_without_a_digest_gives_its_bytes(web_of_files: World, run: Run, case: Case) -> None:
    """Right bytes under the URL's name, and it is said that nobody stated a digest."""
    board = serve(web_of_files, case.wrong)

    done = run(web_of_files, "get", url(web_of_files))

    assert done.returncode == 0, done.stderr
    assert files(web_of_files) == {"w.bin": DATA}
    assert f"sha256: {DIGEST}" in done.stderr
    assert "has its SHA-256" not in done.stderr
    assert board.given > 0
    assert not (web_of_files.work.parent / "evil.bin").exists()


WITH_DIGEST = [
    Case("the end of the connection is the end of the file", until_the_end, number=11),
    Case("no size, no ranges, chunked", all_in_chunks, number=17),
    Case("no validator, replaced once in the middle", only(2, plain(lambda ask: alien(ask, None)))),
]


def alien(ask: Ask, tag: str | None = '"two"') -> web.StreamResponse:
    """The same span of another file of the same size."""
    body = OTHER[ask.span.start : ask.span.stop]
    return ask.answer(body, ETag=tag)


@pytest.mark.parametrize(("run", "case"), params(WITH_DIGEST, of="URL with --sha256: "))
def test_a_digest_judges_where_the_server_says_nothing(
    web_of_files: World, run: Run, case: Case
) -> None:
    """With --sha256 even a body without a length is proven."""
    board = serve(web_of_files, case.wrong)

    done = run(web_of_files, "get", url(web_of_files), "--sha256", DIGEST)

    assert done.returncode == 0, done.stderr
    assert files(web_of_files) == {"w.bin": DATA}
    assert "has its SHA-256" in done.stderr
    assert board.given > 0


REFUSED = [
    Case("no length, the end is the end", until_the_end, 7, "no length", number=11),
    Case("replaced before the first byte", after_the_probe(plain(alien), 99), 7, "changed", 22),
    Case(
        "larger than it said a moment ago",
        after_the_probe(
            plain(lambda ask: ask.answer(Content_Range=ask.content_range(total=len(DATA) + 1))), 99
        ),
        7,
        "bytes",
        number=18,
    ),
    Case(
        "a login page for ever",
        after_the_probe(
            plain(lambda ask: web.Response(text="<html>", content_type="text/html")), 99
        ),
        7,
        "changed",
        number=28,
    ),
    Case("a loop", plain(lambda ask: redirect(ask.request.path)), 7, "redirect", number=46),
]


@pytest.mark.parametrize(("run", "case"), params(REFUSED, of="plain URL: "))
def test_a_url_that_cannot_be_trusted_is_refused(web_of_files: World, run: Run, case: Case) -> None:
    """No digest and no proof of another kind: an error, and no file."""
    board = serve(web_of_files, case.wrong)

    done = run(web_of_files, "get", url(web_of_files))

    assert done.returncode == case.code, done.stderr
    assert case.says in done.stderr
    assert done.stdout == ""
    assert files(web_of_files) == {}
    assert board.given > 0


# -- empty files -----------------------------------------------------------------------------------


@pytest.mark.fault("an empty file, 416 for its first byte", "an empty file, exit 0", number=16)
def test_an_empty_file_that_has_no_first_byte(web_of_files: World) -> None:
    """`bytes=0-0` of nothing is 416, and still it is a file."""
    board = serve(web_of_files, data=b"")

    done = here(web_of_files, "get", url(web_of_files))

    assert done.returncode == 0, done.stderr
    assert files(web_of_files) == {"w.bin": b""}
    assert board.methods["GET"] > 0


@pytest.mark.fault("an empty file, 200 for its first byte", "an empty file, exit 0", number=16)
def test_an_empty_file_from_a_server_without_ranges(web_of_files: World) -> None:
    """200 and no body."""

    def nothing(request: web.Request) -> web.StreamResponse | None:
        return web.Response(body=b"") if request.path == "/plain/w.bin" else None

    web_of_files.hub.fault = nothing

    done = here(web_of_files, "get", url(web_of_files))

    assert done.returncode == 0, done.stderr
    assert files(web_of_files) == {"w.bin": b""}


# -- questions that are not asked ----------------------------------------------------------------


@pytest.mark.fault(
    "HEAD is refused, or says other things than GET", "HEAD is never asked", number=(19, 20)
)
def test_nothing_depends_on_head(web_of_files: World) -> None:
    """Signed addresses are often for one method; the first range says all that is needed."""
    board = serve(web_of_files)

    done = here(web_of_files, "get", url(web_of_files))

    assert done.returncode == 0, done.stderr
    assert files(web_of_files) == {"w.bin": DATA}
    assert set(board.methods) == {"GET"}


# -- other origins -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "credential",
    [
        pytest.param(
            name,
            marks=pytest.mark.fault(
                f"{name}, and a redirect to another port", "it is not sent there", number=47
            ),
        )
        for name in ("a header of the user", "a password in the URL")
    ],
)
def test_credentials_stay_at_their_origin(web_of_files: World, credential: str) -> None:
    """The same host on another port is somebody else."""
    world = web_of_files
    own = world.hub.url.removeprefix("http://")

    def moved(ask: Ask) -> web.StreamResponse | None:
        at_home = ask.request.host == own
        return redirect(url(world, "elsewhere.bin", store=True)) if at_home else None

    board = serve(world, plain(moved))
    words = ["get", url(world), "--header", f"X-Key: {KEY}"]
    if credential == "a password in the URL":
        words = ["get", url(world).replace("http://", f"http://me:{KEY}@")]

    done = here(world, *words)

    assert done.returncode == 0, done.stderr
    assert files(world) == {"w.bin": DATA}
    at_home = [headers for headers in board.headers if headers["Host"] == own]
    elsewhere = [headers for headers in board.headers if headers["Host"] != own]
    assert at_home
    assert elsewhere
    assert all({"X-Key", "Authorization"} & set(headers) for headers in at_home)
    assert not any({"X-Key", "Authorization"} & set(headers) for headers in elsewhere)
    assert KEY not in done.stdout + done.stderr


# -- several addresses ---------------------------------------------------------------------------


def by_origin(world: World, home: Wrong) -> Wrong:
    """`home` at the hub's origin, the truth at the store's."""

    async def answer(ask: Ask) -> web.StreamResponse | None:
        return await home(ask) if ask.request.host == world.hub.url[7:] else None

    return answer


LYING = [
    Case(
        "a mirror serves a login page with 200",
        plain(lambda ask: web.Response(text="<html>log in</html>", content_type="text/html")),
        number=28,
    ),
    Case("a mirror serves 404", plain(lambda ask: web.Response(status=404)), number=43),
    Case("a mirror compresses", plain(lambda ask: ask.answer(Content_Encoding="br")), number=55),
    Case(
        "a mirror has a longer file",
        plain(lambda ask: ask.answer(Content_Range=ask.content_range(total=len(DATA) + 5))),
        number=27,
    ),
]


@pytest.mark.parametrize(("run", "case"), params(LYING))
def test_one_bad_mirror_does_not_spoil_the_file(web_of_files: World, run: Run, case: Case) -> None:
    """The first of two addresses is wrong, the second is right, and the digest is known."""
    world = web_of_files
    board = serve(world, by_origin(world, case.wrong))

    done = run(world, "get", url(world), url(world, store=True), "--sha256", DIGEST, "-o", "w")

    assert done.returncode == 0, done.stderr
    assert files(world) == {"w": DATA}
    assert board.given > 0


# -- replaced upstream ---------------------------------------------------------------------------


def stops_after(count: int) -> Wrong:
    """So many answers, and then the file is gone."""
    return plain(lambda ask: web.Response(status=404) if ask.number >= count else None)


def interrupted(world: World, *more: str) -> None:
    """A download that was given up with some of its bytes on disk."""
    board = serve(world, stops_after(2))
    done = here(world, "get", url(world), "--connections", "1", *more)
    assert done.returncode == 4, done.stderr
    assert board.given > 0
    assert any((world.work / ".modelhaul").glob("*.part"))


REPLACED = [
    pytest.param(
        data, id=name, marks=pytest.mark.fault(f"{name}, between two runs", says, number=n)
    )
    for name, data, says, n in (
        ("replaced by a file of the same length", OTHER, "the new bytes only, exit 0", 25),
        ("replaced by a shorter file", OTHER[:5_000_001], "the new bytes only, exit 0", 26),
        ("replaced by a longer file", OTHER + OTHER[:77], "the new bytes only, exit 0", 26),
    )
]


@pytest.mark.parametrize("data", REPLACED)
def test_bytes_of_two_versions_are_never_mixed(web_of_files: World, data: bytes) -> None:
    """What an earlier run left belongs to another validator: it is not used, and not deleted."""
    interrupted(web_of_files)
    serve(web_of_files, data=data, tag='"two"')

    done = here(web_of_files, "get", url(web_of_files))

    assert done.returncode == 0, done.stderr
    assert files(web_of_files) == {"w.bin": data}
    assert "1 unfinished part of earlier runs" in done.stderr


@pytest.mark.fault("interrupted, nothing changed upstream", "only the rest is fetched", number=25)
def test_the_same_version_is_continued(web_of_files: World) -> None:
    """The validator is that of the part: what is there counts."""
    interrupted(web_of_files)
    board = serve(web_of_files)
    spans: list[Span] = []
    board.wrong = plain(lambda ask: spans.append(ask.span))

    done = here(web_of_files, "get", url(web_of_files))

    assert done.returncode == 0, done.stderr
    assert files(web_of_files) == {"w.bin": DATA}
    assert 0 < sum(span.length for span in spans) <= len(DATA) // 2 + 1


@pytest.mark.fault(
    "a finished file is replaced upstream", "the new bytes, by the new validator", number=25
)
def test_a_finished_file_is_brought_up_to_date(web_of_files: World) -> None:
    """Ours, and of an older validator: it gives way to the new one."""
    serve(web_of_files)
    assert here(web_of_files, "get", url(web_of_files)).returncode == 0
    board = serve(web_of_files, data=OTHER, tag='"two"')

    done = here(web_of_files, "get", url(web_of_files))

    assert done.returncode == 0, done.stderr
    assert files(web_of_files) == {"w.bin": OTHER}
    assert board.asks > 0


@pytest.mark.fault(
    "replaced during the run, no digest", "an error, then the new bytes by the next run", number=22
)
def test_a_file_that_changes_during_the_run_is_not_spliced(web_of_files: World) -> None:
    """The validator changes after some ranges: no byte of the new file joins the old ones."""
    board = serve(web_of_files)
    board.wrong = plain(lambda ask: alien(ask) if ask.number >= 2 else None)

    during = here(web_of_files, "get", url(web_of_files), "--connections", "1")
    left = files(web_of_files)
    after = here(web_of_files, "get", url(web_of_files))

    assert during.returncode == 7, during.stderr
    assert "changed while it was being downloaded" in during.stderr
    assert left == {}
    assert board.given > 0
    assert after.returncode == 0, after.stderr
    assert files(web_of_files) == {"w.bin": OTHER}
