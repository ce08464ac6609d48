"""Planners, plans, orders and batchings can be pickled, whatever was done with them before."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import batchwright as bw
from batchwright.batching.custom import Custom
from tests.strategies import in_threes

LENGTHS = np.random.default_rng(0).integers(1, 60, 200)
GROUPS = np.arange(200) % 3
TABLE = bw.LossTable(200)
TABLE.record(np.arange(200), np.arange(200.0))

ORDERS = {
    "sequential": bw.Sequential(),
    "shuffle": bw.Shuffle(window=50),
    "blocks": bw.Blocks(20, open_blocks=2),
    "weighted": bw.Weighted(np.arange(1.0, 201)),
    "balanced": bw.ClassBalanced(GROUPS, after=1),
    "temperature": bw.Mixture(GROUPS, temperature=2.0),
    "schedule": bw.Mixture(GROUPS, schedule=[(0, {0: 1}), (1, {0: 1, 1: 1, 2: 1})], unit="tokens"),
    "curriculum": bw.Curriculum(np.arange(200.0), pacing=bw.pacing.root(start=0.3), epochs=5),
    "self paced": bw.SelfPaced(TABLE, noise_rate=0.2),
    "dropping": bw.UnbiasedDropping(TABLE, until=9),
}
BATCHINGS = {
    "fixed": bw.FixedSize(8),
    "budget": bw.TokenBudget(200, mixing="update"),
    "packing": bw.Packing(100, oversize="split"),
    "buckets": bw.Buckets(3, max_tokens=200),
    "function": in_threes,
    "custom": Custom(in_threes),
}


def again(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301 (our own bytes)


@pytest.mark.parametrize("order", ORDERS)
def test_orders_before_and_after_use(order):
    fresh, used = copy.deepcopy(ORDERS[order]), copy.deepcopy(ORDERS[order])
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(200), order=used, world_size=2)
    expected = [planner(epoch).digest() for epoch in (0, 3)]
    for copied in (again(fresh), again(used), copy.deepcopy(used), copy.copy(used)):
        made = bw.Planner(LENGTHS, batching=bw.TokenBudget(200), order=copied, world_size=2)
        assert [made(epoch).digest() for epoch in (0, 3)] == expected
    assert [again(planner)(epoch).digest() for epoch in (0, 3)] == expected
    assert again(planner.resized(4))(3) == planner.resized(4)(3)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_batchings_before_and_after_use(batching):
    planner = bw.Planner(LENGTHS, batching=again(BATCHINGS[batching]))
    plan = planner(1)
    assert again(planner)(1) == plan
    copied = again(plan)
    assert copied == plan
    assert copied.layout == plan.layout
    assert copied.origin == plan.origin
    assert not copied.indices.flags.writeable
    assert again(plan.shard(0, 1)) == plan.shard(0, 1)
    assert again(plan.stats(LENGTHS)) == plan.stats(LENGTHS)


def test_what_is_kept_for_the_next_epoch_is_no_part_of_a_pickle():
    order = bw.Mixture(GROUPS, temperature=2.0)
    before = len(pickle.dumps(order))
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(200), order=order)
    for epoch in range(50):
        planner(epoch)
    assert len(pickle.dumps(order)) == before


@pytest.mark.slow
def test_a_process_that_shares_nothing_makes_the_same_plans(tmp_path):
    planners = [
        bw.Planner(LENGTHS, batching=bw.TokenBudget(200), order=order) for order in ORDERS.values()
    ]
    expected = [planner(3).digest() for planner in planners]
    path = tmp_path / "planners"
    path.write_bytes(pickle.dumps(planners))
    code = (
        "import pickle, sys; planners = pickle.load(open(sys.argv[1], 'rb'));"
        "print(*(planner(3).digest() for planner in planners))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == expected
