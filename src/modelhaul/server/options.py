"""How the embedded hub serves, and who may see what it has."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from modelhaul.server.body import RequestLog


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How the hub serves.

    Attributes:
        token: only requests that carry it see anything; None serves everybody.
        rate: bytes/s per answer, None for no limit.
        log: counts the bytes of every answer, None not to.
        cdn: base URL that large files are redirected to with a signature; None sends them itself.
        cdn_from: bytes from which a file counts as large.
        signature_seconds: how long a signed URL works.
        secret: the key of the signatures.
    """

    token: str | None = field(default=None, repr=False)
    rate: float | None = None
    log: RequestLog | None = None
    cdn: str | None = None
    cdn_from: int = 1 << 20
    signature_seconds: float = 1200.0
    secret: bytes = field(default=b"", repr=False)


def same_secret(given: str, expected: str) -> bool:
    """Compare a secret in constant time; what came over the wire may be any bytes."""
    return hmac.compare_digest(
        given.encode(errors="surrogateescape"), expected.encode(errors="surrogateescape")
    )
