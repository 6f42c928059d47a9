"""`modelhaul download --source`: the installed command, one file from two hubs on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from modelhaul.server.body import parse_range
from tests.support import hub as hubs
from tests.support.lives import Log
from tests.support.payload import older
from tests.support.world import World, content, machine, tree

pytestmark = pytest.mark.command

RATE = 20_000_000  # bytes/s of one answer: both hubs have the time to send some
FILES = {
    "config.json": b'{"model_type": "tiny"}\n',
    "a.safetensors": content(24_000_000, 1),
    "b.safetensors": content(8_000_001, 2),
}
#: The same names; one file is of the same size, and one is the same.
OLDER = {
    "config.json": b'{"model_type": "older"}\n',
    "a.safetensors": older(FILES["a.safetensors"]),
    "b.safetensors": FILES["b.safetensors"],
}
#: What `--source` is given for the other hub: its repository, whatever has the same name there, a
#: mirror, a folder of files.
SOURCES = {
    "repository": "hf:acme/tiny",
    "auto": "auto",
    "mirror": "{url}",
    "folder": "{url}/acme/tiny/resolve/main",
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A machine in front of a hub with a model."""
    with machine(tmp_path, rate=RATE) as world:
        world.put("acme/tiny", FILES)
        yield world


@pytest.fixture
def other(world: World, tmp_path: Path) -> Iterator[hubs.TestHub]:
    """A second hub with the same model, which stands for that of Hugging Face."""
    with hubs.hub_with({"acme/tiny": FILES}, tmp_path / "other", rate=RATE) as other:
        world.extra["HF_ENDPOINT"] = other.url
        yield other


def download(world: World, other: hubs.TestHub, source: str) -> subprocess.CompletedProcess[str]:
    """Bring the model to the folder `m`."""
    place = SOURCES[source].format(url=other.url)
    return world.run("download", "acme/tiny", "--local-dir", "m", "--source", place)


def sent(hub: hubs.TestHub) -> Counter[str]:
    """Bytes of each file that a hub has sent."""
    count: Counter[str] = Counter()
    for entry in Log(hub).more():
        count[entry["path"]] += entry["sent"]
    return count


@pytest.mark.parametrize("source", SOURCES)
def test_both_places_send_what_is_wanted(world: World, other: hubs.TestHub, source: str) -> None:
    """However the second one is named: by both hubs' logs each brought some of the weights."""
    done = download(world, other, source)

    assert done.returncode == 0, done.stderr
    assert tree(world.work / "m") == FILES
    for hub in (world.hub, other):
        count = sent(hub)
        assert count["a.safetensors"] + count["b.safetensors"] > 0
    assert "not used" not in done.stderr


@pytest.mark.fault(
    "a second source has an older revision under the same name, and says so",
    "not one byte of what differs is asked for there",
    number=27,
)
@pytest.mark.parametrize("source", ["repository", "auto", "mirror"])
def test_an_older_revision_is_left_out_by_its_digests(
    world: World, other: hubs.TestHub, source: str
) -> None:
    """Its listing has another digest; what is the same in both may come from there."""
    hubs.put(other.root, "acme/tiny", OLDER)

    done = download(world, other, source)

    assert done.returncode == 0, done.stderr
    assert tree(world.work / "m") == FILES
    assert {*sent(other)} == {"b.safetensors"}
    assert "has 1 of 3 files" in done.stderr


@pytest.mark.fault(
    "a folder has an older revision under the same name, and nobody states its digests",
    "repaired from the hub, and named",
    number=(27, 30),
)
def test_wrong_bytes_of_a_folder_are_repaired_and_named(world: World, other: hubs.TestHub) -> None:
    """Most bytes of it are right, so that only the digest of the whole can tell."""
    hubs.put(other.root, "acme/tiny", OLDER)

    done = download(world, other, "folder")

    assert done.returncode == 0, done.stderr
    assert tree(world.work / "m") == FILES
    assert sent(other)["a.safetensors"] > 0
    place = SOURCES["folder"].format(url=other.url)
    assert f"{place} sent wrong bytes of a.safetensors" in done.stderr
    assert "wrong bytes of b.safetensors" not in done.stderr


class Killed:
    """A hub that dies in the middle of an answer of its store, with all that is under way.

    Attributes:
        half: bytes of that answer.
    """

    def __init__(self) -> None:
        self.half = 0
        self._connections: list[asyncio.Transport] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse | None:
        assert request.transport is not None
        self._connections.append(request.transport)
        if not self.half:
            if not request.path.startswith("/blob/"):
                return None
            self.half = await self._begin(request)
        for connection in self._connections:
            connection.abort()
        return web.Response(status=503)  # which nobody hears

    async def _begin(self, request: web.Request) -> int:
        """Send the first half of what is asked for."""
        (data,) = (data for data in FILES.values() if sha256(data) == request.path[-64:])
        span = parse_range(request.headers["Range"], len(data))
        assert span is not None
        place = f"bytes {span.start}-{span.stop - 1}/{len(data)}"
        answer = web.StreamResponse(status=206, headers={"Content-Range": place})
        answer.content_length = span.length
        await answer.prepare(request)
        await answer.write(data[span.start : span.start + span.length // 2])
        return span.length // 2


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.fault(
    "one of two sources is killed half-way", "the right bytes, exit 0, and a line that names it"
)
@pytest.mark.parametrize("victim", ["the hub", "the source"])
def test_a_source_that_is_killed_half_way_is_named(
    world: World, other: hubs.TestHub, victim: str
) -> None:
    """Whichever it is; what it would have brought comes from the other."""
    dead = world.hub if victim == "the hub" else other
    dead.fault = killed = Killed()

    done = download(world, other, "mirror")

    assert done.returncode == 0, done.stderr
    assert tree(world.work / "m") == FILES
    assert killed.half > 0
    assert f"note: source {dead.url} " in done.stderr
