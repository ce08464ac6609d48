"""The promises of the design, as properties of every order, batching and world."""

import dataclasses
import itertools
import re
import warnings
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from tests import reference, strategies
from tests.strategies import jobs


@pytest.mark.slow
@given(jobs(), st.integers(0, 10**6))
def test_nothing_lost_nothing_twice(job, epoch):
    planner = job.planner()
    plan = planner(epoch)
    assert np.array_equal(strategies.accounted(plan), np.arange(job.lengths.size))
    assert set(plan.dropped) <= {"last"}
    update = job.world_size * job.accumulate
    fewest = {"short": job.world_size, "repeat": update, "drop": 1}[job.last]
    assert plan.repeated.size < fewest
    assert job.last == "drop" or not plan.dropped
    if job.lengths.size % update == 0:  # one sample a batch fills whole updates
        assert not plan.dropped
        assert not plan.repeated.size


@pytest.mark.slow
@given(jobs(min_tokens=16), st.integers(0, 50))
def test_what_was_removed_is_listed_and_every_token_of_the_rest_is_there(job, epoch):
    try:
        planner = job.planner()
    except (bw.errors.BudgetError, bw.errors.PlanError) as error:
        assert re.search("too small for|cannot fill one update", str(error))
        return
    plan = planner(epoch)
    dropped = plan.dropped.get("oversize", np.empty(0, dtype=np.int64))
    last = plan.dropped.get("last", np.empty(0, dtype=np.int64))
    assert np.array_equal(
        np.unique(np.concatenate((plan.indices, dropped, last))), np.arange(job.lengths.size)
    )
    assert not np.intersect1d(plan.indices, dropped).size
    assert plan.starts is not None or not np.intersect1d(plan.indices, last).size
    layout = plan.layout
    if dropped.size:
        assert (job.lengths[dropped] > layout.budget // layout.multiple * layout.multiple).all()
    if plan.repeated.size or last.size:
        return
    entries = plan.entry_lengths(job.lengths)
    whole = np.bincount(plan.indices, entries, minlength=job.lengths.size)
    expected = job.lengths.astype(np.int64)
    if plan.starts is None and layout.max_length is not None:
        expected = np.minimum(expected, layout.max_length)
    expected = np.where(np.isin(np.arange(expected.size), dropped), 0, expected)
    assert np.array_equal(whole, expected)
    if plan.starts is not None:  # pieces do not overlap
        assert len(set(zip(plan.indices.tolist(), plan.starts.tolist(), strict=True))) == (
            plan.indices.size
        )


@pytest.mark.slow
@given(jobs(min_tokens=16), st.integers(0, 50))
def test_never_over_budget(job, epoch):
    try:
        planner = job.planner()
    except (bw.errors.BudgetError, bw.errors.PlanError):
        return
    plan = planner(epoch)
    layout = plan.layout
    entries = plan.entry_lengths(job.lengths).tolist()
    measure = reference.packed_tokens if layout.kind == "packed" else reference.padded_tokens
    edges = plan.offsets.tolist()
    for start, stop in itertools.pairwise(edges):
        if layout.budget is not None:
            assert measure(entries[start:stop], layout.multiple) <= layout.budget
        if layout.max_samples is not None:
            assert stop - start <= layout.max_samples


@pytest.mark.filterwarnings("ignore:.*needs more than the .* batches of every epoch")
@pytest.mark.slow
@given(jobs(), st.lists(st.integers(0, 1000), min_size=2, max_size=5))
def test_same_count_in_every_epoch_and_on_every_rank(job, epochs):
    planner = job.planner()
    update = job.world_size * job.accumulate
    assert len(planner) % (job.world_size if job.last == "short" else update) == 0
    for epoch in epochs:
        plan = planner(epoch)
        assert len(plan) == len(planner)
        shards = [plan.shard(rank, job.world_size) for rank in range(job.world_size)]
        assert {len(shard) for shard in shards} == {len(plan) // job.world_size}
        seen = np.concatenate([shard.indices for shard in shards])
        assert np.array_equal(np.sort(seen), np.sort(plan.indices))


@pytest.mark.parametrize(
    "batching",
    [
        bw.TokenBudget(20, oversize="drop"),
        bw.TokenBudget(23, oversize="drop", pad_to_multiple_of=4),
        bw.Packing(20, oversize="drop"),
        bw.Packing(21, oversize="drop", align=10),
        bw.Buckets(2, max_tokens=20, oversize="drop"),
        bw.Buckets(edges=[10, 20], max_tokens=40, oversize="drop"),
    ],
    ids=str,
)
def test_a_sample_of_exactly_the_limit_is_kept(batching):
    plan = bw.plan([19, 20, 21, 22, 1], batching=batching)
    assert sorted(plan.indices.tolist()) == [0, 1, 4]
    assert plan.dropped["oversize"].tolist() == [2, 3]
    for oversize in ("truncate", "split"):
        if oversize == "truncate" or isinstance(batching, bw.Packing):
            cut = dataclasses.replace(batching, oversize=oversize)
            stats = bw.plan([19, 20, 21, 22, 1], batching=cut).stats([19, 20, 21, 22, 1])
            assert stats.truncated + stats.split == 2


@pytest.mark.slow
@given(jobs(), st.lists(st.integers(0, 1000), min_size=2, max_size=4, unique=True))
def test_every_random_number_has_a_seed_of_its_own(job, epochs):
    """No two streams of a run are the same: of epochs, of purposes, of attempts."""
    planner = job.planner()
    seeds = []
    make = np.random.SeedSequence

    def recorded(entropy):
        # A seed of numbers is the same with zeros behind it.
        seeds.append(tuple(np.trim_zeros(entropy, "b")))
        return make(entropy)

    with mock.patch("numpy.random.SeedSequence", recorded):
        for epoch in epochs:
            planner(epoch)
    assert len(set(seeds)) == len(seeds)


@pytest.mark.slow
@given(
    st.integers(40, 100),
    strategies.token_budgets() | strategies.packings() | strategies.fixed_sizes(),
    st.integers(0, 1000),
)
def test_epochs_and_seeds_draw_other_batches(size, batching, first):
    """Of samples that are all as long: which share a batch is up to chance alone."""

    def batches(seed, epoch):
        planner = bw.Planner([20] * size, batching=batching, seed=seed)
        return frozenset(frozenset(batch.tolist()) for batch in planner(epoch))

    here = batches(0, first)
    if len(here) == 1 or max(map(len, here)) == 1:
        return  # all together, or each alone
    assert len({batches(0, first + epoch) for epoch in range(3)}) > 1
    assert len({batches(seed, first) for seed in range(3)}) > 1


ORDERS = {
    "sequential": bw.Sequential(),
    "shuffle": bw.Shuffle(),
    "shuffle-500": bw.Shuffle(window=500),
}
BATCHINGS = {
    "fixed": bw.FixedSize(16),
    "budget": bw.TokenBudget(2048),
    "budget-slack": bw.TokenBudget(2048, slack=0.1),
    "budget-update": bw.TokenBudget(2048, mixing="update"),
    "budget-4": bw.TokenBudget(2048, mixing=4, max_samples=50),
    "budget-multiples": bw.TokenBudget(2048, pad_to_multiple_of=8, batch_size_multiple_of=8),
    "best-fit": bw.Packing(2048),
    "best-fit-aligned": bw.Packing(2048, align=8),
    "next-fit": bw.Packing(2048, method="next_fit", max_samples=50),
    "function": strategies.in_threes,
}


WORLDS = [(1, 1), (1, 8), (3, 1), (8, 4)]


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("order", ORDERS)
def test_fifty_epochs_have_the_same_length(order, batching):
    rng = np.random.default_rng(7)
    lengths = np.clip(np.rint(rng.lognormal(4.0, 0.9, 3000)), 1, 1024).astype(np.int64)
    place = [*ORDERS].index(order) + [*BATCHINGS].index(batching)
    world_size, accumulate = WORLDS[place % len(WORLDS)]
    planner = bw.Planner(
        lengths,
        order=ORDERS[order],
        batching=BATCHINGS[batching],
        world_size=world_size,
        accumulate=accumulate,
    )
    assert len(planner) % (world_size * accumulate) == 0
    for epoch in range(50):
        plan = planner(epoch)
        assert len(plan) == len(planner)
        if epoch in {0, 49}:
            assert np.array_equal(np.sort(plan.indices), np.arange(3000))


@pytest.mark.slow
@given(jobs(), st.integers(0, 50))
def test_reproducible_and_no_global_generator_is_moved(job, epoch):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = job.planner(), job.planner()
    assert first(epoch) == second(epoch)
    # Nothing that was planned before matters.
    first(epoch + 1)
    assert first(epoch).digest() == second(epoch).digest()
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.slow
@given(jobs(), st.integers(0, 50))
def test_plan_equals_the_planner_at_that_epoch(job, epoch):
    planner = job.planner()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*samples cannot fill", UserWarning)
        plan = plan_of(job, epoch)
    assert plan == planner(epoch)


def plan_of(job, epoch):
    return bw.plan(
        job.lengths,
        batching=job.batching,
        order=job.order,
        seed=job.seed,
        epoch=epoch,
        world_size=job.world_size,
        accumulate=job.accumulate,
        cost=job.cost,
        last=job.last,
    )


def test_bytes_are_the_same_on_every_machine():
    """Golden digests: raw bits, exact arithmetic and stable sorts alone decide."""
    lengths = (np.arange(5000) * 7919) % 997 + 1
    plans = [
        bw.plan(lengths, max_tokens=4096, seed=1, epoch=2, world_size=4, accumulate=2),
        bw.plan(lengths, batching=bw.Packing(2048), seed=1, epoch=2, world_size=4),
        bw.plan(
            lengths,
            batching=bw.Packing(2048),
            seed=1,
            epoch=2,
            world_size=4,
            accumulate=4,
            cost="quadratic",
        ),
        bw.plan(lengths, batching=bw.FixedSize(32), seed=1, epoch=2),
        bw.plan(lengths, batching=bw.TokenBudget(4096, mixing="update"), accumulate=16),
    ]
    assert [plan.digest() for plan in plans] == GOLDEN


GOLDEN = [
    "db9a5406d2e1cabd8951e27ae6f27fbe",
    "fac943c65443607a4a10dfa3ff66c91b",
    "feaab81012f8ee296dbc66a7db8d02f0",
    "6acca908f7ca1bb6c1eaf304141995b6",
    "cf4b219de88c3bf189a2325406911c7e",
]
