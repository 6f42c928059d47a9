"""Every fuzz target over junk and over mutated valid examples: a short run of it for CI."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS
from tests.support.properties import thorough

SEEDS = seeds()
few = settings(thorough, max_examples=thorough.max_examples // 2)


@st.composite
def mutated(draw: st.DrawFn, valid: list[bytes]) -> bytes:
    """A valid example with some bytes changed, taken out, put in or repeated, perhaps cut."""
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        count = draw(st.sampled_from([0, 1, 1, 2, 8]))
        data[at : at + count] = draw(st.binary(max_size=8) | st.just(bytes(data[at : at + 40])))
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


def test_every_target_has_valid_examples() -> None:
    """Without them a fuzzer spends its time on what is refused at the first byte."""
    assert set(SEEDS) == set(TARGETS)
    assert all(SEEDS.values())


@pytest.mark.fault("any bytes where a server's or a file's are read", "our values or our errors")
@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_read_or_refused(name: str) -> None:
    """No input gets past a parser as something else than a value or a typed error."""

    @few
    @given(data=st.binary(max_size=300) | mutated(SEEDS[name]))
    def holds(data: bytes) -> None:
        TARGETS[name](data)

    for valid in SEEDS[name]:
        TARGETS[name](valid)
    holds()
