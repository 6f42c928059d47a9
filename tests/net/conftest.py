"""Both event loops, and certificates of our own."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

Run = Callable[[Callable[[], Awaitable[Any]]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs an async function on plain asyncio and on uvloop."""
    options = {"use_uvloop": request.param == "uvloop"}

    def runner(main: Callable[[], Awaitable[Any]]) -> Any:
        return anyio.run(main, backend_options=options)

    return runner


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate and a server context that uses it."""

    file: Path
    server: ssl.SSLContext


def _make(folder: Path, name: str) -> Certificate:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("the openssl program makes the certificates")
    key, file = folder / f"{name}.key", folder / f"{name}.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subject = ["-subj", "/CN=test", "-addext", f"subjectAltName={name}", "-days", "2"]
    subprocess.run(
        [program, "req", "-x509", *kind, "-keyout", key, "-out", file, *subject],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file, key)
    return Certificate(file, context)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """For 127.0.0.1."""
    return _make(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1")


@pytest.fixture(scope="session")
def foreign_certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """For another host."""
    return _make(tmp_path_factory.mktemp("tls"), "DNS:elsewhere.test")
