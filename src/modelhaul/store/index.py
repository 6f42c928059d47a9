"""What is already on this disk: which file was proven to have which digest, and when. Blocks.

A cache in the user's state folder; it may be deleted at any time and only costs hashing again.
"Proven earlier" means: same path, and device, inode, size and both times are what they were when
the digest was recorded. Times have a grain: a change within the same tick as the last one would
not show. So a record counts only if it was made later than the file's last change by more than the
grain, the rule that git uses for its index ("racy git").
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from modelhaul.core.digests import Digests
from modelhaul.core.repo import RemoteFile, git_sha1_or_none, sha256_or_none
from modelhaul.store.osfile import Stamp

T = TypeVar("T")

_SCHEMA_VERSION = 3
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY,
    device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    recorded_ns INTEGER NOT NULL,
    sha256 TEXT,
    validator TEXT,
    ours INTEGER NOT NULL,
    git_sha1 TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_sha256 ON files (sha256);
CREATE INDEX IF NOT EXISTS by_git_sha1 ON files (git_sha1) WHERE git_sha1 IS NOT NULL;
"""
# File systems with coarse times (FAT: 2 s) show it by round numbers; the others take theirs from
# the kernel's tick, at most 10 ms apart.
_COARSE_NS = 2_000_000_000
_FINE_NS = 20_000_000
_ROUND_NS = 10_000_000
#: Seconds without the database after it could not be used. Each try may wait for a lock, and there
#: is one per file; but a lock that was held for a moment must not cost a program its memory.
RETRY_AFTER = 60.0


@dataclass(frozen=True, slots=True)
class Known:
    """What was recorded about a file whose stamp still holds.

    Attributes:
        sha256: its digest, None if it was never computed.
        validator: the entity tag it was published with, where no digest was stated.
        ours: we put this content there.
        git_sha1: its name as a git blob, None if it was never computed.
    """

    sha256: str | None
    validator: str | None
    ours: bool
    git_sha1: str | None = None

    @classmethod
    def of(cls, digests: Digests, *, validator: str | None = None, ours: bool) -> Known:
        """What is known of content that has just been hashed."""
        return cls(digests.sha256, validator, ours, digests.git_sha1)

    def matches(self, file: RemoteFile) -> bool | None:
        """Whether this is the content of `file`; None if the digest in question is not known."""
        if self.sha256 is None:
            return None
        return Digests(self.sha256, self.git_sha1).matches(file)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file to remember: where, its stamp, and what is known."""

    path: Path
    stamp: Stamp
    known: Known


def grain_ns(stamp: Stamp) -> int:
    """How long after a file's last change a record must be made to count, in nanoseconds."""
    return _COARSE_NS if stamp.ctime_ns % _ROUND_NS == 0 else _FINE_NS


class ProvenIndex:
    """The memory of proven files; safe to use from several threads and processes.

    A damaged, locked or unwritable database makes it forgetful for a while, never wrong.

    Args:
        path: the database.
        patience: seconds to wait for the lock of another process.
        clock: gives seconds that only grow.

    Attributes:
        problem: why it was forgetful last, None if it never was.
        missed: calls that it could not serve so far.
    """

    def __init__(
        self,
        path: Path,
        *,
        patience: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._patience = patience
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._rests_until = 0.0
        self.problem: str | None = None
        self.missed = 0

    def lookup(self, path: Path, stamp: Stamp) -> Known | None:
        """What is known about the file at `path`, if it still has this stamp."""

        def find(database: sqlite3.Connection) -> tuple[Any, ...] | None:
            row: tuple[Any, ...] | None = database.execute(
                "SELECT device, inode, size, mtime_ns, ctime_ns, recorded_ns, sha256, validator,"
                " ours, git_sha1 FROM files WHERE path = ?",
                (os.fsencode(path),),
            ).fetchone()
            return row

        row = self._use(find)
        if row is None or tuple(row[:5]) != _numbers(stamp):
            return None
        recorded, sha256, validator, ours, git_sha1 = row[5:]
        # SQLite keeps text in a column of numbers, and has no checksum that would tell of damage.
        if not isinstance(recorded, int) or not isinstance(validator, str | None):
            return None
        if recorded - stamp.ctime_ns < grain_ns(stamp):
            return None
        if sha256_or_none(sha256) != sha256 or git_sha1_or_none(git_sha1) != git_sha1:
            return None
        return Known(sha256, validator, bool(ours), git_sha1)

    def find(self, digests: Iterable[str]) -> dict[str, list[Path]]:
        """Where files with these digests stood when they were recorded, newest record first.

        They may have changed or gone since: `lookup` tells.

        Args:
            digests: SHA-256 or names as git blobs, in hex.
        """
        wanted = list(digests)

        def search(database: sqlite3.Connection) -> list[tuple[str, bytes, int]]:
            if database.execute("SELECT 1 FROM files LIMIT 1").fetchone() is None:
                return []  # a listing may be long, and this memory new
            return database.execute(
                "SELECT sha256, path, recorded_ns FROM files"
                " WHERE sha256 IN (SELECT value FROM json_each(?1)) UNION ALL"
                " SELECT git_sha1, path, recorded_ns FROM files"
                " WHERE git_sha1 IN (SELECT value FROM json_each(?1)) ORDER BY recorded_ns DESC",
                (json.dumps(wanted),),
            ).fetchall()

        found: dict[str, list[Path]] = {}
        for digest, path, _ in self._use(search) or ():
            found.setdefault(digest, []).append(Path(os.fsdecode(path)))
        return found

    def remember(self, entries: Iterable[Entry]) -> None:
        """Record files whose content is proven and durable.

        Waits for the grain of the youngest of them where that is a few milliseconds, so that the
        next run need not hash it again; a file that changed while we waited is not recorded.
        """
        rows = list(entries)
        if wait_for_grain(*(row.stamp for row in rows)):
            rows = [row for row in rows if _still(row)]
        now = time.time_ns()

        def insert(database: sqlite3.Connection) -> None:
            with database:
                database.executemany(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        (
                            os.fsencode(row.path),
                            *_numbers(row.stamp),
                            now,
                            row.known.sha256,
                            row.known.validator,
                            row.known.ours,
                            row.known.git_sha1,
                        )
                        for row in rows
                    ],
                )

        self._use(insert)

    def close(self) -> None:
        """Close the database; the next call opens it again, whatever was wrong with it."""
        with self._lock:
            self._disconnect()
            self._rests_until = 0.0

    def _use(self, call: Callable[[sqlite3.Connection], T]) -> T | None:
        """The result of `call`, None if the database cannot be used."""
        with self._lock:
            if self._clock() < self._rests_until:
                self.missed += 1
                return None
            try:
                return call(self._connected())
            except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
                # Damaged (SQLite then may even quote what is no text), locked for too long, disk
                # full, not ours to write: forget rather than fail. A damaged file is put away, so
                # that the next try begins with a new one.
                self.missed += 1
                self._rests_until = self._clock() + RETRY_AFTER
                self.problem = f"the memory of proven files {self._path} cannot be used ({error})"
                with contextlib.suppress(sqlite3.Error):
                    self._disconnect()
                if isinstance(error, sqlite3.DatabaseError | UnicodeDecodeError) and not isinstance(
                    error, sqlite3.OperationalError
                ):
                    self._put_away()
                return None

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = self._connection = sqlite3.connect(
                self._path, timeout=self._patience, check_same_thread=False
            )
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != _SCHEMA_VERSION:
                # New, or made by another version of us. It is a cache: begin again.
                connection.execute("DROP TABLE IF EXISTS files")
                connection.executescript(_SCHEMA)
                connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _put_away(self) -> None:
        """With its rollback journal: that would be replayed into the next one."""
        for ending in ("", "-journal", "-wal", "-shm"):
            file = self._path.with_name(self._path.name + ending)
            with contextlib.suppress(OSError):
                file.replace(self._path.with_suffix(f".damaged{ending}"))


def wait_for_grain(*stamps: Stamp) -> bool:
    """Sleep until a change of these files would show in their times, where that is soon.

    Returns:
        Whether it slept.
    """
    fresh = max((stamp.ctime_ns for stamp in stamps if grain_ns(stamp) == _FINE_NS), default=0)
    early = fresh + _FINE_NS - time.time_ns()
    if not 0 < early <= _FINE_NS:
        return False
    time.sleep(early / 1e9)
    return True


def _still(row: Entry) -> bool:
    try:
        return Stamp.of(row.path.lstat()) == row.stamp
    except OSError:
        return False


def _numbers(stamp: Stamp) -> tuple[int, ...]:
    """The stamp as SQLite holds it: signed 64 bits. Inode numbers use all of them on some disks."""
    values = (stamp.device, stamp.inode, stamp.size, stamp.mtime_ns, stamp.ctime_ns)
    return tuple(value - (1 << 64) if value >= 1 << 63 else value for value in values)
