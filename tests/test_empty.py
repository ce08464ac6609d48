"""Samples of length 0: counted and named, left out of plans, or counted as 1."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.torch import PlanBatchSampler
from tests.strategies import lengths

VALUES = np.array([5, 0, 3, 8, 0, 2, 7, 1])


def test_they_are_counted_and_the_first_is_named():
    said = r"2 of 8 lengths are 0, the first is lengths\[1\]\. Leave out .*empty=\"drop\""
    with pytest.raises(bw.errors.LengthsError, match=said):
        bw.plan(VALUES, max_tokens=10)
    with pytest.raises(bw.errors.LengthsError, match=r"1 of 2 lengths is 0, lengths\[1\]"):
        bw.plan([3, 0], max_tokens=10)
    with pytest.raises(bw.errors.LengthsError, match=r"lengths\[1\] is -2"):
        bw.plan([3, -2, 0], max_tokens=10)


@given(
    values=lengths(min_size=2),
    batching=st.sampled_from(
        [
            bw.TokenBudget(70),
            bw.TokenBudget(20, oversize="drop"),
            bw.TokenBudget(20, oversize="truncate", mixing="update"),
            bw.Packing(70),
            bw.Packing(20, oversize="split"),
            bw.FixedSize(3),
        ]
    ),
    order=st.sampled_from([bw.Shuffle(), bw.Sequential(), bw.Shuffle(window=7)]),
    places=st.sets(st.integers(0, 119), max_size=20),
)
def test_all_others_are_planned_as_if_they_were_alone(values, batching, order, places):
    values = values.astype(np.int64)
    gone = np.array(sorted(place for place in places if place < values.size), dtype=np.int64)
    values[gone] = 0
    try:
        planner = bw.Planner(values, batching=batching, order=order, empty="drop")
    except bw.BatchwrightError:
        left = np.delete(values, gone)
        assert not left.size or not (left <= 20).any()
        return
    for epoch in (0, 1):
        plan = planner(epoch)
        assert plan.dropped.get("empty", gone[:0]).tolist() == gone.tolist()
        listed = np.unique(np.concatenate([plan.indices, *plan.dropped.values()]))
        assert listed.tolist() == list(range(values.size))
        assert not np.isin(plan.indices, gone).any()
        assert len(plan) == len(planner)


def test_they_count_as_one():
    planner = bw.Planner(VALUES, max_tokens=10, empty="one")
    assert planner.lengths.tolist() == np.maximum(VALUES, 1).tolist()
    assert sorted(planner(0).indices.tolist()) == list(range(8))


def test_columns_are_empty_where_one_of_them_is():
    values = np.array([[3, 4], [0, 2], [2, 2], [1, 0]])
    planner = bw.Planner(values, max_tokens=20, empty="drop")
    assert planner(0).dropped["empty"].tolist() == [1, 3]
    assert bw.Planner(values, max_tokens=20, empty="one").lengths.min() == 1


def test_where_all_are_empty_none_is_left():
    with pytest.raises(bw.errors.LengthsError, match="all 3 samples are empty"):
        bw.plan([0, 0, 0], max_tokens=10, empty="drop")


def test_a_wrong_word_and_groups_are_refused():
    with pytest.raises(bw.errors.BudgetError, match="empty='skip'"):
        bw.plan(VALUES, max_tokens=10, empty="skip")
    with pytest.raises(bw.errors.PlanError, match="together"):
        bw.plan(VALUES, max_tokens=10, empty="drop", together=[0, 0, 1, 1, 2, 2, 3, 3])
    plan = bw.plan(VALUES, max_tokens=10, empty="drop", unique=[0, 0, 1, 1, 2, 2, 3, 3])
    assert sorted(plan.indices.tolist()) == [0, 2, 3, 5, 6, 7]


@pytest.mark.parametrize("budget", [10, 8])
def test_a_run_resumes_without_them_also_with_another_budget(budget):
    values = np.tile(VALUES, 10)
    planner = bw.Planner(values, max_tokens=10, empty="drop")
    first = PlanBatchSampler(planner, rank=0, world_size=1)
    seen = [batch for batch, _ in zip(first, range(5), strict=False)]
    other = PlanBatchSampler(
        bw.Planner(values, max_tokens=budget, empty="drop"), rank=0, world_size=1
    )
    other.load_state_dict(first.state_after(5))
    rest = [*other]
    assert sorted(np.concatenate([*seen, *rest]).tolist()) == np.flatnonzero(values).tolist()


def test_a_resized_planner_and_a_saved_plan_keep_what_was_left_out(tmp_path):
    planner = bw.Planner(VALUES, max_tokens=10, empty="drop").resized(2)
    plan = planner(0)
    plan.save(tmp_path / "plan.safetensors")
    loaded = bw.Plan.load(tmp_path / "plan.safetensors")
    assert loaded.dropped["empty"].tolist() == [1, 4]
    assert loaded.stats(planner.lengths).dropped_by_reason["empty"] == 2
