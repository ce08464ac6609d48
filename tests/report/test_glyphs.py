"""Bars and curves fill what they are given, in characters that can be written."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.report.text import bar, curve, encodable

RISING, FILLING = " ▁▂▃▄▅▆▇█", " ▏▎▍▌▋▊▉█"


@given(share=st.floats(0, 1), width=st.integers(2, 100))
def test_a_bar_is_as_wide_as_asked_and_as_full_as_its_share(share, width):
    real, rest = bar(share, width)
    assert len(real) + len(rest) == width
    cells = sum(FILLING.index(c) for c in real) / 8
    assert cells == pytest.approx(share * width, abs=1.001)
    assert (real == "█" * width) == (share == 1)
    assert (real == "") == (share == 0)
    real, rest = encodable(real, "ascii"), encodable(rest, "ascii")
    assert len(real) + len(rest) == width
    assert (real == "#" * width) == (share == 1)


@given(heights=st.lists(st.floats(0, 1), min_size=1, max_size=50), rows=st.integers(1, 8))
def test_a_curve_is_as_high_as_its_heights(heights, rows):
    lines = curve(np.array(heights), rows)
    assert [len(line) for line in lines] == [len(heights)] * rows
    for column, height in enumerate(heights):
        levels = [RISING.index(line[column]) for line in reversed(lines)]
        assert sum(levels) == pytest.approx(height * rows * 8, abs=1)
        assert (sum(levels) == 0) == (height == 0)
        # Filled from below: no cell is filled above one that is not full.
        assert levels == sorted(levels, reverse=True)
        assert sum(0 < level < 8 for level in levels) <= 1
        drawn = [encodable(line[column], "ascii") for line in lines]
        assert (set(drawn) == {" "}) == (height == 0)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437"])
def test_encodings_without_the_characters_get_others(encoding):
    text = encodable(RISING + FILLING + "░ × –", encoding)
    assert text.isascii()
    assert "?" not in text


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf-16", "gb18030"])
def test_encodings_with_the_characters_get_them(encoding):
    assert encodable(RISING + FILLING + "░ × –", encoding) == RISING + FILLING + "░ × –"
