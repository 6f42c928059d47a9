"""Running the embedded hub until it is stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from modelhaul.errors import StorageError


@asynccontextmanager
async def running(app: web.Application, host: str, port: int) -> AsyncIterator[str]:
    """Serve `app` while the block runs; gives its base URL. Port 0 takes a free one.

    Raises:
        StorageError: the address cannot be used.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise StorageError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                hint="choose another --port; 0 takes a free one",
            ) from error
        real = runner.addresses[0]
        shown = f"[{real[0]}]" if ":" in real[0] else real[0]
        yield f"http://{shown}:{real[1]}"
    finally:
        await runner.cleanup()
