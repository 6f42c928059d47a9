"""`await modelhaul.download()` in programs: plain asyncio and uvloop, cancelled, shared, twice."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from aiohttp import web

import modelhaul
from modelhaul import Client, Settings, events
from tests.support.world import MODEL, World, content, tree

T = TypeVar("T")
Runner = Callable[[Callable[[], Awaitable[Any]]], Any]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Runs an async function on one of the loops."""
    return lambda main: anyio.run(main, backend_options={"use_uvloop": request.param})


@pytest.fixture
def settings(world: World, tmp_path: Path) -> Settings:
    """Settings for the test's hub and nothing of this machine."""
    return Settings(
        endpoint=world.hub.url,
        home=tmp_path / "home" / ".modelscope",
        cache_dir=tmp_path / "cache",
        state_dir=tmp_path / "state",
    )


def sockets() -> int:
    """Open sockets of this process."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except FileNotFoundError:
            continue
    return found


async def settled(goal: int = 0) -> int:
    """Open descriptors, once the hub (a thread of this process) has closed its ends too."""
    found = len(os.listdir("/proc/self/fd"))
    for _ in range(40):
        await asyncio.sleep(0.01)
        found = len(os.listdir("/proc/self/fd"))
        if 0 < found <= goal:
            break
    return found


def test_a_download_returns_a_report_that_is_a_path(
    world: World, settings: Settings, run: Runner, tmp_path: Path
) -> None:
    """os.PathLike of the folder, with a result per file."""

    async def main() -> modelhaul.Report:
        async with Client(settings) as client:
            return await client.download("acme/tiny", local_dir=tmp_path / "m")

    report = run(main)

    assert os.fspath(report) == str(tmp_path / "m")
    assert tree(Path(report)) == MODEL
    assert {file.path: file.size for file in report.files} == {
        path: len(data) for path, data in MODEL.items()
    }
    assert report.verified
    assert report.fetched == sum(map(len, MODEL.values()))
    assert report.commit is not None


class Silent(web.StreamResponse):
    """A range that stops in the middle; the connection stays open until the client closes it."""

    def __init__(self, data: bytes, start: int, stop: int) -> None:
        super().__init__(status=206)
        self.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self.content_length = stop - start
        self._some = data[start : start + 100_000]

    async def write_eof(self, data: bytes = b"") -> None:
        await self.write(self._some)
        assert self._req is not None
        # aiohttp has nothing to wait for when a client closes in the middle of an answer.
        while not (self._req.transport is None or self._req.transport.is_closing()):  # noqa: ASYNC110
            await anyio.sleep(0.02)
        self.force_close()


def test_a_connection_that_falls_silent_at_the_end_is_overtaken(
    world: World, settings: Settings, run: Runner, tmp_path: Path
) -> None:
    """Its last bytes come over a second connection, into the same file."""
    data = content(9_000_000, 7)
    world.put("acme/late", {"model.bin": data})
    stalled: list[str] = []

    def stall(request: web.Request) -> web.StreamResponse | None:
        start, _, last = request.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not request.path.startswith("/blob/") or not int(start or 0) or stalled:
            return None
        stalled.append(start)
        return Silent(data, int(start), int(last) + 1)

    world.hub.fault = stall
    seen: list[events.Event] = []

    async def main() -> modelhaul.Report:
        async with Client(settings) as client:
            return await client.download(
                "acme/late", local_dir=tmp_path / "m", on_event=seen.append
            )

    report = run(main)

    assert tree(Path(report)) == {"model.bin": data}
    assert stalled
    reasons = [event.reason for event in seen if isinstance(event, events.Retrying)]
    assert reasons == ["a second connection goes on in its place"]


def test_events_are_handed_to_a_callable(
    world: World, settings: Settings, run: Runner, tmp_path: Path
) -> None:
    """Resolved, planned, files, finished: in this order."""
    seen: list[events.Event] = []

    async def main() -> None:
        async with Client(settings) as client:
            await client.download("acme/tiny", local_dir=tmp_path / "m", on_event=seen.append)

    run(main)

    kinds = [type(event) for event in seen if not isinstance(event, events.Progress)]
    assert kinds[:2] == [events.Resolved, events.Planned]
    assert kinds[-1] is events.Finished
    assert kinds.count(events.FileDone) == len(MODEL)


@pytest.mark.fault("a callback raises at every event", "it is logged, the files arrive", number=119)
def test_a_listener_that_fails_does_not_cost_the_download(
    world: World, settings: Settings, run: Runner, tmp_path: Path
) -> None:
    """It is logged once, and the files arrive."""

    def broken(event: events.Event) -> None:
        raise RuntimeError("a bug in somebody's view")

    async def main() -> None:
        async with Client(settings) as client:
            await client.download("acme/tiny", local_dir=tmp_path / "m", on_event=broken)

    run(main)

    assert tree(tmp_path / "m") == MODEL


def test_downloads_of_one_client_share_its_limits(
    world: World, settings: Settings, run: Runner, tmp_path: Path
) -> None:
    """Two at once on a client with three connections: never more than three bodies at once."""
    world.put("acme/other", {"w.bin": content(9_000_000, 7)})
    most = 0

    def watch(event: events.Event) -> None:
        nonlocal most
        if isinstance(event, events.Progress):
            most = max(most, event.statistics.connections)

    async def main() -> list[modelhaul.Report]:
        async with Client(settings, connections=3, limit_rate=30e6) as client:
            return await asyncio.gather(
                client.download("acme/tiny", local_dir=tmp_path / "a", on_event=watch),
                client.download("acme/other", local_dir=tmp_path / "b", on_event=watch),
            )

    reports = run(main)

    assert all(report.verified for report in reports)
    assert 1 <= most <= 3


def test_the_functions_share_a_default_client_that_needs_no_closing(
    world: World, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`modelhaul.download` and `modelhaul.get`: no session, socket or task is left behind."""
    # The default client reads the environment: that is its interface, and this the only way in.
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", world.hub.url)
    monkeypatch.setenv("MODELHAUL_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(world.home))
    url = f"{world.hub.url}/models/acme/tiny/resolve/master/tokenizer.json"

    async def main() -> tuple[int, int]:
        before = sockets()
        await asyncio.gather(
            modelhaul.download("acme/tiny", local_dir=tmp_path / "m"),
            modelhaul.get(url, path=tmp_path / "t.json"),
        )
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) == 1
        return before, sockets()

    before, after = run(main)
    gc.collect()

    assert after == before
    assert tree(tmp_path / "m") == MODEL
    assert (tmp_path / "t.json").read_bytes() == MODEL["tokenizer.json"]


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1, 0.35])
def test_a_cancelled_download_leaks_nothing_and_resumes(
    world: World, settings: Settings, run: Runner, tmp_path: Path, delay: float
) -> None:
    """Cancelled after a moment: no task, socket or descriptor; the next call continues."""
    world.put("acme/large", {"w.bin": content(40_000_000, 5), "s.txt": b"small"})

    async def main() -> None:
        async with Client(settings, limit_rate=60e6) as client:
            await client.plan("acme/large", local_dir=tmp_path / "m")
            await client.aclose()
            before = await settled()
            task = asyncio.ensure_future(client.download("acme/large", local_dir=tmp_path / "m"))
            await asyncio.sleep(delay)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await client.aclose()
            assert await settled(before) <= before
            report = await client.download("acme/large", local_dir=tmp_path / "m")
            assert report.verified

    run(main)

    assert set(tree(tmp_path / "m")) == {"w.bin", "s.txt"}


def test_a_plan_is_the_dry_run(
    world: World, settings: Settings, run: Runner, tmp_path: Path
) -> None:
    """What would be done, by file, and nothing is fetched."""

    async def main() -> modelhaul.Plan:
        async with Client(settings) as client:
            return await client.plan("acme/tiny", include="*.json", local_dir=tmp_path / "m")

    plan = run(main)

    assert {file.file.path for file in plan} == {"config.json", "tokenizer.json"}
    assert all(file.action is modelhaul.Action.FETCH for file in plan)
    assert not (tmp_path / "m").exists()
    assert world.hub.files_asked() == []


@pytest.mark.fault(
    "a repository has the same content twice, and one of them cannot be had",
    "fetched once, from the other; copied",
    number=116,
)
def test_equal_files_are_sources_of_one_another(
    world: World, settings: Settings, run: Runner, tmp_path: Path
) -> None:
    """Two paths with one digest: if one cannot be read, the other serves both."""
    data = content(50_000, 7)
    world.put("acme/twins", {"a.bin": data, "b.bin": data})
    world.hub.fault = lambda request: (
        web.Response(status=404) if request.query.get("FilePath") == "a.bin" else None
    )

    async def main() -> modelhaul.Report:
        async with Client(settings) as client:
            return await client.download("acme/twins", local_dir=tmp_path / "m")

    report = run(main)

    assert sorted(file.how for file in report.files) == ["copied", "fetched"]
    assert tree(tmp_path / "m") == {"a.bin": data, "b.bin": data}


def test_missing_files_are_an_error_that_carries_the_report(
    world: World, settings: Settings, run: Runner, tmp_path: Path
) -> None:
    """Incomplete: which came and which did not."""
    world.hub.fault = lambda request: (
        web.Response(status=404) if request.query.get("FilePath") == "README.md" else None
    )

    async def main() -> modelhaul.Incomplete:
        async with Client(settings) as client:
            with pytest.raises(modelhaul.Incomplete) as caught:
                await client.download("acme/tiny", local_dir=tmp_path / "m")
        return caught.value

    error = run(main)

    failed = [file for file in error.report.files if file.error is not None]
    assert [file.path for file in failed] == ["README.md"]
    assert isinstance(failed[0].error, modelhaul.NotFound)


def test_a_path_with_a_trailing_separator_is_a_folder(
    world: World, settings: Settings, run: Runner, tmp_path: Path
) -> None:
    """As on the command line; a path object cannot say it."""
    url = f"{world.hub.url}/models/acme/tiny/resolve/master/tokenizer.json"

    async def main() -> modelhaul.Report:
        async with Client(settings) as client:
            return await client.get(url, path=f"{tmp_path}/new/")

    report = run(main)

    assert os.fspath(report) == str(tmp_path / "new" / "tokenizer.json")


def test_a_setting_that_makes_no_sense_is_refused_by_name(settings: Settings) -> None:
    """Before anything is opened."""
    with pytest.raises(modelhaul.UsageError, match="connections"):
        Client(settings, connections=0)


def test_a_setting_that_does_not_exist_is_refused_with_the_nearest_one(settings: Settings) -> None:
    """A typo is a wrong call like any other, not an error of dataclasses."""
    with pytest.raises(modelhaul.UsageError, match="conections") as caught:
        Client(settings, conections=3)  # type: ignore[call-arg]

    assert caught.value.hint == "did you mean connections?"
