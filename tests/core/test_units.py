"""Sizes and durations as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelhaul.core.units import duration_text, parse_size, size_text
from modelhaul.errors import UsageError
from tests.support.properties import thorough

many = settings(thorough, max_examples=500)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("65536", 65536),
        ("1", 1),
        ("1B", 1),
        ("50MB", 50e6),
        ("50mb", 50e6),
        ("50 MB", 50e6),
        (" 50MB ", 50e6),
        ("50M", 50e6),
        ("1.5GiB", 1.5 * 2**30),
        ("1.5GB", 1.5e9),
        ("2k", 2000),
        ("2KiB", 2048),
        ("3TB", 3e12),
        ("3TiB", 3 * 2**40),
        ("2PB", 2e15),
        ("2.00 PB", 2e15),
        ("2PiB", 2 * 2**50),
        ("999999999999999", 999999999999999),
        ("50MB/s", 50e6),
        ("400Mbit", 50e6),
        ("400Mbit/s", 50e6),
        ("1Gbit", 125e6),
        ("8kbit", 1000),
        ("0.5", 0.5),
    ],
)
def test_a_size_is_read_as_it_is_meant(text: str, size: float) -> None:
    """Decimal and binary units, bits where it says bits, with or without `/s`."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("prefix", "decimal", "binary"),
    [
        ("k", 10**3, 2**10),
        ("M", 10**6, 2**20),
        ("G", 10**9, 2**30),
        ("T", 10**12, 2**40),
        ("P", 10**15, 2**50),
    ],
)
def test_each_unit_has_its_factor(prefix: str, decimal: int, binary: int) -> None:
    """Decimal as disks are labelled, binary where it says so, in any case."""
    for text in (prefix, f"{prefix}B", f"{prefix}b".lower(), f"{prefix}B".upper()):
        assert parse_size(f"3{text}") == 3 * decimal
    for text in (f"{prefix}iB", f"{prefix}ib".lower()):
        assert parse_size(f"3{text}") == 3 * binary


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0",
        "0.0",
        "0MB",
        "-1",
        "+1",
        "MB",
        "fast",
        "1e9",
        "1,5GB",
        ".5MB",
        "5.",
        "1.2.3",
        "0x10",
        "inf",
        "nan",
        "5XB",
        "5 M B",
        "5MB5",
        "5MB/h",
        "5%",
        "5MB\n5",
        "100Mbps",
        "100MBps",
        400 * "9",
        16 * "9",
        "\u0663MB",
        "1.\u0663MB",
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    """A limit that was misread would be worse than none; the error repeats what was written."""
    with pytest.raises(UsageError) as caught:
        parse_size(text)

    assert repr(text) in caught.value.message
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1234, "1.23 kB"),
        (12_345, "12.3 kB"),
        (123_456, "123 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (9_994_999, "9.99 MB"),
        (9_995_000, "10.0 MB"),
        (99_949_999, "99.9 MB"),
        (99_950_000, "100 MB"),
        (1_234_567_890, "1.23 GB"),
        (15e12, "15.0 TB"),
        (2e15, "2.00 PB"),
        (12_345e15, "12345 PB"),
    ],
)
def test_a_size_is_shown_with_three_digits(count: float, text: str) -> None:
    """Rounded before the unit is chosen: never `1000 kB`."""
    assert size_text(count) == text


@many
@given(count=st.integers(1000, 999 * 10**15))
def test_every_size_has_three_digits_and_a_unit(count: int) -> None:
    """Columns line up: a number of three digits, perhaps a point, a blank, a unit."""
    number, unit = size_text(count).split(" ")

    assert len(number.replace(".", "")) == 3
    assert unit in ("kB", "MB", "GB", "TB", "PB")


@many
@given(count=st.integers(1, 999 * 10**15))
def test_what_is_shown_can_be_read_again(count: int) -> None:
    """A size, copied from our output, is that size to three digits."""
    assert parse_size(size_text(count)) == pytest.approx(count, rel=0.0051)


@many
@given(count=st.integers(0, 999 * 10**15), more=st.integers(0, 10**15))
def test_more_bytes_never_look_like_fewer(count: int, more: int) -> None:
    """Rounding keeps the order."""

    def value(text: str) -> float:
        number, unit = text.split(" ")
        return float(number) * 1000.0 ** ("B", "kB", "MB", "GB", "TB", "PB").index(unit)

    assert value(size_text(count)) <= value(size_text(count + more))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (1e-9, "0.1s"),
        (0.4, "0.4s"),
        (0.94, "0.9s"),
        (0.96, "1s"),
        (12, "12s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (60, "1m00s"),
        (185, "3m05s"),
        (3599.4, "59m59s"),
        (3599.6, "1h00m"),
        (7440, "2h04m"),
        (7499, "2h04m"),
        (360_000, "100h00m"),
        (float("inf"), "277777h46m"),
    ],
)
def test_a_duration_is_shown_with_two_units(seconds: float, text: str) -> None:
    """Rounded before it is taken apart: never `60s`."""
    assert duration_text(seconds) == text


@many
@given(seconds=st.floats(0, 1e7))
def test_a_duration_says_the_time_to_a_minute(seconds: float) -> None:
    """The parts add up to the whole."""
    text = duration_text(seconds)

    total, number = 0.0, ""
    for letter in text:
        if letter.isdigit() or letter == ".":
            number += letter
        else:
            total += float(number) * {"s": 1, "m": 60, "h": 3600}[letter]
            number = ""
    assert abs(total - seconds) <= (0.5 if seconds < 3599 else 60)
