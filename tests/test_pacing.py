"""Pacing functions: shares worked by hand, what holds for all of them, settings that are refused."""

import pickle
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright import pacing

NAN, INF = float("nan"), float("inf")

shares = st.floats(1e-6, 1)
reaches = st.floats(1e-6, 2) | st.sampled_from([0.3, 0.5, 1.0])
progress = st.floats(0, 1.5) | st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0])

RISING = {
    "baby_step": st.builds(pacing.baby_step, st.integers(1, 1000), reach=reaches),
    "constant": st.builds(pacing.constant, shares),
    "linear": st.builds(pacing.linear, start=shares, reach=reaches),
    "root": st.builds(pacing.root, st.floats(0.01, 100) | st.just(2), start=shares, reach=reaches),
    "single_step": st.builds(pacing.single_step, start=shares, reach=reaches),
}
OTHERS = {
    "keep_rate": st.builds(pacing.keep_rate, st.floats(0, 0.999), reach=reaches),
    "length_warm_up": st.builds(
        lambda low, more, step, reach: pacing.length_warm_up(
            low, low + more, step=step, reach=reach
        ),
        st.integers(1, 512),
        st.integers(0, 5000),
        st.integers(1, 600),
        reaches,
    ),
}

WORKED = [
    (pacing.constant(0.6), [0, 0.3, 1], [0.6, 0.6, 0.6]),
    # 0.2 + 0.8 × (0, 0.25, 0.5, 1)
    (pacing.linear(start=0.2), [0, 0.25, 0.5, 1], [0.2, 0.4, 0.6, 1]),
    (pacing.linear(start=0.2, reach=0.5), [0, 0.25, 0.5, 1], [0.2, 0.6, 1, 1]),
    # √(0.36 + 0.64 × 0.4375) = √0.64
    (pacing.root(p=2, start=0.6), [0, 0.4375, 1], [0.6, 0.8, 1]),
    (pacing.root(p=2, start=0.6, reach=0.5), [0, 0.21875, 0.5], [0.6, 0.8, 1]),
    # ∛(0.125 + 0.875 × 0.387/0.875) = ∛0.512
    (pacing.root(p=3, start=0.5), [0, 0.387 / 0.875, 1], [0.5, 0.8, 1]),
    (pacing.single_step(start=0.3, reach=0.4), [0, 0.39, 0.4, 1], [0.3, 0.3, 1, 1]),
    (pacing.single_step(start=0.3, reach=1.6), [0, 1], [0.3, 0.3]),
    (pacing.baby_step(bins=4), [0, 0.24, 0.25, 0.5, 0.75, 1], [0.25, 0.25, 0.5, 0.75, 1, 1]),
    (pacing.baby_step(bins=4, reach=0.4), [0, 0.1, 0.2, 0.3, 1], [0.25, 0.5, 0.75, 1, 1]),
    (pacing.baby_step(bins=1), [0, 1], [1, 1]),
    # 1 − 0.4 × (0, 0.5, 1, 1)
    (pacing.keep_rate(0.4, reach=0.1), [0, 0.05, 0.1, 1], [1, 0.8, 0.6, 0.6]),
    # 22 ÷ 8 is 2 steps of 8 over half the horizon, and the rest of 6 with the last.
    (
        pacing.length_warm_up(8, 30, step=8, reach=0.5),
        [0, 0.24, 0.25, 0.49, 0.5, 1],
        [8, 8, 16, 16, 30, 30],
    ),
]


def test_values_are_those_worked_by_hand():
    for function, at, expected in WORKED:
        assert function(at) == pytest.approx(np.array(expected, float), rel=1e-11), function
    functions = {type(function).__name__ for function, *_ in WORKED}
    assert functions == set(RISING | OTHERS) == set(pacing.__all__)


@given(data=st.data())
def test_what_holds_for_all(data):
    for name, functions in (RISING | OTHERS).items():
        function = data.draw(functions)
        at = np.array(data.draw(st.lists(progress, max_size=20)), float)
        together = function(at)
        assert together.tolist() == [function(each).item() for each in at]
        assert function(at.reshape(1, -1, 1)).tolist() == together.reshape(1, -1, 1).tolist()
        assert function([1.01, 7, INF]).tolist() == [function(1).item()] * 3
        for twin in (eval(repr(function), vars(pacing)), pickle.loads(pickle.dumps(function))):  # noqa: S301, S307
            assert twin == function
            assert hash(twin) == hash(function)
        falls = np.diff(function(np.sort(at))) * (-1 if name == "keep_rate" else 1)
        assert (falls >= -1e-15).all()  # a power may be rounded up in its last place
        if name != "length_warm_up":
            assert together.dtype == np.float64
            assert ((together > 0) & (together <= 1)).all()


@given(st.one_of(*(RISING[name] for name in ("linear", "root", "single_step"))))
def test_a_share_goes_from_its_start_to_exactly_one(function):
    # Rounded, a formula ends at 0.9999999999999999, and ⌊that × n⌋ samples are one too few.
    assert float(function(0)) == pytest.approx(function.start)
    assert (function([0, 0.2, 1]) >= function.start).all()
    if function.reach <= 1:
        assert function([function.reach, 1, INF]).tolist() == [1.0] * 3


@given(RISING["baby_step"])
def test_baby_steps_go_from_one_bin_to_all(function):
    assert float(function(0)) == 1 / function.bins
    if function.reach <= 1:
        assert float(function(function.reach)) == 1.0


@given(OTHERS["length_warm_up"], st.lists(progress, max_size=20))
def test_a_warm_up_goes_in_steps_from_the_shortest_to_the_longest(function, at):
    lengths = function(at)
    assert lengths.dtype == np.int64
    steps = (lengths - function.min_length) % function.step
    assert ((steps == 0) | (lengths == function.max_length)).all()
    assert ((function.min_length <= lengths) & (lengths <= function.max_length)).all()
    if function.reach <= 1:
        assert int(function(function.reach)) == function.max_length


@pytest.mark.parametrize(
    "settings",
    [
        {"min_length": 64, "max_length": 65, "step": 8},
        {"min_length": 1, "max_length": 4096, "step": 1, "reach": 1e-3},
        {"min_length": 8, "max_length": 64, "reach": 5e-324},
    ],
)
def test_a_warm_up_may_be_shorter_than_its_steps(settings):
    # Composer divides by how many updates a step takes, and by how many steps there are.
    lengths = pacing.length_warm_up(**settings)(np.arange(11) / 10)
    assert lengths[0] == settings["min_length"]
    assert lengths[-1] == settings["max_length"]


@pytest.mark.parametrize("num_steps", [7, 70, 91])
def test_a_warm_up_in_whole_updates_has_the_lengths_of_composer(num_steps):
    every = num_steps // ((64 - 8) // 8)
    expected = [min(64, 8 * (t // every) + 8) for t in range(num_steps + 5)]
    warm_up = pacing.length_warm_up(8, 64, step=8, reach=1)
    assert warm_up([t / num_steps for t in range(num_steps + 5)]).tolist() == expected


@pytest.mark.parametrize("horizon", [10, 97, 30_000])
def test_whole_steps_are_those_of_integers(horizon):
    # 0.3 ÷ 0.1 is 2.9999999999999996: the third step would come a batch late.
    consumed = range(0, horizon + 1, max(1, horizon // 1000))
    bins = pacing.baby_step(bins=7)([t / horizon for t in consumed])
    assert bins.tolist() == [min(7, t * 7 // horizon + 1) / 7 for t in consumed]


@pytest.mark.parametrize("p", [0.5, 1, 2, 3, 10])
def test_a_root_has_the_degree_that_was_asked_for(p):
    # CurML takes the square root, whatever p.
    share = pacing.root(p=p, start=0.2)(np.linspace(0, 1, 201))
    assert np.diff(share**p, 2) == pytest.approx(np.zeros(199), abs=1e-12)


BAD = [
    *((pacing.linear, {"start": start}, "share of the samples") for start in (0, 1.01, NAN, "a")),
    *((pacing.root, {"start": start}, "share of the samples") for start in (None, True, [0.2])),
    *((pacing.single_step, {"reach": reach}, "share of the horizon") for reach in (0, INF, "1")),
    *((pacing.baby_step, {"reach": reach}, "share of the horizon") for reach in (NAN, 10**400)),
    (partial(pacing.keep_rate, 0.2), {"reach": -1}, "share of the horizon"),
    (partial(pacing.length_warm_up, 8, 64), {"reach": False}, "share of the horizon"),
    (pacing.root, {"p": 0}, "finite number of at least 0.01"),
    (pacing.root, {"p": NAN}, "finite number of at least 0.01"),
    (pacing.baby_step, {"bins": 0}, "integer of at least 1"),
    (pacing.baby_step, {"bins": 2.5}, "integer of at least 1"),
    (pacing.baby_step, {"bins": True}, "integer of at least 1"),
    (pacing.baby_step, {"bins": 10**400}, "integer of at least 1"),
    (pacing.constant, {"share": 80}, "share of the samples"),
    (pacing.keep_rate, {"noise_rate": 1}, "at least 0 and below 1"),
    (pacing.keep_rate, {"noise_rate": -0.1}, "at least 0 and below 1"),
    (pacing.length_warm_up, {"min_length": 0, "max_length": 8}, "integer of at least 1"),
    (pacing.length_warm_up, {"min_length": 9, "max_length": 8}, "min_length to be at most"),
    (partial(pacing.length_warm_up, 8, 64), {"step": 0}, "integer of at least 1"),
]


def test_a_bad_setting_is_named():
    for make, settings, expected in BAD:
        with pytest.raises(bw.errors.PlanError, match=expected) as caught:
            make(**settings)
        assert any(f"{value!r:.60}" in str(caught.value) for value in settings.values())


@pytest.mark.parametrize("at", [-0.1, [0, -1e-9], [0.5, NAN], None, "0.5", [True], [[0], [0, 1]]])
def test_progress_that_is_none_is_refused(at):
    makes = [pacing.root(), pacing.constant(), pacing.single_step(), pacing.keep_rate(0.2)]
    for function in [*makes, pacing.baby_step(), pacing.length_warm_up(8, 64)]:
        with pytest.raises(bw.errors.PlanError, match="progress"):
            function(at)


def test_settings_become_plain_values():
    function = pacing.root(np.int64(2), start=np.float64(0.25), reach=Fraction(1, 2))
    assert repr(function) == "root(p=2, start=0.25, reach=0.5)"
    assert function == pacing.root(2.0, start=0.25, reach=0.5)
    assert pacing.linear(start=0.2) != pacing.linear(start=0.3)


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.uint8])
def test_progress_may_have_any_type_of_number(dtype):
    at = np.array([0, 1, 2], dtype=dtype)
    assert pacing.linear(start=0.5)(at).tolist() == [0.5, 1.0, 1.0]
    assert at.tolist() == [0, 1, 2]


def test_settings_at_the_edge_of_floats_give_no_warning():
    tiny, huge = 5e-324, 1.7e308
    edges = [
        pacing.linear(start=tiny, reach=tiny),
        pacing.root(p=huge, reach=huge),
        pacing.baby_step(2**53 - 1, reach=tiny),
    ]
    for function in edges:
        share = function([0, tiny, 0.5, 1, huge])
        assert ((share > 0) & (share <= 1)).all(), function
