"""Draws from strata: exact numbers, and passes that leave nobody out."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.order.draws import Strata, apportioned

sizes_of_strata = st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any)


def strata_of(sizes):
    members = np.random.default_rng(0).permutation(sum(sizes) + 5)[: sum(sizes)]
    return Strata(members, np.concatenate(([0], np.cumsum(sizes))))


@given(sizes=sizes_of_strata, data=st.data(), seed=st.integers(0, 99))
def test_pools_hold_what_was_asked_of_each_stratum(sizes, data, seed):
    strata = strata_of(sizes)
    rows = st.tuples(*(st.integers(0, 30) if size else st.just(0) for size in sizes))
    counts = np.array(data.draw(st.lists(rows, min_size=1, max_size=5)))
    if not counts.any():
        return
    pools = strata.draw(counts, seed=seed)
    filled_pools = counts[counts.sum(axis=1) > 0]
    assert len(list(pools)) == len(filled_pools)
    for pool, wanted in zip(pools, filled_pools, strict=True):
        seen = [np.isin(pool, stratum).sum() for stratum in strata.each()]
        assert seen == wanted.tolist()
    available = [strata.sizes[wanted > 0].sum() for wanted in filled_pools]
    assert pools.eligible == min(available)


@given(
    sizes=sizes_of_strata, seed=st.integers(0, 99), cuts=st.lists(st.integers(0, 40), max_size=4)
)
def test_nobody_comes_twice_before_everybody_came_once_also_over_epochs(sizes, seed, cuts):
    """However a run is cut into epochs, it is one stream, of passes over each stratum."""
    strata = strata_of(sizes)
    total = np.where(strata.sizes > 0, 120, 0)
    whole = strata.draw(total[None], seed=seed).members
    edges = np.unique([0, *cuts, 120])
    parts = [[] for _ in sizes]
    for start, stop in itertools.pairwise(edges):
        counts = np.where(strata.sizes > 0, stop - start, 0)
        drawn = np.where(strata.sizes > 0, start, 0)
        members = strata.draw(counts[None], seed=seed, drawn=drawn).members
        for index, stratum in enumerate(strata.each()):
            parts[index].extend(members[np.isin(members, stratum)].tolist())
    for part, stratum in zip(parts, strata.each(), strict=True):
        assert part == whole[np.isin(whole, stratum)].tolist()
        for start in range(0, len(part), max(1, stratum.size)):
            one_pass = part[start : start + stratum.size]
            assert len(set(one_pass)) == len(one_pass)


def test_passes_are_random_and_differ():
    strata = strata_of([5])
    orders = {
        tuple(strata.draw(np.array([[5]]), drawn=np.array([5 * number]), seed=0).members.tolist())
        for number in range(2000)
    }
    assert len(orders) == 120  # every sequence of five


def test_a_stratum_larger_than_a_block_is_shuffled_pass_by_pass():
    strata = Strata(np.arange(200_000), np.array([0, 200_000]))
    members = strata.draw(np.array([[150_000], [100_000]]), seed=1).members
    assert np.unique(members[:200_000]).size == 200_000
    assert (members[:200_000] != np.sort(members[:200_000])).mean() > 0.99


def test_an_empty_stratum_cannot_be_drawn_from():
    with pytest.raises(bw.errors.PlanError, match="empty stratum"):
        strata_of([3, 0]).draw(np.array([[1, 1]]), seed=0)


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
