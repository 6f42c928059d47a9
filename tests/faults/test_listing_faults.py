"""What the hub's own answers can do to a download: descriptions, listings, many files at once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.faults.cases import RIGHT_BYTES, here
from tests.support.world import World, content, last_line, machine, tree

# Uvloop would swallow what the other method raises in the middle of a run.
pytestmark = pytest.mark.timeout(60, method="thread")

FILES = {
    "config.json": b'{"model_type": "tiny"}\n',
    "empty.txt": b"",
    "model.safetensors": content(2_000_003, 9),
    "tokenizer.json": content(300_000, 10),
}
LIST = "/api/v1/models/acme/one/repo/files"
PAGES = "/api/v1/datasets/acme/one/repo/tree"
TOKEN = "ms-listing-token"

Make = Callable[[web.Request], web.StreamResponse | None]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[World]:
    """A hub with a model and a dataset of four files each."""
    with machine(tmp_path) as world:
        world.extra["MODELSCOPE_API_TOKEN"] = TOKEN
        world.put("acme/one", FILES)
        world.put("datasets/acme/one", FILES)
        yield world


class Fault:
    """Wrong answers at one path of the hub.

    Attributes:
        given: how many there were.
    """

    def __init__(self, world: World, path: str, make: Make, times: int = 1 << 30) -> None:
        self.given = 0
        self._path = path
        self._make = make
        self._times = times
        world.hub.fault = self

    def __call__(self, request: web.Request) -> web.StreamResponse | None:
        """Answer at that path; elsewhere the hub does."""
        if not request.path.endswith(self._path) or self.given >= self._times:
            return None
        answer = self._make(request)
        self.given += answer is not None
        return answer


def envelope(data: object, **more: object) -> web.Response:
    """A successful answer of the hub."""
    return web.json_response({"Code": 200, "Success": True, "Data": data, **more})


def listing(*rows: object) -> Make:
    """A listing with these rows."""
    return lambda request: envelope({"Files": list(rows)})


def row(path: str = "a.bin", **fields: object) -> dict[str, object]:
    """A row of a listing."""
    return {"Path": path, "Type": "blob", "Size": 3, "Sha256": "0" * 64, **fields}


def raw(
    body: bytes | str, status: int = 200, kind: str = "application/json", **headers: str
) -> Make:
    """An answer of these bytes."""
    data = body.encode() if isinstance(body, str) else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: web.Response(
        body=data, status=status, headers={"Content-Type": kind, **named}
    )


LONG_AGO = "Mon, 01 Jan 2001 00:00:00 GMT"
PAGE = "<html><title>Sign in to Hotel WiFi</title></html>"


def broken(name: str, make: Make, code: int, says: str, number: object = 33) -> Any:
    """A listing that is an error."""
    promise = f'exit {code}, "{says}", no file'
    marks = pytest.mark.fault(f"listing: {name}", promise, number=number)
    return pytest.param(make, code, says, id=name, marks=marks)


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        broken("a login page with 200", raw(PAGE, kind="text/html"), 7, "not JSON", 29),
        broken("a page with 404", raw(PAGE, 404, "text/html"), 4, "no files", 43),
        broken("cut JSON", raw(json.dumps({"Data": {"Files": [row()]}})[:-9]), 7, "not JSON", 102),
        broken("a list at the top", raw("[]"), 7, "not JSON", 102),
        broken("100,000 brackets", raw("[" * 100_000), 7, "not JSON", 102),
        broken("not UTF-8", raw(b'{"Data": "\xff\xfe'), 7, "not JSON", 102),
        broken("files that are no list", raw('{"Data": {"Files": "no"}}'), 7, "not a list", 102),
        broken("a row that is a number", listing(row(), 5), 7, "without a path", 104),
        broken("a row without a path", listing(row("")), 7, "without a path", 104),
        broken("a size below zero", listing(row(Size=-1)), 7, "impossible size", 104),
        broken("a size of 10^30", listing(row(Size=10**30)), 7, "impossible size", 104),
        broken("a size that is text", listing(row(Size="3")), 7, "impossible size", 104),
        broken("a path twice, differently", listing(row(), row(Size=4)), 7, "twice", 102),
        broken(
            "half of a surrogate", raw('{"Data":{"Files":[{"Path":"\\ud800"}]}}'), 7, "Unicode", 99
        ),
        broken("401", raw("{}", 401), 4, "token", 40),
        broken("403", raw("{}", 403), 4, "token", 42),
        broken("451", raw("{}", 451), 7, "451", 45),
        broken("503 for ever", raw("", 503, Retry_After="0"), 5, "503", 38),
        broken("500 for ever", raw("", 500, Retry_After="0"), 7, "500", 38),
        broken("a pause of ten years", raw("", 429, Retry_After="315360000"), 5, "429", 37),
        broken("a loop", raw("", 302, Location=f"{LIST}?again"), 7, "redirect", 46),
        broken(
            "redirected to a file", raw("", 302, Location="file:///etc/passwd"), 7, "redirect", 49
        ),
        broken("another coding", raw(b"x" * 9, Content_Encoding="br"), 7, "br encoding", 55),
        broken(
            "a damaged gzip body", raw(b"x" * 9, Content_Encoding="gzip"), 7, "damaged gzip", 55
        ),
    ],
)
def test_a_listing_that_cannot_be_believed(hub: World, make: Make, code: int, says: str) -> None:
    """A typed error, and nothing is written."""
    fault = Fault(hub, LIST, make)

    done = here(hub, "download", "acme/one", "--local-dir", "m")

    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert done.stdout == ""
    assert fault.given > 0
    assert not (hub.work / "m").exists() or tree(hub.work / "m") == {}
    assert TOKEN not in done.stderr


@pytest.mark.torture
@pytest.mark.fault("listing: 300 kB that unpack to 300 MB", 'exit 7, "sends more than"', number=56)
def test_a_bomb_in_a_listing_is_not_unpacked(hub: World) -> None:
    """300 MB of blanks in 300 kB: refused at the limit of what a listing may be."""
    bomb = gzip.compress(b" " * (300 << 20), 1)
    fault = Fault(hub, LIST, raw(bomb, Content_Encoding="gzip"))

    done = here(hub, "download", "acme/one", "--local-dir", "m")

    assert done.returncode == 7, done.stderr
    assert "sends more than" in done.stderr
    assert fault.given > 0


def mended(name: str, make: Make, times: int, number: object) -> Any:
    """A hub in trouble for a while."""
    marks = pytest.mark.fault(f"listing: {name}", RIGHT_BYTES, number=number)
    return pytest.param(make, times, id=name, marks=marks)


@pytest.mark.parametrize(
    ("make", "times"),
    [
        mended("503 twice", raw("", 503, Retry_After="0"), 2, 38),
        mended("408 twice", raw("", 408, Retry_After="0"), 2, 39),
        mended("429 with a date in the past", raw("", 429, Retry_After=LONG_AGO), 2, 37),
        mended("nothing by commit, by name it is there", raw("{}", 404), 1, 44),
    ],
)  # fmt: skip
def test_a_hub_that_recovers_is_asked_again(hub: World, make: Make, times: int) -> None:
    """Trouble of the server is no trouble of the user."""
    fault = Fault(hub, LIST, make, times)

    done = here(hub, "download", "acme/one", "--local-dir", "m")

    assert done.returncode == 0, done.stderr
    assert tree(hub.work / "m") == FILES
    assert fault.given == times


@pytest.mark.fault(
    "a captive portal answers everything with its page", "exit 7, soon, no storm", number=29
)
def test_a_captive_portal_is_named(hub: World) -> None:
    """A handful of requests, no retries: a page will not turn into a listing."""
    fault = Fault(hub, "", raw(PAGE, kind="text/html"))

    done = here(hub, "download", "acme/one", "--local-dir", "m")

    assert done.returncode == 7, done.stderr
    assert "does no proxy put a page in between" in done.stderr
    assert 0 < fault.given <= 5
    assert not (hub.work / "m").exists()


@pytest.mark.fault(
    "the hub redirects a listing to another origin", "no token is sent there", number=47
)
def test_a_token_does_not_follow_a_listing_elsewhere(hub: World) -> None:
    """The other port gets no header and no cookie that says who we are."""
    fault = Fault(hub, LIST, lambda request: web.Response(
        status=302, headers={"Location": f"{hub.hub.cdn}/elsewhere"}
    ))  # fmt: skip

    done = here(hub, "download", "acme/one", "--local-dir", "m")

    elsewhere = [seen for seen in hub.hub.seen if seen.server == "cdn"]
    assert done.returncode == 4, done.stderr
    assert fault.given > 0
    assert elsewhere
    assert not any({"Authorization", "Cookie"} & set(seen.headers) for seen in elsewhere)


# -- what the listing says of the files --------------------------------------------------------


@pytest.mark.fault(
    "the listing states another digest than any source has", "exit 8, it says so", number=33
)
def test_a_digest_that_nobody_has(hub: World) -> None:
    """Both digests are named, and nothing is left under the name."""
    stated = "0" * 64
    size = len(FILES["model.safetensors"])
    fault = Fault(hub, LIST, listing(row("model.safetensors", Size=size, Sha256=stated)))

    done = here(hub, "download", "acme/one", "--local-dir", "m")

    assert done.returncode == 8, done.stderr
    assert f"should be {stated}" in done.stderr
    assert "source and listing disagree" in done.stderr
    assert fault.given > 0
    assert tree(hub.work / "m") == {}


@pytest.mark.parametrize("digest", ["", None, "0" * 40, 7])
@pytest.mark.fault("the listing states no digest", "size and validator hold; said so", number=34)
def test_a_listing_without_digests(hub: World, digest: object) -> None:
    """The bytes are right, and nobody is told that they were proven by a digest."""
    rows = [row(path, Size=len(data), Sha256=digest) for path, data in FILES.items()]
    fault = Fault(hub, LIST, listing(*rows))

    done = here(hub, "download", "acme/one", "--local-dir", "m")

    assert done.returncode == 0, done.stderr
    assert tree(hub.work / "m") == FILES
    assert "has its SHA-256" not in done.stderr
    assert fault.given > 0


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.fault("the listing states another size than the store has", "exit 7", number=18)
def test_a_size_that_nobody_has(hub: World, by: int) -> None:
    """Neither cut nor filled up: refused before the first byte."""
    size = len(FILES["model.safetensors"]) + by
    fault = Fault(hub, LIST, listing(row("model.safetensors", Size=size)))

    done = here(hub, "download", "acme/one", "--local-dir", "m")

    assert done.returncode == 7, done.stderr
    assert "the hub says" in done.stderr
    assert fault.given > 0
    assert not (hub.work / "m" / "model.safetensors").exists()


@pytest.mark.fault("one file of many is gone", "exit 3, it is named, the others stand", number=43)
def test_one_missing_file_does_not_cost_the_others(hub: World) -> None:
    """Listed and not there: the report says which."""
    rows = [row(path, Size=len(data), Sha256=None) for path, data in FILES.items()]
    fault = Fault(hub, LIST, listing(*rows, row("gone.bin")))

    done = here(hub, "download", "acme/one", "--local-dir", "m")

    assert done.returncode == 3, done.stderr
    assert "failed: gone.bin" in done.stderr
    assert tree(hub.work / "m") == FILES
    assert fault.given > 0


@pytest.mark.fault(
    "the repository changes between its commit and its listing",
    "files of one commit only",
    number=(35, 103),
)
def test_files_of_two_commits_are_never_mixed(hub: World) -> None:
    """The listing is that of the commit or, if the commit is gone, of the branch as it is now."""
    old = "a" * 40
    commits = Fault(hub, "/commits", lambda request: envelope({"Commit": [{"Id": old}]}))

    done = here(hub, "download", "acme/one", "--local-dir", "m")

    asked = [seen.query.get("Revision") for seen in hub.hub.seen if seen.path == LIST]
    assert done.returncode == 0, done.stderr
    assert tree(hub.work / "m") == FILES
    assert commits.given > 0
    assert asked == [old, "master"]
    assert {seen.query["Revision"] for seen in hub.hub.files_asked() if seen.server == "hub"} == {
        "master"
    }


# -- listings by pages -----------------------------------------------------------------------------


def paged(name: str, make: Make, code: int, says: str) -> Any:
    """A listing of a dataset that goes wrong."""
    promise = RIGHT_BYTES if code == 0 else f'exit {code}, "{says}"'
    marks = pytest.mark.fault(f"pages: {name}", promise, number=102)
    return pytest.param(make, code, says, id=name, marks=marks)


def rows_of(request: web.Request) -> list[dict[str, object]]:
    """Four rows, whatever page was asked for."""
    return [row(path, Size=len(data), Sha256=None) for path, data in FILES.items()]


def missing_page(request: web.Request) -> web.StreamResponse:
    """The first page is there, the next is an error."""
    if request.query["PageNumber"] == "1":
        return envelope({"Files": rows_of(request), "TotalCount": 8})
    return web.json_response({"Code": 500, "Success": False, "Message": "no such page"})


def empty_page(request: web.Request) -> web.StreamResponse:
    """The first page is there, the next has no list."""
    first = request.query["PageNumber"] == "1"
    return envelope({"Files": rows_of(request) if first else None, "TotalCount": 8})


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        paged("the same page again and again",
              lambda request: envelope({"Files": rows_of(request)}), 0, ""),
        paged("again and again, and a total that is never reached",
              lambda request: envelope({"Files": rows_of(request), "TotalCount": 9}),
              7, "the server says 9"),
        paged("a page that fails", missing_page, 7, "no such page"),
        paged("a page without a list", empty_page, 7, "page 2 of the listing is missing"),
    ],
)  # fmt: skip
def test_pages_of_a_listing(hub: World, make: Make, code: int, says: str) -> None:
    """An incomplete listing is an error, not a smaller dataset."""
    fault = Fault(hub, PAGES, make)

    done = here(hub, "download", "--dataset", "acme/one", "--local-dir", "m")

    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert fault.given > 0
    if code == 0:
        assert tree(hub.work / "m") == FILES
        assert last_line(done.stdout) == str(hub.work / "m")
    else:
        assert not (hub.work / "m").exists()
