"""The harness that the examples of curricula share: what is trained, and what is told of it."""

import math
from dataclasses import replace
from types import SimpleNamespace

import curriculum_training
import noisy_digits
import numpy as np
import pytest
import torch
from curriculum_report import paired, summarize, verdict
from curriculum_training import Arm, Run, learning_rate_at, train

import batchwright as bw
from batchwright.torch import LiveLosses

NUM_SAMPLES = 40


def job(seed: int = 0) -> noisy_digits.Job:
    drawn = torch.Generator().manual_seed(7)
    images = torch.rand(NUM_SAMPLES, 64, generator=drawn)
    samples = noisy_digits.Digits(images, np.arange(NUM_SAMPLES) % 10)
    return noisy_digits.Job(samples, samples.__getitems__(range(NUM_SAMPLES)), seed)


def planner(size: int = NUM_SAMPLES, order=None) -> bw.Planner:
    return bw.Planner(np.ones(size, dtype=np.int64), batching=bw.FixedSize(8), order=order)


def silent(run: Run) -> None: ...


def test_gains_are_paired_students_t_by_hand():
    # Differences 1, 2, 3, 6 points: mean 3, standard deviation sqrt(14/3); t(3, 97.5 %) = 3.18245.
    gain = paired([0.51, 0.62, 0.73, 0.86], [0.50, 0.60, 0.70, 0.80])
    half = 3.182446305 * math.sqrt(14 / 3) / 2
    assert gain.mean == pytest.approx(3)
    assert (gain.low, gain.high) == pytest.approx((3 - half, 3 + half), abs=1e-6)
    assert (gain.better, gain.seeds) == (4, 4)
    assert str(gain) == f"+3.0 [{3 - half:.1f}, {3 + half:.1f}] 4/4"


def test_pairing_sees_what_two_unpaired_means_would_not():
    others = np.linspace(0.2, 0.9, 8)
    gain = paired(others + 0.01 + 0.001 * np.sin(np.arange(8)), others)
    assert gain.low > 0.9
    assert gain.high < 1.2


def test_one_seed_has_no_interval_and_equal_differences_a_point():
    assert paired([0.5], [0.4]).low is None
    same = paired([0.5, 0.75], [0.25, 0.5])
    assert (same.low, same.high) == (25, 25)


def result(*accuracies: float) -> SimpleNamespace:
    return SimpleNamespace(accuracies=accuracies)


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ((0.61, 0.62, 0.60), "10.7 points above"),
        ((0.41, 0.42, 0.40), "9.3 points BELOW"),
        ((0.60, 0.40, 0.50), "do not differ as far as seeds show"),
    ],
)
def test_a_verdict_follows_from_the_interval(accuracies, expected):
    results = {"new": result(*accuracies), "old": result(0.5, 0.51, 0.5)}
    assert expected in verdict(results, "new", "old")


def test_a_verdict_of_one_seed_says_so():
    assert "one seed" in verdict({"new": result(0.6), "old": result(0.5)}, "new", "old")


def test_the_learning_rate_falls_to_nothing():
    rates = [learning_rate_at(done / 100) for done in range(101)]
    assert rates[0] == 1
    assert rates[-1] == 0
    assert (np.diff(rates) < 0).all()


def test_arms_take_equal_steps_from_equal_weights():
    easiest = bw.Curriculum(np.arange(40), band=(0, 0.5), pacing=bw.pacing.constant())
    arms = [
        Arm("uniform", planner(), num_updates=13),
        Arm("again", planner(), num_updates=13),
        Arm("half", planner(order=easiest), num_updates=13),
    ]
    runs = train(job(), arms, silent)
    assert [run.arm.name for run in runs] == ["uniform", "again", "half"]
    assert {run.num_updates for run in runs} == {13}
    uniform, again, half = runs
    assert uniform.accuracy == again.accuracy
    np.testing.assert_array_equal(uniform.drawn, again.drawn)
    assert uniform.drawn.sum() == uniform.num_tokens == uniform.padded_tokens == 13 * 8
    # Two epochs, and the three updates of a third one.
    assert set(uniform.drawn) == {2, 3}
    assert half.drawn[20:].sum() == 0


def test_first_weights_depend_on_the_seed_alone():
    first, again, other = (job(seed).model()[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_live_losses_are_those_of_each_draw_once():
    table = bw.LossTable(NUM_SAMPLES)
    recorded = []
    live = LiveLosses(table, every=1)
    record = table.record
    table.record = lambda indices, losses: (
        recorded.append(np.size(indices)),
        record(indices, losses),
    )
    order = bw.SelfPaced(table, noise_rate=0.25, warm_up=1, epochs=1, reserve=0.0)
    (run,) = train(job(), [Arm("live", planner(order=order), num_updates=10, live=live)], silent)
    assert sum(recorded) == run.drawn.sum()
    assert not np.isnan(table.losses).any()
    # One epoch of everything, then one without a quarter.
    assert (run.drawn == 1).sum() == 10


def test_early_stop_goes_back_to_the_best_weights(monkeypatch):
    shares = iter([0.3, 0.6, 0.6, 0.2, 0.9])
    seen = []

    def share_right(job, model, batch):
        seen.append(next(shares))
        weights.append(model[0].weight.clone())
        return seen[-1]

    weights: list[torch.Tensor] = []
    monkeypatch.setattr(curriculum_training, "share_right", share_right)
    held_out = job().samples.__getitems__(range(10))
    members = np.arange(10, 40)
    arm = Arm(
        "stop",
        planner(30),
        num_updates=20,
        members=members,
        validation=held_out,
        evaluate_every=5,
    )
    (run,) = train(job(), [arm], silent)
    assert seen == [0.3, 0.6, 0.6, 0.2, 0.9]  # the last one is the test
    assert run.best == (0.6, 10)  # of equals, the first
    assert torch.equal(weights[-1], weights[1])
    assert not torch.equal(weights[-1], weights[3])
    assert run.drawn[:10].sum() == 0
    assert set(run.drawn[10:]) == {5}


def test_summaries_compare_by_name_and_count_right_labels():
    arms = [Arm("uniform", planner(), num_updates=10), Arm("other", planner(), num_updates=5)]
    arms[1] = replace(arms[1], scoring_seconds=3.0)
    seeds = [train(job(seed), arms, silent) for seed in (0, 1)]
    clean = [np.arange(NUM_SAMPLES) < 10] * 2
    results = summarize(seeds, ("uniform",), clean)
    assert results["uniform"].gains == {}
    assert results["uniform"].clean_share == [0.25, 0.25]
    assert results["uniform"].cost == 1
    assert results["other"].cost > 1
    assert results["other"].num_updates == [5, 5]
    assert results["other"].stopped_after is None
    assert results["other"].gains["uniform"] == paired(
        [runs[1].accuracy for runs in seeds], [runs[0].accuracy for runs in seeds]
    )
