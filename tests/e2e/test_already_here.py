"""What one hub's tools have brought is not fetched from the other: the installed command."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.lives import Log
from tests.support.world import MODEL, World, last_line, tree

pytestmark = pytest.mark.command

BOTH_WAYS = pytest.mark.parametrize(
    ("first", "then"), [("hf:acme/tiny", "ms:acme/tiny"), ("ms:acme/tiny", "hf:acme/tiny")]
)
WEIGHTS = "model-00001-of-00002.safetensors"
#: What has bytes that can be sent.
SENT = {path for path, data in MODEL.items() if data}


@pytest.fixture
def world(world: World) -> World:
    """A machine whose one hub speaks both protocols."""
    world.extra["HF_ENDPOINT"] = world.hub.url
    return world


def download(world: World, repo: str, log: Log) -> tuple[Path, Counter[str], str]:
    """Bring a repository to its cache: where it is, bytes that were sent, what was said."""
    done = world.run("download", repo)
    assert done.returncode == 0, done.stderr
    sent: Counter[str] = Counter()
    for entry in log.more():
        sent[entry["path"]] += entry["sent"]
    return Path(last_line(done.stdout)), sent, done.stderr


@BOTH_WAYS
def test_only_what_differs_is_fetched(world: World, first: str, then: str) -> None:
    """By the server's log: one small file is newer on the other hub, all else is here."""
    log, newer = Log(world.hub), {**MODEL, "config.json": b'{"model_type": "newer"}\n'}
    old, all_, _ = download(world, first, log)
    world.put("acme/tiny", newer)

    new, sent, said = download(world, then, log)

    assert {*all_} == SENT
    assert sent == {"config.json": len(newer["config.json"])}
    assert tree(new) == newer
    assert tree(old) == MODEL
    assert "on this disk already: will be copied from" in said


def test_who_wants_it_from_the_network_gets_it_from_there(world: World) -> None:
    """MODELHAUL_REUSE=0: everything comes once more."""
    log = Log(world.hub)
    download(world, "hf:acme/tiny", log)
    world.extra["MODELHAUL_REUSE"] = "0"

    folder, sent, _ = download(world, "ms:acme/tiny", log)

    assert {*sent} == SENT
    assert all(sent[path] >= len(MODEL[path]) for path in SENT)
    assert tree(folder) == MODEL


@BOTH_WAYS
def test_a_changed_byte_in_what_is_here_is_noticed(world: World, first: str, then: str) -> None:
    """A blob is still named for what it was: noticed while it is copied, fetched instead, and said.

    Of a file in a snapshot nothing was promised: it is hashed before it is counted on.
    """
    log = Log(world.hub)
    held, _, _ = download(world, first, log)
    with (held / WEIGHTS).open("r+b") as file:
        file.seek(1_000_000)
        file.write(bytes([MODEL[WEIGHTS][1_000_000] ^ 1]))

    folder, sent, said = download(world, then, log)

    assert {*sent} == {WEIGHTS}
    assert sent[WEIGHTS] >= len(MODEL[WEIGHTS])
    assert tree(folder) == MODEL
    assert ("it is fetched instead" in said) is (first == "hf:acme/tiny")
