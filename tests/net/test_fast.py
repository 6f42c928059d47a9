"""What holds of the fast path alone; what both have in common is in test_http.py."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import anyio

from modelhaul.core.span import Span
from modelhaul.net.connection import Connection
from modelhaul.net.fast import FastTransport
from modelhaul.net.transport import Request
from modelhaul.settings import Settings
from tests.net.bucket import Bucket
from tests.net.conftest import Certificate, Run
from tests.net.rawserver import Exchange, answer, raw_server

SIZE = 1 << 20
RANGE = f"bytes 0-{SIZE - 1}/{SIZE}"


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    """Nothing is freed but by its last reference."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def connections() -> list[Connection]:
    """Those that are alive."""
    return [found for found in gc.get_objects() if isinstance(found, Connection)]


def test_a_connection_that_was_broken_off_is_freed_at_once(
    run: Run, certificate: Certificate
) -> None:
    """With TLS each holds up to a megabyte, and the garbage collector may not come for minutes."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(answer(bytes(SIZE), status="206 Partial Content", Content_Range=RANGE))

    async def main() -> None:
        net = FastTransport(Settings(ca_file=str(certificate.file)))
        async with raw_server(script, tls=certificate.server) as server:
            for _ in range(3):
                wanted = Request(url=server.url(), span=Span(0, SIZE), size=SIZE)
                await net.fetch(wanted, Bucket(SIZE // 2, lend=1 << 14))
            with anyio.fail_after(10):
                await server.wait_closed()
            await anyio.wait_all_tasks_blocked()
            assert connections() == []
            assert server.connections == 3
            await net.aclose()

    with no_collector():
        run(main)
