"""Origins, what may be shown of a URL, and where a redirect may lead."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.core.origin import MAX_URL, Origin, origin_of, redirect_target, shown
from modelhaul.errors import ProtocolError, UsageError
from tests.support.properties import thorough

BASE = "https://hub.example/api/v1/file?Revision=master"


# -- origins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "origin", "text"),
    [
        ("https://hub.example", Origin("https", "hub.example", 443), "https://hub.example"),
        ("HTTPS://HUB.Example:443/x", Origin("https", "hub.example", 443), "https://hub.example"),
        ("http://hub.example/x?y", Origin("http", "hub.example", 80), "http://hub.example"),
        ("http://hub.example:443", Origin("http", "hub.example", 443), "http://hub.example:443"),
        (
            "https://u:p@hub.example:8443/",
            Origin("https", "hub.example", 8443),
            "https://hub.example:8443",
        ),
        (
            "https://evil.example@hub.example/",
            Origin("https", "hub.example", 443),
            "https://hub.example",
        ),
        ("http://[::1]:8000/x", Origin("http", "::1", 8000), "http://[::1]:8000"),
        ("http://127.0.0.1", Origin("http", "127.0.0.1", 80), "http://127.0.0.1"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: Origin, text: str) -> None:
    """In lower case, with the default port filled in and left out when shown."""
    found = origin_of(url)

    assert found == origin
    assert str(found) == text
    assert origin_of(text) == origin


@pytest.mark.parametrize(
    "other",
    [
        "http://hub.example",
        "https://hub.example:444",
        "https://www.hub.example",
        "https://hub.example.evil.example",
        "https://hub-example",
        "https://hub.example@evil.example",
        "https://hub.example.",
    ],
)
def test_these_are_somebody_else(other: str) -> None:
    """Another scheme, port or name never sees a credential."""
    assert origin_of(other) != origin_of("https://hub.example")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hub.example/x",
        "//hub.example/x",
        "/x",
        "ftp://hub.example",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https:///x",
        "https://",
        "https://:443/",
        "https://hub.example:x/",
        "https://hub.example:70000/",
        "https://hub.example:0/",
        "http://[::1]:0/",
        "https://[::1/",
        "https://user@/",
    ],
)
def test_what_is_no_http_url_is_refused(url: str) -> None:
    """No scheme that we speak, no host, or a port that is none."""
    with pytest.raises(UsageError):
        origin_of(url)


# -- what may be shown -----------------------------------------------------------------------------

words = st.text(st.sampled_from("abcXYZ019-._~%"), min_size=1, max_size=12)
secrets = words.map(lambda word: f"SECRET{word}SECRET")


@thorough
@given(
    scheme=st.sampled_from(["http", "https", "HTTPS", "ftp"]),
    user=secrets,
    password=st.one_of(st.none(), secrets),
    host=st.sampled_from(["hub.example", "hub.example:8443", "[::1]:80", "bücher.example"]),
    path=st.lists(words, max_size=4),
    query=st.lists(st.tuples(words, secrets), min_size=1, max_size=3),
    fragment=st.one_of(st.none(), secrets),
)
def test_neither_user_nor_query_nor_fragment_is_shown(
    scheme: str,
    user: str,
    password: str | None,
    host: str,
    path: list[str],
    query: list[tuple[str, str]],
    fragment: str | None,
) -> None:
    """Host and path are; signatures, tokens and passwords are not."""
    account = user if password is None else f"{user}:{password}"
    arguments = "&".join(f"{name}={value}" for name, value in query)
    end = "" if fragment is None else f"#{fragment}"
    where = "/".join(["", *path])

    text = shown(f"{scheme}://{account}@{host}{where}?{arguments}{end}")

    assert "SECRET" not in text
    assert text == f"{scheme.lower()}://{host}{where}"


@thorough
@given(url=st.text(max_size=60))
def test_any_text_can_be_shown(url: str) -> None:
    """Errors quote URLs before they are known to be URLs: on one printable line."""
    text = shown(url)

    assert text.isprintable()


@thorough
@given(
    address=st.sampled_from(
        ["https://[SECRET/", "https://u:SECRET@[::1/", "https://[zz]/?SECRET", "//[SECRET"]
    )
)
def test_nothing_is_shown_of_a_url_that_cannot_be_read(address: str) -> None:
    """Where the parts are not known, no part is safe."""
    assert shown(address) == "(unreadable URL)"


@pytest.mark.parametrize(
    "url",
    [
        "alice:SECRET@hub.example/file",
        "https:/alice:SECRET@hub.example/file",
        "https://alice:a/SECRET@hub.example/file",
        "https:alice:SECRET@hub.example",
    ],
)
def test_a_mistyped_url_shows_no_password(url: str) -> None:
    """A forgotten scheme or slash, or one in the password, puts user and password into the path."""
    assert shown(url) == "(unreadable URL)"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://hub.example/~me@home/x", "https://hub.example/~me@home/x"),
        ("https://hub.example:8443/a@b:c", "https://hub.example:8443/a@b:c"),
        ("hub.example/x", "hub.example/x"),
    ],
)
def test_an_at_sign_behind_the_host_hides_nothing(url: str, text: str) -> None:
    """It is a part of many names."""
    assert shown(url) == text


def test_a_long_url_is_cut() -> None:
    """A log line stays a line."""
    assert len(shown("https://hub.example/" + 10_000 * "x")) == 500


@pytest.mark.parametrize(
    "url",
    [
        "ftp://u:SECRET@hub.example/?SECRET",
        "https:///?SECRET",
        "https://alice:SECRET@hub\u2100.example/",
        "https://alice:SECRET/x@hub.example/",
        "https://alice:SECRET@hub.example:0/",
        "alice:SECRET@hub.example/",
    ],
)
def test_the_error_about_a_url_does_not_repeat_its_secrets(url: str) -> None:
    """Messages are shown to people and logged; what `urlsplit` says may quote a password."""
    with pytest.raises(UsageError) as caught:
        origin_of(url)

    assert "SECRET" not in caught.value.message


# -- redirects -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://cdn.example/blob?sig=1", "https://cdn.example/blob?sig=1"),
        ("//cdn.example/blob", "https://cdn.example/blob"),
        ("/blob?x=1", "https://hub.example/blob?x=1"),
        ("blob", "https://hub.example/api/v1/blob"),
        ("../blob", "https://hub.example/api/blob"),
        ("?x=1", "https://hub.example/api/v1/file?x=1"),
        (" https://cdn.example/blob ", "https://cdn.example/blob"),
    ],
)
def test_a_location_is_absolute_or_relative_to_the_url(location: str, target: str) -> None:
    """RFC 9110 section 10.2.2 allows both."""
    assert redirect_target(BASE, location) == target


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://cdn.example/权重 1.bin", "https://cdn.example/%E6%9D%83%E9%87%8D%201.bin"),
        ("https://cdn.example/a%20b?s=%2F%2f", "https://cdn.example/a%20b?s=%2F%2f"),
        ("https://cdn.example/é?s=a+b/c==", "https://cdn.example/%C3%A9?s=a+b/c=="),
        ("https://cdn.example/a?s=100%", "https://cdn.example/a?s=100%"),
        ("https://cdn.example/caf\udce9", "https://cdn.example/caf%E9"),
        ("/caf\udce9", "https://hub.example/caf%E9"),
    ],
)
def test_what_is_not_ascii_is_quoted_and_nothing_twice(location: str, target: str) -> None:
    """Servers send raw UTF-8, Latin-1 and blanks; what is quoted already stays byte by byte."""
    assert redirect_target(BASE, location) == target


ESCAPES = ["%2F", "%2f", "%20", "%E6%9D%83", "%zz", "%"]
queries = st.lists(
    st.one_of(st.sampled_from(ESCAPES), st.sampled_from("abcXYZ019-._~!$&'()*+,;=:@/?")),
    min_size=1,
    max_size=30,
).map("".join)


@pytest.mark.parametrize(
    "location",
    [
        "https://cdn.example/d;?sig=1",
        "https://cdn.example/d?",
        "https://cdn.example/d;",
        "https://cdn.example/a/./b/../c//d",
    ],
)
def test_an_absolute_address_is_kept_as_it_is(location: str) -> None:
    """Joining URLs would drop an empty query and empty parameters, and tidy up the path."""
    assert redirect_target(BASE, location) == location


@thorough
@given(query=queries, base=st.sampled_from([BASE, "http://hub.example/"]))
def test_a_signature_is_kept_to_the_last_byte(query: str, base: str) -> None:
    """A signed query is neither decoded nor quoted again nor put in order."""
    location = f"https://cdn.example/a%2Fb/../c//d?{query}"

    assert redirect_target(base, location) == location


@pytest.mark.parametrize(
    "location",
    [
        "",
        "   ",
        "https://cdn.example/" + MAX_URL * "x",
        "ftp://cdn.example/blob",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "data:text/plain,x",
        "https://cdn.example:x/blob",
        "https://cdn.example:0/blob",
        "https://[::1/blob",
        "https://[SECRET/",
        "//[",
        "http://[bad",
    ],
)
def test_a_location_that_cannot_be_followed_is_a_broken_promise(location: str) -> None:
    """Empty, over-long, another scheme, a port that is none: the server's fault, not a crash."""
    with pytest.raises(ProtocolError) as caught:
        redirect_target(BASE, location)

    assert "https://hub.example/api/v1/file" in caught.value.message
    assert "SECRET" not in caught.value.message


LOCAL = [
    "localhost",
    "LocalHost",
    "hub.localhost",
    "127.0.0.1",
    "127.255.0.9",
    "0.0.0.0",
    "169.254.169.254",
    "[::1]",
    "[::]",
    "[fe80::1]",
    # Other spellings that the system's resolver takes for the same.
    "localhost.",
    "127.0.0.1.",
    "127.1",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "2130706433",
    "0",
    "[::ffff:127.0.0.1]",
    "[fe80::1%25lo]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::169.254.169.254]",
    # Where clouds have their metadata, though not on the link.
    "100.100.100.200",
    "168.63.129.16",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "[::ffff:100.100.100.200]",
]


@pytest.mark.fault("redirected from outside to this machine or its link", "refused", number=49)
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", LOCAL)
def test_nobody_outside_redirects_to_this_machine(host: str, scheme: str) -> None:
    """What listens on loopback, or at a cloud's metadata address, trusts whoever asks."""
    base = f"{scheme}://hub.example/api?sig=SECRET"

    with pytest.raises(ProtocolError, match="an address of this machine") as caught:
        redirect_target(base, f"{scheme}://{host}:8000/x?SECRET")

    assert "SECRET" not in caught.value.message


@pytest.mark.parametrize("before", LOCAL)
@pytest.mark.parametrize("after", ["127.0.0.1:9000", "[::1]", "localhost", "cdn.example"])
def test_a_server_of_this_machine_redirects_anywhere(before: str, after: str) -> None:
    """A hub of one's own and its store."""
    location = f"http://{after}/x"

    assert redirect_target(f"http://{before}:8000/api", location) == location


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "192.168.1.9",
        "172.16.0.1",
        "[fd00::1]",
        "localhost.example",
        "8.8.8.8",
        "host",
        "100.100.100.201",
        "[64:ff9b::808:808]",
    ],
)
def test_redirects_inside_a_network_are_followed(host: str) -> None:
    """A site's own hub and store have private addresses, or names without a dot."""
    location = f"https://{host}/x"

    assert redirect_target(BASE, location) == location


@pytest.mark.fault("redirected from https to http", "refused", number=48)
@pytest.mark.parametrize(
    "location", ["http://hub.example/x", "HTTP://cdn.example/x", "http://hub.example:443/x"]
)
def test_a_step_down_to_plain_http_is_refused(location: str) -> None:
    """What began encrypted does not go on in the open."""
    with pytest.raises(ProtocolError, match="https to plain http"):
        redirect_target(BASE, location)


@pytest.mark.parametrize("location", ["http://cdn.example/x", "https://cdn.example/x", "/x"])
def test_plain_http_may_lead_anywhere(location: str) -> None:
    """There is nothing to lose, and the step up is welcome."""
    target = redirect_target("http://hub.example/", location)

    assert urlsplit(target).scheme in ("http", "https")
    assert target.endswith("/x")


def test_the_longest_location_is_followed() -> None:
    """Signed addresses are long; MAX_URL characters are allowed."""
    location = "https://cdn.example/?s=".ljust(MAX_URL, "x")

    assert redirect_target(BASE, location) == location


@pytest.mark.parametrize("location", ["http://hub.example/?SECRET", "ftp://u:SECRET@cdn.example/"])
def test_an_error_about_a_redirect_shows_no_secrets(location: str) -> None:
    """Neither the signature of the address before nor that of the one behind it."""
    with pytest.raises(ProtocolError) as caught:
        redirect_target("https://u:SECRET@hub.example/x?sig=SECRET", location)

    assert "SECRET" not in caught.value.message
