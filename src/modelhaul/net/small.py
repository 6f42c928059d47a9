"""Small answers, read whole: listings, descriptions. One rule for every path."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import anyio

from modelhaul.core.origin import shown
from modelhaul.errors import ProtocolError, TimedOut
from modelhaul.net.push import Read

#: Bytes/s that an answer to a call must have on average, once the time for its head is over.
_FLOOR = 1024


async def read_whole(read: Read, url: str, limit: int, patience: float) -> bytearray:
    """A whole body, which must keep coming at some speed.

    Args:
        read: gives the next bytes, b"" at the end of the body.
        url: what was asked.
        limit: most bytes.
        patience: seconds before the speed counts.

    Raises:
        ProtocolError: it is longer than `limit`.
        TimedOut: it comes in drops.
        TransportError: as `read`.
    """
    body = bytearray()
    began = anyio.current_time()
    while data := await read():
        body += data
        if len(body) > limit:
            raise ProtocolError(f"{shown(url)} sends more than {limit} bytes")
        seconds = anyio.current_time() - began
        if seconds > patience and len(body) < _FLOOR * seconds:
            raise TimedOut(f"{shown(url)} sends its answer in drops")
    return body


def decoded(url: str, headers: Mapping[str, str], body: bytearray, limit: int) -> bytes:
    """The body without its content coding.

    Raises:
        ProtocolError: a coding nobody asked for, damaged, cut, or longer than `limit` bytes.
    """
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding in ("", "identity"):
        return bytes(body)
    if coding not in ("gzip", "x-gzip"):
        raise ProtocolError(f"{shown(url)} sends a body with {coding} encoding")
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        data = inflater.decompress(bytes(body), limit + 1)
    except zlib.error as error:
        raise ProtocolError(f"{shown(url)} sends a damaged gzip body ({error})") from None
    if len(data) > limit or not inflater.eof:
        raise ProtocolError(f"{shown(url)} sends more than {limit} bytes, or a cut body")
    return data
