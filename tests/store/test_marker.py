"""`store.marker`: the note that an update is half published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from modelhaul.errors import StorageError
from modelhaul.store.marker import Marker
from tests.store.helpers import trace


def test_a_marker_stands_from_set_to_clear(tmp_path: Path) -> None:
    """Its folder is made if need be; setting it twice and clearing it twice is fine."""
    marker = Marker.of(tmp_path / "state", tmp_path / "snapshot")

    seen = [marker.exists()]
    for act in (marker.set, marker.set):
        act(label="acme/tiny", commit="c0ffee", pending={"a"})
        seen.append(marker.exists())
    for clear in (marker.clear, marker.clear):
        clear()
        seen.append(marker.exists())

    assert seen == [False, True, True, False, False]
    assert list((tmp_path / "state").iterdir()) == []


def test_the_next_run_sees_the_marker(tmp_path: Path) -> None:
    """State folder and snapshot name it: a new process finds what a killed one left."""
    Marker.of(tmp_path, tmp_path / "snapshot").set(
        label="acme/tiny", commit=None, pending={"b", "a"}
    )

    assert Marker.of(tmp_path, tmp_path / "snapshot").pending() == {"a", "b"}
    assert Marker.of(tmp_path, tmp_path / "another").pending() == frozenset()
    assert Marker.of(tmp_path, tmp_path / "snapshot").exists()
    assert not Marker.of(tmp_path, tmp_path / "another").exists()


def test_a_marker_says_for_people_what_it_is_about(tmp_path: Path) -> None:
    """The name is a hash, so the label and the commit stand inside; the last one counts."""
    marker = Marker.of(tmp_path, tmp_path / "snapshot")

    marker.set(label="a long name of a repository/model", commit="c0ffee", pending={"a", "b"})
    marker.set(label="acme/tiny", commit=None, pending={"b"})

    assert json.loads(marker.path.read_text()) == {
        "label": "acme/tiny",
        "commit": None,
        "pending": ["b"],
    }


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "7", '{"label": "l"}', '{"pending": null}'),
        *(
            '{"pending": "ab"}',
            '{"pending": {"a": 1}}',
            '{"pending": [{}]}',
            '{"pending": ["a", 1]}',
        ),
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_marker_that_cannot_be_read_stands_for_every_file(tmp_path: Path, text: str) -> None:
    """Cut by a crash, or written by another version: nothing is known, not nothing is left."""
    marker = Marker.of(tmp_path, tmp_path / "snapshot")
    marker.path.write_text(text)

    pending = marker.pending()

    assert pending is None
    assert marker.exists()


def test_a_marker_is_durable_before_the_first_rename(tmp_path: Path, needs_strace: None) -> None:
    """File synced, then its folder: after a power cut it stands if any new file does."""
    (tmp_path / "x").mkdir()
    code = """
    from modelhaul.store.marker import Marker
    Marker(Path(sys.argv[1]) / "state" / "m.update").set(label="l", commit="c", pending=["a"])
    """

    traced = trace(code, tmp_path / "x", calls="mkdir,pwrite64,fdatasync,fsync")

    assert traced.steps == [
        *("mkdir state", "fsync x"),
        *("pwrite64 m.update", "fdatasync m.update", "fsync state"),
    ]


def test_a_marker_is_not_written_through_a_link(tmp_path: Path) -> None:
    """A planted link keeps its target's bytes."""
    marker = Marker.of(tmp_path, tmp_path / "snapshot")
    (tmp_path / "victim").write_bytes(b"precious")
    marker.path.symlink_to("victim")

    with pytest.raises(StorageError):
        marker.set(label="l", commit=None, pending=None)

    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_a_marker_that_cannot_be_written_is_an_error(tiny_disk: Callable[..., Path]) -> None:
    """Without it the update must not begin."""
    disk = tiny_disk(read_only=True)

    with pytest.raises(StorageError, match="writing"):
        Marker.of(disk, disk / "snapshot").set(label="l", commit=None, pending=None)


def test_a_target_that_is_a_file_has_no_update_behind_it(tmp_path: Path) -> None:
    """There is no place for a marker; that the target is no folder is said elsewhere."""
    (tmp_path / "target").write_text("a file")

    marker = Marker.of(tmp_path / "target" / ".modelhaul", tmp_path / "target")

    assert marker.pending() == frozenset()
