"""Wrong bytes: from the disk between two runs, and from one of two sources.

The engine in virtual time over a network in memory, then the installed command.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from modelhaul import events
from modelhaul.core.journal import Have
from modelhaul.core.repo import RemoteFile
from modelhaul.core.span import Span, SpanSet
from modelhaul.engine.failures import MOST_STRIKES
from modelhaul.errors import ConnectFailed, IntegrityError
from modelhaul.report import FileResult
from modelhaul.server.body import parse_range
from modelhaul.store.claim import read_runs
from tests.engine.harness import CHUNK, MIB, Rig, blob, git_sha1, payload, remote, source
from tests.faults.scripts import flipped
from tests.faults.switchboard import Ask, Switchboard, Wrong, plain
from tests.support.hub import TestHub as Hub
from tests.support.hub import hub_in_thread
from tests.support.network import Asked, FakeNetwork, Fault, Served
from tests.support.virtual import virtual
from tests.support.world import World, content, machine, tree

A, B, C = "https://a.test", "https://b.test", "https://c.test"
SIZE = 8 * MIB
DATA = payload(SIZE, 7)
#: A byte in so many places: some of them are in every longer answer.
FLIPS = tuple(range(100_000, SIZE, 900_000))

Fails = Callable[[Asked], Fault | None]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty folder to download into."""
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def flipping(origin: str, *, at: tuple[int, ...] = FLIPS) -> Fails:
    """This source sends other bytes at these positions."""

    def fails(asked: Asked) -> Fault | None:
        hits = tuple(at for at in at if asked.span.start <= at < asked.span.stop)
        return Fault(flip=hits) if hits and asked.url.startswith(origin) else None

    return fails


def until_renewed(rig: Rig, before: Fails, then: Fails = lambda asked: None) -> None:
    """Fail like `before` in the first round, like `then` while the file is repaired."""

    def fails(asked: Asked) -> Fault | None:
        return (then if network(rig).renewed else before)(asked)

    network(rig).fault = fails


def two_sources(target: Path, fails: Fails, *, rate_a: float = 2e6, rate_b: float = 2e6) -> Rig:
    """A rig on which the file `w` can be had from A and from B."""
    files = {f"{A}/w": Served(DATA, rate=rate_a), f"{B}/w": Served(DATA, rate=rate_b)}
    return Rig(target, FakeNetwork(files, fails))


def bring(rig: Rig, *origins: str, digest: str = "", data: bytes = DATA) -> FileResult:
    """The result of the file `w` from these sources."""
    order = rig.order(
        remote("w", data, digest=digest), *(source(f"{origin}/w") for origin in origins)
    )
    (result,) = virtual(lambda: rig.bring(order))
    return result


def network(rig: Rig) -> FakeNetwork:
    """The network of a rig."""
    assert isinstance(rig.network, FakeNetwork)
    return rig.network


# -- one of two sources ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate_a", "rate_b"),
    [
        pytest.param(
            rates[0],
            rates[1],
            id=name,
            marks=pytest.mark.fault(
                f"one of two sources sends wrong bytes for ever, {name}",
                "repaired from the other; the report names the one that lied",
                number=(30, 31),
            ),
        )
        for name, rates in {
            "as fast as the other": (2e6, 2e6),
            "the slower one": (4e6, 5e5),
            "the faster one": (5e5, 4e6),
        }.items()
    ],
)
def test_a_file_is_repaired_from_the_source_that_does_not_lie(
    target: Path, rate_a: float, rate_b: float
) -> None:
    """B is wrong in many places whenever it is asked; A has the right bytes."""
    rig = two_sources(target, flipping(B), rate_a=rate_a, rate_b=rate_b)

    result = bring(rig, A, B)

    assert result.error is None
    assert (target / "w").read_bytes() == DATA
    assert result.disproven == (B,)
    assert [note for note in rig.events_of(events.Note) if f"{B} sent wrong bytes" in str(note)]
    assert {asked.url for asked in network(rig).asked} == {f"{A}/w", f"{B}/w"}
    # The half of the one, the half of the other, and what they disagree in once more.
    assert result.fetched - result.hedged <= 2 * SIZE + len(FLIPS) * CHUNK
    assert rig.left() == []


@pytest.mark.fault(
    "both of two sources send a wrong byte once",
    "repaired with at most one more fetch of the file; both are named",
    number=30,
)
def test_two_sources_that_were_wrong_once_each_repair_each_other(target: Path) -> None:
    """Different places: what one has wrong the other has right."""
    rig = two_sources(target, lambda asked: None)
    at_a, at_b = flipping(A, at=FLIPS[:4]), flipping(B, at=FLIPS[4:])
    until_renewed(rig, lambda asked: at_a(asked) or at_b(asked))

    result = bring(rig, A, B)

    assert result.error is None
    assert (target / "w").read_bytes() == DATA
    assert set(result.disproven) == {A, B}
    assert result.fetched - result.hedged <= 2 * SIZE + len(FLIPS) * CHUNK


@pytest.mark.fault(
    "the only source that was used lied, and a mirror was not asked yet",
    "all of it comes from the mirror",
    number=27,
)
def test_a_mirror_that_was_only_a_fallback_repairs_the_file(target: Path) -> None:
    """Every byte came from B and is B's word; A has never been asked and is right."""
    rig = two_sources(target, flipping(B))
    order = rig.order(remote("w", DATA), source(f"{B}/w"), source(f"{A}/w", fallback=True))

    (result,) = virtual(lambda: rig.bring(order))

    assert result.error is None
    assert (target / "w").read_bytes() == DATA
    assert result.disproven == (B,)
    assert result.fetched - result.hedged <= 2 * SIZE


@pytest.mark.fault(
    "the source that is believed after a wrong digest goes away",
    "the other one goes on, with one more fetch of the file at most",
    number=30,
)
@pytest.mark.parametrize(
    "gone",
    [Fault(status=404), Fault(error=ConnectFailed("connection refused"))],
    ids=["no such file", "refused"],
)
def test_the_source_that_is_believed_may_go_away(target: Path, gone: Fault) -> None:
    """B was wrong; while A is believed alone it is gone, and B is asked after all."""
    rig = two_sources(target, lambda asked: None, rate_a=5e6, rate_b=1e6)
    until_renewed(rig, flipping(B), lambda asked: gone if asked.url.startswith(A) else None)

    result = bring(rig, A, B)

    assert network(rig).renewed
    assert result.error is None
    assert (target / "w").read_bytes() == DATA
    assert result.fetched - result.hedged <= 2 * SIZE


@pytest.mark.fault(
    "two sources agree with each other and not with the stated digest",
    "an error that says exactly that; nothing under the final name",
    number=33,
)
def test_sources_that_agree_with_each_other_disprove_the_digest(target: Path) -> None:
    """One more fetch of the file shows that both have the same; nobody is said to lie."""
    rig = two_sources(target, lambda asked: None)

    result = bring(rig, A, B, digest="0" * 64)

    assert isinstance(result.error, IntegrityError)
    assert f"{A} and {B} have the same bytes" in result.error.message
    assert result.disproven == ()
    assert result.fetched - result.hedged <= 2 * SIZE
    assert not (target / "w").exists()
    assert rig.left() == []


@pytest.mark.fault(
    "both of two sources send wrong bytes for ever",
    "an error after each has had its chance; nothing under the final name",
    number=30,
)
def test_two_sources_that_both_lie_end_the_file(target: Path) -> None:
    """Each is believed once, then it is over."""
    at_a, at_b = flipping(A, at=(100_000,)), flipping(B, at=FLIPS[1:])
    rig = two_sources(target, lambda asked: at_a(asked) or at_b(asked))

    result = bring(rig, A, B)

    assert isinstance(result.error, IntegrityError)
    assert result.fetched - result.hedged <= 3 * SIZE
    assert not (target / "w").exists()
    assert rig.left() == []


@pytest.mark.fault(
    "one of two sources of a small file sends wrong bytes for ever",
    "it is asked of the other; the report names the one that lied",
    number=30,
)
@pytest.mark.parametrize("order", [(A, B), (B, A)])
def test_a_small_file_is_asked_of_the_other_source(target: Path, order: tuple[str, str]) -> None:
    """A small file comes in one answer: a wrong one is replaced by one of the other source."""
    data = payload(20_000)
    files = {f"{A}/w": Served(data), f"{B}/w": Served(data)}
    rig = Rig(target, FakeNetwork(files, flipping(B, at=(5,))))

    result = bring(rig, *order, data=data)

    assert result.error is None
    assert (target / "w").read_bytes() == data
    assert result.disproven == ((B,) if order[0] == B else ())
    assert len(network(rig).asked) == (2 if order[0] == B else 1)


@pytest.mark.fault(
    "one of two sources lies, the other refuses",
    "an error of that file alone, each asked a few times at most",
    number=(30, 36),
)
@pytest.mark.parametrize("size", [20_000, SIZE], ids=["small", "large"])
@pytest.mark.parametrize("path", ["/w", "/"], ids=["of this file", "of everything"])
def test_a_source_that_lies_beside_one_that_fails_ends_only_its_file(
    target: Path, size: int, path: str
) -> None:
    """A has wrong bytes of `w`, B answers 503: that is about `w`, and bounded; `x` goes on."""
    wrong, data, other = flipping(f"{A}/w", at=(5,)), DATA[:size], payload(SIZE, 8)
    served = {f"{origin}/w": Served(data, rate=2e6) for origin in (A, B)}
    served |= {f"{origin}/x": Served(other, rate=2e6) for origin in (A, B)}

    def fails(asked: Asked) -> Fault | None:
        return Fault(status=503) if asked.url.startswith(f"{B}{path}") else wrong(asked)

    rig = Rig(target, FakeNetwork(served, fails))
    orders = [
        rig.order(remote(name, content), source(f"{A}/{name}"), source(f"{B}/{name}"))
        for name, content in (("w", data), ("x", other))
    ]

    lied, healthy = virtual(lambda: rig.bring(*orders))

    assert isinstance(lied.error, IntegrityError)
    assert healthy.error is None
    assert (target / "x").read_bytes() == other
    assert not (target / "w").exists()
    assert lied.fetched - lied.hedged <= 2 * size
    assert [asked.url for asked in network(rig).asked].count(f"{B}/w") <= 2 * MOST_STRIKES + 8
    assert rig.left() == []


@pytest.mark.fault(
    "one of two sources lies, the other answers 503 for a while",
    "it is waited for as if it were alone; the report names the one that lied",
    number=(30, 38),
)
@pytest.mark.parametrize("seconds", [2, 10, 30])
@pytest.mark.parametrize("rate", [5e5, 4e6], ids=["the slower one lies", "the faster one lies"])
@pytest.mark.parametrize("size", [20_000, SIZE], ids=["small", "large"])
def test_a_source_that_fails_for_a_moment_is_waited_for_beside_one_that_lies(
    target: Path, size: int, rate: float, seconds: float
) -> None:
    """A fails just when it alone can have the right bytes; B has wrong ones at any time."""
    data = DATA[:size]
    served = {f"{A}/w": Served(data, rate=2e6), f"{B}/w": Served(data, rate=rate)}
    rig = Rig(target, FakeNetwork(served))
    wrong = flipping(B, at=tuple(at for at in (5, *FLIPS) if at < size))
    since: list[float] = []

    def fails(asked: Asked) -> Fault | None:
        if network(rig).renewed:
            since.append(asked.time)
            if asked.url.startswith(A) and asked.time < since[0] + seconds:
                return Fault(status=503)
        return wrong(asked)

    network(rig).fault = fails

    result = bring(rig, B, A, data=data)

    assert result.error is None
    assert (target / "w").read_bytes() == data
    assert result.disproven == (B,)
    assert network(rig).renewed
    assert rig.left() == []


@pytest.mark.parametrize("size", [20_000, SIZE], ids=["small", "large"])
def test_the_third_source_is_asked_though_the_second_fails(target: Path, size: int) -> None:
    """A lies, B answers 503, C is right: nobody is content with A once more."""
    wrong, data = flipping(A, at=(5,)), DATA[:size]
    served = {f"{origin}/w": Served(data, rate=2e6) for origin in (A, B, C)}

    def fails(asked: Asked) -> Fault | None:
        return Fault(status=503) if asked.url.startswith(B) else wrong(asked)

    rig = Rig(target, FakeNetwork(served, fails))

    result = bring(rig, A, B, C, data=data)

    assert result.error is None
    assert (target / "w").read_bytes() == data
    assert result.disproven == (A,)


# -- judged by a git name --------------------------------------------------------------------------


@pytest.mark.fault(
    "one of two sources sends wrong bytes of a file that the hub states by its git name",
    "repaired from the other; the report names the one that lied",
    number=(30, 31),
)
@pytest.mark.parametrize("size", [SIZE, 20_000])
def test_a_git_name_tells_whose_bytes_are_wrong(target: Path, size: int) -> None:
    """It judges as a SHA-256 does: large files in runs, small ones in one answer."""
    data = DATA[:size]
    files = {f"{origin}/w": Served(data, rate=2e6) for origin in (A, B)}
    rig = Rig(target, FakeNetwork(files, flipping(B, at=(5, size - 5))))

    order = rig.order(blob("w", data), source(f"{B}/w"), source(f"{A}/w"))
    (result,) = virtual(lambda: rig.bring(order))

    assert result.error is None
    assert result.verified
    assert (target / "w").read_bytes() == data
    assert result.disproven == (B,)
    assert result.sha256 == hashlib.sha256(data).hexdigest()
    assert rig.left() == []


@pytest.mark.fault(
    "two sources have the same bytes, and the hub states another git name",
    "nothing is left under the final name; the error says that they agree",
    number=30,
)
def test_sources_that_agree_disprove_a_git_name(target: Path) -> None:
    """The error names the digest that it is about."""
    rig = two_sources(target, lambda asked: None)

    order = rig.order(blob("w", DATA, name="0" * 40), source(f"{A}/w"), source(f"{B}/w"))
    (result,) = virtual(lambda: rig.bring(order))

    assert isinstance(result.error, IntegrityError)
    assert f"git blob SHA-1 is {git_sha1(DATA)}, should be {'0' * 40}" in result.error.message
    assert "have the same bytes" in result.error.message
    assert not (target / "w").exists()
    assert rig.left() == []


@pytest.mark.fault(
    "a store has two versions of a file behind one name, for ever",
    "after the digest was wrong once, only the version of most bytes is taken",
    number=22,
)
@pytest.mark.parametrize("listed", [remote, blob])
def test_one_version_is_insisted_on_whichever_digest_judges(
    target: Path, listed: Callable[[str, bytes], RemoteFile]
) -> None:
    """Every third answer is of the older version: taken alike, the two would be mixed anew."""

    def fails(asked: Asked) -> Fault | None:
        old = asked.number % 3 == 0
        return Fault(
            headers={"etag": '"old"' if old else '"new"'},
            flip=(asked.span.start,) if old else (),
        )

    rig = Rig(target, FakeNetwork({f"{A}/w": Served(DATA, rate=2e6)}, fails))

    order = rig.order(listed("w", DATA), source(f"{A}/w"))
    (result,) = virtual(lambda: rig.bring(order))

    assert result.error is None
    assert (target / "w").read_bytes() == DATA


# -- one source ------------------------------------------------------------------------------------


@pytest.mark.fault(
    "a byte is flipped in transit, and there is one source",
    "the file is fetched at most once more, over new connections",
    number=30,
)
@pytest.mark.parametrize("size", [SIZE, 20_000])
def test_the_only_source_is_asked_once_more_over_new_connections(target: Path, size: int) -> None:
    """A box on the way may have broken it: what was open is not used for the second try."""
    data = DATA[:size]
    rig = Rig(target, FakeNetwork({f"{A}/w": Served(data)}))
    until_renewed(rig, flipping(A, at=(5,)))

    result = bring(rig, A, data=data)

    assert result.error is None
    assert (target / "w").read_bytes() == data
    assert result.disproven == (A,)
    assert result.fetched - result.hedged <= 2 * size
    (before,) = network(rig).renewed
    assert 0 < before < len(network(rig).asked)


# -- the disk, between two runs --------------------------------------------------------------------


@pytest.mark.fault(
    "bytes of an unfinished part change on the disk between two runs",
    "only the runs that they are in are fetched again",
    number=91,
)
@pytest.mark.parametrize("count", [1, 3])
def test_only_damaged_runs_are_fetched_again(target: Path, count: int) -> None:
    """`count` bytes in as many runs: the requests are for the missing bytes and for those runs."""
    rig = Rig(target, FakeNetwork({f"{A}/w": Served(DATA, rate=1e6)}), connections=2)
    order = rig.order(remote("w", DATA), source(f"{A}/w"))

    async def stopped() -> None:
        with anyio.move_on_after(2.5):
            await rig.bring(order)

    virtual(stopped)
    hit = flip_runs(target, count)
    asked_before, sent_before = len(network(rig).asked), network(rig).sent

    result = bring(rig, A)

    assert result.error is None
    assert (target / "w").read_bytes() == DATA
    assert result.disproven == ()
    assert network(rig).sent == SIZE + hit.total
    assert sent_before < SIZE
    asked = SpanSet(request.span for request in network(rig).asked[asked_before:])
    assert all(asked.covers(span) for span in hit)


def runs_of(folder: Path) -> tuple[Have, ...]:
    """The recorded runs of the one part below `folder`; none before there is a journal."""
    journals = list((folder / ".modelhaul").glob("*.journal"))
    return read_runs(journals[0])[1] if journals else ()


def flip_runs(folder: Path, count: int) -> SpanSet:
    """Flip a byte in each of `count` recorded runs of the part below `folder`; those runs."""
    (part,) = (folder / ".modelhaul").glob("*.part")
    runs = runs_of(folder)
    assert len(runs) >= 2 * count
    hit = [runs[at * len(runs) // count] for at in range(count)]
    with part.open("r+b") as file:
        for run in hit:
            middle = (run.span.start + run.span.stop) // 2
            file.seek(middle)
            byte = file.read(1)
            file.seek(middle)
            file.write(bytes([byte[0] ^ 0x10]))
    return SpanSet(run.span for run in hit)


# -- the installed command -------------------------------------------------------------------------

NAME = "model.safetensors"
FILE = content(12 << 20, 9)
DIGEST = hashlib.sha256(FILE).hexdigest()


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A user's machine, and two hubs with the same file."""

    world: World
    mirror: Hub

    def lie(self, hub: Hub, wrong: Wrong) -> Switchboard:
        """Put a script of wrong answers in place."""
        hub.fault = board = Switchboard(FILE, f'"{DIGEST}"', wrong)
        return board

    @property
    def urls(self) -> tuple[str, str]:
        """The file at the hub and at its mirror."""
        path = f"/models/acme/one/resolve/master/{NAME}"
        return self.world.hub.url + path, self.mirror.url + path


@pytest.fixture
def mirrored(tmp_path: Path) -> Iterator[Mirrored]:
    """Both hubs serve one folder; each has a store of its own that takes faults."""
    with machine(tmp_path) as world:
        world.put("acme/one", {NAME: FILE})
        (tmp_path / "mirror").mkdir()
        log = tmp_path / "mirror" / "requests.jsonl"
        with hub_in_thread(world.hub.root, log, rate=8e6) as mirror:
            yield Mirrored(world, mirror)


def once(wrong: Wrong) -> Wrong:
    """Wrong until as many bytes have been asked for as the file has: in the first round."""
    asked = 0

    async def answer(ask: Ask) -> web.StreamResponse | None:
        nonlocal asked
        if asked >= len(ask.data):
            return None
        asked += ask.span.length
        return await wrong(ask)

    return answer


@pytest.mark.command
@pytest.mark.fault(
    "one of two URLs of `get` serves wrong bytes for ever",
    "exit 0 with the right bytes of the other, and a line that names it",
    number=30,
)
def test_get_repairs_from_the_other_url_and_names_the_one_that_lied(mirrored: Mirrored) -> None:
    """Every answer of the mirror has a wrong byte, whatever it is asked for."""
    board = mirrored.lie(mirrored.mirror, plain(flipped))

    done = mirrored.world.run("get", *mirrored.urls, "--sha256", DIGEST, "-o", "w", "--json")

    assert done.returncode == 0, done.stderr
    assert tree(mirrored.world.work) == {"w": FILE}
    assert board.given > 0
    told = [json.loads(line) for line in done.stdout.splitlines()]
    (file_done,) = [event for event in told if event["event"] == "file_done"]
    assert file_done["disproven"] == [mirrored.mirror.url]
    assert any(event["event"] == "repairing" for event in told)


@pytest.mark.command
@pytest.mark.fault(
    "the only URL of `get` serves wrong bytes for ever",
    "exit 8 after at most two fetches; nothing under the final name, no part",
    number=30,
)
def test_get_with_one_url_that_lies_ends_with_8(mirrored: Mirrored) -> None:
    """Fetched twice and wrong twice: by one connection, so that no request is cut into two."""
    board = mirrored.lie(mirrored.mirror, plain(flipped))

    done = mirrored.world.run(
        "get", mirrored.urls[1], "--sha256", DIGEST, "-o", "w", "--json", "--connections", "1"
    )

    assert done.returncode == 8, done.stderr
    assert tree(mirrored.world.work) == {}
    # The first byte is asked for alone, to learn the size.
    assert board.sent == 2 * len(FILE) + 1
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["kind"]) == ("error", "IntegrityError")


@pytest.mark.command
@pytest.mark.fault(
    "the only URL of `get` serves wrong bytes for a while",
    "exit 0 with the right bytes, after one more fetch of the file",
    number=30,
)
def test_get_with_one_url_that_was_wrong_once_is_repaired(mirrored: Mirrored) -> None:
    """Wrong in the first round, right when all of it is asked for once more."""
    board = mirrored.lie(mirrored.mirror, once(plain(flipped)))

    done = mirrored.world.run("get", mirrored.urls[1], "--sha256", DIGEST, "-o", "w", "--json")

    assert done.returncode == 0, done.stderr
    assert tree(mirrored.world.work) == {"w": FILE}
    assert board.given > 0
    told = [json.loads(line) for line in done.stdout.splitlines()]
    (repair,) = [event for event in told if event["event"] == "repairing"]
    (file_done,) = [event for event in told if event["event"] == "file_done"]
    assert repair["size"] == len(FILE)
    assert file_done["disproven"] == [mirrored.mirror.url]


@pytest.mark.command
@pytest.mark.fault(
    "a download is killed, and then bytes of its part change on the disk",
    "the same command fetches what was missing and the damaged runs, nothing else",
    number=91,
)
def test_a_killed_download_fetches_only_damaged_runs_again(tmp_path: Path) -> None:
    """By the ranges that the store was asked for: of what was recorded only the damaged runs."""
    with machine(tmp_path) as world:
        log = tmp_path / "slow.jsonl"
        with hub_in_thread(world.hub.root, log, rate=4e6) as world.hub:
            world.put("acme/one", {NAME: FILE})
            killed_at_half(world)
            recorded = SpanSet(run.span for run in runs_of(world.work / "m"))
            hit = flip_runs(world.work / "m", 1)
            before = len(world.hub.seen)

            done = world.run("download", "acme/one", "--local-dir", "m")

            assert done.returncode == 0, done.stderr
            assert tree(world.work / "m") == {NAME: FILE}
            again = SpanSet()
            for seen in world.hub.seen[before:]:
                span = parse_range(seen.headers.get("Range"), len(FILE))
                if seen.path.startswith("/blob/") and span is not None:
                    again.add(span)
            assert common(again, recorded) == hit


def killed_at_half(world: World) -> None:
    """A download that was killed when a good part of it was recorded."""
    process = world.start("download", "acme/one", "--local-dir", "m", "--connections", "2")
    limit = time.monotonic() + 30
    while sum(run.span.length for run in runs_of(world.work / "m")) < len(FILE) // 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.02)
    process.kill()
    process.communicate()


def common(one: SpanSet, other: SpanSet) -> SpanSet:
    """The bytes that are in both."""
    found = one.copy()
    for gap in other.gaps(Span(0, len(FILE))):
        found.remove(gap)
    return found
