from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplan.units import MAX_BYTES, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1B", 1),
        ("8GiB", 8 * 2**30),
        ("8g", 2**33),
        ("8G", 2**33),
        ("8 GB", 8 * 10**9),
        ("8gib", 2**33),
        ("200 MB", 200 * 10**6),
        ("1.5gib", 3 * 2**29),
        (".5 KiB", 512),
        ("7B", 7),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text", ["", "GiB", "8 gigs", "8gi", "-1MiB", "0", "nan", "inf", "1e9", "9" * 400, "1..5MB", "٣MB"]
)
def test_what_is_no_size_is_refused_with_the_value(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|unit|range"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["8", " 1000000 ", "1.5"])
def test_a_bare_number_is_told_to_lack_a_unit(text: str) -> None:
    with pytest.raises(ValueError, match=rf"has no unit; write {text.strip()}GiB, {text.strip()}MiB or"):
        parse_bytes(text)


@given(st.integers(min_value=0, max_value=MAX_BYTES))
def test_formatted_sizes_read_back_within_their_rounding(n_bytes: int) -> None:
    text = format_bytes(n_bytes).replace(",", "")
    if n_bytes == 0 or n_bytes > 10**18:
        return
    if text.split()[1] in ("PiB", "EiB"):
        return
    assert parse_bytes(text) == pytest.approx(n_bytes, rel=0.006)
