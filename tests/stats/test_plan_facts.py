"""Facts are the plan's own figures, and the control beside them is a fair one."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, reject

import batchwright as bw
from batchwright.stats.lengths import length_stats
from batchwright.stats.plan_facts import PlanFacts, Waste, file_facts, plan_facts
from tests.strategies import Job, jobs, lengths


def planned(job: Job) -> bw.Plan:
    try:
        return job.planner()(0)
    except (bw.errors.PlanError, bw.errors.BudgetError):
        reject()


@pytest.mark.slow
@given(job=jobs())
def test_facts_are_the_statistics_and_are_json(job):
    plan = planned(job)
    facts = plan_facts(plan, job.lengths).as_json()
    stats = dataclasses.asdict(plan.stats(job.lengths))
    assert stats.items() <= facts.items()
    assert json.loads(json.dumps(facts, allow_nan=False)).keys() == facts.keys()


@pytest.mark.slow
@given(job=jobs())
def test_what_the_file_knows_agrees_with_the_statistics(job):
    plan = planned(job)
    alone = PlanFacts(file_facts(plan)).as_json()
    whole = plan_facts(plan, job.lengths).as_json()
    assert alone.keys() <= whole.keys()
    assert {name: whole[name] for name in alone} == alone


@pytest.mark.slow
@given(job=jobs())
def test_every_sample_is_accounted_for(job):
    plan = planned(job)
    facts = file_facts(plan)
    assert facts.repeated == plan.repeated.size
    if facts.num_lengths is not None:
        assert facts.absent == 0
        entries = facts.num_samples - facts.repeated + facts.dropped
        assert entries == job.lengths.size


def test_a_shard_lacks_samples_and_a_doubled_plan_repeats_them():
    plan = bw.plan([3, 5, 2, 4, 8, 1], max_tokens=8, world_size=2)
    shard = plan.shard(0, 2)
    assert file_facts(shard).absent == 6 - shard.indices.size > 0
    doubled = plan.take(np.tile(np.arange(len(plan)), 2))
    assert file_facts(doubled).repeated == 6


def test_pieces_of_a_sample_are_no_repetition():
    plan = bw.plan([25, 3], batching=bw.Packing(10, oversize="split"))
    facts = file_facts(plan)
    assert (facts.num_samples, facts.split, facts.repeated) == (2, 1, 0)
    assert file_facts(plan.take(np.array([0, *range(len(plan))]))).repeated > 0


@given(lengths=lengths())
def test_the_summary_is_what_numpy_says(lengths):
    facts = length_stats(lengths)
    assert facts.num_tokens == sum(lengths.tolist())
    assert facts.mean == pytest.approx(np.mean(lengths))
    assert facts.median == pytest.approx(np.median(lengths))
    assert facts.p95 == pytest.approx(np.percentile(lengths, 95))
    assert (facts.min, facts.max) == (lengths.min(), lengths.max())
    assert sum(facts.histogram.counts) == lengths.size


def test_what_was_dropped_is_not_absent():
    plan = bw.plan([5, 3, 30, 2], batching=bw.TokenBudget(10, oversize="drop"))
    facts = file_facts(plan)
    assert (facts.num_lengths, facts.dropped, facts.absent) == (4, 1, 0)


def test_without_a_budget_there_is_nothing_to_compare_with():
    facts = plan_facts(bw.plan([3, 5, 2], batching=bw.FixedSize(2)), [3, 5, 2])
    assert facts.measured.plain_batches is None
    assert facts.measured.waste == Waste(1 - facts.measured.stats.efficiency, None)


def test_waste_of_packed_rows_counts_what_is_empty():
    facts = plan_facts(bw.plan([6, 3], batching=bw.Packing(10)), [6, 3])
    assert facts.measured.waste.plan == pytest.approx(0.1)
    assert facts.measured.waste.plain_batches == 0.25  # two samples, as in the row


def test_waste_of_padded_batches_counts_what_is_padding():
    facts = plan_facts(bw.plan([4, 2], max_tokens=8), [4, 2])
    assert facts.measured.waste == Waste(0.25, 0.25)


def test_other_lengths_are_refused():
    with pytest.raises(bw.errors.PlanError, match="made for"):
        plan_facts(bw.plan([4, 2], max_tokens=8), [4, 3])
