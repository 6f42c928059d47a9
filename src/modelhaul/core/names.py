"""Names that a server sends are hostile until shown to be safe.

`fault()` judges one path, `collisions()` judges a listing. Both say why in words; the caller
refuses the file and goes on with the others.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator

# Our own parts, journals and locks live here; see docs/internals/journal.md.
RESERVED_FOLDER = ".modelhaul"

_MAX_COMPONENT = 255  # bytes; NAME_MAX of every common file system
_MAX_PATH = 4000  # bytes; PATH_MAX is 4096 on Linux and the target has to fit too
# Each folder of a path is looked at with each file: a listing of 60,000 names of 2000 parts, which
# is what an answer of a hub may hold, would take minutes. No name of 255 bytes has more than 128.
_MAX_PARTS = 128
_WINDOWS_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?", re.IGNORECASE
)
_WINDOWS_BAD = re.compile(r'[<>:"|?*]')
# What nearly every name is made of; a listing may hold a hundred thousand. Nothing that `fault()`
# refuses anywhere but on Windows matches it, save by its length.
_HARMLESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # all of Unicode's category Cc


def fault(path: str, *, windows: bool = False, reserved: Collection[str] = ()) -> str | None:
    """Why `path` must not be written below a target folder; None if it may.

    Args:
        path: path inside the repository, as the server sent it.
        windows: judge by the rules of that system too.
        reserved: files and folders (lower case) that the layout keeps for itself.
    """
    if not windows and not reserved and len(path) <= _MAX_COMPONENT and _HARMLESS.fullmatch(path):
        return None
    if not path:
        return "the name is empty"
    try:
        length = _byte_length(path)
    except UnicodeEncodeError:
        return "the name is not valid Unicode"
    if _CONTROL.search(path):
        return "the name holds a control character"
    if "\\" in path:
        return "the name holds a backslash"
    if path.startswith("/"):
        return "the name is an absolute path"
    if length > _MAX_PATH:
        return f"the name is longer than {_MAX_PATH} bytes"
    parts = path.split("/")
    why = _parts_fault(parts, windows=windows)
    if why is not None:
        return why
    folded = path.casefold()
    if parts[0].casefold() == RESERVED_FOLDER:
        return f"{RESERVED_FOLDER} is the folder of our own state"
    # In the place itself, or where a folder on the way to it has to be.
    if any(
        f"{folded}/".startswith(f"{name}/") or name.startswith(f"{folded}/") for name in reserved
    ):
        return f"{path} is in a place that this layout keeps for itself"
    return None


def _parts_fault(parts: list[str], *, windows: bool) -> str | None:
    if len(parts) > _MAX_PARTS:
        return f"the name has more than {_MAX_PARTS} parts"
    for part in parts:
        why = _component_fault(part, windows=windows)
        if why is not None:
            return why
    return None


def _component_fault(part: str, *, windows: bool) -> str | None:
    if part == "":
        return "the name has an empty part"
    if part in (".", ".."):
        return "the name climbs out of its folder"
    # A hook in .git/ of a folder that somebody works in would run as that person. Mac file systems
    # ignore invisible characters in names, Windows has short names besides.
    if _visible(part).casefold().rstrip(". ") in (".git", "git~1"):
        return "the name reaches into a .git folder"
    if _byte_length(part) > _MAX_COMPONENT:
        return f"a part of the name is longer than {_MAX_COMPONENT} bytes"
    if windows:
        if part[-1] in ". ":
            return "a part of the name ends with a dot or a space"
        if _WINDOWS_RESERVED.fullmatch(part):
            return f"{part} is the name of a device"
        if _WINDOWS_BAD.search(part):
            return "the name holds a character that Windows does not store"
    return None


def _byte_length(text: str) -> int:
    # Nearly every name is ASCII, and a listing may hold a hundred thousand.
    return len(text) if text.isascii() else len(text.encode())


def _visible(part: str) -> str:
    if part.isascii():
        return part
    return "".join(char for char in part if unicodedata.category(char) != "Cf")


def collisions(paths: Iterable[str], *, fold: bool) -> dict[str, str]:
    """Paths that cannot all exist in one folder, each with the reason.

    Both sides of a pair are refused: choosing one would be a guess.

    Args:
        paths: all paths of a listing that are to be written.
        fold: the file system takes names that differ in case or Unicode form for one.
    """
    key = _folded if fold else str
    owners: dict[str, list[str]] = {}
    for path in paths:
        owners.setdefault(key(path), []).append(path)
    found: dict[str, str] = {}
    for same in owners.values():
        for path in same[1:]:
            found[path] = f"this file system cannot tell it from {same[0]}"
            found.setdefault(same[0], f"this file system cannot tell it from {path}")
    listed_above: dict[str, list[str]] = {}
    for same in owners.values():
        for path in same:
            folder = path.rpartition("/")[0]
            if folder not in listed_above:
                # Once per folder: most files of a long listing share theirs.
                keys = [key(parent) for parent in _with_parents(folder)]
                listed_above[folder] = [owners[each][0] for each in keys if each in owners]
            for above in listed_above[folder]:
                found.setdefault(path, f"{above} is listed as a file")
                found.setdefault(above, f"it is listed as a file and as the folder of {path}")
    return found


def _with_parents(folder: str) -> Iterator[str]:
    """A folder and those that it lies in, the nearest first."""
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def _folded(path: str) -> str:
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
