"""What is fuzzed: each target takes any bytes and fails only where modelhaul is wrong.

The same functions run in CI under hypothesis (`test_targets.py`) and for minutes under a
coverage-guided fuzzer (`python -m tests.fuzz TARGET`). A target may let a typed error pass where
the code under it promises one; whatever else comes out is a finding.
"""

from __future__ import annotations

import asyncio
import json
import struct
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit
from zlib import crc32

import h11
from aiohttp import web

from modelhaul.core import journal, names
from modelhaul.core.origin import Origin, origin_of, redirect_target, shown
from modelhaul.core.repo import RemoteFile
from modelhaul.core.select import matcher
from modelhaul.core.span import Span
from modelhaul.engine.locations import expiry
from modelhaul.errors import HaulError, ProtocolError, UsageError
from modelhaul.hubs import huggingface, modelscope, url
from modelhaul.net import rules
from modelhaul.net.connection import Connection, Stale
from modelhaul.net.small import decoded
from modelhaul.net.transport import Redirect, Request, Response
from modelhaul.server.body import parse_range
from modelhaul.settings import Settings, normal_endpoint
from modelhaul.store.credentials import parse_cookies
from modelhaul.store.index import Known, ProvenIndex
from modelhaul.store.journalfile import parse_journal
from modelhaul.store.marker import Marker
from modelhaul.store.osfile import Stamp

URL = "https://hub.test/o/n?sig=SECRET"
NONCE = bytes(range(journal.NONCE_SIZE))
NOW = 1_700_000_000.0
#: Bytes of the file that small journals are about: a reference can afford a flag for each.
SMALL = 64
STAMP = Stamp(1, 2, 3, 1_000_000_001, 1_000_000_002)
WHERE = Path("/models/w.bin")


def text_of(data: bytes) -> str:
    """Any text, lone surrogates included: that is how bytes of a header arrive."""
    return data.decode("utf-8", "surrogateescape")


def _can_be_shown(error: HaulError, data: bytes) -> None:
    """A message is one line without a secret, unless the input itself says the word."""
    assert error.message.isprintable()
    assert "SECRET" not in error.message or b"SECRET" in data


# -- journal -------------------------------------------------------------------------------------


def whole_journal(data: bytes) -> None:
    """A journal file of any bytes is read or unreadable; a damaged record costs only itself."""
    try:
        header, slots, used = parse_journal(data)
    except journal.JournalUnreadable:
        return
    assert len(slots) <= used <= len(slots) + 1
    _check_ledger(slots, header.size)


def journal_header(data: bytes) -> None:
    """A page whose CRC is right may still say anything."""
    body = data[: journal.PAGE - 4].ljust(journal.PAGE - 4, b"\0")
    page = body + struct.pack("<I", crc32(body))
    try:
        header = journal.decode_header(page)
    except journal.JournalUnreadable:
        return
    if len(header.label.encode()) <= journal.MAX_LABEL:  # bytes that are no text grow
        assert journal.decode_header(journal.encode_header(header)) == header


def journal_records(data: bytes) -> None:
    """Records whose CRC is right may still say anything; what they mean together is exact."""
    raw = b""
    for slot, start in enumerate(range(0, len(data) - 5, 6)):
        kind, source, first, second, crc = struct.unpack_from("<BBBBH", data, start)
        body = struct.pack("<B3xIQQI", kind % 5, source, first, second, crc)
        salt = crc32(slot.to_bytes(8, "little"), crc32(NONCE))
        raw += body + struct.pack("<I", crc32(body, salt))
    slots, used = journal.decode_log(raw, nonce=NONCE, size=SMALL)
    assert used == len(raw) // journal.RECORD_SIZE
    _check_ledger(slots, SMALL)
    for slot, record in enumerate(slots):
        if record is not None:
            again = journal.encode_record(record, slot=slot, nonce=NONCE)
            assert journal.decode_record(again, slot=slot, nonce=NONCE, size=SMALL) == record


def _check_ledger(slots: list[journal.Record | None], size: int) -> None:
    ledger = journal.replay(slots)
    spans = [*ledger.durable, *(run.span for run in (*ledger.runs, *ledger.claims))]
    assert all(0 <= span.start < span.stop <= size for span in spans)
    assert set(ledger.claims) <= set(ledger.runs)
    if size > SMALL:
        return
    vouched = max([0, *(each.count for each in slots if isinstance(each, journal.Synced))])
    durable: set[int] = set()
    for slot, record in enumerate(slots):
        if isinstance(record, journal.Void):
            durable -= set(range(record.span.start, record.span.stop))
        elif isinstance(record, journal.Have) and slot < vouched:
            durable |= set(range(record.span.start, record.span.stop))
    assert {at for span in ledger.durable for at in range(span.start, span.stop)} == durable


# -- what a hub says -----------------------------------------------------------------------------


def hub_answer(data: bytes) -> None:
    """Any answer of a hub is our values or our errors; its names are judged without a crash."""
    status = (200, 404, 403, 500)[data[0] % 4] if data else 200
    try:
        found = modelscope.parse_envelope(URL, Response(status=status, headers={}, body=data[1:]))
        commit = modelscope.parse_commit(found)
        revisions = modelscope.parse_revisions(found)
        entries = modelscope.parse_entries(URL, found)
    except HaulError as error:
        _can_be_shown(error, data)
        return
    assert commit is None or len(commit) == 40
    assert all(isinstance(name, str) for name in revisions)
    files = [entry for entry in entries if isinstance(entry, RemoteFile)]
    assert all(file.size is None or 0 <= file.size <= 1 << 60 for file in files)
    assert all(file.sha256 is None or len(file.sha256) == 64 for file in files)
    _judge_names([file.path for file in files[:100]])


def huggingface_answer(data: bytes) -> None:
    """The same for the other hub: a status, a `Link` header, and whatever stands behind it."""
    status = (200, 404, 403, 500)[data[0] % 4] if data else 200
    link, _, body = data[1:].partition(b"\0")
    answer = Response(status=status, headers={"link": text_of(link)}, body=body)
    refused = huggingface.parse_refusal(answer) is not None
    assert refused or status not in (403, 404)
    files, commit = list[RemoteFile](), None
    for parse in (huggingface.parse_tree, huggingface.parse_description):
        try:
            found = parse(URL, huggingface.parse_body(URL, answer))
            huggingface.parse_next(URL, answer.headers["link"])
        except HaulError as error:
            _can_be_shown(error, data)
            continue
        if isinstance(found, list):
            files = found
        else:
            commit = found.commit
    if status == 200 and (files or commit):
        names_found = huggingface.parse_refs(huggingface.parse_body(URL, answer))
        assert all(name.isprintable() for name in names_found)
    assert commit is None or len(commit) == 40
    assert all(file.size is not None and 0 <= file.size <= 1 << 60 for file in files)
    assert all(file.sha256 is None or len(file.sha256) == 64 for file in files)
    assert all(file.git_sha1 is None or len(file.git_sha1) == 40 for file in files)
    assert not any(file.sha256 and file.git_sha1 for file in files)
    _judge_names([file.path for file in files[:100]])


def gzip_answer(data: bytes) -> None:
    """A compressed answer is bytes within the limit or our error."""
    limit = 4096
    try:
        body = decoded(URL, {"content-encoding": "gzip"}, bytearray(data), limit)
    except ProtocolError:
        return
    assert len(body) <= limit


# -- what an HTTP server says --------------------------------------------------------------------


def headers(data: bytes) -> None:
    """Whatever a head says, an accepted body begins where it must and no error shows the query."""
    flags = data[0] if data else 0
    lines = text_of(data[1:]).split("\n")
    known = dict(line.partition(":")[::2] for line in reversed(lines))
    lower = {name.lower(): value for name, value in known.items()}
    request = Request(
        url=URL,
        span=Span(100, 200),
        whole=bool(flags & 1),
        size=1000 if flags & 2 else None,
        validator='"v1"' if flags & 4 else None,
    )
    try:
        answer = rules.judge(request, (200, 206, 302, 416)[flags >> 3 & 3], lower, now=NOW)
    except HaulError as error:
        _can_be_shown(error, data)
        return
    if isinstance(answer, Redirect):
        assert urlsplit(answer.url).scheme == "https"
        return
    assert answer.start == (0 if request.whole else 100)
    assert answer.stop is None or answer.stop >= answer.start
    assert request.size is None or answer.stop is None or answer.stop <= request.size
    assert request.validator is None or lower["etag"].strip() == request.validator


def header_values(data: bytes) -> None:
    """Single values are read or refused, and what is read makes sense."""
    text = text_of(data)
    found = rules.parse_content_range(text)
    if found is not None:
        start, stop, total = found
        assert 0 <= start < stop <= (stop if total is None else total)
        assert text.isascii()
    wait = rules.parse_retry_after(text, NOW)
    assert wait is None or 0 <= wait <= 1e9
    allowance = rules.parse_rate_limit(text)
    assert allowance is None or 0 <= allowance <= 1e9
    rules.http_date(text)
    tag = rules.strong_validator({"etag": text, "last-modified": text, "date": text})
    assert tag is None or (tag.isascii() and tag.isprintable())
    try:
        span = parse_range(text, SMALL)
    except web.HTTPRequestRangeNotSatisfiable:
        return
    assert span is None or 0 <= span.start < span.stop <= SMALL


class _Wire(asyncio.Transport):
    """The client's end of a connection that nobody reads."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """What is asked does not matter."""

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """All bytes are there at once."""

    def resume_reading(self) -> None:
        """All bytes are there at once."""


_QUESTION = h11.Request(method="GET", target="/", headers=[("Host", "hub.test")])


def http_answer(data: bytes) -> None:
    """Any bytes on a connection are a head and a body, or one of our errors."""
    asyncio.run(_http_answer(data))


async def _http_answer(data: bytes) -> None:
    connection = Connection()
    connection.connection_made(_Wire())
    for start in range(0, len(data), 1 << 14):
        piece = data[start : start + (1 << 14)]
        connection.get_buffer(-1)[: len(piece)] = piece
        connection.buffer_updated(len(piece))
    connection.eof_received()
    body = 0
    try:
        status, known = await connection.ask(_QUESTION, URL, 60)
        assert 200 <= status <= 999
        assert all(name == name.lower() for name in known)
        connection.decode(60)
        while piece := await connection.read_decoded():
            body += len(piece)
            assert body <= len(data)
    except Stale:
        raise AssertionError("nothing was asked before") from None
    except HaulError as error:
        _can_be_shown(error, data)


# -- addresses -----------------------------------------------------------------------------------


def addresses(data: bytes) -> None:
    """Any text is an http(s) address or refused; a redirect never leads where it must not."""
    text = text_of(data)
    assert shown(text).isprintable()
    for read in (normal_endpoint, _address):
        try:
            read(text)
        except UsageError as error:
            _can_be_shown(error, data)
    try:
        target = redirect_target("https://hub.test/o/n", text)
    except ProtocolError as error:
        _can_be_shown(error, data)
        return
    assert target.isascii()
    origin = origin_of(target)
    assert origin.scheme == "https"
    assert origin.host not in ("localhost", "127.0.0.1", "::1")
    expires = expiry(target)
    assert expires is None or -1e12 < expires < 1e12


def _address(text: str) -> None:
    address = url.parse_address(text, {})
    assert isinstance(address.origin, Origin)
    assert address.url.isascii()
    assert "@" not in urlsplit(address.url).netloc
    try:
        name = url.file_name(address.url)
    except UsageError:
        return
    assert "/" not in name


_VARIABLES = (
    "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE",
    "MODELHAUL_CONNECTIONS", "MODELHAUL_PATIENCE", "HF_ENDPOINT", "HF_TOKEN",
)  # fmt: skip


def environment(data: bytes) -> None:
    """Any variables are settings or a refusal that can be read."""
    values = text_of(data).replace("SECRET", "").split("\0")
    found = dict(zip(_VARIABLES, values, strict=False))
    for name in ("MODELSCOPE_API_TOKEN", "HF_TOKEN"):
        found[name] = "SECRET" + found.get(name, "")
    try:
        settings = Settings.from_environment(found)
        settings.proxy_for("https://hub.test/o/n")
    except UsageError as error:
        _can_be_shown(error, b"")
        return
    assert "SECRET" not in repr(settings)


# -- names and patterns --------------------------------------------------------------------------


def listing_names(data: bytes) -> None:
    """Any listing is judged, and what may stand lies below its folder and together."""
    _judge_names(text_of(data).split("\n")[:100])


def _judge_names(paths: list[str]) -> None:
    for fold in (False, True):
        good = [path for path in paths if names.fault(path, windows=fold) is None]
        for path in good:
            parts = path.split("/")
            assert not {"", ".", ".."} & set(parts)
            assert "\0" not in path
            assert "\\" not in path
            assert parts[0].lower() != names.RESERVED_FOLDER
        clashes = names.collisions(good, fold=fold)
        kept = [path for path in good if path not in clashes]
        assert len(set(kept)) == len(kept)
        folders = {"/".join(path.split("/")[:depth]) for path in kept for depth in range(1, 20)
                   if depth < path.count("/") + 1}  # fmt: skip
        assert not folders & set(kept)


def pattern(data: bytes) -> None:
    """A pattern matches what a plain reference says, and is never slow beyond the reference."""
    wanted, _, path = text_of(data[:400]).partition("\0")
    found = matcher(wanted)(path)
    if "[" in wanted or wanted.startswith(("./", ".*\\")) or wanted.endswith("/"):
        return
    assert found == matches(wanted, path)


def matches(wanted: str, path: str) -> bool:
    """Whether a shell pattern of `*`, `?` and plain characters matches: the reference.

    Keeps the set of places in the pattern that the path so far may have led to.
    """
    places = _closed(wanted, {0})
    for char in path:
        places = _closed(
            wanted,
            {
                place if wanted[place] == "*" else place + 1
                for place in places
                if place < len(wanted) and wanted[place] in ("*", "?", char)
            },
        )
    return len(wanted) in places


def _closed(wanted: str, places: Iterable[int]) -> set[int]:
    """With what is reached by letting stars match nothing."""
    found = set(places)
    for place in range(len(wanted)):
        if place in found and wanted[place] == "*":
            found.add(place + 1)
    return found


# -- files on the disk ---------------------------------------------------------------------------


def cookies(data: bytes) -> None:
    """A saved login of any bytes is tokens or a `ValueError`, and nothing in it runs."""
    try:
        saved = parse_cookies(data)
    except ValueError:
        return
    for entry in saved:
        assert entry.token.isprintable()
        assert entry.token not in repr(entry) or entry.token in entry.domain
        entry.is_for(Origin("https", "hub.test", 443), NOW)


def marker(data: bytes) -> None:
    """A marker of any bytes names files, or stands for every file."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder, "x.update")
        path.write_bytes(data)
        pending = Marker(path).pending()
    if pending is None:
        return
    assert all(isinstance(name, str) for name in pending)
    assert sorted(pending) == sorted(set(json.loads(data)["pending"]))


def index(data: bytes) -> None:
    """A memory of proven files of any bytes is forgetful, never a crash, and never half right."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder, "proven.sqlite")
        path.write_bytes(data)
        memory = ProvenIndex(path, patience=0.0)
        known = memory.lookup(WHERE, STAMP)
        memory.close()
    if known is None:
        return
    assert isinstance(known, Known)
    assert known.sha256 is None or len(known.sha256) == 64
    assert known.git_sha1 is None or len(known.git_sha1) == 40
    assert known.validator is None or isinstance(known.validator, str)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "journal": whole_journal,
    "journal-header": journal_header,
    "journal-records": journal_records,
    "hub-answer": hub_answer,
    "huggingface-answer": huggingface_answer,
    "gzip-answer": gzip_answer,
    "headers": headers,
    "header-values": header_values,
    "http-answer": http_answer,
    "addresses": addresses,
    "environment": environment,
    "names": listing_names,
    "pattern": pattern,
    "cookies": cookies,
    "marker": marker,
    "index": index,
}
