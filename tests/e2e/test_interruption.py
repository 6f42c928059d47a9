"""Killed, stopped, run again: by the server's own count."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelhaul.server.body import read_log
from tests.support.hub import hub_in_thread
from tests.support.sent_twice import allowance, before_kill, cut_short
from tests.support.world import World, content, last_line, tree

pytestmark = pytest.mark.command

MIB = 1 << 20
SIZE = 96 * MIB
RATE = 4_000_000  # bytes/s of one connection


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[World]:
    """A hub on which a download takes a few seconds, and a user in front of it."""
    root, home, work = tmp_path / "hub", tmp_path / "home", tmp_path / "work"
    for folder in (root, home, work):
        folder.mkdir()
    with hub_in_thread(root, tmp_path / "requests.jsonl", rate=RATE) as hub:
        world = World(hub, home, work)
        half = SIZE // 2
        world.put(
            "acme/large", {"a.safetensors": content(half, 1), "b.safetensors": content(half, 2)}
        )
        yield world


def stored(folder: Path) -> int:
    """Bytes that are really on the disk."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def wait_for(world: World, process: subprocess.Popen[str], size: int) -> None:
    """Until `size` bytes of the download are on the disk."""
    limit = time.monotonic() + 30
    while stored(world.work) < size:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.01)


def sent(world: World) -> int:
    """Bytes that the server sent."""
    return sum(entry["sent"] for entry in read_log(world.hub.log))


@pytest.mark.fault(
    "SIGKILL half-way", "at most 1 MiB per connection and a second again", number=106
)
def test_a_killed_download_continues_where_it_was(slow: World) -> None:
    """SIGKILL half-way: at most 1 MiB per connection, a second and the buffers are sent twice."""
    first = slow.start("download", "acme/large", "--local-dir", "m", "--connections", "6")
    wait_for(slow, first, SIZE * 3 // 5)
    kill = before_kill(first.pid, os.getpid())
    first.kill()
    first.communicate()
    limit = time.monotonic() + 10
    while slow.hub.under_way:
        assert time.monotonic() < limit
        time.sleep(0.05)  # the server notices a dead connection when it writes the next time
    before = read_log(slow.hub.log)
    listed = slow.run("parts", "m")

    again = slow.run("download", "acme/large", "--local-dir", "m")

    assert again.returncode == 0, again.stderr
    assert tree(slow.work / "m") == {
        "a.safetensors": content(SIZE // 2, 1),
        "b.safetensors": content(SIZE // 2, 2),
    }
    assert "acme/large: " in listed.stdout
    assert 1 <= cut_short(before) <= 6
    allowed = sum(allowance(before, kill).values())
    assert allowed < SIZE // 2
    assert sent(slow) - SIZE <= allowed


@pytest.mark.fault(
    "Ctrl-C, SIGTERM or SIGHUP", "exit 130 in 2 s, says so, what arrived is kept", number=107
)
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "sigterm", "hangup"]
)
def test_a_stopped_download_says_so_keeps_its_progress_and_exits_130(
    slow: World, number: signal.Signals
) -> None:
    """Within two seconds, with nothing on stdout, and what arrived is used by the next run."""
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("this signal was ignored when the tests were started (nohup): so it stays")
    process = slow.start("download", "acme/large", "--local-dir", "m")
    wait_for(slow, process, SIZE // 4)

    began = time.monotonic()
    process.send_signal(number)
    out, errors = process.communicate(timeout=20)
    seconds = time.monotonic() - began

    assert process.returncode == 130
    assert seconds < 2.5
    assert out == ""
    assert "what arrived is kept" in errors
    assert "Traceback" not in errors
    again = slow.run("download", "acme/large", "--local-dir", "m", "--json")
    planned = [json.loads(line) for line in again.stdout.splitlines()][1]
    assert planned["event"] == "planned"
    assert planned["reuse"] >= SIZE // 4 - MIB
    assert len(tree(slow.work / "m")) == 2


def test_the_last_event_of_a_stopped_download_says_so(slow: World) -> None:
    """Who reads the events is not left waiting for the end."""
    process = slow.start("download", "acme/large", "--local-dir", "m", "--json")
    wait_for(slow, process, MIB)

    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)

    last = json.loads(last_line(out))
    assert process.returncode == last["exit_code"] == 130
    assert (last["event"], last["kind"]) == ("error", "Interrupted")


@pytest.mark.fault("a second process on the same target", "it waits; sent once", number=113)
def test_two_processes_on_one_folder_share_the_work(slow: World) -> None:
    """The second waits for the first and finds the files complete: nothing is sent twice."""
    one = slow.start("download", "acme/large", "--local-dir", "m")
    wait_for(slow, one, MIB)
    two = slow.start("download", "acme/large", "--local-dir", "m")

    results = [process.communicate(timeout=60) for process in (one, two)]

    assert [one.returncode, two.returncode] == [0, 0], results
    assert all(last_line(out) == str(slow.work / "m") for out, _ in results)
    assert len(tree(slow.work / "m")) == 2
    assert sent(slow) <= SIZE + 8 * MIB


def test_clean_removes_what_a_kill_left(slow: World) -> None:
    """`parts` lists it with sizes, `clean` removes it and says how much that was."""
    process = slow.start("download", "acme/large", "--local-dir", "m", "--connections", "3")
    wait_for(slow, process, SIZE // 4)  # half of the first file
    process.kill()
    process.communicate()

    listed = slow.run("parts", "m", "--json")
    cleaned, again = slow.run("clean", "m"), slow.run("clean", "m")
    after = slow.run("parts", "m")

    works = [json.loads(line) for line in listed.stdout.splitlines()]
    assert {work["size"] for work in works} == {SIZE // 2}
    assert sum(work["have"] for work in works) >= SIZE // 4 - 3 * (MIB + RATE)
    assert "freed" in cleaned.stdout
    assert (again.returncode, again.stdout) == (0, "")
    assert "nothing unfinished in" in again.stderr
    assert after.stdout == ""
    assert os.listdir(slow.work / "m") == []


@pytest.mark.fault(
    "`clean` runs beside a download", "what is in use stays, the download ends well", number=124
)
def test_clean_leaves_alone_what_a_running_process_works_on(slow: World) -> None:
    """A download in motion is not unfinished business."""
    process = slow.start("download", "acme/large", "--local-dir", "m", "--connections", "6")
    wait_for(slow, process, SIZE // 8)

    cleaned = slow.run("clean", "m")
    _, errors = process.communicate(timeout=60)

    assert "in use" in cleaned.stderr
    assert process.returncode == 0, errors
    assert len(tree(slow.work / "m")) == 2


def test_a_kill_in_the_cache_of_hugging_face(slow: World) -> None:
    """The part lies inside the repository's folder: found without being named, continued, gone."""
    hub = slow.work / "hub"
    slow.extra.update(HF_ENDPOINT=slow.hub.url, HF_HUB_CACHE=str(hub))
    process = slow.start("download", "hf:acme/large", "--connections", "3")
    wait_for(slow, process, SIZE // 4)  # half of the first file
    process.kill()
    process.communicate()

    by_default, named = slow.run("parts", "--json"), slow.run("parts", str(hub), "--json")
    resumed = slow.run("download", "hf:acme/large")
    cleaned = slow.run("clean")

    works = [json.loads(line) for line in by_default.stdout.splitlines()]
    have = sum(work["have"] for work in works)
    assert have >= SIZE // 4 - 3 * (MIB + RATE)
    assert named.stdout.count("\n") == len(works)
    assert resumed.returncode == 0, resumed.stderr
    assert sent(slow) <= SIZE + 3 * (MIB + RATE)
    shown = Path(last_line(resumed.stdout))
    assert [len(data) for data in tree(shown).values()] == [SIZE // 2, SIZE // 2]
    assert "nothing unfinished in" in cleaned.stderr
    assert sorted(os.listdir(hub / "models--acme--large")) == [
        "blobs",
        "refs",
        "snapshots",
        "trees",
    ]
