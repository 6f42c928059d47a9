"""Both event loops, and a folder of small repositories."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

Run = Callable[[Callable[[], Awaitable[Any]]], Any]
Shelve = Callable[[Mapping[str, bytes]], Path]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs an async function on plain asyncio and on uvloop."""
    options = {"use_uvloop": request.param == "uvloop"}

    def runner(main: Callable[[], Awaitable[Any]]) -> Any:
        return anyio.run(main, backend_options=options)

    return runner


@pytest.fixture
def shelve(tmp_path: Path) -> Shelve:
    """Writes files below a folder and gives the folder."""

    def write(files: Mapping[str, bytes]) -> Path:
        root = tmp_path / "shelf"
        for path, data in files.items():
            place = root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        return root

    return write
