import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.batches import gathered
from tests.strategies import jobs


@st.composite
def plans(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=12))
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    indices = draw(st.permutations(range(int(offsets[-1]))))
    return bw.Plan(np.array(indices), offsets)


@given(plans(), st.data())
def test_take_is_a_list_of_batches(plan, data):
    batches = data.draw(st.lists(st.integers(0, len(plan) - 1), min_size=1, max_size=20))
    taken = plan.take(np.array(batches))
    assert [batch.tolist() for batch in taken] == [plan[b].tolist() for b in batches]


@given(plans(), st.slices(12))
def test_slices_are_plans(plan, piece):
    wanted = [batch.tolist() for batch in plan][piece]
    if not wanted:
        with pytest.raises(bw.errors.PlanError, match="at least one batch"):
            plan[piece]
        return
    assert [batch.tolist() for batch in plan[piece]] == wanted


@given(plans(), st.integers(1, 5))
def test_shards_are_a_stride(plan, world_size):
    if len(plan) % world_size:
        with pytest.raises(bw.errors.PlanError, match="cannot be shared equally"):
            plan.shard(0, world_size)
        return
    for rank in range(world_size):
        shard = plan.shard(rank, world_size)
        assert [b.tolist() for b in shard] == [b.tolist() for b in plan][rank::world_size]


def test_gathering_goes_over_many_blocks():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 100, 600_000)
    cuts = np.concatenate(([0], np.sort(rng.choice(np.arange(1, 600_000), 900, False)), [600_000]))
    order = rng.permutation(901)
    begins, sizes = cuts[:-1][order], np.diff(cuts)[order]
    expected = np.concatenate([values[a : a + n] for a, n in zip(begins, sizes, strict=True)])
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    assert np.array_equal(gathered(values, begins, offsets), expected)


@pytest.mark.parametrize(
    ("indices", "offsets", "said"),
    [
        ([0, 1], [0, 1], "expected 0 to 2"),
        ([0, 1], [1, 2], "expected 0 to 2"),
        ([0, 1], [], "nothing"),
        ([0, 1], [0, 0, 2], "batch 0 holds no sample"),
        ([0, 1, 2], [0, 2, 1, 3], "batch 1 holds no sample"),
        ([[0, 1]], [0, 2], "flat array of integers"),
        ([0.5, 1], [0, 2], "flat array of integers"),
    ],
)
def test_arrays_that_are_no_plan(indices, offsets, said):
    with pytest.raises(bw.errors.PlanError, match=said):
        bw.Plan(np.array(indices), np.array(offsets))


def test_a_plan_cannot_be_changed():
    plan = bw.plan([3, 1, 2], max_tokens=6)
    for array in (plan.indices, plan.offsets, plan[0]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_batches_out_of_range():
    plan = bw.plan([3, 1, 2], max_tokens=6)
    assert plan[-1].tolist() == list(plan)[-1].tolist()
    with pytest.raises(IndexError, match="of a plan of"):
        plan[len(plan)]
    with pytest.raises(bw.errors.PlanError, match="rank=2 is not in a world of 2"):
        plan.shard(2, 2)


def test_plans_that_left_out_other_samples_differ():
    made = [
        bw.Plan(np.arange(3), np.array([0, 3]), dropped=dropped)
        for dropped in ({}, {"last": np.array([3])}, {"last": np.array([4])})
    ]
    assert len({plan.digest() for plan in made}) == len(set(made)) == 3


def test_other_lengths_are_refused():
    lengths = np.array([3, 1, 2, 5])
    plan = bw.plan(lengths, max_tokens=6)
    with pytest.raises(bw.errors.PlanError, match="made for 4 lengths, got 3"):
        plan.stats(lengths[:3])
    with pytest.raises(bw.errors.PlanError, match="other lengths"):
        plan.stats(lengths[::-1])
    with pytest.raises(bw.errors.PlanError, match="uses sample 3"):
        bw.Plan(np.array([3, 0]), np.array([0, 2])).stats([1, 2])


@pytest.mark.slow
@given(jobs(max_size=60), st.integers(0, 5))
def test_equal_plans_hash_alike(job, epoch):
    try:
        planner = job.planner()
    except bw.errors.PlanError:
        return
    plan = planner(epoch)
    other = bw.Plan(plan.indices.copy(), plan.offsets.copy(), plan.starts, dropped=plan.dropped)
    assert plan == other
    assert hash(plan) == hash(other)
    turned = plan.indices[::-1].copy()
    other = bw.Plan(turned, plan.offsets, plan.starts, dropped=plan.dropped)
    assert (plan == other) == np.array_equal(turned, plan.indices)
    assert plan != 3
