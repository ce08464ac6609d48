"""What to do first follows from the figures, and doing it helps."""

import dataclasses

import numpy as np
import pytest

import batchwright as bw
from batchwright._format import percent
from batchwright.report.plan_texts import first_steps
from batchwright.stats.plan_facts import (
    EpochCoverage,
    PlanFacts,
    TimesDrawn,
    epoch_coverage,
    file_facts,
    inspected_facts,
    plan_facts,
)

LENGTHS = np.clip(np.random.default_rng(0).lognormal(5, 1, 20_000), 1, 1_000).astype(int)


def said(plan, lengths=LENGTHS, **more):
    return " ".join(first_steps(dataclasses.replace(inspected_facts(plan, lengths), **more)))


def test_a_good_plan_needs_nothing():
    plan = bw.plan(LENGTHS, max_tokens=8_000, accumulate=16)
    assert said(plan).startswith("Nothing to do")
    assert said(bw.plan([7] * 64, max_tokens=70), [7] * 64).startswith("Nothing to do")


def test_a_budget_is_proposed_for_batches_of_a_fixed_size_and_it_leaves_what_is_told():
    plan = bw.plan(LENGTHS, batching=bw.FixedSize(16))
    facts = inspected_facts(plan, LENGTHS)
    within = facts.inspected.within_budget
    assert f"it is {percent(within.padding)}" in said(plan)
    assert "--batch-size 16" in said(plan)
    better = bw.plan(LENGTHS, batch_size=16).stats(LENGTHS)
    assert better.budget == within.max_tokens
    assert better.efficiency == pytest.approx(1 - within.padding)
    assert within.padding < 0.1 < facts.measured.waste.plan


def test_another_mixing_is_proposed_where_it_pads_less_and_mixes_as_well():
    batching = bw.TokenBudget(8_000, mixing="update")
    plan = bw.plan(LENGTHS, batching=batching, accumulate=8)
    dial = bw.mixing_dial(LENGTHS, batching, accumulate=8)
    told = said(plan, dial=dial)
    assert "mixing='stratified' would leave" in told
    assert "mixing=" not in said(plan)  # not known without the dial
    assert "mixing='update'" not in told


def test_ranks_that_wait_are_told_and_a_cost_helps():
    uneven = bw.plan(LENGTHS, batching=bw.FixedSize(4), world_size=8)
    told = said(uneven)
    assert "Ranks wait" in told
    assert f"{uneven.stats(LENGTHS).imbalance_padded:.3f} ×" in told
    assert "raise --accumulate with it" in told
    even = bw.plan(LENGTHS, batching=bw.FixedSize(4), world_size=8, cost="padded").stats(LENGTHS)
    assert even.imbalance_padded < 1.03
    assert even.dispersion > 2  # what the sentence warns of
    quadratic = bw.plan(LENGTHS, max_tokens=8_000, world_size=4, accumulate=4)
    assert "--cost quadratic" in said(quadratic)
    dealt = bw.plan(LENGTHS, max_tokens=8_000, world_size=4, accumulate=4, cost="quadratic")
    assert "--cost quadratic" not in said(dealt)


def test_updates_that_are_unlike_are_told():
    plan = bw.plan(LENGTHS, max_tokens=8_000)
    facts = plan_facts(plan, LENGTHS).measured
    assert facts.stats.dispersion > 2
    told = said(plan)
    assert "speed and mix conflict" in told
    assert f"length mix of {facts.stats.dispersion:.2f}" in told
    assert f"busy: {facts.smaller_batches.dispersion:.2f} at" in told
    rising = bw.plan(
        LENGTHS, batching=bw.FixedSize(20), order=lambda lengths, **_: lengths.argsort()
    )
    assert "Updates are unlike one another" in said(rising)


def test_samples_that_are_not_seen_come_first():
    plan = bw.plan(LENGTHS, batching=bw.TokenBudget(900, oversize="drop"))
    dropped = sum(each.size for each in plan.dropped.values())
    assert dropped
    first, *_ = first_steps(inspected_facts(plan, LENGTHS))
    assert first.startswith("This epoch does not see every sample")
    assert f"{dropped:,} samples dropped (oversize)" in first
    cut = bw.plan(LENGTHS, batching=bw.TokenBudget(900, oversize="truncate"))
    assert "lose tokens" in said(cut)


def test_of_a_file_alone_the_source_is_asked_for():
    plan = bw.plan(LENGTHS, max_tokens=8_000, world_size=4)
    assert "Name the SOURCE" in first_steps(PlanFacts(file_facts(plan)))[-1]
    missing = " ".join(first_steps(PlanFacts(file_facts(plan.shard(0, 4)))))
    assert "in no batch" in missing
    doubled = plan.take(np.tile(np.arange(len(plan)), 2))
    assert "repetitions of samples" in " ".join(first_steps(PlanFacts(file_facts(doubled))))


def test_coverage_counts_each_sample_once_whatever_its_pieces():
    split = bw.plan([25, 3], batching=bw.Packing(10, oversize="split"))
    assert epoch_coverage(split).times == (TimesDrawn(1, 2, 1.0),)
    often = bw.Plan(np.zeros(40, dtype=int), np.arange(41))
    assert epoch_coverage(often) == EpochCoverage(None, 8, (TimesDrawn(8, 1, None),))
    short = epoch_coverage(bw.plan([3, 5, 2, 4], max_tokens=8, world_size=2).shard(0, 2))
    assert sum(each.samples for each in short.times) == short.num_lengths == 4
