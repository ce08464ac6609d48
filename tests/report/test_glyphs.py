"""Bars and curves fill what they are given, in characters that can be written."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.report.rows import ASCII, UNICODE, glyphs_for

GLYPHS = st.sampled_from([ASCII, UNICODE])


@given(glyphs=GLYPHS, share=st.floats(0, 1), width=st.integers(2, 100))
def test_a_bar_is_as_wide_as_asked_and_as_full_as_its_share(glyphs, share, width):
    real, rest = glyphs.bar(share, width)
    assert len(real) + len(rest) == width
    cells = sum(glyphs.filling.index(c) for c in real) / (len(glyphs.filling) - 1)
    assert cells == pytest.approx(share * width, abs=1.001)
    assert (real == glyphs.filling[-1] * width) == (share == 1)
    assert (real == "") == (share == 0)


@given(
    glyphs=GLYPHS,
    heights=st.lists(st.floats(0, 1), min_size=1, max_size=50),
    rows=st.integers(1, 8),
)
def test_a_curve_is_as_high_as_its_heights(glyphs, heights, rows):
    lines = glyphs.curve(np.array(heights), rows)
    assert [len(line) for line in lines] == [len(heights)] * rows
    fine = len(glyphs.rising) - 1
    for column, height in enumerate(heights):
        levels = [glyphs.rising.index(line[column]) for line in reversed(lines)]
        assert sum(levels) == pytest.approx(height * rows * fine, abs=1)
        assert (sum(levels) == 0) == (height == 0)
        # Filled from below: no cell is filled above one that is not full.
        assert levels == sorted(levels, reverse=True)
        assert sum(0 < level < fine for level in levels) <= 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "no such encoding"])
def test_terminals_without_the_characters_get_others(encoding):
    assert glyphs_for(encoding) is ASCII


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf-16", "gb18030"])
def test_terminals_with_the_characters_get_them(encoding):
    assert glyphs_for(encoding) is UNICODE


def test_ascii_is_ascii():
    assert "".join(vars(ASCII).values()).isascii()
