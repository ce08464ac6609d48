"""Cells: samples of one stratum and one length, counted and drawn without a list of an epoch."""

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.index import LengthIndex
from batchwright.indexed import Indexed
from batchwright.order.cells import Cells
from batchwright.order.draws import apportioned
from batchwright.placement import Placement
from tests import strategies

RNG = np.random.default_rng(0)
LENGTHS = RNG.lognormal(4, 0.7, 3000).clip(1, 400).astype(int)
GROUPS = np.repeat(["a", "b", "c"], [2000, 800, 200])


@st.composite
def all_cells(draw):
    """Lengths, the stratum of each sample, how many strata there are, and their cells."""
    lengths = draw(strategies.lengths(max_size=60, max_length=12))
    many = draw(st.integers(1, 5))
    of = draw(st.lists(st.integers(0, many), min_size=lengths.size, max_size=lengths.size))
    strata = np.array(of)
    return lengths, strata, many, Cells.of(Indexed(LengthIndex.build(lengths)), strata, many)


def taken(part):
    return part.take(np.arange(part.counts.sum()))


@given(all_cells())
def test_cells_hold_the_samples_of_one_stratum_and_length(made):
    lengths, strata, many, cells = made
    found = [
        (number, int(cells.lengths[cell]), cells.members[slice(*cells.offsets[[cell, cell + 1]])])
        for number in range(many)
        for cell in range(cells.strata[number], cells.strata[number + 1])
    ]
    expected = [
        (number, length, np.flatnonzero((strata == number) & (lengths == length)))
        for number in range(many)
        for length in np.unique(lengths[strata == number])[::-1]
    ]
    assert [each[:2] for each in found] == [each[:2] for each in expected]
    assert all(np.array_equal(a[2], b[2]) for a, b in zip(found, expected, strict=True))
    assert cells.members_of.tolist() == [(strata == number).sum() for number in range(many)]
    mixed = Cells.of(cells.samples, strata, many, shuffle=True)
    assert np.array_equal(mixed.offsets, cells.offsets)
    for span in itertools.pairwise(cells.offsets.tolist()):
        assert sorted(mixed.members[slice(*span)]) == cells.members[slice(*span)].tolist()
    means = [lengths[strata == number].mean() for number in range(many) if number in strata]
    assert cells.mean_lengths[cells.members_of > 0].tolist() == pytest.approx(means)


@given(all_cells(), st.lists(st.integers(0, 25), min_size=1, max_size=9), st.integers(0, 2**64 - 1))
def test_nobody_comes_twice_before_everybody_came_once_however_a_run_is_cut(made, steps, key):
    lengths, strata, many, cells = made
    drawn = np.cumsum([0, *steps])[:, None] * (cells.members_of > 0)
    at = cells.counts(drawn, key)
    assert (at[0] == 0).all()
    assert (np.diff(at, axis=0) >= 0).all()
    sums = np.add.reduceat(np.pad(at, ((0, 0), (0, 1))), cells.strata[:-1], axis=1)
    assert np.array_equal(np.where(cells.members_of > 0, sums, 0), drawn)
    times = np.zeros(lengths.size, dtype=int)
    for number, (before, until) in enumerate(itertools.pairwise(at)):
        if steps[number] == 0 or not cells.members_of.any():
            continue
        part = cells.drawn(before, until, key)
        own = taken(part)
        assert np.array_equal(lengths[own], np.repeat(part.values, part.counts))
        assert (np.diff(part.values) < 0).all()
        shuffled = RNG.permutation(own.size)
        assert np.array_equal(part.take(shuffled), own[shuffled])
        times += np.bincount(own, minlength=lengths.size)
        for stratum in range(many):
            each = times[strata == stratum]
            if each.size:
                assert each.sum() == drawn[number + 1, stratum]
                assert each.max() - each.min() <= 1


def test_lengths_come_in_proportion_at_any_time():
    cells = Cells.of(Indexed(LengthIndex.build(LENGTHS)), np.zeros(3000, dtype=int), 1)
    drawn = np.arange(0, 9001, 37)[:, None]
    off = cells.counts(drawn, 5) - drawn / 3000 * cells.sizes
    assert np.abs(off).max() < 4
    assert np.sqrt((off**2).mean()) < 0.7


def test_every_member_is_drawn_first_as_often_as_any():
    lengths = np.repeat([7, 5, 4, 3], [1, 9, 4, 6])
    cells = Cells.of(Indexed(LengthIndex.build(lengths)), np.zeros(20, dtype=int), 1)
    times, keys = np.zeros(20), 4000
    for key in range(keys):
        before, until = cells.counts(np.array([[40], [45]]), key)
        times += np.bincount(taken(cells.drawn(before, until, key)), minlength=20)
    expected = keys * 5 / 20
    assert ((times - expected) ** 2 / expected).sum() < 45  # χ² of 19 degrees: once in a thousand


@pytest.mark.parametrize("longest", [1, 2, 400])
@pytest.mark.parametrize("num_samples", [300, 1500, 2000])
def test_what_an_epoch_draws_is_as_random_as_a_shuffle(longest, num_samples):
    """In whatever varies along the data among samples of one length: sums over an epoch."""
    lengths = np.minimum(LENGTHS, longest) if longest > 2 else 1 + np.arange(3000) % longest
    order = bw.Mixture(np.arange(3000) % 2, temperature=1, num_samples=num_samples)
    draws = order.draws(lengths)
    place = np.arange(3000)
    features = [place / 3000, np.sin(place * 2 * np.pi / 60), np.sin(place * 2 * np.pi / 1000)]
    ratios = []
    for seed in range(200):
        members = taken(draws(0, seed=seed).each[0])
        for feature in features:
            means = np.bincount(lengths, feature) / np.maximum(np.bincount(lengths), 1)
            rest = feature - means[lengths]
            variance = (rest**2).sum() * num_samples / 3000 * (1 - num_samples / 3000)
            ratios.append(rest[members].sum() ** 2 / variance)
    by_feature = np.reshape(ratios, (200, 3)).mean(axis=0)
    assert (np.abs(by_feature - 1) < 0.4).all()


@pytest.mark.parametrize(
    "order",
    [
        bw.Mixture(GROUPS, weights={"a": 1, "b": 1, "c": 1}),
        bw.Mixture(GROUPS, weights={"a": 1, "c": 3}, num_samples=700, parts=3),
        bw.Mixture(GROUPS, schedule=[(0, {"a": 1}), (1, {"b": 1, "c": 2})], epochs=4),
        bw.ClassBalanced(GROUPS, after=1),
    ],
    ids=["alike", "few", "schedule", "classes"],
)
@pytest.mark.parametrize(
    "batching", [bw.TokenBudget(4000), bw.Packing(400), bw.FixedSize(16)], ids=str
)
def test_epochs_hold_exactly_their_draws_and_passes_go_on(order, batching):
    planner = bw.Planner(LENGTHS, batching=batching, order=order, world_size=2)
    assert planner._computed is not None
    mixture = getattr(order, "mixture", order)
    times = np.zeros(3000, dtype=int)
    for epoch in range(8):
        plan = planner(epoch)
        assert len(plan) == len(planner)
        if "deferred" in plan.dropped or epoch < getattr(order, "after", 0):
            continue
        counts = mixture.draws(LENGTHS).plan(epoch - getattr(order, "after", 0))[1].sum(axis=0)
        assert [(GROUPS[plan.indices] == name).sum() for name in "abc"] == counts.tolist()
        assert np.array_equal(
            np.sort(order(LENGTHS, seed=0, epoch=epoch).members), np.sort(plan.indices)
        )
        times += np.bincount(plan.indices, minlength=3000)
    if not any("deferred" in planner(epoch).dropped for epoch in range(8)):
        assert all(np.ptp(times[name == GROUPS]) <= 1 for name in "abc")


def test_parts_of_a_schedule_are_exact_and_not_mixed():
    order = bw.Mixture(GROUPS, schedule=[(0, {"a": 1}), (1, {"b": 1, "c": 2})], epochs=4)
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(4000), order=order)
    counts = order.draws(LENGTHS).plan(1)[1]
    groups, begin = GROUPS[planner(1).indices], 0
    for part in counts:
        own = groups[begin : begin + part.sum()]
        assert [(own == name).sum() for name in "abc"] == part.tolist()
        begin += part.sum()
    assert begin == groups.size


def test_a_curriculum_draws_from_the_eligible_and_then_from_all():
    difficulty = RNG.random(3000)
    order = bw.Curriculum(difficulty, pacing=bw.pacing.root(start=0.2), epochs=3, band=(0, 0.9))
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(4000), order=order, world_size=2)
    rank = np.argsort(np.argsort(difficulty))
    for epoch in range(5):
        plan = planner(epoch)
        assert len(plan) == len(planner)
        assert rank[plan.indices].max() < order.eligible((epoch + 1) / 3)
        total = LENGTHS[rank < 2700].sum()
        assert LENGTHS[plan.indices].sum() == pytest.approx(total, rel=0.01)
    assert np.array_equal(np.sort(rank[plan.indices]), np.arange(2700))


def test_parts_hold_exactly_their_blocks():
    for order, edges in (
        (bw.Blocks(150, open_blocks=3), np.arange(0, 3001, 150)),
        (bw.Blocks([1000, 500, 1500], open_blocks=1), np.array([0, 1000, 1500, 3000])),
    ):
        planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(4000), order=order)
        parts_of = planner._functions.parts
        of = np.searchsorted(edges, np.arange(3000), side="right")
        for epoch, attempt in itertools.product(range(3), range(2)):
            opened = []
            for part in parts_of(epoch, attempt=attempt).each:
                blocks = np.unique(of[taken(part)])
                assert np.array_equal(np.sort(taken(part)), np.flatnonzero(np.isin(of, blocks)))
                opened.append(blocks)
            assert sorted(np.concatenate(opened).tolist()) == list(range(1, edges.size))
    parts_of = bw.Blocks(150, open_blocks=3).by_length(
        Indexed(LengthIndex.build(LENGTHS)), 3000, seed=0
    )
    attempts = [parts_of(0, attempt=attempt).each[0] for attempt in range(3)]
    assert len({tuple(taken(part)) for part in attempts}) == 3


@given(
    st.integers(1, 300),
    st.integers(0, 50),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(0, 2**64 - 1),
)
def test_an_update_across_parts_gets_evenly_spaced_batches_of_each(
    size, start, world_size, accumulate, key
):
    placement = Placement(size, start, world_size, accumulate, key)
    ranks = placement.ranks(np.arange(size))
    assert ranks.tolist() == [placement.rank(place) for place in range(size)]
    assert np.sort(ranks).tolist() == list(range(size))
    front = np.sort(ranks[: min(-start % (world_size * accumulate), size)])
    if front.size:
        expected = (np.arange(front.size) + 0.5) * size / front.size
        assert np.abs(front - expected).max() <= size / front.size + 1


def test_windows_come_in_sequence():
    order = bw.Shuffle(window=700)
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(4000), order=order)
    assert planner._computed is not None
    indices = planner(2).indices
    for begin in range(0, 3000, 700):
        stop = min(begin + 700, 3000)
        assert np.array_equal(np.sort(indices[begin:stop]), np.arange(begin, stop))


@pytest.mark.parametrize(
    "order", [bw.Mixture(GROUPS, temperature=2), bw.Blocks(150, open_blocks=3)], ids=str
)
@pytest.mark.parametrize("batching", [bw.TokenBudget(4000), bw.Packing(400)], ids=str)
def test_an_epoch_that_needs_too_many_batches(order, batching):
    """An order that draws leaves out the last of its draws, others take other parts."""
    planner = bw.Planner(LENGTHS, batching=batching, order=order)
    functions = planner._functions
    least = min(
        sum(cut.num_batches for cut in functions.cut(functions.parts(epoch).each, 1, 1, 0))
        for epoch in functions.order.probes
    )
    sized = replace(planner._computed, num_batches=least - isinstance(order, bw.Mixture))
    for epoch in range(20):
        plan = sized(planner._origin(epoch))
        if isinstance(order, bw.Mixture):
            assert len(plan) == least - 1
            draws = order(LENGTHS, seed=0, epoch=epoch).members
            assert np.array_equal(strategies.accounted(plan), np.sort(draws))
            assert 0 < plan.dropped["deferred"].size < 0.05 * draws.size
        elif plan is not None:
            assert len(plan) == least
            assert np.array_equal(np.sort(plan.indices), np.arange(3000))


@given(st.integers(1, 40), st.integers(1, 400), st.integers(0, 99))
def test_draws_are_left_out_in_proportion(most, size, seed):
    order = bw.Mixture(GROUPS, temperature=2, num_samples=size)
    parts_of = order.by_length(Indexed(LengthIndex.build(LENGTHS)), 3000, seed=seed)
    whole, fewer = parts_of(3), parts_of(3, most=most)
    left = np.concatenate([taken(part) for part in fewer.each])
    assert left.size == min(most, sum(part.counts.sum() for part in whole.each))
    everyone = np.concatenate([taken(part) for part in whole.each])
    assert np.array_equal(
        np.sort(np.append(left, fewer.deferred if fewer.deferred is not None else [])),
        np.sort(everyone),
    )


@pytest.mark.parametrize(
    "order",
    [
        bw.Mixture(GROUPS, temperature=2),
        bw.ClassBalanced(GROUPS, after=1),
        bw.Curriculum(RNG.random(3000)),
        bw.Blocks(150, open_blocks=3),
        bw.Shuffle(window=900),
    ],
    ids=["mixture", "classes", "curriculum", "blocks", "windows"],
)
def test_plans_are_pickled_and_agree_on_every_way_to_read_them(order):
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(4000), order=order, world_size=2)
    again = pickle.loads(pickle.dumps(planner))  # noqa: S301 -- ours
    for epoch in (1, 0, 5):
        plan = planner(epoch)
        assert again(epoch) == plan == pickle.loads(pickle.dumps(plan))  # noqa: S301
        assert again(epoch).identity() == plan.identity()
        whole = [batch.tolist() for batch in plan]
        assert [plan[number].tolist() for number in range(len(plan))] == whole
        assert [batch.tolist() for batch in plan[3:9]] == whole[3:9]
        assert np.split(plan.indices, plan.offsets[1:-1])[4].tolist() == whole[4]
    assert planner(1).identity() != planner(0).identity()
    assert bw.Planner(LENGTHS, batching=planner.batching, order=order, seed=1)(0) != planner(0)


def test_pieces_of_samples_stay_in_the_block_of_their_sample():
    order, batching = bw.Blocks(150, open_blocks=3), bw.Packing(100, oversize="split")
    planner = bw.Planner(LENGTHS, batching=batching, order=order)
    assert planner._computed is not None
    plan = planner(1)
    tokens = np.bincount(plan.indices, plan.entry_lengths(LENGTHS))
    assert np.array_equal(tokens, LENGTHS)
    for part in planner._functions.parts(1).each:
        assert np.unique(part.entries(taken(part)).samples // 150).size <= 3


def test_dropped_samples_are_not_drawn_and_shares_stay_exact():
    order = bw.Mixture(GROUPS, weights={"a": 1, "b": 1})
    batching = bw.TokenBudget(80, oversize="drop")
    planner = bw.Planner(LENGTHS, batching=batching, order=order)
    fit = int((LENGTHS <= 80).sum())
    for epoch in range(3):
        plan = planner(epoch)
        drawn = np.concatenate((plan.indices, plan.dropped.get("deferred", [])))
        assert np.unique(GROUPS[drawn.astype(int)], return_counts=True)[1].tolist() == (
            pytest.approx([fit / 2, fit / 2], abs=1)
        )
        assert plan.dropped["oversize"].size == 3000 - fit


def test_other_data_is_refused():
    for order in (
        bw.Mixture(GROUPS, temperature=1),
        bw.ClassBalanced(GROUPS),
        bw.Curriculum(range(3000)),
        bw.Blocks([1000, 2000]),
    ):
        with pytest.raises(bw.errors.BatchwrightError, match="3,000"):
            bw.Planner(LENGTHS[:2999], max_tokens=4000, order=order)


@given(
    ends=st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=40), min_size=2, max_size=2),
    size=st.integers(1, 400),
    steps=st.integers(1, 200),
)
def test_counts_stay_within_one_sample_of_targets_that_drift(ends, size, steps):
    width = min(map(len, ends))
    first, last = (np.array(end[:width]) + 1e-6 for end in ends)
    owed, realised, target = np.zeros(width), np.zeros(width), np.zeros(width)
    for step in range(steps):
        weights = first + (last - first) * step / steps
        wanted = size * weights / weights.sum()
        counts, owed = apportioned(wanted, owed)
        realised, target = realised + counts, target + wanted
        assert counts.sum() == size
        assert (counts >= 0).all()
        assert np.abs(realised - target).max() < 1
