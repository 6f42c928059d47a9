"""The embedded hub as one application: both protocols over one shelf, on one port.

Their paths differ but for files of datasets, `/datasets/owner/name/resolve/...`; there the Hugging
Face answer serves both, as it says all that the other one does.
"""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from modelhaul.server import huggingface, modelscope
from modelhaul.server.options import ServeOptions
from modelhaul.server.shelf import Shelf, Shelved

#: Bytes of a request's body: a list of paths may be long.
_MOST_ASKED = 16 << 20


def hub_app(shelf: Shelf, options: ServeOptions) -> web.Application:
    """The hub: listings, revisions, files, for clients of either hub."""
    app = web.Application(client_max_size=_MOST_ASKED)
    app.add_routes([*modelscope.routes(shelf, options), *huggingface.routes(shelf, options)])
    app.router.add_route("*", "/{rest:.*}", modelscope.nothing)
    return app


def describe(repositories: Iterable[Shelved]) -> list[str]:
    """One line per repository, for people."""
    return [
        f"{shelved.kind} {shelved.id} ({', '.join(name for name, _ in shelved.folders)})"
        for shelved in repositories
    ]
