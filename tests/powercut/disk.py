"""A disk that remembers in which order it was written: raw FUSE, one thread, two files.

`disk` is what a loop device stands on: reads and writes go to an image, and every write and every
flush is put into a log. `mark` is where a program says what it believes to be durable; its words go
into the same log. One thread serves, so the log is one total order.

Run as a program, in a process of its own: it ends when the file system is unmounted, or when its
standard input is closed because whoever started it is gone.

    python -m tests.powercut.disk MOUNTPOINT IMAGE LOG
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import stat
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO

MIB = 1 << 20
#: What a flush takes, in seconds. In memory it would be so short that nothing ever falls into it.
FLUSH_SECONDS = 0.02

#: Said once the disk is there.
READY = b"ready\n"

WRITE, FLUSH, MARK = b"W", b"F", b"M"


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the log.

    Attributes:
        kind: `WRITE`, `FLUSH` or `MARK`.
        time: seconds, monotonic.
        offset: where a write went, in bytes.
        data: what was written, or the words of a mark.
    """

    kind: bytes
    time: float
    offset: int
    data: bytes


_EVENT = struct.Struct("<cdQI")


def read_log(path: Path) -> Iterator[Event]:
    """The events of a log, in order; a cut last one is left out."""
    raw = path.read_bytes()
    at = 0
    while at + _EVENT.size <= len(raw):
        kind, when, offset, length = _EVENT.unpack_from(raw, at)
        at += _EVENT.size
        yield Event(kind, when, offset, raw[at : at + length])
        at += length


# -- the protocol: linux/fuse.h, version 7.31 ------------------------------------------------------


class _Op(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42


_IN = struct.Struct("<IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, more, padding
_OUT = struct.Struct("<IiQ")  # length, minus errno, unique
_IO = struct.Struct("<QQIIQII")  # handle, offset, size, flags, owner, flags, padding
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")

# ASYNC_READ, ATOMIC_O_TRUNC, BIG_WRITES, MAX_PAGES. Never WRITEBACK_CACHE: the order would be lost.
_FLAGS = 1 | 8 | 32 | 1 << 22
_DIRECT_IO = 1

_ROOT, _DISK, _MARK = 1, 2, 3
_NAMES = {b"disk": _DISK, b"mark": _MARK}


class _Refused(Exception):
    """The request is answered with an error number."""

    def __init__(self, number: int) -> None:
        self.number = number


class Server:
    """Answers requests of the kernel until the file system is gone."""

    def __init__(self, fuse: int, image: int, log: BinaryIO) -> None:
        self._fuse = fuse
        self._image = image
        self._log = log
        self._size = os.fstat(image).st_size

    def serve(self, watched: int) -> None:
        """Answer requests; returns when the file system or the other end of `watched` is gone."""
        while True:
            readable, _, _ = select.select([self._fuse, watched], [], [])
            if watched in readable:
                return
            try:
                request = os.read(self._fuse, 2 * MIB)
            except OSError as error:
                if error.errno == errno.ENODEV:  # unmounted
                    return
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                raise
            if not self._answer(request):
                return

    def _answer(self, request: bytes) -> bool:
        """Answer one request; False if it was the last one."""
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        body = memoryview(request)[_IN.size :]
        if opcode in (_Op.FORGET, _Op.BATCH_FORGET, _Op.INTERRUPT):
            return True  # nobody waits for an answer
        try:
            number, answer = 0, self._act(opcode, node, body)
        except _Refused as refused:
            number, answer = refused.number, b""
        os.write(self._fuse, _OUT.pack(_OUT.size + len(answer), -number, unique) + answer)
        return opcode != _Op.DESTROY

    def _act(self, opcode: int, node: int, body: memoryview) -> bytes:
        match opcode:
            case _Op.INIT:
                return _INIT_OUT.pack(7, 31, MIB, _FLAGS, 16, 12, MIB, 1, MIB // 4096, 0, 0)
            case _Op.LOOKUP:
                found = _NAMES.get(bytes(body).rstrip(b"\0"))
                if found is None:
                    raise _Refused(errno.ENOENT)
                return struct.pack("<QQQQII", found, 0, 3600, 3600, 0, 0) + self._attributes(found)
            case _Op.GETATTR:
                return struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
            case _Op.OPEN:
                return struct.pack("<QII", node, _DIRECT_IO if node == _MARK else 0, 0)
            case _Op.READ:
                _, offset, size, *_ = _IO.unpack_from(body)
                return os.pread(self._image, size, offset)
            case _Op.WRITE:
                _, offset, size, *_ = _IO.unpack_from(body)
                self._write(node, offset, body[_IO.size : _IO.size + size])
                return struct.pack("<II", size, 0)
            case _Op.FSYNC:
                time.sleep(FLUSH_SECONDS)
                self._record(FLUSH, 0, b"")
                return b""
            case _Op.STATFS:
                return struct.pack("<QQQQQIIII24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
            case _Op.FLUSH | _Op.RELEASE | _Op.DESTROY:
                return b""
        # Extended attributes, FALLOCATE and the rest: the kernel does without.
        raise _Refused(errno.ENOSYS)

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFDIR | 0o755 if node == _ROOT else stat.S_IFREG | 0o600
        size = self._size if node == _DISK else 0
        return _ATTR.pack(
            node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0
        )  # fmt: skip

    def _write(self, node: int, offset: int, data: memoryview) -> None:
        if node == _MARK:
            self._record(MARK, 0, data)
            return
        os.pwrite(self._image, data, offset)
        self._record(WRITE, offset, data)

    def _record(self, kind: bytes, offset: int, data: bytes | memoryview) -> None:
        self._log.write(_EVENT.pack(kind, time.monotonic(), offset, len(data)))
        self._log.write(data)


def main(mountpoint: str, image: str, log: str) -> None:
    """Mount, say so with a line, serve, unmount."""
    libc = ctypes.CDLL(None, use_errno=True)
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"powercut", os.fsencode(mountpoint), b"fuse", 0, options):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), mountpoint)
    try:
        with open(log, "wb", buffering=MIB) as file:
            server = Server(fuse, os.open(image, os.O_RDWR | os.O_CLOEXEC), file)
            os.write(sys.stdout.fileno(), READY)
            server.serve(sys.stdin.fileno())
    finally:
        os.close(fuse)  # whoever still waits for the disk gets an error, not for ever
        libc.umount2(os.fsencode(mountpoint), 2)  # MNT_DETACH; gone already as a rule


if __name__ == "__main__":
    main(*sys.argv[1:])
