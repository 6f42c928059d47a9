"""Which files of a listing are wanted: include, exclude and exact names, one rule for all verbs.

Patterns are the shell's, matched against the whole path with case: `*` crosses `/`. Two spellings
are inherited from the ModelScope tools: `dir/` means all below, and `.*\\.bin` means `*.bin`. Their
clients take every `.*` for `*`; we do so only at the start and before a backslash, where it cannot
be a shell pattern: `--exclude '.*'` must mean hidden files, not all files.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches

from modelhaul.core.repo import RemoteFile
from modelhaul.errors import NothingMatched


def select(
    files: Sequence[RemoteFile],
    *,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    names: Iterable[str] = (),
) -> tuple[RemoteFile, ...]:
    """The wanted files, in the order of the listing.

    Exact `names` and `include` patterns add up; without either, everything is wanted. `exclude`
    wins over both.

    Raises:
        NothingMatched: a name or an include pattern matches no file, or nothing is left.
    """
    patterns = list(include)
    wanted_names = [_plain(name) for name in names]
    listed = {file.path for file in files} if wanted_names else set()
    for name in wanted_names:
        if name not in listed:
            near = get_close_matches(name, listed, n=1, cutoff=0.6)
            raise NothingMatched(
                f"no file {name!r} in the repository",
                hint=f"did you mean {near[0]!r}?" if near else "--dry-run lists its files",
            )
    chosen = set(wanted_names)
    for pattern in patterns:
        matches = matcher(pattern)
        hits = {file.path for file in files if matches(file.path)}
        if not hits:
            raise NothingMatched(
                f"no file in the repository matches {pattern!r}",
                hint="patterns are the shell's, over the whole path: '*.json', 'sub/*'",
            )
        chosen |= hits
    everything = not patterns and not wanted_names
    refuses = [matcher(pattern) for pattern in exclude if pattern]
    if everything and not refuses:
        return tuple(files)
    kept = tuple(
        file
        for file in files
        if (everything or file.path in chosen)
        and not any(matches(file.path) for matches in refuses)
    )
    if files and not kept:
        raise NothingMatched("every file that was asked for is excluded too")
    return kept


def matcher(pattern: str) -> Callable[[str], bool]:
    """A function that says whether a path matches `pattern`."""
    pattern = _plain(pattern)
    if pattern.endswith("/"):
        pattern += "*"
    if pattern.startswith(".*\\"):
        pattern = "*" + pattern[2:].replace("\\", "")
    regex = re.compile(fnmatch.translate(pattern))
    return lambda path: regex.match(path) is not None


def _plain(text: str) -> str:
    return text.removeprefix("./")
