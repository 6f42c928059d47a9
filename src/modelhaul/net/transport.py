"""What the engine needs of a network: one request, one checked answer, bytes pushed into buffers.

The transport does not hand out `bytes`: it asks the receiver for memory and says how much of it it
has filled. That is what lets a fast path receive from the socket straight into our own buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from modelhaul.core.span import Span
from modelhaul.version import __version__

USER_AGENT = f"modelhaul/{__version__}"
#: Bytes of the head of an answer: a signed Location alone can take several thousand.
MAX_HEADER = 32_768


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One GET for bytes of a file. Redirects are not followed: the caller decides about each hop.

    Attributes:
        url: byte-exact; a signature may cover every character of it.
        headers: sent as they are, on top of what the transport adds; may hold credentials.
        span: which bytes are wanted; sent as `Range` unless `whole`.
        whole: ask without a range and throw away what comes before `span`.
        size: bytes of the whole file, None if nobody knows.
        validator: the strong validator that the answer must have; None if a digest will judge.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    span: Span
    whole: bool = False
    size: int | None = None
    validator: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The head of an answer that has been checked against its request.

    Attributes:
        start: position in the file of the first byte of the body.
        stop: position after the last byte of the body, None if only its end will tell.
        size: bytes of the whole file as the server has it, None if it does not say.
        validator: a strong validator, None if there is none.
        ranged: the answer is a range (not the whole body).
        framed: a cut body will show as an error (a length or chunks); else only the size tells.
    """

    start: int
    stop: int | None
    size: int | None
    validator: str | None
    ranged: bool
    framed: bool


@dataclass(frozen=True, slots=True)
class Redirect:
    """The server names another address; `url` is absolute and allowed (`redirect_target`)."""

    url: str


class Receiver(Protocol):
    """Takes the bytes of one answer."""

    def started(self, answer: Answer) -> None:
        """The head was checked; called once, before the first buffer is asked for."""

    def wanted(self) -> int:
        """Bytes still wanted of this body; may shrink between calls. 0 ends the request."""
        ...

    async def wait_buffer(self) -> memoryview:
        """Memory for the next bytes: not empty, and not longer than what is wanted.

        Waits for a free buffer, and for the user's rate limit. Empty only if nothing is wanted
        any more.
        """
        ...

    def buffer_nowait(self) -> memoryview | None:
        """The same without waiting: None if there is none at once. Two calls give the same."""
        ...

    def when_buffer(self, call: Callable[[], None]) -> bool:
        """After `buffer_nowait()` gave None: have `call` called once it gives memory.

        False if that cannot be promised; then only `wait_buffer()` helps. Ends with the request.
        """
        ...

    def commit(self, count: int) -> None:
        """The first `count` bytes of the last buffer are filled."""

    def passed(self, count: int) -> None:
        """`count` bytes before the wanted ones went by: the server is not silent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A whole small answer: status, headers (lower-case names) and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    """A way to reach servers. All methods may be cancelled at any await; nothing leaks."""

    async def fetch(self, request: Request, receiver: Receiver) -> Answer | Redirect:
        """Ask for bytes and push them into `receiver`.

        Returns when the body ended or the receiver wants no more; the connection is kept for the
        next request if the body was read to its end, else closed.

        Raises:
            TransportError: no connection, or it was lost or silent; what arrived is committed.
            StatusError: the server answered with an error status.
            RangeIgnored, ProtocolError: the head is not an answer to the request; no byte of the
                body was used.
        """
        ...

    async def call(
        self, url: str, *, headers: Mapping[str, str], limit: int
    ) -> Response | Redirect:
        """GET a small body, at most `limit` bytes, whatever its status.

        Raises:
            TransportError, ProtocolError: as above; also if the body is longer.
        """
        ...

    def renew(self) -> None:
        """Make later requests over new connections: what is open is not kept any more.

        Requests that are under way go on.
        """

    async def aclose(self) -> None:
        """Close all connections. Usable again afterwards."""
        ...
