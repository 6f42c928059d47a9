"""Whole runs into the layouts of Hugging Face's tools, from a site in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from modelhaul import HaulError, Incomplete, NotFound, Plan, Report
from modelhaul.core.repo import RemoteFile, RepoRef, Snapshot, Source
from modelhaul.events import Event, FileDone, FileFailed, Listener
from modelhaul.hubs.modelscope import file_url
from modelhaul.store.layout import Layout
from modelhaul.store.layout_huggingface import HuggingFaceCache, HuggingFaceFolder
from modelhaul.usecases.compare import prepare
from modelhaul.usecases.job import Emitter, Job
from modelhaul.usecases.run import execute
from tests.engine.harness import payload, source
from tests.hubs.fakehub import ENDPOINT
from tests.support.network import Asked, FakeNetwork, Fault
from tests.support.site import COMMIT, REF, client, site
from tests.support.virtual import virtual

CONTENT = {
    "a.bin": payload(3_000_000),
    "config.json": b"{}",
    "copy/a.bin": payload(3_000_000),
    "copy/config.json": b"{}",
}


def snapshot(content: Mapping[str, bytes], commit: str = COMMIT) -> Snapshot:
    """What the hub lists."""
    files = [
        RemoteFile(path, len(data), sha256=hashlib.sha256(data).hexdigest())
        for path, data in content.items()
    ]
    return Snapshot(RepoRef("huggingface", "model", "o", "n"), commit, tuple(files))


def job(found: Snapshot, layout: Layout, *, force: bool = False) -> Job:
    """All files of a snapshot, from the site's addresses."""

    def sources(file: RemoteFile) -> tuple[Source, ...]:
        return (source(file_url(ENDPOINT, REF, found.commit or "", file.path)),)

    return Job(
        name="o/n",
        revision=None,
        commit=found.commit,
        files=found.files,
        whole=True,
        layout=layout,
        sources=sources,
        force=force,
    )


def download(
    network: FakeNetwork,
    folder: Path,
    content: Mapping[str, bytes] = CONTENT,
    *,
    commit: str = COMMIT,
    plain: bool = False,
    on_event: Listener | None = None,
) -> Report:
    """Bring the repository into a cache in `folder`, or into a plain folder there."""
    found = snapshot(content, commit)

    async def main() -> Report:
        async with client(network, folder) as here:
            at = HuggingFaceFolder.at if plain else HuggingFaceCache.at
            work = job(found, at(folder / ("m" if plain else "hub"), found))
            emit = Emitter(on_event)
            return await execute(here._resources, await prepare(here._resources, work, emit), emit)

    return virtual(main)


def plan(network: FakeNetwork, folder: Path) -> Plan:
    """What a download into the cache would do."""
    found = snapshot(CONTENT)

    async def main() -> Plan:
        async with client(network, folder) as here:
            work = job(found, HuggingFaceCache.at(folder / "hub", found))
            return (await prepare(here._resources, work, Emitter(None))).plan

    return virtual(main)


def test_equal_content_is_fetched_once_and_linked_twice(tmp_path: Path) -> None:
    """The cache holds content once: the second file is there as soon as the first is."""
    network = site(CONTENT)
    events: list[Event] = []

    report = download(network, tmp_path, on_event=events.append)

    shown = tmp_path / "hub" / "models--o--n" / "snapshots" / COMMIT
    assert report.path == str(shown)
    assert {path: (shown / path).read_bytes() for path in CONTENT} == CONTENT
    assert len(list((shown.parent.parent / "blobs").iterdir())) == 2
    assert sorted(path.name for path in shown.parent.parent.iterdir()) == [
        "blobs",
        "refs",
        "snapshots",
        "trees",
    ]
    assert {file.path: (file.how, file.fetched) for file in report.files} == {
        "a.bin": ("fetched", 3_000_000),
        "config.json": ("fetched", 2),
        "copy/a.bin": ("copied", 0),
        "copy/config.json": ("copied", 0),
    }
    assert report.verified
    assert report.fetched == network.sent == 3_000_002
    assert sorted(event.path for event in events if isinstance(event, FileDone)) == sorted(CONTENT)
    assert (shown.parent.parent / "refs" / "main").read_text() == COMMIT


def test_the_plan_says_what_is_shared(tmp_path: Path) -> None:
    """It costs neither network nor room."""
    found = plan(site(CONTENT), tmp_path)

    assert [file.action.value for file in found] == ["fetch", "fetch", "share", "share"]
    assert (found.fetch, found.copy, found.reuse) == (3_000_002, 0, 0)
    assert not (tmp_path / "hub").exists()


def test_a_second_run_fetches_nothing(tmp_path: Path) -> None:
    """And takes what is there for what it is, without hashing again."""
    download(site(CONTENT), tmp_path)
    network = site(CONTENT)

    report = download(network, tmp_path)

    assert network.asked == []
    assert {file.how for file in report.files} == {"kept"}
    assert report.reused == sum(map(len, CONTENT.values()))


def test_blobs_that_another_tool_brought_are_only_linked(tmp_path: Path) -> None:
    """They are hashed first; what has the wrong content is fetched."""
    blobs = tmp_path / "hub" / "models--o--n" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / hashlib.sha256(CONTENT["a.bin"]).hexdigest()).write_bytes(CONTENT["a.bin"])
    (blobs / hashlib.sha256(b"{}").hexdigest()).write_bytes(b"[]")
    network = site(CONTENT)

    report = download(network, tmp_path)

    assert [file.how for file in report.files] == ["kept", "fetched", "kept", "copied"]
    assert network.sent == 2
    assert (Path(report.path) / "copy/config.json").read_bytes() == b"{}"


def test_a_new_commit_costs_what_changed(tmp_path: Path) -> None:
    """The old one stays as it was, whole."""
    old = download(site(CONTENT), tmp_path)
    content = {**CONTENT, "config.json": b"new"}
    network = site(content, commit="2" * 40)

    new = download(network, tmp_path, content, commit="2" * 40)

    assert network.sent == 3
    for report, data in ((old, CONTENT), (new, content)):
        assert {path: (Path(report.path) / path).read_bytes() for path in data} == data


def test_what_could_not_be_had_leaves_the_name_where_it_was(tmp_path: Path) -> None:
    """Who looks up the branch offline gets the old commit, not a part of the new one."""
    download(site(CONTENT), tmp_path)
    content = {**CONTENT, "a.bin": payload(2_000_000, 5), "copy/a.bin": payload(2_000_000, 5)}

    def fault(asked: Asked) -> Fault | None:
        return Fault(status=404) if "a.bin" in asked.url else None

    events: list[Event] = []
    network = site(content, commit="2" * 40, fault=fault)
    with pytest.raises(HaulError) as caught:
        download(network, tmp_path, content, commit="2" * 40, on_event=events.append)

    assert isinstance(caught.value, Incomplete)
    root = tmp_path / "hub" / "models--o--n"
    assert (root / "refs" / "main").read_text() == COMMIT
    assert (root / "snapshots" / ("2" * 40) / "config.json").read_bytes() == b"{}"
    failed = {file.path: file.error for file in caught.value.report.files if file.error}
    assert list(failed) == ["a.bin", "copy/a.bin"]
    # The second is a consequence and does not speak for the run.
    assert [type(error) for error in caught.value.report.causes] == [NotFound]
    assert {event.path for event in events if isinstance(event, FileFailed)} == set(failed)


def test_an_interrupted_run_leaves_a_repository_that_their_scan_accepts(tmp_path: Path) -> None:
    """There is a snapshots folder, and the part is ours alone to see.

    The listing is there, by which huggingface_hub 2 knows that something is missing.
    """
    content = {"a.bin": payload(9_000_000)}
    network = site(content, fault=lambda asked: Fault(status=404) if asked.number else None)

    with pytest.raises(HaulError):
        download(network, tmp_path, content)

    root = tmp_path / "hub" / "models--o--n"
    assert (root / "snapshots").is_dir()
    assert (root / "trees" / f"{COMMIT}.json").exists()
    assert not (root / "refs").exists()
    assert any(path.suffix == ".part" for path in (root / ".modelhaul").iterdir())
    assert not (root / "blobs").exists() or not list((root / "blobs").iterdir())


def test_shared_content_comes_from_either_address(tmp_path: Path) -> None:
    """One of the two files cannot be had: the bytes are the other's as well."""
    network = site(
        CONTENT, fault=lambda asked: Fault(status=404) if "=a.bin" in asked.url else None
    )

    report = download(network, tmp_path)

    assert {path: (Path(report.path) / path).read_bytes() for path in CONTENT} == CONTENT


def test_a_local_folder_gets_metadata(tmp_path: Path) -> None:
    """Beside the files, which are copies: no link and no blob anywhere."""
    report = download(site(CONTENT), tmp_path, plain=True)

    books = tmp_path / "m" / ".cache" / "huggingface"
    assert {path: (Path(report.path) / path).read_bytes() for path in CONTENT} == CONTENT
    for path, data in CONTENT.items():
        said = (books / "download" / f"{path}.metadata").read_text().split("\n")
        assert said[:2] == [COMMIT, hashlib.sha256(data).hexdigest()]
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        ".cache",
        "a.bin",
        "config.json",
        "copy",
    ]


def test_a_repository_cannot_bring_metadata_of_its_own(tmp_path: Path) -> None:
    """They would tell the official client anything of the other files."""
    hostile = ".cache/huggingface/download/a.bin.metadata"
    content = {"a.bin": b"good", hostile: b"evil"}

    with pytest.raises(Incomplete) as caught:
        download(site(content), tmp_path, content, plain=True)

    assert [file.path for file in caught.value.report.files if file.error] == [hostile]
    assert b"evil" not in (tmp_path / "m" / hostile).read_bytes()
