import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.errors import BudgetError
from batchwright.torch.memory import RowsByLength
from batchwright.torch.memory.fitting import fit, fit_above, heights, rows_within

ROWS = np.array([2, 2, 3, 4, 9, 20, 45, 80, 6, 30])
LENGTHS = np.array([16, 256, 256, 16, 120, 60, 30, 16, 200, 40])

curves = st.tuples(*[st.sampled_from([0.0, 1.0, 7.0, 250.0])] * 6)


@given(curves)
def test_a_curve_is_found_again_from_its_values(curve):
    values = heights([curve], ROWS, LENGTHS)
    found = fit(ROWS, LENGTHS, values, values)
    unseen = np.array([5, 17, 64]), np.array([100, 33, 20])
    np.testing.assert_allclose(
        heights([found], *unseen), heights([curve], *unseen), rtol=2e-4, atol=1.0
    )


@given(st.lists(st.integers(1, 10**9), min_size=10, max_size=10))
def test_a_curve_above_is_above_all_values(values):
    curve = fit_above(ROWS, LENGTHS, values)
    assert (heights([curve], ROWS, LENGTHS) >= np.array(values) * (1 - 1e-9)).all()


@given(curves)
def test_a_curve_above_values_of_a_curve_is_that_curve(curve):
    values = heights([curve], ROWS, LENGTHS)
    above = fit_above(ROWS, LENGTHS, values)
    np.testing.assert_allclose(heights([above], ROWS, LENGTHS), values, rtol=3e-4, atol=1.1)


def test_where_lengths_are_rounded_up_only_what_is_too_low_is_lifted():
    def taken(rows, lengths):
        return rows * (-(-lengths // 8) * 8.0) ** 2

    lengths = np.array([65, 104, 168, 255, 66, 105, 161, 241])
    curve = fit_above(ROWS[:8], lengths, taken(ROWS[:8], lengths))
    unseen = np.arange(65, 256)
    over = heights([curve], 1, unseen) / taken(1, unseen) - 1
    assert over.min() > -0.01
    assert over[unseen % 8 == 0].max() < 0.25  # a factor for all of them would have to be 1.22
    assert over[unseen > 200].mean() < 0.05


@given(st.lists(st.integers(1, 10**9), min_size=10, max_size=10))
def test_no_term_is_ever_negative_so_bytes_never_fall(values):
    curve = fit(ROWS, LENGTHS, values, values)
    assert min(curve) >= 0
    grid = np.arange(1, 300)
    assert (np.diff(heights([curve], 7, grid)) >= 0).all()
    assert (np.diff(heights([curve], grid, 7)) >= 0).all()


@given(st.lists(curves, min_size=1, max_size=3), st.integers(1, 10**6), st.integers(1, 500))
def test_rows_within_a_capacity_are_the_most_that_keep_it(several, capacity, length):
    rows = float(rows_within(several, capacity, length))

    def taken(rows):
        return heights(several, rows, length)

    if taken(10**12) == taken(0):
        assert rows == np.inf or taken(0) >= capacity
    elif taken(0) < capacity:
        whole = np.floor(rows)
        assert whole == 0 or taken(whole) <= capacity * (1 + 1e-9)
        assert taken(whole + 1) >= capacity * (1 - 1e-9)


def test_a_table_of_rows_refuses_lengths_beyond_it():
    table = RowsByLength(np.array([8, 8, 4, 2]))
    assert table.max_tokens == 8
    np.testing.assert_array_equal(table(np.array([3, 1, 2])), [2, 8, 4])
    with pytest.raises(BudgetError, match="length 4 is above 3"):
        table([4])
