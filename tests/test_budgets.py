"""Suggested budgets: what a batch size takes, and never what a few very long samples decide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.budgets import PARTS, ROWS, suggest
from batchwright.errors import BudgetError, LengthsError
from tests import reference
from tests.strategies import columns, lengths


@st.composite
def with_outliers(draw):
    """Lengths with a long tail, up to 1 % of them at up to 10⁴ × the median, and one at least."""
    size, spread = draw(st.integers(2, 3_000)), draw(st.sampled_from([0.0, 0.5, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = np.maximum(1, np.rint(rng.lognormal(3.0, spread, size))).astype(np.int64)
    share = draw(st.sampled_from([0.0, 0.0005, 0.002, 0.01]))
    places = rng.choice(size, max(1, int(share * size)), replace=False)
    factors = rng.integers(1, draw(st.sampled_from([10, 10**4])), places.size, endpoint=True)
    values[places] = np.maximum(values[places], factors * int(np.median(values)))
    return values, places


@given(drawn=with_outliers())
def test_a_budget_is_at_most_eight_of_the_longest_thousandth_and_a_fiftieth_of_the_data(drawn):
    values, _ = drawn
    budgets = suggest(values)
    assert budgets.max_tokens <= ROWS * budgets.p999
    assert budgets.max_tokens >= budgets.usual
    if np.minimum(values, budgets.usual).sum() >= PARTS * budgets.usual:
        assert budgets.max_tokens * PARTS <= values.sum()
    else:  # so few that one usual sample is more than that
        assert budgets.max_tokens == budgets.usual


@given(drawn=with_outliers(), batch_size=st.none() | st.integers(1, 300))
def test_however_long_outliers_are_they_count_as_four_of_the_longest_other(drawn, batch_size):
    values, places = drawn
    most = 4 * int(np.delete(values, places).max())
    given_, cut = (suggest(each, batch_size=batch_size) for each in (values, values.clip(max=most)))
    assert given_.max_tokens == cut.max_tokens
    assert given_.max_tokens <= (batch_size or ROWS) * most


@given(
    values=lengths() | columns(),
    batch_size=st.none() | st.integers(1, 300),
    max_tokens=st.none() | st.integers(1, 500),
)
def test_budgets_are_those_of_the_reference(values, batch_size, max_tokens):
    budgets = suggest(values, batch_size=batch_size, max_tokens=max_tokens)
    sums = values.sum(axis=1) if values.ndim == 2 else values
    expected = reference.budgets(sums.tolist(), batch_size, max_tokens)
    assert (budgets.max_tokens, budgets.step_tokens, budgets.batch_size) == expected
    assert budgets.num_longer == sum(each > budgets.max_tokens for each in sums.tolist())
    assert budgets.longest == sums.max()
    assert budgets.assumed == (batch_size is None)
    if max_tokens is None and batch_size is not None:
        assert budgets.max_tokens <= batch_size * budgets.longest


def test_outliers_are_named():
    values = [200] * 6_263 + [9_000, 12_000, 20_000, 36_314]
    budgets = suggest(values)
    assert (budgets.max_tokens, budgets.p999, budgets.longest) == (1_600, 200, 36_314)
    assert (budgets.num_longer, budgets.num_samples) == (4, 6_267)
    assert budgets.share_longer == pytest.approx(0.0006, abs=5e-5)


def test_tiny_data_fit_one_usual_sample():
    assert suggest([7]).max_tokens == 7
    assert suggest([7, 100_000]).max_tokens == 28
    assert suggest([7] * 20 + [100_000]).max_tokens == 28


def test_a_batch_of_more_samples_than_there_are_holds_all_of_them():
    budgets = suggest([3, 5], batch_size=32)
    assert (budgets.max_tokens, budgets.step_tokens, budgets.batch_size) == (10, 8, 32)


def test_an_index_of_lengths_is_enough():
    values = np.random.default_rng(0).integers(1, 500, 2_000)
    assert suggest(bw.LengthIndex.build(values)) == suggest(values)


@pytest.mark.parametrize("name", ["batch_size", "max_tokens"])
@pytest.mark.parametrize("wrong", [0, -1, 1.5, "many", True])
def test_a_wrong_setting_is_named(name, wrong):
    with pytest.raises(BudgetError, match=f"{name}={wrong!r}"):
        suggest([3, 5], **{name: wrong})


def test_wrong_lengths_are_named():
    with pytest.raises(LengthsError):
        suggest([3, 0])
