"""The difference between what is wanted and what is there: per file, what to do about it.

The plan is the dry run: printing it costs nothing more than making it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from modelhaul.core.repo import RemoteFile


class Found(Enum):
    """What stands at a final name."""

    NOTHING = "nothing"
    FILE = "file"
    LINK = "a symbolic link"
    FOLDER = "a folder"
    OTHER = "not a regular file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What is known about a final name before anything is fetched.

    Attributes:
        found: what stands there.
        same: it is a file with the wanted content, proven now or earlier.
        ours: it is a file that we put there and nobody touched since.
        recorded: bytes of the wanted content that an unfinished part holds.
    """

    found: Found = Found.NOTHING
    same: bool = False
    ours: bool = False
    recorded: int = 0


#: Nothing stands there, and no part has any of it.
ABSENT = Presence()


class Action(Enum):
    """What to do about a file.

    `SHARE`: nothing, since it stands in the very place of another file of the run, as two files of
    equal content do in a cache that holds content once.
    """

    FETCH = "fetch"
    KEEP = "keep"
    COPY = "copy"
    SHARE = "share"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlan:
    """One file of a plan.

    Attributes:
        file: as the hub describes it.
        action: what will be done.
        reuse: bytes that are in its place or its part already. None of a copy: all of it comes from
            another place on this disk.
        replaces: other content stands under the final name and will give way.
        reason: why it is refused, in words.
        unsafe: it is refused for its name: it alone, the others come. Any other refusal stops the
            run before the first byte.
    """

    file: RemoteFile
    action: Action
    reuse: int = 0
    replaces: bool = False
    reason: str = ""
    unsafe: bool = False

    @property
    def fetch(self) -> int:
        """Bytes that will come over the network; 0 where the size is not known."""
        if self.action is not Action.FETCH:
            return 0
        return max(0, (self.file.size or 0) - self.reuse)


def decide(file: RemoteFile, presence: Presence, *, owned: bool, force: bool) -> FilePlan:
    """What to do about one file.

    Args:
        file: what is wanted.
        presence: what is there.
        owned: the place belongs to the tools (a cache), so what is there may be replaced.
        force: the user said so.
    """
    size = file.size or 0
    if presence.same:
        return FilePlan(file=file, action=Action.KEEP, reuse=size)
    if presence.found in (Found.FOLDER, Found.OTHER):
        # Not even by force: what is inside is not ours to judge.
        return FilePlan(
            file=file, action=Action.REFUSE, reason=f"{presence.found.value} stands there"
        )
    there = presence.found is not Found.NOTHING
    if there and not (owned or presence.ours or force):
        what = "a symbolic link" if presence.found is Found.LINK else "a file"
        return FilePlan(
            file=file,
            action=Action.REFUSE,
            reason=f"{what} with other content stands there, and we did not put it there",
        )
    return FilePlan(
        file=file, action=Action.FETCH, reuse=min(presence.recorded, size), replaces=there
    )


def copied(plan: FilePlan) -> FilePlan:
    """The same for a file whose content lies, or will lie, elsewhere on this disk."""
    return replace(plan, action=Action.COPY, reuse=0)


def share(plans: list[FilePlan]) -> list[FilePlan]:
    """Turn all but one of the files of equal content into copies of that one.

    One that is there already is the first choice.
    """
    kept: dict[tuple[str, int], int] = {}
    fetched: dict[tuple[str, int], int] = {}
    keys = [_content(plan) for plan in plans]
    for at, (plan, key) in enumerate(zip(plans, keys, strict=True)):
        if key is None:
            continue
        if plan.action is Action.KEEP:
            kept.setdefault(key, at)
        elif plan.action is Action.FETCH:
            fetched.setdefault(key, at)
    first = fetched | kept
    shared = list(plans)
    for at, (plan, key) in enumerate(zip(plans, keys, strict=True)):
        if key is not None and plan.action is Action.FETCH and first[key] != at:
            shared[at] = copied(plan)
    return shared


def _content(plan: FilePlan) -> tuple[str, int] | None:
    content, size = plan.file.content, plan.file.size
    return None if content is None or not size else (content, size)


@dataclass(frozen=True, slots=True)
class Plan:
    """All files of a run."""

    files: tuple[FilePlan, ...]

    def __iter__(self) -> Iterator[FilePlan]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(plan.file.size or 0 for plan in self.files)

    @property
    def fetch(self) -> int:
        """Bytes that will come over the network."""
        return sum(plan.fetch for plan in self.files)

    @property
    def copy(self) -> int:
        """Bytes that will be copied: from elsewhere on this disk, or from a file of this run."""
        return sum(plan.file.size or 0 for plan in self.files if plan.action is Action.COPY)

    @property
    def reuse(self) -> int:
        """Bytes that are in their places or in parts already."""
        return sum(plan.reuse for plan in self.files if plan.action is not Action.REFUSE)

    @property
    def replaces(self) -> bool:
        """Whether anything that stands in its place now will give way."""
        return any(
            plan.replaces for plan in self.files if plan.action in (Action.FETCH, Action.COPY)
        )
