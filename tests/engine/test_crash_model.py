"""A crash after any system call of a download: the real engine's steps, and what a disk may lose.

The engine runs once, in virtual time; the model (`tests/support/crashes.py`) crashes it after each
system call, losing parts of what no sync had covered: every choice of them in torture, else
every choice of up to six and some of more. Two promises have to hold on every disk
that this leaves: what counts as recorded is there, and what stands under the final name is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest

from modelhaul.core import journal as format_
from modelhaul.core.journal import Have, JournalUnreadable, Record
from modelhaul.core.span import Span, SpanSet
from modelhaul.engine.context import Options
from modelhaul.events import Event, FileDone, FileStarted
from modelhaul.report import FileResult
from modelhaul.store.claim import JOURNAL, PART, part_name
from modelhaul.store.journalfile import JournalFile, parse_journal
from tests.engine.harness import ORIGIN, Rig, payload, remote
from tests.support.crashes import (
    EVERY_CHOICE,
    MOST_CHOICES,
    Crash,
    Promised,
    Tape,
    crashes,
    open_steps,
)
from tests.support.mistakes import MISTAKES, SUBTLE_MISTAKES, Mistake
from tests.support.network import Asked, FakeNetwork, Fault, Served
from tests.support.promises import lost_progress
from tests.support.virtual import virtual

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the tape listens to Linux's system calls"
)

KIB = 1 << 10
DATA = payload(60 * KIB + 100)
FLIP = 5000  # a byte of it
SMALL = {f"small{n}": payload(3 * KIB, n) for n in range(3)}
FILES = {"big": DATA, **SMALL}
STEM = part_name(f"sha256:{hashlib.sha256(DATA).hexdigest()}", len(DATA))


class Told(list[Event]):
    """The listener: what a user sees is a promise."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def append(self, event: Event) -> None:
        super().append(event)
        if isinstance(event, FileStarted) and event.path == "big":
            self._tape.steps.append(Promised("started"))
        if isinstance(event, FileDone):
            self._tape.steps.append(Promised("published", event.path))


@dataclass(frozen=True, slots=True)
class Story:
    """How a download goes.

    Attributes:
        stops: seconds after which runs are stopped; one more comes to its end.
        flipped: the first answer for the large file has a wrong byte: it has to be fetched again.
        burst: nothing is published before everything is proven.
    """

    stops: tuple[float, ...] = ()
    flipped: bool = False
    burst: bool = False


PLAIN = Story()
STORIES = {
    "one run": PLAIN,
    "two runs": Story(stops=(1.7,)),
    "three runs": Story(stops=(0.5, 2.2)),
    "fetched again": Story(flipped=True),
    "all at once": Story(burst=True),
}


def recorded(
    target: Path, monkeypatch: pytest.MonkeyPatch, story: Story, kept: Sequence[Promised] = ()
) -> Tape:
    """Bring one large file and some small ones; all that was done to the disk, and promised.

    Args:
        target: where; what is there already is durable.
        monkeypatch: to listen.
        story: how it goes.
        kept: what was promised before.
    """
    tape = Tape(target)
    tape.steps += kept
    synced, void = JournalFile.synced, JournalFile.void

    def synced_and_say(journal: JournalFile, count: int) -> None:
        synced(journal, count)
        _, slots, _ = parse_journal(journal.content())
        tape.steps.append(Promised("synced", format_.replay(slots).durable))

    def say_and_void(journal: JournalFile, spans: list[Span]) -> None:
        tape.steps.append(Promised("voided", SpanSet(spans)))
        void(journal, spans)

    with monkeypatch.context() as patch:
        patch.setattr(JournalFile, "synced", synced_and_say)
        patch.setattr(JournalFile, "void", say_and_void)
        tape.install(patch)
        for seconds in (*story.stops, 1000.0):
            rig = a_rig(target, story)
            rig.seen = Told(tape)
            virtual(run_for, rig, seconds)
    assert (target / "big").read_bytes() == DATA
    return tape


def a_rig(target: Path, story: Story = PLAIN, rate: float = 6e3) -> Rig:
    """An engine on a slow line, so that barriers come between few writes."""
    served = {f"{ORIGIN}/big": Served(DATA, rate=rate)}
    for path, data in SMALL.items():
        served[f"{ORIGIN}/{path}"] = Served(data)
    flips = [FLIP] if story.flipped else []

    def fault(asked: Asked) -> Fault:
        wrong = flips and asked.url.endswith("big") and asked.span.start <= FLIP < asked.span.stop
        return Fault(step=4 * KIB, flip=(flips.pop(),) if wrong else ())

    options = Options(chunk=8 * KIB, small=4 * KIB, burst=story.burst)
    return Rig(target, FakeNetwork(served, fault), connections=3, options=options)


async def run_for(rig: Rig, seconds: float) -> None:
    """Fetch what is missing, for so long."""
    with anyio.move_on_after(seconds):
        await bring_missing(rig)


async def bring_missing(rig: Rig) -> Sequence[FileResult]:
    """Fetch what does not stand in its place."""
    wanted = [remote(path, data) for path, data in FILES.items()]
    return await rig.bring(
        *(rig.order(file) for file in wanted if not (rig.target / file.path).exists())
    )


def durable(crash: Crash) -> SpanSet:
    """The bytes of the large file that had been vouched for."""
    spans = SpanSet()
    for promise in crash.promises:
        for span in promise.value if promise.what == "synced" else ():
            spans.add(span)
        for span in promise.value if promise.what == "voided" else ():
            spans.remove(span)
    return spans


def fetched_though_durable(results: Sequence[FileResult], crash: Crash) -> int:
    """Bytes of the large file that were fetched though they had been made durable."""
    (big,) = [result for result in results if result.path == "big"] or [None]
    return 0 if big is None else max(0, big.fetched + durable(crash).total - len(DATA))


def broken_promises(target: Path, crash: Crash, tape: Tape) -> Iterator[str]:
    """All that is wrong with what a crash left, in words."""
    published = {promise.value for promise in crash.promises if promise.what == "published"}
    for path, data in FILES.items():
        content = crash.disk.read(target / path)
        if content != data and (content is not None or path in published):
            yield f"{path} is not whole"
    started = any(promise.what == "started" for promise in crash.promises)
    if started and crash.disk.read(target / "big") != DATA:
        state = target / ".modelhaul"
        part, journal = (crash.disk.read(state / (STEM + ending)) for ending in (PART, JOURNAL))
        named = crash.disk.names.get(state / (STEM + PART))
        inode = 0 if named is None else tape.inodes[named]
        yield from lost_progress(part, journal, inode=inode, vouched=durable(crash))


@pytest.mark.fault(
    "a crash after any system call of a download, losing parts of what was not synced",
    "what is recorded is there, what stands under a final name is whole",
    number=(93, 111),
)
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "every",
    [EVERY_CHOICE, pytest.param(MOST_CHOICES, marks=pytest.mark.torture)],
    ids=["some choices", "every choice"],
)
@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_no_crash_breaks_a_promise(
    target: Path, monkeypatch: pytest.MonkeyPatch, story: Story, every: int
) -> None:
    """Small files and a large one, in one go or continued."""
    tape = recorded(target, monkeypatch, story)
    wrong, count = [], 0
    open_ones = [len(open_steps(tape.steps[:at])) for at in range(len(tape.steps) + 1)]
    for crash in crashes(tape.steps, every=every):
        count += 1
        wrong += [(crash.at, crash.lost, what) for what in broken_promises(target, crash, tape)]

    assert wrong == []
    assert count > 1000
    # In torture nothing is left out.
    assert every == EVERY_CHOICE or count == sum(2**number for number in open_ones)
    assert sum(step == Promised("published", "big") for step in tape.steps) == 1
    assert sum(isinstance(step, Promised) and step.what == "synced" for step in tape.steps) >= 2


def test_a_file_that_is_emptied_by_opening_it_may_be_empty_after_a_crash(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O_TRUNC changes a length as ftruncate does, and is as little durable."""
    (target / "old").write_bytes(b"old")
    tape = Tape(target)
    begun = len(tape.steps)

    with monkeypatch.context() as patch:
        tape.install(patch)
        os.close(os.open(target / "old", os.O_RDWR | os.O_CREAT | os.O_TRUNC))

    left = {crash.disk.read(target / "old") for crash in crashes(tape.steps, since=begun + 1)}
    assert left == {b"old", b""}


@pytest.mark.fault(
    "a run after a crash at any system call, with all or nothing lost of what was not synced",
    "it ends with the right files, and fetches nothing again that had been made durable",
    number=(93, 106),
)
def test_after_any_crash_the_next_run_ends_well(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands in the folder then: no part, a part without a journal, half a record."""
    tape = recorded(target, monkeypatch, PLAIN)
    again, resumed = tmp_path / "again", 0
    for crash in crashes(tape.steps):
        if crash.extreme:
            resumed += 1
            left_on_disk(crash, tape, target, again)
            rig = a_rig(again, rate=1e6)
            results = virtual(bring_missing, rig)

            assert all(result.error is None for result in results)
            assert all((again / path).read_bytes() == data for path, data in FILES.items())
            assert fetched_though_durable(results, crash) == 0
            shutil.rmtree(again)

    assert resumed > 100


@pytest.mark.fault(
    "a second crash, in the run after a crash",
    "what either run had recorded is there, what stands under a final name is whole",
    number=(93, 106),
)
def test_no_second_crash_breaks_a_promise(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tenth of the first crashes; the run after it starts on what it left."""
    tape = recorded(target, monkeypatch, PLAIN)
    firsts = [crash for crash in crashes(tape.steps) if crash.extreme][::10]
    wrong, count = [], 0
    for first in firsts:
        again = tmp_path / f"again{first.at}-{len(first.lost)}"
        left_on_disk(first, tape, target, again)
        begun = len(Tape(again).steps) + len(first.promises)
        second = recorded(again, monkeypatch, PLAIN, first.promises)
        for crash in crashes(second.steps, since=begun):
            if crash.extreme:
                count += 1
                wrong += [
                    (first.at, first.lost, crash.at, crash.lost, what)
                    for what in broken_promises(again, crash, second)
                ]

    assert wrong == []
    assert count > 1000


def left_on_disk(crash: Crash, tape: Tape, target: Path, again: Path) -> None:
    """Put into `again` what a crash left of `target`."""
    again.mkdir()
    for path, file in crash.disk.names.items():
        copy = again / path.relative_to(target)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(crash.disk.contents.get(file, b""))
    # The journal knows its part by the inode number, which is another one here.
    part, journal = (again / ".modelhaul" / (STEM + ending) for ending in (PART, JOURNAL))
    if part.exists() and journal.exists():
        with contextlib.suppress(JournalUnreadable), journal.open("r+b") as file:
            header = format_.decode_header(file.read(format_.LOG_START))
            file.seek(0)
            file.write(format_.encode_header(replace(header, inode=part.stat().st_ino)))


FOUND = {**MISTAKES, **SUBTLE_MISTAKES}
del FOUND["records counted after the barrier"]  # needs two threads: the power-cut tests find it


@pytest.mark.parametrize("mistake", FOUND.values(), ids=FOUND)
def test_a_mistake_in_the_order_breaks_a_promise(
    target: Path, monkeypatch: pytest.MonkeyPatch, mistake: Mistake
) -> None:
    """Or the model would prove nothing."""
    monkeypatch.setattr(mistake.owner, mistake.method, mistake.wrong)

    story = STORIES["fetched again"] if mistake.method == "void" else PLAIN
    tape = recorded(target, monkeypatch, story)

    assert any(
        what for crash in crashes(tape.steps) for what in broken_promises(target, crash, tape)
    )


@pytest.mark.fault(
    "the power fails at any moment",
    "what was recorded more than a second before is durable",
    number=93,
)
def test_nothing_waits_longer_than_a_second_to_be_durable(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In virtual time, where a sync takes none: the interval is what a power cut may cost."""
    waiting: dict[Have, float] = {}
    ages: list[float] = []
    append, synced = JournalFile.append, JournalFile.synced

    def append_and_note(journal: JournalFile, records: list[Record]) -> None:
        append(journal, records)
        waiting.update((run, anyio.current_time()) for run in records if isinstance(run, Have))

    def synced_and_note(journal: JournalFile, count: int) -> None:
        synced(journal, count)
        _, slots, _ = parse_journal(journal.content())
        now = anyio.current_time()
        ages.extend(now - waiting.pop(run) for run in slots[:count] if run in waiting)

    monkeypatch.setattr(JournalFile, "append", append_and_note)
    monkeypatch.setattr(JournalFile, "synced", synced_and_note)
    data = payload(400 * KIB)
    network = FakeNetwork(
        {f"{ORIGIN}/w": Served(data, rate=2e4)}, lambda asked: Fault(step=4 * KIB)
    )
    rig = Rig(target, network, connections=3, options=Options(chunk=8 * KIB, small=4 * KIB))
    virtual(lambda: rig.bring(rig.order(remote("w", data))))

    assert len(ages) >= 40
    assert max(ages) <= 1.01
