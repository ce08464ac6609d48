"""Histograms count every sample once, and draw what they count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.stats.lengths import Histogram, histogram
from tests.strategies import lengths


@given(lengths=lengths(), max_bins=st.integers(1, 80))
def test_bins_are_whole_numbers_that_hold_every_sample_once(lengths, max_bins):
    counted = histogram(lengths, max_bins=max_bins)
    assert 1 <= len(counted.counts) <= max_bins
    assert (np.diff(counted.edges) >= 1).all()
    assert counted.edges[0] == lengths.min()
    assert counted.edges[-1] == int(lengths.max()) + 1
    expected = [
        sum(low <= length < high for length in lengths.tolist())
        for low, high in zip(counted.edges[:-1], counted.edges[1:], strict=True)
    ]
    assert list(counted.counts) == expected


@pytest.mark.parametrize("longest", [10**6, 2**40, 2**53])
def test_no_sample_is_lost_at_the_ends_of_a_wide_range(longest):
    values = np.array([1, 2, longest - 1, longest])
    counted = histogram(values)
    assert sum(counted.counts) == 4
    assert counted.edges[-1] == longest + 1


def test_more_samples_than_a_block():
    values = np.arange(1, 300_001)
    counted = histogram(values, max_bins=3)
    assert list(counted.counts) == np.diff(counted.edges).tolist()


@given(lengths=lengths(), width=st.integers(1, 200))
def test_the_area_under_the_curve_is_the_samples(lengths, width):
    counted = histogram(lengths)
    heights = counted.heights(width)
    assert heights.shape == (width,)
    assert heights.max() == 1
    assert heights.min() >= 0
    # What lies below the middle of the axis, from the curve and from the counts.
    if width % 2 == 0:
        middle = np.exp(np.log([counted.edges[0], counted.edges[-1]]).mean())
        below = int(np.searchsorted(counted.edges, middle, side="right")) - 1
        inside = np.log(middle / counted.edges[below])
        inside /= np.log(counted.edges[below + 1] / counted.edges[below])
        expected = sum(counted.counts[:below]) + inside * counted.counts[below]
        share = heights[: width // 2].sum() / heights.sum()
        assert share == pytest.approx(expected / lengths.size)


def test_lengths_lie_where_the_axis_has_them():
    counted = Histogram((1, 10, 100), (1, 1))
    assert counted.position(1) == 0
    assert counted.position(10) == pytest.approx(0.5)
    assert counted.position(100) == 1
