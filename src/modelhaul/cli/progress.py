"""Progress on a terminal, by rich: a line per file in motion and one for all."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from modelhaul import events
from modelhaul.cli.output import View, describe, printable
from modelhaul.core.units import duration_text, size_text

#: Below this width the bars go, below the next the amounts.
_ROOM_FOR_BARS = 90
_ROOM_FOR_AMOUNTS = 56
#: The line for all has more to say, so its bar needs more room still.
_ROOM_FOR_TOTAL_BAR = 120


class TerminalView(View):
    """Redraws a few lines at the bottom of the terminal; messages scroll above them."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(stderr=True, highlight=False)
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
        )
        self._amounts: events.Statistics | None = None
        self._waiting: tuple[float, str] | None = None
        self._checking = False

    def __enter__(self) -> TerminalView:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()
        super().__exit__(kind, error, trace)

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.Progress(statistics=amounts):
                self._amounts = amounts
                self._live.update(self._draw(amounts), refresh=True)
                return
            case events.Waiting(reason=reason):
                self._waiting = (time.monotonic(), reason)
                if self._amounts is None:
                    self._live.update(Text(f"waiting: {printable(reason)}"), refresh=True)
            case events.Checking():
                self._checking = True
            case events.Planned():
                self._checking = False
        text = describe(event)
        if text is not None:
            self.say(text)

    def say(self, text: str) -> None:
        style = "bold" if text.startswith(("failed", "repairing")) else ""
        self._console.print(Text(printable(text), style=style))

    def _draw(self, amounts: events.Statistics) -> RenderableType:
        width = self._console.width
        lines: list[RenderableType] = []
        if amounts.active:
            lines.append(_files(amounts, width))
        lines.append(_total(amounts, width, checking=self._checking))
        reason = amounts.waiting
        if reason is None and self._waiting and time.monotonic() - self._waiting[0] < 1.0:
            reason = self._waiting[1]
        if reason:
            lines.append(Text(f"waiting: {printable(reason)}", style="yellow", overflow="ellipsis"))
        return Group(*lines)


def _files(amounts: events.Statistics, width: int) -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    if width >= _ROOM_FOR_BARS:
        table.add_column(width=24)
    table.add_column(justify="right", width=4)
    if width >= _ROOM_FOR_AMOUNTS:
        table.add_column(justify="right", width=19, no_wrap=True)
        table.add_column(justify="right", width=11, no_wrap=True)
        table.add_column(justify="right", width=8, no_wrap=True)
    for file in amounts.active:
        size = file.size or 0
        row: list[RenderableType] = [Text(printable(file.path))]
        if width >= _ROOM_FOR_BARS:
            bar = ProgressBar(total=size, completed=file.done, width=24) if size else ""
            row.append(bar)
        row.append(f"{100 * file.done // size}%" if size else "")
        if width >= _ROOM_FOR_AMOUNTS:
            row += [
                f"{size_text(file.done)}/{size_text(size) if size else '?'}",
                f"{size_text(file.rate)}/s",
                _proven(file),
            ]
        table.add_row(*row)
    return table


def _proven(file: events.FileProgress) -> Text:
    """How far the hashing is, as part of what has arrived."""
    if not file.size:
        return Text("")
    return Text(f"sha {100 * file.verified // file.size:3d}%", style="green")


def _total(amounts: events.Statistics, width: int, *, checking: bool) -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True)
    percent = 100 * amounts.done // max(1, amounts.total)
    row: list[RenderableType] = [Text("checking" if checking else "total", style="bold")]
    if width >= _ROOM_FOR_TOTAL_BAR:
        table.add_column(width=24)
        row.append(ProgressBar(total=max(1, amounts.total), completed=amounts.done, width=24))
    table.add_column(width=4, justify="right")
    row.append(f"{percent}%")
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    parts = [f"{size_text(amounts.done)} of {size_text(amounts.total)}"]
    if not checking:
        parts.append(f"{size_text(amounts.rate)}/s")
        if amounts.eta is not None:
            parts.append(f"{duration_text(amounts.eta)} left")
        parts.append(f"{amounts.files_done} of {amounts.files} files")
        parts.append(f"{amounts.connections} connections")
        parts.append(f"sha {100 * amounts.verified // max(1, amounts.total)}%")
    row.append(Text("   ".join(parts)))
    table.add_row(*row)
    return table
