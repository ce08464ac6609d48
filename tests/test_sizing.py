"""`Planner(lengths, batch_size=32)`: what a user has now, without the padding."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from tests.strategies import columns, lengths

LENGTHS = np.random.default_rng(0).lognormal(3, 0.75, 3_000).astype(np.int64) + 1


@given(
    values=lengths() | columns(),
    longest=st.sampled_from([None, 10**5]),
    batch_size=st.integers(1, 40),
    world_size=st.integers(1, 3),
    accumulate=st.none() | st.integers(1, 3),
)
def test_no_sample_is_lost_and_updates_keep_their_tokens(
    values, longest, batch_size, world_size, accumulate
):
    values = values.astype(np.int64)
    if longest is not None:
        values[len(values) // 2] = longest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of samples that are too few for the ranks
        planner = bw.Planner(
            values, batch_size=batch_size, world_size=world_size, accumulate=accumulate
        )
        plan = planner(0)
    assert not plan.dropped
    assert sorted(set(plan.indices.tolist())) == list(range(len(values)))
    sums = values.sum(axis=1) if values.ndim == 2 else values
    batches = world_size * (accumulate or 1)
    updates = min(math.ceil(len(values) / (batch_size * batches)), max(1, len(values) // batches))
    assert planner.step_tokens == max(1, round(int(sums.sum()) / updates))
    assert planner.batching.max_tokens >= max(sums.max(), plan.stats(values).max_batch_tokens)
    if accumulate is not None:
        assert planner.accumulate == accumulate


@pytest.mark.parametrize("world_size", [1, 4])
@pytest.mark.parametrize("accumulate", [None, 4])
def test_there_are_as_many_updates_as_now(world_size, accumulate):
    planner = bw.Planner(LENGTHS, batch_size=16, world_size=world_size, accumulate=accumulate)
    stats = planner(0).stats(LENGTHS)
    assert stats.num_steps == math.ceil(3_000 / (16 * world_size * (accumulate or 1)))
    assert stats.efficiency > 0.97
    assert planner.accumulate == (accumulate or 1)


@pytest.mark.parametrize("accumulate", [None, 8])
def test_batches_of_one_sample_stay_as_many(accumulate):
    for longest in (60, 61, 62, 63, 64, 65):  # rounded tokens of an update, up and down
        values = np.append(LENGTHS[:799], longest)
        planner = bw.Planner(values, batch_size=1, accumulate=accumulate)
        assert 0.97 * 800 <= len(planner) <= 800
        assert not planner(0).repeated.size


def test_one_very_long_sample_does_not_make_batches_by_halving(monkeypatch):
    from batchwright.batching.cut import Cut

    splits, split = [], Cut._split
    monkeypatch.setattr(Cut, "_split", lambda *args: (splits.append(1), split(*args))[1])
    values = np.append(LENGTHS, 10**5)
    planner = bw.Planner(values, batch_size=4, accumulate=8)
    assert len(planner) == 94 * 8
    assert len(splits) < 30
    assert planner(0).stats(values).efficiency > 0.98


def test_a_budget_beside_the_batch_size_stays():
    planner = bw.Planner(LENGTHS, batch_size=64, max_tokens=500)
    stats = planner(0).stats(LENGTHS)
    assert planner.batching == bw.TokenBudget(500)
    assert stats.num_steps == math.ceil(3_000 / 64)
    assert planner.accumulate > 2


def test_a_batching_or_the_tokens_of_an_update_beside_the_batch_size_stay():
    packing = bw.Planner(LENGTHS, batch_size=64, batching=bw.Packing(500))
    assert packing.batching == bw.Packing(500)
    assert packing.step_tokens == round(LENGTHS.sum() / 47)
    assert bw.Planner(LENGTHS, batch_size=64, step_tokens=700).step_tokens == 700


@pytest.mark.parametrize("oversize", ["drop", "truncate"])
def test_long_samples_that_are_dropped_or_cut_are_not_counted(oversize):
    values = np.append(LENGTHS, [10**6] * 3)
    batching = bw.TokenBudget(2_000, oversize=oversize)
    planner = bw.Planner(values, batch_size=32, batching=batching)
    assert abs(planner(0).stats(values).num_steps - 3_003 / 32) <= 1
    assert bw.Planner(bw.LengthIndex.build(values), batch_size=32, batching=batching)(0) == planner(
        0
    )


def test_empty_samples_that_are_dropped_are_not_counted():
    values = np.where(np.arange(3_000) % 5 == 0, 0, LENGTHS)
    planner = bw.Planner(values, batch_size=16, empty="drop")
    assert planner.step_tokens == round(values.sum() / (2_400 // 16))
    assert len(planner) == 2_400 // 16


def test_an_index_is_planned_as_its_lengths_are():
    index = bw.LengthIndex.build(LENGTHS)
    assert bw.Planner(index, batch_size=32)(1) == bw.Planner(LENGTHS, batch_size=32)(1)
    assert bw.plan(LENGTHS, batch_size=32, epoch=1) == bw.Planner(LENGTHS, batch_size=32)(1)


def test_other_ranks_keep_the_tokens_of_an_update():
    planner = bw.Planner(LENGTHS, batch_size=16, world_size=4, accumulate=2)
    alone = planner.resized(1)
    assert len(alone) // alone.accumulate == len(planner) // 8


def test_lengths_that_are_missing_are_asked_for():
    for planning in (bw.plan, bw.Planner):
        with pytest.raises(bw.errors.LengthsError, match="lengths are empty"):
            planning(max_tokens=10)


@pytest.mark.parametrize("columns", [1, 2])
def test_a_budget_made_of_the_batch_size_holds_the_groups_that_stay_together(columns):
    values = np.tile(np.append(LENGTHS[:599], 20_000)[:, None], columns).squeeze()
    pairs = np.arange(600) // 2
    planner = bw.Planner(values, batch_size=1, together=pairs)
    plan = planner(0)
    assert sorted(plan.indices.tolist()) == list(range(600))
    assert plan.stats(values).max_batch_tokens == planner.batching.max_tokens
    assert all(np.unique(pairs[batch], return_counts=True)[1].min() == 2 for batch in plan)


def test_one_very_long_sample_does_not_refuse_a_curriculum():
    values = np.append(LENGTHS[:599], 20_000)
    for settings, updates in (({}, 75), ({"accumulate": 2}, 38)):
        for order in (bw.Curriculum(values), bw.Curriculum(np.arange(600))):
            planner = bw.Planner(values, batch_size=8, order=order, **settings)
            assert len(planner) == updates * planner.accumulate
            assert planner(0).sizes.max() < 200  # of 600 that the budget would hold
