"""The store that large files are redirected to: signed URLs that expire, as the real hubs have."""

from __future__ import annotations

import hashlib
import hmac
import time
from urllib.parse import quote

from aiohttp import web

from modelhaul.core.repo import is_commit
from modelhaul.server.body import send_file
from modelhaul.server.options import ServeOptions, same_secret
from modelhaul.server.shelf import ServedFile, Shelf


def cdn_app(shelf: Shelf, options: ServeOptions) -> web.Application:
    """The store that signed URLs lead to: no credentials, only the signature counts."""
    app = web.Application()

    async def blob(request: web.Request) -> web.StreamResponse:
        digest = request.match_info["sha256"]
        expires = request.query.get("Expires", "")
        signed = same_secret(
            request.query.get("Signature", ""), _signature(options, digest, expires)
        )
        if not signed or not expires.isdigit() or int(expires) < time.time():
            raise web.HTTPForbidden(text="signature expired or wrong")
        file = await shelf.by_digest(digest)
        if file is None or not file.unchanged():
            raise web.HTTPNotFound
        commit = request.query.get("commit")
        headers = {"X-Repo-Commit": commit} if commit is not None and is_commit(commit) else {}
        return await send_file(request, file, headers=headers, rate=options.rate, log=options.log)

    app.router.add_get("/blob/{sha256:[0-9a-f]{64}}", blob)
    return app


def _signature(options: ServeOptions, digest: str, expires: str) -> str:
    return hmac.new(options.secret, f"{digest} {expires}".encode(), hashlib.sha256).hexdigest()


def signed_url(options: ServeOptions, file: ServedFile, *, commit: str | None = None) -> str:
    """Where the store sends a file for a while.

    Args:
        commit: the store says it again. huggingface_hub 1.31 to 2.1.1 follow a redirect to another
            port of the same host when they ask for metadata, and look for it there.
    """
    expires = str(int(time.time() + options.signature_seconds))
    signature = _signature(options, file.sha256, expires)
    return (
        f"{options.cdn}/blob/{file.sha256}?Expires={expires}&Signature={signature}"
        f"&filename={quote(file.path, safe='')}"
        + (f"&commit={commit}" if commit is not None else "")
    )
