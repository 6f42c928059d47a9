"""Everything that modelhaul raises, one tree.

Each class knows its exit code and whether trying again can help; each error carries the
message (what happened, to which file, from which source) and a hint (what to try next).
Messages are shown to people and written to logs: no secret, no URL query ever goes in one.
"""

from __future__ import annotations


class HaulError(Exception):
    """Root of the tree.

    Attributes:
        message: what happened, in one line.
        hint: what to try next, in one line, or None.
        exit_code: what the command line exits with.
        retryable: the same call may succeed later without a change by the caller.
    """

    exit_code = 1
    retryable = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(HaulError):
    """The caller asked for something that makes no sense. Nothing was fetched."""

    exit_code = 2


class NothingMatched(UsageError):
    """A pattern or a file name matches nothing in the repository."""


class AccessError(HaulError):
    """The hub refuses: no such thing, or not for us."""

    exit_code = 4


class NotFound(AccessError):
    """No such repository, revision or file; hubs say the same of private and gated ones."""


class Unauthorized(AccessError):
    """A token is missing, wrong or not allowed to read this."""


class QuotaError(HaulError):
    """The server asks us to come back later. `retry_at` is in Unix seconds, or None."""

    exit_code = 5
    retryable = True

    def __init__(
        self, message: str, *, retry_at: float | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_at = retry_at


class TransportError(HaulError):
    """The network failed us: nothing is wrong with what was asked."""

    exit_code = 6
    retryable = True


class ConnectFailed(TransportError):
    """No connection could be made: name, route, refusal, handshake."""


class ConnectionLost(TransportError):
    """A connection ended before the answer did."""


class TimedOut(TransportError):
    """A server accepted a request and then said nothing for too long."""


class Stalled(TransportError):
    """No new byte from any source for the whole patience. Progress is kept."""


class ProxyRefused(TransportError):
    """A proxy answered and will not let us through. Trying again does not help."""

    retryable = False


class CertificateError(TransportError):
    """The server's certificate is not trusted. Never retried, never worked around."""

    retryable = False


class ProtocolError(HaulError):
    """A server broke a promise of HTTP or of its own hub's protocol."""

    exit_code = 7
    retryable = True


class RangeIgnored(ProtocolError):
    """A range was asked for and the whole body came.

    Attributes:
        size: bytes of that body, None if the server does not say.
        validator: its strong validator, or None.
    """

    def __init__(self, message: str, *, size: int | None, validator: str | None) -> None:
        super().__init__(message)
        self.size = size
        self.validator = validator


class OtherVersion(ProtocolError):
    """An answer states another validator than the bytes that it would join."""


class StatusError(ProtocolError):
    """An HTTP status that is not an answer to what was asked.

    Attributes:
        status: the status code.
        retry_after: seconds the server asks us to wait, or None.
        size: bytes of the file, where a 416 states it; else None.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        retry_after: float | None = None,
        size: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.retry_after = retry_after
        self.size = size


class IntegrityError(HaulError):
    """The bytes are not those the hub promised. Nothing stands under the final name."""

    exit_code = 8


class StorageError(HaulError):
    """The disk failed us, or what is on it forbids to go on."""

    exit_code = 9


class DiskFull(StorageError):
    """Not enough room. Progress is kept; run again after making space."""


class Occupied(StorageError):
    """Something that is not ours stands where a file should go."""


class UnsafeName(StorageError):
    """A name sent by a server would leave the target or cannot be stored."""


def single_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first single error inside a group: what a person needs to hear of a failed task group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
