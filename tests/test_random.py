import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright._random import generator, ranked, shuffled, sorted_by_length
from tests import strategies


def pools_of(data, size):
    cuts = data.draw(st.lists(st.integers(1, size), max_size=5, unique=True))
    return np.array(sorted({0, size, *cuts}))


@given(strategies.lengths(), st.integers(0, 2**60), st.data())
def test_shuffled_stays_in_its_pools(lengths, seed, data):
    members = np.arange(lengths.size)[::-1].copy()
    pools = pools_of(data, members.size)
    order = shuffled(members, generator(seed, "test"), pools=pools)
    for start, stop in itertools.pairwise(pools):
        assert sorted(order[start:stop]) == sorted(members[start:stop])


@given(strategies.lengths(), st.integers(0, 2**60), st.data())
def test_sorted_by_length_in_each_pool(lengths, seed, data):
    members = shuffled(np.arange(lengths.size), generator(seed, "first"))
    pools = pools_of(data, members.size)
    order = sorted_by_length(members, lengths, generator(seed, "test"), pools=pools)
    for start, stop in itertools.pairwise(pools):
        assert sorted(order[start:stop]) == sorted(members[start:stop])
        assert (np.diff(lengths[order[start:stop]].astype(np.int64)) <= 0).all()


def test_lengths_too_large_to_share_a_key_with_an_index():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 2**50, 5000)
    order = sorted_by_length(np.arange(5000), lengths, generator(0, "x"))
    assert (np.diff(lengths[order]) <= 0).all()
    assert np.array_equal(np.sort(order), np.arange(5000))


def test_equal_lengths_and_shuffles_are_uniform():
    """Every sample comes to every place equally often: χ² of 6 samples over 6000 seeds."""
    seen = np.zeros((2, 6, 6))
    for seed in range(6000):
        first = shuffled(np.arange(6), generator(seed, "order"))
        second = sorted_by_length(np.arange(6), np.full(6, 9), generator(seed, "order"))
        seen[0, np.arange(6), first] += 1
        seen[1, np.arange(6), second] += 1
    chi_squared = ((seen - 1000) ** 2 / 1000).sum(axis=(1, 2))
    assert (chi_squared < 60).all()  # 25 degrees of freedom: beyond 60 once in 10⁴ times


def test_duplicated_members_are_all_kept():
    members = np.array([3, 3, 1, 3])
    order = sorted_by_length(members, np.array([9, 9, 9, 9]), generator(0, "x"))
    assert sorted(order.tolist()) == [1, 3, 3, 3]


def test_streams_differ_by_seed_purpose_and_epoch():
    streams = [generator(0, "a", 1), generator(1, "a", 1), generator(0, "b", 1), generator(0, "a")]
    assert len({stream.bit_generator.random_raw() for stream in streams}) == 4


@pytest.mark.parametrize("seed", [-1, 1.5, "x", None])
def test_bad_seeds(seed):
    with pytest.raises(bw.errors.PlanError, match="seed"):
        bw.plan([1, 2], max_tokens=5, seed=seed)


def test_bad_epochs():
    with pytest.raises(bw.errors.PlanError, match="epoch"):
        bw.plan([1, 2], max_tokens=5, epoch=-1)


@given(
    st.lists(st.floats(-1e300, 1e300) | st.sampled_from([0.0, -0.0, 1.0, -1.0]), min_size=1),
    st.integers(0, 99),
)
def test_ranked_sorts_scores_and_mixes_equal_ones(scores, seed):
    values = np.array(scores)
    order = ranked(values, generator(seed, "x"))
    assert sorted(order.tolist()) == list(range(values.size))
    ordered = values[order]
    # As exactly as the key allows: the last digits do not count, and subnormals have no others.
    slack = 1e-8 * np.abs(ordered[:-1]) + np.finfo(np.float64).tiny
    assert (ordered[1:] >= ordered[:-1] - slack).all()
    ties = {tuple(ranked(np.zeros(4), generator(each, "x")).tolist()) for each in range(200)}
    assert len(ties) == 24
