"""Planners that leave samples out by name: all else is as before."""

import pickle
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.without import without_samples
from tests.strategies import jobs


def check(before: bw.Plan, after: bw.Plan, gone: set[int], update: int) -> None:
    """Check every promise of `Planner.without`."""
    assert len(after) == len(before)
    repeated = []
    for first in range(0, len(before), update):
        numbers = range(first, min(first + update, len(before)))
        expected = [[s for s in before[b].tolist() if s not in gone] for b in numbers]
        found = [after[b].tolist() for b in numbers]
        assert all(found)
        if all(expected):
            assert found == expected
            continue
        more = Counter(sum(found, [])) - Counter(sum(expected, []))
        repeated += sorted(more.elements())
        assert not Counter(sum(expected, [])) - Counter(sum(found, []))
        for own, was in zip(found, expected, strict=True):
            if not was:  # it takes one
                assert len(own) == 1
            else:  # it may give some, the last first
                assert own == was[: len(own)]
        taken = sum(1 for was in expected if not was)
        spare = sum(len(was) - 1 for was in expected if was)
        assert sum(more.values()) == max(0, taken - spare)
    kept = [sample for sample in before.repeated.tolist() if sample not in gone]
    assert sorted(after.repeated.tolist()) == sorted(kept + repeated)
    others = {s for reason, each in before.dropped.items() for s in each.tolist()}
    assert after.dropped["without"].tolist() == sorted(gone - others)
    assert after.num_samples == after.indices.size
    together = np.concatenate([*after])
    assert together.tolist() == after.indices.tolist()
    if after.starts is not None:
        apart = [after.entries(b).starts for b in range(len(after))]
        assert np.concatenate(apart).tolist() == after.starts.tolist()


@pytest.mark.slow
@given(jobs(max_size=60, min_tokens=16), st.integers(0, 3), st.data())
def test_every_other_sample_stays_where_it_is(job, epoch, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            planner = job.planner()
            before = planner(epoch)
        except (bw.errors.PlanError, bw.errors.BudgetError):
            assume(False)
        present = sorted(set(before.indices.tolist()))
        size = data.draw(st.integers(1, len(job.lengths)))
        gone = set(data.draw(st.permutations(range(len(job.lengths))))[:size])
        other = planner.without(sorted(gone))
        if gone >= set(present):
            with pytest.raises(bw.errors.PlanError, match="would hold none"):
                other(epoch)
            return
        after = other(epoch)
        check(before, after, gone, planner.world_size * planner.accumulate)
        parts = [after.shard(rank, planner.world_size) for rank in range(planner.world_size)]
        dealt = [part[b].tolist() for b in range(len(parts[0])) for part in parts]
        assert dealt == [batch.tolist() for batch in after]
        again = pickle.loads(pickle.dumps(other))(epoch)  # noqa: S301 -- made here
        assert again.identity() == after.identity()
        assert again == after
        assert planner(epoch) == before


def test_whole_batches_and_updates_that_are_named_are_filled():
    planner = bw.Planner([9, 9, 9, 9, *[3] * 12], max_tokens=9, world_size=2)
    before = planner(0)
    for gone in (before[:2], before[4:5], before[1:7], before[len(before) - 2 :]):
        samples = set(gone.indices.tolist())
        check(before, planner.without(sorted(samples))(0), samples, 2)


@pytest.mark.parametrize("oversize", ["drop", "truncate"])
def test_samples_above_the_budget_do_not_hide_the_others(oversize):
    lengths = np.random.default_rng(0).integers(1, 60, 400)
    planner = bw.Planner(lengths, batching=bw.TokenBudget(40, oversize=oversize), world_size=2)
    before = planner(0)
    gone = {sample for batch in range(0, len(before), 3) for sample in before[batch].tolist()}
    gone |= set(range(0, 400, 9))
    check(before, planner.without(sorted(gone))(0), gone, 2)


@pytest.mark.parametrize("multiple", [2, 3, 7])
def test_plans_of_split_batches_can_do_without_samples(multiple):
    lengths = np.random.default_rng(0).integers(1, 60, 400)
    plan = bw.equalize(bw.plan(lengths, max_tokens=120), multiple_of=multiple)
    gone = np.unique(np.concatenate([plan[b] for b in range(0, len(plan), 5)]))
    check(plan, without_samples(plan, gone, multiple), set(gone.tolist()), multiple)


@pytest.mark.parametrize(
    "batching",
    [
        bw.TokenBudget(600),
        bw.TokenBudget(600, mixing="update"),
        bw.TokenBudget(600, slack=0.1),
        bw.TokenBudget(600, mixing=3),
        bw.Packing(100),
        bw.Buckets(4, max_tokens=600),
    ],
)
def test_the_batch_of_every_place_is_found(batching):
    lengths = np.clip(np.random.default_rng(0).lognormal(3, 1, 5_000), 1, 100).astype(int)
    plan = bw.plan(lengths, batching=batching, world_size=3, accumulate=2)
    part = plan.batches.parts[0]
    for rank in range(len(plan)):
        positions = part.cut.one(rank, part.key)
        assert part.cut.holders(positions, part.key).tolist() == [rank] * positions.size


def test_batches_are_read_only():
    plan = bw.Planner(np.arange(1, 20), max_tokens=40).without([3, 18])(0)
    assert not any(batch.flags.writeable for batch in (*plan, *map(plan.__getitem__, range(4))))


def test_naming_samples_twice_adds_them_up():
    planner = bw.Planner(range(1, 50), max_tokens=100)
    one = planner.without([3, 5]).without([5, 8])
    other = planner.without(np.array([8, 3, 5, 3]))
    assert one.left_out.tolist() == other.left_out.tolist() == [3, 5, 8]
    assert one(2) == other(2)
    assert planner.without([])(1) == planner(1)
    assert one.resized(3)(0).dropped["without"].tolist() == [3, 5, 8]


@pytest.mark.parametrize("samples", [[-1], [49], ["few"], [[1, 2]], [0.5], 3])
def test_samples_that_are_not_there_are_refused(samples):
    with pytest.raises(bw.errors.PlanError, match="samples"):
        bw.Planner(range(1, 50), max_tokens=100).without(samples)


def test_a_few_samples_cost_no_look_at_every_batch(monkeypatch):
    planner = bw.Planner(np.random.default_rng(0).integers(1, 60, 50_000), max_tokens=600)
    monkeypatch.delattr(bw.Plan, "_arrays")
    left = planner.without([7, 13])
    assert len(left(0)) == len(planner)
    computed = []
    of = type(planner(0).batches).arrays
    monkeypatch.setattr(
        type(planner(0).batches), "arrays", lambda self: computed.append(len(self)) or of(self)
    )
    left(1)
    assert sum(computed) == 0
