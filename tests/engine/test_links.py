"""Blobs of two Hugging Face caches that are one file with two names, and when they are not."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from modelhaul.core.plan import Action, FilePlan
from modelhaul.engine.task import Order
from modelhaul.errors import Occupied, StorageError
from modelhaul.report import FileResult
from modelhaul.store import twins
from modelhaul.store.index import Entry, Known, ProvenIndex
from modelhaul.store.osfile import Stamp
from tests.engine.harness import MIB, ORIGIN, Rig, payload, remote, source
from tests.faults.faultydisk import BROKEN, Failing, FaultyDisk
from tests.support.crashes import Named, Promised, Tape, crashes
from tests.support.inline import InlineThreads
from tests.support.network import FakeNetwork, Served
from tests.support.virtual import virtual

pytestmark = [
    pytest.mark.usefixtures("usual_umask"),
    pytest.mark.skipif(sys.platform != "linux", reason="the disk and the tape read /proc"),
]

DATA = payload(2 * MIB + 1)
NAME = hashlib.sha256(DATA).hexdigest()
OTHER = bytes([DATA[0] ^ 1]) + DATA[1:]
COPIED = "it is copied, the other one stays as it is"


class Meanwhile(InlineThreads):
    """Something happens once the first bytes have been hashed."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self._happens: Callable[[], object] | None = happens

    def check_cancelled(self) -> None:
        happens, self._happens = self._happens, None
        if happens is not None:
            happens()


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A blob of another repository of the same cache."""
    return put(tmp_path / "hub" / "models--some--other" / "blobs" / NAME)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """A repository's folder in that cache; what is not copied can be fetched."""
    target = tmp_path / "hub" / "models--o--n"
    target.mkdir(parents=True)
    return Rig(target, FakeNetwork({f"{ORIGIN}/blobs/{NAME}": Served(DATA)}))


def put(path: Path, data: bytes = DATA) -> Path:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def wanted(rig: Rig, held: Path, *, data: bytes = DATA, path: str = f"blobs/{NAME}") -> Order:
    """Bring what `held` has, which is on this disk."""
    file = remote(path, data)
    plan = FilePlan(file=file, action=Action.COPY, reuse=len(data))
    return replace(rig.order(file, plan=plan, copy_from=held), sources=())


def bring(rig: Rig, order: Order) -> FileResult:
    """What comes of it; nothing of ours is left in any case."""
    (result,) = virtual(lambda: rig.bring(order))
    assert rig.left() == []
    return result


def is_copied(held: Path, result: FileResult) -> bool:
    """Whether two files have the right bytes now, each its own."""
    final = Path(result.final)
    both = held.read_bytes() == final.read_bytes() == DATA
    return both and result.how == "copied" and not final.samefile(held)


def test_a_blob_of_another_repository_gets_a_second_name(held: Path, rig: Rig) -> None:
    """The very file: no room is taken, nothing is written, all of it is hashed."""
    result = bring(rig, wanted(rig, held))

    assert (result.how, result.verified, result.sha256) == ("copied", True, NAME)
    assert result.reused == len(DATA)
    assert Path(result.final).samefile(held)
    assert held.stat().st_nlink == 2
    assert held.read_bytes() == DATA


@pytest.mark.parametrize("repository", ["datasets--o--d", "models--gpt2"])
def test_a_blob_of_another_cache_does_as_well(tmp_path: Path, rig: Rig, repository: str) -> None:
    """Wherever it is on this file system, and whatever it is a part of."""
    held = put(tmp_path / "elsewhere" / repository / "blobs" / NAME)

    assert Path(bring(rig, wanted(rig, held)).final).samefile(held)


@pytest.mark.parametrize(
    "place",
    [
        "m/model.bin",
        f"m/blobs/{NAME}",
        "models--o--m/blobs/model.bin",
        f"models--o--m/snapshots/{NAME}",
    ],
)
def test_any_other_file_is_copied(tmp_path: Path, rig: Rig, place: str) -> None:
    """Somebody may edit it in its place, and must not change the cache by that."""
    held = put(tmp_path / place)

    assert is_copied(held, bring(rig, wanted(rig, held)))


@pytest.mark.parametrize("path", ["model.bin", f"models--o--n/blobs/{NAME}"])
def test_into_any_other_place_it_is_copied(held: Path, rig: Rig, path: str) -> None:
    """Also where a repository has files with the names of blobs: it would be the user's file."""
    assert is_copied(held, bring(rig, wanted(rig, held, path=path)))


def test_what_is_small_is_copied(held: Path, rig: Rig) -> None:
    """It saves nothing, and small files are those that people edit by their names in a snapshot."""
    data = DATA[:20_000]
    name = hashlib.sha256(data).hexdigest()
    small = put(held.with_name(name), data)

    result = bring(rig, wanted(rig, small, data=data, path=f"blobs/{name}"))

    assert Path(result.final).read_bytes() == data
    assert not Path(result.final).samefile(small)


@pytest.mark.fault(
    "others may write into a blob of another repository, or this one would have other rights",
    COPIED,
    number=95,
)
@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o600, 0o444, 0o755])
def test_a_blob_with_other_rights_than_a_copy_is_copied(held: Path, rig: Rig, mode: int) -> None:
    """Who may write there could change our file later; and the umask says who may read ours."""
    held.chmod(mode)

    result = bring(rig, wanted(rig, held))

    assert is_copied(held, result)
    assert Path(result.final).stat().st_mode & 0o777 == 0o644
    assert held.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("umask", [0o002, 0o000])
def test_where_a_copy_could_be_written_by_others_as_well_it_is_still_a_copy(
    held: Path, rig: Rig, umask: int
) -> None:
    """The umask lets the group write: into one repository then, not into all that have the blob."""
    os.umask(umask)
    held.chmod(0o666 & ~umask)

    assert is_copied(held, bring(rig, wanted(rig, held)))


@pytest.mark.fault("a blob of another repository is somebody else's", COPIED, number=95)
@pytest.mark.root
@pytest.mark.parametrize("owner", [(1, -1), (-1, 1)], ids=["user", "group"])
def test_a_blob_of_somebody_else_is_copied(held: Path, rig: Rig, owner: tuple[int, int]) -> None:
    """Its owner could change it later."""
    if os.geteuid() != 0:
        pytest.skip("giving a file away needs root")
    os.chown(held, *owner)

    assert is_copied(held, bring(rig, wanted(rig, held)))


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP])
@pytest.mark.fault(
    "a blob of another repository cannot get a second name: another device, too many, forbidden",
    COPIED,
    number=86,
)
def test_what_cannot_be_linked_is_copied(
    held: Path, rig: Rig, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whatever the reason."""
    disk = FaultyDisk(Failing("link", NAME, number)).install(monkeypatch)

    assert is_copied(held, bring(rig, wanted(rig, held)))
    assert disk.failed == [f"link {NAME}"]


@pytest.mark.fault(
    "a blob of another repository cannot be synced before it gets a second name",
    "it is not linked: nobody knows whether the disk has it; a copy is written",
    number=80,
)
def test_what_cannot_be_synced_is_not_linked(
    held: Path, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is synced itself."""
    disk = FaultyDisk(Failing("fdatasync", NAME, BROKEN)).install(monkeypatch)

    assert is_copied(held, bring(rig, wanted(rig, held)))
    assert disk.failed == [f"fdatasync {NAME}"]
    assert ("link", NAME) not in disk.met


def test_a_folder_that_cannot_be_synced_is_an_error(
    held: Path, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name may be gone after a power cut; nobody is told that it is there."""
    bring(rig, wanted(rig, held))  # makes the folders
    (rig.target / "blobs" / NAME).unlink()
    FaultyDisk(Failing("fsync", "blobs/", BROKEN)).install(monkeypatch)

    with pytest.raises(StorageError, match=r"syncing .*blobs"):
        bring(rig, wanted(rig, held))


@pytest.mark.fault(
    "a blob of another repository has other bytes than its name says",
    "it is not linked; the right bytes are fetched",
    number=90,
)
def test_wrong_bytes_are_never_linked(held: Path, rig: Rig) -> None:
    """A disk changed it, or it was cut and filled up."""
    held.write_bytes(OTHER)
    order = replace(wanted(rig, held), sources=(source(f"{ORIGIN}/blobs/{NAME}"),))

    result = bring(rig, order)

    assert (result.how, Path(result.final).read_bytes()) == ("fetched", DATA)
    assert (held.read_bytes(), held.stat().st_nlink) == (OTHER, 1)


def test_what_is_written_to_while_it_is_hashed_is_never_linked(held: Path, rig: Rig) -> None:
    """Its first bytes were right when they were read."""

    def spoil() -> None:
        with held.open("r+b") as file:
            file.write(OTHER[:1])
        os.utime(held, ns=(1, 1))  # in the same tick nothing would show

    rig.threads = Meanwhile(spoil)

    result = bring(rig, wanted(rig, held))

    assert result.error is not None
    assert not (rig.target / "blobs" / NAME).exists()
    assert held.stat().st_nlink == 1


def test_what_others_may_write_into_by_now_is_never_linked(held: Path, rig: Rig) -> None:
    """Its rights are looked at once more when its bytes have been read."""
    rig.threads = Meanwhile(lambda: held.chmod(0o666))

    assert is_copied(held, bring(rig, wanted(rig, held)))


def test_the_file_that_was_hashed_is_linked_whatever_has_its_name_by_now(
    held: Path, rig: Rig
) -> None:
    """Somebody moved it, and has put another file there."""
    moved = held.with_name("moved")

    def move() -> None:
        held.rename(moved)
        put(held, OTHER)

    rig.threads = Meanwhile(move)

    final = Path(bring(rig, wanted(rig, held)).final)

    assert final.samefile(moved)
    assert (final.read_bytes(), held.read_bytes()) == (DATA, OTHER)


def test_a_file_that_loses_its_only_name_is_copied(held: Path, rig: Rig) -> None:
    """A repair renames another one over it; the system links nothing that has no name."""
    rig.threads = Meanwhile(lambda: put(held.with_name("new"), OTHER).replace(held))

    final = Path(bring(rig, wanted(rig, held)).final)

    assert (final.read_bytes(), held.read_bytes()) == (DATA, OTHER)
    assert final.stat().st_nlink == 1


@pytest.mark.parametrize("theirs", [DATA, OTHER], ids=["right", "wrong"])
@pytest.mark.fault(
    "another process brings a file while a second name for it is prepared",
    "what it has put there stays, and counts if it is right",
    number=113,
)
def test_a_name_that_another_process_was_faster_to_take_is_left_to_it(
    held: Path, rig: Rig, theirs: bytes
) -> None:
    """As with any other file."""
    final = rig.target / "blobs" / NAME
    rig.threads = Meanwhile(lambda: put(final, theirs))
    rig.present = lambda order: final.read_bytes() == DATA

    result = bring(rig, wanted(rig, held))

    assert final.read_bytes() == theirs
    assert not final.samefile(held)
    assert isinstance(result.error, Occupied) == (theirs == OTHER)


def test_what_stands_there_is_replaced_by_a_copy(held: Path, rig: Rig) -> None:
    """A wrong file gives way in one step, by a rename; a link would have to remove it first."""
    final = put(rig.target / "blobs" / NAME, OTHER)
    order = wanted(rig, held)
    stamp = Stamp.of(final.lstat())

    result = bring(rig, replace(order, placement=replace(order.placement, replaces=stamp)))

    assert is_copied(held, result)


def test_all_names_of_a_file_stay_proven(held: Path, rig: Rig, tmp_path: Path) -> None:
    """A link changes a time of the file, and so under every name: none has to be hashed again."""
    third = held.parents[2] / "models--a--third" / "blobs" / NAME
    third.parent.mkdir(parents=True)
    third.hardlink_to(held)
    same = put(tmp_path / "same", DATA)  # the content, and another file
    index = ProvenIndex(rig.target.parent / "state" / "proven.sqlite")
    known = Known(NAME, None, ours=True, git_sha1="a" * 40)
    index.remember(Entry(path, Stamp.of(path.lstat()), known) for path in (third, same))
    index.close()

    final = Path(bring(rig, wanted(rig, held)).final)

    found = {path: index.lookup(path, Stamp.of(path.lstat())) for path in (held, third, same)}
    ours = index.lookup(final, Stamp.of(final.lstat()))
    index.close()
    assert found == {held: Known(NAME, None, ours=False), third: known, same: known}
    assert ours == Known(NAME, None, ours=True)


@pytest.mark.fault(
    "a crash at any moment while a blob that nobody has synced gets a second name",
    "what stands under the name is whole",
    number=93,
)
def test_no_crash_leaves_half_a_file_under_the_second_name(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote it: the bytes are durable before the name is, and the name before it counts."""
    monkeypatch.setattr(twins, "LEAST", 1)
    data = payload(10_000)
    name = hashlib.sha256(data).hexdigest()
    held = rig.target.parent / "models--some--other" / "blobs" / name
    held.parent.mkdir(parents=True)
    final = rig.target / "blobs" / name
    tape = Tape(rig.target.parent)

    with monkeypatch.context() as patch:
        tape.install(patch)
        fd = os.open(held, os.O_WRONLY | os.O_CREAT, 0o644)
        os.pwrite(fd, data, 0)
        os.close(fd)
        begun = len(tape.steps)
        result = bring(rig, wanted(rig, held, data=data, path=f"blobs/{name}"))
        tape.steps.append(Promised("published"))

    assert result.error is None
    assert any(isinstance(step, Named) and step.path == final for step in tape.steps[begun:])
    left = [(crash.disk.read(final), crash.promises) for crash in crashes(tape.steps, since=begun)]
    assert {content for content, _ in left} == {None, data}
    assert {content for content, promises in left if promises} == {data}
