import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright._random import generator, ranked, shuffled
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


def test_shuffles_are_uniform():
    """Every sample comes to every place equally often: χ² of 6 samples over 6000 seeds."""
    seen = np.zeros((6, 6))
    for seed in range(6000):
        order = shuffled(np.arange(6), generator(seed, "order"))
        seen[np.arange(6), order] += 1
    chi_squared = ((seen - 1000) ** 2 / 1000).sum()
    assert chi_squared < 60  # 25 degrees of freedom: beyond 60 once in 10⁴ times


def test_duplicated_members_are_all_kept():
    members = np.array([3, 3, 1, 3])
    order = shuffled(members, generator(0, "x"))
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
