"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.properties import steady

settings.register_profile("steady", steady)
settings.load_profile("steady")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes or root, unless TORTURE=1 asks for it (`make torture`)."""
    if os.environ.get("TORTURE") == "1":
        return
    heavy = [item for item in items if item.get_closest_marker("torture")]
    if heavy:
        config.hook.pytest_deselected(items=heavy)
        items[:] = [item for item in items if item not in heavy]


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """New files can be written by their owner alone, also those of commands that are run."""
    before = os.umask(0o022)
    yield
    os.umask(before)
