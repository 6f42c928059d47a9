"""Everything that can be set, in one frozen value; the only reader of the environment.

Precedence, everywhere: argument > environment > file > default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelhaul.core.origin import origin_of
from modelhaul.errors import UsageError

DEFAULT_ENDPOINT = "https://modelscope.cn"
MAX_CONNECTIONS = 64
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How downloads behave. Build it with `from_environment()` and `dataclasses.replace()`.

    Attributes:
        endpoint: ModelScope site to talk to, without a trailing slash.
        token: API token; None means the saved login, "" means none at all.
        home: where ModelScope's tools keep the login (`~/.modelscope`).
        cache_dir: ModelScope's cache (`~/.cache/modelscope`).
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
        proxies: proxy URL by scheme (`http`, `https`, `all`).
        no_proxy: hosts that are reached without a proxy, as in `NO_PROXY`.
        ca_file, ca_folder: certificates to trust instead of the system's.
    """

    endpoint: str = DEFAULT_ENDPOINT
    token: str | None = field(default=None, repr=False)
    home: Path = Path("~/.modelscope")
    cache_dir: Path = Path("~/.cache/modelscope")
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
        object.__setattr__(self, "endpoint", normal_endpoint(self.endpoint))
        for name in ("home", "cache_dir", "state_dir"):
            object.__setattr__(self, name, Path(getattr(self, name)).expanduser())

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Settings as the environment has them; what it does not name is the default.

        Raises:
            UsageError: a variable holds nonsense; the message names it.
        """
        env = os.environ if environ is None else environ
        found: dict[str, object] = {}
        endpoint = env.get("MODELSCOPE_ENDPOINT") or env.get("MODELSCOPE_DOMAIN")
        if endpoint:
            found["endpoint"] = endpoint
        # An empty token is a statement too: use none.
        if "MODELSCOPE_API_TOKEN" in env:
            found["token"] = env["MODELSCOPE_API_TOKEN"].strip()
        if env.get("MODELSCOPE_HOME"):
            found["home"] = Path(env["MODELSCOPE_HOME"])
        if env.get("MODELSCOPE_CACHE"):
            found["cache_dir"] = Path(env["MODELSCOPE_CACHE"])
        if env.get("MODELHAUL_STATE"):
            found["state_dir"] = Path(env["MODELHAUL_STATE"])
        elif env.get("XDG_STATE_HOME"):
            found["state_dir"] = Path(env["XDG_STATE_HOME"]) / "modelhaul"
        if env.get("MODELHAUL_CONNECTIONS"):
            found["connections"] = _number(env, "MODELHAUL_CONNECTIONS")
        if env.get("MODELHAUL_PATIENCE"):
            found["patience"] = float(_number(env, "MODELHAUL_PATIENCE"))
        found["proxies"] = {
            scheme: value
            for scheme in ("http", "https", "all")
            if (value := _proxy(env, scheme)) is not None
        }
        found["no_proxy"] = env.get("no_proxy") or env.get("NO_PROXY") or ""
        found["ca_file"] = (
            env.get("SSL_CERT_FILE")
            or env.get("REQUESTS_CA_BUNDLE")
            or env.get("CURL_CA_BUNDLE")
            or None
        )
        found["ca_folder"] = env.get("SSL_CERT_DIR") or None
        return cls(**found)  # type: ignore[arg-type]

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

    Raises:
        UsageError: it is no http(s) address.
    """
    value = text.strip().rstrip("/")
    if "://" not in value:
        value = f"https://{value}"
    origin_of(value)
    return value


def _proxy(env: Mapping[str, str], scheme: str) -> str | None:
    value = env.get(f"{scheme}_proxy") or env.get(f"{scheme.upper()}_PROXY")
    if not value:
        return None
    # In a CGI program HTTP_PROXY comes from a request header ("httpoxy", CVE-2016-5385).
    if scheme == "http" and "REQUEST_METHOD" in env and not env.get("http_proxy"):
        return None
    if "://" not in value:
        value = f"http://{value}"
    kind = value.partition("://")[0].lower()
    if kind not in ("http", "https", "socks4", "socks4a", "socks5", "socks5h", "socks"):
        raise UsageError(f"{scheme}_proxy: cannot use a proxy of kind {kind!r}")
    return value


def _number(env: Mapping[str, str], name: str) -> int:
    try:
        return int(env[name])
    except ValueError:
        raise UsageError(f"{name}: not a number: {env[name]!r}") from None


def _positive(name: str, value: float, most: float = float("inf")) -> None:
    if not 0 < value <= most:
        limit = f" and at most {most:g}" if most != float("inf") else ""
        raise UsageError(f"{name}: must be more than 0{limit}, not {value:g}")
