"""The journal: format and replay, without I/O.

The part file holds bytes, the journal says which of them count. It is an append-only log: a
header (twice, so that one bad sector costs nothing), then records of equal size at fixed places.
`docs/internals/journal.md` has the offset tables and one paragraph per crash window. Two rules
carry everything:

* A record that does not check is skipped, never fatal: its CRC covers the record, the slot it
  stands in and the nonce of this journal, so stale or moved bytes are not taken for records.
* `SYNCED(n)` vouches for the first n slots. What stands later may be ahead of the disk after a
  power cut, so its bytes are read and compared with the CRC before they count.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from zlib import crc32

from modelhaul.core.span import Span, SpanSet

MAGIC = b"MHJRNL1\n"
VERSION = 1
# The header fills a page and stands in two of them; no record shares a page with it.
PAGE = 4096
LOG_START = 2 * PAGE
RECORD_SIZE = 32
NONCE_SIZE = 16

_FIXED = struct.Struct("<8sHHI16sQQ")  # magic, version, identity, label, nonce, size, inode
_CRC = struct.Struct("<I")
_RECORD = struct.Struct("<B3xIQQI")  # kind, source, start, stop, crc32 of the bytes
_EMPTY = bytes(RECORD_SIZE)

assert _RECORD.size + _CRC.size == RECORD_SIZE

MAX_IDENTITY = 512
MAX_LABEL = PAGE - _FIXED.size - MAX_IDENTITY - _CRC.size


class Kind(IntEnum):
    """What a record says."""

    HAVE = 1
    VOID = 2
    SYNCED = 3


@dataclass(frozen=True, slots=True)
class Header:
    """Which bytes the journal is about.

    Attributes:
        identity: digest, else strong validator (`RemoteFile.identity`). Chunk size, commit and URL
            are not identity: they may change without the bytes changing.
        size: bytes of the whole file.
        inode: inode number of the part. A copied part has another one, and is checked by CRC.
        nonce: random bytes that salt every record.
        label: what a person calls the file, for listings of unfinished work; never a secret.
    """

    identity: str
    size: int
    inode: int
    nonce: bytes
    label: str = ""


@dataclass(frozen=True, slots=True)
class Have:
    """The bytes of `span`, with this CRC-32, are in the part; `source` is where they came from."""

    span: Span
    crc: int
    source: int = 0


@dataclass(frozen=True, slots=True)
class Void:
    """The bytes of `span` do not count any more: they are wrong or about to be rewritten."""

    span: Span


@dataclass(frozen=True, slots=True)
class Synced:
    """The first `count` slots were durable before this record was written."""

    count: int


Record = Have | Void | Synced


class JournalUnreadable(ValueError):
    """The header does not check: nothing in the file can be believed."""


def encode_header(header: Header) -> bytes:
    """The header, twice: `LOG_START` bytes. A label that is too long is cut."""
    identity = header.identity.encode()
    if len(identity) > MAX_IDENTITY:
        raise ValueError(f"identity longer than {MAX_IDENTITY} bytes")
    if len(header.nonce) != NONCE_SIZE:
        raise ValueError(f"nonce is not {NONCE_SIZE} bytes")
    label = header.label.encode(errors="replace")[:MAX_LABEL]
    fixed = _FIXED.pack(
        MAGIC, VERSION, len(identity), len(label), header.nonce, header.size, header.inode
    )
    body = (fixed + identity + label).ljust(PAGE - _CRC.size, b"\0")
    return 2 * (body + _CRC.pack(crc32(body)))


def decode_header(raw: bytes) -> Header:
    """The header in the first `LOG_START` bytes of a journal, from whichever copy is whole.

    Raises:
        JournalUnreadable: both copies are cut short, damaged, or of a version this code does not
            know.
    """
    try:
        return _decode_page(raw[:PAGE])
    except JournalUnreadable as first:
        try:
            return _decode_page(raw[PAGE:LOG_START])
        except JournalUnreadable:
            raise first from None


def _decode_page(raw: bytes) -> Header:
    if len(raw) < PAGE:
        raise JournalUnreadable("shorter than a header")
    body = raw[: PAGE - _CRC.size]
    (stated,) = _CRC.unpack_from(raw, PAGE - _CRC.size)
    if stated != crc32(body):
        raise JournalUnreadable("header damaged")
    magic, version, identity_size, label_size, nonce, size, inode = _FIXED.unpack_from(body)
    if magic != MAGIC or version != VERSION:
        raise JournalUnreadable("not a journal of this version")
    if identity_size > MAX_IDENTITY or label_size > MAX_LABEL:
        raise JournalUnreadable("header lengths out of bounds")
    start = _FIXED.size
    identity = body[start : start + identity_size]
    label = body[start + identity_size : start + identity_size + label_size]
    try:
        text = identity.decode()
    except UnicodeDecodeError:
        raise JournalUnreadable("identity is not text") from None
    return Header(text, size, inode, nonce, label.decode(errors="replace"))


def encode_record(record: Record, *, slot: int, nonce: bytes) -> bytes:
    """The record as `RECORD_SIZE` bytes that are only valid in slot `slot` of this journal."""
    match record:
        case Have(span, crc, source):
            body = _RECORD.pack(Kind.HAVE, source, span.start, span.stop, crc)
        case Void(span):
            body = _RECORD.pack(Kind.VOID, 0, span.start, span.stop, 0)
        case Synced(count):
            body = _RECORD.pack(Kind.SYNCED, 0, count, 0, 0)
    return body + _CRC.pack(_salted(body, slot, nonce))


def decode_record(raw: bytes, *, slot: int, nonce: bytes, size: int) -> Record | None:
    """The record in `raw`, or None if it does not check or reaches past `size`."""
    if len(raw) != RECORD_SIZE:
        return None
    (stated,) = _CRC.unpack_from(raw, _RECORD.size)
    if stated != _salted(raw[: _RECORD.size], slot, nonce):
        return None
    kind, source, start, stop, crc = _RECORD.unpack_from(raw)
    if kind == Kind.SYNCED:
        # It cannot vouch for itself or for what comes after it.
        return Synced(start) if start <= slot else None
    if not start < stop <= size:
        return None
    if kind == Kind.HAVE:
        return Have(Span(start, stop), crc, source)
    if kind == Kind.VOID:
        return Void(Span(start, stop))
    return None


def _salted(body: bytes, slot: int, nonce: bytes) -> int:
    return crc32(body, crc32(slot.to_bytes(8, "little"), crc32(nonce)))


def decode_log(raw: bytes, *, nonce: bytes, size: int) -> tuple[list[Record | None], int]:
    """All records behind the header, and the slot where the next one goes.

    Args:
        raw: the journal from `LOG_START` on; a cut last record is ignored.
        nonce: from the header.
        size: bytes of the whole file, from the header.

    Returns:
        One entry per slot up to the last used one, None where a slot is damaged or was never
        written, and the number of the first slot behind them.
    """
    slots: list[Record | None] = []
    used = 0
    for slot in range(len(raw) // RECORD_SIZE):
        piece = raw[slot * RECORD_SIZE : (slot + 1) * RECORD_SIZE]
        if piece == _EMPTY:
            slots.append(None)
            continue
        slots.append(decode_record(piece, slot=slot, nonce=nonce, size=size))
        used = slot + 1
    del slots[used:]
    # A cut last record has used its slot too: its place may hold half of it.
    if len(raw) % RECORD_SIZE and used == len(raw) // RECORD_SIZE:
        used += 1
    return slots, used


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a replayed journal says.

    Attributes:
        durable: bytes that were on the disk before a `SYNCED` record vouched for them. They count
            as they are if the part is the very file of the header (inode and size).
        claims: later runs; each counts once its bytes in the part have its CRC.
        runs: every run that is still whole, durable ones included: provenance and CRC, for
            finding local damage.
    """

    durable: SpanSet
    claims: tuple[Have, ...]
    runs: tuple[Have, ...]


def replay(slots: Sequence[Record | None]) -> Ledger:
    """Turn the records of a journal, in slot order, into what they mean together."""
    vouched = max((record.count for record in slots if isinstance(record, Synced)), default=0)
    durable = SpanSet()
    runs: list[tuple[int, Have]] = []
    for slot, record in enumerate(slots):
        if isinstance(record, Void):
            durable.remove(record.span)
            runs = [(at, run) for at, run in runs if not _touch(run.span, record.span)]
        elif isinstance(record, Have):
            if slot < vouched:
                durable.add(record.span)
            runs.append((slot, record))
    return Ledger(
        durable=durable,
        claims=tuple(run for slot, run in runs if slot >= vouched),
        runs=tuple(run for _, run in runs),
    )


def _touch(one: Span, other: Span) -> bool:
    return one.start < other.stop and other.start < one.stop


def slots_for(size: int, chunk: int) -> int:
    """How many slots to allocate up front for a file of `size` bytes.

    Each chunk gives one run, often cut once more by a barrier or a change of owner; barriers come
    about every 256 MiB or second. A journal that needs more grows.
    """
    return 128 + 3 * (size // chunk + 1)
