"""Plans whose batches are computed when asked for are the plans that their arrays say."""

import dataclasses
import itertools
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.batches import OnDemand
from tests import reference, strategies

PARTED = [bw.Shuffle(window=17), bw.Blocks(9, open_blocks=2)]
"""Orders of which epochs have several parts."""


def fewer_long_rows(padded):
    """Allow fewer rows of long samples: a limit that is a function."""
    return np.maximum(1, 90 // padded)


@st.composite
def batchings(draw):
    """Batchings on which epochs are functions, with budgets that some samples exceed."""
    budgets = {"min_tokens": draw(st.sampled_from([16, strategies.CAP + 10]))}
    kind = draw(st.sampled_from(["budget", "budget", "packing", "buckets", "fixed"]))
    if kind == "fixed":
        return draw(strategies.fixed_sizes())
    if kind == "packing":
        made = draw(strategies.packings(**budgets))
        return bw.Packing(
            made.capacity, max_samples=made.max_samples, align=made.align, oversize=made.oversize
        )
    if kind == "buckets":
        return bw.Buckets(
            draw(st.integers(1, 5)),
            max_tokens=draw(st.integers(16, 400)),
            max_samples=draw(st.none() | st.integers(1, 20)),
            pad_to_multiple_of=draw(st.sampled_from([1, 8])),
            oversize=draw(st.sampled_from(["error", "drop", "truncate"])),
        )
    made = draw(strategies.token_budgets(**budgets))
    most = draw(st.sampled_from([made.max_samples, fewer_long_rows]))
    return bw.TokenBudget(
        made.max_tokens,
        max_samples=most,
        pad_to_multiple_of=made.pad_to_multiple_of,
        batch_size_multiple_of=made.batch_size_multiple_of,
        oversize=made.oversize,
        mixing=made.mixing,
        slack=made.slack,
    )


@st.composite
def planners(draw):
    """Lengths, and settings of planners for which epochs are functions."""
    options = {
        "batching": draw(batchings()),
        "world_size": draw(st.sampled_from([1, 1, 2, 3])),
        "accumulate": draw(st.sampled_from([1, 1, 2, 4])),
        "seed": draw(st.integers(0, 2**70)),
        "last": draw(st.sampled_from(["short", "repeat", "drop"])),
        "order": draw(st.sampled_from([bw.Shuffle(), bw.Shuffle(), *PARTED])),
    }
    lengths = draw(strategies.lengths())
    return lengths, options


def planned(lengths, options):
    """Return a planner whose epochs are functions, or None."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*samples cannot fill", UserWarning)
            planner = bw.Planner(lengths, **options)
    except (bw.errors.BudgetError, bw.errors.PlanError):
        return None
    return None if planner._computed is None else planner


def pickled(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301


def as_arrays(plan):
    return bw.Plan(
        plan.indices,
        plan.offsets,
        plan.starts,
        dropped=plan.dropped,
        layout=plan.layout,
        origin=plan.origin,
        repeated=plan.repeated,
    )


def batches_of(plan):
    return [batch.tolist() for batch in plan]


@pytest.mark.slow
@given(planners(), st.integers(0, 99))
def test_one_batch_some_and_all_are_the_same(job, epoch):
    planner = planned(*job)
    if planner is None:
        return
    plan = planner(epoch)
    assert isinstance(plan.batches, OnDemand)
    arrays = as_arrays(plan)
    assert len(plan) == len(arrays) == len(planner)
    expected = batches_of(arrays)
    assert batches_of(plan) == expected
    assert plan.num_samples == arrays.num_samples
    for b, batch in enumerate(expected):
        assert plan[b].tolist() == plan[b - len(plan)].tolist() == batch
        assert plan[b : b + 1][0].tolist() == batch
        alone, among = plan.entries(b), arrays.entries(b)
        assert (alone.starts is None) == (among.starts is None)
        assert alone.starts is None or alone.starts.tolist() == among.starts.tolist()


@pytest.mark.slow
@given(planners(), st.slices(60), st.slices(20), st.data())
def test_views_of_views(job, first, second, data):
    planner = planned(*job)
    if planner is None:
        return
    plan = planner(0)
    batches, view = batches_of(plan), plan
    for piece in (first, second):
        if not batches[piece]:
            return
        batches, view = batches[piece], view[piece]
        assert [view[b].tolist() for b in range(len(view))] == batches
        some = view[:]
        assert np.split(some.indices, some.offsets[1:-1])[-1].tolist() == batches[-1]
        assert batches_of(view) == batches
        assert view.digest() == as_arrays(view).digest()
    chosen = data.draw(st.lists(st.integers(0, len(view) - 1), min_size=1, max_size=9))
    taken = view.take(np.array(chosen))
    assert batches_of(taken) == [batches[b] for b in chosen] == batches_of(as_arrays(taken))
    for world_size in (2, 3):
        if len(view) % world_size == 0:
            for rank in range(world_size):
                assert batches_of(view.shard(rank, world_size)) == batches[rank::world_size]


@pytest.mark.slow
@given(planners(), st.integers(0, 200), st.data())
def test_equal_counts_split_batches_where_they_are(job, more, data):
    planner = planned(*job)
    if planner is None:
        return
    plan = planner(1)
    wanted = min(len(plan) + more, plan.num_samples)
    equal = bw.equalize(plan, num_batches=wanted)
    assert len(equal) == wanted
    assert equal.indices.tolist() == plan.indices.tolist()
    assert set(plan.offsets.tolist()) <= set(equal.offsets.tolist())
    batches = batches_of(as_arrays(equal))
    assert batches_of(equal) == [equal[b].tolist() for b in range(wanted)] == batches
    assert equal.digest() == as_arrays(equal).digest()
    low = data.draw(st.integers(0, wanted - 1))
    high = data.draw(st.integers(low + 1, wanted))
    part = equal[low:high]
    assert batches_of(part) == batches_of(as_arrays(part)) == batches[low:high]
    assert part.num_samples == sum(map(len, batches[low:high]))
    with pytest.raises(bw.errors.PlanError, match="cannot fill"):
        bw.equalize(plan, num_batches=plan.num_samples + 1)


@given(planners(), st.integers(0, 99))
def test_every_sample_once_within_the_budget(job, epoch):
    lengths, _ = job
    planner = planned(*job)
    if planner is None:
        return
    plan = planner(epoch)
    layout, entries = plan.layout, plan.entry_lengths(lengths)
    starts = np.zeros_like(plan.indices) if plan.starts is None else plan.starts
    assert len(np.unique(np.stack((plan.indices, starts)), axis=1).T) == plan.indices.size
    listed = np.concatenate((plan.indices, *plan.dropped.values()))
    assert np.array_equal(np.unique(listed), np.arange(lengths.size))
    held = np.bincount(plan.indices, entries, minlength=lengths.size).astype(np.int64)
    expected = lengths.astype(np.int64)
    if plan.starts is None and layout.max_length is not None:
        expected = np.minimum(expected, layout.max_length)
    for dropped in plan.dropped.values():
        assert not held[dropped].any()
        held[dropped] = expected[dropped]
    assert np.array_equal(held, expected)
    measure = reference.packed_tokens if layout.kind == "packed" else reference.padded_tokens
    for start, stop in itertools.pairwise(plan.offsets.tolist()):
        if layout.budget is not None:
            assert measure(entries[start:stop].tolist(), layout.multiple) <= layout.budget
        if layout.max_samples is not None:
            assert stop - start <= layout.max_samples
        if getattr(planner.batching, "max_samples", None) is fewer_long_rows:
            longest = int(entries[start:stop].max())
            assert stop - start <= fewer_long_rows(layout.rounded(np.array([longest])))[0]
    stats = plan.stats(lengths)
    assert stats.num_batches == len(plan)


@pytest.mark.slow
@given(planners(), st.integers(0, 99))
def test_a_pickle_plans_the_same(job, epoch):
    planner = planned(*job)
    if planner is None:
        return
    plan = planner(epoch)
    again = pickled(plan)
    assert again.identity() == plan.identity()
    assert again == plan
    assert pickled(planner)(epoch).identity() == plan.identity()
    assert pickled(planner)(epoch) == plan
    half = bw.equalize(plan, num_batches=min(len(plan) + 3, plan.num_samples))
    half = half[len(half) // 2 :]
    assert pickled(half) == half


@given(planners(), st.integers(0, 99))
def test_an_index_plans_like_its_lengths(job, epoch):
    lengths, options = job
    planner = planned(*job)
    index = bw.LengthIndex.build(lengths)
    other = planned(index, options)
    assert (planner is None) == (other is None)
    if planner is None or other is None:
        return
    assert len(planner) == len(other)
    assert batches_of(planner(epoch)) == batches_of(other(epoch))
    assert planner(epoch) == other(epoch)
    assert planner(epoch).identity() == other(epoch).identity()
    assert planner(epoch).repeated.tolist() == other(epoch).repeated.tolist()


LENGTHS = np.random.default_rng(0).integers(1, 60, 300)
SETTINGS = {
    "budget": bw.TokenBudget(200),
    "slack": bw.TokenBudget(200, slack=0.1),
    "truncate": bw.TokenBudget(40, oversize="truncate"),
    "drop": bw.TokenBudget(40, oversize="drop"),
    "update": bw.TokenBudget(200, mixing="update"),
    "windows": bw.TokenBudget(200, mixing=2),
    "packing": bw.Packing(100),
    "packing truncate": bw.Packing(40, oversize="truncate"),
    "packing drop": bw.Packing(40, oversize="drop"),
    "packing split": bw.Packing(20, oversize="split"),
    "buckets": bw.Buckets(4, max_tokens=200),
    "buckets truncate": bw.Buckets(4, max_tokens=40, oversize="truncate"),
    "fixed": bw.FixedSize(7),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_way_to_read_a_plan(name):
    plan = bw.plan(LENGTHS, batching=SETTINGS[name], world_size=2, accumulate=2, seed=3)
    equal = bw.equalize(plan, num_batches=min(len(plan) + 9, plan.num_samples))
    assert equal.indices.tolist() == plan.indices.tolist()
    for each in (plan, equal):
        batches = batches_of(as_arrays(each))
        assert [each[b].tolist() for b in range(len(each))] == batches_of(each) == batches
        assert batches_of(as_arrays(each[3:])) == batches[3:]
        assert batches_of(as_arrays(each[::-2])) == batches[::-2]


@pytest.mark.parametrize("name", SETTINGS)
def test_an_index_in_a_file_plans_like_its_lengths(name, tmp_path):
    index = bw.LengthIndex.build(LENGTHS, tmp_path / "lengths.index")
    options = {"batching": SETTINGS[name], "world_size": 2, "accumulate": 2, "seed": 3}
    planner, other = bw.Planner(LENGTHS, **options), bw.Planner(index, **options)
    assert planner._computed is not None
    for epoch in range(4):
        assert other(epoch) == planner(epoch)
        assert other(epoch).identity() == planner(epoch).identity()
        assert other(epoch).stats(LENGTHS) == planner(epoch).stats(LENGTHS)
    assert pickled(other(1)) == planner(1)
    assert pickled(other)(1) == planner(1)


@pytest.mark.parametrize("name", SETTINGS)
def test_plans_of_one_identity_are_equal_and_others_are_not(name):
    def plan_of(lengths=LENGTHS, *, seed=0, epoch=0, **world):
        return bw.plan(lengths, batching=SETTINGS[name], seed=seed, epoch=epoch, **world)

    plan, size = plan_of(), len(plan_of())
    shifted = np.roll(LENGTHS, 1)
    others = [
        *(plan, plan_of(seed=1), plan_of(epoch=1), plan_of(shifted)),
        *(plan[::-1], plan[1:], plan[: size - 1], plan[::2], plan.take(np.arange(size) // 2)),
    ]
    equal = bw.equalize(plan, num_batches=min(2 * size - 1, plan.num_samples))
    every = np.arange(len(equal))
    others += [equal, equal[1:], equal[:-1], equal.take(every[::-1]), equal.take(every // 2)]
    others += [plan_of(), pickled(equal), plan[1:][:-1], plan[1:-1]]
    for a, b in itertools.combinations(others, 2):
        assert (a.identity() == b.identity()) == (a == b)


def test_views_that_differ_only_at_their_ends_have_identities_of_their_own():
    """Also where a list of their batches would be long."""
    plan = bw.plan(np.full(3000, 5), max_tokens=10)
    equal = bw.equalize(plan, num_batches=len(plan) + 40)
    for each in (plan, equal):
        taken = each.take(np.arange(len(each)))
        views = [each[:-1], each[:-2], taken[:-3], taken[:-4]]
        assert len({view.identity() for view in views}) == 4


def test_pieces_of_other_samples_have_an_identity_of_their_own():
    batching = bw.Packing(5, oversize="split")
    plan, other = (bw.plan(lengths, batching=batching) for lengths in ([10, 5], [5, 10]))
    assert plan != other
    assert plan.identity() != other.identity()


def test_batches_cannot_be_written_to():
    for batching in SETTINGS.values():
        plan = bw.plan(LENGTHS, batching=batching)
        equal = bw.equalize(plan, num_batches=len(plan) + 2)
        for batch in (plan[0], next(iter(plan)), plan[:2][1], equal[0], next(iter(equal))):
            with pytest.raises(ValueError, match="read-only"):
                batch[0] = 1


EXTREMES = {
    "one": [7],
    "two": [7, 3],
    "equal": [5] * 257,
    "one giant": [3] * 300 + [2**40],
    "to 2**53": [2**53, 2**53 - 1, 2**52, 3, 1],
    "every length": list(range(1, 600)),
    "powers": [2**power for power in range(54)] * 3,
}
LARGEST_SEED = 2**4096 - 1


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(name):
    lengths = np.array(EXTREMES[name])
    longest = int(lengths.max())
    batchings = [
        *(bw.TokenBudget(longest), bw.TokenBudget(2**60), bw.TokenBudget(longest, slack=0.001)),
        *(bw.TokenBudget(3 * longest, slack=1.0), bw.TokenBudget(3 * longest, mixing="update")),
        *(bw.TokenBudget(3 * longest, mixing=1), bw.TokenBudget(3 * longest, mixing=10**12)),
        *(bw.Packing(longest), bw.Packing(2**60), bw.Packing(longest, max_samples=1)),
        *(bw.Buckets(3, max_tokens=longest), bw.FixedSize(1), bw.FixedSize(2), bw.FixedSize(10**9)),
    ]
    for batching in batchings:
        planner = bw.Planner(lengths, batching=batching, seed=LARGEST_SEED)
        for epoch in (0, 10**9)[lengths.size > 99 :]:
            plan = planner(epoch)
            assert isinstance(plan.batches, OnDemand)
            assert np.array_equal(np.sort(plan.indices), np.arange(lengths.size))
            batches = batches_of(as_arrays(plan))
            assert batches_of(plan) == batches
            some = range(0, len(plan), 1 + len(plan) // 20)
            assert [plan[b].tolist() for b in some] == [batches[b] for b in some]


@pytest.mark.parametrize("size", [40, 255, 256, 257, 600])
@pytest.mark.parametrize("name", SETTINGS)
def test_as_many_batches_as_samples(name, size):
    lengths = np.resize(LENGTHS[LENGTHS <= 20], size)
    planner = bw.Planner(lengths, batching=SETTINGS[name], world_size=size)
    plan = planner(3)
    assert isinstance(plan.batches, OnDemand)
    assert len(plan) == size
    assert np.array_equal(np.sort(plan.indices), np.arange(size))
    assert [int(plan[b][0]) for b in range(size)] == plan.indices.tolist()


@pytest.mark.parametrize("name", SETTINGS)
def test_updates_of_ten_thousand_batches(name):
    lengths = np.resize(LENGTHS, 25_000)
    planner = bw.Planner(lengths, batching=SETTINGS[name], world_size=100, accumulate=100)
    plan = planner(0)
    assert isinstance(plan.batches, OnDemand)
    assert len(plan) % 100 == 0
    for b in range(0, len(plan), 1111):
        assert plan[b].tolist() == plan.indices[plan.offsets[b] : plan.offsets[b + 1]].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", ["drawn", "equal", "two"])
def test_plans_of_many_batches(name, kind):
    """More of them than sixteen bits count, also in one stretch."""
    places = np.arange(500_000)
    lengths = {
        "drawn": np.resize(LENGTHS, places.size),
        "equal": np.full(places.size, 20),
        "two": np.where(places % 5, 15, 20),
    }[kind]
    batching = SETTINGS[name]
    if isinstance(batching, bw.TokenBudget):
        batching = dataclasses.replace(batching, max_samples=3)
    planner = bw.Planner(lengths, batching=batching, world_size=4, accumulate=2)
    plan = planner(5)
    assert isinstance(plan.batches, OnDemand)
    offsets, entries = plan.offsets, plan.indices
    if plan.starts is None:
        times = np.bincount(entries, minlength=lengths.size)
        for dropped in plan.dropped.values():
            times[dropped] += 1
        assert (times == 1).all()
    for b in np.linspace(0, len(plan) - 1, 40).astype(int).tolist():
        assert plan[b].tolist() == entries[offsets[b] : offsets[b + 1]].tolist()
    low = len(plan) // 2
    assert np.array_equal(plan[low : low + 99].indices, entries[offsets[low] : offsets[low + 99]])


def test_windows_of_any_number_of_updates_are_planned_at_once():
    """Neither memory nor time grow with a window that is longer than the epoch."""
    lengths = np.resize(LENGTHS, 50_000)
    for window in (10, 10**4, 10**15):
        batching = bw.TokenBudget(200, mixing=window)
        planner = bw.Planner(lengths, batching=batching, world_size=1000)
        assert planner(0).num_samples == 50_000
