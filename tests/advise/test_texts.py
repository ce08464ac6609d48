"""What a first user found `advise` to say against its own figures."""

from dataclasses import replace

import numpy as np
import pytest

from batchwright.advise import (
    Evidence,
    Gain,
    Hardware,
    LearningTrial,
    NoiseEstimate,
    Untried,
    advise,
    configuration,
    headline,
    profile_data,
    profile_labels,
    snippet,
)
from batchwright.advise.evidence import Mix
from batchwright.advise.machine import Range, agreeing
from batchwright.report.advised import _machine
from batchwright.stats.dial import DialPosition
from tests.advise.test_advise import CPU, GPU, trial, trials

LENGTHS = np.clip(np.random.default_rng(0).lognormal(5, 1, 2_000), 1, 1_000).astype(int)


@pytest.fixture(scope="module")
def data():
    return profile_data(LENGTHS, max_tokens=8_000)


@pytest.fixture(scope="module")
def equal():
    return profile_data(np.full(100, 64))


def given(evidence):
    return {each.technique: each for each in advise(evidence)}


def with_padding(data, **padding):
    return replace(data, efficiency={kind: 1 - share for kind, share in padding.items()})


@pytest.mark.parametrize("hardware", [None, CPU, GPU])
def test_packing_with_much_to_save_is_not_called_little(data, hardware):
    known = with_padding(data, plain=0.9, planned=0.716, packed=0.0)
    packing = given(Evidence(known, hardware))["packing"]
    assert packing.verdict == "cannot tell"
    assert "little" not in packing.why + packing.short
    assert packing.gain.ratio == pytest.approx(3.52, abs=0.01)


def test_packing_that_masks_cost_again_promises_nothing(data):
    known = with_padding(data, plain=0.9, planned=0.3, packed=0.0)
    packing = given(Evidence(known, CPU))["packing"]
    assert (packing.verdict, packing.gain) == ("do not use", None)
    assert "1.43 times the share of real tokens does not make up for that" in packing.why


@pytest.mark.parametrize(("dispersion", "said"), [(0.9, "as evenly"), (3.95, "less evenly")])
def test_updates_mix_as_the_dial_says(data, dispersion, said):
    dial = (
        DialPosition("stratified", 8, 80, 0.99, dispersion),
        DialPosition(64, 8, 80, 0.9, 0.5),
    )
    why = given(Evidence(replace(data, dial=dial)))["other tokens per update"].why
    assert said in why
    assert f"{dispersion:.2f}" in why
    assert ("mixing=64 has 0.50, at 10.0 % padding instead of 1.0 %" in why) == (dispersion > 1)


def test_equal_lengths_are_not_mixed(equal):
    for evidence in (Evidence(equal, CPU), Evidence(equal, CPU, step_tokens=512)):
        for advice in advise(evidence):
            assert "mix " not in advice.why
            assert "TokenBudget" not in str(advice.settings)
    first = headline(Evidence(equal, CPU), advise(Evidence(equal, CPU)))
    assert "all samples have the same length" in first.text


def test_a_task_without_time_is_not_sent_to_a_task(data):
    untried = {
        name: Untried(name, "time", 340.0, 120.0)
        for name in ("speed", "curriculum", "half", "twice", "model")
    }
    evidence = Evidence(data, CPU, step_tokens=4_000, epochs=3, untried=untried)
    advice = given(evidence)
    for technique in ("dynamic batching", "mixed precision", "curriculum"):
        assert "--seconds 340" in advice[technique].untested
    said = "There was no time: trials need about 340 s, and had 120 (--seconds 340)."
    assert said in advice["other tokens per update"].why
    assert said in advice["a larger memory budget"].why
    assert not any("on a task" in each.untested for each in advice.values())
    assert headline(evidence, list(advice.values())).then.endswith("--seconds 340")


def test_what_short_runs_need_is_said_first(data):
    fast = trials(trial("plain", 1.0), trial("planned", 2.0))
    untried = {
        "curriculum": Untried("curriculum", "time", 140.0, 25.0),
        "half": Untried("half", "time", 460.0, 25.0),
    }
    evidence = Evidence(data, CPU, fast, step_tokens=4_000, untried=untried)
    detail = headline(evidence, advise(evidence)).detail
    said = "Measured on 3 updates of each strategy. Trials of what is learnt need --seconds 460."
    assert detail == said


def test_what_is_published_is_not_called_measured(data):
    slow = trials(trial("plain", 1.0), trial("planned", 0.9))
    evidence = Evidence(data, CPU, slow, step_tokens=4_000, labels=noisy(0.3, 0.25, 0.35))
    first = headline(evidence, advise(evidence))
    assert first.techniques == ("self-paced",)
    assert first.detail.startswith("Published: 1.04 × the accuracy of early stopping")


def test_nothing_is_compared_with_itself(data):
    slow = trials(trial("plain", 1.0), trial("planned", 0.9), trial("planned+bf16", 0.8, "bf16"))
    evidence = Evidence(data, CPU, slow, step_tokens=4_000)
    advice = advise(evidence)
    first = headline(evidence, advice)
    assert configuration(advice) == "plain"
    assert first.then == ""
    assert first.verdict == "do not use"
    assert first.text.startswith("Nothing here is worth a change: in planned batches, padding")


def test_what_is_open_is_no_reason_to_do_nothing(data):
    slow = trials(trial("plain", 1.0), trial("planned", 0.9))
    short = LearningTrial("curriculum", 0.7, 1, Gain(1.16, None, None, "as fast"), 1.1, 1.2, 0.0)
    evidence = Evidence(data, CPU, slow, step_tokens=4_000, learning={"curriculum": short})
    first = headline(evidence, advise(evidence))
    assert first.verdict == "cannot tell"
    assert "by length: 1.16 × as fast to the same metric in short runs" in first.text


def test_several_gains_of_short_runs_are_told_apart(data):
    fast = trials(trial("plain", 1.0), trial("planned", 2.0))
    short = LearningTrial("x", 0.7, 3, Gain(1.5, 1.2, 1.9, "as fast"), 1.2, 1.9, 0.0)
    learning = {"curriculum": short, "half": short}
    evidence = Evidence(data, CPU, fast, step_tokens=4_000, learning=learning)
    text = headline(evidence, advise(evidence)).text
    assert "by length: 1.50 ×" in text
    assert "2,000 instead of 4,000: 1.50 ×" in text


def test_what_intervals_leave_open_is_not_decided(data):
    wide = replace(trial("planned", 1.2), speed=Gain(1.2, 0.9, 1.6, "the tokens per second"))
    advice = given(Evidence(data, CPU, trials(trial("plain", 1.0), wide), step_tokens=4_000))
    assert advice["dynamic batching"].verdict == "cannot tell"


def noisy(rate, low, high, *, doubt=""):
    noise = NoiseEstimate(rate, low, high, 400, 1 - rate, 0.25, not doubt, doubt)
    return replace(profile_labels(np.arange(400) % 4), noise=noise, noise_unknown="")


@pytest.mark.parametrize(
    ("labels", "is_clean"),
    [(noisy(0.3, 0.25, 0.35), False), (noisy(0.1, 0.07, 0.13), False), (noisy(0.0, 0, 0.02), True)],
)
def test_labels_are_called_clean_where_they_are(data, labels, is_clean):
    for known in (data, profile_data(np.full(100, 64))):
        why = given(Evidence(known, labels=labels))["curriculum"].why
        assert ("clean" in why) == is_clean


def test_the_headline_says_what_both_are_worth_together(data):
    fast = trials(trial("plain", 1.0), trial("planned", 1.9), trial("planned+bf16", 3.1, "bf16"))
    evidence = Evidence(data, CPU, fast, step_tokens=4_000)
    first = headline(evidence, advise(evidence))
    before, after = (100 * (1 - data.efficiency[kind]) for kind in ("plain", "planned"))
    assert first.text == (
        f"Switch to planned batches and train in bf16: {before:.1f} % → {after:.1f} % padding, "
        "3.1 × as many real tokens a second on your task."
    )
    assert first.gain.ratio == pytest.approx(3.1)
    assert first.then.endswith("--strategies plain,planned+bf16")


def test_products_are_a_range_or_are_not_mentioned(data):
    assert agreeing([0.86, 2.13]) is None
    assert agreeing([0.98, 1.2]) is None
    assert agreeing([2.1, 22.4]) is None
    assert agreeing([1.4, 1.7, 2.1]) == Range(1.4, 2.1)
    for ratios, said in (({}, ""), ({512: Range(1.4, 2.1)}, "1.4 – 2.1 × the speed at width 512")):
        machine = Hardware("cpu", "a processor", None, None, {"bf16": ratios})
        why = given(Evidence(data, machine))["mixed precision"].why
        assert said in why
        assert ("over fp32" in why) == bool(ratios)


def test_the_table_of_the_machine_has_only_what_was_measured():
    speeds = {"bf16": {512: Range(1.4, 2.1)}, "fp16": {128: Range(0.25, 0.5)}, "tf32": {}}
    machine = Hardware("cuda", "a card", None, None, speeds)
    assert _machine(machine).rows == [
        {"type": "bf16", "at width 128": "", "at width 512": "1.4 – 2.1 ×"},
        {"type": "fp16", "at width 128": "0.25 – 0.5 ×", "at width 512": ""},
    ]


def learnt(name, ratio, *, held=True):
    gain = Gain(ratio, 0.9 * ratio, 1.1 * ratio, "as fast to the same loss")
    return LearningTrial(name, 1.0, 3, gain, 0.9 * ratio, 1.1 * ratio, 0.0, held=held)


UNLIKE = {
    "planned": Mix("planned", 1, 8_000, 31.5, 0.99),
    "mixed": Mix("mixed", 8, 1_000, 0.9, 0.97),
}


@pytest.mark.parametrize(
    ("ratios", "verdict", "strategy"),
    [
        ({"planned": 0.7, "mixed": 1.6}, "use", "mixed"),
        ({"planned": 2.4, "mixed": 1.6}, "use", "planned"),
        ({"planned": 0.7, "mixed": 0.8}, "do not use", "plain"),
        ({"planned": 0.7, "mixed": 1.05}, "cannot tell", "plain"),
        ({}, "cannot tell", "plain"),
    ],
)
def test_speed_alone_is_not_advised_where_updates_are_unlike(data, ratios, verdict, strategy):
    speeds = trials(trial("plain", 1), trial("planned", 3), trial("mixed", 2))
    evidence = Evidence(
        data,
        CPU,
        trials=speeds,
        step_tokens=8_000,
        mixes=UNLIKE,
        learning={name: learnt(name, ratio) for name, ratio in ratios.items()},
        untried={} if ratios else {name: Untried(name, "time", 340.0) for name in UNLIKE},
    )
    dynamic = given(evidence)["dynamic batching"]
    assert dynamic.verdict == verdict
    assert configuration(advise(evidence)) == strategy
    assert "speed and mix conflict" in dynamic.why
    assert "31.50" in dynamic.why
    assert "0.90, at 3.0 % padding" in dynamic.why
    code = snippet(advise(evidence), data, step_tokens=8_000)
    assert (".resized(1, 8)" in code) == (strategy == "mixed")
    if not ratios:
        assert "--seconds 340" in dynamic.why


def measured(name, ratio):
    found = trial(name, ratio)
    return replace(found, speed=replace(found.speed, low=0.9 * ratio, high=1.05 * ratio))


@pytest.mark.parametrize(
    ("speeds", "learning", "verdict"),
    [
        ({"planned": 1.5, "mixed": 0.5}, {"planned": 1.4}, "use"),
        ({"planned": 1.5, "mixed": 0.5}, {"planned": 0.7}, "do not use"),
        ({"planned": 1.5, "mixed": 0.5}, {}, "cannot tell"),
        ({"planned": 0.9, "mixed": 0.5}, {}, "do not use"),
    ],
)
def test_batches_of_a_better_mix_that_are_slower_need_no_trial(data, speeds, learning, verdict):
    evidence = Evidence(
        data,
        CPU,
        trials=trials(trial("plain", 1), *(measured(*each) for each in speeds.items())),
        step_tokens=8_000,
        mixes=UNLIKE,
        learning={name: learnt(name, ratio) for name, ratio in learning.items()},
        untried={} if learning else {"planned": Untried("planned", "time", 340.0)},
    )
    dynamic = given(evidence)["dynamic batching"]
    assert dynamic.verdict == verdict
    if verdict == "cannot tell":
        assert "--seconds 340" in dynamic.why


def test_a_time_to_the_same_metric_and_a_speed_are_said_apart(data):
    speeds = trials(
        *(trial("plain", 1), trial("planned", 1.2), trial("mixed", 0.7)),
        trial("mixed+bf16", 0.99, "bf16"),
    )
    evidence = Evidence(
        data,
        CPU,
        trials=speeds,
        step_tokens=8_000,
        mixes=UNLIKE,
        learning={"planned": learnt("planned", 0.7), "mixed": learnt("mixed", 1.6)},
    )
    said = headline(evidence, advise(evidence)).text
    assert "0.99" not in said
    assert "1.6 × as fast to the same loss on your task, 1.4 × the real tokens per second" in said
