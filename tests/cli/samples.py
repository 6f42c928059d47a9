"""One event of every kind, with names as a hostile server would send them."""

from __future__ import annotations

from modelhaul import events

#: Colours, a title for the terminal, a new line, right-to-left, C1 controls.
HOSTILE = "a\x1b[31m\x1b]0;evil\x07\n\r\u202eb\x9b2Jc\x00"


def statistics(*names: str) -> events.Statistics:
    """Half of a run of three files, with files in motion."""
    return events.Statistics(
        total=5_000_000,
        done=2_500_000,
        verified=500_000,
        fetched=2_500_000,
        files=3,
        files_done=1,
        connections=7,
        rate=1e7,
        eta=65.0,
        active=tuple(
            events.FileProgress(path=name, size=1000, done=423, verified=100, rate=5e6)
            for name in names
        ),
    )


def every_event(name: str) -> list[events.Event]:
    """Each kind once, `name` in every text."""
    return [
        events.Resolved(name=name, revision=name, commit="f" * 40, files=3, size=5_000_000),
        events.Checking(files=2, size=1_000_000),
        events.Planned(files=3, fetch=4_000_000, reuse=1_000_000),
        events.FileStarted(path=name, size=None, present=0),
        events.FileDone(
            path=name,
            size=9_000_000,
            how="fetched",
            sha256="0" * 64,
            verified=True,
            fetched=9_000_000,
            proof_seconds=0.25,
        ),
        events.FileFailed(path=name, message=name, hint=None),
        events.Retrying(path=name, source=name, reason=name),
        events.SourceDropped(path=name, source=name, reason=name),
        events.Waiting(reason=name, seconds=2.5),
        events.Repairing(path=name, size=8_000_000, reason=name),
        events.Note(message=name),
        events.Progress(statistics=statistics(name, name)),
        events.FileChecked(path=name, finding="wrong", reason=name),
        events.Verified(
            path=name,
            files=7,
            size=5_000_000,
            wrong=1,
            missing=2,
            unproven=3,
            repaired=4,
            fetched=1_000_000,
            seconds=2.0,
        ),
        events.Finished(
            files=3,
            path=name,
            size=5_000_000,
            fetched=4_000_000,
            reused=1_000_000,
            connections=8,
            seconds=2.0,
            verified=True,
        ),
    ]
