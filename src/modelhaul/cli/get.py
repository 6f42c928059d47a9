"""`modelhaul get`."""

from __future__ import annotations

from typing import Annotated

import typer

from modelhaul.cli.options import (
    Connections,
    Force,
    Json,
    LimitRate,
    Quiet,
    changed_settings,
    choose_view,
)
from modelhaul.cli.session import run


def get(
    url: Annotated[str, typer.Argument(metavar="URL", help="http or https.")],
    mirrors: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MIRROR]...", help="More sources of the same file."),
    ] = None,
    output: Annotated[
        # Not a Path: that would drop the separator which makes it a folder.
        str | None,
        typer.Option("-o", "--output", metavar="PATH", help="File, or folder/, to write to."),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="What the content must have.")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="'K: V'", help="An extra header, for the first URL's host only."),
    ] = None,
    connections: Connections = None,
    limit_rate: LimitRate = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Download one file from URLs.

    From one or several, over many connections. With --sha256 all URLs are used at once and the
    digest judges. Without it the size and the server's validator are held, and the computed SHA-256
    is printed. The last line on stdout is the file.

    \b
    modelhaul get https://host/w.safetensors --sha256 9f2c...
    modelhaul get https://host/w.bin https://mirror/w.bin -o weights/w.bin
    modelhaul get https://host/private.bin --header 'Authorization: Bearer ...'
    """
    view = choose_view(quiet=quiet, as_json=as_json)

    async def main() -> int:
        from modelhaul.client import Client
        from modelhaul.hubs.url import parse_header

        headers = dict(parse_header(text) for text in header or ())
        async with Client(changed_settings(connections, limit_rate)) as client:
            report = await client.get(
                url,
                *(mirrors or ()),
                path=output,
                sha256=sha256,
                headers=headers,
                force=force,
                on_event=view,
            )
        if not report.verified:
            view.say(f"sha256: {report.files[0].sha256}")
        view.result(report.path)
        return 0

    raise typer.Exit(run(main, view))
