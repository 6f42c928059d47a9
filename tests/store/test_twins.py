"""`store.twins`: what looks as if a hard link could stand in for a copy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from modelhaul.store.twins import LEAST, would_link

NAME = hashlib.sha256(b"content").hexdigest()

pytestmark = pytest.mark.usefixtures("usual_umask")


def cut(held: Path) -> None:
    """Make it small."""
    held.write_bytes(bytes(LEAST - 1))


@pytest.mark.parametrize("there", [True, False], ids=["folder is there", "folder is new"])
def test_a_large_blob_of_our_own_needs_no_room(tmp_path: Path, there: bool) -> None:
    """Whether the repository has been begun or not."""
    held = a_blob(tmp_path)
    root = tmp_path / "models--o--n"
    if there:
        root.mkdir()

    assert would_link(held, root / "blobs" / NAME, root)


@pytest.mark.parametrize(
    "change",
    [lambda held: held.chmod(0o664), lambda held: held.chmod(0o646), Path.unlink, cut],
    ids=["group may write", "others may write", "gone", "small"],
)
def test_anything_else_may_have_to_be_copied(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    """So it needs room."""
    held = a_blob(tmp_path)
    root = tmp_path / "models--o--n"
    change(held)

    assert not would_link(held, root / "blobs" / NAME, root)


def test_a_folder_of_the_user_needs_room(tmp_path: Path) -> None:
    """Even if it has the shape of a cache."""
    held = a_blob(tmp_path)

    assert not would_link(held, tmp_path / "models--o--n" / "blobs" / NAME, tmp_path)


def a_blob(folder: Path) -> Path:
    """Of another repository."""
    held = folder / "models--some--other" / "blobs" / NAME
    held.parent.mkdir(parents=True)
    held.write_bytes(bytes(LEAST))
    return held
