"""The benchmark's hub: what `hf download` and modelhaul rely on."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from aiohttp.test_utils import TestClient, TestServer

from benchmarks.hub import LARGE, made_up, make_app
from benchmarks.stock import Stock, what_is_wrong
from modelhaul.hubs.modelscope import TRUNCATED_AT


def catalogue(folder: Path) -> dict[str, list[tuple[str, int, str, str]]]:
    """One large and one small file."""
    stock = Stock(folder)
    blobs = {"a.bin": stock.blob(LARGE), "b.json": stock.blob(100)}
    rows = [(name, it.size, it.sha256, str(it.place)) for name, it in blobs.items()]
    return {"bench/model": rows}


def test_a_large_file_is_a_redirect_with_its_digest(tmp_path: Path) -> None:
    """With the headers that huggingface_hub reads from a HEAD."""
    rows = catalogue(tmp_path)

    async def main() -> None:
        app = make_app(rows, "http://store")
        async with TestClient(TestServer(app)) as client:
            answer = await client.head("/bench/model/resolve/main/a.bin", allow_redirects=False)
            sha256 = rows["bench/model"][0][2]
            assert answer.status == 302
            assert answer.headers["Location"].startswith(f"http://store/blob/{sha256}?")
            assert answer.headers["X-Linked-Etag"] == f'"{sha256}"'
            assert answer.headers["X-Linked-Size"] == str(LARGE)
            assert len(answer.headers["X-Repo-Commit"]) == 40

    asyncio.run(main())


def test_a_small_file_is_sent_with_its_git_id(tmp_path: Path) -> None:
    """As both real hubs do with what is in git itself."""
    rows = catalogue(tmp_path)

    async def main() -> None:
        async with TestClient(TestServer(make_app(rows, "http://store"))) as client:
            answer = await client.get("/bench/model/resolve/main/b.json")
            body = await answer.read()
            git = hashlib.sha1(b"blob 100\0" + body, usedforsecurity=False).hexdigest()
            assert hashlib.sha256(body).hexdigest() == rows["bench/model"][1][2]
            assert answer.headers["ETag"] == f'"{git}"'

    asyncio.run(main())


def test_the_tree_comes_in_pages() -> None:
    """A thousand at a time, the next one in `Link`."""

    async def main() -> None:
        async with TestClient(TestServer(make_app({"bench/model": 1500}, "http://s"))) as client:
            first = await client.get("/api/models/bench/model/tree/main?recursive=true")
            second = await client.get(first.links["next"]["url"].relative())
            assert len(await first.json()) == 1000
            assert len(await second.json()) == 500
            assert "next" not in second.links

    asyncio.run(main())


def test_made_up_files_fit_into_listings() -> None:
    """No folder has so many that ModelScope would cut it."""
    folders = [path.partition("/")[0] for path, *_ in made_up(10_000)]

    assert max(folders.count(folder) for folder in set(folders)) < TRUNCATED_AT


def test_wrong_bytes_are_noticed(tmp_path: Path) -> None:
    """What every run is checked for, sparse files included."""
    blob = Stock(tmp_path).blob(9 << 20, sparse=True)

    assert what_is_wrong(blob.place.parent, {blob.place.name: blob.sha256}) is None
    with blob.place.open("r+b") as file:
        file.seek(8 << 20)
        file.write(b"x")
    assert "wrong bytes" in str(what_is_wrong(blob.place.parent, {blob.place.name: blob.sha256}))
    assert "missing" in str(what_is_wrong(tmp_path, {"other": blob.sha256}))
