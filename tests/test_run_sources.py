"""Whole downloads from several places at once: both hubs, mirrors, folders; in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import anyio
import pytest

from modelhaul import Client, Report, UsageError
from modelhaul.core.origin import origin_of
from modelhaul.core.places import parse_place
from modelhaul.core.repo import RemoteFile, RepoRef
from modelhaul.errors import ConnectFailed, ConnectionLost, NotFound
from modelhaul.events import Event, FileDone, Note
from modelhaul.hubs.base import Hub
from modelhaul.net.transport import Redirect, Response
from modelhaul.report import FileResult
from modelhaul.usecases.job import Emitter
from modelhaul.usecases.places import Elsewhere
from tests.engine.harness import MIB, payload
from tests.support.hfsite import STORE, HfSite, lfs_or_git
from tests.support.inline import InlineThreads
from tests.support.network import Asked, FakeNetwork, Fault, Served
from tests.support.payload import older
from tests.support.site import REF, REPO, site
from tests.support.virtual import virtual
from tests.support.web import HF, MS, Web, bring, settings

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


#: So that bytes are left to be given out for as long as possible.
FEW = {"connections": 4, "host_connections": 2}


def download(
    web: Web,
    path: Path,
    *sources: str,
    repo: str = REPO,
    seen: list[Event] | None = None,
    **settings: object,
) -> Report:
    """Bring the repository to the folder `m`."""
    return bring(
        web,
        path,
        repo,
        sources=sources,
        local_dir=path / "m",
        on_event=None if seen is None else seen.append,
        settings=settings,
    )


def is_right(path: Path, files: Mapping[str, bytes] = FILES) -> bool:
    return all((path / "m" / name).read_bytes() == data for name, data in files.items())


def of_weights(report: Report) -> FileResult:
    return next(file for file in report.files if file.path == "w.bin")


def notes(seen: Iterable[Event]) -> str:
    return "\n".join(event.message for event in seen if isinstance(event, Note))


@pytest.mark.parametrize("source", ["hf:o/n", "auto"])
def test_two_hubs_give_more_than_either(tmp_path: Path, source: str) -> None:
    """30 and 50 MB/s: at least 75 together; by name, or looked up."""
    web = Web(modelscope(), huggingface())

    report = download(web, tmp_path, source)

    assert is_right(tmp_path)
    assert web.ms.sent + web.hf.sent == report.fetched == len(WEIGHTS) + len(CONFIG)
    assert set(of_weights(report).sources) == {MS, STORE}
    share = web.hf.sent / report.fetched
    assert 0.5 < share < 0.75  # by what they deliver
    assert sum(report.by_source.values()) == report.fetched
    assert report.by_source["hf:o/n"] == web.hf.sent


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


# -- an older revision under the same name -------------------------------------------------------

#: The repository as it was, of which the small file has not changed.
OLDER = {
    "same size": {"w.bin": older(WEIGHTS), "config.json": CONFIG},
    "another size": {"w.bin": older(WEIGHTS[: 20 * MIB]), "config.json": CONFIG},
}


def asked_for_weights(network: FakeNetwork) -> bool:
    return any("w.bin" in asked.url for asked in network.asked)


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ("hf:o/n", "same size"),
        ("hf:o/n", "another size"),
        ("auto", "same size"),
        (MIRROR, "same size"),
    ],
)
def test_an_older_revision_with_another_digest_is_not_asked_for(
    tmp_path: Path, source: str, size: str
) -> None:
    """Its listing says so, of the other hub or of a mirror: not one byte is asked for there."""
    seen: list[Event] = []
    mirror = slow(site(OLDER[size], endpoint=MIRROR), 30e6)
    web = Web(modelscope(), huggingface(OLDER[size]), mirror=mirror)

    download(web, tmp_path, source, seen=seen)

    assert is_right(tmp_path)
    assert not asked_for_weights(mirror)
    assert not asked_for_weights(web.hf)
    label = MIRROR if source == MIRROR else "hf:o/n"
    assert f"{label} has 1 of 2 files" in notes(seen)


def test_an_older_revision_of_a_mirror_without_digests_is_repaired_and_named(
    tmp_path: Path,
) -> None:
    """Nothing speaks against it but the digest of the whole: it is asked, and found out."""
    mirror = slow(site(OLDER["same size"], endpoint=MIRROR, stated=False), 30e6)
    web = Web(modelscope(), huggingface(), mirror=mirror)

    report = download(web, tmp_path, MIRROR)

    assert is_right(tmp_path)
    assert asked_for_weights(mirror)
    assert of_weights(report).disproven == (MIRROR,)
    assert any(f"{MIRROR} sent wrong bytes of w.bin" in note for note in report.notes)


def test_another_size_at_a_mirror_without_digests_is_not_asked_for(tmp_path: Path) -> None:
    """That much its listing says."""
    mirror = slow(site(OLDER["another size"], endpoint=MIRROR, stated=False), 30e6)
    web = Web(modelscope(), huggingface(), mirror=mirror)

    download(web, tmp_path, MIRROR)

    assert is_right(tmp_path)
    assert not asked_for_weights(mirror)


@pytest.mark.parametrize("size", OLDER)
def test_an_older_revision_in_a_folder_is_found_out_and_named(tmp_path: Path, size: str) -> None:
    """Of the same size by the digest of the whole, of another one by its first answer."""
    web = Web(modelscope(), huggingface(), files=slow(folder(OLDER[size]), 30e6))

    report = download(web, tmp_path, FOLDER)

    assert is_right(tmp_path)
    assert asked_for_weights(web.all[2])
    weights = of_weights(report)
    place = FOLDER.replace(" ", "%20")
    assert weights.disproven == ((place,) if size == "same size" else ())
    assert weights.failing == (() if size == "same size" else (place,))
    assert any(place in note for note in report.notes)


@pytest.mark.parametrize("repo", [REPO, "hf:o/n"])
def test_a_small_file_of_another_revision_is_found_out_and_named(tmp_path: Path, repo: str) -> None:
    """Fetched in one go, and on one of the hubs known by its git name only."""
    refusals = iter([Fault(status=503)])

    def busy(asked: Asked) -> Fault | None:
        """So that the folder is asked, too."""
        return next(refusals, None) if "config.json" in asked.url else None

    files = folder({"config.json": payload(len(CONFIG), 8)})
    web = Web(modelscope(fault=busy), huggingface(fault=busy), files=files)

    report = download(web, tmp_path, FOLDER, repo=repo)

    assert is_right(tmp_path)
    assert files.sent == len(CONFIG)
    config = next(file for file in report.files if file.path == "config.json")
    assert config.disproven == (FOLDER.replace(" ", "%20"),)


# -- sources that fail or lie --------------------------------------------------------------------


def killed_at(network: FakeNetwork, count: int) -> list[str]:
    """Have every connection to it cut once so many bytes came, and refused from then on.

    Returns:
        What was cut or refused, in words.
    """
    died: list[str] = []
    turn, fault = network.pass_pipe, network.fault

    async def pass_pipe(step: int) -> None:
        if network.sent >= count:
            died.append("cut")
            raise ConnectionLost("the connection was cut")
        await turn(step)

    def dead(asked: Asked) -> Fault | None:
        if network.sent < count:
            return fault(asked)
        died.append("refused")
        return Fault(error=ConnectFailed("nobody listens"))

    network.pass_pipe = pass_pipe  # type: ignore[method-assign]
    network.fault = dead
    return died


@pytest.mark.fault(
    "one of two sources is killed half-way",
    "the right bytes, nothing that arrived is fetched again, and it is named",
)
@pytest.mark.parametrize("victim", ["ms", "hf"])
def test_a_source_that_is_killed_half_way_is_named(tmp_path: Path, victim: str) -> None:
    """Whether it is the repository itself or the second source."""
    web = Web(modelscope(), huggingface())
    dead: FakeNetwork = getattr(web, victim)
    died = killed_at(dead, len(WEIGHTS) // 5)
    seen: list[Event] = []

    report = download(web, tmp_path, "hf:o/n", seen=seen, **FEW)

    assert is_right(tmp_path)
    assert "cut" in died
    assert dead.sent >= len(WEIGHTS) // 5
    name = MS if victim == "ms" else "hf:o/n"
    assert of_weights(report).failing == (name,)
    done = {event.path: event for event in seen if isinstance(event, FileDone)}
    assert done["w.bin"].failing == (name,)
    assert any(f"source {name} " in note for note in report.notes)
    assert report.fetched < len(WEIGHTS) + len(CONFIG) + 8 * MIB


def test_a_source_that_answers_with_errors_half_way_is_named(tmp_path: Path) -> None:
    """What it would have brought comes from the other."""
    refused: list[Asked] = []

    def fault(asked: Asked) -> Fault | None:
        if web.hf.sent < len(WEIGHTS) // 8:
            return None
        refused.append(asked)
        return Fault(status=503)

    web = Web(modelscope(), huggingface(fault=fault))

    report = download(web, tmp_path, "hf:o/n", **FEW)

    assert is_right(tmp_path)
    assert refused
    assert web.hf.sent >= len(WEIGHTS) // 8
    assert of_weights(report).failing == ("hf:o/n",)
    assert any("source hf:o/n " in note for note in report.notes)
    assert report.fetched < len(WEIGHTS) + len(CONFIG) + 8 * MIB


def test_a_source_that_came_back_is_not_called_a_failing_one(tmp_path: Path) -> None:
    """A few refusals at the start are no news once it works."""
    refusals = iter([Fault(status=503, headers={"retry-after": "1"})] * 2)
    web = Web(slow(modelscope(), 5e6), huggingface(fault=lambda asked: next(refusals, None)))

    report = download(web, tmp_path, "hf:o/n", **FEW)

    assert is_right(tmp_path)
    assert next(refusals, None) is None
    assert web.hf.sent > 0
    assert of_weights(report).failing == ()
    assert report.notes == ()


@pytest.mark.parametrize("source", ["hf:o/n", FOLDER])
def test_a_source_with_wrong_bytes_is_repaired_and_named(tmp_path: Path, source: str) -> None:
    """It states the right digest and lies, or it is a folder and states none."""
    wrong = OLDER["same size"]
    liar = HfSite(wrong)
    liar.hub.row = lambda path, size: lfs_or_git(path, FILES[path])
    web = Web(modelscope(), slow(liar, 50e6), files=slow(folder(wrong), 30e6))

    report = download(web, tmp_path, source)

    assert is_right(tmp_path)
    name = source.replace(" ", "%20")
    assert of_weights(report).disproven == (name,)
    assert any(f"{name} sent wrong bytes of w.bin" in note for note in report.notes)


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


class Late(HfSite):
    """A hub that takes its time for whatever it says; its store does not.

    Attributes:
        calls: when it was asked something.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(FILES)
        self.seconds = seconds
        self.calls: list[float] = []

    async def call(
        self, url: str, *, headers: Mapping[str, str], limit: int
    ) -> Response | Redirect:
        self.calls.append(anyio.current_time())
        await anyio.sleep(self.seconds)
        return await super().call(url, headers=headers, limit=limit)


@pytest.mark.fault(
    "a second source is silent when it is asked what it has",
    "the download begins a second later, and it is named at the end",
)
def test_a_source_that_never_answers_does_not_hold_up_the_download(tmp_path: Path) -> None:
    """It is waited for a second, and asked beside the run from then on."""
    late = Late(math.inf)
    web = Web(modelscope(), late)

    report = download(web, tmp_path, "hf:o/n")

    assert is_right(tmp_path)
    assert web.hf.asked == []
    assert web.ms.asked[0].time - late.calls[0] < 1.1
    assert report.notes == ("source hf:o/n was not used: it has not said yet what it has",)
    assert report.fetched == len(WEIGHTS) + len(CONFIG)


@pytest.mark.parametrize("fault", [None, "the first hub fails then"])
def test_a_source_that_is_slow_to_say_what_it_has_joins_the_run(
    tmp_path: Path, fault: str | None
) -> None:
    """The run has begun without it; from then on it is one like the others."""
    late = Late(0.5)  # for each of a few answers

    def broken(asked: Asked) -> Fault | None:
        return Fault(status=503) if fault and late.sent else None

    web = Web(slow(modelscope(fault=broken), 3e6), slow(late, 50e6))

    report = download(web, tmp_path, "hf:o/n")

    assert is_right(tmp_path)
    assert web.ms.asked[0].time < late.asked[0].time
    assert late.sent > len(WEIGHTS) // 2
    assert not any("hf:o/n" in note for note in report.notes)


@pytest.mark.parametrize("status", [403, 404])
def test_no_file_is_given_up_while_a_source_may_still_join(tmp_path: Path, status: int) -> None:
    """The hub lists files that it does not give: a gated repository."""
    late = Late(0.5)
    web = Web(modelscope(fault=lambda asked: Fault(status=status)), late)

    report = download(web, tmp_path, "hf:o/n")

    assert is_right(tmp_path)
    assert report.fetched == len(WEIGHTS) + len(CONFIG)


def test_a_file_that_nobody_has_is_given_up_once_all_sources_have_said_so(tmp_path: Path) -> None:
    """Waiting for the last one does not hide the error."""
    late = Late(0.5)
    late.hub.repo = "another/one"  # type: ignore[attr-defined]
    web = Web(modelscope(fault=lambda asked: Fault(status=404)), late)

    with pytest.raises(NotFound):
        download(web, tmp_path, "hf:o/n")


def test_own_files_have_one_name_beside_a_place_of_the_same_site(tmp_path: Path) -> None:
    """Not one per file."""
    web = Web(modelscope(), huggingface())

    report = download(web, tmp_path, f"{MS}/somewhere/else")

    assert set(report.by_source) <= {MS, f"{MS}/somewhere/else"}


def test_a_source_that_is_named_twice_is_asked_once(tmp_path: Path) -> None:
    """By its name, by `auto`, and again."""
    calls = []
    for number, sources in enumerate((["hf:o/n"], ["auto", "hf:o/n", "auto", "hf:o/n"])):
        hub = Late(0)
        hub.hub.repo = "another/one"  # type: ignore[attr-defined]
        report = download(Web(modelscope(), hub), tmp_path / str(number), *sources)
        (note,) = report.notes
        assert note.startswith("source hf:o/n is not used: ")
        calls.append(len(hub.calls))

    assert calls[0] == calls[1] > 0


def test_no_other_place_is_asked_where_nothing_is_to_be_fetched(tmp_path: Path) -> None:
    """Everything is here."""
    late = Late(0)
    web = Web(modelscope(), late)
    download(web, tmp_path)

    report = download(web, tmp_path, "hf:o/n")

    assert report.fetched == 0
    assert late.calls == []


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(error=ConnectFailed("nobody there")), "was of no use: nobody there"),
        (Fault(silent=0), "was of no use: it is silent or too slow"),
        (Fault(status=404), "was of no use: https://files.test/some%20folder/w.bin answers 404"),
        (Fault(flip=tuple(range(5, len(WEIGHTS), MIB))), "sent wrong bytes of w.bin"),
        (Fault(ignore_range=True), "was of no use: https://files.test/some%20folder/w.bin ignores"),
    ],
    ids=["refuses", "silent", "has it not", "lies", "takes no ranges"],
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
        elsewhere = Elsewhere([place], REF, wanted, open_hub, Emitter(seen.append).note)
        await elsewhere.ask()
        assert elsewhere.sources(wanted[0]) == ()

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


@pytest.mark.parametrize(("source", "repo"), [("hf:o/other", REPO), ("ms:o/other@v2", "hf:o/n")])
def test_a_source_that_is_not_there_is_named_with_its_hub(
    tmp_path: Path, source: str, repo: str
) -> None:
    """Of either hub: `o/other` alone might be on both."""
    web = Web(modelscope(), huggingface())

    report = download(web, tmp_path, source, repo=repo)

    assert is_right(tmp_path)
    assert any(note.startswith(f"source {source} is not used: ") for note in report.notes)


@pytest.mark.parametrize(
    ("repo", "sources", "command"),
    [
        ("o/none", ["https://mirror.test", "hf:o/n"], "hf:o/n"),
        ("o/none", ["hf:o/n@v2"], "hf:o/n --revision v2"),
        ("hf:o/none", ["ms:o/n"], "ms:o/n"),
    ],
)
def test_a_hub_that_has_no_such_repository_leaves_the_source_to_try(
    tmp_path: Path, repo: str, sources: list[str], command: str
) -> None:
    """The listing comes from the first hub only; a source that is a repository has its own."""
    web = Web(modelscope(), huggingface())

    with pytest.raises(NotFound) as caught:
        download(web, tmp_path, *sources, repo=repo)

    assert (caught.value.hint or "").endswith(f" or: modelhaul download {command}")


def test_a_hub_that_is_down_leaves_the_source_to_try(tmp_path: Path) -> None:
    """Its own hint stays: perhaps the address is wrong."""
    web = Web(Down({}), huggingface())

    with pytest.raises(ConnectFailed) as caught:
        bring(web, tmp_path, REPO, kind="dataset", sources=["hf:o/n"])

    assert caught.value.hint == "is it on? or: modelhaul download hf:o/n --repo-type dataset"


class Down(FakeNetwork):
    """Nobody listens."""

    async def call(
        self, url: str, *, headers: Mapping[str, str], limit: int
    ) -> Response | Redirect:
        raise ConnectFailed(f"no connection to {url}", hint="is it on?")


@pytest.mark.parametrize("source", ["auto", MIRROR, "ms:o/none@v2"])
def test_without_another_repository_as_source_the_hint_of_the_hub_stays(
    tmp_path: Path, source: str
) -> None:
    """A mirror has the same names, auto is a guess, and the same one was just asked for."""
    web = Web(modelscope(), huggingface(), mirror=site(FILES, endpoint=MIRROR))

    with pytest.raises(NotFound) as caught:
        download(web, tmp_path, source, repo="o/none")

    assert "modelhaul download" not in (caught.value.hint or "")


@pytest.mark.parametrize("option", ["files", "include", "exclude", "sources"])
@pytest.mark.parametrize("values", [[None], ["a", 3], [Path("a")], None, 3, b"ab"], ids=repr)
def test_what_is_no_string_is_refused_by_the_name_of_its_option(
    tmp_path: Path, option: str, values: object
) -> None:
    """Before anything is asked."""
    web = Web(modelscope(), huggingface())

    with pytest.raises(UsageError, match=f"^{option}: not "):
        bring(web, tmp_path, REPO, **{option: values})

    assert web.ms.calls == []


def test_a_url_that_is_no_string_is_refused(tmp_path: Path) -> None:
    """As the other options of several strings."""
    web = Web(modelscope(), huggingface())

    async def main() -> None:
        async with Client(settings(tmp_path), transport=web, threads=InlineThreads()) as client:
            await client.get("https://host/x", None)  # type: ignore[arg-type]

    with pytest.raises(UsageError, match=r"^URLs: not a string: None"):
        virtual(main)
