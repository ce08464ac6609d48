"""A given batch, shared: by every way where few, nearly as well where many."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from tests.python_lines import python_lines

costs_of_few = st.lists(st.integers(0, 50), min_size=3, max_size=7).filter(any)


def worst(costs, part, parts):
    return np.bincount(part, weights=costs, minlength=parts).max()


@given(costs=costs_of_few, parts=st.integers(1, 3), equal=st.booleans())
def test_few_samples_are_shared_in_the_best_of_all_ways(costs, parts, equal):
    if equal:
        costs = costs[: len(costs) // parts * parts]
        if not any(costs):
            return
    part = bw.balance(costs, parts, equal_counts=equal)
    counts = np.bincount(part, minlength=parts)
    assert counts.min() >= 1
    if equal:
        assert counts.max() == counts.min()
    every = itertools.product(range(parts), repeat=len(costs))
    best = min(
        worst(costs, np.array(way), parts)
        for way in every
        if len(set(way)) == parts
        and (not equal or {way.count(p) for p in range(parts)} == {len(costs) // parts})
    )
    assert worst(costs, part, parts) == best


@given(seed=st.integers(0, 99), size=st.integers(300, 3000), parts=st.integers(2, 16))
def test_many_samples_are_shared_nearly_evenly(seed, size, parts):
    lengths = np.random.default_rng(seed).lognormal(5.5, 0.9, size).clip(1, 2048)
    part = bw.balance(lengths, parts)
    assert worst(lengths, part, parts) <= lengths.sum() / parts + lengths.max()
    equal = lengths[: size // parts * parts]
    counts = np.bincount(bw.balance(equal, parts, equal_counts=True))
    assert counts.tolist() == [size // parts] * parts


def test_the_global_batch_of_a_reinforcement_learner():
    lengths = np.random.default_rng(0).lognormal(5.5, 0.9, 1024).clip(1, 2048).round()
    for costs in (lengths, bw.CostModel(b=24_576, c=1)(lengths)):
        part = bw.balance(costs, 8)
        assert worst(costs, part, 8) <= 1.001 * costs.sum() / 8
    # A few lines of Python a sample: a thousandth of a second.
    assert python_lines(lambda: bw.balance(lengths, 8))[0] < 10 * lengths.size


def test_a_hundred_thousand_samples_in_rounds():
    lengths = np.random.default_rng(0).lognormal(5.5, 0.9, 100_000).clip(1, 2048)
    part = bw.balance(lengths, 64)
    assert worst(lengths, part, 64) <= 1.001 * lengths.sum() / 64
    counts = np.bincount(part)
    assert counts.max() - counts.min() <= 1


def test_a_cost_model_as_a_budget_and_as_a_cost():
    cost = bw.CostModel(a=100, b=1, c=0.01)
    lengths = np.clip(np.random.default_rng(0).lognormal(4, 1, 2000), 1, 600).astype(int)
    batching = bw.TokenBudget(10_000, max_samples=cost.rows_within(20_000))
    planner = bw.Planner(lengths, batching=batching, world_size=4, cost=cost)
    plan = planner(0)
    work = [len(batch) * float(cost(lengths[batch].max())) for batch in plan]
    assert max(work) <= 20_000
    assert np.sort(plan.indices).tolist() == list(range(2000))
    steps = np.array(work).reshape(-1, 4)
    assert (steps.max(1) / steps.mean(1)).mean() < 1.05


def test_bad_input():
    with pytest.raises(bw.errors.PlanError, match="2 samples for 3 parts"):
        bw.balance([1, 2], 3)
    with pytest.raises(bw.errors.PlanError, match="3 samples cannot be shared equally among 2"):
        bw.balance([1, 2, 3], 2, equal_counts=True)
    with pytest.raises(bw.errors.LengthsError, match=r"costs\[1\] is nan"):
        bw.balance([1, np.nan], 1)
    with pytest.raises(bw.errors.BudgetError, match="not all of them 0"):
        bw.CostModel()
    with pytest.raises(bw.errors.BudgetError, match="coefficients of at least 0"):
        bw.CostModel(b=-1)
    with pytest.raises(bw.errors.BudgetError, match="positive limit"):
        bw.CostModel(b=1).rows_within(0)
