"""`modelhaul serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelhaul.cli.output import View, print_line, printable
from modelhaul.cli.session import INTERRUPTED, run
from modelhaul.core.units import parse_size
from modelhaul.errors import UsageError


def serve(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Holds owner/name/ trees.")],
    port: Annotated[
        int, typer.Option(metavar="N", help="0 takes a free one.", min=0, max=65535)
    ] = 8000,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="Answer only requests that carry this token."),
    ] = None,
    limit_rate: Annotated[
        str | None,
        typer.Option(metavar="RATE", help="Most bytes per second of one connection: 20MB."),
    ] = None,
    cdn: Annotated[
        bool,
        typer.Option(
            "--cdn", help="Redirect large files to signed URLs on a second port, as real hubs do."
        ),
    ] = False,
    request_log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append a JSON line per answer: bytes really sent."),
    ] = None,
) -> None:
    """Serve a folder as a hub.

    For modelhaul and the official clients of ModelScope and of Hugging Face at once.
    DIR/owner/name is a model, DIR/datasets/owner/name a dataset, DIR/spaces/owner/name a space;
    DIR/owner/name@v1.0.0 is revision v1.0.0 of it. Every file is hashed once. The first line on
    stdout is the address.

    \b
    modelhaul serve ./models --port 8000
    MODELSCOPE_ENDPOINT=http://127.0.0.1:8000 modelhaul download owner/name
    MODELSCOPE_ENDPOINT=http://127.0.0.1:8000 modelscope download owner/name
    HF_ENDPOINT=http://127.0.0.1:8000 hf download owner/name
    """
    from modelhaul.cli.views import PlainView

    view = PlainView()
    is_folder, root = folder.is_dir(), folder.resolve()

    async def main() -> int:
        rate = parse_size(limit_rate) if limit_rate is not None else None
        if not is_folder:
            raise UsageError(f"{folder} is not a folder")
        await _serve(root, host, port, token, rate, cdn, request_log, view)
        return 0

    # Not on uvloop: it has no sendfile, which is most of what a server does.
    code = run(main, view, stopping="stopped", uvloop=False)
    # Being stopped is how a server ends.
    raise typer.Exit(0 if code == INTERRUPTED else code)


async def _serve(
    folder: Path,
    host: str,
    port: int,
    token: str | None,
    rate: float | None,
    cdn: bool,
    request_log: Path | None,
    view: View,
) -> None:
    import os
    from contextlib import AsyncExitStack
    from dataclasses import replace

    import anyio

    from modelhaul.engine.threads import WorkerThreads
    from modelhaul.server.app import describe, hub_app
    from modelhaul.server.body import RequestLog
    from modelhaul.server.cdn import cdn_app
    from modelhaul.server.options import ServeOptions
    from modelhaul.server.serve import running
    from modelhaul.server.shelf import Shelf
    from modelhaul.settings import Settings
    from modelhaul.store.index import ProvenIndex

    index = ProvenIndex(Settings.from_environment().state_dir / "proven.sqlite")
    shelf = Shelf(folder, index, WorkerThreads())
    options = ServeOptions(token=token, rate=rate, secret=os.urandom(16))
    async with AsyncExitStack() as stack:
        if request_log is not None:
            file = stack.enter_context(request_log.open("a"))
            options = replace(options, log=RequestLog(file))
        repositories = await shelf.repositories()
        advice = await anyio.to_thread.run_sync(_advice, folder, bool(repositories))
        if advice:
            view.say(printable(advice))
        for line in describe(repositories):
            view.say(printable(line))
        for shelved in repositories:
            for name, _ in shelved.folders:
                await shelf.snapshot(shelved, name)
        if cdn:
            store = await stack.enter_async_context(running(cdn_app(shelf, options), host, 0))
            options = replace(options, cdn=store)
        url = await stack.enter_async_context(running(hub_app(shelf, options), host, port))
        view.say(f"serving {folder}; use it with MODELSCOPE_ENDPOINT={url} or HF_ENDPOINT={url}")
        print_line(url)
        await anyio.sleep_forever()


def _advice(folder: Path, any_found: bool) -> str | None:
    """What to say of a folder that is a model itself, or the folder of one owner.

    Nothing of it would be served, or its inner folders under names that nobody asks for.
    """
    for name, root in ((folder, folder.parent.parent), (_first_model(folder), folder.parent)):
        if name is not None and _is_model(name) and root != name:
            shown = f"{name.parent.name}/{name.name}"
            return f"note: {name} is a model itself; to serve it as {shown} give {root}"
    return None if any_found else f"note: no owner/name/ folders in {folder} yet"


def _first_model(folder: Path) -> Path | None:
    """A model right below the folder, where owners should be."""
    return next((child for child in sorted(folder.iterdir()) if _is_model(child)), None)


def _is_model(folder: Path) -> bool:
    """Whether it looks like one: what every model on ModelScope has."""
    return any((folder / name).is_file() for name in ("config.json", "configuration.json"))
