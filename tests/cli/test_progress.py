"""Progress on a terminal, drawn into memory at several widths."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from modelhaul import events
from modelhaul.cli.progress import TerminalView, shortened
from modelhaul.errors import HaulError
from tests.cli.samples import HOSTILE, every_event, statistics

WIDTHS = [40, 80, 120]
#: What rich itself sends: hiding the cursor, moving it, erasing lines.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A terminal in memory, and a view on it."""

    def __init__(self, width: int, height: int = 24) -> None:
        self._file = io.StringIO()
        console = Console(
            file=self._file, width=width, height=height, force_terminal=True, color_system=None
        )
        self.view = TerminalView(console)

    @property
    def written(self) -> str:
        """Everything since the last `take()`, as it was sent."""
        return self._file.getvalue()

    def take(self) -> list[str]:
        """The lines that were written since the last time, without rich's own control codes."""
        text = _CONTROL.sub("", self.written)
        self._file.seek(0)
        self._file.truncate()
        return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]

    def show(self, *happened: events.Event) -> list[str]:
        """What these events add."""
        self.take()
        for event in happened:
            self.view(event)
        return self.take()


def progress(*names: str, **changes: object) -> events.Progress:
    return events.Progress(statistics=dataclasses.replace(statistics(*names), **changes))


@pytest.mark.parametrize("width", WIDTHS)
def test_files_and_total_are_shown(width: int) -> None:
    """A line per file in motion with its percent, and one for all; none is wider than allowed."""
    terminal = Terminal(width)

    with terminal.view:
        lines = terminal.show(progress("model-1.safetensors", "sub/model-2.safetensors"))

    assert len(lines) == 3
    assert lines[0].startswith("model-1.")
    assert lines[1].startswith("sub/model")
    assert all("42%" in line for line in lines[:2])
    assert lines[2].startswith("total")
    assert "50%" in lines[2]
    assert "10.0 MB/s" in lines[2]
    assert all(cell_len(line) <= width for line in lines)


@pytest.mark.parametrize("width", [80, 120])
def test_amounts_are_shown_where_there_is_room(width: int) -> None:
    """Of a file: how much, how fast, how far proven. Of the run: rate, time left, files."""
    terminal = Terminal(width)

    with terminal.view:
        file, total = terminal.show(progress("w.bin"))

    assert re.search(r"423 B/1\.00 kB +5\.00 MB/s +sha +10%", file)
    assert re.search(r"2\.50 MB of 5\.00 MB +10\.0 MB/s +1m05s left", total)
    assert "1 of 3" in total
    assert ("sha 10%" in total) is (width == 120)


@pytest.mark.fault(
    "hostile names, on terminals of 10 to 250 columns", "one line each, nothing moves", number=121
)
@pytest.mark.parametrize("width", [*WIDTHS, 20, 10, 250])
def test_a_hostile_name_moves_nothing(width: int) -> None:
    """No control character of a name or a reason gets to the terminal, and no line breaks."""
    terminal = Terminal(width)

    with terminal.view:
        lines = terminal.show(progress(HOSTILE, waiting=HOSTILE))

    assert all(line.isprintable() for line in lines)
    assert all(cell_len(line) <= width for line in lines)
    assert "evil\x07" not in "".join(lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_event_can_be_shown(width: int) -> None:
    """Messages scroll by, printable, one after the other; the drawing stays."""
    terminal = Terminal(width)

    with terminal.view:
        lines = terminal.show(*every_event(HOSTILE))

    assert all(line.isprintable() for line in lines)
    text = " ".join(lines)
    for words in ("checking 2 files", "to fetch:", "failed:", "repairing", "note:", "fetched in"):
        assert words in text


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_name_is_cut_by_columns(width: int) -> None:
    """Wide characters take two columns each: the percent stays in sight."""
    terminal = Terminal(width)

    with terminal.view:
        (file, _) = terminal.show(progress("模型权重文件" * 30))

    assert file.startswith("模型权重文件")
    assert "…" in file
    assert "42%" in file
    assert cell_len(file) <= width


@pytest.mark.parametrize(
    ("width", "name"),
    [
        (32, "model-00001-of-00002.safetensors"),
        (31, "model-00001-of-…002.safetensors"),
        (24, "model-00001….safetensors"),
        (2, "…s"),
        (1, "…"),
    ],
)
def test_a_name_is_cut_in_the_middle(width: int, name: str) -> None:
    """Shards differ at their ends, and the suffix tells what it is."""
    assert shortened("model-00001-of-00002.safetensors", width) == name


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (30, "model-00001-….safetensors  42%"),
        (56, "model-00001-of…002.safetensors  42%   5.00 MB/s sha  10%"),
        (75, "model-00001-of-00002.safetensors                   42%   5.00 MB/s sha  10%"),
    ],
)
def test_a_narrow_terminal_shows_names_rather_than_amounts(width: int, line: str) -> None:
    """Which file it is, and how far; the amounts are in the line for all."""
    terminal = Terminal(width)

    with terminal.view:
        (file, _) = terminal.show(progress("model-00001-of-00002.safetensors"))

    assert file == line


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (
            90,
            "total  50% 2.50 MB of 5.00 MB   10.0 MB/s   1m05s left   1 of 3 files   7 connections",
        ),
        (80, "total  50% 2.50 MB of 5.00 MB   10.0 MB/s   1m05s left   1 of 3 files"),
        (60, "total  50% 2.50 MB of 5.00 MB   10.0 MB/s   1m05s left"),
        (40, "total  50% 10.0 MB/s   1m05s left"),
        (30, "total  50% 10.0 MB/s"),
        (20, "total  50%"),
        (10, " 50%"),
    ],
)
def test_what_does_not_fit_is_left_out_as_a_whole(width: int, line: str) -> None:
    """Percent, rate and time left stay longest; no number is cut in half."""
    terminal = Terminal(width)

    with terminal.view:
        (total,) = terminal.show(progress())

    assert total == line


@pytest.mark.parametrize("width", [*WIDTHS, 60, 100, 250])
@pytest.mark.parametrize("waiting", [None, "a reason " * 50])
def test_the_last_line_leaves_room_for_an_echo(width: int, waiting: str | None) -> None:
    """The terminal writes `^C` behind it; if that wraps, a stale line stays for ever."""
    terminal = Terminal(width)

    with terminal.view:
        terminal.show(progress("w.bin", waiting=waiting))
        terminal.view(progress("w.bin", waiting=waiting))
        last = _CONTROL.sub("", terminal.written).rpartition("\n")[2]

    assert 0 < cell_len(last) <= width - 4


@pytest.mark.parametrize(("height", "files"), [(24, 8), (11, 8), (10, 6), (5, 1), (4, 0), (2, 0)])
def test_a_short_terminal_shows_fewer_files(height: int, files: int) -> None:
    """And how many more there are: what does not fit on the screen cannot be erased."""
    terminal = Terminal(80, height)

    with terminal.view:
        lines = terminal.show(progress(*(f"{number}.bin" for number in range(8))))

    more = [] if files == 8 else [f"and {8 - files} more"]
    assert len([line for line in lines if ".bin" in line]) == files
    assert [line for line in lines if line.startswith("and")] == more
    assert lines[-1].startswith("total")


def test_a_rate_is_shown_once_it_is_known() -> None:
    """Before the first byte there is none, later 0 says that nothing moves."""
    terminal = Terminal(80)

    with terminal.view:
        before = terminal.show(progress(rate=0.0, fetched=0, eta=None))
        stalled = terminal.show(progress(rate=0.0, eta=None))

    assert "/s" not in before[-1]
    assert "0 B/s" in stalled[-1]


def test_brackets_in_a_name_are_no_markup() -> None:
    """rich would take [red] for a colour."""
    terminal = Terminal(80)

    with terminal.view:
        lines = terminal.show(progress("[red]w[/].bin"), events.Note(message="[bold]x[/bold]"))

    text = " ".join(lines)
    assert "[red]w[/].bin" in text
    assert "note: [bold]x[/bold]" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_a_file_of_unknown_size_has_no_percent(width: int) -> None:
    """Nobody knows how much is left."""
    terminal = Terminal(width)
    unknown = events.FileProgress(path="w.bin", size=None, done=423, verified=0, rate=5e6)

    with terminal.view:
        file, total = terminal.show(progress(active=(unknown,), eta=None))

    assert file.startswith("w.bin")
    assert "%" not in file
    assert "left" not in total


def test_a_reason_to_wait_is_shown() -> None:
    """Nothing moves, and why."""
    terminal = Terminal(80)

    with terminal.view:
        before = terminal.show(events.Waiting(reason="the hub asked for a pause", seconds=5.0))
        during = terminal.show(progress("w.bin", waiting="a line that is cut"))

    assert before == ["waiting: the hub asked for a pause"]
    assert during[-1] == "waiting: a line that is cut"


def test_checking_is_told_from_fetching() -> None:
    """Hashing what is there already looks different, until the plan is made."""
    terminal = Terminal(80)

    with terminal.view:
        during = terminal.show(events.Checking(files=2, size=1000), progress())
        after = terminal.show(events.Planned(files=3, fetch=0, reuse=0), progress())

    assert during[-1].startswith("checking")
    assert "connections" not in during[-1]
    assert after[-1].startswith("total")


def test_a_run_of_nothing_can_be_drawn() -> None:
    """No total to divide by."""
    terminal = Terminal(80)

    with terminal.view:
        (total,) = terminal.show(events.Progress(statistics=events.Statistics()))

    assert "0%" in total


def test_the_drawing_is_gone_before_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    """The result goes to stdout, alone, when nothing is drawn any more."""
    terminal = Terminal(80)

    with terminal.view:
        terminal.view(progress("w.bin"))
        terminal.view.result("/models/x")
        assert capsys.readouterr().out == ""

    assert capsys.readouterr().out == "/models/x\n"


def test_a_failed_run_leaves_the_terminal_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    """The cursor is shown again, and there is no result."""
    terminal = Terminal(80)

    def fail() -> None:
        with terminal.view:
            terminal.view(progress("w.bin"))
            terminal.view.result("/models/x")
            raise HaulError("no")

    with pytest.raises(HaulError):
        fail()

    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert terminal.written.rindex(show) > terminal.written.rindex(hide)
    assert capsys.readouterr().out == ""
