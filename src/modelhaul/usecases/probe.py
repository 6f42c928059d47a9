"""What a source says of a file before any of it is fetched: size and strong validator.

Asked by a GET for the first byte, not by HEAD: signed addresses are often signed for one method,
and some stores answer the two differently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import anyio

from modelhaul.core.origin import Origin, shown
from modelhaul.core.repo import RemoteFile, Source
from modelhaul.core.retry import Verdict, verdict
from modelhaul.core.span import Span
from modelhaul.engine.locations import Location
from modelhaul.errors import (
    HaulError,
    ProtocolError,
    QuotaError,
    RangeIgnored,
    StatusError,
    TransportError,
    single_error,
)
from modelhaul.net.api import MAX_HOPS, Patience
from modelhaul.net.transport import Answer, Receiver, Redirect, Request, Transport

#: Files of one listing that are asked about. At eight at once and a tenth of a second each the
#: plan waits a quarter of a minute for them; a listing may have a hundred thousand.
MOST_FILES = 1000
#: Files in a row that wore out the patience with an origin after which it is not asked any more:
#: one may be the file's own trouble, and patience with each of a thousand is half an hour.
_WORN_OUT = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """What a source says of its file: size and strong validator, None where it does not say."""

    size: int | None
    validator: str | None


async def probe(transport: Transport, source: Source, patience: Patience) -> Seen:
    """Ask one source about its file.

    Raises:
        TransportError, StatusError, ProtocolError, QuotaError: it does not say.
    """
    location = Location(source)

    async def once() -> Seen:
        target = location.start()
        for _ in range(MAX_HOPS + 1):
            request = Request(url=target.url, headers=target.headers, span=Span(0, 1))
            try:
                answer = await transport.fetch(request, _Nothing())
            except RangeIgnored as whole:
                return Seen(whole.size, whole.validator)
            except StatusError as error:
                if error.status == 416 and error.size == 0:
                    return Seen(0, None)
                raise
            if not isinstance(answer, Redirect):
                return Seen(answer.size, answer.validator)
            target = location.hop(answer.url)
        raise ProtocolError(f"{shown(source.url)} redirects more than {MAX_HOPS} times")

    return await patience.run(once)


async def pin(
    transport: Transport,
    files: Sequence[RemoteFile],
    sources: Callable[[RemoteFile], Sequence[Source]],
    patience: Patience,
    *,
    at_once: int,
    most: int = MOST_FILES,
) -> tuple[RemoteFile, ...]:
    """Files of a listing, those without a digest with the validator that their source states.

    With a validator a file can be split, continued, and known again by the next run; without one
    it is a single stream that is fetched every time. What cannot be learned stays as it is: the
    run will meet the same trouble, and has the means to deal with it.

    Args:
        transport: the network.
        files: as the hub lists them.
        sources: where a file's bytes can be had, best first.
        patience: how often a source is asked.
        at_once: files that are asked about at the same time.
        most: files that are asked about; the largest are.
    """
    known = list(files)
    doubtful = [at for at, file in enumerate(files) if _doubtful(file)]
    doubtful.sort(key=lambda at: -_worth(files[at]))
    worn: Counter[Origin] = Counter()
    limiter = anyio.CapacityLimiter(at_once)

    async def ask(at: int) -> None:
        source = sources(files[at])[0]
        async with limiter:
            if worn[source.origin] >= _WORN_OUT:
                return
            try:
                seen = await probe(transport, source, patience)
            except HaulError as error:
                worn[source.origin] += _tried_again(error)
            else:
                worn[source.origin] = 0
                known[at] = _filled_in(files[at], seen)

    try:
        async with anyio.create_task_group() as group:
            for at in doubtful[:most]:
                group.start_soon(ask, at)
    except BaseExceptionGroup as failed:
        raise single_error(failed) from failed
    return tuple(known)


def _doubtful(file: RemoteFile) -> bool:
    return file.content is None and file.validator is None and file.size != 0


def _tried_again(error: HaulError) -> bool:
    """Whether this was the last of several attempts."""
    if isinstance(error, StatusError):
        return verdict(error.status) is Verdict.RETRY
    return isinstance(error, (TransportError, QuotaError))


def _worth(file: RemoteFile) -> float:
    return float("inf") if file.size is None else file.size


def _filled_in(file: RemoteFile, seen: Seen) -> RemoteFile:
    if file.size is not None and seen.size is not None and seen.size != file.size:
        return file
    size = seen.size if file.size is None else file.size
    return replace(file, size=size, validator=seen.validator)


class _Nothing(Receiver):
    """Takes one byte and throws it away: only the head of the answer matters."""

    def __init__(self) -> None:
        self._left = 1

    def started(self, answer: Answer) -> None:
        """The answer is the result of the request."""

    def wanted(self) -> int:
        return self._left

    async def wait_buffer(self) -> memoryview:
        return self.buffer_nowait()

    def buffer_nowait(self) -> memoryview:
        return memoryview(bytearray(self._left))

    def when_buffer(self, call: Callable[[], None]) -> bool:
        return False  # there always is one

    def commit(self, count: int) -> None:
        self._left -= count

    def passed(self, count: int) -> None:
        """Cannot be: it begins at byte 0."""
