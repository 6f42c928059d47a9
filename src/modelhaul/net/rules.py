"""Whether the head of an answer is an answer to its request: every rule in one place, no I/O.

Checked before the first byte of a body is used. A status code alone says nothing: servers answer
200 to ranges, 206 with other ranges, compressed bodies nobody asked for, and web pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from modelhaul.core.origin import redirect_target, shown
from modelhaul.core.retry import Verdict, verdict
from modelhaul.core.span import Span
from modelhaul.errors import OtherVersion, ProtocolError, RangeIgnored, StatusError
from modelhaul.net.transport import Answer, Redirect, Request

# "bytes=0-9/10" and a missing blank are seen in the wild; the numbers have to be right anyway. All
# in ASCII: of what else `\s` and `\d` take, `int()` refuses some ("\x1d7").
_CONTENT_RANGE = re.compile(
    r"[ \t]*bytes[ =]?[ \t]*([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)[ \t]*", re.IGNORECASE
)
_UNSATISFIED = re.compile(r"[ \t]*bytes \*/([0-9]{1,19})[ \t]*", re.IGNORECASE)
_DIGITS = re.compile(r"[ \t]*([0-9]{1,19})[ \t]*")
# RFC 7232 section 2.2.2: a Last-Modified this much older than the answer is a strong validator.
_STRONG_AGE = 60.0

# Headers that we read as lists, to which a proxy may add by a line of its own.
_LISTS = {"link", "ratelimit"}

HeaderMap = Mapping[str, str]  # looked up with lower-case names


def by_name(lines: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by lower-case name, from their lines in the order in which they came.

    Repeated lists are one list (RFC 9110 section 5.3). Of anything else the first line counts; two
    lengths that disagree never come here, the parsers refuse them.
    """
    found: dict[str, str] = {}
    for written, value in lines:
        name = written.lower()
        if name in _LISTS and name in found:
            found[name] += f", {value}"
        else:
            found.setdefault(name, value)
    return found


def judge(request: Request, status: int, headers: HeaderMap, *, now: float) -> Answer | Redirect:
    """Check the head of an answer.

    Args:
        request: what was asked.
        status: the status code.
        headers: by lower-case name.
        now: Unix time, for a `Retry-After` that is a date.

    Raises:
        StatusError: an error status.
        RangeIgnored: the whole body comes although a part of it was asked for.
        ProtocolError: anything else that is not an answer to this request.
    """
    meaning = verdict(status)
    where = shown(request.url)
    if meaning is Verdict.REDIRECT:
        return Redirect(redirect_target(request.url, headers.get("location", "")))
    if meaning is not Verdict.BODY:
        raise status_error(where, status, headers, now=now)
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise ProtocolError(f"{where} sends a body with {coding} encoding, which nobody asked for")
    if headers.get("content-type", "").strip().lower().startswith("multipart/byteranges"):
        raise ProtocolError(f"{where} sends a multipart answer to a single range")
    if request.validator is not None and not holds(request.validator, headers):
        raise OtherVersion(f"{where} changed while it was being downloaded")
    length = _content_length(where, headers)
    ranged = "content-range" in headers
    if ranged:
        answer = _ranged(request, where, status, headers, length)
    elif status == 206:
        raise ProtocolError(f"{where} answers 206 without saying which range")
    else:
        answer = _whole(request, where, headers, length)
    return answer


def _ranged(
    request: Request, where: str, status: int, headers: HeaderMap, length: int | None
) -> Answer:
    found = parse_content_range(headers["content-range"])
    if found is None:
        raise ProtocolError(f"{where} sends an unreadable Content-Range")
    start, stop, total = found
    if request.size is not None and total is not None and total != request.size:
        raise ProtocolError(f"{where} has {total} bytes, the hub says {request.size}")
    wanted = Span(0, stop) if request.whole else request.span
    if request.size is not None and stop > request.size:
        raise ProtocolError(f"{where} sends bytes up to {stop}, the hub says {request.size}")
    if status == 200 and not request.whole and (start, stop) != (wanted.start, wanted.stop):
        raise ProtocolError(f"{where} answers 200 with another range than asked for")
    if start != wanted.start:
        raise ProtocolError(f"{where} sends bytes from {start}, asked for {wanted.start}")
    if length is not None and length != stop - start:
        raise ProtocolError(f"{where} states a length of {length} for {stop - start} bytes")
    # A range may end early (the rest is asked for again) and late (we stop where we want to):
    # the bytes in between are at the right place either way.
    return Answer(
        start=start,
        stop=stop,
        size=total,
        validator=strong_validator(headers),
        ranged=True,
        framed=True,
    )


def _whole(request: Request, where: str, headers: HeaderMap, length: int | None) -> Answer:
    size = request.size
    all_of_it = size is not None and request.span == Span(0, size)
    if not request.whole and not all_of_it:
        raise RangeIgnored(
            f"{where} ignores the range and sends the whole file",
            size=length,
            validator=strong_validator(headers),
        )
    if size is not None and length is not None and length != size:
        page = " (a web page)" if "text/html" in headers.get("content-type", "").lower() else ""
        raise ProtocolError(f"{where} sends {length} bytes{page}, the hub says {size}")
    chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    return Answer(
        start=0,
        stop=length,
        size=length,
        validator=strong_validator(headers),
        ranged=False,
        framed=chunked or length is not None,
    )


def _content_length(where: str, headers: HeaderMap) -> int | None:
    text = headers.get("content-length")
    if text is None or "transfer-encoding" in headers:
        return None
    match = _DIGITS.fullmatch(text)
    if match is None:
        raise ProtocolError(f"{where} sends an unreadable Content-Length")
    return int(match[1])


def parse_content_range(text: str) -> tuple[int, int, int | None] | None:
    """(start, stop, total) of a `Content-Range`, half-open, total None for `*`; None if unreadable.

    RFC 9110 section 14.4. The numbers are consistent: start < stop <= total.
    """
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None:
        return None
    start, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if last < start or (total is not None and last >= total):
        return None
    return start, last + 1, total


def strong_validator(headers: HeaderMap) -> str | None:
    """What identifies the bytes of an answer beyond doubt; None if nothing does.

    A strong entity tag (RFC 9110 section 8.8.3), else a Last-Modified that is old enough.
    """
    tag = headers.get("etag", "").strip()
    quoted = len(tag) > 2 and tag.startswith('"') and tag.endswith('"')
    if quoted and len(tag) <= 256 and tag.isascii() and tag.isprintable():
        return tag
    modified = headers.get("last-modified", "").strip()
    then, now = http_date(modified), http_date(headers.get("date", ""))
    if then is not None and now is not None and now - then >= _STRONG_AGE:
        return f"modified {modified}"
    return None


def holds(validator: str, headers: HeaderMap) -> bool:
    """Whether an answer has the given validator."""
    if validator.startswith("modified "):
        return headers.get("last-modified", "").strip() == validator.removeprefix("modified ")
    return headers.get("etag", "").strip() == validator


def http_date(text: str) -> float | None:
    """Unix time of an HTTP date (RFC 9110 section 5.6.7), None if it is not one."""
    if not text:
        return None
    try:
        moment = parsedate_to_datetime(text)
        # Without a zone ("-0000", the old asctime form) it is UTC, not the time of this machine.
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Seconds that a `Retry-After` asks to wait (RFC 9110 section 10.2.3), None if unreadable.

    Args:
        text: the header's value.
        now: Unix time; a date in the past means 0.
    """
    if text is None:
        return None
    match = _DIGITS.fullmatch(text)
    if match is not None:
        return float(min(int(match[1]), 10**9))
    then = http_date(text.strip())
    return None if then is None else min(max(0.0, then - now), 1e9)


def parse_rate_limit(text: str) -> float | None:
    """Seconds until a used-up allowance is renewed, by a `RateLimit` header; None if none is.

    draft-ietf-httpapi-ratelimit-headers-09, as the Hugging Face Hub sends it: `"api";r=0;t=55` has
    0 requests left of the allowance "api" for 55 seconds. Several may be named.
    """
    used_up = []
    for item in text.split(","):
        fields = dict(part.strip().partition("=")[::2] for part in item.split(";")[1:])
        seconds = fields.get("t", "")
        if fields.get("r") == "0" and _DIGITS.fullmatch(seconds):
            used_up.append(float(min(int(seconds), 10**9)))
    return max(used_up, default=None)


def said(text: str) -> str:
    """What a server says, as the end of a message: `: its words`, or nothing.

    It goes to terminals and logs: one line, no control characters, not long.
    """
    clean = "".join(char if char.isprintable() else " " for char in text)
    return f": {' '.join(clean.split())[:200]}" if clean.strip() else ""


def status_error(where: str, status: int, headers: HeaderMap, *, now: float) -> StatusError:
    """The error for a status that is no answer, with what the headers say about it."""
    unsatisfied = _UNSATISFIED.fullmatch(headers.get("content-range", ""))
    # Against the server's own clock if it tells: ours may be wrong by years.
    clock = http_date(headers.get("date", "")) or now
    wait = parse_retry_after(headers.get("retry-after"), clock)
    if wait is None and status == 429:
        wait = parse_rate_limit(headers.get("ratelimit", ""))
    return StatusError(
        # The Hugging Face Hub says here who may read a gated repository, and where to ask.
        f"{where} answers {status}{said(headers.get('x-error-message', ''))}",
        status=status,
        size=int(unsatisfied[1]) if status == 416 and unsatisfied else None,
        retry_after=wait,
    )
