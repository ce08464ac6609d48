"""What holds for every pacing function, whatever its settings."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright import pacing
from tests.pacing import pacings

at_random = st.lists(pacings.progress, max_size=20)


def test_every_function_is_drawn():
    assert set(pacings.ALL) == set(pacing.__all__) - {"Pacing", "LengthPacing"}


@pytest.mark.parametrize("name", pacings.ALL)
@given(data=st.data())
def test_what_holds_for_all(name, data):
    function, progress = data.draw(pacings.ALL[name]), data.draw(at_random)
    together = function(progress)
    check_that_many_at_once_are_as_one_by_one(function, progress, together)
    check_that_it_is_a_value(name, function)
    if name in pacings.SHARES:
        assert together.dtype == np.float64
        assert ((together > 0) & (together <= 1)).all()
    if name in pacings.GROWING | pacings.LENGTHS:
        # A power may be rounded one unit in the last place too high.
        assert (np.diff(function(np.sort(np.array(progress, float)))) >= -1e-15).all()
    if name in pacings.REACHING:
        check_that_it_goes_from_its_start_to_exactly_one(function)
    # Progress counts as complete beyond the horizon.
    assert function([1.01, 7, np.inf]).tolist() == [function(1).item()] * 3


def check_that_many_at_once_are_as_one_by_one(function, progress, together):
    alone = [function(u) for u in progress]
    assert isinstance(together, np.ndarray)
    assert together.shape == (len(progress),)
    assert all(isinstance(each, np.ndarray) and each.shape == () for each in alone)
    assert together.tolist() == [each.item() for each in alone]
    table = function(np.reshape(progress, (1, -1, 1)))
    assert table.shape == (1, len(progress), 1)
    assert table.dtype == together.dtype
    assert table.ravel().tolist() == together.tolist()


def check_that_it_is_a_value(name, function):
    for twin in (eval(repr(function), vars(pacing)), pickle.loads(pickle.dumps(function))):  # noqa: S301, S307
        assert twin == function
        assert hash(twin) == hash(function)
    assert repr(function).startswith(f"{name}(")


def check_that_it_goes_from_its_start_to_exactly_one(function):
    assert float(function(0)) == pytest.approx(function.start)
    assert (function([0, 0.2, 1]) >= function.start).all()
    if function.reach <= 1:
        ends = [function.reach, 1, 1.5, np.inf]
        assert function(ends).tolist() == [1.0] * 4


@given(pacings.FALLING["keep_rate"], at_random)
def test_a_keep_rate_never_rises(function, progress):
    assert (np.diff(function(np.sort(np.array(progress, float)))) <= 0).all()


@given(pacings.GROWING["baby_step"])
def test_baby_steps_go_from_one_bin_to_all(function):
    assert float(function(0)) == 1 / function.bins
    if function.reach <= 1:
        assert float(function(function.reach)) == 1.0


@given(pacings.LENGTHS["length_warm_up"], at_random)
def test_a_warm_up_goes_in_steps_from_the_shortest_to_the_longest(function, progress):
    lengths = function(progress)
    assert lengths.dtype == np.int64
    steps = (lengths - function.min_length) % function.step
    assert ((steps == 0) | (lengths == function.max_length)).all()
    assert ((function.min_length <= lengths) & (lengths <= function.max_length)).all()
    if function.reach <= 1:
        assert int(function(function.reach)) == function.max_length
