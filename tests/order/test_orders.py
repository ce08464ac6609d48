import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright._random import generator
from batchwright.order import Pools, as_pools
from tests import strategies


@given(strategies.lengths(), strategies.orders(), st.integers(0, 99), st.integers(0, 99))
def test_an_order_is_a_function_of_its_arguments(lengths, order, seed, epoch):
    first, second = (order(lengths, seed=seed, epoch=epoch) for _ in range(2))
    drawn = [pools.sequence(generator(seed, "x", epoch)) for pools in (first, second)]
    assert np.array_equal(*drawn)
    assert sorted(drawn[0].tolist()) == list(range(lengths.size))


def test_sequential_keeps_the_sequence():
    pools = bw.Sequential()(np.ones(5, dtype=int), seed=0, epoch=3)
    assert not pools.is_free
    assert pools.sequence(generator(0, "x")).tolist() == [0, 1, 2, 3, 4]
    assert [pool.tolist() for pool in pools] == [[0, 1, 2, 3, 4]]


@given(strategies.lengths(), st.integers(1, 50))
def test_a_window_keeps_samples_near_their_place(lengths, window):
    pools = bw.Shuffle(window=window)(lengths, seed=0, epoch=0)
    order = pools.sequence(generator(0, "x"))
    assert (np.abs(order - np.arange(order.size)) < window).all()


def test_a_shuffle_moves_samples():
    pools = bw.Shuffle()(np.ones(1000, dtype=int), seed=0, epoch=0)
    order = pools.sequence(generator(0, "x"))
    assert np.corrcoef(order, np.arange(1000))[0, 1] < 0.1


def test_a_window_holds_a_sample():
    with pytest.raises(bw.errors.PlanError, match="window=0"):
        bw.Shuffle(window=0)


def test_pools_are_checked_against_the_samples():
    with pytest.raises(bw.errors.PlanError, match="samples -1 to 2, there are 0 to 2"):
        as_pools(Pools(np.array([-1, 2]), None), 3)
    with pytest.raises(bw.errors.PlanError, match="expected at least one sample"):
        as_pools(np.array([0.5]), 3)
