"""`verify`, by way of a site in memory: what is found in a tree, and what a repair does."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import pytest

from modelhaul import Client, HaulError, StorageError, UsageError, VerifyReport
from modelhaul.events import Event, FileChecked, Finished, Planned, Verified
from modelhaul.store.index import Entry, Known, ProvenIndex
from modelhaul.store.osfile import Stamp
from modelhaul.store.presence import prove
from tests.engine.harness import MIB, payload
from tests.faults.faultydisk import FaultyDisk
from tests.support.inline import InlineThreads
from tests.support.network import Asked, FakeNetwork, Fault
from tests.support.site import REPO, client, site
from tests.support.virtual import virtual

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

FILES = {
    "config.json": b"{}\n",
    "sub/tokenizer.json": payload(3000, 2),
    "a.safetensors": payload(3 * MIB, 3),
    "b.safetensors": payload(2 * MIB, 4),
}


@pytest.fixture
def network() -> FakeNetwork:
    """A site with the repository."""
    return site(FILES)


@pytest.fixture
def tree(tmp_path: Path, network: FakeNetwork) -> Path:
    """A plain folder into which the repository was downloaded."""

    async def main() -> None:
        async with client(network, tmp_path) as here:
            await here.download(REPO, local_dir=tmp_path / "m")

    virtual(main)
    network.asked.clear()
    return tmp_path / "m"


def verify(
    network: FakeNetwork, folder: Path, seen: list[Event] | None = None, **wish: object
) -> VerifyReport:
    """The report of a check of the plain folder, or of what `wish` says."""
    wish.setdefault("local_dir", folder / "m")

    async def main() -> VerifyReport:
        async with client(network, folder) as here:
            on_event = None if seen is None else seen.append
            return await here.verify(REPO, on_event=on_event, **wish)  # type: ignore[arg-type]

    return virtual(main)


def findings(report: VerifyReport) -> dict[str, str]:
    """The findings that are not `right`, by path."""
    return {file.path: file.finding for file in report.files if file.finding != "right"}


def flip(path: Path) -> None:
    """Change a byte in the middle of a file, in place."""
    with path.open("r+b") as file:
        middle = path.stat().st_size // 2
        file.seek(middle)
        byte = file.read(1)
        file.seek(middle)
        file.write(bytes([byte[0] ^ 1]))


def believed(folder: Path, path: Path, data: bytes) -> None:
    """Make the memory believe that a file has this content: a disk changed it without a trace."""
    index = ProvenIndex(folder / "state" / "proven.sqlite")
    known = Known(hashlib.sha256(data).hexdigest(), None, ours=True)
    index.remember([Entry(path, Stamp.of(path.lstat()), known)])
    index.close()


# -- what is found ---------------------------------------------------------------------------------


def test_a_tree_that_is_right_is_right(network: FakeNetwork, tree: Path, tmp_path: Path) -> None:
    """Every file by its own, nothing is fetched, the report is the path of the folder."""
    report = verify(network, tmp_path)

    assert report.ok
    assert report.error is None
    assert [file.path for file in report.files] == list(FILES)
    assert {file.finding for file in report.files} == {"right"}
    assert os.fspath(report) == str(tree)
    assert network.asked == []


@pytest.mark.fault(
    "a disk changes a byte of a finished file, and no time stamp tells",
    "`verify` reads every byte and finds it",
)
def test_what_was_proven_before_is_not_believed(
    network: FakeNetwork, tree: Path, tmp_path: Path
) -> None:
    """A byte changed and no time stamp tells: the memory says right, the bytes say wrong."""
    flip(tree / "a.safetensors")
    believed(tmp_path, tree / "a.safetensors", FILES["a.safetensors"])

    report = verify(network, tmp_path)

    assert findings(report) == {"a.safetensors": "wrong"}
    assert report.found("wrong")[0].reason == "its SHA-256 is another"


class Cached(FaultyDisk):
    """A disk that has changed a byte which the system still has right in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped: set[str] = set()

    def posix_fadvise(self, fd: int, offset: int, length: int, advice: int) -> None:
        """Drop what is in memory."""
        assert (offset, length, advice) == (0, 0, os.POSIX_FADV_DONTNEED)
        self.dropped.add(name_of(fd))

    def preadv(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        """Read from memory, or from the disk."""
        count = super().preadv(fd, buffers, offset)
        if name_of(fd) == "a.safetensors" and name_of(fd) in self.dropped and offset == 0:
            buffers[0][7] ^= 1
        return count


def name_of(fd: int) -> str:
    """The name of an open file."""
    return os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))


@pytest.mark.fault(
    "the disk holds other bytes than the page cache",
    "verify reads the disk",
)
@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="no such call on this system")
def test_the_disk_is_read_and_not_the_memory_of_it(
    network: FakeNetwork, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was just downloaded is still in the page cache, and that says nothing of the disk."""
    disk = Cached().install(monkeypatch)

    report = verify(network, tmp_path)

    assert findings(report) == {"a.safetensors": "wrong"}
    assert disk.dropped >= {Path(name).name for name in FILES}


@pytest.mark.fault(
    "a check has found a file wrong that was proven earlier",
    "the next plain download does not believe the earlier proof, and mends it",
)
def test_after_a_check_a_download_knows_what_is_wrong(
    network: FakeNetwork, tree: Path, tmp_path: Path
) -> None:
    """The proof that was wrong is forgotten: a plain download mends the file."""
    flip(tree / "a.safetensors")
    believed(tmp_path, tree / "a.safetensors", FILES["a.safetensors"])
    verify(network, tmp_path)

    async def main() -> None:
        async with client(network, tmp_path) as here:
            await here.download(REPO, local_dir=tree)

    virtual(main)

    assert (tree / "a.safetensors").read_bytes() == FILES["a.safetensors"]


def cut(path: Path) -> None:
    """Take the last byte."""
    os.truncate(path, path.stat().st_size - 1)


def folder(path: Path) -> None:
    """A folder in its place."""
    path.unlink()
    path.mkdir()


def device(path: Path) -> None:
    """A pipe in its place: nothing that has bytes of its own."""
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    """A link to nothing in its place."""
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("damage", "finding", "reason"),
    [
        (flip, "wrong", "its SHA-256 is another"),
        (cut, "wrong", "it has 3145727 bytes (3.15 MB), and should have 3145728 bytes (3.15 MB)"),
        (folder, "wrong", "a folder stands there"),
        (link, "wrong", "a symbolic link to something else stands there"),
        (Path.unlink, "missing", ""),
    ],
)
def test_what_is_not_as_stated_is_found(
    network: FakeNetwork,
    tree: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    finding: str,
    reason: str,
) -> None:
    """With the reason; nothing is changed."""
    damage(tree / "a.safetensors")

    report = verify(network, tmp_path)

    (found,) = report.found("wrong", "missing")
    assert (found.path, found.finding, found.reason) == ("a.safetensors", finding, reason)
    assert found.final == str(tree / "a.safetensors")
    assert not report.ok
    assert network.asked == []


@pytest.mark.fault(
    "a file of a finished download cannot be read any more",
    "`verify` calls it wrong and checks the others; --repair replaces it",
)
def test_a_file_that_cannot_be_read_does_not_hide_the_others(
    network: FakeNetwork, tree: Path, tmp_path: Path
) -> None:
    """Reading it fails: it is wrong, the rest is checked, and a repair replaces it."""
    flip(tree / "b.safetensors")
    threads = BadSector(tree / "a.safetensors")

    async def main(*, repair: bool) -> VerifyReport:
        async with client(network, tmp_path, threads=threads) as here:
            return await here.verify(REPO, local_dir=tree, repair=repair)

    found, repaired = virtual(lambda: main(repair=False)), virtual(lambda: main(repair=True))

    assert findings(found) == {"a.safetensors": "wrong", "b.safetensors": "wrong"}
    assert found.found("wrong")[0].reason == "reading failed: Input/output error"
    assert repaired.ok
    assert verify(network, tmp_path).ok


class BadSector(InlineThreads):
    """A file cannot be read any more."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    async def hash(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        if isinstance(call, partial) and call.func is prove and call.args[0] == self._path:
            raise StorageError("reading failed: Input/output error")
        return await super().hash(call, *args)


def test_a_link_to_the_right_bytes_is_right(
    network: FakeNetwork, tree: Path, tmp_path: Path
) -> None:
    """As in a download: reading them does no harm."""
    path = tree / "a.safetensors"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    assert verify(network, tmp_path).ok


def test_a_file_without_a_digest_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    """The hub states none: the size is held, and a repair leaves the file alone."""
    network = site(FILES, stated=False)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.safetensors").write_bytes(bytes(3 * MIB))
    (tmp_path / "m" / "b.safetensors").write_bytes(b"too short")

    report = verify(network, tmp_path, include=["*.safetensors"], repair=True)

    assert findings(report) == {"a.safetensors": "unproven", "b.safetensors": "repaired"}
    assert (tmp_path / "m" / "a.safetensors").read_bytes() == bytes(3 * MIB)
    assert report.ok


def test_a_name_that_must_not_be_written_is_missing(tmp_path: Path) -> None:
    """The file system is not even asked about it."""
    (tmp_path / "m").mkdir()
    report = verify(site({"../x": b"evil"}), tmp_path)

    (found,) = report.files
    assert (found.finding, found.final) == ("missing", "")
    assert "must not be written" in found.reason


def test_only_what_is_asked_for_is_checked(
    network: FakeNetwork, tree: Path, tmp_path: Path
) -> None:
    """--include and --exclude mean what they mean for a download."""
    flip(tree / "a.safetensors")

    report = verify(network, tmp_path, include=["*.safetensors"], exclude=["a*"])

    assert [file.path for file in report.files] == ["b.safetensors"]
    assert report.ok


@pytest.mark.parametrize(
    ("damaged", "removed", "code", "says"),
    [
        (["a.safetensors"], [], 8, "1 wrong of 4 files: a.safetensors"),
        ([], ["config.json", "b.safetensors"], 3, "2 missing of 4 files"),
        (["a.safetensors"], ["config.json"], 8, "1 wrong and 1 missing of 4 files"),
    ],
)
def test_the_report_knows_its_error(
    network: FakeNetwork,
    tree: Path,
    tmp_path: Path,
    damaged: list[str],
    removed: list[str],
    code: int,
    says: str,
) -> None:
    """Exit code 8 if anything is wrong, 3 if files are only missing."""
    for name in damaged:
        flip(tree / name)
    for name in removed:
        (tree / name).unlink()

    error = verify(network, tmp_path).error

    assert isinstance(error, HaulError)
    assert error.exit_code == code
    assert says in error.message
    assert "--repair" in str(error.hint)


def test_what_is_found_is_told(network: FakeNetwork, tree: Path, tmp_path: Path) -> None:
    """A finding per file, no word of a plan, and counts as the last event."""
    flip(tree / "a.safetensors")
    seen: list[Event] = []

    verify(network, tmp_path, seen)

    told = {event.path: event.finding for event in seen if isinstance(event, FileChecked)}
    assert told == {**dict.fromkeys(FILES, "right"), "a.safetensors": "wrong"}
    assert not any(isinstance(event, (Planned, Finished)) for event in seen)
    last = seen[-1]
    assert isinstance(last, Verified)
    assert (last.files, last.wrong, last.missing, last.repaired) == (4, 1, 0, 0)


# -- repair ----------------------------------------------------------------------------------------


def touched(path: Path) -> tuple[int, int, int]:
    """What would tell that somebody wrote to a file or replaced it."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


@pytest.mark.fault(
    "files of a finished download are damaged or gone",
    "--repair fetches these and nothing else; the others are not touched",
    number=90,
)
def test_a_repair_fetches_what_is_bad_and_nothing_else(
    network: FakeNetwork, tree: Path, tmp_path: Path
) -> None:
    """By the network's own count; the files that are right are not touched."""
    flip(tree / "a.safetensors")
    (tree / "config.json").unlink()
    before = {name: touched(tree / name) for name in ("b.safetensors", "sub/tokenizer.json")}

    report = verify(network, tmp_path, repair=True)

    assert findings(report) == {"a.safetensors": "repaired", "config.json": "repaired"}
    assert report.ok
    assert all((tree / name).read_bytes() == data for name, data in FILES.items())
    names = {asked.url.rpartition("=")[2].rpartition("/")[2] for asked in network.asked}
    assert names == {"a.safetensors", "config.json"}
    assert report.fetched == len(FILES["a.safetensors"]) + len(FILES["config.json"])
    assert all(touched(tree / name) == state for name, state in before.items())
    assert not (tree / ".modelhaul").exists()
    assert verify(network, tmp_path).ok


@pytest.mark.fault(
    "a folder or a device stands in the way of a repair", "the other files are mended"
)
@pytest.mark.parametrize("stands", [folder, device])
def test_a_repair_mends_the_others_where_something_is_in_the_way(
    network: FakeNetwork, tree: Path, tmp_path: Path, stands: Callable[[Path], None]
) -> None:
    """A folder or a device is nobody's to replace: it stays wrong, the rest is repaired."""
    stands(tree / "b.safetensors")
    flip(tree / "a.safetensors")

    report = verify(network, tmp_path, repair=True)

    assert findings(report) == {"a.safetensors": "repaired", "b.safetensors": "wrong"}
    assert "stands there" in report.found("wrong")[0].reason
    assert (tree / "a.safetensors").read_bytes() == FILES["a.safetensors"]
    assert not (tree / "b.safetensors").is_file()
    assert report.error is not None
    assert report.error.exit_code == 8
    assert "move it away" in str(report.error.hint)


def test_a_repair_that_can_mend_nothing_says_what_is_in_the_way(
    network: FakeNetwork, tree: Path, tmp_path: Path
) -> None:
    """There is a report all the same, and nothing is fetched."""
    for path in FILES:
        folder(tree / path)

    report = verify(network, tmp_path, repair=True)

    assert {file.finding for file in report.files} == {"wrong"}
    assert {file.reason for file in report.files} == {"a folder stands there"}
    assert network.asked == []
    assert report.error is not None
    assert "move it away" in str(report.error.hint)


def test_a_repair_of_a_right_tree_does_nothing(
    network: FakeNetwork, tree: Path, tmp_path: Path
) -> None:
    """Not one request for a file."""
    report = verify(network, tmp_path, repair=True)

    assert report.ok
    assert report.fetched == 0
    assert network.asked == []


@pytest.mark.fault(
    "a wrong file is to be repaired, and the hub has wrong bytes too",
    "the old file stays as it was, the others are repaired, exit 8",
    number=90,
)
def test_the_wrong_file_stays_until_the_right_one_is_proven(
    network: FakeNetwork, tree: Path, tmp_path: Path
) -> None:
    """The hub has wrong bytes as well: what stood there stands there, the others are repaired."""
    flip(tree / "a.safetensors")
    (tree / "config.json").unlink()
    before = (tree / "a.safetensors").read_bytes()
    network.fault = lambda asked: Fault(flip=(0,)) if asked.span.length > 5 else None

    report = verify(network, tmp_path, repair=True)

    assert (tree / "a.safetensors").read_bytes() == before
    assert (tree / "config.json").read_bytes() == FILES["config.json"]
    assert findings(report) == {"a.safetensors": "wrong", "config.json": "repaired"}
    assert report.error is not None
    assert report.error.exit_code == 8
    assert "SHA-256" in report.found("wrong")[0].reason


@pytest.mark.fault(
    "a repair is interrupted",
    "it goes on where it stopped; what arrived is not fetched again",
)
def test_an_interrupted_repair_goes_on_where_it_stopped(
    network: FakeNetwork, tree: Path, tmp_path: Path
) -> None:
    """The server goes away in the middle: what arrived of the new file is not fetched again."""
    flip(tree / "a.safetensors")
    network.fault = gone_after(2)
    failed = verify(network, tmp_path, repair=True)
    assert findings(failed) == {"a.safetensors": "wrong"}
    sent = network.sent
    network.fault = lambda asked: None

    report = verify(network, tmp_path, repair=True)

    assert 0 < report.fetched < len(FILES["a.safetensors"])
    assert network.sent - sent == report.fetched
    assert (tree / "a.safetensors").read_bytes() == FILES["a.safetensors"]


def test_what_an_unfinished_part_has_of_a_missing_file_is_told(
    network: FakeNetwork, tree: Path, tmp_path: Path
) -> None:
    """A repair need not fetch that."""
    (tree / "a.safetensors").unlink()
    network.fault = gone_after(2)
    verify(network, tmp_path, repair=True)

    (found,) = verify(network, tmp_path).found("missing")

    assert found.reason == "1.05 MB of it are in an unfinished part"


def gone_after(count: int) -> Callable[[Asked], Fault | None]:
    """So many answers, cut after half a megabyte; then 404."""
    asked_so_far = 0

    def fails(asked: Asked) -> Fault | None:
        nonlocal asked_so_far
        asked_so_far += 1
        return Fault(cut=MIB // 2) if asked_so_far <= count else Fault(status=404)

    return fails


def test_a_file_whose_content_another_one_has_is_copied(tmp_path: Path) -> None:
    """Nothing needs to come over the network."""
    network = site({"one": FILES["b.safetensors"], "two": FILES["b.safetensors"]})
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "two").write_bytes(FILES["b.safetensors"])

    report = verify(network, tmp_path, repair=True)

    assert findings(report) == {"one": "repaired"}
    assert network.asked == []
    assert (tmp_path / "m" / "one").read_bytes() == FILES["b.safetensors"]


def test_a_cached_snapshot_is_repaired_all_at_once(network: FakeNetwork, tmp_path: Path) -> None:
    """In the cache too, and by the path of the snapshot as well as by the name."""

    async def main() -> tuple[VerifyReport, VerifyReport]:
        async with client(network, tmp_path) as here:
            root = Path(await here.download(REPO))
            flip(root / "a.safetensors")
            (root / "config.json").unlink()
            return await here.verify(root), await here.verify(str(root), repair=True)

    found, repaired = virtual(main)

    assert findings(found) == {"a.safetensors": "wrong", "config.json": "missing"}
    assert (found.name, found.revision) == (REPO, "master")
    assert repaired.ok
    root = Path(repaired)
    assert all((root / name).read_bytes() == data for name, data in FILES.items())
    assert verify(network, tmp_path, local_dir=None).ok


# -- what makes no sense ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nowhere", "is not a folder"),
        ("plain", "does not say which repository it holds"),
        (Path("o/n"), "is not a folder"),
    ],
)
def test_a_folder_that_says_nothing_is_refused(
    network: FakeNetwork,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str | Path,
    says: str,
) -> None:
    """With the command that would work; the hub is not even asked."""
    (tmp_path / "plain").mkdir()
    monkeypatch.chdir(tmp_path)

    async def main(here: Client) -> None:
        async with here:
            await here.verify(target)

    with pytest.raises(UsageError, match=says) as caught:
        virtual(lambda: main(client(network, tmp_path)))

    assert "owner/name" in str(caught.value.hint)
    assert network.calls == []


def test_a_folder_needs_no_other_place(network: FakeNetwork, tmp_path: Path) -> None:
    """A path and --local-dir at once: one of them is meant otherwise."""

    async def main(here: Client) -> None:
        async with here:
            await here.verify(tmp_path, local_dir=tmp_path)

    with pytest.raises(UsageError, match="needs no other place"):
        virtual(lambda: main(client(network, tmp_path)))
