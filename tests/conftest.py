"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

from tests.support.properties import steady

settings.register_profile("steady", steady)
settings.load_profile("steady")
