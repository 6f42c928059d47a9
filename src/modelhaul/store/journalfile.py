"""The journal on disk: appends records of `core.journal` and syncs them. Blocks.

Its space is allocated when it is made, so that a full disk cannot stop it from saying what is
there; it grows by allocating more.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from modelhaul.core import journal as format_
from modelhaul.core.journal import Header, Record, Synced
from modelhaul.core.span import Span
from modelhaul.errors import StorageError
from modelhaul.store import osfile
from modelhaul.store.osfile import storage_errors

_GROW = 1024  # slots
#: What is read of a journal, in bytes: two million records. One that is longer was not made by us,
#: and has to fit into memory all the same.
MOST_BYTES = 64 << 20


class JournalFile:
    """A journal file, open and perhaps still empty. Owns its descriptor, and with it the lock.

    Appending and syncing may happen in different threads; opening and closing may not.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._header: Header | None = None
        self._used = 0
        self._capacity = 0
        self._failed = False
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> JournalFile:
        """Open or make the file; its content is not looked at yet.

        Raises:
            StorageError: it cannot be opened.
        """
        with storage_errors(f"opening {path}"):
            return cls(path, osfile.make_file(path))

    @property
    def header(self) -> Header:
        """What the journal is about; only after `create()` or `resume()`."""
        assert self._header is not None
        return self._header

    def try_lock(self) -> bool:
        """Take the lock; False if another process holds it, or if the file lost its name.

        A process that finishes removes the journal while it holds the lock: who waited for it
        then owns a file without a name, and has to open it again.
        """
        with storage_errors(f"locking {self.path}"):
            return osfile.try_lock(self._fd) and osfile.is_named(self._fd, self.path)

    @property
    def linked(self) -> bool:
        """Whether it has a second name (`cp -al`): then it is not ours alone to write into."""
        return os.fstat(self._fd).st_nlink > 1

    def clear(self) -> None:
        """Make it empty, durably: none of its records counts any more.

        Before a new part is made: a file system may give it the inode number of the old one, and
        old records must never meet new bytes.
        """
        with storage_errors(f"emptying the journal {self.path}"):
            if os.fstat(self._fd).st_size:
                os.ftruncate(self._fd, 0)
                osfile.sync_data(self._fd)

    def create(self, header: Header, *, slots: int) -> None:
        """Make it a new journal, durable, whatever it held before.

        Raises:
            DiskFull, StorageError: it could not be allocated or written.
        """
        with storage_errors(f"making the journal {self.path}"):
            os.ftruncate(self._fd, 0)
            size = format_.LOG_START + slots * format_.RECORD_SIZE
            osfile.allocate(self._fd, 0, size, zeros=True)
            osfile.write_all(self._fd, format_.encode_header(header), 0)
            osfile.sync_data(self._fd)
        self._header, self._used, self._capacity = header, 0, slots

    def resume(self) -> list[Record | None] | None:
        """Read it, to go on appending. Returns the records by slot; None if it is empty.

        All zeros are empty too: its maker died between allocating and the header.

        Raises:
            JournalUnreadable: the header does not check.
            StorageError: the file cannot be read.
        """
        data = self.content()
        if not any(data):
            return None
        header, slots, used = parse_journal(data)
        self._header, self._used = header, used
        self._capacity = max(used, (len(data) - format_.LOG_START) // format_.RECORD_SIZE)
        return slots

    def content(self) -> bytes:
        """All bytes of the file, up to `MOST_BYTES`."""
        with storage_errors(f"reading the journal {self.path}"):
            raw = bytearray(min(MOST_BYTES, os.fstat(self._fd).st_size))
            got = osfile.read_into(self._fd, memoryview(raw), 0)
            return bytes(raw[:got])

    @property
    def used(self) -> int:
        """Slots written so far: the count that `synced()` may vouch for."""
        return self._used

    def append(self, records: list[Record]) -> None:
        """Write records behind the last one. Not durable until `sync()`.

        Raises:
            DiskFull, StorageError: a record could not be written; none of this call counts.
        """
        if not records:
            return
        with self._lock, storage_errors(f"writing the journal {self.path}"):
            if self._used + len(records) > self._capacity:
                more = max(_GROW, len(records))
                start = format_.LOG_START + self._capacity * format_.RECORD_SIZE
                osfile.allocate(self._fd, start, more * format_.RECORD_SIZE, zeros=True)
                self._capacity += more
            raw = b"".join(
                format_.encode_record(record, slot=self._used + at, nonce=self.header.nonce)
                for at, record in enumerate(records)
            )
            osfile.write_all(self._fd, raw, format_.LOG_START + self._used * format_.RECORD_SIZE)
            self._used += len(records)

    def synced(self, count: int) -> None:
        """Record durably that the first `count` slots, and the bytes they speak of, are durable.

        The caller counts before its barrier begins: what is appended during the barrier may be
        ahead of the disk.
        """
        self.append([Synced(count)])
        self.sync()

    def void(self, spans: list[Span]) -> None:
        """Durably declare bytes wrong, before anybody rewrites them."""
        self.append([format_.Void(span) for span in spans])
        self.sync()

    def sync(self) -> None:
        """Make all appended records durable.

        Raises:
            StorageError: the disk failed, now or at an earlier sync: what a failed sync covered
                is lost, and no later one can vouch for it.
        """
        if self._failed:
            raise StorageError(f"an earlier sync of {self.path} failed")
        try:
            with storage_errors(f"syncing the journal {self.path}"):
                osfile.sync_data(self._fd)
        except BaseException:
            self._failed = True
            raise

    def remove(self) -> None:
        """Remove the journal, if its name still leads to it."""
        if osfile.is_named(self._fd, self.path):
            osfile.remove_quietly(self.path)

    def close(self) -> None:
        """Close the descriptor, and with it give up the lock; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            osfile.close_written(fd)


def parse_journal(data: bytes) -> tuple[Header, list[Record | None], int]:
    """Header, records by slot and used slots of a journal's bytes.

    Raises:
        JournalUnreadable: the header does not check.
    """
    header = format_.decode_header(data)
    log = data[format_.LOG_START :]
    slots, used = format_.decode_log(log, nonce=header.nonce, size=header.size)
    return header, slots, used
