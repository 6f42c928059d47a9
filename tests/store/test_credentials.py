"""`store.credentials`: the saved logins of the hubs' tools, as they really write them."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Iterator
from http.cookiejar import Cookie
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import anyio
import pytest
import requests
from requests.cookies import RequestsCookieJar, create_cookie

from modelhaul.core.origin import Origin, origin_of
from modelhaul.store.credentials import (
    SavedToken,
    parse_cookies,
    read_saved_token,
    read_token_file,
)
from modelhaul.store.pickles import MOST_BYTES
from tests.store.test_pickles import Hostile

PROTOCOLS = [2, 3, 4, 5]
SECRET = "ms-1234-secret"
NOW = 1_700_000_000.0
SITE = origin_of("https://www.modelscope.cn")


def jar(*cookies: Cookie) -> RequestsCookieJar:
    """A jar as `requests` makes it."""
    jar = RequestsCookieJar()
    for cookie in cookies:
        jar.set_cookie(cookie)
    return jar


def session(
    domain: str = "www.modelscope.cn", expires: int | None = None, value: str = SECRET
) -> Cookie:
    """The cookie that holds the token."""
    return create_cookie("m_session_id", value, domain=domain, expires=expires)


def token_for(domain: str, expires: float | None = None) -> SavedToken:
    """A saved token."""
    return SavedToken(SECRET, domain, expires)


def read(home: Path, origin: Origin = SITE, now: float = NOW) -> tuple[str | None, str | None]:
    """`read_saved_token` to its end."""
    return anyio.run(read_saved_token, home, origin, now)


def save(home: Path, data: bytes) -> None:
    """Put bytes where the tools put their jar."""
    (home / "credentials").mkdir()
    (home / "credentials" / "cookies").write_bytes(data)


class _Login(BaseHTTPRequestHandler):
    """Answers like the hub's login: the token comes as a cookie, among others."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Set-Cookie", "csrf_session=abc; Path=/")
        self.send_header("Set-Cookie", f"m_session_id={SECRET}; Max-Age=2592000; Path=/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


@pytest.fixture
def login() -> Iterator[str]:
    """The address of a server that logs everybody in."""
    with HTTPServer(("127.0.0.1", 0), _Login) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def log_in(url: str) -> RequestsCookieJar:
    """The cookies that a client holds after it logged in there."""
    with requests.Session() as client:
        client.trust_env = False
        cookies = client.get(url, timeout=10).cookies
    assert isinstance(cookies, RequestsCookieJar)
    return cookies


# -- finding the token ---------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_token_of_a_jar_is_found(protocol: int) -> None:
    """With its domain and end, whatever pickle protocol the tool's Python used."""
    data = pickle.dumps(jar(session(expires=1_800_000_000)), protocol)

    saved = parse_cookies(data)

    assert saved == (SavedToken(SECRET, "www.modelscope.cn", 1_800_000_000.0),)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_token_of_a_real_login_is_found(tmp_path: Path, login: str, protocol: int) -> None:
    """Pickled from an HTTP answer, as the tools do; its `Max-Age` has become a moment."""
    cookies = log_in(login)
    save(tmp_path, pickle.dumps(cookies, protocol))
    (expires,) = [cookie.expires for cookie in cookies if cookie.name == "m_session_id"]
    assert expires is not None

    (saved,) = parse_cookies(pickle.dumps(cookies, protocol))

    assert saved == SavedToken(SECRET, "127.0.0.1", expires)
    assert read(tmp_path, origin_of(login), expires - 1) == (SECRET, None)
    assert read(tmp_path, origin_of(login), expires + 1) == (None, None)
    assert read(tmp_path, SITE, expires - 1) == (None, None)


def test_the_token_of_a_host_without_a_dot_is_found(tmp_path: Path, login: str) -> None:
    """http.cookiejar files its cookies under a made-up domain, `hub.local` for `hub`."""
    here = login.replace("127.0.0.1", "localhost")
    cookies = log_in(here)
    save(tmp_path, pickle.dumps(cookies))

    saved, note = read(tmp_path, origin_of(here), time.time())

    assert {cookie.domain for cookie in cookies} == {"localhost.local"}
    assert (saved, note) == (SECRET, None)
    assert read(tmp_path, origin_of(login), time.time()) == (None, None)


def test_the_token_is_found_among_other_cookies() -> None:
    """Other names, paths and domains in the jar do not matter."""
    others = jar(
        create_cookie("csrf_session", "x", domain="www.modelscope.cn"),
        create_cookie("m_session_id", SECRET, domain="modelscope.cn", path="/api"),
        create_cookie("tracking", "y", domain="example.org", expires=1),
    )

    assert parse_cookies(pickle.dumps(others)) == (SavedToken(SECRET, "modelscope.cn", None),)


def test_each_site_has_its_own_token(tmp_path: Path) -> None:
    """Logins to several sites lie in one jar; an expired one does not hide the others."""
    save(
        tmp_path,
        pickle.dumps(
            jar(
                session("modelscope.ai", expires=1, value="old"),
                session("hub.example.org", value="ours"),
                session("modelscope.cn", value="cn"),
            )
        ),
    )

    tokens = {
        url: read(tmp_path, origin_of(url))
        for url in ("https://modelscope.ai", "https://hub.example.org", "https://www.modelscope.cn")
    }

    assert tokens == {
        "https://modelscope.ai": (None, None),
        "https://hub.example.org": ("ours", None),
        "https://www.modelscope.cn": ("cn", None),
    }


def test_an_expired_token_does_not_hide_a_good_one_of_the_same_site(tmp_path: Path) -> None:
    """A login without www and a later one with it are two cookies."""
    old, new = session("modelscope.cn", expires=1, value="old"), session(value="new")
    save(tmp_path, pickle.dumps(jar(old, new)))

    assert read(tmp_path) == ("new", None)


@pytest.mark.parametrize(
    "cookies",
    [
        jar(),
        jar(create_cookie("csrf_session", "x", domain="modelscope.cn")),
        jar(session(value="")),
        jar(session(value="two\r\nlines")),
    ],
    ids=["empty", "others", "no value", "no token"],
)
def test_a_jar_without_a_token_is_no_login(tmp_path: Path, cookies: RequestsCookieJar) -> None:
    """Nobody is logged in: that is a normal answer."""
    save(tmp_path, pickle.dumps(cookies))

    assert parse_cookies(pickle.dumps(cookies)) == ()
    assert read(tmp_path) == (None, None)


# -- where it may be sent ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "host"),
    [
        ("modelscope.cn", "modelscope.cn"),
        ("www.modelscope.cn", "www.modelscope.cn"),
        ("www.modelscope.cn", "modelscope.cn"),
        ("modelscope.cn", "www.modelscope.cn"),
        (".modelscope.cn", "modelscope.cn"),
        (".modelscope.cn", "www.modelscope.cn"),
        (".modelscope.cn", "any.thing.modelscope.cn"),
        ("ModelScope.CN", "modelscope.cn"),
        ("modelscope.cn", "WWW.ModelScope.cn"),
        (".ModelScope.CN", "www.modelscope.cn"),
        ("127.0.0.1", "127.0.0.1"),
        ("hub.example.org", "hub.example.org"),
        ("hub.local", "hub"),
        ("hub.local", "hub.local"),
    ],
)
def test_a_token_is_for_the_site_that_issued_it(domain: str, host: str) -> None:
    """Under both of its names, with and without www, in any case; below it after a leading dot."""
    assert token_for(domain).is_for(origin_of(f"https://{host}"), NOW)


@pytest.mark.parametrize(
    ("domain", "host"),
    [
        ("modelscope.cn", "modelscope.ai"),
        ("modelscope.cn", "evilmodelscope.cn"),
        ("modelscope.cn", "modelscope.cn.evil.org"),
        ("modelscope.cn", "cn"),
        ("modelscope.cn", "huggingface.co"),
        ("hub.example.org", "example.org"),
        ("hub.example.org", "other.example.org"),
        ("modelscope.cn", "any.modelscope.cn"),
        ("www.modelscope.cn", "any.modelscope.cn"),
        ("www.modelscope.cn", "any.www.modelscope.cn"),
        (".modelscope.cn", "evilmodelscope.cn"),
        (".modelscope.cn", "modelscope.cn.evil.org"),
        (".hub.example.org", "example.org"),
        ("hub", "hub.local"),
        ("hub.local", "hub.example.org"),
        ("hub.local", "any.hub"),
        ("127.0.0.1", "127.0.0.2"),
        ("", "modelscope.cn"),
        ("", "modelscope.cn."),
        (".", "modelscope.cn"),
    ],
)
def test_a_token_is_for_no_other_host(domain: str, host: str) -> None:
    """The official client sends it to any endpoint; we do not."""
    assert not token_for(domain).is_for(origin_of(f"https://{host}"), NOW)


@pytest.mark.parametrize("domain", ["modelscope.cn", ".modelscope.cn", "hub.local"])
def test_a_token_is_for_no_origin_without_a_host(domain: str) -> None:
    """There is no such origin; whoever makes one up gets no token."""
    nowhere = Origin("https", "", 443)

    assert not token_for(domain).is_for(nowhere, NOW)


@pytest.mark.parametrize(
    ("domain", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1"),
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("127.1.2.3", "http://127.1.2.3:8000"),
        ("localhost.local", "http://localhost:8000"),
        ("::1", "http://[::1]:8000"),
        ("hub.example.org", "https://hub.example.org:8000"),
    ],
)
def test_in_the_clear_a_token_goes_to_this_machine_only(domain: str, url: str) -> None:
    """Nobody listens between us and ourselves; on any port, as cookies know none."""
    assert token_for(domain).is_for(origin_of(url), NOW)


@pytest.mark.parametrize(
    ("domain", "url"),
    [
        ("modelscope.cn", "http://modelscope.cn"),
        ("www.modelscope.cn", "http://www.modelscope.cn:443"),
        (".modelscope.cn", "http://www.modelscope.cn"),
        ("hub.local", "http://hub:8000"),
        ("192.168.0.7", "http://192.168.0.7"),
        ("128.0.0.1", "http://128.0.0.1"),
        ("1127.0.0.1", "http://1127.0.0.1"),
        ("localhost.example.org", "http://localhost.example.org"),
        (".localhost", "http://evil.localhost"),
        ("::2", "http://[::2]"),
    ],
)
def test_a_token_is_never_sent_in_the_clear_to_another_machine(domain: str, url: str) -> None:
    """Not even to the very host that issued it, though over TLS it may have it."""
    assert not token_for(domain).is_for(origin_of(url), NOW)
    assert token_for(domain).is_for(origin_of(url.replace("http:", "https:")), NOW)


def test_an_expired_token_is_for_nobody() -> None:
    """From the very second on; a token without an end lasts."""
    assert token_for("modelscope.cn", NOW + 1).is_for(SITE, NOW)
    assert not token_for("modelscope.cn", NOW).is_for(SITE, NOW)
    assert not token_for("modelscope.cn", NOW - 1).is_for(SITE, NOW)
    assert token_for("modelscope.cn", None).is_for(SITE, 1e12)


def test_an_expired_cookie_is_read_with_its_end() -> None:
    """The jar keeps it; whether it still counts depends on the time of use."""
    (saved,) = parse_cookies(pickle.dumps(jar(session(expires=1_000))))

    assert not saved.is_for(SITE, NOW)
    assert saved.is_for(SITE, 999)


@pytest.mark.parametrize("expires", [10**400, "tomorrow", None])
def test_an_end_that_is_no_moment_is_no_end(expires: object) -> None:
    """Far beyond all calendars, or no number at all: it lasts until the site refuses it."""
    cookie = session()
    cookie.expires = expires  # type: ignore[assignment]

    (saved,) = parse_cookies(pickle.dumps(jar(cookie)))

    assert saved == SavedToken(SECRET, "www.modelscope.cn", None)
    assert saved.is_for(SITE, NOW)


def test_a_token_is_never_shown() -> None:
    """Neither its representation nor its text, alone or inside something else, holds it."""
    (saved,) = parse_cookies(pickle.dumps(jar(session())))

    for shown in (repr(saved), str(saved), f"{saved}", repr([saved]), f"{(saved,)!r}"):
        assert SECRET not in shown
        assert "www.modelscope.cn" in shown


# -- trouble -------------------------------------------------------------------------------------


def test_no_saved_login_is_no_trouble(tmp_path: Path) -> None:
    """Most people never log in: no token, and nothing to say about it."""
    assert read(tmp_path) == (None, None)
    assert read(tmp_path / "missing") == (None, None)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_jar_that_would_run_a_command_does_not(tmp_path: Path, protocol: int) -> None:
    """It is ignored with a note; nothing runs."""
    witness = tmp_path / "ran"
    save(tmp_path, pickle.dumps([jar(session()), Hostile(os.system, f"touch {witness}")], protocol))

    saved, note = read(tmp_path)

    assert saved is None
    assert note is not None
    assert "not allowed" in note
    assert not witness.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"# Netscape HTTP Cookie File\n",
        pickle.dumps({"m_session_id": SECRET}),
        pickle.dumps([SECRET]),
        pickle.dumps(session()),
        pickle.dumps(jar(session()))[:-10],
    ],
    ids=["empty", "text", "dict", "list", "cookie", "cut"],
)
def test_what_is_no_jar_is_ignored_with_a_note(tmp_path: Path, data: bytes) -> None:
    """The note names the file and never what is in it."""
    save(tmp_path, data)

    saved, note = read(tmp_path)

    assert saved is None
    assert note is not None
    assert str(tmp_path / "credentials" / "cookies") in note
    assert SECRET not in note


def test_a_jar_cut_at_any_byte_is_unreadable() -> None:
    """A download that never finished, a disk that was full: ValueError and nothing else."""
    data = pickle.dumps(jar(session(), create_cookie("b", "c", domain="example.org")))

    for cut in range(len(data)):
        with pytest.raises(ValueError, match=r".+"):
            parse_cookies(data[:cut])


def test_a_jar_with_unexpected_insides_holds_no_token() -> None:
    """Attributes of other types are passed over."""
    number, nowhere = session(domain="a.org"), session(domain="b.org")
    cookies = jar(number, nowhere)
    number.value = 5  # type: ignore[assignment]
    nowhere.domain = None  # type: ignore[assignment]
    cookies._cookies["c.org"] = ["not a dict"]
    cookies._cookies["d.org"] = {"/": "not a dict"}
    cookies._cookies["e.org"] = {"/": {"m_session_id": "not a cookie"}}

    assert parse_cookies(pickle.dumps(cookies)) == ()


def test_a_login_that_cannot_be_read_is_noted(tmp_path: Path) -> None:
    """A folder in its place is named, with the reason."""
    (tmp_path / "credentials" / "cookies").mkdir(parents=True)

    saved, note = read(tmp_path)

    assert saved is None
    assert note is not None
    assert "cannot be read" in note
    assert "directory" in note


def test_a_login_of_absurd_size_is_not_read_whole(tmp_path: Path) -> None:
    """A jar takes a kilobyte: more than a limit is ignored with a note, and never unpickled."""
    save(tmp_path, b"")
    os.truncate(tmp_path / "credentials" / "cookies", 100 * MOST_BYTES)

    saved, note = read(tmp_path)

    assert saved is None
    assert note is not None
    assert "larger than" in note


# -- the token file of Hugging Face ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "token"),
    [
        (b"hf_abc", "hf_abc"),
        (b"hf_abc\n", "hf_abc"),
        (b"\r\n hf_abc\r\n", "hf_abc"),
        (b"", None),
        (b"\n", None),
    ],
)
def test_a_token_file_holds_the_token_and_nothing_else(
    tmp_path: Path, data: bytes, token: str | None
) -> None:
    """Blanks around it are dropped, as its own tools do; an empty file is no login."""
    (tmp_path / "token").write_bytes(data)

    assert anyio.run(read_token_file, tmp_path / "token") == (token, None)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"hf_a\nhf_b", b"hf_\x1b[2J", b"x" * 4097])
def test_what_cannot_be_a_token_is_told_without_being_shown(tmp_path: Path, data: bytes) -> None:
    """It would become a header; and it may be something else that is secret."""
    (tmp_path / "token").write_bytes(data)

    token, note = anyio.run(read_token_file, tmp_path / "token")

    assert token is None
    assert note == f"the saved login {tmp_path / 'token'} is ignored (it holds no token)"


def test_without_a_login_nothing_is_said(tmp_path: Path) -> None:
    """No file, or no folder for one: most people have none."""
    (tmp_path / "file").write_bytes(b"")

    assert anyio.run(read_token_file, tmp_path / "token") == (None, None)
    assert anyio.run(read_token_file, tmp_path / "file" / "token") == (None, None)


def test_a_login_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A folder in its place, or a file of somebody else."""
    token, note = anyio.run(read_token_file, tmp_path)

    assert token is None
    assert note is not None
    assert str(tmp_path) in note
