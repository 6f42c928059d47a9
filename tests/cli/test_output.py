"""What people and programs see, and that no stream and no name can stop a download."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
from typing import get_args

import pytest

from modelhaul import events
from modelhaul.cli.output import View, print_line, print_lines, printable, write_line
from modelhaul.cli.views import JsonView, PlainView
from modelhaul.cli.words import amounts_line, describe, event_name, summary
from modelhaul.errors import HaulError, NotFound, QuotaError, StorageError
from tests.cli.samples import HOSTILE, every_event, statistics

VIEWS = [View, PlainView, JsonView]


def finished(**changes: object) -> events.Finished:
    sample = every_event("x")[-1]
    assert isinstance(sample, events.Finished)
    return dataclasses.replace(sample, **changes)


def verified(**changes: int) -> events.Verified:
    counts = {"wrong": 0, "missing": 0, "unproven": 0, "repaired": 0, "fetched": 0, **changes}
    return events.Verified(path="/m", files=7, size=5_000_000, seconds=2.0, **counts)


# -- JSON lines --------------------------------------------------------------------------------


def test_there_is_a_sample_of_every_event() -> None:
    """A new kind of event has to be added to these tests."""
    assert {type(event) for event in every_event("x")} == set(get_args(events.Event))


def test_events_are_values() -> None:
    """Equal ones count once in a set."""
    assert len({*every_event("x"), *every_event("x")}) == len(every_event("x"))


@pytest.mark.parametrize("name", ["w.bin", "模型/é 😀.bin", HOSTILE, "a\udcffb", '"\\'])
def test_every_event_is_one_line_of_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its name in snake case and all its fields, exactly; nothing else on stdout."""
    sent = every_event(name)
    view = JsonView()

    for event in sent:
        view(event)

    output = capsys.readouterr()
    lines = output.out.split("\n")
    assert lines.pop() == ""
    assert output.err == ""
    assert len(lines) == len(sent)
    for line, event in zip(lines, sent, strict=True):
        fields = json.loads(line)
        assert fields.pop("event") == event_name(type(event))
        # Through JSON, which has no tuples; a lone surrogate of a name is escaped on the way.
        assert fields == json.loads(json.dumps(dataclasses.asdict(event)))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (events.Resolved, "resolved"),
        (events.FileDone, "file_done"),
        (events.SourceDropped, "source_dropped"),
    ],
)
def test_event_names_are_snake_case(kind: type, name: str) -> None:
    """The class's name, as JSON people write it."""
    assert event_name(kind) == name


def test_progress_is_at_most_one_line_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    """The steady beat would fill a log; the first beat is shown at once."""
    view = JsonView()

    for _ in range(50):
        view(events.Progress(statistics=statistics()))

    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_failure_is_a_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    """With class, exit code and hint for the program; in words on stderr for people."""
    JsonView().error(QuotaError("asked to wait", hint="later"))

    output = capsys.readouterr()
    assert json.loads(output.out) == {
        "event": "error",
        "kind": "QuotaError",
        "message": "asked to wait",
        "hint": "later",
        "exit_code": 5,
        "retryable": True,
    }
    assert output.err == "modelhaul: asked to wait\n  try: later\n"


def test_json_does_not_repeat_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    """The `finished` event carries the path."""
    with JsonView() as view:
        view(finished(path="/models/x"))
        view.result("/models/x")

    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["event"] == "finished"


@pytest.mark.parametrize("how", ["ended", "raised"])
def test_an_interrupted_run_has_a_last_event(capsys: pytest.CaptureFixture[str], how: str) -> None:
    """Whoever reads the events learns that no more come, and that the same command goes on."""

    def interrupted() -> None:
        with JsonView() as view:
            view(events.Note(message="m"))
            if how == "raised":
                raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        interrupted()

    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["event"], last["kind"], last["exit_code"]) == ("error", "Interrupted", 130)


def test_a_failed_run_has_one_last_event(capsys: pytest.CaptureFixture[str]) -> None:
    """The error, as it was before: nothing says that somebody interrupted."""
    view = JsonView()

    def fail() -> None:
        with view:
            raise HaulError("no")

    with contextlib.suppress(HaulError):
        fail()
    view.error(HaulError("no"))

    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["kind"] == "HaulError"


# -- results and errors ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [View, PlainView])
def test_the_result_is_the_last_line_on_stdout(
    kind: type[View], capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything else is on stderr, so `$(modelhaul ...)` is the path."""
    with kind() as view:
        for event in every_event("w.bin"):
            view(event)
        view.result("/models/x")
        view.say("afterwards")

    assert capsys.readouterr().out == "/models/x\n"


@pytest.mark.parametrize("kind", [View, PlainView])
def test_a_failed_run_has_no_result(kind: type[View], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing partial looks like success."""

    def fail() -> None:
        with kind() as view:
            view.result("/models/x")
            raise HaulError("no")

    with pytest.raises(HaulError):
        fail()

    assert capsys.readouterr().out == ""


def test_quiet_shows_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    """No event and no remark is printed."""
    with View() as view:
        for event in every_event("w.bin"):
            view(event)
        view.say("something")
        view.error(NotFound("no such model"))

    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "modelhaul: no such model\n")


def test_errors_are_printable_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Messages may quote what a server said."""
    View().error(NotFound(f"no {HOSTILE}", hint=f"use {HOSTILE}"))

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


# -- plain lines -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            events.Resolved(
                name="o/n", revision=None, commit="0123456789abcdef", files=3, size=5_000_000
            ),
            "o/n at commit 0123456789ab: 3 files, 5.00 MB",
        ),
        (
            events.Resolved(name="https://h/x", revision=None, commit=None, files=1, size=999),
            "https://h/x: 999 B",
        ),
        (events.Checking(files=2, size=1000), "checking 2 files that are here already (1.00 kB)"),
        (events.Checking(files=1, size=1000), "checking 1 file that is here already (1.00 kB)"),
        (
            events.Planned(files=3, fetch=4_000, reuse=1_000),
            "to fetch: 4.00 kB; here already: 1.00 kB",
        ),
        (events.Planned(files=3, fetch=4_000, reuse=0), None),
        (
            events.Planned(files=3, fetch=0, reuse=1_000, copy=2_000),
            "to fetch: 0 B; here already: 1.00 kB; to copy: 2.00 kB",
        ),
        (events.FileStarted(path="a", size=5, present=0), None),
        (events.FileFailed(path="a", message="gone", hint="h"), "failed: a: gone"),
        (events.FileFailed(path="a", message="a: gone", hint="h"), "failed: a: gone"),
        (events.Retrying(path="a", source="s", reason="r"), None),
        (
            events.SourceDropped(path="a", source="https://h", reason="404"),
            "https://h is not used any more for a: 404",
        ),
        (
            events.Repairing(path="a", size=8_000, reason="wrong"),
            "repairing a: 8.00 kB are fetched again (wrong)",
        ),
        (events.Note(message="m"), "note: m"),
        (events.Progress(statistics=statistics()), None),
        (events.FileChecked(path="a", finding="right", reason=""), None),
        (events.FileChecked(path="a", finding="missing", reason=""), "missing: a"),
        (events.FileChecked(path="a", finding="wrong", reason="why"), "wrong: a (why)"),
        (verified(), "7 files, 5.00 MB, in 2s; every file has its SHA-256"),
        (
            verified(wrong=1, missing=2),
            "7 files, 5.00 MB, in 2s; 1 wrong; 2 missing",
        ),
        (
            verified(repaired=4, fetched=1_000_000),
            "7 files, 5.00 MB, in 2s; 4 repaired (1.00 MB fetched); every file has its SHA-256",
        ),
        (
            verified(by_git_name=2),
            "7 files, 5.00 MB, in 2s; every file has its SHA-256 or git name",
        ),
        (
            verified(unproven=3),
            "7 files, 5.00 MB, in 2s; 3 without a stated digest; the others have theirs",
        ),
    ],
)
def test_events_in_one_line(event: events.Event, line: str | None) -> None:
    """What is worth a line, in words."""
    assert describe(event) == line


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            finished(),
            "4.00 MB fetched in 2s (2.00 MB/s), 1.00 MB reused; every file has its SHA-256",
        ),
        (
            finished(verified=False),
            "4.00 MB fetched in 2s (2.00 MB/s), 1.00 MB reused; no SHA-256 was stated to check",
        ),
        (
            finished(fetched=0, by_git_name=2),
            "5.00 MB here already, nothing fetched; every file has its SHA-256 or git name",
        ),
        (
            finished(fetched=0),
            "5.00 MB here already, nothing fetched; every file has its SHA-256",
        ),
        (
            finished(fetched=0, reused=5_000_000, copied=5_000_000),
            "5.00 MB copied, nothing fetched; every file has its SHA-256",
        ),
        (
            finished(fetched=0, reused=5_000_000, copied=3_000_000),
            "3.00 MB copied, 2.00 MB here already, nothing fetched; every file has its SHA-256",
        ),
        (
            finished(fetched=400, copied=90, reused=100, files=1),
            "400 B fetched in 2s (200 B/s), 90 B copied, 10 B reused; the file has its SHA-256",
        ),
        (
            finished(files=1),
            "4.00 MB fetched in 2s (2.00 MB/s), 1.00 MB reused; the file has its SHA-256",
        ),
        (
            finished(seconds=0.4),
            "4.00 MB fetched in 0.4s (10.0 MB/s), 1.00 MB reused; every file has its SHA-256",
        ),
        (
            finished(seconds=0.03),
            "4.00 MB fetched in 0.1s, 1.00 MB reused; every file has its SHA-256",
        ),
        (
            finished(by_source={"https://a": 4_000_000}),
            "4.00 MB fetched in 2s (2.00 MB/s), 1.00 MB reused; every file has its SHA-256",
        ),
    ],
)
def test_the_last_line_of_a_run(event: events.Finished, line: str) -> None:
    """How much, how fast, and what was proven."""
    assert summary(event) == line
    assert describe(event) == line


def test_the_last_line_says_how_much_each_source_brought() -> None:
    """Where there are several."""
    event = finished(by_source={"https://a": 1_000_000, "hf:o/n": 3_000_000})

    assert summary(event).endswith("its SHA-256; from hf:o/n 3.00 MB, https://a 1.00 MB")


def test_amounts_in_one_line() -> None:
    """Percent first; an unknown end, an unknown rate and an empty run are no trouble."""
    assert amounts_line(statistics()) == (
        " 50%  2.50 MB of 5.00 MB, 10.0 MB/s, 1m05s left, 1 of 3 files, 7 connections"
    )
    assert amounts_line(events.Statistics()) == ("  0%  0 B of 0 B, 0 of 0 files, 0 connections")


def test_a_source_that_lacks_many_files_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand files that one mirror has not are no thousand lines."""
    view = PlainView()

    for path in ("a", "b"):
        for source in ("https://one", "https://two"):
            view(events.SourceDropped(path=path, source=source, reason="404"))

    assert capsys.readouterr().err.splitlines() == [
        "https://one is not used any more for a: 404",
        "https://two is not used any more for a: 404",
    ]


def test_plain_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    """Small files have no line, a countdown has one, and progress comes every few seconds."""
    view = PlainView()
    done = every_event("w.bin")[4]
    assert isinstance(done, events.FileDone)

    for count in range(100):
        view(dataclasses.replace(done, path=f"{count}.json", size=7_999_999))
        view(events.Waiting(reason=f"asked to wait; {count} s left", seconds=1.0))
        view(events.Progress(statistics=statistics("w.bin")))
    view(done)
    view(dataclasses.replace(done, how="kept"))
    view(events.Waiting(reason="another reason", seconds=1.0))

    assert capsys.readouterr().err.splitlines() == [
        "waiting: asked to wait; 0 s left",
        "done: w.bin (9.00 MB)",
        "waiting: another reason",
    ]


def test_no_name_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """Names and reasons come from servers: one printable line each, whatever is in them."""
    view = PlainView()

    for event in every_event(HOSTILE):
        view(event)

    output = capsys.readouterr().err
    assert len(output.splitlines()) == len(output.split("\n")) - 1 == 12
    assert all(line.isprintable() for line in output.split("\n"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("模型 é 😀", "模型 é 😀"),
        ("a\tb\nc\x1b\x7f\x9b", "a?b?c???"),
        ("\u202e\u200b\u2028\ufeff", "????"),
        ("\ud800", "?"),
        ("", ""),
    ],
)
def test_what_cannot_be_shown_is_a_question_mark(text: str, shown: str) -> None:
    """Controls, directions, invisible ones and lone surrogates."""
    assert printable(text) == shown


# -- streams -----------------------------------------------------------------------------------


class Full(io.TextIOBase):
    """A redirection to a disk without room."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, closed(), Full()], ids=["none", "closed", "full"])
def test_a_stream_that_takes_nothing_is_no_reason_to_die(stream: io.TextIOBase | None) -> None:
    """The download counts, not who listens."""
    assert write_line(stream, "text") is None


@pytest.mark.parametrize("kind", VIEWS)
def test_a_result_that_cannot_be_written_is_a_failure(kind: type[View]) -> None:
    """A script that reads the path from a full disk must not go on with half of it."""

    def fail() -> None:
        with contextlib.redirect_stdout(Full()), kind() as view:
            view(finished())
            view.result("/models/x")

    with pytest.raises(StorageError) as caught:
        fail()

    assert "No space left on device" in caught.value.message


def test_a_lost_result_does_not_hide_why_a_run_failed() -> None:
    """The first error is the one to hear of."""

    def fail() -> None:
        with contextlib.redirect_stdout(Full()), JsonView() as view:
            view(events.Note(message="m"))
            raise NotFound("no such model")

    with pytest.raises(NotFound):
        fail()


def test_a_line_of_a_result_must_arrive(capsys: pytest.CaptureFixture[str]) -> None:
    """On a full disk it is an error; to a stdout that was closed nobody listens."""
    with contextlib.redirect_stdout(Full()), pytest.raises(StorageError):
        print_line("text")
    with contextlib.redirect_stdout(closed()):
        print_line("text")
    print_line("text")

    assert capsys.readouterr().out == "text\n"


def test_lines_of_a_result_are_written_at_once_and_as_single_ones_are() -> None:
    """What the stream cannot show is escaped in all of them."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", newline="")

    with contextlib.redirect_stdout(stream):
        print_lines(["plain", "é", "last"])

    assert raw.getvalue() == b"plain\n\\xe9\nlast\n"


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("stream", [None, closed()], ids=["none", "closed"])
def test_no_view_dies_of_its_streams(kind: type[View], stream: io.TextIOBase | None) -> None:
    """Every event, the result and the error, with stdout and stderr gone."""
    sent = []

    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream), kind() as view:
        for event in every_event("w.bin"):
            view(event)
            sent.append(event)
        view.say("text")
        view.result("/models/x")
        view.error(NotFound("no", hint="yes"))

    assert len(sent) == 15


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "cp1252"])
@pytest.mark.parametrize("kind", VIEWS)
def test_no_view_dies_of_an_encoding(kind: type[View], encoding: str) -> None:
    """What a stream cannot show is escaped; the line is there."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)

    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream), kind() as view:
        for event in every_event("模型/é😀\udcff.bin"):
            view(event)
        view.result("/模型/😀")

    text = raw.getvalue().decode(encoding)
    if kind is not JsonView:
        assert text.splitlines()[-1].endswith("\\U0001f600")
    assert len(text.splitlines()) == {View: 1, PlainView: 13, JsonView: 15}[kind]


@pytest.mark.parametrize(("encoding", "text"), [("latin-1", "é"), ("utf-8", "模"), ("gbk", "模")])
def test_what_a_stream_can_show_is_not_escaped(encoding: str, text: str) -> None:
    """Only where it must be."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)

    write_line(stream, text)

    assert raw.getvalue() == f"{text}\n".encode(encoding)


def _modelhaul(*arguments: str, stdout: int) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "modelhaul", *arguments], stdout=stdout, stderr=subprocess.PIPE
    )


def test_a_reader_that_is_gone_is_no_failure() -> None:
    """`modelhaul ... | head -0`: exit code 0, and no word from the interpreter at its end."""
    reading, writing = os.pipe()
    os.close(reading)

    try:
        done = _modelhaul("--version", stdout=writing)
    finally:
        os.close(writing)

    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_behind_stdout_is_no_crash() -> None:
    """The line is lost, the command is not."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")

    with open("/dev/full", "w") as full:
        done = _modelhaul("--version", stdout=full.fileno())

    assert (done.returncode, done.stderr) == (0, b"")
