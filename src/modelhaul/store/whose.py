"""Which repository a folder says it holds: one of a cache by its path, or an old one by its book.

A `--local-dir` says nothing: in a plain one are the repository's files and nothing else, and the
books that Hugging Face's tools keep in theirs name the commit, but not the repository. Blocks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from modelhaul.core.repo import Kind, RepoRef, parse_ref
from modelhaul.errors import UsageError
from modelhaul.store import osfile
from modelhaul.store.layout import find_cache
from modelhaul.store.pickles import MOST_BYTES, load_restricted

_KINDS: dict[str, Kind] = {"models": "model", "datasets": "dataset"}
_HF_KINDS: dict[str, Kind] = {**_KINDS, "spaces": "space"}
#: Bytes of `.mv` that are read: it is a line.
_MOST_MV = 1 << 12


@dataclass(frozen=True, slots=True)
class Holding:
    """What a folder holds, by its own word.

    Attributes:
        ref: the repository and revision.
        cache: the cache that it is the place of `ref` in; None if it is no cache's.
    """

    ref: RepoRef
    cache: Path | None


def holding(folder: Path, revision: str | None) -> Holding | None:
    """What `folder` holds; None if it does not say.

    Args:
        folder: an existing folder.
        revision: instead of the one that the folder names.
    """
    root = osfile.resolved(folder)[1]
    if (held := _in_huggingface_cache(root, revision)) is not None:
        return held
    named = _by_path(root) or _by_book(root)
    if named is None:
        return None
    kind, repo, found = named
    try:
        ref = parse_ref(repo, hub="modelscope", kind=kind, revision=revision or found)
    except UsageError:
        return None  # what looks like a cache's folder is none
    # From the top down: `hub/models/owner/name` is a place of three caches, of which the outermost
    # is the one that people configure.
    for cache in reversed(root.parents):
        if find_cache(cache, ref).root == root:
            return Holding(ref, cache)
    return Holding(ref, None)


def _in_huggingface_cache(root: Path, revision: str | None) -> Holding | None:
    """By `models--owner--name/snapshots/<commit>`; old repositories have no owner."""
    if root.parent.name != "snapshots" or len(root.parts) < 4:
        return None
    kind, *names = root.parent.parent.name.split("--")
    if kind not in _HF_KINDS or len(names) not in (1, 2):
        return None
    try:
        ref = parse_ref(
            "/".join(names),
            hub="huggingface",
            kind=_HF_KINDS[kind],
            revision=revision or root.name,
        )
    except UsageError:
        return None
    return Holding(ref, root.parent.parent.parent)


def _by_path(root: Path) -> tuple[Kind, str, str | None] | None:
    """By `models/owner--name/snapshots/<revision>`; a revision may have several parts."""
    parts = root.parts
    for at in range(2, len(parts) - 1):
        kind, (owner, dashes, name) = _KINDS.get(parts[at - 2]), parts[at - 1].partition("--")
        if parts[at] == "snapshots" and kind is not None and dashes:
            return kind, f"{owner}/{name}", "/".join(parts[at + 1 :])
    return None


def _by_book(root: Path) -> tuple[Kind, str, str | None] | None:
    """By what modelscope 1.37 and earlier leave: `.mdl` names the model, `.msc` says that the
    folder is theirs, and then its path ends with owner and name."""
    revision = _revision(root)
    try:
        book = load_restricted(osfile.read_small(root / ".mdl", MOST_BYTES + 1))
    except (OSError, ValueError):
        book = None
    if isinstance(book, dict) and isinstance(book.get("id"), str):
        return "model", book["id"].replace("___", "."), revision
    if (root / ".msc").is_file() and len(root.parts) > 2:
        kind = _KINDS.get(root.parts[-3], "model")
        return kind, f"{root.parts[-2]}/{root.name.replace('___', '.')}", revision
    return None


def _revision(root: Path) -> str | None:
    """By `.mv`: `Revision:master,CreatedAt:1700000000`."""
    try:
        text = osfile.read_small(root / ".mv", _MOST_MV).decode(errors="replace")
    except OSError:
        return None
    found = re.match(r"Revision:([^,\s]+)", text)
    return found[1] if found else None
