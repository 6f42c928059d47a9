"""Events in words."""

from __future__ import annotations

import math
import re

from modelhaul import events
from modelhaul.core.units import count_text, duration_text, size_text


def event_name(kind: type) -> str:
    """`FileDone` as `file_done`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def describe(event: events.Event) -> str | None:
    """One line about an event, None if it needs none."""
    match event:
        case events.Resolved(name=name, files=files, size=size, commit=commit):
            pinned = f" at commit {commit[:12]}" if commit else ""
            many = f"{count_text(files, 'file')}, " if files != 1 else ""
            return f"{name}{pinned}: {many}{size_text(size)}"
        case events.Checking(files=files, size=size):
            are = "is" if files == 1 else "are"
            what = f"{count_text(files, 'file')} that {are} here already"
            return f"checking {what} ({size_text(size)})"
        case events.FileChecked(path=path, finding=finding, reason=reason) if finding != "right":
            return f"{finding}: {path}" + (f" ({reason})" if reason else "")
        case events.Planned(fetch=fetch, reuse=reuse, copy=copy) if reuse or copy:
            here = f"; here already: {size_text(reuse)}" if reuse else ""
            to_copy = f"; to copy: {size_text(copy)}" if copy else ""
            return f"to fetch: {size_text(fetch)}{here}{to_copy}"
        case events.FileFailed(path=path, message=message):
            return f"failed: {path}: {message.removeprefix(f'{path}: ')}"
        case events.SourceDropped(path=path, source=source, reason=reason):
            return f"{source} is not used any more for {path}: {reason}"
        case events.Repairing(path=path, size=size, reason=reason):
            return f"repairing {path}: {size_text(size)} are fetched again ({reason})"
        case events.Note(message=message):
            return f"note: {message}"
        case events.Finished():
            return summary(event)
        case events.Verified():
            return verdict(event)
    return None


def summary(event: events.Finished) -> str:
    """The last line about a run."""
    # Of less than a tenth of a second, which is shown as one, a rate would look wrong.
    speed = f" ({size_text(event.fetched / event.seconds)}/s)" if event.seconds >= 0.1 else ""
    proof = (
        f"{_which(event.files)} has its SHA-256"
        if event.verified
        else "no SHA-256 was stated to check"
    )
    if event.verified and event.by_git_name:
        proof += " or git name"
    here = event.reused - event.copied
    amounts = [f"{size_text(event.copied)} copied"] if event.copied else []
    if not event.fetched:
        if here or not event.copied:
            amounts.append(f"{size_text(event.size - event.copied)} here already")
        return f"{', '.join(amounts)}, nothing fetched; {proof}"
    took = f"{size_text(event.fetched)} fetched in {duration_text(event.seconds)}{speed}"
    text = f"{', '.join([took, *amounts, f'{size_text(here)} reused'])}; {proof}"
    if len(event.by_source) > 1:
        shares = sorted(event.by_source.items(), key=lambda share: -share[1])
        text += "; from " + ", ".join(f"{name} {size_text(count)}" for name, count in shares)
    return text


def _which(files: int) -> str:
    return "the file" if files == 1 else "every file"


def verdict(event: events.Verified) -> str:
    """The last line about a check."""
    files = count_text(event.files, "file")
    parts = [f"{files}, {size_text(event.size)}, in {duration_text(event.seconds)}"]
    for count, finding in (
        (event.wrong, "wrong"),
        (event.missing, "missing"),
        (event.repaired, f"repaired ({size_text(event.fetched)} fetched)"),
        (event.unproven, "without a stated digest"),
    ):
        if count:
            parts.append(f"{count} {finding}")
    if not event.wrong and not event.missing:
        proof = f"{_which(event.files)} has its SHA-256"
        proof += " or git name" if event.by_git_name else ""
        parts.append(proof if not event.unproven else "the others have theirs")
    return "; ".join(parts)


def amounts_line(amounts: events.Statistics) -> str:
    """Amounts of a run in one line."""
    percent = 100 * amounts.done // max(1, amounts.total)
    rate = f", {size_text(amounts.rate)}/s" if rate_is_known(amounts) else ""
    left = "" if amounts.eta is None else f", {duration_text(math.ceil(amounts.eta))} left"
    return (
        f"{percent:3d}%  {size_text(amounts.done)} of {size_text(amounts.total)}{rate}{left},"
        f" {amounts.files_done} of {amounts.files} files, {amounts.connections} connections"
    )


def rate_is_known(amounts: events.Statistics) -> bool:
    """Whether the rate says something: before the first byte 0 only means that nobody knows."""
    return amounts.rate > 0 or amounts.fetched > 0
