"""`modelhaul parts` and `modelhaul clean`: what unfinished downloads have left behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelhaul.cli.output import View, print_line, printable, write_line
from modelhaul.core.names import RESERVED_FOLDER
from modelhaul.core.units import duration_text, size_text
from modelhaul.errors import HaulError, UsageError

if TYPE_CHECKING:
    from modelhaul.store.claim import Unfinished

Folder = Annotated[
    Path | None,
    typer.Argument(metavar="DIR", help="A target folder or a cache.  [default: the caches]"),
]


def parts(
    folder: Folder = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per part.")] = False,
) -> None:
    """List unfinished downloads.

    What is there of each, and how old it is.

    \b
    modelhaul parts            # in the caches of ModelScope and Hugging Face
    modelhaul parts ./models   # in a --local-dir
    """

    def main() -> None:
        states = _states(folder)
        found = _found(states)
        for work in found:
            print_line(_as_json(work) if as_json else _as_text(work))
        if not found and not as_json:
            write_line(sys.stderr, f"nothing unfinished in {_places(folder)}")

    raise typer.Exit(_run(main))


def clean(folder: Folder = None) -> None:
    """Remove unfinished downloads.

    What a running process works on stays.

    \b
    modelhaul clean            # in the caches of ModelScope and Hugging Face
    modelhaul clean ./models   # in a --local-dir
    """

    def main() -> None:
        from modelhaul.store.osfile import remove_quietly, storage_errors

        states = _states(folder)
        found = _found(states)
        freed = 0
        for work in found:
            if work.busy:
                write_line(sys.stderr, f"in use, left alone: {printable(work.label)}")
                continue
            # Parts before journals: a journal without its part is void, not the other way round.
            for path in sorted(work.paths, key=lambda path: path.name.endswith(".journal")):
                with storage_errors(f"removing {path}"):
                    remove_quietly(path)
            freed += work.stored
            # More than `parts` says has arrived: bytes that no record counts, and the journal.
            stored = f"{size_text(work.stored)} on disk"
            write_line(sys.stderr, f"removed: {printable(work.label)} ({stored})")
        for state in states:
            if state.is_dir() and not any(state.iterdir()):
                with storage_errors(f"removing {state}"):
                    state.rmdir()
        if found:
            print_line(f"{size_text(freed)} freed")
        else:
            write_line(sys.stderr, f"nothing unfinished in {_places(folder)}")

    raise typer.Exit(_run(main))


def _run(main: object) -> int:
    assert callable(main)
    try:
        main()
    except HaulError as error:
        View().error(error)
        return error.exit_code
    return 0


def _states(folder: Path | None) -> list[Path]:
    """The state folder of a target, and of each repository if it is a Hugging Face cache."""
    from modelhaul.settings import Settings
    from modelhaul.store.layout_huggingface import repositories

    hub = folder if folder is not None else Settings.from_environment().hf_cache_dir
    return [_state(folder), *(_state(inner) for inner in repositories(hub.expanduser()))]


def _places(folder: Path | None) -> str:
    """What is looked into, in words."""
    from modelhaul.settings import Settings

    if folder is not None:
        return str(folder.expanduser().resolve())
    settings = Settings.from_environment()
    return f"{settings.cache_dir.expanduser()} and {settings.hf_cache_dir.expanduser()}"


def _state(folder: Path | None) -> Path:
    from modelhaul.settings import Settings
    from modelhaul.store.osfile import check_own_folder

    target = folder if folder is not None else Settings.from_environment().cache_dir
    target = target.expanduser()
    if not target.is_dir():
        if folder is None:
            return target / RESERVED_FOLDER
        raise UsageError(f"{target} is not a folder")
    state = target.resolve() / RESERVED_FOLDER
    # Whatever lies behind a link is not ours to list, and much less to remove.
    check_own_folder(state)
    return state


def _found(states: list[Path]) -> list[Unfinished]:
    from modelhaul.store.claim import unfinished

    return sorted(
        (work for state in states for work in unfinished(state)), key=lambda work: work.label
    )


def _as_text(work: Unfinished) -> str:
    whole = size_text(work.size) if work.size is not None else "?"
    busy = "  in use" if work.busy else ""
    return (
        f"{size_text(work.have):>8} of {whole:>8}  {duration_text(work.age):>7} old"
        f"  {printable(work.label)}{busy}"
    )


def _as_json(work: Unfinished) -> str:
    return json.dumps(
        {
            "label": work.label,
            "size": work.size,
            "have": work.have,
            "stored": work.stored,
            "age": round(work.age, 1),
            "busy": work.busy,
            "paths": [str(path) for path in work.paths],
        }
    )
