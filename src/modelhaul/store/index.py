"""What is already on this disk: which file was proven to have which digest, and when. Blocks.

A cache in the user's state folder; it may be deleted at any time and only costs hashing again.
"Proven earlier" means: same path, and device, inode, size and both times are what they were when
the digest was recorded. Times have a grain: a change within the same tick as the last one would
not show. So a record counts only if it was made later than the file's last change by more than the
grain, the rule that git uses for its index ("racy git").
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelhaul.store.osfile import Stamp

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY,
    device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    recorded_ns INTEGER NOT NULL,
    sha256 TEXT,
    validator TEXT,
    ours INTEGER NOT NULL
) WITHOUT ROWID;
"""
# File systems with coarse times (FAT: 2 s) show it by round numbers; the others take theirs from
# the kernel's tick, at most 10 ms apart.
_COARSE_NS = 2_000_000_000
_FINE_NS = 20_000_000
_ROUND_NS = 10_000_000


@dataclass(frozen=True, slots=True)
class Known:
    """What was recorded about a file whose stamp still holds.

    Attributes:
        sha256: its digest, None if it was never computed.
        validator: the entity tag it was published with, where no digest was stated.
        ours: we put this content there.
    """

    sha256: str | None
    validator: str | None
    ours: bool


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

    A damaged or unwritable database makes it forgetful, never wrong: `problem` then says why.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self.problem: str | None = None

    def lookup(self, path: Path, stamp: Stamp) -> Known | None:
        """What is known about the file at `path`, if it still has this stamp."""
        with self._database() as database:
            if database is None:
                return None
            row = database.execute(
                "SELECT device, inode, size, mtime_ns, ctime_ns, recorded_ns, sha256, validator,"
                " ours FROM files WHERE path = ?",
                (os.fsencode(path),),
            ).fetchone()
            if row is None or Stamp(*row[:5]) != stamp:
                return None
            if row[5] - stamp.ctime_ns < grain_ns(stamp):
                return None
            return Known(row[6], row[7], bool(row[8]))
        return None

    def remember(self, entries: Iterable[Entry]) -> None:
        """Record files whose content is proven and durable.

        Waits for the grain of the youngest of them where that is a few milliseconds, so that the
        next run need not hash it again.
        """
        rows = list(entries)
        fresh = max(
            (row.stamp.ctime_ns for row in rows if grain_ns(row.stamp) == _FINE_NS), default=0
        )
        early = fresh + _FINE_NS - time.time_ns()
        if 0 < early <= _FINE_NS:
            time.sleep(early / 1e9)
        now = time.time_ns()
        with self._database() as database:
            if database is None:
                return
            with database:
                database.executemany(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        (
                            os.fsencode(row.path),
                            row.stamp.device,
                            row.stamp.inode,
                            row.stamp.size,
                            row.stamp.mtime_ns,
                            row.stamp.ctime_ns,
                            now,
                            row.known.sha256,
                            row.known.validator,
                            row.known.ours,
                        )
                        for row in rows
                    ],
                )

    def close(self) -> None:
        """Close the database; the next call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection | None]:
        """The open database under the lock, or None; database errors inside end the block."""
        with self._lock:
            try:
                yield self._open()
            except sqlite3.DatabaseError as error:
                # Damaged, locked for too long, disk full: forget rather than fail. A damaged
                # file is put away so that the next run begins with a new one.
                self.problem = f"the index {self._path} cannot be used ({error})"
                damaged = not isinstance(error, sqlite3.OperationalError)
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                if damaged:
                    with contextlib.suppress(OSError):
                        self._path.replace(self._path.with_suffix(".damaged"))

    def _open(self) -> sqlite3.Connection | None:
        if self._connection is None and self.problem is None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                self.problem = f"the index {self._path} cannot be made ({error.strerror})"
                return None
            connection = sqlite3.connect(self._path, timeout=5.0, check_same_thread=False)
            self._connection = connection
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _SCHEMA_VERSION):
                # Made by another version of us. It is a cache: begin again.
                connection.execute("DROP TABLE IF EXISTS files")
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        return self._connection
