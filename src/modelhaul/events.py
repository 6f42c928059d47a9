"""What happens during a run, as frozen values handed to a callback.

Events say that something changed; amounts are `Statistics`, which `Progress` carries at a steady
beat so that a view needs no second channel. Never put a secret, a query string or payload in one:
events are printed, logged and sent to other programs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class FileProgress:
    """One file in motion. Sizes in bytes; `size` is None while nobody knows it."""

    path: str
    size: int | None
    done: int
    verified: int
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Amounts of a run at one moment.

    Attributes:
        total: bytes of all files of the plan.
        done: bytes of them that are on disk, reused ones included.
        verified: bytes that the hashing has passed.
        reused: bytes that lay on disk already when the run began.
        fetched: payload bytes received over the network.
        files: files of the plan.
        files_done: files that stand under their final name.
        connections: requests in flight.
        rate: bytes/s received lately.
        eta: seconds left at that rate; None if there is no rate.
        waiting: why nothing moves, in words; None while something does.
        active: files in motion, at most a screenful.
    """

    total: int = 0
    done: int = 0
    verified: int = 0
    reused: int = 0
    fetched: int = 0
    files: int = 0
    files_done: int = 0
    connections: int = 0
    rate: float = 0.0
    eta: float | None = None
    waiting: str | None = None
    active: tuple[FileProgress, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A name was resolved to a list of files."""

    name: str
    revision: str | None
    commit: str | None
    files: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checking:
    """Files that are on disk already are being hashed. `size` bytes in `files` files."""

    files: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChecked:
    """A file was compared with its hub. The fields are those of `FileCheck`."""

    path: str
    finding: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The plan is made. Sizes in bytes; `fetch` + `reuse` + `copy` is the size of all files.

    `copy` is what is copied on this machine: from elsewhere on this disk, or because two files have
    it in common.
    """

    files: int
    fetch: int
    reuse: int
    copy: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStarted:
    """A file is opened for fetching; `present` of its `size` bytes are there already."""

    path: str
    size: int | None
    present: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDone:
    """A file stands under its final name, durable. The fields are those of `FileResult`."""

    path: str
    size: int
    how: str
    sha256: str | None
    verified: bool
    fetched: int
    proof_seconds: float | None
    disproven: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFailed:
    """A file was given up; the others go on."""

    path: str
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """A request failed and its bytes will be asked for again."""

    path: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDropped:
    """A source is not used any more for this file."""

    path: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Nothing can be done for `seconds` seconds because of `reason`."""

    reason: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Repairing:
    """The digest did not come right; `size` bytes are fetched again."""

    path: str
    size: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something a person may want to know and need not act on."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The steady beat, a few times a second while a run has a listener."""

    statistics: Statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The run succeeded: `path` holds the result. Always the last event of a download.

    `connections` is the most that were in use at one time; `copied` of the `reused` bytes were
    copied on this disk; `by_git_name` files were proven by the SHA-1 that git names them by,
    because the hub states no SHA-256 of them; `by_source` has the bytes that came from each source.
    """

    path: str
    files: int
    size: int
    fetched: int
    reused: int
    connections: int
    seconds: float
    verified: bool
    by_git_name: int = 0
    copied: int = 0
    by_source: Mapping[str, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A check is over. Always the last event of it; `wrong` and `missing` are what is left so.

    Attributes:
        path: the folder that was checked.
        files, size: files of the repository that were asked for, and their bytes.
        wrong, missing, unproven, repaired: how many files of each finding of `FileCheck`.
        fetched: payload bytes received over the network for repairs.
        seconds: duration.
        by_git_name: files that are judged by the SHA-1 that git names them by, because the hub
            states no SHA-256 of them.
    """

    path: str
    files: int
    size: int
    wrong: int
    missing: int
    unproven: int
    repaired: int
    fetched: int
    seconds: float
    by_git_name: int = 0


Event = (
    Resolved
    | Checking
    | FileChecked
    | Planned
    | FileStarted
    | FileDone
    | FileFailed
    | Retrying
    | SourceDropped
    | Waiting
    | Repairing
    | Note
    | Progress
    | Finished
    | Verified
)
Listener = Callable[[Event], None]
