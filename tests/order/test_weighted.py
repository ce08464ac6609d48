"""Weighted draws: right frequencies, least variance, unbiased losses, any number of samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright._random import generator
from batchwright.order.weighted import _exponentials

weight_lists = st.lists(st.floats(0, 100), min_size=2, max_size=40).filter(lambda w: sum(w) > 1e-3)


def lengths_of(weights):
    return np.ones(len(weights), dtype=np.int64)


@given(weights=weight_lists, draws=st.integers(1, 200), seed=st.integers(0, 99))
def test_every_sample_comes_its_expected_number_of_times_rounded(weights, draws, seed):
    order = bw.Weighted(weights, num_samples=draws)
    members = order(lengths_of(weights), seed=seed, epoch=0).members
    times = np.bincount(members, minlength=len(weights))
    expected = draws * np.array(weights) / sum(weights)
    assert members.size == draws
    assert (np.abs(times - expected) < 1 + 1e-9).all()
    assert not times[np.array(weights) == 0].any()


def test_frequencies_over_epochs():
    weights = np.arange(8.0)
    order = bw.Weighted(weights, num_samples=3)
    times = sum(
        np.bincount(order(lengths_of(weights), seed=0, epoch=each).members, minlength=8)
        for each in range(4000)
    )
    expected = 12_000 * weights / weights.sum()
    chi_squared = ((times - expected)[1:] ** 2 / expected[1:]).sum()
    assert times[0] == 0
    assert chi_squared < 18.5  # 99 % of 6 degrees of freedom is 16.8; ours varies less


def test_without_replacement_each_next_one_is_in_proportion_to_what_is_left():
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    order = bw.Weighted(weights, num_samples=2, replacement=False)
    pairs = np.zeros((4, 4))
    for epoch in range(6000):
        first, second = np.sort(order(lengths_of(weights), seed=1, epoch=epoch).members)
        pairs[first, second] += 1
    expected = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            if i != j:
                chance = weights[i] / 10 * weights[j] / (10 - weights[i])
                expected[min(i, j), max(i, j)] += 6000 * chance
    upper = np.triu_indices(4, 1)
    chi_squared = ((pairs - expected)[upper] ** 2 / expected[upper]).sum()
    assert chi_squared < 20.5  # 99.9 % of 5 degrees of freedom


@given(weights=weight_lists, seed=st.integers(0, 99), data=st.data())
def test_without_replacement_nobody_comes_twice(weights, seed, data):
    positive = int((np.array(weights) > 0).sum())
    draws = data.draw(st.integers(1, positive))
    order = bw.Weighted(weights, num_samples=draws, replacement=False)
    members = order(lengths_of(weights), seed=seed, epoch=0).members
    assert np.unique(members).size == members.size == draws
    assert (np.array(weights)[members] > 0).all()


def test_exponential_numbers_are_exponential_and_exact():
    drawn = _exponentials(generator(0, "x"), 200_000)
    uniform = np.exp(-drawn)
    counts, _ = np.histogram(uniform, bins=50, range=(0, 1))
    assert ((counts - 4000) ** 2 / 4000).sum() < 90  # 99.9 % of 49 degrees is 85.4
    bits = generator(0, "x").bit_generator.random_raw(1000)
    exact = -np.log(((bits >> np.uint64(11)).astype(float) + 0.5) / 2**53)
    assert drawn[:1000] == pytest.approx(exact, rel=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("replacement", [True, False])
def test_more_than_two_to_the_24_samples(replacement):
    size = 2**24 + 400_000
    weights = np.tile(np.array([1.0, 3.0]), size // 2)
    order = bw.Weighted(weights, num_samples=2_000_000, replacement=replacement)
    members = order(np.ones(size, dtype=np.uint8), seed=0, epoch=0).members
    assert members.size == 2_000_000
    assert members.max() > 2**24
    heavy = (members % 2).mean()
    if replacement:
        assert heavy == pytest.approx(0.75, abs=1e-4)
        assert np.unique(members).size == members.size  # every expected number is below one
    else:
        assert 0.73 < heavy < 0.75
    counts, _ = np.histogram(members, bins=20, range=(0, size))
    assert ((counts - 1e5) ** 2 / 1e5).sum() < 45


def test_planned():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3, 1, 800), 1, 300).astype(int)
    for replacement in (True, False):
        order = bw.Weighted(rng.random(800), num_samples=500, replacement=replacement)
        planner = bw.Planner(lengths, batching=bw.TokenBudget(600), order=order, world_size=2)
        for epoch in range(40):
            plan = planner(epoch)
            assert len(plan) == len(planner)
            deferred = plan.dropped.get("deferred", np.empty(0))
            assert plan.indices.size + deferred.size == 500
            assert deferred.size < 25


def test_bad_input():
    with pytest.raises(bw.errors.LengthsError, match=r"weights\[1\] is -1"):
        bw.Weighted([1, -1])
    with pytest.raises(bw.errors.LengthsError, match="weights are all 0"):
        bw.Weighted([0, 0])
    with pytest.raises(bw.errors.LengthsError, match=r"weights\[0\] is inf"):
        bw.Weighted([np.inf, 1])
    with pytest.raises(bw.errors.LengthsError, match="2 draws without replacement from 1 samples"):
        bw.Weighted([1, 0], replacement=False)
    with pytest.raises(bw.errors.LengthsError, match="num_samples=0"):
        bw.Weighted([1, 1], num_samples=0)
