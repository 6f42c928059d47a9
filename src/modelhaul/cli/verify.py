"""`modelhaul verify`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from modelhaul.cli.options import (
    CacheDir,
    Connections,
    Dataset,
    Endpoint,
    Exclude,
    Files,
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
from modelhaul.cli.session import run
from modelhaul.errors import UsageError


def verify(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="REPO|PATH",
            help="A repository (owner/name, hf:owner/name), or a folder of a cache.",
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
        typer.Option(metavar="DIR", help="The plain folder that holds REPO, instead of the cache."),
    ] = None,
    cache_dir: CacheDir = None,
    token: Token = None,
    endpoint: Endpoint = None,
    connections: Connections = None,
    limit_rate: LimitRate = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Fetch what is wrong or missing, and nothing else.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check what was downloaded, and repair it.

    Every file is read and compared with the digest that the hub states (SHA-256, or the name that
    git gives it), several at a time, whatever was proven before: disks change bytes without a
    trace. What is wrong or missing is listed; the exit code is 8 if anything is wrong, 3 if files
    are only missing. The last line on stdout is the folder.

    With --repair these files are fetched, and take their places once they are proven. That goes
    for files of your own as well: what you have edited is wrong here.

    \b
    modelhaul verify Qwen/Qwen3-8B                        # in the cache
    modelhaul verify Qwen/Qwen3-8B --local-dir ./qwen     # in a plain folder
    modelhaul verify Qwen/Qwen3-8B --local-dir ./qwen --repair
    modelhaul verify hf:Qwen/Qwen3-8B
    modelhaul verify ~/.cache/modelscope/models/Qwen--Qwen3-8B/snapshots/master
    """
    view = choose_view(quiet=quiet, as_json=as_json)

    async def main() -> int:
        from modelhaul.client import Client

        if local_dir is not None and cache_dir is not None:
            raise UsageError("--local-dir and --cache-dir at once: give one of them")
        patterns = [*(include or ()), *(exclude or ())]
        name, names, kind = which(target, files, model, dataset, repo_type, patterns)
        chosen = hub_name(hub)
        if name == target and _is_both(name, chosen):
            view.say(f"note: {name} is taken for a repository: ./{name} is the folder")
        wish: dict[str, Any] = {
            "hub": chosen,
            "kind": kind,
            "files": names,
            "revision": revision,
            "include": include or (),
            "exclude": exclude or (),
            "local_dir": local_dir,
            "cache_dir": cache_dir,
            "endpoint": endpoint,
            "token": token,
            "repair": repair,
            "on_event": view,
        }
        async with Client(changed_settings(connections, limit_rate)) as client:
            report = await client.verify(name, **wish)
        if report.error is not None:
            raise report.error
        view.result(report.path)
        return 0

    raise typer.Exit(run(main, view))


def _is_both(name: str, hub: Any) -> bool:
    """Whether a word names a repository and a folder that is here."""
    from modelhaul.core.repo import is_repo

    return is_repo(name, hub) and os.path.isdir(name)
