"""Variety of batch-mates: counted again, slowly, from the plans."""

import itertools

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

import batchwright as bw
from batchwright.stats.variety import BANDS, variety
from tests import reference
from tests.strategies import jobs

LENGTHS = np.clip(np.random.default_rng(0).lognormal(5.5, 0.9, 10_000), 1, 2_048).astype(int)


@pytest.mark.slow
@given(job=jobs(max_size=60), epochs=st.integers(2, 4))
def test_figures_are_those_of_sets_of_mates(job, epochs):
    try:
        planner = job.planner()
    except (bw.errors.PlanError, bw.errors.BudgetError):
        reject()
    total = job.lengths.size
    found = variety(planner, epochs=epochs, num_samples=6 * total)
    plans = [[batch.tolist() for batch in planner(epoch)] for epoch in range(epochs)]
    band = np.searchsorted(BANDS, (np.arange(total) + 0.5) / total, side="right") - 1
    shares = np.diff(BANDS)
    together = job.world_size * job.accumulate
    for size, banded, mean in (
        (1, found.batches, found.batch),
        (together, found.updates, found.update),
    ):
        ratios = np.array(reference.variety(plans, job.lengths.tolist(), size))
        filled = np.unique(band)
        means = np.array([ratios[band == each].mean() for each in filled])
        assert banded[filled] == pytest.approx(means)
        assert np.isnan(np.delete(banded, filled)).all()
        assert mean == pytest.approx(np.average(means, weights=shares[filled]))
    assert found.epochs == epochs
    assert found.bands.tolist() == list(BANDS)


def test_a_shuffle_into_equal_batches_has_a_variety_of_one():
    planner = bw.Planner(LENGTHS, batching=bw.FixedSize(32), accumulate=4)
    found = variety(planner)
    assert found.batches == pytest.approx(np.ones(6), abs=0.05)
    assert found.updates == pytest.approx(np.ones(6), abs=0.05)


def test_the_same_batches_in_every_epoch_have_little():
    planner = bw.Planner(LENGTHS, batching=bw.FixedSize(32), order=bw.Sequential())
    assert variety(planner, epochs=8).batch == pytest.approx(1 / 8, rel=0.02)


def test_batches_from_one_sort_have_little_and_their_updates_much():
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(16_384), accumulate=16)
    found = variety(planner)
    assert found.batch < 0.2
    assert found.update > 0.8


def test_following_a_few_samples_is_near_following_all():
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(16_384, slack=0.1))
    few, every = variety(planner, epochs=4), variety(planner, epochs=4, num_samples=60_000)
    assert few.batch == pytest.approx(every.batch, abs=0.05)


def test_samples_that_are_always_alone_and_samples_of_columns():
    assert variety(bw.Planner([9, 9, 9], max_tokens=9)).batch == 1
    pairs = np.stack([LENGTHS[:500], LENGTHS[500:1_000]], axis=1)
    assert 0 < variety(bw.Planner(pairs, max_tokens=16_384), epochs=2).batch < 1.5


@pytest.mark.parametrize(
    ("planner", "options", "said"),
    [
        (LENGTHS, {}, "expected a Planner"),
        (None, {}, "expected a Planner"),
        (bw.Planner([1, 2], max_tokens=4), {"epochs": 1}, "epochs=1.*at least 2"),
        (bw.Planner([1, 2], max_tokens=4), {"num_samples": 0}, "num_samples=0.*at least 1"),
    ],
    ids=itertools.count(),
)
def test_wrong_arguments(planner, options, said):
    with pytest.raises(bw.errors.BatchwrightError, match=said):
        variety(planner, **options)
