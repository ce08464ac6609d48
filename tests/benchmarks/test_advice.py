"""Advice beside the truth: what is called slower, and what near the fastest."""

import pytest

from benchmarks.advice import arrived, beside, judged, total, verdict
from benchmarks.template_gain import Seen


def summary(name, mean, **others):
    time = None if mean is None else {"mean": mean, "low": None, "high": None, "values": [mean]}
    speed = {"values": [1.0]}
    counts = {"never": int(mean is None), "lost": 0}
    return {"name": name, "precision": "fp32", "time": time, "speed": speed, **counts, **others}


def row(advised, *arms):
    truth = {
        "strategies": [{"name": each["name"]} for each in arms],
        "summary": [*arms, summary("dense limit", None)],
    }
    advice = {"advice": [], "strategy": advised, "price": {}, "learning": {}, "trials": []}
    return {"application": "a_job"} | beside(advice, truth)


@pytest.mark.parametrize(
    ("mean", "slower", "near"),
    [(0.5, False, True), (0.56, False, False), (1.03, False, False), (1.04, True, False)],
)
def test_what_is_advised_is_beside_the_baseline_and_the_fastest(mean, slower, near):
    arms = (summary("plain", 1.0), summary("planned", mean), summary("grouped", 0.5))
    found = row("planned", *arms)
    assert (found["arm"], found["best_time"]["mean"]) == ("planned", 0.5)
    assert judged(found) == {"slower": slower, "near": near}


def test_what_never_gets_there_is_slower():
    found = row("planned", summary("plain", 1.0), summary("planned", None))
    found |= judged(found)
    assert found["slower"]
    assert not found["near"]
    assert verdict(found) == "a job: planned, never: SLOWER"
    assert total([found]).startswith("Slower than the baseline: 1 of 1.")


def test_an_arm_that_the_truth_lacks_is_known_to_be_lacking():
    found = row("planned+bf16", summary("plain", 1.0), summary("planned", 0.5))
    assert found["arm"] is None
    assert found["said"] == "not run"
    assert arrived(summary("advised", 0.4), found["best_time"])["over_best"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("speed", "time", "shows"),
    [(1.6, 0.7, True), (1.4, 0.7, False), (1.6, 0.8, False), (1.6, None, False)],
)
def test_a_gain_shows_in_speed_and_in_time(speed, time, shows):
    seen = Seen(0, 1.0, speed=speed, time=time, computed=time, gain=0.0, padding=(0.5, 0.0))
    assert seen.shows == shows
