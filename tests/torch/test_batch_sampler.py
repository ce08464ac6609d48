"""The contract that loaders and trainers rely on."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader

import batchwright as bw
from batchwright.torch import Piece, PlanBatchSampler
from tests.torch.planners import (
    batchings,
    dealt_back,
    entries,
    log_normal,
    many_lengths,
    rank_samplers,
)


class CountingPlanner(bw.Planner):
    """A planner that counts how often it plans an epoch."""

    planned = 0

    def __call__(self, epoch: int) -> bw.Plan:
        type(self).planned += 1
        return super().__call__(epoch)


@pytest.fixture
def planner():
    return bw.Planner(log_normal(200), batching=bw.TokenBudget(200), seed=3)


@given(
    lengths=many_lengths,
    batching=batchings,
    world_size=st.integers(1, 4),
    accumulate=st.integers(1, 2),
    epoch=st.integers(0, 3),
)
def test_the_ranks_together_are_the_plan(lengths, batching, world_size, accumulate, epoch):
    lengths += [1] * (world_size * accumulate)  # enough for a batch each
    planner = bw.Planner(lengths, batching=batching, accumulate=accumulate)
    expected = planner.resized(world_size)
    samplers = rank_samplers(planner, world_size)
    for sampler in samplers:
        sampler.set_epoch(epoch)
    per_rank = [list(sampler) for sampler in samplers]
    assert dealt_back(per_rank) == entries(expected(epoch))
    assert {len(batches) for batches in per_rank} == {len(sampler) for sampler in samplers}
    assert len(samplers[0]) * world_size == len(expected)
    assert len(samplers[0]) % accumulate == 0


def test_it_yields_plain_integers(planner):
    batch = next(iter(PlanBatchSampler(planner)))
    assert type(batch) is list
    assert {type(index) for index in batch} == {int}


def test_a_plan_that_splits_samples_yields_pieces():
    lengths = [3, 25, 10]
    plan = bw.plan(lengths, batching=bw.Packing(10, oversize="split"))
    pieces = [piece for batch in PlanBatchSampler(plan) for piece in batch]
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert sorted(pieces) == [(0, 0, 10), (1, 0, 10), (1, 10, 20), (1, 20, 30), (2, 0, 10)]


def test_trainers_find_what_they_look_for_and_nothing_that_misleads_them(planner):
    sampler = PlanBatchSampler(planner)
    assert sampler.sampler is sampler
    assert not isinstance(sampler, BatchSampler)
    for name in ("batch_size", "drop_last", "state_dict"):
        assert not hasattr(sampler, name)
    assert DataLoader([0], batch_sampler=sampler).batch_sampler is sampler


def test_epochs_differ_and_come_again(planner):
    sampler = PlanBatchSampler(planner)
    seen = []
    for epoch in (0, 1, 0):
        sampler.sampler.set_epoch(epoch)
        seen.append(list(sampler))
    assert seen[0] != seen[1]
    assert seen[0] == seen[2] == [batch.tolist() for batch in planner(0)]


def test_a_live_iterator_keeps_its_epoch(planner):
    sampler = PlanBatchSampler(planner)
    live = iter(sampler)
    batches = [next(live)]
    sampler.set_epoch(1)
    batches += live
    assert batches == [batch.tolist() for batch in planner(0)]
    assert list(sampler) == [batch.tolist() for batch in planner(1)]


def test_the_epoch_is_bound_at_the_first_batch(planner):
    sampler = PlanBatchSampler(planner)
    begun = iter(sampler)
    sampler.set_epoch(2)
    assert list(begun) == [batch.tolist() for batch in planner(2)]


def test_an_exhausted_iterator_stays_so(planner):
    live = iter(PlanBatchSampler(planner))
    list(live)
    assert list(live) == []


def test_an_epoch_is_planned_once_and_counting_plans_nothing():
    CountingPlanner.planned = 0
    planner = CountingPlanner(log_normal(100), batching=bw.TokenBudget(200), world_size=2)
    sampler = PlanBatchSampler(planner, rank=0, world_size=2)
    repr(sampler)
    iter(sampler).state_dict()
    assert len(sampler)
    assert CountingPlanner.planned == 0
    state = sampler.state_after(1)
    for _ in range(3):
        assert len(list(sampler)) == len(sampler)
        sampler.load_state_dict(state)
        iter(sampler).load_state_dict(state)
    assert CountingPlanner.planned == 1
    sampler.set_epoch(1)
    list(sampler)
    assert CountingPlanner.planned == 2


def test_a_planner_is_resized_to_the_ranks_there_are():
    planner = bw.Planner(log_normal(300), batching=bw.TokenBudget(120), step_tokens=600)
    sampler = PlanBatchSampler(planner, rank=1, world_size=3)
    resized = planner.resized(3)
    assert resized.accumulate < planner.accumulate
    assert list(sampler) == [batch.tolist() for batch in resized(0).shard(1, 3)]
    asked_for_three = PlanBatchSampler(resized, rank=0, world_size=1)
    assert list(asked_for_three) == [batch.tolist() for batch in planner(0)]


def test_one_plan_serves_every_epoch_and_is_split_where_ranks_need_it():
    plan = bw.plan(log_normal(100), max_tokens=200, epoch=5)
    assert len(plan) % 7
    samplers = rank_samplers(plan, 7)
    first = [list(sampler) for sampler in samplers]
    assert dealt_back(first) == plan.indices.tolist()
    for sampler in samplers:
        sampler.set_epoch(1)
    assert [list(sampler) for sampler in samplers] == first
    whole = PlanBatchSampler(plan, rank=0, world_size=1)
    assert list(whole) == [batch.tolist() for batch in plan]


def test_a_plan_of_fewer_samples_than_ranks_gives_some_of_them_twice():
    plan = bw.plan([5, 6, 7], max_tokens=99)
    samplers = rank_samplers(plan, 4)
    with pytest.warns(UserWarning, match="1 come twice"):
        per_rank = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [1] * 4
    assert dealt_back(per_rank) == [*plan.indices.tolist(), int(plan.indices[0])]


def test_without_a_distributed_job_there_is_one_rank(planner):
    sampler = PlanBatchSampler(planner)
    assert len(sampler) == len(planner)
    told = f"PlanBatchSampler({len(planner)} batches an epoch, epoch 0, rank 0 of 1)"
    assert repr(sampler) == told


@pytest.mark.parametrize(
    ("placed", "told"),
    [
        ({"rank": 0}, "rank=0, world_size=None: give both"),
        ({"world_size": 2}, "rank=None, world_size=2: give both"),
        ({"rank": 2, "world_size": 2}, "rank=2 is not in a world of 2"),
        ({"rank": -1, "world_size": 2}, "rank=-1: expected an integer of at least 0"),
        ({"rank": 0.0, "world_size": 2}, "rank=0.0: expected an integer"),
        ({"rank": "0", "world_size": "2"}, "world_size='2': expected an integer"),
    ],
)
def test_a_place_that_makes_no_sense_is_refused(planner, placed, told):
    with pytest.raises(bw.errors.PlanError, match=told):
        PlanBatchSampler(planner, **placed)


@pytest.mark.parametrize("plans", [[[0, 1], [2]], np.arange(3), lambda epoch: epoch, None])
def test_what_is_no_plan_is_refused(plans):
    with pytest.raises(bw.errors.PlanError, match=r"expected a Planner .* or a Plan"):
        PlanBatchSampler(plans)


@pytest.mark.parametrize("epoch", [-1, 1.5, "1", None])
def test_an_epoch_that_is_none_is_refused(planner, epoch):
    sampler = PlanBatchSampler(planner)
    with pytest.raises(bw.errors.PlanError, match="expected an integer of at least 0"):
        sampler.set_epoch(epoch)


def test_it_can_be_copied_and_sent_to_another_process(planner):
    sampler = PlanBatchSampler(planner, rank=1, world_size=2)
    sampler.set_epoch(1)
    expected = list(sampler)
    sampler.set_epoch(1)
    assert list(copy.deepcopy(sampler)) == expected
    assert list(pickle.loads(pickle.dumps(sampler))) == expected  # noqa: S301
