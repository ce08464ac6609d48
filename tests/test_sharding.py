import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.sharding import share
from batchwright.updates import split_offsets


@st.composite
def cuts(draw):
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    return np.concatenate(([0], np.cumsum(sizes)))


@given(cuts(), st.data())
def test_splitting_only_adds_cuts(offsets, data):
    target = data.draw(st.integers(offsets.size - 1, int(offsets[-1])))
    weights = data.draw(
        st.none()
        | st.lists(st.floats(0.1, 9), min_size=offsets.size - 1, max_size=offsets.size - 1)
    )
    weights = None if weights is None else np.array(weights)
    before = None if weights is None else weights.copy()
    split = split_offsets(offsets, target, weights=weights)
    assert split.size - 1 == target
    assert np.isin(offsets, split).all()
    assert (np.diff(split) >= 1).all()
    if weights is not None:
        assert np.array_equal(weights, before)  # the caller's array is the caller's


@given(cuts())
def test_one_split_takes_the_largest(offsets):
    sizes = np.diff(offsets)
    if sizes.max() == 1:
        return
    split = split_offsets(offsets, sizes.size + 1)
    new = np.setdiff1d(split, offsets)
    batch = int(np.searchsorted(offsets, new[0], side="right")) - 1
    assert sizes[batch] == sizes.max()


@given(cuts(), st.integers(1, 6))
def test_equalize_gives_the_next_multiple(offsets, multiple):
    plan = bw.Plan(np.arange(int(offsets[-1])), offsets)
    target = -(-len(plan) // multiple) * multiple
    if target > plan.indices.size:
        with pytest.raises(bw.errors.PlanError, match="cannot fill"):
            bw.equalize(plan, multiple_of=multiple)
        return
    even = bw.equalize(plan, multiple_of=multiple)
    assert len(even) == target
    assert np.array_equal(even.indices, plan.indices)
    assert even.sizes.max() <= plan.sizes.max()


def test_equalize_to_a_number():
    plan = bw.Plan(np.arange(6), np.array([0, 6]))
    assert len(bw.equalize(plan, num_batches=4, multiple_of=2)) == 4
    with pytest.raises(bw.errors.PlanError, match="not a multiple of 2"):
        bw.equalize(plan, num_batches=3, multiple_of=2)
    with pytest.raises(bw.errors.PlanError, match="by splitting"):
        bw.equalize(bw.equalize(plan, num_batches=4), num_batches=2)


def test_pieces_that_come_twice_begin_where_they_did():
    plan = bw.Plan(np.zeros(3, dtype=int), np.arange(4), starts=np.array([0, 10, 20]))
    shared = share(plan, 5, 1, 0, last="repeat")
    assert shared is not None
    assert shared.starts.tolist() == [0, 10, 20, 0, 10]
