import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright._random import generator
from batchwright.updates import arranged

LENGTHS = np.clip(np.rint(np.random.default_rng(0).lognormal(5.5, 0.9, 60_000)), 1, 2048).astype(
    np.int32
)


@pytest.mark.slow
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.integers(1, 5),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_batches_stay_in_their_pools(sizes, world_size, accumulate, with_keys, with_costs, seed):
    pools = np.concatenate(([0], np.cumsum(sizes)))
    rng = np.random.default_rng(seed)
    keys = rng.random(pools[-1]) if with_keys else None
    costs = rng.random(pools[-1]) + 0.1 if with_costs else None
    places = arranged(
        int(pools[-1]),
        pools,
        keys=keys,
        costs=costs,
        world_size=world_size,
        accumulate=accumulate,
        rng=generator(seed, "deal"),
    )
    for start, stop in itertools.pairwise(pools):
        assert sorted(places[start:stop]) == list(range(start, stop))


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 99))
def test_an_update_has_one_batch_of_every_stratum(num_updates, update, seed):
    size = num_updates * update
    keys = np.random.default_rng(seed).permutation(size).astype(float)
    places = arranged(
        size,
        np.array([0, size]),
        keys=keys,
        costs=None,
        world_size=update,
        accumulate=1,
        rng=generator(seed, "deal"),
    )
    strata = keys[places].reshape(num_updates, update) // num_updates
    for step in strata:
        assert sorted(step) == list(range(update))


def test_a_binding_sequence_is_not_arranged():
    places = arranged(
        6,
        None,
        keys=np.arange(6.0),
        costs=None,
        world_size=2,
        accumulate=1,
        rng=generator(0, "deal"),
    )
    assert places.tolist() == list(range(6))


def test_stratified_updates_are_more_even_than_a_shuffle():
    plan = bw.plan(LENGTHS, max_tokens=4096, world_size=8, accumulate=4)
    stats = plan.stats(LENGTHS)
    assert stats.dispersion <= 0.5
    assert stats.efficiency >= 0.995


@pytest.mark.slow
def test_updates_of_the_same_share_of_every_length():
    batching = bw.TokenBudget(16_384, mixing="update")
    stats = [
        bw.plan(LENGTHS, batching=batching, world_size=8, accumulate=4, seed=seed).stats(LENGTHS)
        for seed in range(20)
    ]
    assert np.mean([each.dispersion for each in stats]) < 0.01  # a plain shuffle has 1
    assert min(each.efficiency for each in stats) >= 0.93


@pytest.mark.parametrize("world_size", [8, 64])
def test_ranks_are_even_where_cost_is_named(world_size):
    alone = bw.plan(LENGTHS, batching=bw.Packing(8192), world_size=8, cost="quadratic")
    assert alone.stats(LENGTHS).imbalance_quadratic <= 1.02
    padded = bw.plan(LENGTHS, max_tokens=4096, world_size=world_size, cost="padded")
    assert padded.stats(LENGTHS).imbalance_padded <= 1.02


def test_no_rank_always_gets_the_heaviest_batch():
    plan = bw.plan(LENGTHS[:8000], batching=bw.Packing(8192), world_size=4, cost="quadratic")
    entries = plan.entry_lengths(LENGTHS[:8000])
    costs = plan.layout.batch_costs(entries, plan.offsets, "quadratic").reshape(-1, 4)
    times = np.bincount(costs.argmax(axis=1), minlength=4)
    assert times.min() > 0.1 * len(costs)


def test_batches_that_cost_the_most_are_split_first():
    lengths = [50, 50, *[10] * 10]
    for cost, sizes in (("quadratic", [1, 1, 10]), (None, [2, 5, 5])):
        plan = bw.plan(lengths, batching=bw.Packing(100), world_size=3, cost=cost)
        assert sorted(plan.sizes.tolist()) == sizes


def test_with_slots_to_share_ranks_are_even_and_updates_mixed():
    plan = bw.plan(LENGTHS, batching=bw.Packing(8192), world_size=8, accumulate=4, cost="quadratic")
    stats = plan.stats(LENGTHS)
    assert stats.imbalance_quadratic <= 1.05
    assert stats.dispersion <= 2


def test_a_cost_of_the_users_own():
    plan = bw.plan(
        LENGTHS,
        batching=bw.Packing(8192),
        world_size=4,
        accumulate=4,
        cost=lambda x: 100 * x + x**2,
    )
    costs = plan.layout.batch_costs(
        plan.entry_lengths(LENGTHS), plan.offsets, lambda x: 100 * x + x**2
    )
    per_rank = costs.reshape(-1, 4, 4).sum(axis=1)
    assert per_rank.max(axis=1).sum() / per_rank.mean(axis=1).sum() <= 1.05


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        ("cubic", "cost='cubic' is unknown"),
        (lambda x: x[:1], "shape"),
        (lambda x: -x, "finite and positive"),
        (lambda x: x * np.nan, "finite and positive"),
    ],
    ids=["name", "shape", "negative", "nan"],
)
def test_bad_costs(cost, said):
    with pytest.raises(bw.errors.BudgetError, match=said):
        bw.plan([5, 3, 2, 8], max_tokens=8, world_size=2, cost=cost)
