"""Trials of what is learnt: judged at equal metric, within their seconds, thrown away."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from batchwright.advise import Gain, LearningTrial, Untried  # noqa: E402
from batchwright.advise.learning_trials import (  # noqa: E402
    ALONE,
    LEAST_SHARE,
    MOST_SEEDS,
    SEEDS,
    _learning_trial,
    _plan,
    least_seconds,
    run_learning_trials,
)
from batchwright.compare import Strategy  # noqa: E402
from batchwright.compare.arm import Evaluation, Spent  # noqa: E402
from batchwright.compare.race import Outcome  # noqa: E402
from tests.compare.conftest import make_task  # noqa: E402
from tests.work_clock import install  # noqa: E402


def outcome(name, metrics, seconds_each, failed_after=None):
    evaluations = tuple(
        Evaluation(100 * place, seconds_each * place, metric)
        for place, metric in enumerate(metrics)
    )
    spent = Spent(tokens=evaluations[-1].tokens)
    return Outcome(name, "fp32", spent, metrics[-1], evaluations, None, None, failed_after)


def found(ratio, low=None, high=None, *, least=None, most=None):
    gain = Gain(ratio, low, high, "as fast")
    runs = 1 if low is None else 3
    return LearningTrial(
        "other", 0.5, runs, gain, ratio if least is None else least, most or ratio, 0.0
    )


@pytest.mark.parametrize("higher", [False, True])
def test_the_same_metrics_in_half_the_time_are_twice_as_fast(higher):
    task = make_task(better="higher" if higher else "lower")
    metrics = [sign * each for sign in [-1 if higher else 1] for each in (10, 8, 7, 6, 5, 4)]
    run = [outcome("first", metrics, 2.0), outcome("other", metrics, 1.0)]
    trial = _learning_trial(1, [run, run, run], 0.5, task)
    assert trial.sooner.ratio == pytest.approx(2.0)
    assert (trial.least, trial.most, trial.gain) == (pytest.approx(2.0), pytest.approx(2.0), 0.0)
    assert trial.runs == 3


def test_one_that_never_arrives_is_never_sooner():
    run = [
        outcome("first", [10, 8, 7, 6, 5, 4], 1.0),
        outcome("other", [10, 10, 10, 10, 10, 10], 1.0),
    ]
    trial = _learning_trial(1, [run], 1.0, make_task())
    assert trial.most <= 1.0
    assert trial.gain == -6
    assert trial.sooner.low is None  # of one run


def test_where_nothing_is_learnt_nothing_is_said():
    run = [outcome("first", [10, 11, 12, 11, 12, 11], 1.0), outcome("other", [10] * 6, 0.5)]
    assert _learning_trial(1, [run], 1.0, make_task()) == Untried("other", "progress")


def test_where_a_loss_is_not_finite_that_is_said():
    metrics = [10, 8, 7, 6, 5, 4]
    run = [outcome("first", metrics, 1.0), outcome("other", metrics, 1.0, failed_after=3)]
    assert _learning_trial(1, [run], 1.0, make_task()) == Untried("other", "failure")


def test_what_is_reached_and_lost_again_is_not_held():
    run = [
        outcome("first", [10, 9, 8, 7, 6, 5], 1.0),
        outcome("other", [10, 5, 5, 5, 5, 9], 1.0),
    ]
    trial = _learning_trial(1, [run] * 3, 1.0, make_task())
    assert not trial.held
    assert trial.least <= 1.0
    assert trial.verdict != "use"


def test_what_arrives_a_little_after_the_end_of_the_run_counts():
    first = outcome("first", [10, 8, 7, 6, 5, 4], 2.0)
    other = outcome("other", [10, 8.4, 7.4, 6.4, 5.4, 4.4, 4.0, 4.0], 1.0)
    other = replace(other, spent=first.spent)
    trial = _learning_trial(1, [[first, other]] * 3, 1.0, make_task())
    assert trial.gain == pytest.approx(-0.4)  # after the same tokens
    assert trial.held
    assert 1.4 < trial.least <= trial.most < 2.0


def test_an_arm_that_ends_early_is_no_sooner_if_it_never_arrives():
    run = [
        outcome("first", [10, 8, 7, 6, 5, 4], 1.0),
        outcome("other", [10, 10, 10, 10, 10, 10], 0.1),
    ]
    assert _learning_trial(1, [run], 1.0, make_task()).most <= 1.0


@pytest.mark.parametrize(
    ("trial", "verdict"),
    [
        (found(1.2, 1.1, 1.3), "use"),
        (found(1.2, 0.9, 1.5), "cannot tell"),
        (found(1.01, 1.0, 1.02), "do not use"),
        (found(0.8, 0.7, 0.9), "do not use"),
        (found(ALONE, least=1.1), "use"),
        (found(ALONE, least=0.9), "cannot tell"),
        (found(1.1, least=1.05), "cannot tell"),  # seeds differ by as much
        (found(0.7, most=0.9), "do not use"),
    ],
)
def test_verdicts_ask_more_of_one_run(trial, verdict):
    assert trial.verdict == verdict


@pytest.mark.parametrize(("seconds", "fixed"), [(1.0, 0.0), (50.0, 2.0), (500.0, 2.0)])
def test_what_is_planned_fits_into_the_seconds(seconds, fixed):
    seeds, share = _plan(seconds, 40.0, fixed)
    assert 0 <= share <= 1
    assert seeds * (share * 40.0 + fixed) <= max(seconds, seeds * fixed) + 1e-9
    assert 1 <= seeds <= MOST_SEEDS


@pytest.mark.slow
def test_a_strategy_that_ends_behind_trains_a_little_longer(monkeypatch):
    task = make_task(epochs=2)
    seen = []
    monkeypatch.setattr(
        "batchwright.advise.learning_trials._learning_trial",
        lambda place, runs, *_: seen.append([each[place] for each in runs]),
    )
    options = {"step_tokens": 4 * task.step_tokens}  # a quarter of the updates
    fewer = Strategy("fewer", kind="planned", options=options)
    run_learning_trials(
        task,
        [Strategy.named("planned"), fewer],
        updates=10**6,
        run_seconds=[1.0, 1.0],
        evaluation_seconds=0.001,
    )
    assert len(seen[0]) == SEEDS
    for each in seen[0]:
        assert each.evaluations[-1].tokens > each.spent.tokens


@pytest.mark.slow
def test_short_runs_are_run_in_turns_and_leave_no_trace():
    task = make_task(epochs=4, difficulties={"length": lambda: task.sizes})
    names = ("planned", "planned+curriculum:length")
    before = torch.random.get_rng_state()
    seen = []
    trials = run_learning_trials(
        task,
        [Strategy.named(each) for each in names],
        updates=30,
        run_seconds=[2.0, 2.0],
        evaluation_seconds=0.001,
        watch=seen.append,
    )
    assert torch.equal(before, torch.random.get_rng_state())
    (trial,) = trials
    assert trial.name == names[1]
    assert trial.least <= trial.sooner.ratio <= trial.most
    assert 0 < max(seen) <= 1


@pytest.mark.slow
def test_nothing_goes_on_after_its_seconds(monkeypatch):
    clock = install(monkeypatch)
    task = make_task(epochs=10_000)
    trials = run_learning_trials(
        task,
        [Strategy.named("plain"), Strategy.named("planned")],
        seconds=2.0,
        run_seconds=[1.0, 1.0],  # a run takes much longer
        evaluation_seconds=0.001,
    )
    (untried,) = trials
    assert untried.reason == "time"
    assert untried.needed > 2.0
    assert 2.0 < clock.now < 3.0  # an update takes less than a second, in work


def test_a_run_that_would_be_too_short_is_not_begun():
    task = make_task()
    tried = run_learning_trials(
        task,
        [Strategy.named("plain"), Strategy.named("planned")],
        seconds=1.0,
        run_seconds=[100.0, 100.0],
        evaluation_seconds=0.0,
    )
    (untried,) = tried
    assert (untried.name, untried.reason) == ("planned", "time")
    assert 2 * 100 * LEAST_SHARE < untried.needed < 100


def test_the_least_time_counts_each_strategy_at_its_own_speed():
    assert least_seconds([90.0, 30.0], 0.0) == pytest.approx(120 * LEAST_SHARE / 0.9)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1e4, (MOST_SEEDS, 1.0)), (140.0, (SEEDS, 1.0)), (60.0, (SEEDS, 0.45))],
)
def test_seeds_come_before_long_runs(seconds, expected):
    seeds, share = _plan(seconds, 40.0, 0.0)
    assert (seeds, share) == (expected[0], pytest.approx(expected[1]))
