"""`modelhaul download`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelhaul.cli.options import (
    CacheDir,
    Connections,
    Dataset,
    Endpoint,
    Exclude,
    Files,
    Force,
    Hub,
    Include,
    Json,
    LimitRate,
    Model,
    Quiet,
    RepoType,
    Revision,
    Token,
    changed_settings,
    choose_view,
    hub_name,
    which,
)
from modelhaul.cli.output import View, print_lines, printable
from modelhaul.cli.session import run
from modelhaul.cli.spelling import is_like_repo
from modelhaul.core.units import count_text, size_text
from modelhaul.errors import UsageError

if TYPE_CHECKING:
    from modelhaul.client import Client
    from modelhaul.core.plan import Plan


def download(
    repo: Annotated[
        str | None,
        typer.Argument(
            metavar="REPO",
            help="The repository: owner/name, hf:owner/name, or its page on modelscope.cn, .ai or"
            " huggingface.co.",
        ),
    ] = None,
    files: Files = None,
    model: Model = None,
    dataset: Dataset = None,
    hub: Hub = None,
    repo_type: RepoType = "model",
    revision: Revision = None,
    include: Include = None,
    exclude: Exclude = None,
    local_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A plain folder to write to, instead of the cache."),
    ] = None,
    cache_dir: CacheDir = None,
    token: Token = None,
    endpoint: Endpoint = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            metavar="SOURCE",
            help="Where else files may come from, if they are the same: hf:owner/name,"
            " ms:owner/name, https://mirror, https://host/folder, or auto for the other hub."
            " Repeatable.",
        ),
    ] = None,
    connections: Connections = None,
    limit_rate: LimitRate = None,
    max_workers: Annotated[
        int | None, typer.Option(help="Most large files in motion at once.", hidden=True)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be fetched, and fetch nothing.")
    ] = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Download a model, dataset or space.

    From ModelScope or Hugging Face; every file is proven by its digest. Interrupt it whenever you
    like: the same command goes on where it stopped. Files that are there already are kept. The last
    line on stdout is the folder (with --dry-run there is only the plan).

    \b
    modelhaul download Qwen/Qwen3-8B
    modelhaul download Qwen/Qwen3-8B --local-dir ./qwen --include '*.json' '*.safetensors'
    modelhaul download Qwen/Qwen3-8B config.json tokenizer.json
    modelhaul download --dataset owner/name --revision v1.0.0
    modelhaul download hf:Qwen/Qwen3-8B
    modelhaul download Qwen/Qwen3-8B --source hf:Qwen/Qwen3-8B --source https://mirror.example
    """
    view = choose_view(quiet=quiet, as_json=as_json)

    async def main() -> int:
        from modelhaul.client import Client

        if local_dir is not None and cache_dir is not None:
            raise UsageError("--local-dir and --cache-dir at once: give one of them")
        patterns = [*(include or ()), *(exclude or ())]
        name, names, kind = which(repo, files, model, dataset, repo_type, patterns)
        place = next(filter(_is_place, names), None)
        if source and place is not None:
            from modelhaul.core.origin import shown

            # An address may hold a password.
            word = shown(place) if "://" in place else place
            raise UsageError(
                f"{word} is taken for a file of {name}", hint="repeat --source before each place"
            )
        if repo in names and is_like_repo(repo):
            view.say(f"note: {repo} is taken for a file of {name}: --model and --dataset name REPO")
        wish: dict[str, Any] = {
            "hub": hub_name(hub),
            "kind": kind,
            "files": names,
            "revision": revision,
            "include": include or (),
            "exclude": exclude or (),
            "local_dir": local_dir,
            "cache_dir": cache_dir,
            "endpoint": endpoint,
            "token": token,
            "sources": source or (),
            "force": force,
            "on_event": view,
        }
        settings = changed_settings(connections, limit_rate, files_at_once=max_workers)
        async with Client(settings) as client:
            if dry_run:
                return await _show_plan(client, name, wish, view)
            report = await client.download(name, **wish)
        view.result(report.path)
        return 0

    raise typer.Exit(run(main, view))


def _is_place(word: str) -> bool:
    """Whether a word looks like a source and hardly like a file."""
    from modelhaul.core.repo import is_repo

    return word.startswith(("http://", "https://")) or (
        word.startswith(("hf:", "ms:")) and is_repo(word.partition("@")[0])
    )


async def _show_plan(client: Client, name: str, wish: dict[str, Any], view: View) -> int:
    from modelhaul.cli.views import JsonView

    plan = await client.plan(name, **wish)
    if isinstance(view, JsonView):
        view.line(_plan_fields(plan))
    else:
        _print_plan(plan)
    return _exit_code(plan)


def _exit_code(plan: Plan) -> int:
    """What the run of this plan would exit with, as far as a plan can tell."""
    from modelhaul.core.plan import Action
    from modelhaul.errors import Occupied, UnsafeName
    from modelhaul.report import Incomplete

    refused = [file for file in plan if file.action is Action.REFUSE]
    if not refused:
        return 0
    if not all(file.unsafe for file in refused):
        return Occupied.exit_code
    return UnsafeName.exit_code if len(refused) == len(plan) else Incomplete.exit_code


def _plan_fields(plan: Plan) -> dict[str, Any]:
    return {
        "event": "plan",
        "files": [
            {
                "path": file.file.path,
                "action": file.action.value,
                "size": file.file.size,
                "fetch": file.fetch,
                "reuse": file.reuse,
                "sha256": file.file.sha256,
                "git_sha1": file.file.git_sha1,
                "reason": file.reason or None,
                "unsafe": file.unsafe,
            }
            for file in plan
        ],
        "size": plan.size,
        "fetch": plan.fetch,
        "reuse": plan.reuse,
        "copy": plan.copy,
    }


def _print_plan(plan: Plan) -> None:
    lines = []
    for file in plan:
        reused = f"  ({size_text(file.reuse)} here)" if file.reuse and file.fetch else ""
        reason = f"  ({file.reason})" if file.reason else ""
        size = size_text(file.file.size) if file.file.size is not None else "?"
        path = printable(file.file.path)
        lines.append(f"{file.action.value:6}  {size:>8}  {path}{reused}{reason}")
    lines.append(
        f"{count_text(len(plan), 'file')}, {size_text(plan.size)}:"
        f" {size_text(plan.fetch)} to fetch, {size_text(plan.reuse)} reused"
        + (f", {size_text(plan.copy)} copied" if plan.copy else "")
    )
    print_lines(lines)
