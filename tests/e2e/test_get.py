"""`modelhaul get`: plain URLs, mirrors, digests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.world import MODEL, World, last_line

pytestmark = pytest.mark.command

NAME = "model-00001-of-00002.safetensors"
DATA = MODEL[NAME]
SE = "surrogateescape"
DIGEST = hashlib.sha256(DATA).hexdigest()


def url(world: World, name: str = NAME) -> str:
    return f"{world.hub.url}/models/acme/tiny/resolve/master/{name}"


def test_a_url_is_fetched_and_its_digest_printed(world: World) -> None:
    """Without --sha256: size and validator are held, the digest is computed and shown."""
    done = world.run("get", url(world))

    assert done.returncode == 0, done.stderr
    assert last_line(done.stdout) == str(world.work / NAME)
    assert (world.work / NAME).read_bytes() == DATA
    assert f"sha256: {DIGEST}" in done.stderr
    assert list(world.work.iterdir()) == [world.work / NAME]


def test_a_stated_digest_is_checked(world: World) -> None:
    """--sha256 right: verified; wrong: exit 8, and nothing under the name."""
    good = world.run("get", url(world), "-o", "good.bin", "--sha256", DIGEST)
    bad = world.run("get", url(world), "-o", "bad.bin", "--sha256", "0" * 64)

    assert good.returncode == 0, good.stderr
    assert "the file has its SHA-256" in good.stderr
    assert bad.returncode == 8
    assert not (world.work / "bad.bin").exists()
    assert not (world.work / ".modelhaul").exists()


def test_a_digest_of_another_file_is_said_once_and_leaves_nothing(world: World) -> None:
    """The reason once, a hint about what the user gave, and no folder that was made for it."""
    done = world.run("get", url(world), "-o", "new/w.bin", "--sha256", "0" * 64)

    assert done.returncode == 8
    assert done.stderr.count("should be 000") == 1
    assert "is that the SHA-256 of this file?" in last_line(done.stderr)
    assert list(world.work.iterdir()) == []


def test_an_existing_folder_takes_the_file_under_the_urls_name(world: World) -> None:
    """-o FOLDER."""
    (world.work / "weights").mkdir()

    done = world.run("get", url(world), "-o", "weights")

    assert last_line(done.stdout) == str(world.work / "weights" / NAME)


@pytest.mark.parametrize("path", ["new/", "new/deeper/", "new/."])
def test_a_trailing_separator_means_a_folder(world: World, path: str) -> None:
    """-o new/: the folder is made, and the file has the URL's name in it."""
    done = world.run("get", url(world), "-o", path)

    assert done.returncode == 0, done.stderr
    assert last_line(done.stdout) == str(world.work / path / NAME)
    assert (world.work / path / NAME).read_bytes() == DATA


@pytest.mark.parametrize(
    "name", ["we\\ird.bin", ".git", "tab\there", b"\xff.bin".decode(errors=SE)]
)
def test_the_users_own_name_is_not_judged(world: World, name: str) -> None:
    """Only names that come from others can be hostile."""
    done = world.run("get", url(world), "-o", name, "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(last_line(done.stdout))["path"] == str(world.work / name)
    assert (world.work / name).read_bytes() == DATA


def test_a_name_from_the_url_is_judged(world: World) -> None:
    """It may be somebody else's; -o is the way out, and the hint says so."""
    refused = world.run("get", url(world, "%2Egit"))
    state = world.run("get", url(world, ".modelhaul"))
    ours = world.run("get", url(world), "-o", ".modelhaul")

    assert [refused.returncode, state.returncode, ours.returncode] == [9, 9, 2]
    assert "-o PATH" in refused.stderr
    assert "-o PATH" in state.stderr
    assert "our own state" in ours.stderr
    assert list(world.work.iterdir()) == []


def test_a_second_get_of_the_same_file_fetches_nothing(world: World) -> None:
    """With the digest from memory; without it by the validator we stored it under."""
    world.run("get", url(world), "--sha256", DIGEST, "-o", "a")
    world.run("get", url(world), "-o", "b")
    world.hub.seen.clear()

    a = world.run("get", url(world), "--sha256", DIGEST, "-o", "a")
    b = world.run("get", url(world), "-o", "b")

    assert [a.returncode, b.returncode] == [0, 0], a.stderr + b.stderr
    bodies = [seen for seen in world.hub.seen if seen.headers.get("Range") != "bytes=0-0"]
    assert bodies == []


def test_a_file_of_the_user_is_not_overwritten(world: World) -> None:
    """Something else stands there: refused without --force."""
    (world.work / "w").write_text("mine")

    refused = world.run("get", url(world), "-o", "w")
    forced = world.run("get", url(world), "-o", "w", "--force")

    assert refused.returncode == 9
    assert forced.returncode == 0
    assert (world.work / "w").read_bytes() == DATA


def test_mirrors_serve_one_file_together(world: World) -> None:
    """With a digest all addresses are used at once."""
    second = f"{world.hub.url}/api/v1/models/acme/tiny/repo?Revision=master&FilePath={NAME}"

    done = world.run("get", url(world), second, "--sha256", DIGEST, "-o", "w")

    assert done.returncode == 0, done.stderr
    assert (world.work / "w").read_bytes() == DATA
    paths = {seen.path for seen in world.hub.seen if seen.server == "hub"}
    assert len(paths) == 2


def test_a_dead_mirror_is_named_and_not_missed(world: World) -> None:
    """404 at one of two addresses: a note, and the file arrives from the other."""
    done = world.run("get", url(world, "gone.bin"), url(world), "-o", "w")

    assert done.returncode == 0, done.stderr
    assert (world.work / "w").read_bytes() == DATA
    assert "not used" in done.stderr


def test_mirrors_that_disagree_are_not_mixed(world: World) -> None:
    """Without a digest, two sizes are two files: the first one's bytes only."""
    done = world.run("get", url(world), url(world, "tokenizer.json"), "-o", "w")

    assert done.returncode == 0, done.stderr
    assert (world.work / "w").read_bytes() == DATA
    assert "do not state the same file" in done.stderr


def test_headers_are_sent_to_the_first_origin_only(world: World) -> None:
    """A key in --header does not follow the redirect to the store."""
    world.run("get", url(world), "--header", "X-Key: secret", "-o", "w")

    hub = [seen for seen in world.hub.seen if seen.server == "hub"]
    store = [seen for seen in world.hub.seen if seen.server == "cdn"]
    assert all(seen.headers["X-Key"] == "secret" for seen in hub)
    assert store
    assert all("X-Key" not in seen.headers for seen in store)


def test_a_file_without_a_stated_length_is_streamed(world: World) -> None:
    """Chunked, no ranges, no length: one stream, hashed on the way."""

    class Chunked(web.StreamResponse):
        async def prepare(self, request):  # type: ignore[no-untyped-def]
            writer = await super().prepare(request)
            await self.write(DATA)
            await self.write_eof()
            return writer

    def serve(request: web.Request) -> web.StreamResponse | None:
        if request.path != "/stream":
            return None
        answer = Chunked()
        answer.enable_chunked_encoding()
        return answer

    world.hub.fault = serve

    done = world.run("get", f"{world.hub.url}/stream", "-o", "w")

    assert done.returncode == 0, done.stderr
    assert (world.work / "w").read_bytes() == DATA
    assert DIGEST in done.stderr


def test_an_empty_file_is_a_file(world: World) -> None:
    """416 for the first range of nothing: an empty file, not an error."""
    done = world.run("get", url(world, "empty.txt"), "-o", "w")

    assert done.returncode == 0, done.stderr
    assert (world.work / "w").read_bytes() == b""


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["get", "{}/nothing"], 4, "404"),
        (["get", "ftp://host/x"], 2, "not an http"),
        (["get", "{}/"], 2, "no file name"),
        (["get", "{}/x", "--sha256", "12"], 2, "64 hexadecimal digits"),
        (["get", "{}/x", "--header", "nonsense"], 2, "Name: value"),
        (["get"], 2, "URL"),
    ],
)
def test_bad_input_is_a_clear_error(
    world: World, arguments: list[str], code: int, says: str
) -> None:
    """One or two lines, the right exit code, no traceback."""
    done = world.run(*(argument.format(world.hub.url) for argument in arguments))

    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert not list(Path(world.work).iterdir())
