"""Costs of ranks and steps are those of the batches they get."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, reject

import batchwright as bw
from batchwright._states import built
from batchwright.stats.shapes import POINTS, RANKS, StepCosts, step_costs
from tests.strategies import jobs


@pytest.mark.slow
@given(job=jobs())
def test_costs_are_summed_as_ranks_would(job):
    try:
        plan = job.planner()(0)
    except (bw.errors.PlanError, bw.errors.BudgetError):
        reject()
    if len(plan) % (job.world_size * job.accumulate):  # a short last update has no such rows
        reject()
    costs = step_costs(plan, job.lengths)
    assert built(json.loads(json.dumps(asdict(costs), allow_nan=False)), StepCosts) == costs
    stats = plan.stats(job.lengths)
    assert costs.slowest_over_mean == stats.imbalance_padded
    # Each rank by itself: its own shard, as many batches a step as it accumulates.
    of_ranks = np.array(
        [
            job_tokens(plan.shard(rank, job.world_size), job.lengths, job.accumulate)
            for rank in range(job.world_size)
        ]
    )
    assert costs.per_rank == tuple(of_ranks.sum(axis=1).tolist())
    assert (costs.least, costs.most) == (of_ranks.min(), of_ranks.max())
    assert costs.mean == pytest.approx(of_ranks.mean())
    assert costs.num_steps == of_ranks.shape[1]
    curve, together = costs.curve, costs.steps_a_point
    assert len(curve.step) <= POINTS
    for place, first in enumerate(curve.step):
        part = of_ranks[:, first : first + together]
        assert curve.mean[place] == pytest.approx(part.mean())
        assert (curve.least[place], curve.most[place]) == (part.min(), part.max())


def job_tokens(shard, lengths, accumulate):
    entries = shard.entry_lengths(lengths)
    return shard.layout.batch_tokens(entries, shard.offsets).reshape(-1, accumulate).sum(axis=1)


def test_many_steps_share_points_and_many_ranks_are_not_listed():
    lengths = np.random.default_rng(0).integers(1, 90, 20_000)
    plan = bw.plan(lengths, batching=bw.FixedSize(4), world_size=RANKS + 1)
    costs = step_costs(plan, lengths)
    assert costs.per_rank is None
    assert costs.steps_a_point > 1
    assert len(costs.curve.step) <= POINTS
    assert costs.waiting == pytest.approx(1 - 1 / costs.slowest_over_mean)


def test_a_last_step_that_is_not_whole_counts_as_far_as_it_goes():
    plan = bw.Plan(np.arange(3), np.arange(4), origin=bw.plans.Origin(world_size=2))
    costs = step_costs(plan, [5, 3, 4])
    assert costs.per_rank == (9, 3)
    assert costs.num_steps == 2
