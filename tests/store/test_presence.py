"""`store.presence`: what stands at a final name."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import pytest

from modelhaul.core.plan import Found
from modelhaul.core.repo import RemoteFile
from modelhaul.errors import StorageError
from modelhaul.store.gitnames import blob_name
from modelhaul.store.index import Entry, Known, ProvenIndex
from modelhaul.store.osfile import Stamp
from modelhaul.store.presence import Sight, is_missing, look, prove, room
from tests.store.helpers import trace

CONTENT = b"the wanted bytes"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
WANTED = RemoteFile("model.bin", len(CONTENT), sha256=DIGEST)
GIT = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT, usedforsecurity=False).hexdigest()
NAMED = RemoteFile("model.bin", len(CONTENT), git_sha1=GIT)
TAGGED = RemoteFile("model.bin", len(CONTENT), validator='"v1"')


@pytest.fixture
def index(tmp_path: Path) -> Iterator[ProvenIndex]:
    """An empty memory."""
    index = ProvenIndex(tmp_path / "state" / "index.sqlite")
    yield index
    index.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The final name."""
    return tmp_path / "model.bin"


def remember(index: ProvenIndex, path: Path, known: Known) -> None:
    """Record a file as it is now."""
    index.remember([Entry(path, Stamp.of(path.lstat()), known)])


# -- folders -------------------------------------------------------------------------------------


def test_a_folder_is_missing_where_nothing_can_be_in_it(tmp_path: Path) -> None:
    """Not there, below a file, a file itself, or at the end of a link that leads nowhere."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "somewhere").symlink_to(tmp_path)

    assert is_missing(tmp_path / "gone")
    assert is_missing(tmp_path / "file" / "sub")
    assert is_missing(tmp_path / "file")
    assert is_missing(tmp_path / "nowhere")
    assert not is_missing(tmp_path / "somewhere")
    assert not is_missing(tmp_path)


# -- looking -------------------------------------------------------------------------------------


def test_nothing_is_there(path: Path, index: ProvenIndex) -> None:
    """A missing file, a missing folder above it, or a file where that folder should be."""
    (path.parent / "file").write_bytes(b"")

    for where in (path, path / "deeper", path.parent / "file" / "model.bin"):
        assert look(where, WANTED, index, trust=True) == Sight(Found.NOTHING)


def test_a_folder_is_no_file(path: Path, index: ProvenIndex) -> None:
    """It is seen as what it is, and is never the wanted content."""
    path.mkdir()

    sight = look(path, WANTED, index, trust=True)

    assert (sight.found, sight.verdict) == (Found.FOLDER, False)
    assert sight.stamp == Stamp.of(path.lstat())


def test_a_pipe_is_no_file(path: Path, index: ProvenIndex) -> None:
    """Looking at it does not open it: that would wait for a writer."""
    os.mkfifo(path)

    sight = look(path, WANTED, index, trust=True)

    assert (sight.found, sight.verdict) == (Found.OTHER, False)


def test_only_hashing_can_tell_of_an_unknown_file(path: Path, index: ProvenIndex) -> None:
    """The right size is no proof."""
    path.write_bytes(CONTENT)

    sight = look(path, WANTED, index, trust=True)

    assert sight == Sight(Found.FILE, Stamp.of(path.lstat()), None, None)


def test_a_file_of_another_size_is_not_the_wanted_one(path: Path, index: ProvenIndex) -> None:
    """Nothing has to be read to know that."""
    path.write_bytes(CONTENT + b"!")

    assert look(path, WANTED, index, trust=True).verdict is False
    assert look(path, TAGGED, index, trust=True).verdict is False


def test_a_file_of_unstated_size_is_judged_by_its_digest(path: Path, index: ProvenIndex) -> None:
    """Without a size there is nothing to compare it with."""
    path.write_bytes(CONTENT + b"!")

    assert look(path, dataclasses.replace(WANTED, size=None), index, trust=True).verdict is None


@pytest.mark.parametrize(("digest", "verdict"), [(DIGEST, True), ("0" * 64, False)])
def test_memory_saves_hashing(path: Path, index: ProvenIndex, digest: str, verdict: bool) -> None:
    """What was proven about this very state decides, either way."""
    path.write_bytes(CONTENT)
    remember(index, path, Known(digest, None, ours=True))

    sight = look(path, WANTED, index, trust=True)

    assert sight.verdict is verdict
    assert sight.known == Known(digest, None, ours=True)


def test_without_trust_only_a_new_hash_counts(path: Path, index: ProvenIndex) -> None:
    """Memory still says whose file it is."""
    path.write_bytes(CONTENT)
    remember(index, path, Known(DIGEST, None, ours=True))

    sight = look(path, WANTED, index, trust=False)

    assert sight.verdict is None
    assert sight.known is not None
    assert sight.known.ours


def test_without_trust_no_validator_counts(path: Path, index: ProvenIndex) -> None:
    """Nothing can prove such a file anew: `--force` fetches it again."""
    path.write_bytes(CONTENT)
    remember(index, path, Known(None, '"v1"', ours=True))

    sight = look(path, TAGGED, index, trust=False)

    assert sight.verdict is False
    assert sight.known == Known(None, '"v1"', ours=True)
    assert look(path, TAGGED, index, trust=True).verdict is True


def test_memory_of_another_state_is_none(path: Path, index: ProvenIndex) -> None:
    """A file that was changed since is unknown, and not ours any more."""
    path.write_bytes(CONTENT)
    remember(index, path, Known(DIGEST, None, ours=True))
    path.write_bytes(bytes(reversed(CONTENT)))

    sight = look(path, WANTED, index, trust=True)

    assert (sight.known, sight.verdict) == (None, None)


@pytest.mark.parametrize(
    ("known", "verdict"),
    [
        (Known(DIGEST, '"v1"', ours=True), True),
        (Known(None, '"v1"', ours=True), True),
        (Known(DIGEST, '"v2"', ours=True), False),
        (Known(DIGEST, None, ours=True), False),
        (Known(DIGEST, '"v1"', ours=False), False),
        (None, False),
    ],
)
def test_without_a_digest_only_our_own_file_of_the_same_validator_counts(
    path: Path, index: ProvenIndex, known: Known | None, verdict: bool
) -> None:
    """Nobody says what the bytes should be: what we did not fetch ourselves proves nothing."""
    path.write_bytes(CONTENT)
    if known is not None:
        remember(index, path, known)

    assert look(path, TAGGED, index, trust=True).verdict is verdict


def test_a_file_that_nothing_identifies_is_never_there(path: Path, index: ProvenIndex) -> None:
    """No digest and no validator: it is fetched again."""
    path.write_bytes(CONTENT)
    remember(index, path, Known(DIGEST, None, ours=True))

    assert look(path, RemoteFile("model.bin", len(CONTENT)), index, trust=True).verdict is False


# -- links ---------------------------------------------------------------------------------------


def test_a_link_to_a_file_of_the_right_size_may_be_it(path: Path, index: ProvenIndex) -> None:
    """The user may keep models elsewhere: only hashing can tell; the stamp is the link's."""
    (path.parent / "store").write_bytes(CONTENT)
    path.symlink_to("store")

    sight = look(path, WANTED, index, trust=True)

    assert sight == Sight(Found.LINK, Stamp.of(path.lstat()), None, None)


@pytest.mark.parametrize("target", ["wrong size", "folder", "pipe", "nowhere", "itself"])
def test_a_link_to_anything_else_is_not_it(path: Path, index: ProvenIndex, target: str) -> None:
    """And looking reads nothing and waits for nothing."""
    elsewhere = path.parent / "target"
    if target == "wrong size":
        elsewhere.write_bytes(CONTENT[1:])
    elif target == "folder":
        elsewhere.mkdir()
    elif target == "pipe":
        os.mkfifo(elsewhere)
    path.symlink_to(path if target == "itself" else elsewhere)

    sight = look(path, WANTED, index, trust=True)

    assert (sight.found, sight.verdict) == (Found.LINK, False)


def test_a_link_to_an_empty_pipe_is_no_empty_file(path: Path, index: ProvenIndex) -> None:
    """A pipe has no size: reading it to find out would wait for ever."""
    os.mkfifo(path.parent / "target")
    path.symlink_to("target")

    assert look(path, dataclasses.replace(WANTED, size=0), index, trust=True).verdict is False


@pytest.mark.parametrize("file", [TAGGED, dataclasses.replace(WANTED, size=None)])
def test_a_link_proves_nothing_without_size_and_digest(
    path: Path, index: ProvenIndex, file: RemoteFile
) -> None:
    """What we did not write ourselves is only believed by its digest."""
    (path.parent / "store").write_bytes(CONTENT)
    path.symlink_to("store")

    assert look(path, file, index, trust=True).verdict is False


# -- proving -------------------------------------------------------------------------------------


def test_what_was_proven_is_remembered(path: Path, index: ProvenIndex) -> None:
    """The next look needs no hash; a file that we did not put there does not become ours."""
    path.write_bytes(CONTENT)

    proven = prove(path, WANTED, index)
    sight = look(path, WANTED, index, trust=True)

    assert proven
    assert sight.verdict is True
    assert sight.known == Known(DIGEST, None, ours=False)


def test_a_file_is_proven_by_its_git_name_and_remembered_with_both(
    path: Path, index: ProvenIndex
) -> None:
    """Whichever of the two digests the next listing states, nothing is hashed again."""
    path.write_bytes(CONTENT)

    known = prove(path, NAMED, index)

    assert known == Known(DIGEST, None, ours=False, git_sha1=GIT)
    assert look(path, NAMED, index, trust=True).verdict is True
    assert look(path, WANTED, index, trust=True).verdict is True
    other = dataclasses.replace(NAMED, git_sha1="0" * 40)
    assert look(path, other, index, trust=True).verdict is False


def test_other_bytes_are_not_what_git_calls_by_that_name(path: Path, index: ProvenIndex) -> None:
    """Same size, other content."""
    wrong = CONTENT[::-1]
    path.write_bytes(wrong)
    remember(index, path, Known(DIGEST, None, ours=True, git_sha1=GIT))

    assert prove(path, NAMED, index) is None
    sight = look(path, NAMED, index, trust=True)
    sha256 = hashlib.sha256(wrong).hexdigest()
    assert sight.known == Known(sha256, None, ours=True, git_sha1=blob_name(wrong))
    assert sight.verdict is False


def test_a_file_of_which_only_the_sha256_is_known_is_hashed_for_its_git_name(
    path: Path, index: ProvenIndex
) -> None:
    """The other digest says nothing about it."""
    path.write_bytes(CONTENT)
    remember(index, path, Known(DIGEST, None, ours=True))

    assert look(path, NAMED, index, trust=True).verdict is None
    assert prove(path, NAMED, index) == Known(DIGEST, None, ours=True, git_sha1=GIT)


@pytest.mark.parametrize("ours", [False, True])
def test_what_was_disproven_is_remembered_as_what_it_is(
    path: Path, index: ProvenIndex, ours: bool
) -> None:
    """A disk that changes bytes leaves no trace in the times: the earlier proof has to go."""
    wrong = bytes(reversed(CONTENT))
    path.write_bytes(wrong)
    remember(index, path, Known(DIGEST, None, ours=ours))
    assert look(path, WANTED, index, trust=True).verdict is True

    proven = prove(path, WANTED, index)
    sight = look(path, WANTED, index, trust=True)

    assert not proven
    assert sight.verdict is False
    assert sight.known == Known(hashlib.sha256(wrong).hexdigest(), None, ours=ours)


def test_proving_again_keeps_our_file_ours(path: Path, index: ProvenIndex) -> None:
    """`--force` hashes what we fetched, and it may still be replaced later."""
    path.write_bytes(CONTENT)
    remember(index, path, Known(DIGEST, None, ours=True))

    assert prove(path, WANTED, index)

    sight = look(path, WANTED, index, trust=True)
    assert sight.known is not None
    assert sight.known.ours


def test_of_a_link_that_is_remembered_which_it_leads_to(path: Path, index: ProvenIndex) -> None:
    """Its own stamp says nothing about that: a change there, or another link, is unknown."""
    store = path.parent / "store"
    store.write_bytes(CONTENT)
    path.symlink_to("store")

    proven = prove(path, WANTED, index)

    assert proven
    assert index.lookup(path, Stamp.of(path.lstat())) is None
    assert index.lookup(store, Stamp.of(store.lstat())) == proven
    assert look(path, WANTED, index, trust=True) == Sight(
        Found.LINK, Stamp.of(path.lstat()), proven, True
    )
    assert look(path, WANTED, index, trust=False).verdict is None
    store.write_bytes(bytes(reversed(CONTENT)))
    assert look(path, WANTED, index, trust=True).verdict is None
    (path.parent / "other").write_bytes(CONTENT)
    path.unlink()
    path.symlink_to("other")
    assert look(path, WANTED, index, trust=True).verdict is None


def test_a_link_to_a_file_of_ours_is_not_ours(path: Path, index: ProvenIndex) -> None:
    """Somebody made it: it is not replaced without being asked. What it leads to stays ours."""
    store = path.parent / "store"
    store.write_bytes(CONTENT)
    remember(index, store, Known(DIGEST, None, ours=True))
    path.symlink_to("store")

    sight, proven = look(path, WANTED, index, trust=True), prove(path, WANTED, index)

    assert sight.known == proven == Known(DIGEST, None, ours=False)
    assert index.lookup(store, Stamp.of(store.lstat())) == Known(DIGEST, None, ours=True)


def test_a_link_to_the_wrong_bytes_is_not_proven(path: Path, index: ProvenIndex) -> None:
    """Whatever their size; and the next look knows."""
    (path.parent / "store").write_bytes(bytes(reversed(CONTENT)))
    path.symlink_to("store")

    assert not prove(path, WANTED, index)
    assert look(path, WANTED, index, trust=True).verdict is False


def test_proving_can_be_watched_and_stopped(path: Path, index: ProvenIndex) -> None:
    """Each number of bytes is told; what the listener raises ends it, and proves nothing."""
    path.write_bytes(CONTENT)
    seen: list[int] = []

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prove(path, WANTED, index, check=stop)
    forgotten = index.lookup(path, Stamp.of(path.lstat()))
    prove(path, WANTED, index, check=seen.append)

    assert forgotten is None
    assert sum(seen) == len(CONTENT)


def test_a_file_that_is_gone_cannot_be_proven(path: Path, index: ProvenIndex) -> None:
    """Somebody removed it after we looked."""
    with pytest.raises(StorageError, match=r"model\.bin"):
        prove(path, WANTED, index)


def test_proving_waits_until_a_change_would_show(path: Path, index: ProvenIndex) -> None:
    """A change in the tick of the last one has its times: no byte is read before that is over."""
    path.write_bytes(CONTENT)
    changed = path.stat().st_ctime_ns
    moments: list[int] = []

    prove(path, WANTED, index, check=lambda _: moments.append(time.time_ns()))

    assert moments[0] >= changed + 20_000_000
    assert look(path, WANTED, index, trust=True).verdict is True


def test_what_is_remembered_is_durable_first(tmp_path: Path, needs_strace: None) -> None:
    """Read, then synced, then recorded: after a power cut no record speaks of lost bytes."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "model.bin").write_bytes(CONTENT)
    code = """
    from modelhaul.store.index import ProvenIndex
    from modelhaul.store.presence import prove
    from tests.store.test_presence import WANTED
    path = Path(sys.argv[1]) / "model.bin"
    assert prove(path, WANTED, ProvenIndex(path.with_name("i")))
    """

    traced = trace(code, tmp_path / "x", calls="preadv,preadv2,fdatasync,pwrite64")

    steps = [step for step, _ in groupby(one.replace("preadv2", "preadv") for one in traced.steps)]
    assert steps[:2] == ["preadv model.bin", "fdatasync model.bin"]
    assert "pwrite64 i" in steps[2:]
    assert [step for step in steps[2:] if "model.bin" in step] == []


@pytest.mark.parametrize("change", ["longer", "overwritten", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(
    path: Path, index: ProvenIndex, change: str
) -> None:
    """The bytes that were read may stand nowhere any more: neither state of it is known."""
    path.write_bytes(CONTENT)
    before = Stamp.of(path.lstat())
    spare = path.with_name("spare")
    spare.write_bytes(CONTENT)

    def interfere(count: int) -> None:
        if change == "longer":
            with path.open("ab") as file:
                file.write(b"!")
        elif change == "overwritten":
            path.write_bytes(bytes(reversed(CONTENT)))
        elif change == "replaced":
            spare.replace(path)
        else:
            path.unlink()

    with pytest.raises(StorageError, match="changed while it was being hashed"):
        prove(path, WANTED, index, check=interfere)

    assert index.lookup(path, before) is None
    assert change == "removed" or index.lookup(path, Stamp.of(path.lstat())) is None
    assert index.problem is None


def test_a_file_that_changed_can_be_proven_later(path: Path, index: ProvenIndex) -> None:
    """One failed look at it spoils nothing."""
    path.write_bytes(bytes(reversed(CONTENT)))

    def put_right(count: int) -> None:
        path.write_bytes(CONTENT)

    with pytest.raises(StorageError):
        prove(path, WANTED, index, check=put_right)
    proven = prove(path, WANTED, index)

    assert proven
    assert look(path, WANTED, index, trust=True).known == Known(DIGEST, None, ours=False)


# -- room ----------------------------------------------------------------------------------------


def test_room_is_that_of_the_disk_the_folder_will_be_on(tiny_disk: Callable[..., Path]) -> None:
    """The folder need not exist; what others write there counts."""
    disk = tiny_disk(kib=512)

    empty = room(disk / "models" / "new")
    (disk / "filler").write_bytes(bytes(256 * 1024))
    filled = room(disk)

    assert 256 * 1024 < empty <= 512 * 1024
    assert empty - filled == 256 * 1024
