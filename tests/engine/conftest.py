"""Fixtures of the engine's tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty folder to download into."""
    folder = tmp_path / "target"
    folder.mkdir()
    return folder
