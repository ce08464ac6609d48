"""Samples that are too few for whole updates, however batches are split: by a named policy."""

import contextlib
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.order import Pools
from batchwright.sharding import share
from tests.strategies import accounted

ONES = [100] * 1001
"""Volumes or videos: a batch holds one."""


def planner(last, lengths=ONES, **options):
    return bw.Planner(lengths, batching=bw.FixedSize(1), last=last, **options)


def test_a_short_last_update_on_every_rank():
    few = planner("short", world_size=7, accumulate=16)
    plan = few(3)
    assert len(few) == len(plan) == 1001
    assert accounted(plan).tolist() == list(range(1001))
    assert not plan.repeated.size
    assert [len(plan.shard(rank, 7)) for rank in range(7)] == [143] * 7
    assert plan.stats(ONES).num_steps == 9  # of 112 batches each, the last of 105


def test_samples_come_twice_where_ranks_lack_some_and_one_warning_says_so():
    with pytest.warns(UserWarning, match="1001 samples cannot fill 1008 .* repeats 7") as caught:
        few = planner("short", world_size=8)
    plans = [few(epoch) for epoch in range(3)]  # without another, which would be an error
    assert len(caught) == 1
    assert 'last="drop"' in str(caught[0].message)
    assert 'last="repeat"' in str(caught[0].message)
    assert caught[0].filename == __file__
    assert {len(plan) for plan in plans} == {1008}
    assert plans[0].stats(ONES).repeated == 7
    assert len({tuple(np.sort(plan.repeated)) for plan in plans}) == 3
    for plan in plans:
        assert np.unique(plan.repeated).size == 7
        assert accounted(plan).tolist() == list(range(1001))


def test_a_validation_set_smaller_than_the_world():
    with pytest.warns(UserWarning, match="3 samples cannot fill 4 batches"):
        plan = bw.plan([5, 6, 7], max_tokens=99, world_size=4)
    assert sorted(batch.tolist() for batch in plan)[:2] in ([[0], [0]], [[0], [1]])
    assert plan.repeated.size == 1


def test_the_rest_is_left_out_by_name_another_in_each_epoch():
    few = planner("drop", world_size=8)
    gone = [few(epoch).dropped["last"] for epoch in range(50)]
    assert len(few) == 1000
    assert {each.size for each in gone} == {1}
    assert len({int(each[0]) for each in gone}) > 40
    assert few(0).stats(ONES).dropped_by_reason == {"last": 1}
    in_sequence = planner("drop", world_size=8, order=bw.Sequential())(5)
    assert in_sequence.dropped["last"].tolist() == [1000]
    assert in_sequence.indices.tolist() == list(range(1000))


def test_any_sample_may_be_left_out_whatever_its_length():
    """Batches of one sample each, sorted by length: the last of them hold the shortest."""
    few = bw.Planner(range(51, 100), max_tokens=100, world_size=8, last="drop")
    assert len(few) == 48
    gone = {int(few(epoch).dropped["last"][0]) for epoch in range(40)}
    assert len(gone) > 20


def test_updates_are_mixed_though_some_samples_are_left_out():
    """Each update has one batch of every stratum of those that remain."""
    lengths = np.arange(51, 100)
    few = bw.Planner(lengths, max_tokens=100, accumulate=8, last="drop")
    for epoch in range(5):
        updates = lengths[few(epoch).indices].reshape(6, 8)
        strata = np.sort(updates.ravel()).reshape(8, 6)
        assert all(np.isin(strata, update).sum(axis=1).tolist() == [1] * 8 for update in updates)


def test_as_many_samples_as_batches_are_enough():
    plan = bw.plan([3] * 8, max_tokens=6, world_size=2, accumulate=4)
    assert plan.sizes.tolist() == [1] * 8


def test_nothing_would_remain():
    with pytest.raises(bw.errors.PlanError, match="3 samples cannot fill one update of 4 batches"):
        planner("drop", [5, 6, 7], world_size=2, accumulate=2)


def test_the_last_update_is_filled_without_a_warning():
    few = planner("repeat", world_size=8, accumulate=2)
    plan = few(1)
    assert len(few) == 1008
    assert plan.repeated.size == 7
    assert accounted(plan).tolist() == list(range(1001))
    tiny = planner("repeat", [5], world_size=2, accumulate=2)(0)
    assert tiny.indices.tolist() == [0] * 4
    assert tiny.repeated.tolist() == [0] * 3


def test_batches_are_split_before_anything_is_left_out():
    lengths = [3] * 16
    for last in ("short", "drop", "repeat"):
        plan = bw.plan(lengths, max_tokens=9, world_size=4, accumulate=2, last=last)
        assert len(plan) == 8
        assert not plan.dropped
        assert not plan.repeated.size


def test_tokens_of_an_update_keep_their_ranks():
    for last, many in (("short", 10), ("drop", 8), ("repeat", 12)):
        plan = bw.plan([10] * 10, batching=bw.FixedSize(1), world_size=1, step_tokens=30, last=last)
        assert (len(plan), plan.origin.accumulate) == (many, 4)


@pytest.mark.parametrize("last", ["short", "drop", "repeat"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_many_batches_of_one_sample_keep_the_tokens_of_an_update(world_size, last):
    lengths = [10] * 1_000
    options = {"batching": bw.FixedSize(1), "world_size": world_size, "last": last}
    for samples in (2, 3, 7, 32):
        planner = bw.Planner(lengths, step_tokens=10 * samples * world_size, **options)
        assert planner.accumulate == pytest.approx(samples, rel=0.05)
        assert sum(each.size for each in planner(0).dropped.values()) < samples * world_size


def test_pieces_of_long_samples_are_repeated_too():
    batching = bw.Packing(10, oversize="split", max_samples=1)
    plan = bw.plan([25, 3], batching=batching, world_size=3, accumulate=2, last="repeat")
    assert len(plan) == 6
    assert plan.repeated.size == 2
    assert plan.stats([25, 3]).num_tokens > 28
    for epoch in range(8):  # of the pieces 0 to 3, of the samples 0 and 1
        plan = bw.plan([25, 3], batching=batching, world_size=6, last="repeat", epoch=epoch)
        assert accounted(plan).tolist() == [0, 0, 0, 1]


def test_what_is_repeated_survives_the_file(tmp_path):
    plan = planner("repeat", world_size=8)(2)
    plan.save(tmp_path / "plan")
    assert bw.Plan.load(tmp_path / "plan").repeated.tolist() == plan.repeated.tolist()
    assert plan[:3].repeated.tolist() == plan.repeated.tolist()


def test_the_policy_survives_a_resize():
    few = planner("drop", world_size=8)
    assert few.resized(4).last == "drop"
    assert len(few.resized(10)) == 1000


@pytest.mark.parametrize("last", ["longest", None, True, bw.Shuffle])
def test_an_unknown_policy(last):
    with pytest.raises(bw.errors.BudgetError, match="expected one of 'short', 'drop', 'repeat'"):
        planner(last)


@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=9),
    world=st.tuples(st.integers(1, 5), st.integers(1, 3)),
    last=st.sampled_from(["short", "drop", "repeat"]),
)
def test_a_plan_that_is_given_is_shared_by_the_same_policies(sizes, world, last):
    world_size, accumulate = world
    update = world_size * accumulate
    whole = bw.Plan(np.arange(sum(sizes)), np.cumsum([0, *sizes]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* come twice", UserWarning)
        plan = share(whole, world_size, accumulate, 0, last=last)
    if plan is None:
        assert last == "drop"
        assert sum(sizes) < update
        return
    assert len(plan) % (world_size if last == "short" else update) == 0
    assert accounted(plan).tolist() == list(range(sum(sizes)))
    assert plan.sizes.max() <= max(sizes)
    assert plan.repeated.size < {"short": world_size, "repeat": update, "drop": 1}[last]
    assert last == "drop" or not plan.dropped


def test_a_plan_remembers_its_policy(tmp_path):
    plan = planner("drop", world_size=8)(2)
    plan.save(tmp_path / "plan")
    assert bw.Plan.load(tmp_path / "plan").origin.last == plan.shard(0, 8).origin.last == "drop"


@pytest.mark.parametrize("last", ["short", "repeat", "drop"])
@pytest.mark.parametrize(
    ("batching", "world", "accumulate"),
    [
        (bw.TokenBudget(8), 1, 2**62),
        (bw.FixedSize(2), 10**6, 10**6),
        (bw.Packing(8), 2**40, 1),
        (bw.Buckets(2, max_tokens=8), 2**40, 2**40),
    ],
)
def test_an_update_of_any_size_is_planned_at_once_or_refused(batching, world, accumulate, last):
    planner = None
    with warnings.catch_warnings(), contextlib.suppress(bw.errors.PlanError):
        warnings.simplefilter("ignore")
        planner = bw.Planner(
            [3, 1, 4, 1, 5],
            batching=batching,
            world_size=world,
            accumulate=accumulate,
            last=last,
        )
    if planner is not None:
        assert len(planner) <= 10**6
        assert set(planner(0).indices.tolist()) == set(range(5))


def test_far_more_repeats_than_samples_are_refused():
    with pytest.raises(bw.errors.PlanError, match="5 samples cannot fill 8000000 batches"):
        bw.Planner(
            np.ones(5, int),
            batching=bw.FixedSize(1),
            world_size=8,
            accumulate=10**6,
            last="repeat",
        )


@pytest.mark.parametrize("nothing", [[], np.empty(0, dtype=np.int64), Pools(np.empty(0), None)])
@pytest.mark.parametrize("last", ["short", "drop", "repeat"])
def test_a_later_epoch_without_samples_is_filled_with_others(nothing, last):
    def order(lengths, *, seed, epoch):
        return np.arange(lengths.size) if epoch != 4 else nothing

    planner = bw.Planner(
        [4] * 30, batching=bw.TokenBudget(20), order=order, accumulate=4, last=last
    )
    with pytest.warns(UserWarning, match="epoch 4 would hold no sample: it repeats others"):
        plan = planner(4)
    assert len(plan) == len(planner)
    assert sorted(plan.indices) == sorted(plan.repeated)

    def never(lengths, *, seed, epoch):
        return nothing

    with pytest.raises(bw.errors.PlanError, match="at least one sample"):
        bw.Planner([4] * 30, batching=bw.TokenBudget(20), order=never)
