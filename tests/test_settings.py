"""Settings: every variable of the environment, what wins over what, and nonsense by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import get_type_hints

import pytest

from modelhaul.errors import UsageError
from modelhaul.settings import (
    DEFAULT_ENDPOINT,
    DEFAULT_HF_ENDPOINT,
    SettingChanges,
    Settings,
    normal_endpoint,
)

URL = "https://hub.test/x"


def read(environ: Mapping[str, str]) -> Settings:
    return Settings.from_environment(environ)


def test_an_empty_environment_means_the_defaults() -> None:
    """What no variable names is what the documents say."""
    assert read({}) == Settings()
    assert Settings().endpoint == DEFAULT_ENDPOINT == "https://modelscope.cn"
    assert Settings().token is None
    assert (Settings().connections, Settings().host_connections) == (64, 64)
    assert Settings().cache_dir == Path.home() / ".cache/modelscope"
    assert Settings().home == Path.home() / ".modelscope"
    assert Settings().hf_endpoint == DEFAULT_HF_ENDPOINT == "https://huggingface.co"
    assert Settings().hf_token is None
    assert Settings().hf_cache_dir == Path.home() / ".cache/huggingface/hub"
    assert Settings().hf_token_path == Path.home() / ".cache/huggingface/token"


@pytest.mark.parametrize(
    ("environ", "name", "value"),
    [
        ({"MODELSCOPE_ENDPOINT": "https://a.test"}, "endpoint", "https://a.test"),
        ({"MODELSCOPE_DOMAIN": "a.test"}, "endpoint", "https://a.test"),
        ({"MODELSCOPE_DOMAIN": "http://a.test:8000"}, "endpoint", "http://a.test:8000"),
        (
            {"MODELSCOPE_ENDPOINT": "https://a.test", "MODELSCOPE_DOMAIN": "b.test"},
            "endpoint",
            "https://a.test",
        ),
        ({"MODELSCOPE_ENDPOINT": "", "MODELSCOPE_DOMAIN": ""}, "endpoint", DEFAULT_ENDPOINT),
        ({"MODELSCOPE_API_TOKEN": " ms-1 \n"}, "token", "ms-1"),
        ({"MODELSCOPE_API_TOKEN": ""}, "token", ""),
        ({"MODELSCOPE_HOME": "/h"}, "home", Path("/h")),
        ({"MODELSCOPE_HOME": ""}, "home", Path.home() / ".modelscope"),
        ({"MODELSCOPE_CACHE": "/c"}, "cache_dir", Path("/c")),
        ({"MODELSCOPE_CACHE": "~/c"}, "cache_dir", Path.home() / "c"),
        ({"HF_ENDPOINT": "https://hf-mirror.test/"}, "hf_endpoint", "https://hf-mirror.test"),
        ({"HF_ENDPOINT": ""}, "hf_endpoint", DEFAULT_HF_ENDPOINT),
        ({"HF_TOKEN": " hf_1\r\n"}, "hf_token", "hf_1"),
        ({"HF_TOKEN": ""}, "hf_token", None),
        ({"HUGGING_FACE_HUB_TOKEN": "hf_2"}, "hf_token", "hf_2"),
        ({"HF_TOKEN": "hf_1", "HUGGING_FACE_HUB_TOKEN": "hf_2"}, "hf_token", "hf_1"),
        ({"HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "hf_2"}, "hf_token", "hf_2"),
        ({"HF_TOKEN": "hf_1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}, "hf_token", ""),
        ({"HF_HUB_DISABLE_IMPLICIT_TOKEN": "yes"}, "hf_token", ""),
        ({"HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"}, "hf_token", None),
        ({"HF_TOKEN_PATH": "~/t"}, "hf_token_path", Path.home() / "t"),
        ({"HF_HUB_CACHE": "/h"}, "hf_cache_dir", Path("/h")),
        ({"HF_HUB_DISABLE_SYMLINKS": "on"}, "hf_links", False),
        ({"HF_HUB_DISABLE_SYMLINKS": "0"}, "hf_links", True),
        ({"HUGGINGFACE_HUB_CACHE": "/o"}, "hf_cache_dir", Path("/o")),
        ({"HF_HUB_CACHE": "/h", "HUGGINGFACE_HUB_CACHE": "/o"}, "hf_cache_dir", Path("/h")),
        ({"MODELHAUL_STATE": "/s"}, "state_dir", Path("/s")),
        ({"XDG_STATE_HOME": "/x"}, "state_dir", Path("/x/modelhaul")),
        ({"MODELHAUL_STATE": "/s", "XDG_STATE_HOME": "/x"}, "state_dir", Path("/s")),
        ({"MODELHAUL_CONNECTIONS": ""}, "connections", 64),
        ({"MODELHAUL_PATIENCE": "30"}, "patience", 30.0),
        ({"NO_PROXY": "a,b"}, "no_proxy", "a,b"),
        ({"no_proxy": "a", "NO_PROXY": "b"}, "no_proxy", "a"),
        ({"SSL_CERT_FILE": "/a.pem"}, "ca_file", "/a.pem"),
        ({"REQUESTS_CA_BUNDLE": "/b.pem"}, "ca_file", "/b.pem"),
        ({"CURL_CA_BUNDLE": "/c.pem"}, "ca_file", "/c.pem"),
        (
            {"SSL_CERT_FILE": "/a", "REQUESTS_CA_BUNDLE": "/b", "CURL_CA_BUNDLE": "/c"},
            "ca_file",
            "/a",
        ),
        ({"REQUESTS_CA_BUNDLE": "/b", "CURL_CA_BUNDLE": "/c"}, "ca_file", "/b"),
        ({"SSL_CERT_FILE": ""}, "ca_file", None),
        ({"SSL_CERT_DIR": "/certs"}, "ca_folder", "/certs"),
    ],
)
def test_each_variable_sets_one_thing(environ: dict[str, str], name: str, value: object) -> None:
    """The names of the official tools and of common network tools, with their precedence."""
    found = read(environ)

    assert getattr(found, name) == value
    default = dataclasses.asdict(Settings())
    changed = {key for key, now in dataclasses.asdict(found).items() if now != default[key]}
    assert changed <= {name}


@pytest.mark.parametrize(
    ("environ", "home"),
    [
        ({"HF_HOME": "/hf"}, Path("/hf")),
        ({"HF_HOME": "~/hf"}, Path.home() / "hf"),
        ({"XDG_CACHE_HOME": "/x"}, Path("/x/huggingface")),
        ({"HF_HOME": "/hf", "XDG_CACHE_HOME": "/x"}, Path("/hf")),
    ],
)
def test_cache_and_token_move_with_the_home_of_hugging_face(
    environ: dict[str, str], home: Path
) -> None:
    """Where its own tools look for them, unless they were named one by one."""
    moved = read(environ)
    named = read({**environ, "HF_TOKEN_PATH": "/t", "HF_HUB_CACHE": "/c"})

    assert (moved.hf_token_path, moved.hf_cache_dir) == (home / "token", home / "hub")
    assert (named.hf_token_path, named.hf_cache_dir) == (Path("/t"), Path("/c"))


def test_a_token_of_one_hub_is_not_that_of_the_other() -> None:
    """Each variable fills its own hub's setting only."""
    modelscope = read({"MODELSCOPE_API_TOKEN": "ms-1"})
    hugging_face = read({"HF_TOKEN": "hf_1"})

    assert (modelscope.token, modelscope.hf_token) == ("ms-1", None)
    assert (hugging_face.token, hugging_face.hf_token) == (None, "hf_1")


def test_connections_are_a_limit_for_each_host_too() -> None:
    """One number says it all, as `--connections` does."""
    found = read({"MODELHAUL_CONNECTIONS": "7"})

    assert (found.connections, found.host_connections) == (7, 7)


def test_an_argument_wins_over_the_environment() -> None:
    """Argument, then environment, then default."""
    found = dataclasses.replace(
        read({"MODELSCOPE_ENDPOINT": "https://a.test", "MODELHAUL_CONNECTIONS": "7"}),
        endpoint="b.test",
    )

    assert (found.endpoint, found.connections, found.files_at_once) == ("https://b.test", 7, 8)


# -- endpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("modelscope.cn", "https://modelscope.cn"),
        ("www.modelscope.ai/", "https://www.modelscope.ai"),
        ("https://hub.test///", "https://hub.test"),
        (" http://127.0.0.1:8000/ ", "http://127.0.0.1:8000"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("LOCALHOST", "http://LOCALHOST"),
        ("localhost/base/", "http://localhost/base"),
        ("localhost.evil.test", "https://localhost.evil.test"),
        ("127.0.0.1.evil.test", "https://127.0.0.1.evil.test"),
        ("https://127.0.0.1:8000", "https://127.0.0.1:8000"),
        ("HTTPS://hub.test/base", "HTTPS://hub.test/base"),
    ],
)
def test_an_endpoint_needs_no_scheme(text: str, endpoint: str) -> None:
    """A bare host means https, one of this machine http; slashes at the end are dropped."""
    assert normal_endpoint(text) == endpoint
    assert Settings(endpoint=text).endpoint == endpoint


@pytest.mark.parametrize(
    "text", ["", " ", "/", "ftp://hub.test", "hub.test:port", "https://hub.test:99999"]
)
def test_an_endpoint_that_is_none_is_refused(text: str) -> None:
    """Before anything is asked."""
    with pytest.raises(UsageError):
        Settings(endpoint=text)


# -- nonsense ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MODELHAUL_CONNECTIONS", "MODELHAUL_PATIENCE"])
@pytest.mark.fault("a variable of the environment is no number", "refused by its name", number=122)
@pytest.mark.parametrize("value", ["many", "0x10", "--", " "])
def test_a_variable_that_is_no_number_is_refused_by_name(name: str, value: str) -> None:
    """The message says which variable, and what it holds."""
    with pytest.raises(UsageError) as caught:
        read({name: value})

    assert str(caught.value) == f"{name}: not a number: {value!r}"


@pytest.mark.fault("a setting makes no sense", "refused by its name", number=122)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connections", 0),
        ("connections", -1),
        ("connections", 10**9),
        ("host_connections", 0),
        ("host_connections", 1025),
        ("files_at_once", 0),
        ("files_at_once", 257),
        ("patience", 0),
        ("patience", -1.0),
        ("patience", float("nan")),
        ("connect_timeout", 0),
        ("head_timeout", 0),
        ("idle_timeout", -5),
        ("limit_rate", 0),
        ("limit_rate", -1),
        ("memory", 0),
        ("memory", (8 << 20) - 1),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(name: str, value: float) -> None:
    """No streams, a billion streams, negative limits."""
    with pytest.raises(UsageError) as caught:
        Settings(**{name: value})

    assert str(caught.value).startswith(f"{name}: ")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("connections", 1), ("connections", 1024), ("memory", 8 << 20), ("limit_rate", 0.5)],
)
def test_the_edges_make_sense(name: str, value: float) -> None:
    """The smallest and largest values are accepted."""
    assert getattr(Settings(**{name: value}), name) == value


def test_secrets_are_not_shown() -> None:
    """Settings are printed when something is looked into."""
    found = read(
        {
            "MODELSCOPE_API_TOKEN": "TOPSECRET",
            "HF_TOKEN": "TOPSECRET",
            "https_proxy": "http://me:TOPSECRET@proxy.test:1",
        }
    )

    assert found.token == found.hf_token == "TOPSECRET"
    assert "TOPSECRET" not in repr(found)


# -- proxies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "plain", "secure"),
    [
        ({}, None, None),
        ({"http_proxy": "http://p:1"}, "http://p:1", None),
        ({"https_proxy": "http://p:1"}, None, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, None, "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "http://p:1", None),
        ({"all_proxy": "socks5h://p:1"}, "socks5h://p:1", "socks5h://p:1"),
        ({"ALL_PROXY": "socks5://p:1"}, "socks5://p:1", "socks5://p:1"),
        ({"all_proxy": "http://a:1", "https_proxy": "http://p:1"}, "http://a:1", "http://p:1"),
        ({"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:1"}, None, "http://a:1"),
        ({"https_proxy": "p:3128"}, None, "http://p:3128"),
        ({"https_proxy": "me:word@p:3128"}, None, "http://me:word@p:3128"),
        ({"https_proxy": "SOCKS5://p:1"}, None, "SOCKS5://p:1"),
        ({"https_proxy": ""}, None, None),
    ],
)
def test_a_proxy_is_for_a_scheme_or_for_all(
    environ: dict[str, str], plain: str | None, secure: str | None
) -> None:
    """Lower case wins over upper case, the scheme's own over `all`; no scheme means http."""
    found = read(environ)

    assert found.proxy_for("http://hub.test/x") == plain
    assert found.proxy_for("https://hub.test/x") == secure


@pytest.mark.parametrize("kind", ["ftp", "quic", "file", "https+unix"])
@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
def test_a_proxy_of_another_kind_is_refused_by_name(name: str, kind: str) -> None:
    """The message has the variable and the kind, not the password."""
    with pytest.raises(UsageError) as caught:
        read({name: f"{kind}://me:TOPSECRET@p:1"})

    assert name.lower() in str(caught.value).lower()
    assert kind in str(caught.value)
    assert "TOPSECRET" not in str(caught.value)


@pytest.mark.parametrize("extra", [{}, {"https_proxy": "http://safe:1"}])
def test_http_proxy_is_not_believed_in_a_cgi_program(extra: dict[str, str]) -> None:
    """There HTTP_PROXY is a request's `Proxy:` header (httpoxy, CVE-2016-5385)."""
    found = read({"HTTP_PROXY": "http://evil:1", "REQUEST_METHOD": "GET", **extra})

    assert found.proxy_for("http://hub.test/") is None
    assert found.proxy_for("https://hub.test/") == extra.get("https_proxy")


def test_http_proxy_in_lower_case_is_believed_everywhere() -> None:
    """No request header can set it."""
    found = read({"http_proxy": "http://p:1", "REQUEST_METHOD": "GET"})

    assert found.proxy_for("http://hub.test/") == "http://p:1"


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("hub.test", "https://hub.test/x", True),
        ("hub.test", "https://cdn.hub.test/x", True),
        (".hub.test", "https://cdn.hub.test/x", True),
        ("hub.test", "https://otherhub.test/x", False),
        ("HUB.test", "https://hub.TEST/x", True),
        ("hub.test:8443", "https://hub.test:8443/x", True),
        ("hub.test:8443", "https://hub.test/x", False),
        ("hub.test:443", "https://hub.test/x", True),
        ("a.test, hub.test ,b.test", "https://hub.test/x", True),
        ("127.0.0.1", "http://127.0.0.1:8000/x", True),
        ("localhost,127.0.0.1,::1", "http://[::1]:8000/x", True),
        ("*", "https://hub.test/x", True),
        ("", "https://hub.test/x", False),
        (",", "https://hub.test/x", False),
    ],
)
def test_no_proxy_names_hosts_that_are_reached_directly(
    no_proxy: str, url: str, direct: bool
) -> None:
    """Hosts with all below them, with or without a port; `*` means all."""
    found = read({"all_proxy": "http://p:1", "NO_PROXY": no_proxy})

    assert found.proxy_for(url) == (None if direct else "http://p:1")


def test_single_settings_are_typed_like_the_whole() -> None:
    """What `Client(...)` takes by name is every field of `Settings`, and nothing else."""
    assert get_type_hints(SettingChanges) == get_type_hints(Settings)
