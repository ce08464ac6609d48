"""Batches cut from sorted samples: one, some and all of them are what spreading by hand gives."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.batching import cut as module
from batchwright.batching.cut import Cut
from batchwright.batching.cuts import (
    RowLimit,
    cut_by_update,
    cut_in_windows,
    cut_stretches,
    fit_stretches,
    on_grid,
)
from batchwright.batching.fixed_size import Even
from batchwright.batching.packers import best_fit_decreasing
from batchwright.lengths import logs, runs
from batchwright.typing import Wanted
from tests import reference, strategies

KEYS = st.integers(0, 2**64 - 1)
LIMITS = st.builds(
    RowLimit,
    st.integers(strategies.CAP + 4, 500),
    st.none() | st.integers(1, 30),
    st.sampled_from([1, 4]),
    st.sampled_from([1, 2, 8]),
)


def runs_of(lengths):
    values, counts = runs(lengths, np.arange(lengths.size))
    return values.copy(), counts


def sorted_lengths(values, counts):
    return np.repeat(values, counts)


@st.composite
def cuts(draw):
    """Cuts of all kinds, with the sorted lengths they are of and what a batch may hold."""
    values, counts = runs_of(draw(strategies.lengths(max_size=50)))
    size, strata = int(counts.sum()), draw(st.integers(1, 6))
    kind = draw(st.sampled_from(["stretches", "grid", "update", "windows", "packing", "buckets"]))
    limit = draw(LIMITS)
    found = None
    if kind == "packing":
        most = draw(st.none() | st.integers(1, 9))
        found = best_fit_decreasing(values, counts, draw(st.integers(60, 300)), max_samples=most)
    elif kind == "buckets":
        batching = bw.Buckets(draw(st.integers(1, 5)), max_tokens=draw(st.integers(60, 400)))
        found = batching.cuts(values, counts).cut(values, counts, Wanted(strata))
    elif kind == "grid":
        cells = on_grid(values, counts, draw(st.sampled_from([0.001, 0.1, 1.0])), 0.25)
        found = fit_stretches(*cells, limit, None)
    elif kind == "update":
        found = cut_by_update(values, counts, limit, strata, None)
    elif kind == "windows":
        window = draw(st.integers(1, 5))
        found = cut_in_windows(
            values, counts, limit, strata=strata, window=window, num_updates=None
        )
    if found is None:
        found = cut_stretches(values, counts, limit(values))
    if draw(st.booleans()):
        more = draw(st.integers(0, size - found.num_batches))
        found = found.split_to(found.num_batches + more)
    return found, sorted_lengths(values, counts)


def spread(cut, key):
    """The samples of the batches of a cut, by number, each with its stretch."""
    columns = (cut.start, cut.samples, cut.first, cut.batches)
    stretches = list(zip(*map(np.ndarray.tolist, columns), strict=True))
    return reference.spread(stretches, key, None if cut.runs is None else cut.runs.T.tolist())


def by_hand(cut, key):
    """The batches of a cut by number, as they are put together."""
    batches = spread(cut, key)
    positions = [[position for _, position in batch] for batch in batches]
    if any(len(dict(batch)) > 1 for batch in batches):
        positions = [reference.front_and_back(batch) for batch in positions]
    return positions


def split(found, offsets):
    return [part.tolist() for part in np.split(found, offsets[1:-1])]


@given(cuts(), KEYS, st.sampled_from([0, 7, 40, 1 << 11]), st.sampled_from([1, 50, 1 << 16]))
def test_one_some_and_all_are_what_spreading_by_hand_gives(drawn, key, worth, block):
    cut, lengths = drawn
    ranks = np.arange(cut.num_batches)
    batches = by_hand(cut, key)
    one = [cut.one(rank, key).tolist() for rank in ranks.tolist()]
    assert sorted(one) == sorted(batches)
    assert split(*cut.some(ranks, key)) == one
    with (
        mock.patch.object(module, "_WORTH_A_LOOP", worth),
        mock.patch.object(module, "_BLOCK", block),
    ):
        order = ranks[::-1].copy()
        assert split(*cut.all(order, key, lambda positions: positions)) == one[::-1]
        assert split(*cut.all(order, key, lengths.__getitem__)) == [
            lengths[batch].tolist() for batch in one[::-1]
        ]
    assert sorted(sum(one, [])) == list(range(lengths.size))
    assert cut.num_samples == lengths.size


@given(cuts(), KEYS)
def test_ranks_fall_with_the_mean_length_of_batches(drawn, key):
    cut, _ = drawn
    numbers = {min(batch): number for number, batch in enumerate(by_hand(cut, key))}
    stretches = spread(cut, key)
    means = []
    for rank in range(cut.num_batches):
        batch = stretches[numbers[int(cut.one(rank, key).min())]]
        lengths = cut.lengths[[stretch for stretch, _ in batch]].astype(np.float64)
        means.append((lengths * logs(lengths)).sum() / lengths.sum())
    assert cut.keys().tolist() == pytest.approx(means)
    assert (np.diff(cut.keys()) <= 0).all()


@given(cuts(), KEYS, st.data())
def test_some_batches_in_any_sequence(drawn, key, data):
    cut, _ = drawn
    ranks = data.draw(st.lists(st.integers(0, cut.num_batches - 1), min_size=1, max_size=12))
    found = split(*cut.some(np.array(ranks), key))
    assert found == [cut.one(rank, key).tolist() for rank in ranks]


@given(cuts(), st.data())
def test_split_to_any_number(drawn, data):
    cut, lengths = drawn
    wanted = data.draw(st.integers(cut.num_batches, lengths.size))
    halves = cut.split_to(wanted)
    assert halves.num_batches == wanted
    positions, offsets = halves.some(np.arange(wanted), 5)
    assert sorted(positions.tolist()) == list(range(lengths.size))
    sizes, before = np.diff(offsets), np.diff(cut.some(np.arange(cut.num_batches), 5)[1])
    assert sizes.min() >= 1
    assert sizes.max() <= before.max()

    if halves._is_mixed:
        tokens = [
            np.add.reduceat(lengths[found], ends[:-1]).max()
            for found, ends in ((positions, offsets), cut.some(np.arange(cut.num_batches), 5))
        ]
        assert tokens[0] <= tokens[1]
    with pytest.raises(bw.errors.PlanError, match="cannot fill"):
        cut.split_to(lengths.size + 1)


def test_the_largest_are_split_first():
    values, counts = np.array([10, 1]), np.array([10, 100])
    cut = cut_stretches(values, counts, np.array([1, 20]))
    sizes = np.diff(cut.some(np.arange(cut.num_batches), 0)[1])
    assert sorted(sizes.tolist()) == [1] * 10 + [20] * 5
    split_sizes = np.diff(cut.split_to(18).some(np.arange(18), 0)[1])
    assert sorted(split_sizes.tolist()) == [1] * 10 + [10] * 6 + [20] * 2


def test_halves_of_a_packed_row_are_about_equal():
    values = np.arange(20, 11, -1)
    cut = best_fit_decreasing(values, np.ones_like(values), int(values.sum()))
    assert cut.num_batches == 1
    found, offsets = cut.split_to(2).some(np.arange(2), 0)
    assert sorted(np.diff(offsets).tolist()) == [4, 5]
    tokens = np.add.reduceat(values[found], offsets[:-1])
    assert np.ptp(tokens) < 20


@given(strategies.lengths(max_size=50), LIMITS, st.integers(1, 8), KEYS)
def test_every_update_gets_the_same_share_of_every_length(lengths, limit, strata, key):
    values, counts = runs_of(lengths)
    cut = cut_by_update(values, counts, limit, strata, None)
    if cut is None:
        return
    ordered, updates = sorted_lengths(values, counts), cut.num_batches // strata
    assert cut.num_batches == strata * updates
    assert cut.first.tolist() == [updates * stratum for stratum in range(strata)]
    batches = by_hand(cut, key)
    longest = [limit(np.array([ordered[min(batch)]]))[0] for batch in batches]
    assert all(len(batch) <= most for batch, most in zip(batches, longest, strict=True))
    assert all(batches)
    # Update u has one batch of each stratum: of every `updates` neighbours one sample.
    for update in range(updates):
        mine = sorted(sum((batches[updates * stratum + update] for stratum in range(strata)), []))
        rounds = [position // updates for position in mine]
        assert rounds == list(range(len(rounds)))
        assert len(rounds) >= ordered.size // updates
    if updates > 1:  # fewer would not keep the budget
        assert cut_by_update(values, counts, limit, strata, updates - 1) is None


@given(strategies.lengths(max_size=50), LIMITS, st.integers(1, 8), st.integers(0, 5), KEYS)
def test_cuts_by_update_for_a_number_of_updates(lengths, limit, strata, more, key):
    values, counts = runs_of(lengths)
    fewest = cut_by_update(values, counts, limit, strata, None)
    assume(fewest is not None)
    updates = fewest.num_batches // strata + more
    cut = cut_by_update(values, counts, limit, strata, updates)
    if cut is None:
        assert updates * strata > lengths.size
        return
    assert cut.num_batches == updates * strata
    ordered = sorted_lengths(values, counts)
    for batch in by_hand(cut, key):
        assert 1 <= len(batch) <= limit(ordered[[min(batch)]])[0]


@given(strategies.lengths(max_size=50), LIMITS, st.integers(1, 5), st.integers(1, 6), KEYS)
def test_windows_get_the_same_share_of_every_length(lengths, limit, strata, window, key):
    values, counts = runs_of(lengths)
    cut = cut_in_windows(values, counts, limit, strata=strata, window=window, num_updates=None)
    if cut is None:
        return
    updates, rest = divmod(cut.num_batches, strata)
    assert rest == 0
    assert updates > window
    ordered = sorted_lengths(values, counts)
    for batch in by_hand(cut, key):
        assert 1 <= len(batch) <= limit(ordered[[min(batch)]])[0]
    again = cut_in_windows(
        values, counts, limit, strata=strata, window=window, num_updates=updates + 1
    )
    assert (again is None) == ((updates + 1) * strata > lengths.size)
    assert again is None or again.num_batches == (updates + 1) * strata


def test_windows_have_one_stretch_for_each_of_their_updates():
    values, limit = np.arange(1000, 280, -1), RowLimit(3000)
    cut = cut_in_windows(values, np.ones_like(values), limit, strata=2, window=3, num_updates=120)
    assert cut.batches.tolist() == [40] * 6
    assert (cut.rounds <= limit(cut.lengths)).all()


def test_windows_of_equal_samples_are_one_stretch():
    """Else a batch would be of neighbours in the data."""
    values, counts = np.array([4, 3]), np.array([240, 480])
    cut = cut_in_windows(values, counts, RowLimit(12), strata=2, window=6, num_updates=None)
    first, last = (
        np.searchsorted([240, 720], place, "right")
        for place in (cut.start, cut.start + cut.samples - 1)
    )
    assert np.bincount(first[first == last]).max() == 1


@given(st.integers(1, 600), st.integers(1, 50), st.data())
def test_even_batches(size, batch_size, data):
    least = -(-size // batch_size)
    wanted = data.draw(st.integers(least, size) | st.integers(least, min(size, least + 3)))
    cut = Even(size, wanted, batch_size)
    key, ranks = data.draw(KEYS), np.arange(wanted)
    found, offsets = cut.some(ranks, key)
    sizes = np.diff(offsets)
    assert sizes.size == wanted
    assert 1 <= sizes.min() <= sizes.max() <= batch_size
    assert np.array_equal(np.sort(found), np.arange(size))
    whole, ends = cut.all(ranks, key, lambda positions: positions)
    assert whole.tolist() == found.tolist()
    assert ends.tolist() == offsets.tolist()
    for rank in data.draw(st.lists(st.integers(0, wanted - 1), max_size=5)):
        assert cut.one(rank, key).tolist() == found[offsets[rank] : offsets[rank + 1]].tolist()
    # The first ones are full; as few as need be are smaller.
    full = int(np.argmin(sizes == batch_size)) if (sizes < batch_size).any() else wanted
    assert (sizes[full:] < batch_size).all() or full == wanted
    assert wanted - full <= 2 * (wanted - least) + 1
    assert np.ptp(sizes[full:]) <= 1 if full < wanted else True
    other = data.draw(st.integers(wanted, size))
    split_again = Even(size, least, batch_size).split_to(other)
    assert split_again.identity() == Even(size, other, batch_size).identity()


@pytest.mark.parametrize("batches", [65_535, 65_536, 200_003])
def test_stretches_of_more_batches_than_sixteen_bits_hold(batches):
    """Products of small and of large integers give the same."""
    samples = 3 * batches - 7
    one = np.array([0])
    cut = Cut(one, np.array([samples]), one, np.array([batches]), np.array([9]))
    ranks, ids = np.arange(batches), np.arange(samples)[::-1]
    found, offsets = cut.all(ranks, 4, ids.__getitem__)
    some, ends = cut.some(ranks, 4)
    assert np.array_equal(found, ids[some])
    assert np.array_equal(offsets, ends)
    assert np.array_equal(np.sort(found), np.arange(samples))


def test_packed_stretches_of_many_samples():
    values, counts = np.array([50, 30, 3]), np.array([9000, 8000, 70_000])
    cut = best_fit_decreasing(values, counts, 310)
    ranks, ids = np.arange(cut.num_batches), np.arange(87_000)[::-1]
    found, offsets = cut.all(ranks, 4, ids.__getitem__)
    some, ends = cut.some(ranks, 4)
    assert (cut.samples > 1 << 11).any()
    assert np.array_equal(found, ids[some])
    assert np.array_equal(offsets, ends)
    assert np.array_equal(np.sort(found), np.arange(87_000))


def test_stretches_of_a_billion_batches():
    """Nothing of the size of the data is made for one batch."""
    batches = 2**30
    one = np.array([0])
    cut = Cut(one, np.array([5 * batches - 1]), one, np.array([batches]), np.array([9]))
    ranks = np.array([0, 1, batches // 2, batches - 1])
    some = split(*cut.some(ranks, 3))
    for rank, batch in zip(ranks.tolist(), some, strict=True):
        assert cut.one(rank, 3).tolist() == batch
        assert [position // batches for position in batch] in ([0, 1, 2, 3, 4], [0, 1, 2, 3])
        by_number = reference_entry(rank, batches, key=3)
        assert batch == [entry for entry in by_number if entry < 5 * batches - 1]


def reference_entry(batch, batches, key):
    found = []
    for turn in range(5):
        bits = reference.hashed(turn, key)
        prime, shift = int(reference.PRIMES[bits >> 58]), ((bits & 0xFFFFFFFF) * batches) >> 32
        found.append(turn * batches + (prime * batch + shift) % batches)
    return found
