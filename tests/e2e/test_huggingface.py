"""The installed command against a small Hugging Face hub whose store is at another origin."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from anyio.from_thread import start_blocking_portal

from modelhaul.net.transport import Redirect
from modelhaul.server.serve import running
from tests.hubs.fakehf import COMMIT, FakeHf, refusal
from tests.support.hfsite import lfs_or_git
from tests.support.world import World, content, last_line, tree

FILES = {
    "config.json": b'{"model_type": "tiny"}\n',
    "empty.txt": b"",
    "vocab.txt": content(1_500_000, 5),
    "sub dir/\u6a21\u578b+a&b.txt": content(1234, 6),
    "model.bin": content(6_000_001, 7),
}


@dataclass
class Hub:
    """A hub with the repository `o/n`.

    Attributes:
        root: holds its files.
        lifetime: seconds for which a signed address works.
        calls: what answers about the repository.
        url: its address; `store` that of the place where LFS files are.
        seen: origin's name, path and Authorization of every request for bytes or about them.
    """

    root: Path
    lifetime: float = 3600.0
    calls: FakeHf = field(default_factory=lambda: FakeHf({}))
    url: str = ""
    store: str = ""
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    refused: int = 0

    def put(self, files: dict[str, bytes]) -> None:
        for path, data in files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(data)
        self.calls.files = {path: len(data) for path, data in files.items()}
        self.calls.row = lambda path, size: lfs_or_git(path, (self.root / path).read_bytes())

    def hub_app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/{call:.*}", self._call)
        app.router.add_get("/o/n/resolve/{commit}/{path:.+}", self._file)
        return app

    def store_app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{path:.+}", self._stored)
        return app

    def bytes_asked(self) -> list[tuple[str, str, str | None]]:
        return [seen for seen in self.seen if not seen[1].startswith("/api/")]

    async def _call(self, request: web.Request) -> web.Response:
        self._note("hub", request)
        answer = await self.calls.call(str(request.url), headers=dict(request.headers), limit=0)
        assert not isinstance(answer, Redirect)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        self._note("hub", request)
        path = request.match_info["path"]
        if request.match_info["commit"] != COMMIT:
            return web.Response(status=404)
        if not path.endswith(".bin"):
            return web.FileResponse(self.root / path)
        until = time.time() + self.lifetime
        raise web.HTTPFound(f"{self.store}/{path}?Until={until:.3f}")

    async def _stored(self, request: web.Request) -> web.StreamResponse:
        self._note("store", request)
        if float(request.query["Until"]) < time.time():
            self.refused += 1
            return web.Response(status=403)
        if "Range" not in request.headers:
            return web.Response(status=400)  # as the Hub's CDN does for the largest files
        return web.FileResponse(self.root / request.match_info["path"])

    def _note(self, server: str, request: web.Request) -> None:
        self.seen.append((server, request.path, request.headers.get("Authorization")))


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Both servers on loopback, on ports of their own: two origins."""
    with start_blocking_portal() as portal:
        store = running(hub.store_app(), "127.0.0.1", 0)
        with portal.wrap_async_context_manager(store) as hub.store:
            main = running(hub.hub_app(), "127.0.0.1", 0)
            with portal.wrap_async_context_manager(main) as hub.url:
                yield hub


@pytest.fixture
def hub(world: World, tmp_path: Path) -> Iterator[Hub]:
    """A hub that holds `o/n`, and a machine that is set up for it."""
    with serving(Hub(tmp_path / "hf")) as hub:
        hub.put(FILES)
        world.extra["HF_ENDPOINT"] = hub.url
        world.extra["HF_HOME"] = str(world.home / "hf")
        yield hub


def test_a_repository_arrives_and_is_not_fetched_again(world: World, hub: Hub) -> None:
    """Small, large, in LFS and in git; the saved token goes to the hub and not to its store."""
    (world.home / "hf").mkdir()
    (world.home / "hf" / "token").write_text("hf_saved\n")
    hub.calls.gated, hub.calls.token = "auto", "hf_saved"

    first = world.run("download", "hf:o/n", "--local-dir", "d")
    asked = len(hub.bytes_asked())
    second = world.run("download", "hf:o/n", "--local-dir", "d")

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert {path: (world.work / "d" / path).read_bytes() for path in FILES} == FILES
    assert last_line(first.stdout) == str(world.work / "d")
    assert "every file has its SHA-256 or git name" in first.stderr
    assert {(server, token) for server, _, token in hub.seen} == {
        ("hub", "Bearer hf_saved"),
        ("store", None),
    }
    assert asked > 0
    assert len(hub.bytes_asked()) == asked
    assert world.hub.seen == []


def test_addresses_that_end_every_second_are_no_trouble(world: World, hub: Hub) -> None:
    """The store answers 403 when one has ended; the download goes through all the same."""
    hub.put({"w.bin": content(20_000_000, 8)})
    hub.lifetime = 1.0

    done = world.run(
        "download", "hf:o/n", "--local-dir", "d", "--limit-rate", "4MB", "--connections", "2"
    )

    assert done.returncode == 0, done.stderr
    assert (world.work / "d" / "w.bin").read_bytes() == content(20_000_000, 8)
    assert len([seen for seen in hub.bytes_asked() if seen[0] == "hub"]) > 1
    assert hub.refused > 0


@pytest.mark.parametrize("place", ["cache", "folder", "path"])
def test_a_tree_is_checked_and_repaired(world: World, hub: Hub, place: str) -> None:
    """Right: 0. Bytes changed, a file gone: 8, all named. --repair fetches these and no others."""
    words = ["hf:o/n", "--local-dir", "d"] if place == "folder" else ["hf:o/n"]
    first = world.run("download", *words)
    root = Path(last_line(first.stdout))
    if place == "path":
        words = [str(root)]
    right = world.run("verify", *words)
    for name in ("model.bin", "vocab.txt"):
        data = (root / name).read_bytes()
        (root / name).write_bytes(bytes([data[0] ^ 1]) + data[1:])
    (root / "config.json").unlink()
    hub.seen.clear()

    wrong = world.run("verify", *words)
    asked = hub.bytes_asked()
    repaired = world.run("verify", *words, "--repair")

    assert (right.returncode, wrong.returncode, repaired.returncode) == (0, 8, 0), wrong.stderr
    assert "every file has its SHA-256 or git name" in right.stderr
    assert last_line(right.stdout) == str(root)
    assert "wrong: model.bin (its SHA-256 is another)" in wrong.stderr
    assert "wrong: vocab.txt (its git name is another)" in wrong.stderr
    assert "missing: config.json" in wrong.stderr
    assert asked == []
    brought = {path.rpartition("/")[2] for _, path, _ in hub.bytes_asked()}
    # In the cache only the name was gone.
    assert brought == {"model.bin", "vocab.txt"} | ({"config.json"} if place == "folder" else set())
    assert {path: (root / path).read_bytes() for path in FILES} == FILES


def test_a_pasted_page_is_the_file_that_it_shows(world: World, hub: Hub) -> None:
    """It names the hub and the file; the site is the one that is set up for that hub."""
    page = "https://huggingface.co/o/n/blob/main/config.json"

    done = world.run("download", page, "--local-dir", "d", "--json")

    assert done.returncode == 0, done.stderr
    assert [path for path in tree(world.work / "d") if not path.startswith(".")] == ["config.json"]
    last = json.loads(last_line(done.stdout))
    assert last["path"] == str(world.work / "d")


def test_what_the_hub_refuses_names_the_page_to_visit(world: World, hub: Hub) -> None:
    """Missing, gated, and of another kind: exit code 4, told apart."""
    hub.calls.gated, hub.calls.token = "manual", "hf_1"

    missing = world.run("download", "hf:o/nothing")
    gated = world.run("download", "hf:o/n")
    dataset = world.run("download", "o/n", "--hub", "huggingface", "--repo-type", "dataset")
    hub.calls.override = lambda url: refusal(403, "", "Access to this resource is disabled.")
    disabled = world.run("download", "hf:o/n")

    assert [done.returncode for done in (missing, gated, dataset, disabled)] == [4] * 4
    assert f"is it at {hub.url}/o/nothing?" in missing.stderr
    assert f"ask for access at {hub.url}/o/n" in gated.stderr
    assert f"use --repo-type model: {hub.url}/o/n" in dataset.stderr
    assert f"{hub.url}/o/n may say why" in disabled.stderr
    assert hub.bytes_asked() == []


def room_taken(folder: Path) -> int:
    """Bytes of disk that the files below a folder take, however many names each has (`du`)."""
    found = [path.lstat() for path in folder.rglob("*") if path.is_file()]
    return sum({status.st_ino: status.st_blocks * 512 for status in found}.values())


@pytest.mark.usefixtures("usual_umask")
def test_equal_weights_of_two_repositories_take_room_once(world: World) -> None:
    """Not fetched and not written a second time; both are whole by themselves."""
    world.extra["HF_ENDPOINT"] = world.hub.url
    weights = content(20_000_000, 9)
    world.put("acme/one", {"model.safetensors": weights, "config.json": b"1"})
    world.put("acme/two", {"sub/w.safetensors": weights, "config.json": b"2"})
    cache = world.home / ".cache" / "huggingface" / "hub"

    first = world.run("download", "hf:acme/one")
    before = room_taken(cache)
    world.hub.seen.clear()
    second = world.run("download", "hf:acme/two")
    checks = [world.run("verify", f"hf:acme/{name}") for name in ("one", "two")]

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert not [seen for seen in world.hub.seen if seen.server == "cdn"]
    one = Path(last_line(first.stdout)) / "model.safetensors"
    two = Path(last_line(second.stdout)) / "sub" / "w.safetensors"
    assert one.samefile(two)
    assert two.read_bytes() == weights
    assert before > len(weights)
    assert room_taken(cache) - before < 1_000_000
    assert [done.returncode for done in checks] == [0, 0]
    assert not list(cache.glob("*/.modelhaul"))
