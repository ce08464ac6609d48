"""Each function against values worked by hand, in the comment or in the literal."""

import math

import numpy as np
import pytest

from batchwright import pacing

WORKED = [
    (pacing.constant(), [0, 0.3, 1], [1, 1, 1]),
    (pacing.constant(0.6), [0, 0.3, 1], [0.6, 0.6, 0.6]),
    # 0.2 + 0.8 × (0, 0.25, 0.5, 1)
    (pacing.linear(start=0.2), [0, 0.25, 0.5, 1], [0.2, 0.4, 0.6, 1]),
    (pacing.linear(start=0.2, reach=0.5), [0, 0.25, 0.5, 1], [0.2, 0.6, 1, 1]),
    # √(0.36 + 0.64 × 0.4375) = √0.64
    (pacing.root(p=2, start=0.6), [0, 0.4375, 1], [0.6, 0.8, 1]),
    (pacing.root(p=2, start=0.6, reach=0.5), [0, 0.21875, 0.5], [0.6, 0.8, 1]),
    # ∛(0.125 + 0.875 × 0.387/0.875) = ∛0.512
    (pacing.root(p=3, start=0.5), [0, 0.387 / 0.875, 1], [0.5, 0.8, 1]),
    # 0.2 + 0.8 × √0.25;  0.2 + 0.8 × 0.5²
    (pacing.polynomial(p=0.5, start=0.2), [0, 0.25, 1], [0.2, 0.6, 1]),
    (pacing.polynomial(p=2, start=0.2), [0, 0.5, 1], [0.2, 0.4, 1]),
    (pacing.polynomial(p=2, start=0.2, reach=0.8), [0.4, 0.8, 0.9], [0.4, 1, 1]),
    # 1 / 1.6 of the way: 0.2 + 0.8 × 0.625
    (pacing.polynomial(p=1, start=0.2, reach=1.6), [1, 2], [0.7, 0.7]),
    # (e^5 − 1)/(e^10 − 1) = 1/(e^5 + 1) = 0.00669285092
    (pacing.exponential(start=0.2), [0, 0.5, 1], [0.2, 0.205354280739, 1]),
    # ln 0.1 = −2.30258509, ln(1 + 10·e^−10) = 0.00045389627: 0.2 + 0.8 × (1 − 0.230213119667)
    (pacing.logarithmic(start=0.2), [0, 0.1, 1], [0.2, 0.815829504266, 1]),
    (pacing.step(start=0.3, reach=0.4), [0, 0.39, 0.4, 1], [0.3, 0.3, 1, 1]),
    (pacing.step(start=0.3, reach=1.6), [0, 1], [0.3, 0.3]),
    (pacing.single_step(start=0.3, reach=0.4), [0, 0.39, 0.4, 1], [0.3, 0.3, 1, 1]),
    # 0.04 × 1.9^k: 1.9² = 3.61, 1.9³ = 6.859, 1.9⁵ = 24.76099
    (
        pacing.fixed_exponential(start=0.04, increase=1.9, step_length=0.1),
        [0, 0.1, 0.2, 0.3, 0.39, 0.5, 0.6, 1],
        [0.04, 0.076, 0.1444, 0.27436, 0.27436, 0.9904396, 1, 1],
    ),
    (
        pacing.varied_exponential((0.1, 0.15, 0.9), start=0.1, increase=3),
        [0, 0.1, 0.11, 0.15, 0.2, 0.9, 1],
        [0.1, 0.1, 0.3, 0.3, 0.9, 0.9, 1],
    ),
    (pacing.varied_exponential((), start=0.1), [0, 1], [0.1, 0.1]),
    # 0.01^(1 − u)
    (pacing.geometric(start=0.01), [0, 0.25, 0.5, 1], [0.01, 0.0316227766017, 0.1, 1]),
    (pacing.geometric(start=0.01, reach=0.5), [0.25, 0.5], [0.1, 1]),
    (pacing.baby_step(bins=4), [0, 0.24, 0.25, 0.5, 0.75, 1], [0.25, 0.25, 0.5, 0.75, 1, 1]),
    (pacing.baby_step(bins=4, reach=0.4), [0, 0.1, 0.2, 0.3, 1], [0.25, 0.5, 0.75, 1, 1]),
    (pacing.baby_step(bins=1), [0, 1], [1, 1]),
    (
        pacing.discrete((0.2, 0.5, 1), until=(0.3, 0.6)),
        [0, 0.3, 0.31, 0.6, 0.61, 1],
        [0.2, 0.2, 0.5, 0.5, 1, 1],
    ),
    (pacing.discrete((0.7,), until=()), [0, 1], [0.7, 0.7]),
    # 0.1 + 0.9 × √0.25 = 0.55 → 0.5;  0.1 + 0.9 × 0.7 = 0.73 → 0.7
    (pacing.difficulty_root(p=2, start=0.1, step=0.1), [0, 0.25, 0.49, 1], [0.1, 0.5, 0.7, 1]),
    # 0.1 + 0.9 × 0.5 = 0.55, 0.1 + 0.9 × 0.3 = 0.37, to percentiles
    (pacing.difficulty_root(p=1, start=0.1), [0.5, 0.3, 0.305], [0.55, 0.37, 0.37]),
    # 1 − 0.4 × (0, 0.5, 1, 1)
    (pacing.keep_rate(0.4, reach=0.1), [0, 0.05, 0.1, 1], [1, 0.8, 0.6, 0.6]),
    (pacing.keep_rate(0), [0, 1], [1, 1]),
]


def test_shares_are_those_worked_by_hand():
    for function, progress, expected in WORKED:
        worked = pytest.approx(np.array(expected, float), rel=1e-11)
        assert function(progress) == worked, function


def test_every_function_of_shares_was_worked_by_hand():
    names = {type(function).__name__ for function, *_ in WORKED}
    protocols = {"Pacing", "LengthPacing"}
    assert names == set(pacing.__all__) - protocols - {"length_warm_up"}


def test_lengths_are_those_worked_by_hand():
    # 22 ÷ 8 is 2 steps of 8 over half the horizon, and the rest of 6 with the last.
    warm_up = pacing.length_warm_up(8, 30, step=8, reach=0.5)
    assert warm_up([0, 0.24, 0.25, 0.49, 0.5, 1]).tolist() == [8, 8, 16, 16, 30, 30]


@pytest.mark.parametrize("num_steps", [7, 70, 91])
def test_a_warm_up_in_whole_updates_has_the_lengths_of_composer(num_steps):
    shortest, longest, step = 8, 64, 8
    every = num_steps // ((longest - shortest) // step)
    expected = [min(longest, step * (t // every) + shortest) for t in range(num_steps + 5)]
    warm_up = pacing.length_warm_up(shortest, longest, step=step, reach=1)
    assert warm_up([t / num_steps for t in range(num_steps + 5)]).tolist() == expected


@pytest.mark.parametrize("horizon", [10, 97, 1000, 30_000])
def test_whole_steps_are_those_of_integers(horizon):
    # 0.3 ÷ 0.1 is 2.9999999999999996: the third step would come a batch late.
    consumed = range(0, horizon + 1, max(1, horizon // 1000))
    progress = [t / horizon for t in consumed]
    every = max(1, horizon // 10)
    exponential = pacing.fixed_exponential(start=0.01, increase=1.5, step_length=every / horizon)
    expected = [min(1, 0.01 * 1.5 ** (t // every)) for t in consumed]
    assert exponential(progress) == pytest.approx(expected)
    bins = pacing.baby_step(bins=7)(progress)
    assert bins.tolist() == [min(7, t * 7 // horizon + 1) / 7 for t in consumed]


def test_root_becomes_linear_and_geometric():
    progress = np.linspace(0, 1, 101)
    linear = pacing.linear(start=0.05)(progress)
    assert pacing.root(p=1, start=0.05)(progress) == pytest.approx(linear)
    assert pacing.polynomial(p=1, start=0.05)(progress) == pytest.approx(linear)
    geometric = pacing.geometric(start=0.05)(progress)
    assert pacing.root(p=0.01, start=0.05)(progress) == pytest.approx(geometric, abs=0.01)


def test_with_a_square_root_new_samples_come_as_often_as_each_is_drawn():
    # dc/dt ∝ 1/c, so c·dc/dt is the same throughout.
    progress = np.linspace(0, 1, 1001)
    share = pacing.root(p=2, start=0.1)(progress)
    pace = (share[1:] + share[:-1]) / 2 * np.diff(share)
    assert pace == pytest.approx(np.full(1000, (1 - 0.01) / 2 / 1000))


def test_step_and_single_step_are_one_function():
    progress = np.linspace(0, 1.2, 601)
    for reach in (0.1, 0.3, 1 / 3, 1, 1.6):
        first = pacing.step(start=0.2, reach=reach)(progress)
        assert np.array_equal(first, pacing.single_step(start=0.2, reach=reach)(progress))


def test_an_exponential_share_is_late_and_a_logarithmic_one_early():
    exponential, logarithmic = pacing.exponential(start=0.1), pacing.logarithmic(start=0.1)
    assert float(exponential(0.9)) == pytest.approx(0.1 + 0.9 * math.exp(-1), rel=1e-3)
    assert float(logarithmic(math.exp(-1))) == pytest.approx(0.1 + 0.9 * 0.9, rel=1e-4)
