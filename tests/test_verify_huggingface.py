"""`verify` of what came from the Hugging Face Hub, by way of a site in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from modelhaul import Client, Report, UnsafeName, UsageError, VerifyReport
from modelhaul.events import Event, Verified
from modelhaul.store.index import Entry, Known, ProvenIndex
from modelhaul.store.osfile import Stamp
from tests.engine.harness import MIB, payload
from tests.hubs.fakehf import COMMIT
from tests.support.hfsite import REPO, HfSite, client
from tests.support.virtual import virtual

#: What ends in .bin is judged by its SHA-256, the rest by its git name.
FILES = {
    "config.json": b'{"a": 1}\n',
    "copy/config.json": b'{"a": 1}\n',
    "vocab.txt": payload(2 * MIB + 3, 1),
    "sub/model.bin": payload(3 * MIB + 17, 2),
}


@pytest.fixture
def site() -> HfSite:
    """A hub with the repository."""
    return HfSite(FILES)


@pytest.fixture(params=["cache", "folder"])
def place(request: pytest.FixtureRequest, site: HfSite, tmp_path: Path) -> dict[str, object]:
    """The repository was downloaded; what names the place: the cache, or a plain folder."""
    wish: dict[str, object] = {"local_dir": tmp_path / "m"} if request.param == "folder" else {}

    async def main() -> None:
        async with client(site, tmp_path) as here:
            await here.download(REPO, **wish)  # type: ignore[arg-type]

    virtual(main)
    site.asked.clear()
    return wish


def verify(
    site: HfSite,
    folder: Path,
    place: dict[str, object],
    target: str | Path = REPO,
    seen: list[Event] | None = None,
    **wish: object,
) -> VerifyReport:
    """The report of a check."""

    async def main() -> VerifyReport:
        async with client(site, folder) as here:
            on_event = None if seen is None else seen.append
            return await here.verify(target, on_event=on_event, **place, **wish)  # type: ignore[arg-type]

    return virtual(main)


def findings(report: VerifyReport) -> dict[str, str]:
    """The findings that are not `right`, by path."""
    return {file.path: file.finding for file in report.files if file.finding != "right"}


def reason(report: VerifyReport, path: str) -> str:
    """Why a file is wrong or missing."""
    return next(file.reason for file in report.files if file.path == path)


def flip(path: Path) -> None:
    """Change a byte in the middle of a file, or of what a link leads to."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def is_whole(report: VerifyReport) -> bool:
    """Whether every file is found by its name with the right bytes."""
    return {path: (Path(report) / path).read_bytes() for path in FILES} == FILES


@pytest.mark.parametrize(
    ("target", "hub"), [("hf:o/n", None), ("o/n", "huggingface"), ("hf:o/n", "huggingface")]
)
def test_a_tree_that_is_right_is_right(
    site: HfSite, tmp_path: Path, place: dict[str, object], target: str, hub: str | None
) -> None:
    """By the prefix or by `hub`; what only has a git name counts as proven."""
    seen: list[Event] = []

    report = verify(site, tmp_path, place, target, seen, hub=hub)

    assert report.ok
    assert {file.finding for file in report.files} == {"right"}
    assert (report.name, report.commit) == (REPO, COMMIT)
    assert is_whole(report)
    last = seen[-1]
    assert isinstance(last, Verified)
    assert (last.files, last.unproven, last.by_git_name) == (4, 0, 3)
    assert site.asked == []


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("vocab.txt", "its git name is another"),
        ("sub/model.bin", "its SHA-256 is another"),
    ],
)
def test_a_changed_byte_is_found_and_repaired(
    site: HfSite, tmp_path: Path, place: dict[str, object], path: str, why: str
) -> None:
    """Though the memory says that it is right; --repair fetches this one and nothing else."""
    shown = Path(verify(site, tmp_path, place))
    place_of = (shown / path).resolve()
    index = ProvenIndex(tmp_path / "state" / "proven.sqlite")
    known = index.lookup(place_of, Stamp.of(place_of.lstat()))
    assert isinstance(known, Known)
    flip(shown / path)
    index.remember([Entry(place_of, Stamp.of(place_of.lstat()), known)])
    index.close()

    found, before = verify(site, tmp_path, place), site.sent
    repaired = verify(site, tmp_path, place, repair=True)

    assert findings(found) == {path: "wrong"}
    assert reason(found, path) == why
    assert findings(repaired) == {path: "repaired"}
    assert site.sent - before == repaired.fetched
    assert repaired.fetched == len(FILES[path])
    assert is_whole(repaired)
    assert verify(site, tmp_path, place).ok


def test_what_two_files_share_is_wrong_in_both(
    site: HfSite, tmp_path: Path, place: dict[str, object]
) -> None:
    """In the cache they are one blob; in a folder each has its own bytes."""
    shown = Path(verify(site, tmp_path, place))
    shared = (shown / "config.json").is_symlink()
    flip(shown / "config.json")

    found = verify(site, tmp_path, place)
    repaired = verify(site, tmp_path, place, repair=True)

    bad = ["config.json", "copy/config.json"] if shared else ["config.json"]
    assert findings(found) == dict.fromkeys(bad, "wrong")
    assert {reason(found, path) for path in bad} == {"its git name is another"}
    assert findings(repaired) == dict.fromkeys(bad, "repaired")
    assert is_whole(repaired)


@pytest.fixture
def snapshot(site: HfSite, tmp_path: Path) -> Path:
    """The snapshot of the repository in the cache."""

    async def main() -> Path:
        async with client(site, tmp_path) as here:
            return Path(await here.download(REPO))

    shown = virtual(main)
    site.asked.clear()
    return shown


@pytest.mark.usefixtures("usual_umask")
def test_a_repair_of_one_cache_leaves_the_other_one_as_it_was(site: HfSite, tmp_path: Path) -> None:
    """Though a blob was one file in both: it is replaced by a rename, never written into."""

    async def main() -> list[Report]:
        async with client(site, tmp_path) as here:
            return [await here.download(REPO, cache_dir=tmp_path / name) for name in ("one", "two")]

    one, two = (Path(report, "sub/model.bin").resolve() for report in virtual(main))
    was_one_file = one.samefile(two)
    flip(one)
    wrong = two.read_bytes()
    caches = [{"cache_dir": tmp_path / name} for name in ("one", "two")]

    both = [verify(site, tmp_path, cache) for cache in caches]
    mended = verify(site, tmp_path, caches[0], repair=True)
    after, inode = two.read_bytes(), two.stat().st_ino
    other = verify(site, tmp_path, caches[1], repair=True)

    assert was_one_file
    assert [findings(report) for report in both] == [{"sub/model.bin": "wrong"}] * 2
    assert findings(mended) == findings(other) == {"sub/model.bin": "repaired"}
    assert after == wrong != FILES["sub/model.bin"]
    assert one.read_bytes() == two.read_bytes() == FILES["sub/model.bin"]
    assert two.stat().st_ino != inode


def gone(pointer: Path) -> None:
    """Remove the name."""
    pointer.unlink()


def elsewhere(pointer: Path) -> None:
    """Let the name lead to something else."""
    pointer.unlink()
    pointer.symlink_to("../../../elsewhere")


@pytest.mark.parametrize(
    ("damage", "finding", "why"),
    [
        (gone, "missing", "its bytes are here, but its name is not"),
        (elsewhere, "wrong", "its bytes are here, but something else has its name"),
    ],
)
def test_a_name_that_does_not_lead_to_its_blob_is_found_and_put_right(
    site: HfSite,
    tmp_path: Path,
    snapshot: Path,
    damage: Callable[[Path], None],
    finding: str,
    why: str,
) -> None:
    """Who opens the snapshot would not find it; nothing has to be fetched for that."""
    damage(snapshot / "vocab.txt")

    found = verify(site, tmp_path, {})
    repaired = verify(site, tmp_path, {}, repair=True)

    assert findings(found) == {"vocab.txt": finding}
    assert reason(found, "vocab.txt") == why
    assert findings(repaired) == {"vocab.txt": "repaired"}
    assert site.asked == []
    assert is_whole(repaired)


def test_a_blob_that_is_missing_comes_back(site: HfSite, tmp_path: Path, snapshot: Path) -> None:
    """The name in the snapshot is there and leads to nothing."""
    (snapshot / "vocab.txt").resolve().unlink()

    found = verify(site, tmp_path, {})
    repaired = verify(site, tmp_path, {}, repair=True)

    assert findings(found) == {"vocab.txt": "missing"}
    assert findings(repaired) == {"vocab.txt": "repaired"}
    assert is_whole(repaired)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_snapshot_is_known_by_its_path(
    site: HfSite, tmp_path: Path, snapshot: Path, kind: type
) -> None:
    """The cache's folder says which repository and commit it holds, and of which hub."""
    flip(snapshot / "sub" / "model.bin")

    report = verify(site, tmp_path, {}, kind(snapshot))
    repaired = verify(site, tmp_path, {}, kind(snapshot), repair=True)

    assert findings(report) == {"sub/model.bin": "wrong"}
    assert (report.name, report.revision, os.fspath(report)) == (REPO, COMMIT, str(snapshot))
    assert repaired.ok
    assert is_whole(repaired)


@pytest.mark.fault(
    "a folder of a snapshot in Hugging Face's cache has become a link",
    "it is not followed: --repair links the other files and says which folder is in the way",
)
def test_a_folder_that_became_a_link_is_not_repaired_through(
    site: HfSite, tmp_path: Path, snapshot: Path
) -> None:
    """Only the links that lead from a snapshot to its blobs belong there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (snapshot / "sub" / "model.bin").unlink()
    (snapshot / "sub").rmdir()
    (snapshot / "sub").symlink_to(outside)
    (snapshot / "vocab.txt").unlink()

    with pytest.raises(UnsafeName, match="is a symbolic link"):
        verify(site, tmp_path, {}, repair=True)

    assert list(outside.iterdir()) == []
    assert (snapshot / "vocab.txt").read_bytes() == FILES["vocab.txt"]


def test_a_folder_says_itself_of_which_hub_it_is(site: HfSite, tmp_path: Path) -> None:
    """A path and a hub at once: one of them is meant otherwise."""

    async def main(here: Client) -> None:
        async with here:
            await here.verify(tmp_path, hub="huggingface")

    with pytest.raises(UsageError, match="of which hub"):
        virtual(lambda: main(client(site, tmp_path)))
