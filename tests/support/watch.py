"""Which calls that can wait for a disk are made in this very thread."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: Of the modules `posix` (which `os` is made of), `fcntl` and `_sqlite3`.
_WAITING = frozenset({
    "open", "close", "stat", "lstat", "fstat", "statvfs", "fstatvfs", "scandir", "listdir",
    "mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link", "symlink", "readlink",
    "truncate", "ftruncate", "posix_fallocate", "read", "readv", "pread", "preadv",
    "write", "writev", "pwrite", "pwritev", "fsync", "fdatasync", "sync", "sendfile",
    "copy_file_range", "flock", "lockf",
    "connect", "execute", "executemany", "executescript", "commit",
})  # fmt: skip
_MODULES = frozenset({"posix", "fcntl", "_sqlite3"})
_DATABASE = frozenset({"Connection", "Cursor"})


@contextmanager
def disk_calls() -> Iterator[list[str]]:
    """The calls that this thread makes meanwhile, each with its place in the code.

    The interpreter tells of each C function that is called: nothing has to be replaced, so
    nothing can be missed by looking for it at the wrong place.
    """
    seen: list[str] = []

    def notice(frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or function.__name__ not in _WAITING:
            return
        owner = getattr(function, "__self__", None)
        database = type(owner).__name__ in _DATABASE and type(owner).__module__ == "sqlite3"
        if database or function.__module__ in _MODULES:
            code = frame.f_code
            seen.append(f"{function.__name__} in {code.co_filename}:{frame.f_lineno}")

    before = sys.getprofile()
    sys.setprofile(notice)
    try:
        yield seen
    finally:
        sys.setprofile(before)
