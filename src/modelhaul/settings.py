"""Everything that can be set, in one frozen value; the only reader of the environment.

Precedence, everywhere: argument > environment > file > default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TypedDict, TypeVar, Unpack
from urllib.parse import urlsplit

from modelhaul.core.origin import origin_of, shown
from modelhaul.errors import UsageError

DEFAULT_ENDPOINT = "https://modelscope.cn"
DEFAULT_HF_ENDPOINT = "https://huggingface.co"
MAX_CONNECTIONS = 64
MIB = 1 << 20

T = TypeVar("T")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOOPBACK = re.compile(r"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(?=[:/]|$)", re.IGNORECASE)


class SettingChanges(TypedDict, total=False):
    """Single settings by name: the fields of `Settings` without defaults. A test compares them."""

    endpoint: str
    token: str | None
    home: Path
    cache_dir: Path
    hf_endpoint: str
    hf_token: str | None
    hf_token_path: Path
    hf_cache_dir: Path
    hf_links: bool
    state_dir: Path
    connections: int
    host_connections: int
    limit_rate: float | None
    files_at_once: int
    patience: float
    connect_timeout: float
    head_timeout: float
    idle_timeout: float
    memory: int
    reserve: bool
    reuse: bool
    fast: bool
    proxies: Mapping[str, str]
    no_proxy: str
    ca_file: str | None
    ca_folder: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How downloads behave. Build it with `from_environment()` and `changed()`.

    Attributes:
        endpoint: ModelScope site to talk to, without a trailing slash.
        token: ModelScope's API token; None means the saved login, "" means none at all.
        home: where ModelScope's tools keep the login (`~/.modelscope`).
        cache_dir: ModelScope's cache (`~/.cache/modelscope`).
        hf_endpoint: Hugging Face site to talk to, without a trailing slash.
        hf_token: its token; None means the one in `hf_token_path`, "" means none at all.
        hf_token_path: where `hf auth login` keeps the token.
        hf_cache_dir: the Hugging Face cache (`~/.cache/huggingface/hub`).
        hf_links: make links in that cache, as its own tools do where the file system can.
        state_dir: our own memory of proven files; may be deleted at any time.
        connections: most connections at once, over all hosts.
        host_connections: most connections at once to one host.
        limit_rate: bytes/s over all connections, None for no limit.
        files_at_once: most large files in motion.
        patience: seconds without one new byte from any source after which a run gives up.
        connect_timeout: seconds for a connection to be made.
        head_timeout: seconds from a request to the head of its answer.
        idle_timeout: seconds a connection may be silent within a body.
        memory: bytes of payload buffers, together.
        reserve: really allocate disk blocks before the first byte.
        reuse: copy what lies elsewhere on this disk instead of fetching it.
        fast: receive straight into our own buffers where that is possible.
        proxies: proxy URL by scheme (`http`, `https`, `all`).
        no_proxy: hosts that are reached without a proxy, as in `NO_PROXY`.
        ca_file, ca_folder: certificates to trust instead of the system's.
    """

    endpoint: str = DEFAULT_ENDPOINT
    token: str | None = field(default=None, repr=False)
    home: Path = Path("~/.modelscope")
    cache_dir: Path = Path("~/.cache/modelscope")
    hf_endpoint: str = DEFAULT_HF_ENDPOINT
    hf_token: str | None = field(default=None, repr=False)
    hf_token_path: Path = Path("~/.cache/huggingface/token")
    hf_cache_dir: Path = Path("~/.cache/huggingface/hub")
    hf_links: bool = True
    state_dir: Path = Path("~/.local/state/modelhaul")
    connections: int = MAX_CONNECTIONS
    host_connections: int = MAX_CONNECTIONS
    limit_rate: float | None = None
    files_at_once: int = 8
    patience: float = 600.0
    connect_timeout: float = 15.0
    head_timeout: float = 60.0
    idle_timeout: float = 30.0
    memory: int = 48 * MIB
    reserve: bool = False
    reuse: bool = True
    fast: bool = True
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    no_proxy: str = ""
    ca_file: str | None = None
    ca_folder: str | None = None

    def __post_init__(self) -> None:
        _positive("connections", self.connections, 1024)
        _positive("host_connections", self.host_connections, 1024)
        _positive("files_at_once", self.files_at_once, 256)
        _positive("patience", self.patience)
        _positive("connect_timeout", self.connect_timeout)
        _positive("head_timeout", self.head_timeout)
        _positive("idle_timeout", self.idle_timeout)
        if self.memory < 8 * MIB:
            raise UsageError(f"memory: at least {8 * MIB} bytes of buffers are needed")
        if self.limit_rate is not None:
            _positive("limit_rate", self.limit_rate)
        for name, token in (("token", self.token), ("hf_token", self.hf_token)):
            if token is not None and not token.isprintable():
                raise UsageError(f"{name}: holds a line break or another control character")
        for name in ("endpoint", "hf_endpoint"):
            object.__setattr__(self, name, normal_endpoint(getattr(self, name)))
        for name in ("home", "cache_dir", "hf_token_path", "hf_cache_dir", "state_dir"):
            object.__setattr__(self, name, _folder(getattr(self, name)))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Settings as the environment has them; what it does not name is the default.

        Raises:
            UsageError: a variable holds nonsense; the message names it.
        """
        env = os.environ if environ is None else environ
        found: dict[str, object] = {}
        for name, field_, convert in _VARIABLES:
            if env.get(name) and field_ not in found:
                found[field_] = _named(name, convert, env[name])
        # An empty token is a statement too: use none.
        if "MODELSCOPE_API_TOKEN" in env:
            found["token"] = _named("MODELSCOPE_API_TOKEN", _token, env["MODELSCOPE_API_TOKEN"])
        if env.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in _TRUE:
            found["hf_token"] = ""
        if (hf_home := _hf_home(env)) is not None:
            found.setdefault("hf_token_path", hf_home / "token")
            found.setdefault("hf_cache_dir", hf_home / "hub")
        if "state_dir" not in found and env.get("XDG_STATE_HOME", "").startswith("/"):
            found["state_dir"] = Path(env["XDG_STATE_HOME"]) / "modelhaul"
        if "connections" in found:
            found["host_connections"] = found["connections"]
        found["proxies"] = {
            scheme: value
            for scheme in ("http", "https", "all")
            if (value := _proxy(env, scheme)) is not None
        }
        found["no_proxy"] = env.get("no_proxy") or env.get("NO_PROXY") or ""
        return cls(**found)  # type: ignore[arg-type]

    def changed(self, **changes: Unpack[SettingChanges]) -> Settings:
        """These settings with some of them changed.

        Raises:
            UsageError: there is no such setting, or a value makes no sense; the message names it.
        """
        known = [field_.name for field_ in fields(self)]
        for name in changes:
            if name not in known:
                # Imported late: a type checker finds the mistake before anybody runs it.
                from difflib import get_close_matches

                near = get_close_matches(name, known, n=1)
                raise UsageError(
                    f"no such setting: {name}",
                    hint=f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}",
                )
        return replace(self, **changes)

    def proxy_for(self, url: str) -> str | None:
        """The proxy for a URL, None for a direct connection."""
        if not self.proxies:
            return None
        # In urllib since Python 2, missing in typeshed for Linux. Imported late: it is slow.
        from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

        origin = origin_of(url)
        host = f"{origin.host}:{origin.port}"
        if self.no_proxy and proxy_bypass_environment(host, {"no": self.no_proxy}):
            return None
        return self.proxies.get(origin.scheme) or self.proxies.get("all")


def normal_endpoint(text: str) -> str:
    """An endpoint with a scheme and without a trailing slash.

    Without a scheme it is https; on this very machine http, for what listens there is
    `modelhaul serve` or a tunnel, and nobody in between can listen.

    Raises:
        UsageError: it is no http(s) address, or has parts that an endpoint has not.
    """
    value = text.strip().rstrip("/")
    if value.lower() in ("", "http:", "https:"):
        raise UsageError(f"not an endpoint: {text!r}")
    if not _SCHEME.match(value):
        value = f"{'http' if _LOOPBACK.match(value) else 'https'}://{value}"
    origin_of(value)
    parts = urlsplit(value)
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError(
            f"not an endpoint: {shown(value)} with a user, a query or a fragment",
            hint="a token goes into --token, MODELSCOPE_API_TOKEN or HF_TOKEN",
        )
    return value


def _folder(path: Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(f"no such home: {path}") from None


def _token(text: str) -> str:
    if not text.strip().isprintable():
        raise UsageError("a token holds no line break or other control character")
    return text.strip()


def _count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        raise UsageError(f"not a number: {text!r}") from None
    _positive("it", count, 1024)
    return count


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise UsageError(f"not a number: {text!r}") from None
    _positive("it", seconds)
    return seconds


#: What huggingface_hub takes for "yes".
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})

#: Variable, setting, how to read it; of two for one setting the first counts.
_VARIABLES: tuple[tuple[str, str, Callable[[str], object]], ...] = (
    ("MODELSCOPE_ENDPOINT", "endpoint", normal_endpoint),
    ("MODELSCOPE_DOMAIN", "endpoint", normal_endpoint),
    ("MODELSCOPE_HOME", "home", lambda text: _folder(Path(text))),
    ("MODELSCOPE_CACHE", "cache_dir", lambda text: _folder(Path(text))),
    ("HF_ENDPOINT", "hf_endpoint", normal_endpoint),
    # Unlike ModelScope's, an empty one says nothing: that is how huggingface_hub reads them.
    ("HF_TOKEN", "hf_token", _token),
    ("HUGGING_FACE_HUB_TOKEN", "hf_token", _token),
    ("HF_TOKEN_PATH", "hf_token_path", lambda text: _folder(Path(text))),
    ("HF_HUB_CACHE", "hf_cache_dir", lambda text: _folder(Path(text))),
    ("HUGGINGFACE_HUB_CACHE", "hf_cache_dir", lambda text: _folder(Path(text))),
    ("HF_HUB_DISABLE_SYMLINKS", "hf_links", lambda text: text.upper() not in _TRUE),
    ("MODELHAUL_STATE", "state_dir", lambda text: _folder(Path(text))),
    ("MODELHAUL_CONNECTIONS", "connections", _count),
    ("MODELHAUL_PATIENCE", "patience", _seconds),
    ("MODELHAUL_REUSE", "reuse", lambda text: text != "0"),
    ("MODELHAUL_FAST", "fast", lambda text: text != "0"),
    ("SSL_CERT_FILE", "ca_file", str),
    ("REQUESTS_CA_BUNDLE", "ca_file", str),
    ("CURL_CA_BUNDLE", "ca_file", str),
    ("SSL_CERT_DIR", "ca_folder", str),
)


def _hf_home(env: Mapping[str, str]) -> Path | None:
    """Where the Hugging Face tools keep everything; None for the place where they usually do."""
    for name, inside in (("HF_HOME", ""), ("XDG_CACHE_HOME", "huggingface")):
        if env.get(name):
            return _named(name, lambda text: _folder(Path(text)), env[name]) / inside
    return None


def _named(name: str, convert: Callable[[str], T], text: str) -> T:
    """A variable's value; what is wrong with it is said with its name."""
    try:
        return convert(text)
    except UsageError as error:
        raise UsageError(f"{name}: {error.message}", hint=error.hint) from None


def _proxy(env: Mapping[str, str], scheme: str) -> str | None:
    """The proxy for a scheme; the lower-case name wins, also when it is empty."""
    for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY"):
        if name not in env:
            continue
        # In a CGI program HTTP_PROXY comes from a request header ("httpoxy", CVE-2016-5385).
        if name == "HTTP_PROXY" and "REQUEST_METHOD" in env:
            return None
        return _proxy_url(name, env[name].strip()) if env[name].strip() else None
    return None


def _proxy_url(name: str, value: str) -> str:
    if not _SCHEME.match(value):
        value = f"http://{value}"
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UsageError(f"{name}: not the address of a proxy") from None
    if parts.scheme not in ("http", "https", "socks4", "socks4a", "socks5", "socks5h", "socks"):
        raise UsageError(f"{name}: cannot use a proxy of kind {parts.scheme!r}")
    if not host or port == 0 or (port is None and parts.scheme.startswith("socks")):
        raise UsageError(f"{name}: a proxy needs a host, and a SOCKS proxy a port")
    return value


def _positive(name: str, value: float, most: float = float("inf")) -> None:
    if not 0 < value <= most:
        limit = f" and at most {most:g}" if most != float("inf") else ""
        raise UsageError(f"{name}: must be more than 0{limit}, not {value:g}")
