"""Progress on a terminal, by rich: a line per file in motion and one for all."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from modelhaul import events
from modelhaul.cli.output import printable
from modelhaul.cli.views import TellingView
from modelhaul.cli.words import rate_is_known
from modelhaul.core.units import duration_text, size_text

#: Below this width a file's amounts go, below the next its rate and its proof, too.
_ROOM_FOR_AMOUNTS = 76
_ROOM_FOR_RATE = 56
#: Columns for a name before a bar gets any: `model-00001-of-00002.safetensors`.
_NAME = 32
_SHORTEST_BAR = 8
_LONGEST_BAR = 24
#: Columns at the end of the last line that stay free: the terminal echoes `^C` there, twice for who
#: is impatient. On a full line it would wrap, and the line above would not be erased any more.
_ECHO = 4
#: Lines that are not of files: the total, why nothing moves, and one to spare.
_OTHER_LINES = 3


class TerminalView(TellingView):
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
                    self._live.update(_waiting(reason, self._console.width), refresh=True)
            case events.Checking():
                self._checking = True
            case events.Planned():
                self._checking = False
        self.tell(event)

    def say(self, text: str) -> None:
        style = "bold" if text.startswith(("failed", "repairing")) else ""
        self._console.print(Text(printable(text), style=style))

    def _draw(self, amounts: events.Statistics) -> RenderableType:
        width = self._console.width
        lines: list[RenderableType] = []
        if amounts.active:
            lines.append(_files(amounts.active, width, self._console.height - _OTHER_LINES))
        lines.append(_total(amounts, width, checking=self._checking))
        reason = amounts.waiting
        if reason is None and self._waiting and time.monotonic() - self._waiting[0] < 1.0:
            reason = self._waiting[1]
        if reason:
            lines.append(_waiting(reason, width))
        return Group(*lines)


def _waiting(reason: str, width: int) -> Text:
    text = Text(f"waiting: {printable(reason)}", style="yellow", no_wrap=True)
    text.truncate(max(1, width - _ECHO), overflow="ellipsis")
    return text


def _files(active: Sequence[events.FileProgress], width: int, most: int) -> RenderableType:
    """A line per file, at most `most` lines."""
    most = max(1, most)
    shown = active if len(active) <= most else active[: most - 1]
    # The name takes what the others leave; each of those stands behind a blank.
    columns = [4]
    if width >= _ROOM_FOR_AMOUNTS:
        columns.append(19)
    if width >= _ROOM_FOR_RATE:
        columns += [11, 8]
    room = max(1, width - sum(columns) - len(columns))
    bar = min(_LONGEST_BAR, room - 1 - _NAME) if width >= _ROOM_FOR_AMOUNTS else 0
    if bar >= _SHORTEST_BAR:
        columns.insert(0, bar)
        room -= bar + 1
    table = Table.grid(padding=(0, 1))
    table.add_column(width=room, no_wrap=True)
    for column in columns:
        table.add_column(justify="right", width=column, no_wrap=True)
    for file in shown:
        size = file.size or 0
        row: list[RenderableType] = [Text(shortened(printable(file.path), room))]
        if bar >= _SHORTEST_BAR:
            row.append(ProgressBar(total=size, completed=file.done, width=bar) if size else "")
        row.append(f"{100 * file.done // size}%" if size else "")
        if width >= _ROOM_FOR_AMOUNTS:
            row.append(f"{size_text(file.done)}/{size_text(size) if size else '?'}")
        if width >= _ROOM_FOR_RATE:
            row.append(f"{size_text(file.rate)}/s" if file.rate > 0 else "")
            row.append(_proven(file))
        table.add_row(*row)
    if len(shown) == len(active):
        return table
    return Group(table, Text(f"and {len(active) - len(shown)} more"))


def _proven(file: events.FileProgress) -> Text:
    """How far the hashing is, as part of what has arrived."""
    if not file.size:
        return Text("")
    return Text(f"sha {100 * file.verified // file.size:3d}%", style="green")


def shortened(text: str, width: int) -> str:
    """A name that fits into so many columns, cut in the middle: shards differ at their ends."""
    if cell_len(text) <= width:
        return text
    tail = _fitting(reversed(text), width // 2)[::-1]
    return _fitting(text, width - 1 - cell_len(tail)) + "…" + tail


def _fitting(text: Iterable[str], width: int) -> str:
    """The first characters that fit into so many columns."""
    found = ""
    for char in text:
        width -= cell_len(char)
        if width < 0:
            break
        found += char
    return found


def _total(amounts: events.Statistics, width: int, *, checking: bool) -> Table:
    """The line for all. What does not fit is left out as a whole, the least important first."""
    percent = f"{100 * amounts.done // max(1, amounts.total):3d}%"
    parts = [(3, f"{size_text(amounts.done)} of {size_text(amounts.total)}")]
    if not checking:
        if rate_is_known(amounts):
            parts.append((1, f"{size_text(amounts.rate)}/s"))
        if amounts.eta is not None:
            parts.append((2, f"{duration_text(math.ceil(amounts.eta))} left"))
        parts.append((4, f"{amounts.files_done} of {amounts.files} files"))
        parts.append((5, f"{amounts.connections} connections"))
        parts.append((6, f"sha {100 * amounts.verified // max(1, amounts.total)}%"))
    label = "checking" if checking else "total"
    room = width - _ECHO - len(label) - len(percent) - 2
    while parts and len(_joined(parts)) > room:
        parts.remove(max(parts))
    bar = min(_LONGEST_BAR, room - len(_joined(parts)) - 1)
    # Not expanded: behind the last word the line stays empty.
    table = Table.grid(padding=(0, 1))
    row: list[RenderableType] = []
    if width > _ECHO + len(label) + len(percent):
        row.append(Text(label, style="bold"))
    if bar >= _LONGEST_BAR:
        row.append(ProgressBar(total=max(1, amounts.total), completed=amounts.done, width=bar))
    row += [Text(percent), Text(_joined(parts))]
    for cell in row:
        table.add_column(no_wrap=True, width=bar if isinstance(cell, ProgressBar) else None)
    table.add_row(*row)
    return table


def _joined(parts: list[tuple[int, str]]) -> str:
    return "   ".join(text for _, text in parts)
