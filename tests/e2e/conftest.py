"""A fresh machine, and a hub that has a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.world import MODEL, World, machine


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fresh machine and a hub that holds `acme/tiny`."""
    with machine(tmp_path) as world:
        world.put("acme/tiny", MODEL)
        yield world
