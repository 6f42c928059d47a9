"""Plain URLs: taken apart, asked what they hold, and put together where they hold the same."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.client import Client
from modelhaul.core.origin import origin_of, shown
from modelhaul.errors import (
    ConnectFailed,
    HaulError,
    NotFound,
    ProtocolError,
    QuotaError,
    TransportError,
    Unauthorized,
    UsageError,
)
from modelhaul.events import Event, Waiting
from modelhaul.hubs.url import Probe, file_name, group, parse_address, parse_header
from modelhaul.report import Report
from modelhaul.settings import Settings
from tests.support.inline import InlineThreads
from tests.support.network import Asked, FakeNetwork, Fault, Served
from tests.support.virtual import virtual

# -- addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url", "login"),
    [
        ("https://h.test/x", "https://h.test/x", None),
        ("https://me:word@h.test/x", "https://h.test/x", "me:word"),
        ("https://me:word@h.test:8443/x?a=b", "https://h.test:8443/x?a=b", "me:word"),
        ("https://me@h.test/x", "https://h.test/x", "me:"),
        ("https://:token@h.test/x", "https://h.test/x", ":token"),
        ("https://a%40b:p%3Aq%2Fr@h.test/x", "https://h.test/x", "a@b:p:q/r"),
        ("https://模:型@h.test/x", "https://h.test/x", "模:型"),
        ("https://me:word@[::1]:99/x", "https://[::1]:99/x", "me:word"),
        ("http://h.test/x#part", "http://h.test/x", None),
        ("http://h.test", "http://h.test", None),
    ],
)
def test_a_password_is_taken_out_of_the_url(text: str, url: str, login: str | None) -> None:
    """What is left can be printed; user and password become a header for this origin only."""
    address = parse_address(text, {})

    assert address.url == url
    assert address.origin == origin_of(url)
    if login is None:
        assert address.credentials == {}
    else:
        scheme, coded = address.credentials["Authorization"].split()
        assert (scheme, b64decode(coded).decode()) == ("Basic", login)


@pytest.mark.parametrize(
    "url",
    [
        "https://h.test/%7Ea/%2f//b/../c;p?sig=%2B+%2f&x=a=b&&y",
        "https://h.test/?Expires=1&Signature=aB%3d",
        "https://h.test/a?b?c/d",
    ],
)
def test_the_rest_of_a_url_is_left_alone(url: str) -> None:
    """A signature covers every character."""
    assert parse_address(url, {}).url == url


def test_an_explicit_header_wins_over_the_url() -> None:
    """What was said with --header was said on purpose."""
    address = parse_address("https://me:word@h.test/x", {"Authorization": "Bearer T", "X-Key": "k"})

    assert address.credentials == {"Authorization": "Bearer T", "X-Key": "k"}


def test_credentials_are_not_shown() -> None:
    """Neither a password nor a header value is part of a repr."""
    address = parse_address("https://me:TOPSECRET@h.test/x", {"X-Key": "TOPSECRET"})

    assert "TOPSECRET" not in repr(address)


@pytest.mark.parametrize(
    "text",
    [
        "h.test/x",
        "/x",
        "",
        "ftp://h.test/x",
        "file:///etc/passwd",
        "https:///x",
        "https://",
        "x:y",
        "http://h.test:99999/",
        "http://h.test:port/",
        "http://[::1/",
        'http://[::%0"]/',
        "https://me:\ud800@h.test/",
        "https://h.test/\ud800",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """Only http and https, with a host."""
    with pytest.raises(UsageError):
        parse_address(text, {})


def test_a_password_that_is_no_utf_8_is_sent_as_the_bytes_it_was_typed_in() -> None:
    """A command line holds bytes; those that are no text come as lone surrogates."""
    address = parse_address("https://me:\udcff@h.test/\udcff", {})

    assert b64decode(address.credentials["Authorization"].split()[1]) == b"me:\xff"
    assert address.url == "https://h.test/%FF"


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    """Nothing else happens, and an accepted address shows no user part."""
    try:
        address = parse_address(f"https://me:TOPSECRET@{text}", {})
    except UsageError:
        return

    assert "TOPSECRET" not in address.url
    assert "TOPSECRET" not in shown(address.url)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("Authorization: Bearer a:b", ("Authorization", "Bearer a:b")),
        ("X-Key:v", ("X-Key", "v")),
        ("  X_Key :  v w  ", ("X_Key", "v w")),
        ("Cookie: a=b; c=d", ("Cookie", "a=b; c=d")),
        ("X-Empty:", ("X-Empty", "")),
        ("X-Name: 模型", ("X-Name", "模型")),
    ],
)
def test_headers_are_name_and_value(text: str, pair: tuple[str, str]) -> None:
    """As curl takes them."""
    assert parse_header(text) == pair


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Authorization",
        ": v",
        "-: v",
        "A B: v",
        "Ä: v",
        "A\r\nB: v",
        "A: v\r\nB: w",
        "A: v\x00",
        "A: \x1b[31m",
        "Range: bytes=0-1",
        "host: evil.test",
        "ACCEPT-ENCODING: gzip",
        "Content-Length: 5",
        "Connection: close",
    ],
)
def test_headers_that_would_break_the_request_are_refused(text: str) -> None:
    """No second header inside a first, and none of those that the transport sets itself."""
    with pytest.raises(UsageError) as caught:
        parse_header(text)

    assert str(caught.value).isprintable()


def test_a_refused_header_is_not_shown() -> None:
    """It may be a key with a typing error."""
    with pytest.raises(UsageError) as caught:
        parse_header("TOPSECRET")

    assert "TOPSECRET" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h.test/a/w.bin?x=/y", "w.bin"),
        ("https://h.test/sub%20dir/a%20b%2Bc.bin", "a b+c.bin"),
        ("https://h.test/%E6%A8%A1%E5%9E%8B", "模型"),
        ("https://h.test/.hidden", ".hidden"),
        ("https://h.test/w.bin#part", "w.bin"),
    ],
)
def test_a_file_is_named_after_the_url(url: str, name: str) -> None:
    """The last part of the path, unquoted once."""
    assert file_name(url) == name


@pytest.mark.parametrize(
    "url",
    [
        "https://h.test",
        "https://h.test/",
        "https://h.test/a/?f=w.bin",
        "https://h.test/..",
        "https://h.test/%2e%2e",
        "https://h.test/.",
        "https://h.test/..%2f..%2fetc%2fpasswd",
        "https://h.test/a%5Cb",
        "https://h.test/a%00b",
        "https://h.test/a%0Ab",
        "https://h.test/%1B%5B31m",
    ],
)
def test_a_url_without_a_usable_name_needs_one(url: str) -> None:
    """No name that climbs, none that moves the cursor: -o PATH says where to write."""
    with pytest.raises(UsageError, match="no file name in") as caught:
        file_name(url)

    assert "-o" in str(caught.value.hint)
    assert str(caught.value).isprintable()


# -- which addresses hold the same -------------------------------------------------------------


def probe(host: str, size: int | None, validator: str | None = None) -> Probe:
    return Probe(parse_address(f"https://{host}.test/w", {}), size, validator)


def grouped(probes: list[Probe], sha256: str | None = None) -> list[tuple[list[str], object]]:
    return [
        ([source.origin.host.removesuffix(".test") for source in found.sources], found.file.size)
        for found in group("w", probes, sha256)
    ]


def test_with_a_digest_equal_sizes_are_mixed() -> None:
    """The digest judges the bytes; validators differ from server to server."""
    probes = [probe("a", 9, '"x"'), probe("b", 7), probe("c", 9, '"y"'), probe("d", None)]

    found = group("w", probes, "f" * 64)

    assert grouped(probes, "f" * 64) == [(["a", "c"], 9), (["b"], 7), (["d"], None)]
    assert {(entry.file.sha256, entry.file.validator) for entry in found} == {("f" * 64, None)}


def test_without_a_digest_size_and_strong_validator_must_be_equal() -> None:
    """All others begin at byte 0 on their own."""
    probes = [
        probe("a", 9, '"x"'),
        probe("b", 9, '"y"'),
        probe("c", 9, '"x"'),
        probe("d", 8, '"x"'),
        probe("e", 9),
        probe("f", 9),
        probe("g", None, '"x"'),
        probe("h", None, '"x"'),
    ]

    found = grouped(probes)

    assert found[0] == (["a", "c"], 9)
    assert [hosts for hosts, _ in found[1:]] == [["b"], ["d"], ["e"], ["f"], ["g"], ["h"]]


def test_groups_are_tried_in_the_order_they_were_named() -> None:
    """The first address is what the user meant."""
    probes = [probe("a", None), probe("b", 9, '"x"'), probe("c", 9, '"x"')]

    assert grouped(probes) == [(["a"], None), (["b", "c"], 9)]


# -- asking the addresses ----------------------------------------------------------------------

DATA = bytes(range(256)) * 12_000
TAG = {"etag": '"v1"'}


@dataclass
class Got:
    """What a `get` did: report or error, events, and the file."""

    report: Report | None
    error: HaulError | None
    events: list[Event]
    path: Path

    @property
    def content(self) -> bytes:
        assert self.error is None, self.error
        return self.path.read_bytes()


@pytest.fixture
def get(tmp_path: Path) -> Callable[..., Got]:
    """Runs `Client.get` in virtual time."""
    settings = Settings(state_dir=tmp_path / "state")

    def run(network: FakeNetwork, *urls: str, **more: object) -> Got:
        got = Got(None, None, [], tmp_path / "out")

        async def main() -> None:
            async with Client(settings, transport=network, threads=InlineThreads()) as client:
                try:
                    got.report = await client.get(
                        *urls, path=got.path, on_event=got.events.append, **more
                    )
                except HaulError as error:
                    got.error = error

        virtual(main)
        return got

    return run


def when(host: str, **fault: object) -> Callable[[Asked], Fault | None]:
    """A fault for every request to one host."""
    return lambda asked: Fault(**fault) if asked.url.startswith(f"https://{host}.") else None


def test_one_byte_is_asked_for_first(get: Callable[..., Got]) -> None:
    """HEAD is refused or lies too often: a real range says what the server can do."""
    network = FakeNetwork({"https://a.test/w": Served(DATA, headers=TAG)})

    got = get(network, "https://a.test/w")

    assert got.content == DATA
    assert (network.asked[0].span.start, network.asked[0].span.stop) == (0, 1)
    assert not network.asked[0].whole


def test_a_server_without_ranges_serves_too(get: Callable[..., Got]) -> None:
    """It answers 200 with everything: size and validator are taken from there."""
    network = FakeNetwork(
        {"https://a.test/w": Served(DATA, headers=TAG)}, when("a", ignore_range=True)
    )

    got = get(network, "https://a.test/w")

    assert got.content == DATA


@pytest.mark.parametrize(
    "fault",
    [{"status": 416, "headers": {"content-range": "bytes */0"}}, {"ignore_range": True}],
    ids=["416", "200"],
)
def test_an_empty_file_is_a_file(get: Callable[..., Got], fault: dict[str, object]) -> None:
    """No byte can be asked for, and none is missing."""
    network = FakeNetwork({"https://a.test/w": Served(b"", headers=TAG)}, when("a", **fault))

    got = get(network, "https://a.test/w")

    assert got.content == b""
    assert got.report is not None
    assert got.report.files[0].sha256 == hashlib.sha256(b"").hexdigest()


def _ways(*urls: str) -> Mapping[str, Served]:
    """Each URL redirects to the next; the last one serves."""
    found = {
        url: Served(redirect=lambda _, target=target: target) for url, target in pairwise(urls)
    }
    return {**found, urls[-1]: Served(DATA, headers=TAG)}


def test_redirects_are_followed_without_the_users_headers(get: Callable[..., Got]) -> None:
    """Headers belong to the first URL's origin; coming back there they are sent again."""
    way = ["https://a.test/w", "https://a.test/x", "https://cdn.test/y", "https://a.test/z"]
    network = FakeNetwork(_ways(*way))

    got = get(network, way[0], headers={"X-Key": "k"})

    assert got.content == DATA
    seen = {asked.url: asked.headers.get("X-Key") for asked in network.asked}
    assert seen == {way[0]: "k", way[1]: "k", way[2]: None, way[3]: "k"}


def test_a_password_in_the_url_stays_at_its_origin(get: Callable[..., Got]) -> None:
    """Mirrors and redirect targets elsewhere never see it; it is in no event."""
    network = FakeNetwork(
        {
            **_ways("https://a.test/w", "https://cdn.test/w"),
            "https://b.test/w": Served(DATA, headers=TAG),
        }
    )

    got = get(network, "https://me:TOPSECRET@a.test/w", "https://b.test/w")

    assert got.content == DATA
    seen = {asked.url: "Authorization" in asked.headers for asked in network.asked}
    assert seen == {
        "https://a.test/w": True,
        "https://cdn.test/w": False,
        "https://b.test/w": False,
    }
    assert "TOPSECRET" not in f"{got.events} {got.report}"


def test_headers_are_for_every_address_of_the_first_origin(get: Callable[..., Got]) -> None:
    """A mirror on the same server needs the same key; one elsewhere does not get it."""
    urls = ["https://a.test/w", "https://a.test/copy", "https://a.test:8443/w", "https://b.test/w"]
    network = FakeNetwork({url: Served(DATA, headers=TAG) for url in urls})

    got = get(network, *urls, headers={"X-Key": "k"})

    assert got.content == DATA
    seen = {asked.url: asked.headers.get("X-Key") for asked in network.asked}
    assert seen == dict(zip(urls, ["k", "k", None, None], strict=True))


def test_a_redirect_loop_ends(get: Callable[..., Got]) -> None:
    """Ten hops, one attempt."""
    network = FakeNetwork(
        {"https://a.test/w?sig=SECRET": Served(redirect=lambda _: "https://a.test/w?sig=SECRET")}
    )

    got = get(network, "https://a.test/w?sig=SECRET")

    assert isinstance(got.error, ProtocolError)
    assert got.error.message == "https://a.test/w redirects more than 10 times"
    assert len(network.asked) == 11


def test_a_mirror_that_says_no_is_dropped_with_a_note(get: Callable[..., Got]) -> None:
    """One that cannot be read is said so, and the others serve."""
    network = FakeNetwork(
        {url: Served(DATA, headers=TAG) for url in ("https://a.test/w", "https://b.test/w")},
        when("a", status=404),
    )

    got = get(network, "https://a.test/w", "https://b.test/w")

    assert got.content == DATA
    assert got.report is not None
    assert got.report.notes == ("not used: https://a.test/w answers 404",)
    assert got.report.files[0].sources == ("https://b.test",)


def test_a_dead_mirror_holds_nobody_up(get: Callable[..., Got]) -> None:
    """One that cannot be reached is said so after a second, and the others serve."""
    network = FakeNetwork(
        {url: Served(DATA, headers=TAG) for url in ("https://a.test/w", "https://b.test/w")},
        when("a", error=ConnectFailed("no connection to https://a.test/w")),
    )

    got = get(network, "https://a.test/w", "https://b.test/w")

    assert got.content == DATA
    assert got.report is not None
    assert got.report.notes == (
        "https://a.test has not answered yet: it joins if it does",
        "source https://a.test was of no use: no connection to https://a.test/w",
    )
    assert got.report.files[0].sources == ("https://b.test",)


@pytest.mark.parametrize(
    ("fault", "kind", "asked"),
    [
        pytest.param({"status": 404}, NotFound, 1, id="missing"),
        pytest.param({"status": 410}, NotFound, 1, id="gone"),
        pytest.param({"status": 401}, Unauthorized, 1, id="unauthorized"),
        pytest.param({"status": 403}, Unauthorized, 1, id="forbidden"),
        pytest.param(
            {"status": 429, "headers": {"retry-after": "4000"}}, QuotaError, 1, id="quota"
        ),
        pytest.param({"status": 503}, QuotaError, 5, id="overloaded"),
        pytest.param({"error": TransportError("lost")}, TransportError, 5, id="lost"),
        pytest.param({"status": 206}, ProtocolError, 1, id="nonsense"),
    ],
)
def test_if_no_address_can_be_read_the_first_ones_error_is_the_reason(
    get: Callable[..., Got], fault: dict[str, object], kind: type[HaulError], asked: int
) -> None:
    """What may pass is tried again, what will not is final; nothing is written."""
    network = FakeNetwork(
        {"https://a.test/w": Served(DATA)},
        lambda seen: Fault(**fault) if "a.test" in seen.url else Fault(status=404),
    )

    got = get(network, "https://a.test/w?sig=SECRET", "https://b.test/w")

    assert isinstance(got.error, kind)
    assert "SECRET" not in f"{got.error} {got.events}"
    assert len([seen for seen in network.asked if "a.test" in seen.url]) == asked
    assert not got.path.exists()


def test_waiting_for_an_address_is_told(get: Callable[..., Got]) -> None:
    """Retry-After of the only address is obeyed, and a listener hears of it."""
    limited = Fault(status=429, headers={"retry-after": "20"})
    network = FakeNetwork(
        {"https://a.test/w": Served(DATA, headers=TAG)},
        lambda asked: limited if asked.number == 0 else None,
    )

    got = get(network, "https://a.test/w")

    assert got.content == DATA
    assert network.asked[1].time - network.asked[0].time >= 20
    assert Waiting(reason="https://a.test/w answers 429", seconds=20.0) in got.events


def test_mirrors_that_disagree_are_not_mixed(get: Callable[..., Got]) -> None:
    """Without a digest an address with another validator is only a fall-back."""
    other = bytes(reversed(DATA))
    network = FakeNetwork(
        {
            "https://a.test/w": Served(DATA, headers=TAG),
            "https://b.test/w": Served(other, headers={"etag": '"v2"'}),
        }
    )

    got = get(network, "https://a.test/w", "https://b.test/w")

    assert got.content == DATA
    assert got.report is not None
    assert not got.report.verified
    assert got.report.files[0].sources == ("https://a.test",)
    assert any("do not state the same file" in note for note in got.report.notes)


def test_with_a_digest_a_wrong_first_address_is_overcome(get: Callable[..., Got]) -> None:
    """A login page at the first address has another size; the next group has the file."""
    network = FakeNetwork(
        {
            "https://a.test/w": Served(b"<html>sign in</html>"),
            "https://b.test/w": Served(DATA),
            "https://c.test/w": Served(DATA),
        }
    )

    got = get(
        network,
        "https://a.test/w",
        "https://b.test/w",
        "https://c.test/w",
        sha256="SHA256:".lower() + hashlib.sha256(DATA).hexdigest().upper(),
    )

    assert got.content == DATA
    assert got.report is not None
    assert got.report.verified


@pytest.mark.parametrize("digest", ["", "abc", "f" * 63, "g" * 64, "sha256:", "f" * 65])
def test_a_digest_that_is_none_is_refused(get: Callable[..., Got], digest: str) -> None:
    """Before anything is asked."""
    network = FakeNetwork({})

    got = get(network, "https://a.test/w", sha256=digest)

    assert isinstance(got.error, UsageError)
    assert network.asked == []


def test_one_bad_address_refuses_all(get: Callable[..., Got]) -> None:
    """A typing error in a mirror is said before anything is asked."""
    network = FakeNetwork({"https://a.test/w": Served(DATA)})

    got = get(network, "https://a.test/w", "b.test/w")

    assert isinstance(got.error, UsageError)
    assert network.asked == []
