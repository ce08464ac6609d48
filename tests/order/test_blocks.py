"""Blocks: each is read once, and few of them at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=20),
    open_blocks=st.integers(1, 6),
    seed=st.integers(0, 9),
)
def test_few_blocks_are_open_at_a_time_and_each_once(sizes, open_blocks, seed):
    lengths = np.ones(sum(sizes), dtype=int)
    order = bw.Blocks(sizes, open_blocks=open_blocks)
    block_of = np.repeat(np.arange(len(sizes)), sizes)
    opened = []
    for pool in order(lengths, seed=seed, epoch=0):
        here = set(block_of[pool].tolist())
        assert len(here) <= open_blocks
        opened.extend(here)
    assert sorted(opened) == list(range(len(sizes)))


def test_a_plan_reads_each_block_within_one_stretch():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3, 1, 5000), 1, 300).astype(int)
    plain = bw.plan(lengths, batching=bw.TokenBudget(1000)).stats(lengths).efficiency
    for sizes in (100, [50] * 100):
        order = bw.Blocks(sizes, open_blocks=10)
        planner = bw.Planner(lengths, batching=bw.TokenBudget(1000), order=order)
        plan = planner(3)
        assert len(plan) == len(planner)
        assert np.sort(plan.indices).tolist() == list(range(5000))
        size = sizes if isinstance(sizes, int) else 50
        group = 10 * size
        blocks = plan.indices // size
        for start in range(0, 5000, group):
            assert np.unique(blocks[start : start + group]).size == 10
        assert plan.stats(lengths).efficiency > 0.9 * plain
    first = [tuple(planner(epoch).indices[:20].tolist()) for epoch in range(4)]
    assert len(set(first)) == 4


def test_epochs_and_seeds_open_other_blocks_together():
    order = bw.Blocks(2, open_blocks=3)

    def groups(seed, epoch):
        pools = order(np.ones(24, dtype=int), seed=seed, epoch=epoch)
        return frozenset(frozenset(pool.tolist()) for pool in pools)

    assert len({groups(0, epoch) for epoch in range(4)}) > 1
    assert len({groups(seed, 0) for seed in range(4)}) > 1


def test_bad_input():
    with pytest.raises(bw.errors.PlanError, match="at least 1 sample"):
        bw.Blocks([3, 0])
    with pytest.raises(bw.errors.PlanError, match="at least 1 sample"):
        bw.Blocks(2.5)
    with pytest.raises(bw.errors.PlanError, match="open_blocks=0"):
        bw.Blocks(3, open_blocks=0)
    with pytest.raises(bw.errors.PlanError, match="blocks hold 5 samples, there are 6"):
        bw.Blocks([2, 3])(np.ones(6, dtype=int), seed=0, epoch=0)
