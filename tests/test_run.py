"""`run`, by way of whole downloads from a site in memory: what a run says in the end."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from errno import EACCES
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import anyio
import pytest

from modelhaul import HaulError, Incomplete, NotFound, Plan, Report, UnsafeName
from modelhaul.engine.threads import WorkerThreads
from modelhaul.events import Event, FileDone, Listener
from modelhaul.store.layout import ModelScopeCache
from modelhaul.store.marker import Marker
from tests.engine.harness import payload
from tests.faults.faultydisk import Failing, FaultyDisk
from tests.support.inline import InlineThreads
from tests.support.network import Asked, FakeNetwork, Fault
from tests.support.site import REF, REPO, client, site
from tests.support.virtual import virtual
from tests.support.watch import disk_calls

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def download(
    network: FakeNetwork,
    folder: Path,
    *files: str,
    plain: bool = True,
    on_event: Listener | None = None,
) -> Report:
    """Bring files of the repository to `folder`: to a plain folder there, or to a cache."""

    async def main() -> Report:
        async with client(network, folder) as here:
            return await here.download(
                REPO,
                files=files,
                local_dir=folder / "m" if plain else None,
                on_event=on_event,
            )

    return virtual(main)


def plan(network: FakeNetwork, folder: Path) -> Plan:
    """What a download to the plain folder would do."""

    async def main() -> Plan:
        async with client(network, folder) as here:
            return await here.plan(REPO, local_dir=folder / "m")

    return virtual(main)


def failing(network: FakeNetwork, folder: Path, *files: str, plain: bool = True) -> HaulError:
    """The error of a download."""
    with pytest.raises(HaulError) as caught:
        download(network, folder, *files, plain=plain)
    return caught.value


def answers(status: int, *names: str) -> Callable[[Asked], Fault | None]:
    """A fault: requests for these files get this status."""

    def fault(asked: Asked) -> Fault | None:
        return Fault(status=status) if asked.url.endswith(names) else None

    return fault


# -- what lies in the state folder -----------------------------------------------------------------


def linked(part: Path) -> None:
    """A link to somebody's file in the place of a part."""
    (part.parent.parent / "theirs").write_bytes(b"theirs")
    part.symlink_to(part.parent.parent / "theirs")


def dangling(part: Path) -> None:
    """A link to nothing."""
    part.symlink_to("nowhere")


def closed(part: Path) -> None:
    """A part that may not be opened."""
    part.write_bytes(b"theirs")


@pytest.mark.fault(
    "something that is not ours lies among our parts", "it stays, and the run ends well"
)
@pytest.mark.parametrize("plant", [linked, dangling, closed])
def test_what_cannot_be_tidied_up_does_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Path], None]
) -> None:
    """The files are there by then: what is no part of ours to open stays, and a note says so."""
    part = tmp_path / "m" / ".modelhaul" / "abc.whole.part"
    part.parent.mkdir(parents=True)
    plant(part)
    if plant is closed:  # of another user; root may open everything
        FaultyDisk(Failing("open", "abc.whole.part", EACCES)).install(monkeypatch)

    report = download(site({"a": b"good"}), tmp_path)

    assert (tmp_path / "m" / "a").read_bytes() == b"good"
    assert os.path.lexists(part)
    assert [note for note in report.notes if str(part) in note]
    assert plant is not linked or (tmp_path / "m" / "theirs").read_bytes() == b"theirs"


# -- some files could not be had -------------------------------------------------------------------


def test_an_unsafe_name_is_no_reason_to_run_again(tmp_path: Path) -> None:
    """The same command would fail the same way: the hint says what helps, retryable is False."""
    error = failing(site({"../x": b"evil", "a": b"good"}), tmp_path)

    assert isinstance(error, Incomplete)
    assert not error.retryable
    assert "--exclude" in str(error.hint)
    assert "again" not in str(error.hint)
    assert error.exit_code == 3


def test_one_failure_that_may_pass_makes_an_incomplete_run_retryable(tmp_path: Path) -> None:
    """An unsafe name comes first, a server's trouble second: both are told."""
    network = site({"../x": b"evil", "a": b"good", "b": b"bad"}, fault=answers(418, "b"))

    error = failing(network, tmp_path)

    assert isinstance(error, Incomplete)
    assert error.retryable
    assert "--exclude" in str(error.hint)
    assert "again" in str(error.hint)


def test_what_arrived_is_kept_is_said_where_that_helps(tmp_path: Path) -> None:
    """A failure without advice of its own that may pass: run it again."""
    error = failing(site({"a": b"good", "b": b"bad"}, fault=answers(418, "b")), tmp_path)

    assert error.retryable
    assert error.hint == "run the same command again: what arrived is kept"


def test_when_nothing_could_be_had_the_exit_code_is_the_first_errors(tmp_path: Path) -> None:
    """Exit code 3 says that the others are there, and there are no others."""
    network = site({"a": b"good", "../x": b"evil"}, fault=answers(404, "a"))

    error = failing(network, tmp_path)

    assert isinstance(error, Incomplete)
    assert error.exit_code == NotFound.exit_code
    assert error.message.startswith("none of the 2 files could be had")
    assert {type(file.error) for file in error.report.files} == {NotFound, UnsafeName}
    assert not error.retryable


def test_an_update_that_is_held_back_names_the_file_that_holds_it(tmp_path: Path) -> None:
    """The files that were held back come first in the listing; the cause is the other one."""
    download(site({"a": b"one", "b": b"one"}), tmp_path, plain=False)
    network = site({"a": b"two", "b": b"three"}, commit="2" * 40, fault=answers(404, "b"))

    error = failing(network, tmp_path, plain=False)

    assert isinstance(error, NotFound)
    assert "held back" not in error.message


# -- an update that was interrupted ----------------------------------------------------------------

OLD, NEW = {"a": b"one", "b": b"one", "c": b"one"}, {"a": b"two", "b": b"three", "c": b"one"}


def update(folder: Path) -> FakeNetwork:
    """The site after a commit, and its old state in the cache of `folder`."""
    download(site(OLD), folder, plain=False)
    return site(NEW, commit="2" * 40)


def marker(folder: Path) -> Marker:
    """The marker of the repository in that cache."""
    layout = ModelScopeCache.at(folder / "cache", REF)
    return Marker.of(layout.state, layout.root)


def test_while_an_update_is_published_its_files_are_marked(tmp_path: Path) -> None:
    """All that change, and nothing when it is over."""
    network = update(tmp_path)
    marked = []

    def listen(event: Event) -> None:
        if isinstance(event, FileDone) and event.how == "fetched":
            marked.append(marker(tmp_path).pending())

    report = download(network, tmp_path, plain=False, on_event=listen)

    assert marked == [{"a", "b"}] * 2
    assert marker(tmp_path).pending() == set()
    assert report.notes == ()


def test_a_run_for_other_files_leaves_the_marker_of_an_interrupted_update(tmp_path: Path) -> None:
    """Nothing was proven about those that may be older, and a note says so."""
    network = update(tmp_path)
    marker(tmp_path).set(label=REPO, commit="2" * 40, pending={"a", "b"})

    report = download(network, tmp_path, "c", plain=False)

    assert marker(tmp_path).pending() == {"a", "b"}
    assert any("2 files" in note and "modelhaul download o/n" in note for note in report.notes)


def test_the_marker_goes_with_the_last_of_its_files(tmp_path: Path) -> None:
    """One by one will do; a file that an update in between begins to replace counts too."""
    network = update(tmp_path)
    marker(tmp_path).set(label=REPO, commit="2" * 40, pending={"b", "c"})

    marked = []
    for path in "abc":
        download(network, tmp_path, path, plain=False)
        marked.append(marker(tmp_path).pending())

    assert marked == [{"b", "c"}, {"c"}, set()]
    assert not (tmp_path / "cache" / ".modelhaul").exists()


def test_a_whole_snapshot_in_place_ends_an_interrupted_update(tmp_path: Path) -> None:
    """Also where the marker is of an older version, or names a file that is gone upstream."""
    network = update(tmp_path)
    ends = []

    for pending in (None, {"gone"}):
        marker(tmp_path).set(label=REPO, commit=None, pending=pending)
        download(network, tmp_path, "a", plain=False)
        ends.append(marker(tmp_path).exists())
        download(network, tmp_path, plain=False)
        ends.append(marker(tmp_path).exists())

    assert ends == [True, False, True, False]


# -- the memory of proven files --------------------------------------------------------------------


def test_a_memory_that_cannot_be_used_is_told_once_per_run(tmp_path: Path) -> None:
    """Why files are hashed again is no secret; a plan says it too, and the next run says it."""
    (tmp_path / "state").write_text("no folder")
    network = site(OLD)

    runs = [download(network, tmp_path).notes for _ in range(2)]

    assert [len(notes) for notes in runs] == [1, 1]
    assert "memory of proven files" in runs[0][0]
    assert "hashed again" in runs[0][0]


def test_trouble_with_the_memory_does_not_outlast_it(tmp_path: Path) -> None:
    """A client that lives on: the run after the trouble is over has nothing to say about it."""
    (tmp_path / "state").write_text("no folder")
    network = site(OLD)

    async def main() -> list[int]:
        async with client(network, tmp_path) as here:
            before = await here.download(REPO, local_dir=tmp_path / "m")
            (tmp_path / "state").unlink()
            await here.aclose()
            after = await here.download(REPO, local_dir=tmp_path / "m")
        return [len(before.notes), len(after.notes)]

    notes = virtual(main)

    assert notes == [1, 0]


# -- files without a stated digest -----------------------------------------------------------------

TAG = {"etag": '"one"'}
LARGE = {"w.bin": payload(20 << 20), "s.txt": b"small", "empty": b""}


def bodies(network: FakeNetwork) -> list[Asked]:
    """Requests for more than the head of a file."""
    return [asked for asked in network.asked if asked.span.length > 1]


def test_a_file_without_a_digest_comes_over_many_connections(tmp_path: Path) -> None:
    """Its strong validator says what holds it together; the report does not call it verified."""
    network = site(LARGE, stated=False, headers=TAG)

    report = download(network, tmp_path)

    assert (tmp_path / "m" / "w.bin").read_bytes() == LARGE["w.bin"]
    assert len({asked.span for asked in bodies(network) if asked.url.endswith("w.bin")}) > 1
    assert not report.verified


def test_a_second_run_keeps_files_without_a_digest_by_their_validator(tmp_path: Path) -> None:
    """Large and small: one byte of each is asked for, to see whether they have changed."""
    download(site(LARGE, stated=False, headers=TAG), tmp_path)
    same = site(LARGE, stated=False, headers=TAG)
    changed = site({**LARGE, "s.txt": b"other"}, stated=False, headers={"etag": '"two"'})

    again = download(same, tmp_path)
    updated = download(changed, tmp_path)

    assert bodies(same) == []
    assert again.fetched == 0
    assert {file.how for file in updated.files if file.size} == {"fetched"}
    assert (tmp_path / "m" / "s.txt").read_bytes() == b"other"


@pytest.mark.parametrize("tag", [{}, {"etag": 'W/"weak"'}], ids=["none", "weak"])
def test_without_a_strong_validator_nothing_proves_what_is_here(
    tmp_path: Path, tag: dict[str, str]
) -> None:
    """Fetched again, in one stream: no two answers are known to be of the same file."""
    download(site(LARGE, stated=False, headers=tag), tmp_path)
    network = site(LARGE, stated=False, headers=tag)

    report = download(network, tmp_path)

    assert report.fetched == len(LARGE["w.bin"]) + len(LARGE["s.txt"])
    assert len(bodies(network)) == 2


def test_files_with_a_digest_are_not_asked_about(tmp_path: Path) -> None:
    """The digest is all that is needed."""
    network = site(LARGE, headers=TAG)

    plan(network, tmp_path)

    assert network.asked == []


def test_an_address_that_does_not_answer_costs_the_plan_nothing(tmp_path: Path) -> None:
    """The run will say what is wrong, file by file; the plan stands without validators."""
    network = site(LARGE, stated=False, headers=TAG, fault=answers(404, "w.bin"))

    planned = plan(network, tmp_path)

    assert [file.file.validator for file in planned] == [None, '"one"', None]
    assert len(network.asked) == 2


# -- the loop --------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [True, False], ids=["folder", "cache"])
def test_a_whole_run_never_waits_for_the_disk_on_the_loop(tmp_path: Path, plain: bool) -> None:
    """From the name to the last close, also where names collide and files are replaced."""
    network = site({"a": b"good", "A": b"clash", "b/c": payload(2 << 20), "../x": b"evil"})

    async def main() -> list[str]:
        here = client(network, tmp_path, threads=WorkerThreads())
        with disk_calls() as seen:
            async with here:
                for _ in range(2):
                    with suppress(Incomplete):
                        await here.download(REPO, local_dir=tmp_path / "m" if plain else None)
        return seen

    # importing is not what a program does for ever
    assert [call for call in anyio.run(main) if "importlib" not in call] == []


# -- what is there already -------------------------------------------------------------------------


def test_what_is_in_a_folder_is_found_beside_what_is_not(tmp_path: Path) -> None:
    """One missing file says nothing of its neighbours; one missing folder of all below it."""
    network = site({"a/1": b"one", "a/2": b"two", "a/b/3": b"three", "c/4": b"four", "5": b"five"})
    (tmp_path / "m" / "a").mkdir(parents=True)
    (tmp_path / "m" / "a" / "2").write_bytes(b"two")
    (tmp_path / "m" / "c").write_bytes(b"in the way")

    found = {file.file.path: file.action.value for file in plan(network, tmp_path)}

    assert found == {"a/1": "fetch", "a/2": "keep", "a/b/3": "fetch", "c/4": "fetch", "5": "fetch"}


class Dying(InlineThreads):
    """Of a disk of which not even names can be looked at, from the `nth` call on."""

    def __init__(self, nth: int) -> None:
        super().__init__()
        self.left = nth

    async def write(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.EIO, "Input/output error")
        return await super().write(call, *args)


@pytest.mark.fault("not even names can be looked at", "exit 9, no traceback", number=85)
def test_a_disk_that_cannot_be_looked_at_is_an_error_of_ours(tmp_path: Path) -> None:
    """Wherever it begins, and also where no call of our own says what it was doing."""
    ended: list[int] = []
    for nth in range(40):
        folder, threads = tmp_path / str(nth), Dying(nth)

        async def main(folder: Path = folder, threads: Dying = threads) -> Report:
            network = site({"a": b"1", "b": payload(200_000)})
            async with client(network, folder, threads=threads) as here:
                try:
                    return await here.download(REPO, local_dir=folder / "m")
                finally:
                    threads.left = 1000  # closing is not what this is about

        try:
            virtual(main)
            break
        except HaulError as error:
            ended.append(error.exit_code)
    assert 3 < len(ended) < 40
    assert set(ended) == {9}
