"""Settings are checked when a function is made, progress when it is called."""

import dataclasses
from fractions import Fraction
from functools import partial

import numpy as np
import pytest

import batchwright as bw
from batchwright import pacing

NAN, INF = float("nan"), float("inf")

varied = partial(pacing.varied_exponential, (0.5,))
warm_up = partial(pacing.length_warm_up, 8, 64)

STARTING = [
    pacing.difficulty_root,
    pacing.exponential,
    pacing.fixed_exponential,
    pacing.geometric,
    pacing.linear,
    pacing.logarithmic,
    partial(pacing.polynomial, 2),
    pacing.root,
    pacing.single_step,
    pacing.step,
    varied,
]
REACHING = [
    pacing.baby_step,
    pacing.difficulty_root,
    pacing.exponential,
    pacing.geometric,
    partial(pacing.keep_rate, 0.2),
    warm_up,
    pacing.linear,
    pacing.logarithmic,
    partial(pacing.polynomial, 2),
    pacing.root,
    pacing.single_step,
    pacing.step,
]


@pytest.mark.parametrize("start", [0, -0.1, 1.01, 20, NAN, INF, "0.2", None, True, [0.2], 1j])
def test_a_start_is_a_share(start):
    expected = r"start=.*: expected a share of the samples, above 0"
    for make in STARTING:
        with pytest.raises(bw.PlanError, match=expected):
            make(start=start)


@pytest.mark.parametrize("reach", [0, -1, NAN, INF, "1", None, False, 10**400])
def test_a_reach_is_a_share_of_the_horizon(reach):
    for make in REACHING:
        with pytest.raises(bw.PlanError, match=r"reach=.*: expected a share of the horizon"):
            make(reach=reach)


BAD = [
    (pacing.root, {"p": 0}, "finite number of at least 0.01"),
    (pacing.root, {"p": -2}, "finite number of at least 0.01"),
    (pacing.root, {"p": NAN}, "finite number of at least 0.01"),
    (pacing.polynomial, {"p": 0}, "finite number above 0"),
    (pacing.polynomial, {"p": INF}, "finite number above 0"),
    (pacing.difficulty_root, {"p": -1}, "finite number above 0"),
    (pacing.difficulty_root, {"step": 0}, "share of the samples"),
    (pacing.difficulty_root, {"step": 8}, "share of the samples"),
    (pacing.fixed_exponential, {"increase": 1}, "finite number above 1"),
    (pacing.fixed_exponential, {"increase": 0.5}, "finite number above 1"),
    (pacing.fixed_exponential, {"step_length": 0}, "share of the horizon"),
    (varied, {"increase": 1}, "finite number above 1"),
    (pacing.varied_exponential, {"steps": (0.5, 0.5)}, "more than the one before"),
    (pacing.varied_exponential, {"steps": (0.5, 0.2)}, "more than the one before"),
    (pacing.varied_exponential, {"steps": (100, 200)}, "each between 0 and 1"),
    (pacing.varied_exponential, {"steps": (NAN,)}, "each between 0 and 1"),
    (pacing.varied_exponential, {"steps": 0.5}, "sequence of progress"),
    (pacing.varied_exponential, {"steps": "ab"}, "sequence of progress"),
    (pacing.baby_step, {"bins": 0}, "integer of at least 1"),
    (pacing.baby_step, {"bins": 2.5}, "integer of at least 1"),
    (pacing.baby_step, {"bins": True}, "integer of at least 1"),
    (pacing.baby_step, {"bins": 10**400}, "integer of at least 1"),
    (pacing.constant, {"share": 0}, "share of the samples"),
    (pacing.constant, {"share": 80}, "share of the samples"),
    (pacing.discrete, {"levels": (), "until": ()}, "sequence of shares"),
    (pacing.discrete, {"levels": (0.5, 0), "until": (0.5,)}, "sequence of shares"),
    (pacing.discrete, {"levels": (0.5, 2), "until": (0.5,)}, "sequence of shares"),
    (pacing.discrete, {"levels": (0.5, 1), "until": (5,)}, "sequence of progress"),
    (pacing.discrete, {"levels": (0.5, 1), "until": (0.2, 0.4)}, "2 levels, 2 in until"),
    (pacing.keep_rate, {"noise_rate": 1}, "at least 0 and below 1"),
    (pacing.keep_rate, {"noise_rate": -0.1}, "at least 0 and below 1"),
    (pacing.length_warm_up, {"min_length": 0, "max_length": 8}, "integer of at least 1"),
    (pacing.length_warm_up, {"min_length": 8, "max_length": 64.0}, "integer of at least 1"),
    (pacing.length_warm_up, {"min_length": 9, "max_length": 8}, "min_length to be at most"),
    (warm_up, {"step": 0}, "integer of at least 1"),
]


def test_a_bad_setting_is_named():
    for make, settings, expected in BAD:
        with pytest.raises(bw.PlanError, match=expected) as caught:
            make(**settings)
        assert any(f"{value!r}" in str(caught.value) for value in settings.values()) or (
            "2 levels, 2 in until" in str(caught.value)
        )


@pytest.mark.parametrize(
    "progress",
    [-0.1, [0, -1e-9], NAN, [0.5, NAN], -INF, None, "0.5", [True], 1j, [[0], [0, 1]], ["a"]],
)
def test_progress_that_is_none_is_refused(progress):
    functions = [pacing.root(), pacing.constant(), pacing.keep_rate(0.2), varied(), warm_up()]
    functions += [pacing.baby_step(), pacing.single_step(), pacing.discrete((1,), until=())]
    for function in functions:
        with pytest.raises(bw.PlanError, match="progress"):
            function(progress)


def test_the_message_says_what_was_given_and_what_is_expected():
    with pytest.raises(bw.PlanError) as caught:
        pacing.root()([0.5, -0.25])
    assert str(caught.value) == (
        "progress -0.25: expected 0 or more, what was consumed ÷ the horizon."
    )


def test_settings_become_plain_values():
    function = pacing.polynomial(np.int64(2), start=np.float64(0.25), reach=Fraction(1, 2))
    assert repr(function) == "polynomial(p=2, start=0.25, reach=0.5)"
    assert function == pacing.polynomial(2.0, start=0.25, reach=0.5)
    listed = pacing.discrete(np.array([0.5, 1.0]), until=[0.25])
    assert repr(listed) == "discrete(levels=(0.5, 1.0), until=(0.25,))"
    assert len({listed, pacing.discrete((0.5, 1), until=(0.25,))}) == 1
    assert repr(pacing.length_warm_up(np.int32(8), 64)).startswith("length_warm_up(min_length=8,")


def test_functions_of_other_names_or_settings_are_other_values():
    assert pacing.linear(start=0.2) != pacing.linear(start=0.3)
    assert pacing.step() != pacing.single_step()


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        pacing.root().p = 3


def test_progress_is_left_as_it_was():
    progress = np.array([0.0, 0.5, 7.0])
    for function in (pacing.constant(), pacing.linear(), pacing.keep_rate(0.1)):
        function(progress)
    assert progress.tolist() == [0.0, 0.5, 7.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8])
def test_progress_may_have_any_type_of_number(dtype):
    progress = np.array([0, 1, 2], dtype=dtype)
    assert pacing.linear(start=0.5)(progress).tolist() == [0.5, 1.0, 1.0]


def test_settings_at_the_edge_of_floats_give_no_warning():
    tiny, huge = 5e-324, 1.7e308
    progress = [0, tiny, 0.5, 1, huge]
    edges = [
        pacing.linear(start=tiny, reach=tiny),
        pacing.root(p=huge, reach=huge),
        pacing.polynomial(huge, start=tiny),
        pacing.polynomial(tiny, start=tiny),
        pacing.fixed_exponential(start=tiny, increase=huge, step_length=tiny),
        pacing.fixed_exponential(increase=huge, step_length=1e-3),
        pacing.varied_exponential((tiny, 0.5), start=1, increase=huge),
        pacing.difficulty_root(tiny, start=tiny),
        pacing.geometric(start=tiny, reach=tiny),
        pacing.baby_step(2**53 - 1, reach=tiny),
        pacing.polynomial(10**300),
    ]
    for function in edges:
        share = function(progress)
        assert ((share > 0) & (share <= 1)).all(), function
