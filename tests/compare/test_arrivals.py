"""Reached and held: when a smoothed metric arrives at the baseline's final one, and stays."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.compare.arm import Evaluation
from batchwright.compare.arrivals import ALLOWED, SMOOTHED, arrival, reached, smoothed, target_of

RUN = 1_000


def curve(metrics, *, seconds=10.0, until=1.0):
    """Evaluations at equal shares of a run, or of a longer one."""
    last = len(metrics) - 1
    return [
        Evaluation(round(RUN * until * i / last), seconds * until * i / last, metric)
        for i, metric in enumerate(metrics)
    ]


def ratio(first, other, sign=1.0):
    target = target_of(first, tokens=RUN, sign=sign)
    ours, theirs = (arrival(each, target, tokens=RUN, sign=sign) for each in (first, other))
    return theirs and theirs.seconds / ours.seconds, theirs and theirs.held


LEARNS = [8.0, 6.0, 5.0, 4.4, 4.0, 3.7, 3.5, 3.35, 3.25, 3.2, 3.15]
HIGH = [-each for each in LEARNS]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_target_is_reached_between_evaluations(sign):
    seen = [Evaluation(100 * i, 10.0 * i, sign * m) for i, m in enumerate([5.0, 4.0, 4.5, 2.0])]
    assert reached(seen, sign * 4.5, sign=sign).seconds == 5.0
    assert reached(seen, sign * 3.0, sign=sign).tokens == pytest.approx(260)
    assert reached(seen, sign * 6.0, sign=sign).seconds == 0.0
    assert reached(seen, sign * 1.0, sign=sign) is None


@pytest.mark.parametrize("count", [4, 5, 10, 40])
def test_a_line_is_smoothed_to_the_same_line_later_however_often_it_was_evaluated(count):
    line = curve([10 - 5 * i / count for i in range(count + 1)])
    found = smoothed(line, tokens=RUN)
    half = SMOOTHED / 2
    for each in found:
        if each.tokens >= SMOOTHED * RUN:
            assert each.metric == pytest.approx(10 - 5 * (each.tokens / RUN - half), abs=0.01)
    assert found[0] == line[0]


def test_a_longer_run_with_more_evaluations_is_smoothed_over_as_many_tokens():
    line = curve([10 - 5 * i / 10 for i in range(11)])
    line += [Evaluation(RUN + 50 * i, 10.0 + 0.5 * i, 5 - 0.25 * i) for i in range(1, 6)]
    for each in smoothed(line, tokens=RUN)[-6:]:
        assert each.metric == pytest.approx(10 - 5 * (each.tokens / RUN - SMOOTHED / 2), abs=0.01)


@pytest.mark.parametrize(("metrics", "sign"), [(LEARNS, 1), (HIGH, -1)])
def test_an_arm_that_learns_the_same_in_half_of_the_time_needs_half_of_it(metrics, sign):
    assert ratio(curve(metrics), curve(metrics, seconds=5.0), sign) == (pytest.approx(0.5), True)
    assert ratio(curve(metrics), curve(metrics), sign) == (1.0, True)


@pytest.mark.parametrize(("sign", "of"), [(1, 1.0), (-1, -1.0)])
def test_a_single_good_evaluation_is_no_arrival(sign, of):
    touches = LEARNS[:3] + [3.0] + [5.0] * 7
    other = curve([of * each for each in touches])
    assert ratio(curve([of * each for each in LEARNS]), other, sign) == (None, None)


@pytest.mark.parametrize(("sign", "of"), [(1, 1.0), (-1, -1.0)])
def test_what_was_reached_and_lost_again_is_not_held(sign, of):
    loses = [8.0, 4.0, 3.0, 3.0, 3.0, 3.0, 3.0, 4.0, 4.5, 4.5, 4.5]
    time, held = ratio(
        curve([of * each for each in LEARNS]), curve([of * each for each in loses]), sign
    )
    assert time < 0.6
    assert held is False


def test_a_baseline_that_ends_worse_than_it_was_counts_from_where_it_first_was_as_good():
    overfits = [8.0, 5.0, 3.0, 3.0, 3.4, 3.6, 3.8, 4.0, 4.0, 4.0, 4.0]
    assert ratio(curve(overfits), curve(overfits, seconds=5.0))[0] == pytest.approx(0.5)


def test_nearly_as_good_is_as_good_for_both():
    plateau = [8.0, 3.0, *([2.0] * 9)]
    nearly = [8.0, 3.0, *([2.0 + 6.0 * ALLOWED * 0.9] * 9)]
    time, held = ratio(curve(plateau), curve(nearly))
    assert held is True
    assert 1.0 <= time < 1.3
    short = [8.0, 3.0, *([2.0 + 6.0 * ALLOWED * 1.1] * 9)]
    assert ratio(curve(plateau), curve(short)) == (None, None)


def test_a_given_target_is_the_target():
    target = target_of(curve(LEARNS), tokens=RUN, sign=1.0, wanted=5.0)
    assert target.metric == 5.0
    assert arrival(curve(LEARNS), target, tokens=RUN, sign=1.0).tokens < RUN / 2
    assert target_of([], tokens=RUN, sign=1.0, wanted=5.0).metric == 5.0
    assert target_of([], tokens=RUN, sign=1.0) is None


def test_metrics_that_are_no_numbers_are_left_out():
    for odd in (math.nan, math.inf, -math.inf):
        seen = [Evaluation(0, 0.0, odd), Evaluation(100, 10.0, 3.0)]
        assert [each.metric for each in smoothed(seen, tokens=100)] == [3.0]
        assert reached(seen, 4.0).seconds == 10.0
    assert smoothed([Evaluation(0, 0.0, math.nan)], tokens=100) == []


def test_an_update_that_reaches_two_evaluations_counts_once():
    doubled = [each for each in curve(LEARNS) for _ in range(2)]
    assert smoothed(doubled, tokens=RUN) == smoothed(curve(LEARNS), tokens=RUN)


@pytest.mark.parametrize("noise", [0.01, 0.03])
@pytest.mark.parametrize("steep", [8.0, 2.5])  # one has long stopped improving, one has not
def test_runs_that_differ_by_chance_alone_are_as_fast_and_nearly_all_arrive(steep, noise):
    rng, pairs = np.random.default_rng(0), 200
    places = np.concatenate([np.linspace(0, 1, 11), 1 + 0.05 * np.arange(1, 6)])
    logs, held = [], 0
    for _ in range(pairs):
        first, other = (
            [
                Evaluation(round(RUN * each), 10 * each, math.exp(-steep * each) + chance)
                for each, chance in zip(places, noise * rng.normal(size=places.size), strict=True)
            ]
            for _ in range(2)
        )
        target = target_of(first[:11], tokens=RUN, sign=1.0)
        ours = arrival(first[:11], target, tokens=RUN, sign=1.0)
        # An arm only goes on if it has not arrived.
        found = (arrival(other[:end], target, tokens=RUN, sign=1.0) for end in range(11, 17))
        theirs = next(filter(None, found), None)
        if theirs is not None:
            logs.append(math.log(theirs.seconds / ours.seconds))
            held += theirs.held
    assert held >= 0.8 * pairs
    assert abs(np.mean(logs)) < 0.04


metrics = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


@given(metrics, st.sampled_from([1.0, -1.0]), st.floats(0.1, 10))
def test_the_baseline_reaches_its_own_target_and_holds_it(values, sign, speed):
    first = curve(values)
    target = target_of(first, tokens=RUN, sign=sign)
    mine = arrival(first, target, tokens=RUN, sign=sign)
    assert mine is not None
    assert mine.held
    assert mine.seconds <= first[-1].seconds
    other = arrival(curve(values, seconds=10.0 / speed), target, tokens=RUN, sign=sign)
    assert other.seconds == pytest.approx(mine.seconds / speed)


@given(metrics, metrics, st.sampled_from([1.0, -1.0]))
def test_higher_is_better_is_lower_is_better_upside_down(ours, theirs, sign):
    first, other = curve(ours), curve(theirs)
    turned = [[Evaluation(e.tokens, e.seconds, -e.metric) for e in each] for each in (first, other)]
    target, flipped = (
        target_of(each, tokens=RUN, sign=of) for each, of in ((first, sign), (turned[0], -sign))
    )
    one = arrival(other, target, tokens=RUN, sign=sign)
    two = arrival(turned[1], flipped, tokens=RUN, sign=-sign)
    assert one == two


@given(metrics, metrics)
def test_what_is_held_was_reached_and_is_there_at_the_end(ours, theirs):
    first, other = curve(ours), curve(theirs)
    target = target_of(first, tokens=RUN, sign=1.0)
    found = arrival(other, target, tokens=RUN, sign=1.0)
    at = [each.metric for each in smoothed(other, tokens=RUN)]
    assert (found is not None) == (min(at) <= target.metric)
    if found is not None:
        assert found.held == (at[-1] <= target.held)
