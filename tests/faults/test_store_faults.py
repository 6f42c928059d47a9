"""What a store can do to a download: the command against a switchboard of faults.

One file of 8 MiB with a stated SHA-256, and a small one, which goes another way through the
engine. Each case says which outcome is promised: the right bytes and exit 0, or an error with its
exit code and nothing under the final name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from modelhaul.core.span import Span, SpanSet
from modelhaul.server.body import parse_range
from modelhaul.store.claim import read_runs
from tests.faults.cases import Case, Run, here, params
from tests.faults.scripts import (
    babbling,
    bomb,
    broken,
    changed,
    crawling,
    cut,
    cut_chunks,
    early_hints,
    flipped,
    foreign_way,
    good_for,
    half_a_head,
    hops,
    hung_up,
    in_chunks,
    in_circles,
    longer,
    more_head,
    moved,
    mute,
    no_http,
    old_and_lying,
    other_tags,
    other_total,
    other_version,
    other_way,
    page,
    pointer,
    redirected,
    refused,
    several_parts,
    shorter,
    silent,
    sloppy,
    squeezed,
    status,
    trailed,
    trickling_head,
    unsatisfiable,
    whole,
    without_length,
    without_total,
)
from tests.faults.switchboard import Ask, Switchboard, Wrong, every, first, only, plain
from tests.support.world import World, content, last_line, machine, tree

# Uvloop would swallow what the other method raises in the middle of a run.
pytestmark = pytest.mark.timeout(60, method="thread")

DATA = content(8 << 20, 5)
SMALL = content(300_000, 6)
NAME = "model.safetensors"
TOKEN = "ms-secret-token"


RIGHT = [
    Case("ranges are ignored", plain(whole), number=1),
    Case("every second range is ignored", every(2, plain(whole)), number=2),
    Case("a range begins too high", first(2, moved(4096)), number=3),
    Case("a range begins too low", first(2, moved(-4096)), number=3),
    Case("206 without Content-Range", first(2, changed(Content_Range=None)), number=4),
    Case(
        "206 with an unreadable Content-Range",
        first(2, changed(Content_Range="bytes a-b/c")),
        number=4,
    ),
    Case(
        "206 with an unsatisfied Content-Range",
        first(2, changed(Content_Range="bytes */9")),
        number=4,
    ),
    Case("the unit of Content-Range is sloppy", plain(sloppy), number=5),
    Case("the total changes once", only(1, plain(other_total)), number=6),
    Case("the total is not stated", plain(without_total), number=7),
    Case("ranges are shorter than asked", plain(shorter), number=8),
    Case("ranges are longer than asked", plain(longer), number=9),
    Case("bodies are cut at half", first(3, cut), number=10),
    Case("bodies are reset after 256 KiB", first(3, broken), number=65),
    Case("connections are reset at once", first(3, refused), number=65),
    Case("connections are closed at once", first(3, hung_up), number=65),
    Case("no length, cut at half", first(3, without_length), number=11),
    Case("ranges in chunks", in_chunks, number=12),
    Case("ranges in chunks, cut within one", first(3, cut_chunks), number=12),
    Case("ranges in chunks with a trailer", trailed, number=(12, 58)),
    Case("HTTP/1.0 that lies about the connection", old_and_lying, number=58),
    Case("a multipart answer", first(2, plain(several_parts)), number=13),
    Case("416 for a range that exists", first(2, plain(unsatisfiable)), number=14),
    Case("replaced in the middle, then back", only(1, plain(other_version)), number=22),
    Case("no validator", changed(ETag=None), number=23),
    Case("a weak validator", changed(ETag='W/"x"'), number=23),
    Case("each edge has its own validator", plain(other_tags), number=23),
    Case("one byte is flipped", only(0, plain(flipped)), number=30),
    Case("a login page once", first(1, plain(page)), number=28),
    Case("429 with a pause", first(2, status(429, Retry_After="1")), number=36),
    Case(
        "429 with a date in the past",
        first(2, status(429, Retry_After="Mon, 01 Jan 2001 00:00:00 GMT")),
        number=37,
    ),
    Case("429 with nonsense", first(2, status(429, Retry_After="-5 soon")), number=37),
    *(
        Case(f"{code} three times", first(3, status(code)), number=38 if code >= 500 else 39)
        for code in (408, 425, 500, 502, 503, 504, 520, 527)
    ),
    Case("the signature has expired", first(1, status(403)), number=41),
    Case("the signature expires again and again", every(3, status(403)), number=41),
    Case("401 once in the middle", only(2, status(401)), number=40),
    Case("404 from one that lags", first(1, status(404)), number=44),
    Case("redirected elsewhere each time", plain(other_way), number=(50, 51)),
    Case("redirected to an address that is not quoted", plain(foreign_way), number=50),
    Case("redirected ten times in a row", hops(9), number=46),
    Case("compressed though nobody asked", first(2, plain(squeezed)), number=55),
    Case("informational answers before", early_hints, number=58),
    Case("an answer too many", first(2, babbling), number=59),
    Case("a header of 1 MB", first(2, more_head("X-Long: " + "a" * (1 << 20) + "\r\n")), number=57),
    Case("10,000 headers", first(2, more_head("X-Many: a\r\n" * 10_000)), number=57),
    Case("a header that goes on in the next line", more_head("X-A: b\r\n c\r\n"), number=57),
    Case("a header with a NUL in its name", first(2, more_head("X\0A: b\r\n")), number=57),
    Case("something that is not HTTP", first(2, no_http), number=57),
    Case("the head is cut", first(2, half_a_head), number=64),
    Case("a flood of cookies", changed(Set_Cookie="a=" + "b" * 4000 + "; Path=/"), number=54),
    Case("two lengths", first(2, more_head("Content-Length: 5\r\n")), number=57),
    Case("a length and chunks", first(2, more_head("Transfer-Encoding: chunked\r\n")), number=57),
    Case("one connection goes silent", only(1, silent), number=63),
    Case("one connection never answers", only(1, mute), number=63),
    Case("one connection crawls", only(1, crawling), number=62),
    Case("one head trickles", only(1, trickling_head), number=64),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[World]:
    """A hub with a large and a small file; their store is another origin and takes faults."""
    with machine(tmp_path) as world:
        world.extra["MODELSCOPE_API_TOKEN"] = TOKEN
        world.put("acme/one", {NAME: DATA})
        world.put("acme/small", {NAME: SMALL})
        yield world


def fault(world: World, wrong: Wrong, data: bytes = DATA) -> Switchboard:
    """Put a script in place."""
    board = Switchboard(data, f'"{hashlib.sha256(data).hexdigest()}"', wrong)
    world.hub.fault = board
    return board


def nothing_left_its_place(world: World) -> None:
    """No credential reached the store, no file lies outside of the target."""
    at_store = [seen for seen in world.hub.seen if seen.server == "cdn"]
    assert at_store
    assert not any(TOKEN in str(seen.headers) for seen in at_store)
    assert not any("Cookie" in seen.headers for seen in at_store)
    assert {path.name for path in world.work.iterdir()} <= {"m"}


def is_right(world: World, run: Run, case: Case, repo: str = "acme/one") -> None:
    """Download under a fault and compare."""
    data = SMALL if repo == "acme/small" else DATA
    board = fault(world, case.wrong, data)

    done = run(world, "download", repo, "--local-dir", "m")

    assert done.returncode == 0, done.stderr
    assert tree(world.work / "m") == {NAME: data}
    assert last_line(done.stdout) == str(world.work / "m")
    assert "has its SHA-256" in done.stderr
    assert board.given > 0
    nothing_left_its_place(world)


def is_refused(world: World, run: Run, case: Case, repo: str = "acme/one") -> None:
    """Download under a fault and look for its error."""
    world.extra["MODELHAUL_PATIENCE"] = "5"
    board = fault(world, case.wrong, SMALL if repo == "acme/small" else DATA)

    done = run(world, "download", repo, "--local-dir", "m")

    assert done.returncode == case.code, done.stderr
    assert case.says in done.stderr
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert done.stdout == ""
    assert not (world.work / "m" / NAME).exists()
    assert board.given > 0
    nothing_left_its_place(world)


@pytest.mark.parametrize(
    ("run", "case"), params(RIGHT, installed={"ranges are ignored", "one connection goes silent"})
)
def test_right_bytes_in_spite_of(store: World, run: Run, case: Case) -> None:
    """What the data can be had in spite of ends with the right bytes."""
    is_right(store, run, case)


# Those that mean something else for one answer without ranges, or on the other receive path.
ONE_ANSWER = {
    "bodies are cut at half",
    "bodies are reset after 256 KiB",
    "connections are reset at once",
    "no length, cut at half",
    "ranges in chunks",
    "ranges in chunks, cut within one",
    "one byte is flipped",
    "a login page once",
    "503 three times",
    "the signature has expired",
    "compressed though nobody asked",
    "an answer too many",
    "a length and chunks",
}
OTHER_PATH = ONE_ANSWER | {
    "ranges are ignored",
    "every second range is ignored",
    "a range begins too high",
    "ranges are shorter than asked",
    "ranges are longer than asked",
    "redirected elsewhere each time",
    "one connection goes silent",
    "one head trickles",
    "something that is not HTTP",
    "two lengths",
}


@pytest.mark.parametrize(
    ("run", "case"),
    params((case for case in RIGHT if case.name in ONE_ANSWER), of="small file: "),
)
def test_a_small_file_is_right_in_spite_of(store: World, run: Run, case: Case) -> None:
    """One request without a range, no journal: it begins again from byte 0."""
    is_right(store, run, case, "acme/small")


@pytest.mark.parametrize(
    ("run", "case"),
    params((case for case in RIGHT if case.name in OTHER_PATH), of="by aiohttp: "),
)
def test_the_path_for_proxies_is_right_in_spite_of(store: World, run: Run, case: Case) -> None:
    """What goes through aiohttp, as with a proxy, holds the same promises."""
    store.extra["MODELHAUL_FAST"] = "0"
    is_right(store, run, case)


REFUSED = [
    Case("the total is always another", plain(other_total), 7, "the hub says", number=6),
    Case("another version for ever", plain(other_version), 8, "SHA-256", number=27),
    Case("one byte is flipped for ever", plain(flipped), 8, "SHA-256", number=30),
    Case("a login page for ever", plain(page), 7, "web page", number=28),
    Case("a pointer in place of the file", plain(pointer), 7, "the hub says", number=32),
    Case("compressed for ever", plain(squeezed), 7, "encoding", number=55),
    Case("a bomb", plain(bomb), 7, "encoding", number=56),
    Case("416 for ever", plain(unsatisfiable), 7, "416", number=14),
    Case("403 for ever", status(403), 4, "403", number=42),
    Case("401 for ever", status(401), 4, "401", number=40),
    Case("402 for ever", status(402), 4, "402", number=45),
    Case("451 for ever", status(451), 4, "451", number=45),
    Case("404 for ever", status(404), 4, "404", number=43),
    Case("410 for ever", status(410), 4, "410", number=43),
    Case("400 for ever", status(400), 7, "400"),
    Case("204 for ever", status(204), 7, "204"),
    Case("no HTTP for ever", no_http, 7, "HTTP", number=57),
    Case("not a byte for ever", mute, 6, "no new byte", number=63),
    Case("a pause of ten years", status(429, Retry_After="315360000"), 5, "429", number=37),
    Case("a loop", plain(in_circles), 7, "redirect", number=46),
    Case("redirected eleven times in a row", hops(10), 7, "redirect", number=46),
    Case("redirected to a file", redirected("file:///etc/passwd"), 7, "redirect", number=49),
    Case("redirected to ftp", redirected("ftp://127.0.0.1/x"), 7, "redirect", number=49),
    Case("redirected to data", redirected("data:,x"), 7, "redirect", number=49),
    Case("redirected to a socket file", redirected("unix:///run/x"), 7, "redirect", number=49),
    Case("redirected nowhere", redirected(""), 7, "redirect", number=50),
    Case(
        "redirected by 8 KB",
        redirected("http://127.0.0.1:9/" + "a" * 8192),
        6,
        "127.0.0.1:9",
        number=50,
    ),
]


@pytest.mark.parametrize(
    ("run", "case"),
    params(REFUSED, installed={"another version for ever", "403 for ever", "a pause of ten years"}),
)
def test_a_clear_error_and_nothing_under_the_final_name(store: World, run: Run, case: Case) -> None:
    """What cannot be had ends with an error of its class, soon."""
    is_refused(store, run, case)


NEVER_ONE_ANSWER = {
    "one byte is flipped for ever",
    "a login page for ever",
    "a pointer in place of the file",
    "a bomb",
    "403 for ever",
    "a loop",
    "not a byte for ever",
}


@pytest.mark.parametrize(
    ("run", "case"),
    params((case for case in REFUSED if case.name in NEVER_ONE_ANSWER), of="small file: "),
)
def test_a_small_file_ends_in_a_clear_error(store: World, run: Run, case: Case) -> None:
    """The same errors where there is no journal."""
    is_refused(store, run, case, "acme/small")


@pytest.mark.fault(
    "a signed address refuses requests with credentials", "it never sees any", number=52
)
def test_a_signed_address_is_asked_without_credentials(store: World) -> None:
    """S3 and OSS answer 400 to a signature and an Authorization header together."""

    def strict(ask: Ask) -> web.StreamResponse | None:
        with_key = {"Authorization", "Cookie"} & set(ask.request.headers)
        return web.Response(status=400) if with_key else None

    board = fault(store, plain(strict))

    done = here(store, "download", "acme/one", "--local-dir", "m")

    assert done.returncode == 0, done.stderr
    assert tree(store.work / "m") == {NAME: DATA}
    assert board.asks > 0
    assert board.given == 0


@pytest.mark.fault(
    "a store answers 200 to every If-Range", "nobody sends one: the answer is judged", number=24
)
def test_no_request_has_a_condition(store: World) -> None:
    """Some stores know only dates there: validators of answers are compared instead."""
    board = fault(
        store, plain(lambda ask: whole(ask) if "If-Range" in ask.request.headers else None)
    )

    done = here(store, "download", "acme/one", "--local-dir", "m")

    assert done.returncode == 0, done.stderr
    assert tree(store.work / "m") == {NAME: DATA}
    assert board.asks > 0
    assert board.given == 0


GOOD = 3 << 20
FAILS_FOR_EVER = [
    Case("403 for ever", status(403), 4, "403", number=42),
    Case("404 for ever", status(404), 4, "404", number=43),
    Case("500 for ever", status(500), 6, "no new byte", number=38),
    Case("not a byte for ever", mute, 6, "no new byte", number=63),
    Case("closed at once for ever", hung_up, 6, "no new byte", number=65),
    Case("a login page for ever", plain(page), 7, "web page", number=28),
]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=case.name,
            marks=pytest.mark.fault(
                f"3 MiB arrive, then {case.name}",
                f"exit {case.code}; the next run asks for what is missing and nothing else",
                number=case.number,
            ),
        )
        for case in FAILS_FOR_EVER
    ],
)
def test_what_came_before_a_store_failed_is_kept(store: World, case: Case) -> None:
    """Every byte that was sent counts; the requests of the next run are exactly the gaps."""
    store.extra["MODELHAUL_PATIENCE"] = "3"
    board = fault(store, good_for(GOOD, case.wrong))

    failed = here(store, "download", "acme/one", "--local-dir", "m", "--connections", "2")
    (journal,) = (store.work / "m" / ".modelhaul").glob("*.journal")
    had = SpanSet(run.span for run in read_runs(journal)[1])
    under_name = (store.work / "m" / NAME).exists()
    store.hub.fault = lambda request: None
    before = len(store.hub.seen)
    again = here(store, "download", "acme/one", "--local-dir", "m", "--connections", "2")

    assert failed.returncode == case.code, failed.stderr
    assert case.says in failed.stderr
    assert board.given > 1
    assert not under_name
    assert had.total == GOOD
    assert again.returncode == 0, again.stderr
    assert tree(store.work / "m") == {NAME: DATA}
    asked = SpanSet(
        parse_range(seen.headers.get("Range"), len(DATA)) or Span(0, len(DATA))
        for seen in store.hub.seen[before:]
        if seen.server == "cdn"
    )
    assert asked == had.gaps(Span(0, len(DATA)))
