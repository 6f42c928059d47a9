"""The journal's format under every kind of damage, and replay against a model of single bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhaul.core.journal import (
    LOG_START,
    MAX_IDENTITY,
    MAX_LABEL,
    NONCE_SIZE,
    PAGE,
    RECORD_SIZE,
    Have,
    Header,
    JournalUnreadable,
    Record,
    Synced,
    Void,
    decode_header,
    decode_log,
    decode_record,
    encode_header,
    encode_record,
    replay,
    slots_for,
)
from modelhaul.core.span import Span
from tests.support.properties import thorough

SIZE = 40
NONCE = bytes(range(NONCE_SIZE))
HEADER = Header("sha256:" + 64 * "a", SIZE, 77, NONCE, "owner/name: weights.safetensors")
RECORDS: tuple[Record, ...] = (
    Have(Span(0, 8), 0x12345678, 1),
    Have(Span(8, 16), 0xFFFFFFFF, 2),
    Synced(2),
    Void(Span(4, 12)),
    Have(Span(4, 8), 0, 0),
    Synced(5),
    Have(Span(32, 40), 1, 0xFFFFFFFF),
)


def log_of(slots: Sequence[Record | None], nonce: bytes = NONCE) -> bytes:
    """The records as bytes, a slot that was never written as zeros."""
    return b"".join(
        bytes(RECORD_SIZE) if record is None else encode_record(record, slot=slot, nonce=nonce)
        for slot, record in enumerate(slots)
    )


JOURNAL = encode_header(HEADER) + log_of(RECORDS)


def decode(raw: bytes) -> tuple[list[Record | None], int]:
    """A whole journal, as a driver reads it."""
    header = decode_header(raw)
    assert header == HEADER
    return decode_log(raw[LOG_START:], nonce=header.nonce, size=header.size)


def damaged(raw: bytes, *positions: int) -> bytes:
    """`raw` with these bytes changed."""
    changed = bytearray(raw)
    for position in positions:
        changed[position] ^= 0x55
    return bytes(changed)


def sealed(body: bytes) -> bytes:
    """Two header pages with this content and a CRC that is right."""
    body = body.ljust(PAGE - 4, b"\0")
    return 2 * (body + struct.pack("<I", crc32(body)))


spans = st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(
    lambda ends: Span(min(ends), max(ends)) if ends[0] != ends[1] else Span(ends[0], ends[0] + 1)
)
crcs = st.integers(0, 2**32 - 1)
haves = st.builds(Have, spans, crcs, crcs)
voids = st.builds(Void, spans)


@st.composite
def slot_lists(draw: st.DrawFn) -> list[Record | None]:
    """Slots as they may stand in a journal: records, holes, and counts that may be true."""
    slots: list[Record | None] = []
    for slot in range(draw(st.integers(0, 14))):
        synced = st.builds(Synced, st.integers(0, slot))
        slots.append(draw(st.one_of(haves, haves, voids, synced, st.none())))
    return slots


# -- the header ----------------------------------------------------------------------------------


@thorough
@given(
    identity=st.text(st.characters(exclude_categories=["Cs"]), max_size=MAX_IDENTITY // 4),
    size=st.integers(0, 2**64 - 1),
    inode=st.integers(0, 2**64 - 1),
    nonce=st.binary(min_size=NONCE_SIZE, max_size=NONCE_SIZE),
    label=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
)
def test_a_header_comes_back_as_it_was(
    identity: str, size: int, inode: int, nonce: bytes, label: str
) -> None:
    """Whatever a header says is read again, word for word."""
    header = Header(identity, size, inode, nonce, label)

    raw = encode_header(header)

    assert len(raw) == LOG_START
    assert decode_header(raw) == header


def test_the_longest_identity_still_fits() -> None:
    """MAX_IDENTITY bytes are allowed, beside the longest label."""
    header = Header("v" * MAX_IDENTITY, 1, 2, NONCE, "l" * MAX_LABEL)

    found = decode_header(encode_header(header))

    assert found == header


def test_an_identity_that_is_too_long_is_refused() -> None:
    """A cut identity would be taken for another file's."""
    header = Header("v" * (MAX_IDENTITY + 1), 1, 2, NONCE)

    with pytest.raises(ValueError, match="identity"):
        encode_header(header)


@pytest.mark.parametrize("length", [0, NONCE_SIZE - 1, NONCE_SIZE + 1])
def test_a_nonce_of_another_length_is_refused(length: int) -> None:
    """struct would pad or cut it without a word."""
    header = Header("sha256:00", 1, 2, bytes(length))

    with pytest.raises(ValueError, match="nonce"):
        encode_header(header)


@pytest.mark.parametrize("letter", ["a", "é", "漢", "\U0001f917"])
def test_a_label_that_is_too_long_is_cut(letter: str) -> None:
    """The label is for people: cut in the middle of a character, it is still readable."""
    header = Header("sha256:00", 1, 2, NONCE, letter * MAX_LABEL)

    label = decode_header(encode_header(header)).label

    width = len(letter.encode())
    assert label.rstrip("\ufffd") == letter * (MAX_LABEL // width)
    assert len(label) - MAX_LABEL // width <= 1


def test_any_damaged_byte_of_one_copy_costs_nothing() -> None:
    """One bad sector, wherever it is in the first two pages, leaves a whole copy."""
    raw = encode_header(HEADER)

    found = {decode_header(damaged(raw, position)) for position in range(LOG_START)}

    assert found == {HEADER}


@pytest.mark.parametrize(("one", "other"), [(0, PAGE), (100, PAGE + 2000), (PAGE - 1, PAGE + 7)])
def test_damage_in_both_copies_makes_the_journal_unreadable(one: int, other: int) -> None:
    """Two damaged pages are never put together to one."""
    raw = damaged(JOURNAL, one, other)

    with pytest.raises(JournalUnreadable):
        decode_header(raw)


@pytest.mark.parametrize(
    ("position", "value"),
    [
        pytest.param(0, b"X", id="magic"),
        pytest.param(8, b"\x02", id="version"),
        pytest.param(10, b"\xff\xff", id="identity longer than allowed"),
        pytest.param(12, b"\xff\xff\xff\xff", id="label longer than the page"),
        pytest.param(struct.calcsize("<8sHHI16sQQ"), b"\xff", id="identity that is not text"),
    ],
)
def test_a_whole_page_that_makes_no_sense_is_unreadable(position: int, value: bytes) -> None:
    """A right CRC does not make a foreign or later format ours."""
    body = bytearray(encode_header(HEADER)[: PAGE - 4])
    assert decode_header(sealed(bytes(body))) == HEADER

    body[position : position + len(value)] = value

    with pytest.raises(JournalUnreadable):
        decode_header(sealed(bytes(body)))


@thorough
@given(junk=st.binary(max_size=200), copies=st.integers(0, 100))
def test_junk_is_not_a_header(junk: bytes, copies: int) -> None:
    """Bytes that we did not write are unreadable and nothing worse."""
    raw = junk * copies

    with pytest.raises(JournalUnreadable):
        decode_header(raw)


def test_zeros_are_not_a_header() -> None:
    """Space that was allocated and never written is no journal."""
    with pytest.raises(JournalUnreadable):
        decode_header(bytes(LOG_START + 64 * RECORD_SIZE))


# -- records -------------------------------------------------------------------------------------


@thorough
@given(slots=slot_lists())
def test_a_log_comes_back_as_it_was(slots: list[Record | None]) -> None:
    """Records are read in their slots; a hole is a slot with nothing and hides nothing behind."""
    raw = log_of(slots) + bytes(5 * RECORD_SIZE)

    found, used = decode_log(raw, nonce=NONCE, size=SIZE)

    while slots and slots[-1] is None:
        slots.pop()
    assert found == slots
    assert used == len(slots)


@thorough
@given(record=st.one_of(haves, voids), slot=st.integers(0, 2**40), other=st.integers(0, 2**40))
def test_a_record_counts_only_in_its_own_slot(record: Record, slot: int, other: int) -> None:
    """Bytes that were moved inside the file, or read at a wrong offset, are not records."""
    raw = encode_record(record, slot=slot, nonce=NONCE)

    found = decode_record(raw, slot=other, nonce=NONCE, size=SIZE)

    assert found == (record if other == slot else None)


@thorough
@given(record=st.one_of(haves, voids), nonce=st.binary(min_size=NONCE_SIZE, max_size=NONCE_SIZE))
def test_a_record_counts_only_in_its_own_journal(record: Record, nonce: bytes) -> None:
    """Blocks of an older journal that show up in a new one are not records."""
    raw = encode_record(record, slot=3, nonce=nonce)

    found = decode_record(raw, slot=3, nonce=NONCE, size=SIZE)

    assert found == (record if nonce == NONCE else None)


@thorough
@given(slot=st.integers(0, 100), count=st.integers(0, 200))
def test_synced_cannot_vouch_for_itself(slot: int, count: int) -> None:
    """The record in slot n may speak of the n slots before it, no more."""
    raw = encode_record(Synced(count), slot=slot, nonce=NONCE)

    found = decode_record(raw, slot=slot, nonce=NONCE, size=SIZE)

    assert found == (Synced(count) if count <= slot else None)


@pytest.mark.parametrize("make", [lambda span: Have(span, 0), Void])
@pytest.mark.parametrize(
    ("span", "valid"),
    [
        (Span(0, SIZE), True),
        (Span(SIZE - 1, SIZE), True),
        (Span(SIZE - 1, SIZE + 1), False),
        (Span(SIZE, SIZE), False),
        (Span(SIZE, SIZE + 1), False),
        (Span(5, 5), False),
    ],
)
def test_a_record_that_leaves_the_file_is_no_record(
    make: type[Void], span: Span, valid: bool
) -> None:
    """A CRC that is right does not make a span outside the file, or an empty one, mean anything."""
    record = make(span)

    found = decode_record(
        encode_record(record, slot=0, nonce=NONCE), slot=0, nonce=NONCE, size=SIZE
    )

    assert found == (record if valid else None)


@pytest.mark.parametrize("kind", [0, 4, 255])
def test_a_record_of_an_unknown_kind_is_skipped(kind: int) -> None:
    """What a later version may write is not guessed at."""
    body = struct.pack("<B3xIQQI", kind, 0, 0, 8, 0)
    salt = crc32((0).to_bytes(8, "little"), crc32(NONCE))

    found = decode_record(
        body + struct.pack("<I", crc32(body, salt)), slot=0, nonce=NONCE, size=SIZE
    )

    assert found is None


@pytest.mark.parametrize("length", [0, 1, RECORD_SIZE - 1, RECORD_SIZE + 1])
def test_a_record_of_another_length_is_no_record(length: int) -> None:
    """Cut or padded, it does not count."""
    raw = (encode_record(RECORDS[0], slot=0, nonce=NONCE) + b"\0")[:length]

    assert decode_record(raw, slot=0, nonce=NONCE, size=SIZE) is None


@pytest.mark.parametrize(
    ("record", "raw"),
    [
        (
            Have(Span(8, 16), 0xA1B2C3D4, 7),
            "010000000700000008000000000000001000000000000000d4c3b2a1e7959426",
        ),
        (
            Void(Span(4, 12)),
            "020000000000000004000000000000000c0000000000000000000000b2618b82",
        ),
        (
            Synced(2),
            "03000000000000000200000000000000000000000000000000000000fb4c1702",
        ),
    ],
)
def test_the_record_format_is_that_of_journals_on_disks(record: Record, raw: str) -> None:
    """A change would throw away the unfinished work of everybody who upgrades."""
    assert encode_record(record, slot=5, nonce=NONCE).hex() == raw


def test_the_header_format_is_that_of_journals_on_disks() -> None:
    """Offsets, byte order and CRC of version 1."""
    raw = encode_header(Header("sha256:ab", 40, 77, NONCE, "o/n: ü"))

    assert raw[:72].rstrip(b"\0").hex() == (
        "4d484a524e4c310a0100090007000000000102030405060708090a0b0c0d0e0f"
        "28000000000000004d000000000000007368613235363a61626f2f6e3a20c3bc"
    )
    assert raw[PAGE - 4 : PAGE].hex() == "f6c9bd1e"
    assert raw[:PAGE] == raw[PAGE:]


# -- damage --------------------------------------------------------------------------------------


def test_every_truncation_leaves_the_records_before_the_cut() -> None:
    """Cut at any byte, a journal says what it said before that byte; header copies permitting."""
    for length in range(len(JOURNAL)):
        cut = JOURNAL[:length]

        if length < PAGE:
            with pytest.raises(JournalUnreadable):
                decode(cut)
            continue
        slots, used = decode(cut)

        whole, rest = divmod(max(0, length - LOG_START), RECORD_SIZE)
        assert slots == list(RECORDS[:whole])
        assert used == whole + (rest > 0)


def test_every_truncation_of_a_journal_with_a_bad_first_page() -> None:
    """The second copy serves as well, from its last byte on."""
    hurt = damaged(JOURNAL, 50)

    for length in range(PAGE, len(JOURNAL), 7):
        if length < LOG_START:
            with pytest.raises(JournalUnreadable):
                decode(hurt[:length])
        else:
            slots, _ = decode(hurt[:length])
            assert slots == list(RECORDS[: (length - LOG_START) // RECORD_SIZE])


def test_a_cut_last_record_has_used_its_slot() -> None:
    """The next record goes behind the half one."""
    raw = log_of(RECORDS[:2]) + log_of(RECORDS)[2 * RECORD_SIZE :][:5]

    slots, used = decode_log(raw, nonce=NONCE, size=SIZE)

    assert slots == list(RECORDS[:2])
    assert used == 3


def test_every_single_flipped_bit_costs_its_own_record_only() -> None:
    """A bad record is skipped; all others stand, in their slots."""
    raw = log_of(RECORDS)

    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        slots, used = decode_log(bytes(changed), nonce=NONCE, size=SIZE)

        hit = bit // 8 // RECORD_SIZE
        assert slots == [None if slot == hit else record for slot, record in enumerate(RECORDS)]
        assert used == len(RECORDS)


@thorough
@given(
    slots=slot_lists(),
    flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=12),
    cut=st.integers(0, 80),
)
def test_damage_never_makes_a_record(
    slots: list[Record | None], flips: list[tuple[int, int]], cut: int
) -> None:
    """After any flips and any cut, each slot holds what was written there, or nothing."""
    raw = bytearray(encode_header(HEADER) + log_of(slots))
    for position, value in flips:
        raw[position % len(raw)] ^= value
    del raw[len(raw) - cut :]

    try:
        found, used = decode(bytes(raw))
    except JournalUnreadable:
        # Only if each copy was hit: the pages are compared with what was written.
        good = encode_header(HEADER)
        assert raw[:PAGE] != good[:PAGE]
        assert raw[PAGE:LOG_START] != good[PAGE:]
        return

    assert len(found) <= len(slots)
    assert all(record is None or record == slots[slot] for slot, record in enumerate(found))
    assert len(found) <= used <= len(slots)


@thorough
@given(junk=st.binary(max_size=20 * RECORD_SIZE))
def test_junk_behind_the_header_is_skipped(junk: bytes) -> None:
    """Blocks that hold something else hold no records."""
    slots, used = decode_log(junk, nonce=NONCE, size=SIZE)

    assert set(slots) <= {None}
    assert len(slots) <= used <= len(junk) // RECORD_SIZE + 1


def test_a_damaged_last_slot_is_not_written_again() -> None:
    """What cannot be read was used: the next record goes behind it."""
    raw = damaged(log_of(RECORDS), len(RECORDS) * RECORD_SIZE - 1) + bytes(3 * RECORD_SIZE)

    slots, used = decode_log(raw, nonce=NONCE, size=SIZE)

    assert slots == [*RECORDS[:-1], None]
    assert used == len(RECORDS)


def test_an_empty_log_has_no_records() -> None:
    """A journal that was only just made, allocated or not."""
    for raw in (b"", bytes(100 * RECORD_SIZE)):
        assert decode_log(raw, nonce=NONCE, size=SIZE) == ([], 0)


# -- replay --------------------------------------------------------------------------------------


def durable_bytes(slots: Sequence[Record | None]) -> set[int]:
    """Each byte for itself: its last vouched HAVE counts unless a VOID comes later."""
    vouched = max([0, *(record.count for record in slots if isinstance(record, Synced))])
    found = set()
    for byte in range(SIZE):
        state = False
        for slot, record in enumerate(slots):
            here = isinstance(record, Have | Void) and record.span.start <= byte < record.span.stop
            if here and isinstance(record, Void):
                state = False
            elif here and slot < vouched:
                state = True
        if state:
            found.add(byte)
    return found


def standing(slots: Sequence[Record | None]) -> list[tuple[int, Have]]:
    """Runs that no later VOID touches, with their slots."""
    return [
        (slot, record)
        for slot, record in enumerate(slots)
        if isinstance(record, Have)
        and not any(
            isinstance(later, Void)
            and set(range(later.span.start, later.span.stop))
            & set(range(record.span.start, record.span.stop))
            for later in slots[slot + 1 :]
        )
    ]


@thorough
@given(slots=slot_lists())
def test_replay_says_of_each_byte_what_a_model_says(slots: list[Record | None]) -> None:
    """Durable is what a vouched record has and no later record takes away."""
    ledger = replay(slots)

    found = {byte for span in ledger.durable for byte in range(span.start, span.stop)}
    assert found == durable_bytes(slots)


@thorough
@given(slots=slot_lists())
def test_runs_stand_until_a_void_touches_them(slots: list[Record | None]) -> None:
    """All standing runs are there in order; the ones that nothing vouches for are claims."""
    vouched = max([0, *(record.count for record in slots if isinstance(record, Synced))])

    ledger = replay(slots)

    assert list(ledger.runs) == [run for _, run in standing(slots)]
    assert list(ledger.claims) == [run for slot, run in standing(slots) if slot >= vouched]


@thorough
@given(slots=slot_lists(), lost=st.integers(0, 13))
def test_losing_a_have_or_a_synced_never_makes_a_byte_durable(
    slots: list[Record | None], lost: int
) -> None:
    """A damaged record costs progress, it does not invent any."""
    before = durable_bytes(slots)
    hurt = [
        None if slot == lost and not isinstance(record, Void) else record
        for slot, record in enumerate(slots)
    ]

    after = replay(hurt).durable

    assert {byte for span in after for byte in range(span.start, span.stop)} <= before


def test_bytes_are_durable_once_a_later_record_vouches_for_them() -> None:
    """HAVE alone is a claim, HAVE before SYNCED is durable, HAVE behind it is a claim again."""
    first, second = Have(Span(0, 8), 1), Have(Span(8, 16), 2)

    unsynced, ledger = replay([first]), replay([first, Synced(1), second])

    assert (list(unsynced.durable), unsynced.claims) == ([], (first,))
    assert list(ledger.durable) == [Span(0, 8)]
    assert ledger.claims == (second,)
    assert ledger.runs == (first, second)


def test_what_was_appended_during_a_barrier_is_not_vouched_for() -> None:
    """SYNCED counts the slots before its barrier began, not those before itself."""
    before, meanwhile = Have(Span(0, 8), 1), Have(Span(8, 16), 2)

    ledger = replay([before, meanwhile, Synced(1)])

    assert list(ledger.durable) == [Span(0, 8)]
    assert ledger.claims == (meanwhile,)


def test_a_later_smaller_count_takes_nothing_back() -> None:
    """What was durable once stays so: the highest count holds."""
    run = Have(Span(0, 8), 1)

    ledger = replay([run, Synced(1), Synced(0)])

    assert list(ledger.durable) == [Span(0, 8)]


def test_void_takes_its_bytes_and_every_run_it_touches() -> None:
    """A run that is damaged in part has no CRC any more; its other bytes stay durable."""
    runs = [Have(Span(0, 8), 1), Have(Span(8, 16), 2), Have(Span(16, 24), 3)]

    ledger = replay([*runs, Synced(3), Void(Span(6, 9))])

    assert list(ledger.durable) == [Span(0, 6), Span(9, 24)]
    assert ledger.runs == (runs[2],)
    assert ledger.claims == ()


def test_void_works_without_being_vouched_for() -> None:
    """Doubt counts at once: only trust needs a barrier."""
    ledger = replay([Have(Span(0, 8), 1), Synced(1), Void(Span(0, 8))])

    assert not ledger.durable
    assert ledger.runs == ()


def test_bytes_fetched_again_after_a_void_count_again() -> None:
    """The order of the slots decides, not the order of the bytes."""
    old, new = Have(Span(0, 8), 1), Have(Span(0, 8), 2)

    ledger = replay([old, Synced(1), Void(Span(0, 8)), new, Synced(4)])

    assert list(ledger.durable) == [Span(0, 8)]
    assert ledger.runs == (new,)


def test_a_hole_does_not_shift_the_count() -> None:
    """SYNCED counts slots, lost ones included."""
    first, second = Have(Span(0, 8), 1), Have(Span(16, 24), 2)

    ledger = replay([first, None, second, Synced(2)])

    assert list(ledger.durable) == [Span(0, 8)]
    assert ledger.claims == (second,)


@pytest.mark.parametrize("size", [0, 1, 8, 1 << 20, 10**12])
def test_a_new_journal_has_room_for_every_chunk_cut_twice(size: int) -> None:
    """Allocating up front is only worth something if growing is rare."""
    chunk = 8 << 20

    slots = slots_for(size, chunk)

    assert slots > 3 * (size // chunk)
    assert slots * RECORD_SIZE < max(1 << 14, size // 10_000)
