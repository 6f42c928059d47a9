"""Whole downloads from several places at once: both hubs, mirrors, folders; in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import anyio
import pytest

from modelhaul import Report, UsageError
from modelhaul.core.origin import origin_of
from modelhaul.core.places import parse_place
from modelhaul.core.repo import RemoteFile, RepoRef
from modelhaul.errors import ConnectFailed
from modelhaul.events import Event, Note
from modelhaul.hubs.base import Hub
from modelhaul.net.transport import Redirect, Response
from modelhaul.usecases.job import Emitter
from modelhaul.usecases.places import more_sources
from tests.engine.harness import MIB, payload
from tests.support.hfsite import STORE, HfSite
from tests.support.network import Asked, FakeNetwork, Fault, Served
from tests.support.site import REF, REPO, site
from tests.support.virtual import virtual
from tests.support.web import HF, MS, Web, bring

WEIGHTS, CONFIG = payload(24 * MIB, 1), payload(3000, 2)
FILES = {"w.bin": WEIGHTS, "config.json": CONFIG}
FOLDER = "https://files.test/some folder"
MIRROR = "https://mirror.test"


def slow(network: FakeNetwork, rate: float) -> FakeNetwork:
    """The same with so many bytes per second for all connections together."""
    network._pipe = rate
    return network


def modelscope(files: Mapping[str, bytes] = FILES, **more: object) -> FakeNetwork:
    return slow(site(files, **more), 30e6)  # type: ignore[arg-type]


def huggingface(files: Mapping[str, bytes] = FILES, **more: object) -> FakeNetwork:
    return slow(HfSite(files, **more), 50e6)  # type: ignore[arg-type]


def folder(files: Mapping[str, bytes]) -> FakeNetwork:
    quoted = FOLDER.replace(" ", "%20")
    return FakeNetwork({f"{quoted}/{path}": Served(data) for path, data in files.items()})


def download(
    web: Web, path: Path, *sources: str, repo: str = REPO, seen: list[Event] | None = None
) -> Report:
    """Bring the repository to the folder `m`."""
    listener = None if seen is None else seen.append
    return bring(web, path, repo, sources=sources, local_dir=path / "m", on_event=listener)


def is_right(path: Path, files: Mapping[str, bytes] = FILES) -> bool:
    return all((path / "m" / name).read_bytes() == data for name, data in files.items())


def notes(seen: Iterable[Event]) -> str:
    return "\n".join(event.message for event in seen if isinstance(event, Note))


@pytest.mark.parametrize("source", ["hf:o/n", "auto"])
def test_two_hubs_give_more_than_either(tmp_path: Path, source: str) -> None:
    """30 and 50 MB/s: at least 75 together; by name, or looked up."""
    web = Web(modelscope(), huggingface())

    report = download(web, tmp_path, source)

    assert is_right(tmp_path)
    assert web.ms.sent + web.hf.sent == report.fetched == len(WEIGHTS) + len(CONFIG)
    weights = next(file for file in report.files if file.path == "w.bin")
    assert set(weights.sources) == {MS, STORE}
    share = web.hf.sent / report.fetched
    assert 0.5 < share < 0.75  # by what they deliver


def test_a_token_never_goes_to_another_place(tmp_path: Path) -> None:
    """Each hub gets its own; stores, folders and mirrors none, not even when they are listed."""
    mirror = slow(site(FILES, endpoint=MIRROR), 30e6)
    web = Web(modelscope(), huggingface(), files=folder(FILES), mirror=mirror)

    download(web, tmp_path, "hf:o/n", FOLDER, MIRROR)

    for network in web.all:
        assert network.asked
        for asked in network.asked:
            shown = str(asked.headers)
            origin = str(origin_of(asked.url))
            assert ("ms-SECRET" in shown) == (origin == MS)
            assert ("hf-SECRET" in shown) == (origin == HF)
    assert mirror.calls
    assert "SECRET" not in str(mirror.called_with)


def test_an_older_revision_of_the_same_name_is_not_mixed_in(tmp_path: Path) -> None:
    """Same path, same size, another digest: not one byte is asked for there."""
    seen: list[Event] = []
    old = {"w.bin": payload(len(WEIGHTS), 9), "config.json": CONFIG}
    web = Web(modelscope(), huggingface(old))

    download(web, tmp_path, "hf:o/n", seen=seen)

    assert is_right(tmp_path)
    assert not [asked for asked in web.hf.asked if "w.bin" in asked.url]
    assert "hf:o/n has 1 of 2 files" in notes(seen)


def test_a_source_that_dies_half_way_costs_no_error(tmp_path: Path) -> None:
    """What it would have brought comes from the other."""
    died = len(WEIGHTS) // 4

    def fault(asked: Asked) -> Fault | None:
        return Fault(status=503) if web.hf.sent > died else None

    web = Web(modelscope(), huggingface(fault=fault))

    report = download(web, tmp_path, "hf:o/n")

    assert is_right(tmp_path)
    assert web.hf.sent > died
    assert report.fetched < len(WEIGHTS) + 8 * MIB


def test_a_source_with_wrong_bytes_is_repaired_and_named(tmp_path: Path) -> None:
    """A folder states no digests: the file's own judges."""
    wrong = bytearray(WEIGHTS)
    wrong[:: 2 * MIB] = bytes(len(wrong[:: 2 * MIB]))
    web = Web(modelscope(), huggingface(), files=slow(folder({"w.bin": bytes(wrong)}), 30e6))

    report = download(web, tmp_path, FOLDER)

    assert is_right(tmp_path)
    weights = next(file for file in report.files if file.path == "w.bin")
    assert weights.disproven == ("https://files.test",)


@pytest.mark.parametrize(
    ("source", "says"),
    [("hf:no/such", "hf:no/such is not used"), ("https://files.test", "files.test is not used")],
)
def test_a_source_that_cannot_be_asked_is_named_and_left_out(
    tmp_path: Path, source: str, says: str
) -> None:
    """The repository itself has everything."""
    seen: list[Event] = []
    web = Web(modelscope(), huggingface(), files=folder({}))

    download(web, tmp_path, source, seen=seen)

    assert is_right(tmp_path)
    assert says in notes(seen)


def test_a_source_that_never_answers_does_not_hold_up_the_download(tmp_path: Path) -> None:
    """Twenty seconds to say what it has."""

    class Silent(HfSite):
        async def call(
            self, url: str, *, headers: Mapping[str, str], limit: int
        ) -> Response | Redirect:
            await anyio.sleep_forever()
            raise AssertionError

    seen: list[Event] = []
    web = Web(modelscope(), Silent(FILES))

    report = download(web, tmp_path, "hf:o/n", seen=seen)

    assert is_right(tmp_path)
    assert web.hf.asked == []
    assert "does not answer" in notes(seen)
    assert report.fetched == len(WEIGHTS) + len(CONFIG)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(error=ConnectFailed("nobody there")), "was of no use: nobody there"),
        (Fault(silent=0), "was of no use: it is silent or too slow"),
        (Fault(status=404), "was of no use: https://files.test/some%20folder/w.bin answers 404"),
        (Fault(flip=tuple(range(5, len(WEIGHTS), MIB))), "sent wrong bytes of w.bin"),
    ],
    ids=["refuses", "silent", "has it not", "lies"],
)
def test_a_source_that_is_of_no_use_is_named_in_the_report(
    tmp_path: Path, fault: Fault, says: str
) -> None:
    """Once, by what the user called it or where it is; the hub brings everything."""
    files = folder({"w.bin": WEIGHTS})
    files.fault = lambda asked: fault
    web = Web(modelscope({"w.bin": WEIGHTS}), huggingface(), files=files)

    report = download(web, tmp_path, FOLDER)

    assert is_right(tmp_path, {"w.bin": WEIGHTS})
    (note,) = report.notes
    assert says in note
    assert "https://files.test" in note


def test_one_folder_of_a_site_that_is_of_no_use_says_nothing_of_another(tmp_path: Path) -> None:
    """What a run thinks of places is by what the user named, not by origin."""
    files = {f"f{number:02}": payload(20_000, number) for number in range(60)}
    behind = FakeNetwork(
        {f"https://files.test/good/{path}": Served(data) for path, data in files.items()}
    )
    web = Web(modelscope(files), huggingface(), files=behind)

    report = download(web, tmp_path, "https://files.test/bad", "https://files.test/good")

    assert is_right(tmp_path, files)
    (note,) = report.notes
    assert note.startswith("source https://files.test/bad is not used any more for small files")
    assert {place for file in report.files for place in file.sources} == {MS, "https://files.test"}


def test_auto_says_nothing_where_the_other_hub_has_no_such_names(tmp_path: Path) -> None:
    """It is no mistake of the user, and nobody is asked."""
    seen: list[Event] = []

    async def open_hub(*_: object) -> Hub:
        raise AssertionError

    async def main() -> None:
        wanted = [RemoteFile("w.bin", 9, sha256="a" * 64)]
        place = parse_place("auto", RepoRef("huggingface", "model", "", "single"))
        sources = await more_sources([place], REF, wanted, open_hub, Emitter(seen.append))
        assert sources(wanted[0]) == ()

    virtual(main)

    assert seen == []


def test_auto_says_nothing_where_there_is_no_such_repository(tmp_path: Path) -> None:
    """Most repositories are on one hub only."""
    seen: list[Event] = []
    hub = huggingface()
    hub.hub.repo = "another/one"  # type: ignore[attr-defined]
    web = Web(modelscope(), hub)

    download(web, tmp_path, "auto", seen=seen)

    assert is_right(tmp_path)
    assert notes(seen) == ""


def test_files_of_the_hub_come_from_modelscope_too(tmp_path: Path) -> None:
    """The small one is judged by its git name, which ModelScope does not state."""
    web = Web(modelscope(), huggingface())

    report = download(web, tmp_path, "ms:o/n", repo="hf:o/n")

    assert is_right(tmp_path)
    assert report.verified
    assert web.ms.sent > 0


def test_a_source_that_is_none_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    """A name without a hub is the repository itself, or a mistake."""
    web = Web(modelscope(), huggingface())

    with pytest.raises(UsageError):
        download(web, tmp_path, "o/n")

    assert web.ms.calls == []
