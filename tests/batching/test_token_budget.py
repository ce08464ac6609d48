import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.batching.custom import described, rebuilt
from batchwright.batching.cuts import on_grid
from batchwright.lengths import runs
from batchwright.stats.variety import variety
from tests import strategies

LENGTHS = np.clip(np.rint(np.random.default_rng(0).lognormal(5.5, 0.9, 40_000)), 1, 2048).astype(
    np.int64
)


def shares_of(plan, update):
    """The lengths of each update, from long to short."""
    return [
        np.sort(LENGTHS[plan[at : at + update].indices])[::-1] for at in range(0, len(plan), update)
    ]


def test_every_update_has_the_same_share_of_every_length():
    """With `mixing="update"`, of neighbours in length each update gets one."""
    batching = bw.TokenBudget(4096, mixing="update")
    planner = bw.Planner(LENGTHS, batching=batching, world_size=4, accumulate=4, seed=3)
    plan = planner(0)
    updates = len(plan) // 16
    longest = np.sort(LENGTHS)[::-1]
    for share in shares_of(plan, 16):
        assert -(-LENGTHS.size // updates) - 1 <= share.size <= -(-LENGTHS.size // updates)
        at = np.arange(share.size) * updates
        assert (share <= longest[at]).all()
        assert (share[:-1] >= longest[at[1:]]).all()
    assert plan.stats(LENGTHS).efficiency > 0.85  # sorted inside the update


@pytest.mark.slow
@pytest.mark.parametrize("update", [2, 8, 32])
def test_the_dial_is_monotone(update):
    stats = {}
    for mixing in ("update", 4, "stratified"):
        batching = bw.TokenBudget(4096, mixing=mixing)
        each = [
            bw.plan(LENGTHS, batching=batching, accumulate=update, seed=seed).stats(LENGTHS)
            for seed in range(5)
        ]
        stats[mixing] = np.mean([(s.efficiency, s.dispersion) for s in each], axis=0)
    assert stats["update"][0] < stats[4][0] < stats["stratified"][0]
    assert stats["update"][1] < 0.3  # a shuffle has 1


def test_the_least_padding_of_one_sort():
    stats = bw.plan(LENGTHS, max_tokens=16_384).stats(LENGTHS)
    assert stats.efficiency > 0.995
    assert stats.gap < 0.01


def test_a_target_number_makes_all_batches_a_little_smaller():
    """33 batches for 32 slots: 64 half-full ones, not 31 halves beside one whole."""
    lengths = np.full(33 * 8, 128)
    plan = bw.plan(lengths, max_tokens=1024, world_size=32)
    assert len(plan) == 64
    assert plan.sizes.max() <= 5
    assert plan.stats(lengths).imbalance_padded < 1.3


def test_padding_to_a_multiple_counts():
    lengths = np.array([9, 9, 9, 9])
    plan = bw.plan(lengths, batching=bw.TokenBudget(32, pad_to_multiple_of=8))
    assert len(plan) == 2
    assert plan.stats(lengths).max_batch_tokens == 32


def test_a_window_larger_than_the_epoch_is_the_epoch():
    wide = bw.plan(LENGTHS, batching=bw.TokenBudget(4096, mixing=10**9), world_size=2)
    assert wide == bw.plan(LENGTHS, max_tokens=4096, world_size=2)


@given(strategies.lengths(), st.sampled_from([0.001, 0.02, 0.1, 1.0]), st.integers(0, 7))
def test_a_grid_rounds_up_to_a_length_that_is_there(lengths, slack, eighth):
    values, counts = runs(lengths, np.arange(lengths.size))
    tops, many = on_grid(values, counts, slack, eighth / 8)
    assert many.sum() == lengths.size
    assert np.isin(tops, values).all()
    assert (np.diff(tops) < 0).all()
    rounded = np.repeat(tops, many)
    ordered = np.sort(lengths.astype(int))[::-1]
    assert (rounded >= ordered).all()
    assert (rounded <= ordered * (1 + slack) * (1 + 1e-9)).all()


def test_without_slack_nothing_changes():
    assert bw.TokenBudget(4096, slack=0) == bw.TokenBudget(4096)
    digest = "db9a5406d2e1cabd8951e27ae6f27fbe"  # see test_guarantees
    lengths = (np.arange(5000) * 7919) % 997 + 1
    batching = bw.TokenBudget(4096, slack=0.0)
    plan = bw.plan(lengths, batching=batching, seed=1, epoch=2, world_size=4, accumulate=2)
    assert plan.digest() == digest


def test_plans_with_slack_are_the_same_on_every_machine():
    lengths = (np.arange(5000) * 7919) % 997 + 1
    batching = bw.TokenBudget(4096, slack=0.1)
    plan = bw.plan(lengths, batching=batching, seed=1, epoch=2, world_size=4, accumulate=2)
    assert plan.digest() == "fb68dcdc685e843cc0351969652d304d"


def test_slack_gives_variety_for_about_half_as_much_padding():
    lengths = LENGTHS[:10_000]
    found = {}
    for slack in (0.0, 0.02, 0.1, 0.5):
        planner = bw.Planner(lengths, batching=bw.TokenBudget(16_384, slack=slack))
        efficiency = np.mean([planner(epoch).stats(lengths).efficiency for epoch in range(3)])
        found[slack] = (variety(planner, epochs=16).batch, efficiency)
    varieties, efficiencies = zip(*found.values(), strict=True)
    assert list(varieties) == sorted(varieties)
    assert found[0.0][0] < 0.15
    assert found[0.1][0] > 0.35
    assert list(efficiencies) == sorted(efficiencies, reverse=True)
    for slack, (_, efficiency) in found.items():
        assert efficiency >= efficiencies[0] * (1 - slack * 0.6)


@pytest.mark.slow
def test_a_small_slack_is_enough_for_a_hundred_thousand_samples():
    lengths = np.clip(np.random.default_rng(1).lognormal(5.5, 0.9, 100_000), 1, 2_048).astype(int)
    planner = bw.Planner(lengths, batching=bw.TokenBudget(16_384, slack=0.02))
    assert planner(0).stats(lengths).efficiency > 0.985
    middle = variety(planner, epochs=20).batches[3:5]
    assert middle == pytest.approx([0.7, 0.5], abs=0.15)


@pytest.mark.parametrize(
    "order",
    [
        bw.Curriculum(np.arange(2_000), epochs=3),
        bw.Mixture(np.arange(2_000) % 3, weights={0: 1, 1: 2, 2: 3}),
        bw.Blocks(100, open_blocks=4),
        bw.Shuffle(window=300),
        bw.Sequential(),
    ],
    ids=lambda order: type(order).__name__,
)
def test_slack_goes_with_every_order(order):
    lengths = LENGTHS[:2_000]
    settings = {"order": order, "world_size": 2, "accumulate": 2, "seed": 4}
    planner = bw.Planner(lengths, batching=bw.TokenBudget(8_192, slack=0.2), **settings)
    without = bw.Planner(lengths, batching=bw.TokenBudget(8_192), **settings)
    for epoch in range(12):
        plan = planner(epoch)
        assert len(plan) == len(planner)
        padded = np.maximum.reduceat(lengths[plan.indices], plan.offsets[:-1]) * plan.sizes
        assert padded.max() <= 8_192
        drawn, expected = (np.sort(each(epoch).indices) for each in (planner, without))
        if not isinstance(order, bw.Curriculum | bw.Mixture):  # those may defer the last few
            assert np.array_equal(drawn, expected)
        assert plan.digest() == planner(epoch).digest()
    if isinstance(order, bw.Sequential):  # a sequence that is kept
        assert planner(1) == without(1)


def test_a_batching_with_slack_is_written_down_in_full():
    batching = bw.TokenBudget(64, slack=0.25)
    description = json.loads(json.dumps(described(batching)))
    assert description == {"kind": "TokenBudget", "max_tokens": 64, "slack": 0.25}
    assert rebuilt(description) == batching
    assert "slack" not in described(bw.TokenBudget(64))


@pytest.mark.parametrize("slack", [-0.1, 1.5, 1e-9, float("nan"), "much", None, True])
def test_wrong_slacks(slack):
    with pytest.raises(bw.errors.BudgetError, match=r"slack=.*expected 0, or a number from 0.001"):
        bw.TokenBudget(64, slack=slack)


@pytest.mark.parametrize("mixing", ["update", 4])
def test_slack_is_for_stratified_updates(mixing):
    with pytest.raises(bw.errors.BudgetError, match=r'slack=0.1, mixing=.*for mixing="stratified"'):
        bw.TokenBudget(64, slack=0.1, mixing=mixing)


def test_slack_is_for_one_length_of_each_sample():
    with pytest.raises(bw.errors.BudgetError, match=r"slack=0.1 for lengths of 2 columns"):
        bw.plan([[3, 4], [5, 6]], batching=bw.TokenBudget(64, slack=0.1))


def test_the_dial_leaves_slack_out_where_it_does_not_go():
    batching = bw.TokenBudget(4_096, slack=0.1)
    first, last = bw.mixing_dial(
        LENGTHS[:2_000], batching, accumulate=4, positions=["stratified", "update"]
    )
    stats = bw.plan(LENGTHS[:2_000], batching=batching, accumulate=4, last="repeat").stats(
        LENGTHS[:2_000]
    )
    assert first.efficiency == pytest.approx(stats.efficiency, abs=0.02)
    assert last.mixing == "update"
