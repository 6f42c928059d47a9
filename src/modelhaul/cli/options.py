"""Options that several verbs share, and what they change: settings, and what is shown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from modelhaul.cli.output import View
from modelhaul.cli.spelling import is_like_repo
from modelhaul.core.units import parse_size
from modelhaul.errors import UsageError

if TYPE_CHECKING:
    from modelhaul.settings import Settings

Files = Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", help="Only these files.")]
Model = Annotated[
    str | None, typer.Option("--model", metavar="REPO", help="The same as REPO, for a model.")
]
Dataset = Annotated[
    str | None, typer.Option("--dataset", metavar="REPO", help="REPO is a dataset.")
]
Hub = Annotated[
    str | None,
    typer.Option(
        "--hub",
        metavar="HUB",
        help="Where REPO is: modelscope or huggingface.  [default: modelscope]",
        autocompletion=lambda: ["modelscope", "huggingface"],
    ),
]
RepoType = Annotated[
    str,
    typer.Option(
        "--repo-type",
        metavar="KIND",
        help="What REPO is: model, dataset or space.",
        autocompletion=lambda: ["model", "dataset", "space"],
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Branch, tag or commit.  [default: master, or main]"),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN...",
        help="Only files whose path matches; shell patterns, where * crosses /.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN...", help="No files whose path matches; wins over --include."),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The cache.  [env: MODELSCOPE_CACHE, HF_HUB_CACHE]"),
]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        help="API token.  [env: MODELSCOPE_API_TOKEN, HF_TOKEN; else the saved login]",
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The site.  [env: MODELSCOPE_ENDPOINT, HF_ENDPOINT]"),
]
Connections = Annotated[
    int | None,
    typer.Option(
        help="Most connections at once; how many are used is found out.  [default: 64]",
        metavar="N",
    ),
]
LimitRate = Annotated[
    str | None, typer.Option(help="Most bytes per second: 50MB, 400Mbit.", metavar="RATE")
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Hash again what is there, and overwrite files that are not ours."
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only errors and the resulting path.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print events as JSON lines; the last one has the path.")
]


def changed_settings(connections: int | None, limit_rate: str | None, **others: Any) -> Settings:
    """The environment's settings, changed by the options that were given.

    Raises:
        UsageError: a value makes no sense; the message names it.
    """
    from dataclasses import replace

    from modelhaul.settings import Settings

    changes: dict[str, Any] = {name: value for name, value in others.items() if value is not None}
    if connections is not None:
        changes["connections"] = changes["host_connections"] = connections
    if limit_rate is not None:
        changes["limit_rate"] = parse_size(limit_rate)
    return replace(Settings.from_environment(), **changes)


def hub_name(hub: str | None) -> Any:
    """The hub that `--hub` names, by its name or its prefix. Judged where it is used."""
    from modelhaul.core.repo import PREFIXES

    return None if hub is None else PREFIXES.get(hub, hub)


def choose_view(*, quiet: bool, as_json: bool) -> View:
    """The view for this invocation."""
    if quiet and not as_json:
        return View()
    from modelhaul.cli.views import JsonView, PlainView

    if as_json:
        return JsonView()
    if sys.stderr is not None and sys.stderr.isatty():
        from modelhaul.cli.progress import TerminalView

        return TerminalView()
    return PlainView()


def which(
    repo: str | None,
    files: list[str] | None,
    model: str | None,
    dataset: str | None,
    repo_type: str,
    patterns: list[str],
) -> tuple[str, list[str], str]:
    """The repository, the files and the kind; with --model and --dataset all words are files."""
    from modelhaul.core.repo import Kind

    if repo_type not in get_args(Kind):
        raise UsageError(f"--repo-type: {repo_type!r} is none of {', '.join(get_args(Kind))}")
    if model is not None and dataset is not None:
        raise UsageError("--model and --dataset at once: give one of them")
    names = list(files or ())
    named = model or dataset
    if named is None:
        if repo is None:
            taken = next(filter(is_like_repo, patterns), None)
            hint = (
                f"--include and --exclude take all words behind them: put {taken} first"
                if taken is not None
                else "put owner/name first; see --help"
            )
            raise UsageError("no repository given", hint=hint)
        return repo, names, repo_type
    if repo is not None:
        names.insert(0, repo)
    return named, names, "dataset" if dataset is not None else repo_type
