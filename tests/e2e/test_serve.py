"""`modelhaul serve`, the installed command."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.world import MODEL, World, tree

pytestmark = pytest.mark.command


@contextmanager
def serving(world: World, *arguments: str | Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server for the world's hub folder; gives its address."""
    server = world.start("serve", world.hub.root, "--port", "0", *arguments)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip(), server
    finally:
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=10)
        assert server.returncode == 0, errors
        assert "Traceback" not in errors


def test_a_served_folder_is_downloaded(world: World) -> None:
    """The first line on stdout is the address; it works as an endpoint."""
    with serving(world) as (url, _):
        done = world.run("download", "acme/tiny", "--endpoint", url, "--local-dir", "m")

    assert done.returncode == 0, done.stderr
    assert tree(world.work / "m") == MODEL


def test_redirects_a_rate_limit_and_a_request_log_for_trying_things_out(world: World) -> None:
    """--cdn, --limit-rate and --request-log, as the demo uses them."""
    log = world.work / "log.jsonl"
    world.extra["MODELHAUL_REUSE"] = "0"
    with serving(world, "--cdn", "--limit-rate", "20MB", "--request-log", log) as (url, _):
        done = world.run("download", "acme/tiny", "--endpoint", url, "--local-dir", "m")

    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    size = sum(map(len, MODEL.values()))
    # a connection that gave up a part of its range had some of it on the way already
    assert size <= sum(entry["sent"] for entry in entries) <= size + 4 * (1 << 20)


def test_a_token_hides_everything_from_others(world: World) -> None:
    """--token: 404 without it."""
    with serving(world, "--token", "ms-good") as (url, _):
        hidden = world.run("download", "acme/tiny", "--endpoint", url, "--local-dir", "a")
        shown = world.run(
            "download", "acme/tiny", "--endpoint", url, "--local-dir", "b", "--token", "ms-good"
        )

    assert [hidden.returncode, shown.returncode] == [4, 0]


def test_what_is_served_is_told(world: World) -> None:
    """Repositories and revisions, and how to use the address."""
    world.put("acme/tiny@v1.0.0", {"config.json": b"old\n"})
    world.put("datasets/acme/ds", {"d.txt": b"1"})
    server = world.start("serve", world.hub.root, "--port", "0")
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    server.send_signal(signal.SIGINT)
    _, errors = server.communicate(timeout=10)

    assert "model acme/tiny (master, v1.0.0)" in errors
    assert "dataset acme/ds (master)" in errors
    assert f"MODELSCOPE_ENDPOINT={url}" in errors
    assert server.returncode == 0


@pytest.mark.parametrize(
    ("inner", "says"),
    [
        ("acme/tiny", "{hub}/acme/tiny is a model itself; to serve it as acme/tiny give {hub}"),
        ("acme", "{hub}/acme/tiny is a model itself; to serve it as acme/tiny give {hub}"),
        ("../work", "no owner/name/ folders in"),
        ("", None),
    ],
)
def test_a_folder_that_is_a_model_itself_is_remarked(
    world: World, inner: str, says: str | None
) -> None:
    """The folder to give is two above; of the one that was given nothing would be served."""
    server = world.start("serve", world.hub.root / inner, "--port", "0")
    assert server.stdout is not None
    server.stdout.readline()
    server.send_signal(signal.SIGINT)
    _, errors = server.communicate(timeout=10)

    if says is None:
        assert "note:" not in errors
    else:
        assert f"note: {says.format(hub=world.hub.root)}" in errors


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["serve", "nowhere"], "not a folder"), (["serve", ".", "--port", "70000"], "65535")],
)
def test_bad_input_is_a_clear_error(world: World, arguments: list[str], says: str) -> None:
    """No server, one or two lines."""
    done = world.run(*arguments)

    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_a_port_in_use_is_a_clear_error(world: World) -> None:
    """Another server has it."""
    port = world.hub.url.rpartition(":")[2]

    done = world.run("serve", world.hub.root, "--port", port)

    assert done.returncode == 9
    assert f"127.0.0.1:{port}" in done.stderr
