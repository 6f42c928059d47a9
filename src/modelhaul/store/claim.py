"""Our right to put one file together: its part, its journal, and what of it counts. Blocks.

Where locks hold, part and journal have one name per content and the lock of the journal decides
who works on them; the others wait and then find the file complete, or take the orphan over. Where
locks may lie, each process has a part of its own and copies what others have, checked by CRC: a
lying lock then costs a local copy or some bandwidth, never data and never the resume.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from zlib_ng.zlib_ng import crc32

from modelhaul.core import journal as format_
from modelhaul.core.journal import Have, Header, JournalUnreadable, Record
from modelhaul.core.span import Span, SpanSet
from modelhaul.errors import StorageError
from modelhaul.store import osfile
from modelhaul.store.hashing import STEP
from modelhaul.store.journalfile import MOST_BYTES, JournalFile, parse_journal
from modelhaul.store.osfile import storage_errors
from modelhaul.store.sink import PartFile

PART = ".part"
JOURNAL = ".journal"
ASIDE = ".aside"
# Before the ending of parts that have no journal: small files, and copies of other files.
WHOLE = ".whole"
COPY = ".copy"
MARKER = ".update"
# Parts of other processes that nobody has touched for this long are taken for dead.
ORPHAN_SECONDS = 7 * 86_400
#: Bytes of a run that is copied from another process's part, at once. Ours end at chunk ends.
_LONGEST_RUN = 64 << 20


@dataclass(slots=True)
class Claim:
    """A part and its journal that are ours until `close()` or `discard()`.

    Attributes:
        have: bytes that count: vouched for, or compared with their CRC just now.
        unsynced: those of them that no barrier has vouched for yet.
        notes: what a person may want to know (something was set aside, adopted, lost).
    """

    part: PartFile
    journal: JournalFile
    have: SpanSet
    unsynced: SpanSet = field(default_factory=SpanSet)
    notes: list[str] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether it is still ours."""
        return self.part.open

    def discard(self) -> None:
        """Remove part and journal: what they hold is worthless or published already.

        The part goes first: a journal without its part is void, a part without its journal would
        be a file that nothing explains.
        """
        with storage_errors(f"removing {self.part.path}"):
            self.part.remove()
            self.journal.remove()
        self.close()

    def finished(self) -> None:
        """The part was renamed to its final name: the journal goes."""
        with storage_errors(f"removing {self.journal.path}"):
            self.journal.remove()
        self.close()

    def close(self) -> None:
        """Close both files and give up the lock. Part and journal stay for the next run."""
        self.part.close()
        self.journal.close()


def part_name(identity: str, size: int) -> str:
    """The short name under which a file is put together, the same for the same content."""
    return hashlib.sha256(f"{identity}\n{size}".encode()).hexdigest()[:20]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a claim is for.

    Attributes:
        identity: `RemoteFile.identity`.
        size: bytes of the whole file.
        label: how people call the file.
        chunk: planning grid in bytes; only used to size the journal.
        reserve: really allocate the part's blocks.
    """

    identity: str
    size: int
    label: str
    chunk: int
    reserve: bool = False


def claim(folder: Path, wanted: Wanted, *, locks: bool, token: str = "") -> Claim | None:
    """Open or create the part and the journal of a file in `folder`, which exists.

    Args:
        folder: the state folder, on the file system of the target.
        wanted: the file.
        locks: locks hold on this file system.
        token: makes names unique where they do not.

    Returns:
        None if another process works on this file: ask again later.

    Raises:
        StorageError: the disk failed.
    """
    stem = part_name(wanted.identity, wanted.size)
    mine = stem if locks else f"{stem}.{token}"
    path = folder / (mine + JOURNAL)
    journal = _open_journal(path, locks=locks)
    if journal is not None and journal.linked:
        # A backup's, too (`cp -al`). Removed only now: before the lock it may be somebody's.
        with contextlib.closing(journal), storage_errors(f"removing {path}"):
            journal.remove()
        journal = _open_journal(path, locks=locks)
    if journal is None:
        return None
    try:
        entered = _enter(journal, folder / (mine + PART), wanted)
    except BaseException:
        journal.close()
        raise
    try:
        _adopt(folder, stem, entered)
    except BaseException:
        entered.close()
        raise
    return entered


def _open_journal(path: Path, *, locks: bool) -> JournalFile | None:
    """The journal, ours; None if another process works with it."""
    journal = JournalFile.open(path)
    try:
        if not locks or journal.try_lock():
            return journal
    except BaseException:
        journal.close()
        raise
    journal.close()
    return None


def _enter(journal: JournalFile, part_path: Path, wanted: Wanted) -> Claim:
    """Continue what the journal describes, or begin anew."""
    notes: list[str] = []
    try:
        slots = journal.resume()
    except JournalUnreadable as error:
        notes.append(_set_aside(journal, part_path, str(error)))
        slots = None
    if slots is not None:
        header = journal.header
        if (header.identity, header.size) != (wanted.identity, wanted.size):
            notes.append(_set_aside(journal, part_path, "it belongs to another file"))
        else:
            part = PartFile.reopen(part_path)
            # Without a part the journal is void: it was published and the removal of the journal
            # was lost, or somebody removed it.
            if part is not None:
                try:
                    return _resume(journal, slots, part, notes)
                except BaseException:
                    part.close()
                    raise
    journal.clear()
    part = PartFile.create(part_path, wanted.size, reserve=wanted.reserve)
    try:
        part.barrier()
        nonce = os.urandom(format_.NONCE_SIZE)
        journal.create(
            Header(wanted.identity, wanted.size, part.inode, nonce, wanted.label),
            slots=format_.slots_for(wanted.size, wanted.chunk),
        )
        with storage_errors(f"syncing {part_path.parent}"):
            osfile.sync_folder(part_path.parent)
    except BaseException:
        part.close()
        raise
    return Claim(part, journal, SpanSet(), notes=notes)


def _resume(
    journal: JournalFile, slots: list[Record | None], part: PartFile, notes: list[str]
) -> Claim:
    """Decide what of a part counts: what was vouched for, and what has its CRC."""
    header = journal.header
    ledger = format_.replay(slots)
    trusted = (part.inode, part.size) == (header.inode, header.size)
    have = ledger.durable.copy() if trusted else SpanSet()
    good, bad = _check(part, ledger.claims if trusted else ledger.runs)
    unsynced = SpanSet()
    for run in good:
        have.add(run.span)
        unsynced.add(run.span)
    # Durably, and before the length is put right: with inode and length as they were, what was
    # vouched for would be trusted again.
    void = SpanSet(run.span for run in bad)
    for span in () if trusted else ledger.durable:
        void.add(span)
    for span in have:
        void.remove(span)
    if void:
        journal.void(list(void))
    if part.size != header.size:
        part.resize(header.size)
    return Claim(part, journal, have, unsynced, notes)


def _check(part: PartFile, runs: tuple[Have, ...]) -> tuple[list[Have], list[Have]]:
    """Split runs into those whose bytes in the part have their CRC and the others."""
    good: list[Have] = []
    bad: list[Have] = []
    buffer = memoryview(bytearray(STEP))
    for run in runs:
        same = crc_of(part, run.span, buffer) == run.crc
        (good if same else bad).append(run)
    return good, bad


def crc_of(part: PartFile, span: Span, buffer: memoryview) -> int | None:
    """CRC-32 of a span of the part as it is on disk; None if it is not all there to be read."""
    crc = 0
    at = span.start
    while at < span.stop:
        view = buffer[: min(len(buffer), span.stop - at)]
        try:
            count = part.read_into(view, at)
        except StorageError:
            return None  # a bad sector: written anew, the disk may put it elsewhere
        if count < len(view):
            return None
        crc = crc32(view, crc)
        at += len(view)
    return crc


def _set_aside(journal: JournalFile, part_path: Path, reason: str) -> str:
    """Keep what we cannot use, under another name; returns a note about it.

    The journal's bytes are copied, not renamed: the lock must stay on the file of that name.
    """
    number = 0
    while True:
        aside = part_path.with_name(f"{part_path.name}{ASIDE}{number}")
        ledger = aside.with_name(f"{aside.name}{JOURNAL}")
        if not os.path.lexists(aside) and not os.path.lexists(ledger):
            break
        number += 1
    content = journal.content()
    with storage_errors(f"setting aside {part_path}"):
        fd = osfile.open_file(ledger, create=True, exclusive=True)
        try:
            osfile.write_all(fd, content, 0)
        finally:
            os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            part_path.rename(aside)
    return f"unfinished work was set aside as {aside} ({reason}); `modelhaul clean` removes it"


def _adopt(folder: Path, stem: str, mine: Claim) -> None:
    """Copy what other processes' parts of the same content have and ours has not."""
    dead: list[Path] = []
    touched = mine.journal.path.stat().st_mtime
    for journal_path in _journals(folder, stem):
        if journal_path == mine.journal.path:
            continue
        part_path = journal_path.with_name(journal_path.name.removesuffix(JOURNAL) + PART)
        copied = _copy_runs(journal_path, part_path, mine)
        if copied:
            mine.notes.append(f"{copied} bytes were taken over from {part_path.name}")
        with contextlib.suppress(FileNotFoundError):
            # By the file system's own clock: the other machine's may be years off.
            if touched - journal_path.stat().st_mtime > ORPHAN_SECONDS:
                dead += [part_path, journal_path]
    if not dead:
        return
    # Only when what was copied cannot be lost any more.
    count = mine.journal.used
    mine.part.barrier()
    mine.journal.synced(count)
    mine.unsynced = SpanSet()
    for path in dead:
        with storage_errors(f"removing {path}"):
            osfile.remove_quietly(path)


def _journals(folder: Path, stem: str) -> list[Path]:
    """All journals about this content: the plain one and those of single processes."""
    own = [path for path in folder.glob(f"{stem}.*{JOURNAL}") if ASIDE not in path.name]
    return [path for path in (folder / (stem + JOURNAL), *sorted(own)) if path.exists()]


def _copy_runs(journal_path: Path, part_path: Path, mine: Claim) -> int:
    header, runs = read_runs(journal_path)
    if header is None or (header.identity, header.size) != (
        mine.journal.header.identity,
        mine.journal.header.size,
    ):
        return 0
    other = PartFile.reopen(part_path)
    if other is None:
        return 0
    copied = 0
    try:
        for run in runs:
            missing = mine.have.gaps(run.span)
            if not missing or run.span.length > _LONGEST_RUN:
                continue
            # Read once, check that very copy, write it: the other process may still be writing.
            data = memoryview(bytearray(run.span.length))
            if crc_of(other, run.span, data) != run.crc:
                continue
            # Where both have bytes and they differ, one of us is wrong: not to be mixed.
            if not _same_bytes(mine.part, missing.gaps(run.span), data, run.span.start):
                continue
            for span in missing:
                piece = data[span.start - run.span.start : span.stop - run.span.start]
                mine.part.write_at(piece, span.start)
                mine.journal.append([Have(span, crc32(piece), run.source)])
                mine.have.add(span)
                mine.unsynced.add(span)
                copied += span.length
    finally:
        other.close()
    return copied


def _same_bytes(part: PartFile, spans: Iterable[Span], data: memoryview, start: int) -> bool:
    """Whether our part has there what `data`, which begins at `start`, says.

    Nothing else of it is read. A bad sector says nothing: the hashing will meet it and void it.
    """
    for span in spans:
        ours = memoryview(bytearray(span.length))
        try:
            part.read_into(ours, span.start)
        except StorageError:
            return False
        if ours != data[span.start - start : span.stop - start]:
            return False
    return True


def read_runs(journal_path: Path) -> tuple[Header | None, tuple[Have, ...]]:
    """Header and whole runs of a journal that is not ours; (None, ()) if it cannot be read."""
    try:
        header, slots, _ = parse_journal(osfile.read_small(journal_path, MOST_BYTES))
    except (OSError, JournalUnreadable):
        return None, ()
    return header, format_.replay(slots).runs


@dataclass(frozen=True, slots=True)
class Unfinished:
    """One piece of unfinished work in a state folder.

    Attributes:
        stem: file name without its ending.
        label: what it is, in words; the file name if nothing better is known.
        size: bytes of the whole file; None if not known.
        have: bytes that are recorded.
        stored: bytes it takes on the disk.
        age: seconds since it was last touched.
        busy: a running process works on it (only known where locks hold).
        void: a journal whose part is gone; nothing is lost with it.
        paths: the files it consists of.
    """

    stem: str
    label: str
    size: int | None
    have: int
    stored: int
    age: float
    busy: bool
    void: bool
    paths: tuple[Path, ...]


def unfinished(folder: Path) -> Iterator[Unfinished]:
    """What lies in a state folder, without changing anything.

    Raises:
        StorageError: the folder cannot be read.
    """
    groups: dict[str, list[Path]] = {}
    with storage_errors(f"reading {folder}"):
        names = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in names:
        # The marker of a half-published update (`store.marker`) is no work to throw away.
        if path.suffix != MARKER and _is_file_or_link(path):
            groups.setdefault(path.name.removesuffix(PART).removesuffix(JOURNAL), []).append(path)
    for stem, paths in groups.items():
        journal = folder / (stem + JOURNAL)
        header, runs = read_runs(journal) if journal in paths else (None, ())
        statuses = []
        for path in paths:
            with contextlib.suppress(OSError):
                statuses.append(path.lstat())
        if not statuses:
            continue
        yield Unfinished(
            stem=stem,
            label=header.label if header and header.label else stem,
            size=header.size if header else None,
            have=SpanSet(run.span for run in runs).total,
            stored=sum(getattr(status, "st_blocks", 0) * 512 for status in statuses),
            age=max(0.0, time.time() - max(status.st_mtime for status in statuses)),
            busy=any(_is_locked(path) for path in paths),
            void=paths == [journal],
            paths=tuple(paths),
        )


def _is_file_or_link(path: Path) -> bool:
    """A link is none of ours, but lies in our folder: to be seen there, and never followed."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False  # gone, or nobody can tell
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


def _is_locked(path: Path) -> bool:
    try:
        fd = osfile.open_file(path, create=False)
    except OSError:
        return False
    try:
        return not osfile.try_lock(fd)
    except OSError:
        return False
    finally:
        os.close(fd)


def recorded(folder: Path, *, identity: str, size: int) -> int:
    """Bytes that an earlier run recorded for this content; for plans, without opening for write.

    An upper bound: what is not vouched for is checked only when the file is claimed.
    """
    have = SpanSet()
    for journal in _journals(folder, part_name(identity, size)):
        part = journal.with_name(journal.name.removesuffix(JOURNAL) + PART)
        header, runs = read_runs(journal)
        if header is None or (header.identity, header.size) != (identity, size):
            continue
        if not part.exists():
            continue
        for run in runs:
            have.add(run.span)
    return have.total


def published_inode(folder: Path, *, identity: str, size: int) -> int | None:
    """The inode of a file of ours that was published and whose journal was not removed any more.

    A kill between the two leaves the journal of a part that is gone: if it speaks of every byte,
    the file with that inode is what the journal was about. None if there is no such journal.
    """
    stem = part_name(identity, size)
    header, runs = read_runs(folder / (stem + JOURNAL))
    if header is None or (header.identity, header.size) != (identity, size):
        return None
    if (folder / (stem + PART)).exists():
        return None
    whole = SpanSet(run.span for run in runs).covers(Span(0, size))
    return header.inode if whole else None


def stored(folder: Path, *, identity: str, size: int) -> int:
    """Bytes of disk that the part of this content occupies already."""
    try:
        status = (folder / (part_name(identity, size) + PART)).stat()
    except OSError:
        return 0
    return getattr(status, "st_blocks", 0) * 512
