"""What a failed request means: for its origin, its source, its file, the run. A table, no effects.

The driver carries the judgement out. Many connections fail together when a server does; which of
those failures count is seen where it is carried out (`Health.bad`, `Location.expire`).
"""

from __future__ import annotations

from dataclasses import dataclass

from modelhaul.core.retry import LONGEST_PAUSE, Verdict, verdict
from modelhaul.errors import (
    ConnectFailed,
    HaulError,
    NotFound,
    ProtocolError,
    QuotaError,
    RangeIgnored,
    StatusError,
    TransportError,
    Unauthorized,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What follows from a failure.

    Attributes:
        give_up: no source can help this file.
        drop: the source is of no more use for this file.
        gone: its origin is of no more use for the whole run.
        strike: the origin failed; leave it alone for a while.
        slower: the origin asks for fewer connections.
        pause: seconds the origin asked to be left alone, None if it did not say.
        expire: the signed address is not to be used again.
        fault: the source broke the protocol; too often in a row and it is dropped.
        ignored: the source sent the whole file for a range.
        costs: the run's budget pays for the next try.
    """

    give_up: bool = False
    drop: bool = False
    gone: bool = False
    strike: bool = False
    slower: bool = False
    pause: float | None = None
    expire: bool = False
    fault: bool = False
    ignored: bool = False
    costs: bool = False


def judge(error: HaulError, *, signed: bool) -> Judgement:
    """What follows from `error`.

    Args:
        error: why the request failed.
        signed: it went to an address that a redirect had named.
    """
    match error:
        case StatusError():
            return _judge_status(error, signed=signed)
        case RangeIgnored():
            return Judgement(ignored=True)
        case TransportError() if not error.retryable:
            return Judgement(drop=True)
        case TransportError():
            return Judgement(strike=True, slower=isinstance(error, ConnectFailed), costs=True)
        case ProtocolError():
            # A few in a row end this source for this file; the others need not pay for it.
            return Judgement(fault=True)
    # The disk, or a digest that was wrong twice.
    return Judgement(give_up=True)


def _judge_status(error: StatusError, *, signed: bool) -> Judgement:
    meaning = verdict(error.status)
    if meaning is Verdict.SLOWER:
        wait = error.retry_after
        if wait is None:
            return Judgement(strike=True, slower=True, costs=True)
        if wait > LONGEST_PAUSE:
            return Judgement(drop=True, gone=True)
        # The server said itself when to come back: patience bounds that, not the budget. "At once"
        # is a second, or a server that means it badly is asked without end.
        return Judgement(pause=max(1.0, wait), slower=True)
    if meaning is Verdict.RETRY:
        return Judgement(strike=True, costs=True)
    if meaning is Verdict.RANGE:
        return Judgement(fault=True)
    if signed:
        # A signature that ended shows as 403, on some sites as 400 or 404. The source's own
        # address will say whether it is more than that.
        return Judgement(expire=True, fault=True)
    return Judgement(drop=True)


def final_error(error: HaulError, now: float) -> HaulError:
    """The error of a file whose last source is gone, by what went wrong there.

    Args:
        error: of the last source.
        now: Unix time.
    """
    if not isinstance(error, StatusError):
        return error
    meaning = verdict(error.status)
    if meaning is Verdict.MISSING:
        return NotFound(error.message, hint="the file is listed, but the server has it not")
    if meaning is Verdict.DENIED:
        return Unauthorized(error.message, hint="give a token with --token, or log in")
    if meaning is Verdict.SLOWER:
        wait = error.retry_after
        asks = "" if wait is None else f", and asks to wait for {wait:.0f} s"
        return QuotaError(
            f"{error.message}{asks}",
            retry_at=None if wait is None else now + wait,
            hint="run the same command again later: what arrived is kept",
        )
    return error
