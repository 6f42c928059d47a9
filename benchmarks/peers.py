"""Commands: ours, and those of the tools that a user would pick instead.

Each gets what its manual recommends for the job, and nothing that talks to anybody but the
server under test. Every run has a home of its own, so that nothing is remembered.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.origin import find_nginx
from benchmarks.processes import ROOT

PEERS = ROOT / ".venv-peers" / "bin"
MODELHAUL = Path(sys.executable).parent / "modelhaul"
PINNED = {"hf_transfer": "0.1.9", "modelscope": "1.40.2", "huggingface_hub": "2.4.0"}

_HF_TRANSFER = """
import hashlib, sys
import hf_transfer
url, file, connections, sha256 = sys.argv[1:5]
hf_transfer.download(url=url, filename=file, max_files=int(connections), chunk_size=10_485_760,
                     parallel_failures=3, max_retries=5)
with open(file, "rb") as opened:
    if hashlib.file_digest(opened, "sha256").hexdigest() != sha256:
        sys.exit("wrong digest")
"""
_VERSIONS = """
import importlib.metadata as metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Command:
    """What is run, and what its environment has besides the usual."""

    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


def environment(home: Path) -> dict[str, str]:
    """That of a fresh machine: no login, no memory, no proxy, no certificates of one's own."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TMPDIR": str(home),
    }


# -- ours: product defaults; a number of connections only where the case's title names one --------


def modelhaul_get(
    *urls: str, file: Path, sha256: str, connections: int | None = None, trust: Path | None = None
) -> Command:
    words = [str(MODELHAUL), "get", *urls, "--sha256", sha256, "-o", str(file), "--json"]
    if connections is not None:
        words += ["--connections", str(connections)]
    return Command(tuple(words), _trust(trust))


def modelhaul_download(
    repo: str, endpoint: str, folder: Path, *more: str, as_json: bool = True
) -> Command:
    words = [str(MODELHAUL), "download", repo, "--endpoint", endpoint, "--local-dir", str(folder)]
    return Command((*words, *(["--json"] if as_json else []), *more))


# -- theirs ---------------------------------------------------------------------------------------


def aria2c(
    *urls: str,
    file: Path,
    connections: int,
    sha256: str | None = None,
    at_once: int = 1,
    allocation: str = "none",
) -> Command:
    """aria2 over that many connections per file; several URLs are several files.

    Without preallocation, which would write every byte twice on a tmpfs (`allocation` is what its
    manual has for a disk), and split down to the least it takes, or it would not use the
    connections.
    """
    words = ["aria2c", "--no-conf", f"-x{connections}", f"-s{connections}", "-k1M"]
    words += [
        f"--file-allocation={allocation}",
        "--console-log-level=error",
        "--summary-interval=0",
    ]
    words += ["-d", str(file.parent), f"-j{at_once}"]
    if len(urls) == 1:
        words += ["-o", file.name]
    else:
        words += ["-Z"]
    if sha256 is not None:
        words += [f"--checksum=sha-256={sha256}"]
    return Command((_path("aria2c"), *words[1:], *urls))


def curl(url: str, file: Path, *, trust: Path | None = None) -> Command:
    words = [_path("curl"), "-sS", "--fail", "-o", str(file)]
    if trust is not None:
        words += ["--cacert", str(trust)]
    return Command((*words, url))


def hf_transfer(
    url: str, file: Path, sha256: str, *, connections: int, trust: Path | None = None
) -> Command:
    """hf_transfer in the chunks that huggingface_hub asked it for, then SHA-256 over the file."""
    words = (str(PEERS / "python"), "-c", _HF_TRANSFER, url, str(file), str(connections), sha256)
    return Command(words, _trust(trust))


def modelscope(repo: str, endpoint: str, folder: Path) -> Command:
    words = (str(PEERS / "modelscope"), "download", "--model", repo, "--local_dir", str(folder))
    # Without the second it asks the cloud it may be in where it is.
    return Command(
        words, {"MODELSCOPE_ENDPOINT": endpoint, "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "false"}
    )


def hf(repo: str, endpoint: str, folder: Path) -> Command:
    words = (str(PEERS / "hf"), "download", repo, "--local-dir", str(folder))
    quiet = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK")
    return Command(words, {"HF_ENDPOINT": endpoint, **dict.fromkeys(quiet, "1")})


def _trust(certificate: Path | None) -> dict[str, str]:
    return {} if certificate is None else {"SSL_CERT_FILE": str(certificate)}


def _path(tool: str) -> str:
    return shutil.which(tool) or tool


# -- what is there --------------------------------------------------------------------------------


def missing(tool: str) -> str | None:
    """Why a tool's rows are skipped; None if it is there."""
    if tool == "nginx":
        return None if find_nginx() else "nginx is not installed"
    if tool in ("aria2c", "curl"):
        return None if shutil.which(tool) else f"{tool} is not installed"
    program, package = {
        "hf_transfer": ("python", "hf_transfer"),
        "modelscope": ("modelscope", "modelscope"),
        "hf": ("hf", "huggingface_hub"),
    }[tool]
    if not (PEERS / program).exists() or package not in packages():
        return f"{package} is not in .venv-peers (make .venv-peers/installed)"
    return None


def packages() -> dict[str, str]:
    """Versions of the peers from PyPI that are installed."""
    python = PEERS / "python"
    if not python.exists():
        return {}
    command = [str(python), "-c", _VERSIONS, *PINNED, "modelscope-hub"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def versions() -> dict[str, str]:
    """Of everything that takes part."""
    found = {"modelhaul": _modelhaul(), **packages(), "python": sys.version.split()[0]}
    for tool, path in (
        ("aria2c", shutil.which("aria2c")),
        ("curl", shutil.which("curl")),
        ("nginx", find_nginx()),
    ):
        if path is not None:
            option = "-v" if tool == "nginx" else "--version"
            done = subprocess.run([path, option], capture_output=True, text=True)
            first = (done.stdout or done.stderr).splitlines()[0]
            found[tool] = next(
                (it for it in first.replace("/", " ").split() if it[0].isdigit()), "?"
            )
    return found


def _modelhaul() -> str:
    from modelhaul.version import __version__

    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True)
    if commit.returncode != 0:
        return __version__
    # Of src only: the results that are being written change the tree, too.
    clean = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "src"]).returncode == 0
    return f"{__version__} ({commit.stdout.decode().strip()}{'' if clean else ', changed'})"
