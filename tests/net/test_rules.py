"""Which heads are answers to which requests: section 8.1 of the list of hostile servers, as tables.

Headers come in with lower-case names, as the transport hands them over.
"""

from __future__ import annotations

import string
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.core.span import Span
from modelhaul.errors import HaulError, ProtocolError, RangeIgnored, StatusError
from modelhaul.net import rules
from modelhaul.net.transport import Answer, Redirect, Request
from tests.support.properties import thorough

URL = "https://hub.test/repo/w.bin?auth_key=SECRET"
NOW = 1_700_000_000.0
DATE = formatdate(NOW, usegmt=True)


def asked(
    start: int = 100,
    stop: int = 200,
    *,
    size: int | None = 1000,
    whole: bool = False,
    validator: str | None = None,
) -> Request:
    return Request(url=URL, span=Span(start, stop), size=size, whole=whole, validator=validator)


def judged(request: Request, status: int, **headers: str) -> Answer | Redirect:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return rules.judge(request, status, fields, now=NOW)


# -- names -------------------------------------------------------------------------------------


def test_repeated_lists_are_one_and_of_all_else_the_first_line_counts() -> None:
    """RFC 9110 section 5.3: a proxy may add lines of its own, before or behind those of the hub."""
    lines = [
        ("Link", "</a.css>; rel=preload"),
        ("ETag", '"1"'),
        ("Location", "https://hub.test/a"),
        ("RateLimit", '"api";r=9;t=1'),
        ("link", '<https://hub.test/x?cursor=a>; rel="next"'),
        ("RATELIMIT", '"resolvers";r=0;t=55'),
        ("etag", '"2"'),
        ("location", "https://hub.test/b"),
        ("Content-Range", "bytes 0-1/2"),
        ("Content-Range", "bytes 0-1/3"),
        ("Retry-After", "5"),
        ("Retry-After", "50"),
    ]

    assert rules.by_name(lines) == {
        "link": '</a.css>; rel=preload, <https://hub.test/x?cursor=a>; rel="next"',
        "ratelimit": '"api";r=9;t=1, "resolvers";r=0;t=55',
        "etag": '"1"',
        "location": "https://hub.test/a",
        "content-range": "bytes 0-1/2",
        "retry-after": "5",
    }


# -- ranges ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "content_range", "stop", "size"),
    [
        pytest.param(206, "bytes 100-199/1000", 200, 1000, id="exact"),
        pytest.param(206, "bytes 100-199/*", 200, None, id="total-unknown"),
        pytest.param(206, "bytes 100-149/1000", 150, 1000, id="shorter"),
        pytest.param(206, "bytes 100-999/1000", 1000, 1000, id="longer"),
        pytest.param(200, "bytes 100-199/1000", 200, 1000, id="200-with-exactly-the-range"),
        pytest.param(206, "bytes=100-199/1000", 200, 1000, id="equals-sign"),
        pytest.param(206, "bytes100-199/1000", 200, 1000, id="no-blank"),
        pytest.param(206, " BYTES 100-199/1000 ", 200, 1000, id="case-and-blanks"),
    ],
)
def test_a_range_that_begins_where_asked_is_an_answer(
    status: int, content_range: str, stop: int, size: int | None
) -> None:
    """Content-Range decides, not the status; the body may end early or late but not begin so."""
    request = asked()

    answer = judged(request, status, content_range=content_range, content_length=str(stop - 100))

    assert answer == Answer(
        start=100, stop=stop, size=size, validator=None, ranged=True, framed=True
    )


@pytest.mark.parametrize("start", [0, 99, 101])
@pytest.mark.parametrize(("status", "says"), [(206, "bytes from {}"), (200, "another range")])
def test_a_range_that_begins_elsewhere_is_refused(status: int, says: str, start: int) -> None:
    """One byte off, or aligned to somebody's blocks: no byte of it is used."""
    with pytest.raises(ProtocolError, match=says.format(start)):
        judged(asked(), status, content_range=f"bytes {start}-199/1000")


@pytest.mark.parametrize(
    ("content_range", "says"),
    [
        pytest.param("bytes 100-199/1001", "1001 bytes", id="other-total"),
        pytest.param("bytes */1000", "unreadable", id="no-range-in-it"),
        pytest.param("bytes 199-100/1000", "unreadable", id="backwards"),
        pytest.param("bytes 100-1000/1000", "unreadable", id="last-byte-behind-the-total"),
        pytest.param("bytes 100-199", "unreadable", id="no-total"),
        pytest.param("items 100-199/1000", "unreadable", id="other-unit"),
        pytest.param("bytes -100-199/1000", "unreadable", id="negative"),
        pytest.param("bytes 100-199/-1", "unreadable", id="negative-total"),
        pytest.param("bytes 1e2-199/1000", "unreadable", id="not-digits"),
        pytest.param("bytes 100-" + "9" * 30 + "/*", "unreadable", id="absurdly-large"),
        pytest.param("", "unreadable", id="empty"),
    ],
)
@pytest.mark.parametrize("status", [200, 206])
def test_a_range_that_cannot_be_right_is_refused(
    status: int, content_range: str, says: str
) -> None:
    """Another total, or a Content-Range that cannot be read ends the request."""
    request = asked()

    with pytest.raises(ProtocolError, match=says) as caught:
        judged(request, status, content_range=content_range)

    assert "SECRET" not in str(caught.value)


def test_206_without_a_content_range_is_refused() -> None:
    """Without Content-Range nobody knows which bytes these are."""
    with pytest.raises(ProtocolError, match="without saying which range"):
        judged(asked(), 206, content_length="100")


def test_a_length_that_contradicts_the_range_is_refused() -> None:
    """Content-Length and Content-Range must agree: one of them is a lie."""
    with pytest.raises(ProtocolError, match="length of 99 for 100 bytes"):
        judged(asked(), 206, content_range="bytes 100-199/1000", content_length="99")


def test_chunked_transfer_of_a_range_needs_no_length() -> None:
    """With chunks the length is counted; a Content-Length beside them says nothing."""
    answer = judged(asked(), 206, content_range="bytes 100-199/1000", transfer_encoding="chunked")

    assert isinstance(answer, Answer)
    assert (answer.start, answer.stop, answer.framed) == (100, 200, True)


@pytest.mark.parametrize("length", ["ten", "-1", "1,2", "0x10", "", "9" * 25, "\x1d7", "٣"])
def test_an_unreadable_length_is_refused(length: str) -> None:
    """A Content-Length that is no number is not guessed at."""
    with pytest.raises(ProtocolError, match="unreadable Content-Length"):
        judged(asked(), 206, content_range="bytes 100-199/1000", content_length=length)


def test_multipart_is_refused() -> None:
    """A single range was asked for; a multipart body holds other bytes between its parts."""
    with pytest.raises(ProtocolError, match="multipart"):
        judged(asked(), 206, content_type="Multipart/Byteranges; boundary=x")


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "GZIP", "identity, gzip"])
@pytest.mark.parametrize("status", [200, 206])
def test_a_compressed_body_is_refused(status: int, coding: str) -> None:
    """Compressed bytes are not bytes of the file."""
    request = asked(0, 1000)

    with pytest.raises(ProtocolError, match="encoding, which nobody asked for"):
        judged(request, status, content_encoding=coding, content_range="bytes 0-999/1000")


@pytest.mark.parametrize("coding", ["identity", "Identity", " ", ""])
def test_an_empty_coding_is_none(coding: str) -> None:
    """Servers that name `identity`, or nothing, send plain bytes."""
    answer = judged(asked(), 206, content_encoding=coding, content_range="bytes 100-199/1000")

    assert isinstance(answer, Answer)


# -- whole bodies ------------------------------------------------------------------------------


def test_a_whole_body_for_the_whole_span_is_an_answer() -> None:
    """A range over everything may be answered 200: every byte is at its place."""
    answer = judged(asked(0, 1000), 200, content_length="1000")

    assert answer == Answer(
        start=0, stop=1000, size=1000, validator=None, ranged=False, framed=True
    )


def test_a_whole_body_for_a_part_says_what_it_saw() -> None:
    """A server without ranges is reported as such, with the size and validator it states."""
    with pytest.raises(RangeIgnored) as caught:
        judged(asked(), 200, content_length="1000", etag='"v1"')

    assert (caught.value.size, caught.value.validator) == (1000, '"v1"')
    assert "SECRET" not in str(caught.value)


def test_a_whole_body_without_length_for_a_part_has_no_size() -> None:
    """Where the server does not say, no size is made up."""
    with pytest.raises(RangeIgnored) as caught:
        judged(asked(0, 1, size=None), 200, transfer_encoding="chunked", content_length="7")

    assert (caught.value.size, caught.value.validator) == (None, None)


def test_a_whole_request_takes_a_whole_body() -> None:
    """Asked without a range, the body begins at byte 0 whatever part of it is wanted."""
    answer = judged(asked(whole=True), 200, content_length="1000")

    assert isinstance(answer, Answer)
    assert (answer.start, answer.stop, answer.ranged) == (0, 1000, False)


def test_a_whole_request_takes_a_range_from_zero() -> None:
    """Some caches answer 206 with everything although no range was asked for."""
    answer = judged(asked(whole=True), 206, content_range="bytes 0-999/1000")

    assert isinstance(answer, Answer)
    assert (answer.start, answer.stop, answer.ranged) == (0, 1000, True)


def test_a_whole_request_refuses_a_range_from_elsewhere() -> None:
    """Without a range in the request, a body must begin at byte 0."""
    with pytest.raises(ProtocolError, match="from 100"):
        judged(asked(whole=True), 206, content_range="bytes 100-199/1000")


@pytest.mark.parametrize(
    ("headers", "stop", "framed"),
    [
        ({"content_length": "1000"}, 1000, True),
        ({"transfer_encoding": "chunked"}, None, True),
        ({"transfer_encoding": "gzip, Chunked"}, None, True),
        ({}, None, False),
    ],
    ids=["length", "chunked", "chunked-last", "close-delimited"],
)
def test_only_a_framed_body_can_show_its_own_end(
    headers: dict[str, str], stop: int | None, framed: bool
) -> None:
    """Without length and chunks a cut looks like the end: the answer says so."""
    answer = judged(asked(0, 1000), 200, **headers)

    assert isinstance(answer, Answer)
    assert (answer.stop, answer.framed) == (stop, framed)


def test_a_body_of_another_length_is_refused() -> None:
    """The hub's size wins over what one server says."""
    with pytest.raises(ProtocolError, match="sends 999 bytes, the hub says 1000"):
        judged(asked(0, 1000), 200, content_length="999")


def test_a_web_page_instead_of_a_file_is_named() -> None:
    """A captive portal or a login page is the likely reason, so the message says page."""
    with pytest.raises(ProtocolError, match="a web page"):
        judged(asked(0, 1000), 200, content_length="5000", content_type="text/HTML; charset=utf-8")


# -- statuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status", [100, 204, 205, 300, 304, 400, 401, 403, 404, 410, 412, 416, 429, 451, 500, 503, 599]
)
def test_other_statuses_are_errors(status: int) -> None:
    """Only 200 and 206 carry bytes of the file; an error page never becomes data."""
    with pytest.raises(StatusError) as caught:
        judged(asked(), status, content_length="100")

    assert caught.value.status == status
    assert str(caught.value) == f"https://hub.test/repo/w.bin answers {status}"


def test_an_error_that_carries_a_range_is_still_an_error() -> None:
    """Headers of a good answer do not make a good answer."""
    with pytest.raises(StatusError):
        judged(asked(), 500, content_range="bytes 100-199/1000", content_length="100")


@pytest.mark.parametrize(
    ("status", "content_range", "size"),
    [
        (416, "bytes */1000", 1000),
        (416, "bytes */0", 0),
        (416, "bytes 0-9/10", None),
        (416, "", None),
        (404, "bytes */1000", None),
    ],
)
def test_416_tells_the_size(status: int, content_range: str, size: int | None) -> None:
    """`bytes */N` of a 416 is how long the server thinks the file is."""
    with pytest.raises(StatusError) as caught:
        judged(asked(), status, content_range=content_range)

    assert caught.value.size == size


def test_what_a_server_says_is_part_of_the_error() -> None:
    """The Hugging Face Hub says in a header where to ask for access; no line of it is trusted."""
    headers = {"x-error-message": "ask at https://hub.test/x\x1b[2J\r\nroot:" + "x" * 900}

    error = rules.status_error("https://hub.test/x", 403, headers, now=NOW)

    assert str(error).startswith("https://hub.test/x answers 403: ask at https://hub.test/x [2J")
    assert str(error).isprintable()
    assert len(str(error)) < 300


# -- Retry-After -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("99999999999", 1e9),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        (formatdate(NOW + 315_360_000, usegmt=True), 315_360_000.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 1e9),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("\x1d7", None),  # a blank to `\s`, not to `int()`; heads may hold it
        ("٣", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    """Both forms are read, the past means now, nonsense means nothing was said."""
    assert rules.parse_retry_after(text, NOW) == seconds


def test_retry_after_is_measured_against_the_servers_clock() -> None:
    """Our clock may be wrong by years; the server's Date and Retry-After are of one clock."""
    headers = {
        "retry-after": "Wed, 21 Oct 2015 07:28:30 GMT",
        "date": "Wed, 21 Oct 2015 07:28:00 GMT",
    }

    error = rules.status_error("https://hub.test", 503, headers, now=NOW)

    assert error.retry_after == 30.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ('"api";r=0;t=55', 55.0),
        ('"resolvers"; t=172; r=0', 172.0),
        ('"api";r=0;t=55, "resolvers";r=0;t=60', 60.0),
        ('"api";r=0;t=5, "resolvers";r=2998;t=172', 5.0),
        ('"api";r=0;t=99999999999', 1e9),
        ('"resolvers";r=2998;t=172', None),
        ('"api";r=0', None),
        ('"api";r=0;t=-5', None),
        ('"api";r=0;t=soon', None),
        ("r=0;t=5", None),
        (";;=,;=", None),
        ("", None),
    ],
)
def test_a_used_up_allowance_says_when_it_is_renewed(text: str, seconds: float | None) -> None:
    """As the Hugging Face Hub sends it; what is left of others does not matter."""
    assert rules.parse_rate_limit(text) == seconds


@thorough
@given(text=st.text(st.sampled_from('"api;=,rt0159 ')))
def test_any_rate_limit_is_seconds_or_nothing(text: str) -> None:
    """Whatever stands there: never an error, never a time that is no time."""
    seconds = rules.parse_rate_limit(text)

    assert seconds is None or 0 <= seconds <= 1e9


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (429, {"ratelimit": '"api";r=0;t=55'}, 55.0),
        (429, {"ratelimit": '"api";r=0;t=55', "retry-after": "7"}, 7.0),
        (429, {"ratelimit": '"api";r=3;t=55'}, None),
        (503, {"ratelimit": '"api";r=0;t=55'}, None),
    ],
)
def test_a_refusal_for_its_allowance_tells_how_long_to_wait(
    status: int, headers: dict[str, str], seconds: float | None
) -> None:
    """Retry-After is the plainer word; an error of the server has nothing to do with allowances."""
    error = rules.status_error("https://hub.test", status, headers, now=NOW)

    assert error.retry_after == seconds


def test_without_retry_after_none_is_made_up() -> None:
    """Silence is not zero seconds."""
    assert rules.status_error("https://hub.test", 429, {}, now=NOW).retry_after is None


# -- redirects ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_handed_back(status: int) -> None:
    """Whoever asked decides about the next hop, and about credentials for it."""
    assert judged(asked(), status, location="https://cdn.test/x?sig=1") == Redirect(
        "https://cdn.test/x?sig=1"
    )


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/other", "https://hub.test/other"),
        ("x.bin", "https://hub.test/repo/x.bin"),
        ("../x.bin", "https://hub.test/x.bin"),
        ("?part=2", "https://hub.test/repo/w.bin?part=2"),
        ("//cdn.test/x", "https://cdn.test/x"),
        ("https://cdn.test:8443/x", "https://cdn.test:8443/x"),
        (" https://cdn.test/x ", "https://cdn.test/x"),
        ("https://cdn.test/模型 a.bin", "https://cdn.test/%E6%A8%A1%E5%9E%8B%20a.bin"),
        (
            "https://cdn.test/%e6%A8?a=%2B+%2f&b=~!*'()",
            "https://cdn.test/%e6%A8?a=%2B+%2f&b=~!*'()",
        ),
        ("https://cdn.test/a?u=http://x/;@:#frag", "https://cdn.test/a?u=http://x/;@:#frag"),
    ],
)
def test_a_location_is_made_absolute_and_left_alone(location: str, target: str) -> None:
    """Relative ones are resolved; only what no URL may hold is quoted, for signatures' sake."""
    assert judged(asked(), 302, location=location) == Redirect(target)


@pytest.mark.parametrize(
    "location",
    [
        pytest.param("http://hub.test/x", id="down-to-http"),
        pytest.param("http://cdn.test/x", id="down-to-http-elsewhere"),
        pytest.param("ftp://cdn.test/x", id="ftp"),
        pytest.param("file:///etc/passwd", id="file"),
        pytest.param("data:text/plain,hello", id="data"),
        pytest.param("javascript:alert(1)", id="script"),
        pytest.param("unix:/run/docker.sock", id="unix"),
        pytest.param("https://cdn.test:70000/x", id="impossible-port"),
        pytest.param("", id="empty"),
        pytest.param("/" + "a" * 20_000, id="over-long"),
    ],
)
def test_some_redirects_are_refused(location: str) -> None:
    """Never down from https, never to another scheme, never to nowhere."""
    with pytest.raises(ProtocolError, match="redirects") as caught:
        judged(asked(), 302, location=location)

    assert "SECRET" not in str(caught.value)


def test_a_redirect_without_a_location_is_refused() -> None:
    """302 alone leads nowhere."""
    with pytest.raises(ProtocolError, match="unusable address"):
        judged(asked(), 302)


def test_plain_http_may_go_up_to_https() -> None:
    """Only the step down is refused."""
    request = Request(url="http://hub.test/w", span=Span(0, 1))

    assert judged(request, 301, location="https://hub.test/w") == Redirect("https://hub.test/w")


def test_plain_http_may_stay_plain() -> None:
    """A local hub without TLS redirects to a local store without TLS."""
    request = Request(url="http://127.0.0.1:1/w", span=Span(0, 1))

    assert judged(request, 302, location="http://127.0.0.1:2/w") == Redirect("http://127.0.0.1:2/w")


# -- validators --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"etag": '"abc"'}, '"abc"'),
        ({"etag": ' "abc" '}, '"abc"'),
        ({"etag": 'W/"abc"'}, None),
        ({"etag": "abc"}, None),
        ({"etag": '""'}, None),
        ({"etag": '"' + "a" * 300 + '"'}, None),
        ({}, None),
        (
            {"last-modified": formatdate(NOW - 60, usegmt=True), "date": DATE},
            f"modified {formatdate(NOW - 60, usegmt=True)}",
        ),
        ({"last-modified": formatdate(NOW - 59, usegmt=True), "date": DATE}, None),
        ({"last-modified": formatdate(NOW + 60, usegmt=True), "date": DATE}, None),
        ({"last-modified": formatdate(NOW - 60, usegmt=True)}, None),
        ({"last-modified": "yesterday", "date": DATE}, None),
        (
            {"etag": '"abc"', "last-modified": formatdate(0, usegmt=True), "date": DATE},
            '"abc"',
        ),
    ],
)
def test_what_identifies_bytes_beyond_doubt(headers: dict[str, str], validator: str | None) -> None:
    """A strong entity tag, else a Last-Modified a minute older than the answer (RFC 7232 2.2.2)."""
    assert rules.strong_validator(headers) == validator


@pytest.mark.parametrize(
    ("validator", "headers"),
    [
        ('"abc"', {"etag": '"abc"'}),
        (
            "modified Thu, 01 Jan 1970 00:00:00 GMT",
            {"last_modified": "Thu, 01 Jan 1970 00:00:00 GMT"},
        ),
    ],
)
def test_an_unchanged_validator_passes(validator: str, headers: dict[str, str]) -> None:
    """The same validator means the same bytes."""
    request = asked(validator=validator)

    answer = judged(request, 206, content_range="bytes 100-199/1000", **headers)

    assert isinstance(answer, Answer)


@pytest.mark.parametrize(
    ("validator", "headers"),
    [
        ('"abc"', {"etag": '"abd"'}),
        ('"abc"', {"etag": 'W/"abc"'}),
        ('"abc"', {}),
        (
            "modified Thu, 01 Jan 1970 00:00:00 GMT",
            {"last_modified": "Fri, 02 Jan 1970 00:00:00 GMT"},
        ),
        ("modified Thu, 01 Jan 1970 00:00:00 GMT", {}),
    ],
    ids=["changed", "weakened", "gone", "modified", "modification-gone"],
)
@pytest.mark.parametrize("status", [200, 206])
def test_a_changed_validator_ends_the_request(
    status: int, validator: str, headers: dict[str, str]
) -> None:
    """Where no digest judges, bytes of two versions are never mixed."""
    request = asked(validator=validator)

    with pytest.raises(ProtocolError, match="changed while it was being downloaded"):
        judged(request, status, content_range="bytes 100-199/1000", **headers)


# -- parsers against junk ----------------------------------------------------------------------

_HEADERISH = st.text(
    st.sampled_from('bytes */-=0123456789 ,;:GMTJanFriday+.W"\t\x00é²٣') | st.characters(),
    max_size=40,
)
_DATEISH = st.lists(
    st.sampled_from(
        [
            "Sun",
            ",",
            " ",
            "06",
            "Nov",
            "1994",
            "08:49:37",
            "GMT",
            "-",
            ":",
            "99999",
            "0",
            "+9999",
            "-0000",
            "Feb",
            "31",
            "(",
            ")",
            "AM",
            "\x00",
            "24:00:00",
            "99999999999999999999",
        ]
    ),
    max_size=12,
).map("".join)


@given(_HEADERISH)
def test_content_range_is_read_or_refused(text: str) -> None:
    """Any text gives None or consistent numbers, never an exception."""
    found = rules.parse_content_range(text)

    if found is not None:
        start, stop, total = found
        assert 0 <= start < stop
        assert total is None or stop <= total


@given(st.integers(0, 10**18), st.integers(1, 10**9), st.none() | st.integers(0, 10**9))
def test_content_range_round_trip(start: int, length: int, more: int | None) -> None:
    """What a correct server writes is read back."""
    stop = start + length
    total = None if more is None else stop + more

    text = f"bytes {start}-{stop - 1}/{'*' if total is None else total}"

    assert rules.parse_content_range(text) == (start, stop, total)


@given(_HEADERISH | _DATEISH, st.floats(0, 1e10))
def test_retry_after_is_bounded(text: str, now: float) -> None:
    """Any text gives None or a wait between nothing and thirty years."""
    seconds = rules.parse_retry_after(text, now)

    assert seconds is None or 0.0 <= seconds <= 1e9


@given(_HEADERISH | _DATEISH)
def test_http_date_never_raises(text: str) -> None:
    """Any text gives None or a moment."""
    moment = rules.http_date(text)

    assert moment is None or isinstance(moment, float)


@given(st.integers(0, 4_000_000_000))
def test_http_date_round_trip(moment: int) -> None:
    """The form that every server sends is read exactly."""
    assert rules.http_date(formatdate(moment, usegmt=True)) == float(moment)


@given(
    st.sampled_from([200, 206]),
    st.fixed_dictionaries(
        {},
        optional={
            "content-range": _HEADERISH
            | st.sampled_from(["bytes 100-199/1000", "bytes 100-150/*", "bytes 0-999/1000"]),
            "content-length": _HEADERISH | st.sampled_from(["100", "1000", "51"]),
            "content-encoding": _HEADERISH,
            "transfer-encoding": _HEADERISH | st.just("chunked"),
            "content-type": _HEADERISH | st.just("text/html"),
            "etag": _HEADERISH | st.just('"v1"'),
            "last-modified": _DATEISH,
            "date": _DATEISH,
        },
    ),
    st.booleans(),
    st.sampled_from([None, '"v1"']),
)
def test_any_head_is_an_answer_for_these_bytes_or_one_of_our_errors(
    status: int, headers: dict[str, str], whole: bool, validator: str | None
) -> None:
    """Whatever the headers say, an accepted body begins where it must."""
    request = asked(whole=whole, validator=validator)

    try:
        answer = rules.judge(request, status, headers, now=NOW)
    except HaulError:
        return

    assert isinstance(answer, Answer)
    assert answer.start == (0 if whole else 100)
    assert answer.stop is None or answer.stop > answer.start
    assert answer.size is None or answer.stop is None or answer.stop <= answer.size
    assert validator is None or headers["etag"].strip() == validator


@given(st.text(string.printable, max_size=60))
def test_no_head_is_refused_with_the_query_in_the_message(junk: str) -> None:
    """Signatures live in queries: no error text shows one, whatever the server sends."""
    messages = []

    for headers in ({"content-range": junk}, {"content-length": junk}, {"content-encoding": junk}):
        try:
            rules.judge(asked(), 206, headers, now=NOW)
        except HaulError as error:
            messages.append(str(error))

    assert messages
    assert not any("SECRET" in message for message in messages)
