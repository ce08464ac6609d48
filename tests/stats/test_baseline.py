"""The batches of today beside a plan: the same samples, as long as they are there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.budgets import suggest
from batchwright.stats.plan_facts import plan_facts
from tests.strategies import lengths

LENGTHS = np.random.default_rng(0).lognormal(3, 0.75, 6_000).astype(np.int64) + 1
FIGURES = ("num_batches", "num_steps", "num_tokens", "padded_tokens", "efficiency", "dispersion")


def plain_of(plan, values, batch_size=None):
    return plan_facts(plan, values, batch_size=batch_size).measured.plain_batches


@given(values=lengths(), batch_size=st.integers(1, 40), multiple=st.sampled_from([1, 8]))
def test_present_batches_are_random_and_of_the_given_size(values, batch_size, multiple):
    batching = bw.TokenBudget(70, pad_to_multiple_of=multiple)
    plain = plain_of(bw.plan(values, batching=batching), values, batch_size)
    fixed = bw.FixedSize(batch_size, pad_to_multiple_of=multiple)
    stats = bw.plan(values, batching=fixed, accumulate=plain.accumulate).stats(values)
    assert {name: getattr(plain, name) for name in FIGURES} == {
        name: getattr(stats, name) for name in FIGURES
    }
    assert (plain.batch_size, plain.assumed) == (batch_size, False)


@given(values=lengths())
def test_assumed_batches_hold_as_many_usual_samples_as_the_budget(values):
    batching = bw.TokenBudget(130, pad_to_multiple_of=8)
    plain = plain_of(bw.plan(values, batching=batching), values)
    usual = -(-suggest(values).usual // 8) * 8
    assert plain.batch_size * usual <= 130
    assert (plain.batch_size + 1) * usual > 130 or plain.batch_size == len(values)
    assert plain.assumed


def test_a_budget_that_one_long_sample_decides_is_no_batch_of_usual_samples():
    values = [20, 30, 40, 50] * 500 + [100_000]
    plain = plain_of(bw.plan(values, max_tokens=100_000), values)
    assert plain.batch_size == suggest(values).batch_size
    plain = plain_of(bw.plan([5, 100_000], max_tokens=200_000), [5, 100_000])
    assert plain.batch_size == 2  # there are no more


def test_where_one_usual_sample_fills_the_budget_as_many_are_assumed_as_are_planned():
    batching = bw.TokenBudget(60, oversize="truncate")
    plan = bw.plan(LENGTHS, batching=batching)
    plain = plain_of(plan, LENGTHS)
    assert plain.batch_size == round(len(LENGTHS) / len(plan)) > 1
    assert plain.padded_tokens > plan.stats(LENGTHS).padded_tokens


def test_assumed_batches_hold_no_more_samples_than_planned_ones():
    plan = bw.plan([2, 2, 4, 4], batching=bw.TokenBudget(80, max_samples=3))
    plain = plain_of(plan, [2, 2, 4, 4])
    assert (plain.batch_size, plain.num_batches) == (3, 2)


def test_updates_are_compared_with_those_that_hold_as_many_tokens():
    for accumulate in (1, 4):
        plan = bw.plan(LENGTHS, batch_size=16, accumulate=accumulate)
        plain = plain_of(plan, LENGTHS, 16)
        assert plain.accumulate == accumulate
        assert abs(plain.num_steps - plan.stats(LENGTHS).num_steps) <= 1
    small = bw.plan(LENGTHS, batch_size=64, max_tokens=500)
    assert small.origin.accumulate > 2
    assert plain_of(small, LENGTHS, 64).accumulate == 1


@pytest.mark.parametrize("oversize", ["truncate", "drop"])
def test_long_samples_are_cut_or_dropped_in_both(oversize):
    values = LENGTHS.copy()
    values[:4] = 36_314
    batching = bw.TokenBudget(2_048, oversize=oversize)
    facts = plan_facts(bw.plan(values, batching=batching), values).measured
    assert facts.plain_batches.batch_size > 4
    assert facts.plain_batches.num_tokens == facts.stats.num_tokens
    assert facts.waste.plain_batches > 0.4 > facts.waste.plan


def test_present_batches_may_exceed_the_budget():
    plain = plain_of(bw.plan(LENGTHS, batch_size=64, max_tokens=500), LENGTHS, 64)
    assert plain.max_batch_tokens > 500


def test_the_same_updates_in_smaller_batches_mix_as_evenly_as_a_shuffle():
    plan = bw.plan(LENGTHS, batch_size=64)
    facts = plan_facts(plan, LENGTHS).measured
    smaller = facts.smaller_batches
    assert facts.stats.dispersion > 2
    assert smaller.dispersion < 1
    assert smaller.num_steps == facts.stats.num_steps
    assert smaller.num_batches == 8 * smaller.num_steps
    for other in (
        bw.plan(LENGTHS, batch_size=64, accumulate=8),  # has as many already
        bw.plan(LENGTHS, batch_size=4),  # a batch has too few samples
        bw.plan(LENGTHS, batching=bw.FixedSize(64)),  # has no budget
        bw.plan(LENGTHS, batching=bw.Packing(1_000)),  # rows mix already
    ):
        assert plan_facts(other, LENGTHS).measured.smaller_batches is None
