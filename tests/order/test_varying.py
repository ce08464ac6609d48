"""Orders whose epochs need different numbers of batches: every epoch is planned all the same."""

import itertools
import warnings

import numpy as np
import pytest

import batchwright as bw
from batchwright.order import Pools
from tests.strategies import accounted

LENGTHS = np.random.default_rng(0).lognormal(4, 1, 2000).clip(1, 512).astype(int)


@pytest.mark.parametrize(
    "batching",
    [
        bw.TokenBudget(1024),
        bw.TokenBudget(4096, batch_size_multiple_of=4),
        bw.Packing(512),
        bw.Packing(1024, method="next_fit"),
        bw.Buckets(4, max_tokens=2048),
        bw.FixedSize(8),
    ],
    ids=str,
)
@pytest.mark.parametrize("world", [(1, 1), (4, 2)], ids=str)
def test_blocks_fit_in_every_epoch(batching, world):
    planner = bw.Planner(
        LENGTHS,
        batching=batching,
        order=bw.Blocks(100, open_blocks=4),
        world_size=world[0],
        accumulate=world[1],
    )
    for epoch in range(60):
        plan = planner(epoch)
        assert len(plan) == len(planner)
        assert accounted(plan).size == np.unique(plan.indices).size == 2000
        blocks = plan.indices // 100
        assert all(np.unique(blocks[i : i + 400]).size == 4 for i in range(0, 2000, 400))


@pytest.mark.parametrize("batching", [bw.TokenBudget(1024), bw.Packing(512)], ids=str)
def test_epochs_that_were_not_counted_have_room_for_all_that_is_drawn(batching):
    order = bw.ClassBalanced(np.arange(400) % 3, num_samples=100)
    planner = bw.Planner(LENGTHS[:400], batching=batching, order=order)
    assert not any(planner(epoch).dropped for epoch in range(60))


def now_and_then(lengths, *, seed, epoch):
    """Long samples and short ones in turn, but not in the epochs that are looked at first."""
    ordered = np.argsort(lengths, kind="stable")
    if epoch != 7:
        return ordered
    turns = np.empty_like(ordered)
    turns[::2], turns[1::2] = ordered[: lengths.size // 2], ordered[: lengths.size // 2 - 1 : -1]
    return turns


def test_an_epoch_that_needs_far_more_takes_the_sequence_of_one_that_was_counted():
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(2048), order=now_and_then)
    with pytest.warns(UserWarning, match="takes the sequence of epoch 0 .* No sample is lost"):
        plan = planner(7)
    assert len(plan) == len(planner)
    assert accounted(plan).tolist() == list(range(2000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert planner(7) == plan  # a planner warns once
        assert planner(8).indices.tolist() == np.argsort(LENGTHS, kind="stable").tolist()


def test_an_epoch_of_other_samples_is_rearranged_before_any_is_left_out():
    def order(lengths, *, seed, epoch):
        turns = now_and_then(lengths, seed=seed, epoch=epoch)
        return np.where(turns == 0, 1, turns) if epoch == 7 else turns

    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(2048), order=order)
    with pytest.warns(UserWarning, match="it is rearranged. No sample is lost"):
        plan = planner(7)
    assert plan.indices.size == 2000
    assert not plan.dropped


def test_an_epoch_that_holds_more_leaves_named_samples_out():
    def order(lengths, *, seed, epoch):
        return np.arange(lengths.size if epoch == 7 else 100)

    planner = bw.Planner(LENGTHS, batching=bw.FixedSize(10), order=order)
    with pytest.warns(UserWarning, match="1900 of them are left out"):
        plan = planner(7)
    assert len(plan) == len(planner) == 10
    assert accounted(plan).tolist() == list(range(2000))
    assert plan.dropped["deferred"].size == 1900


def test_draws_that_are_deferred_are_listed():
    class Growing:
        probes, varies = (0,), False

        def __call__(self, lengths, *, seed, epoch):
            members = np.arange(100 if epoch == 0 else 130)
            return Pools(members, np.array([0, members.size]), may_defer=True)

    for batching in (bw.FixedSize(10), bw.TokenBudget(2048)):
        planner = bw.Planner(LENGTHS, batching=batching, order=Growing())
        plan = planner(1)
        assert len(plan) == len(planner)
        assert plan.dropped["deferred"].size > 10
        assert accounted(plan).tolist() == list(range(130))


def test_an_epoch_that_holds_too_few_is_filled():
    def order(lengths, *, seed, epoch):
        return np.arange(3 if epoch == 7 else 50)

    planner = bw.Planner(LENGTHS, batching=bw.FixedSize(10), order=order)
    plan = planner(7)
    assert [batch.tolist() for batch in plan] == [[0], [1], [2], [0], [1]]
    assert plan.repeated.tolist() == [0, 1]


def test_an_order_that_grows_is_counted_far_ahead():
    def order(lengths, *, seed, epoch):
        return np.arange(min(10 * (epoch + 1), lengths.size))

    planner = bw.Planner(LENGTHS, batching=bw.FixedSize(10), order=order, last="repeat")
    assert len(planner) == 101
    assert planner(100).dropped == {}
    assert planner(0).repeated.size == 91


def test_an_order_that_ends_is_counted_as_far_as_it_goes():
    sequences = [np.arange(2000), np.arange(2000)[::-1]]

    def order(lengths, *, seed, epoch):
        return sequences[epoch]

    planner = bw.Planner(LENGTHS, batching=bw.FixedSize(10), order=order)
    assert len(planner(1)) == len(planner) == 200


def test_what_is_wrong_in_a_later_epoch_is_said_at_once():
    def order(lengths, *, seed, epoch):
        return np.array([lengths.size if epoch == 2 else 0])

    with pytest.raises(bw.errors.PlanError, match="samples 2000 to 2000, there are 0 to 1999"):
        bw.Planner(LENGTHS, batching=bw.FixedSize(10), order=order)


@pytest.mark.parametrize(
    "order",
    [
        bw.Weighted(np.ones(40), num_samples=3, replacement=False),
        bw.Weighted(np.ones(40), num_samples=30, replacement=False),
        bw.ClassBalanced(np.arange(40) % 3, num_samples=7),
        bw.Curriculum(np.arange(40.0), pacing=bw.pacing.root(start=0.3), epochs=20, parts=8),
        bw.Curriculum(-np.arange(40.0), pacing=bw.pacing.root(start=0.5), epochs=20),
    ],
    ids=["few", "many", "classes", "easy", "hard"],
)
@pytest.mark.parametrize("mixing", ["stratified", "update", 2])
def test_draws_of_which_some_exceed_the_budget(order, mixing):
    lengths = np.arange(1, 41)
    batching = bw.TokenBudget(30, oversize="drop", mixing=mixing)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*samples cannot fill", UserWarning)
        planner = bw.Planner(lengths, batching=batching, order=order, world_size=2)
    for epoch in range(200):
        plan = planner(epoch)
        assert len(plan) == len(planner) > 0
        assert plan.indices.max() < 30
        if epoch > 40 and epoch % 50:
            continue  # to draw an epoch alone, an order draws all before it
        if planner._computed is None:
            members = order(lengths, seed=0, epoch=epoch).members
        else:
            parts = planner._functions.parts(epoch).each
            members = np.concatenate([part.take(np.arange(part.counts.sum())) for part in parts])
        drawn = np.bincount(members[members < 30], minlength=40)
        here = np.bincount(plan.indices, minlength=40)
        deferred = np.bincount(plan.dropped.get("deferred", []), minlength=40)
        repeated = np.bincount(plan.repeated, minlength=40)
        assert (here + deferred == drawn + repeated).all()
        assert not (deferred.any() and repeated.any())


def test_an_order_that_draws_only_what_exceeds_the_budget():
    order = bw.Curriculum(-np.arange(40.0), pacing=bw.pacing.constant(share=0.1), epochs=3)
    batching = bw.TokenBudget(30, oversize="drop")
    with pytest.raises(
        bw.errors.PlanError, match="an epoch would hold no sample: all that the order"
    ):
        bw.Planner(np.arange(1, 41), batching=batching, order=order)


@pytest.mark.parametrize("mixing", ["stratified", "update", 2, 4])
def test_room_is_no_more_than_there_are_samples(mixing):
    batching = bw.TokenBudget(10, mixing=mixing)
    for samples, accumulate in itertools.product((10, 100, 1000), (1, 2)):
        planner = bw.Planner([10] * samples, batching=batching, accumulate=accumulate)
        plan = planner(0)
        assert len(plan) == len(planner) == samples
        assert not plan.repeated.size


@pytest.mark.parametrize(
    "offsets", [[0, 3], [1, 4], [0, 3, 2, 4], [0.0, 4.0], [[0, 4]], [0], 4], ids=str
)
def test_pools_that_are_none(offsets):
    def order(lengths, *, seed, epoch):
        return Pools(np.arange(4), np.array(offsets))

    with pytest.raises(bw.errors.PlanError, match="pools with offsets"):
        bw.plan([1, 2, 3, 4], max_tokens=9, order=order)


def test_an_empty_pool_is_none():
    def order(lengths, *, seed, epoch):
        return Pools(np.arange(4), np.array([0, 0, 2, 2, 4, 4]))

    for batching in (bw.TokenBudget(9), bw.Packing(9), bw.Buckets(2, max_tokens=9)):
        assert sorted(bw.plan([1, 2, 3, 4], batching=batching, order=order).indices) == [0, 1, 2, 3]


def test_a_window_of_which_all_samples_are_dropped_is_no_pool():
    lengths = [5, 6, 99, 98, 3, 97]
    for batching in (
        bw.TokenBudget(10, oversize="drop"),
        bw.Packing(10, oversize="drop"),
        bw.Buckets(2, max_tokens=10, oversize="drop"),
    ):
        for cost in (None, "padded"):  # computed, and as arrays
            plan = bw.Planner(lengths, batching=batching, order=bw.Shuffle(window=2), cost=cost)(0)
            assert plan.indices[-1] == 4
            assert sorted(plan.indices) == [0, 1, 4]
