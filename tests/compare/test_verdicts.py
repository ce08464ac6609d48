"""Verdicts and the headline of a comparison; random results are in `tests.stress.verdicts`."""

import pytest

from batchwright.compare.verdicts import TWIN, headline, sentences, target_name, verdicts

EXACT = {"mean": 1.0, "low": 1.0, "high": 1.0, "values": [1.0, 1.0, 1.0]}


def figure(mean, low=None, high=None):
    values = [mean] if low is None else [mean] * 3
    return {"mean": mean, "low": low, "high": high, "values": values}


def arm(name, speed, time, gain, **changes):
    """The figures of a strategy that reached the target in all runs, unless `changes` differ."""
    runs = len(speed["values"])
    facts = {"name": name, "precision": "fp32", "speed": speed, "time": time, "gain": gain}
    facts |= {"held": runs, "lost": 0, "never": 0, "failed": 0, "touched": None, "improved": 2.0}
    return facts | changes


def result(*arms, target=None):
    runs = len(arms[0]["speed"]["values"])
    exact = EXACT if runs > 1 else figure(1.0)
    plain = arm("plain", exact, exact, exact | {"mean": 0.0})
    names = ["plain", *(each["name"] for each in arms)]
    return {
        "summary": [plain, *arms],
        "runs": [[]] * runs,
        "strategies": [
            {"name": name, "kind": name.partition("+")[0], "order": "shuffle"} for name in names
        ],
        "metric": "loss",
        "settings": {"target": target, "longer": 0.25},
    }


FASTER = arm("planned", figure(1.9, 1.8, 2.0), figure(0.52, 0.4, 0.6), figure(0.01, -0.1, 0.1))
SPEED, CHANCE = figure(1.5, 1.4, 1.6), figure(-0.01, -0.3, 0.2)


def test_a_strategy_that_is_sooner_and_as_good_is_recommended():
    head = headline(result(FASTER))
    assert head.verdict == "use"
    assert head.text == (
        "Switch to planned batches: 1.9 × the tokens per second, the baseline's final loss in 0.52 "
        "of the time, as good at the end (3 seeds)."
    )
    (verdict,) = verdicts(result(FASTER))
    assert verdict.word == "faster"
    assert verdict.text == (
        "planned: faster. 1.90 (1.80 – 2.00) × the tokens per second; the baseline's final loss in "
        "0.52 (0.40 – 0.60) of the time; 0.01 better after the same tokens, which may be chance."
    )
    assert sentences(result(FASTER)) == [verdict.text, head.text]


def test_speed_and_quality_that_disagree_are_no_verdict():
    worse = FASTER | {"gain": figure(-0.2, -0.3, -0.1)}
    (verdict,) = verdicts(result(worse))
    assert verdict.word == "cannot tell"
    assert "0.2 worse after the same tokens. Speed and quality disagree." in verdict.text
    head = headline(result(worse))
    assert (head.verdict, head.name) == ("cannot tell", "planned")
    assert head.text == (
        "Cannot tell about planned batches: 1.9 × the tokens per second, the baseline's final loss "
        "in 0.52 (0.40 – 0.60) of the time, 0.2 worse after the same tokens (3 seeds). Speed and "
        "quality disagree. Longer runs would tell (more epochs)."
    )


def test_an_interval_that_includes_1_says_how_many_runs_would_tell():
    (verdict,) = verdicts(result(arm("planned", SPEED, figure(0.7, 0.45, 1.1), CHANCE)))
    assert verdict.word == "cannot tell"
    assert verdict.why == "About 4 runs would tell (--seeds 4)."
    (verdict,) = verdicts(result(arm("planned", SPEED, figure(0.999, 0.5, 2.0), CHANCE)))
    assert verdict.why == "The difference is too small for 20 runs to tell."


def test_what_is_reached_and_lost_again_is_said_and_does_not_count():
    lost = {"held": 1, "lost": 2, "touched": figure(0.3, 0.2, 0.4)}
    (verdict,) = verdicts(result(arm("planned", SPEED, None, CHANCE, **lost)))
    assert verdict.word == "cannot tell"
    assert verdict.time == (
        "the baseline's final loss reached after 0.30 (0.20 – 0.40) of the time, not held in 2 of "
        "3 runs"
    )
    never = {"held": 0, "never": 3}
    slow, worse = figure(0.9, 0.88, 0.92), figure(-0.2, -0.3, -0.1)
    (verdict,) = verdicts(result(arm("planned", slow, None, worse, **never)))
    assert verdict.word == "slower"
    assert verdict.time == "the baseline's final loss not reached"


def test_of_strategies_that_cannot_be_told_one_that_held_the_target_is_named():
    lost = {"held": 1, "lost": 2, "touched": figure(0.3, 0.2, 0.4)}
    held = arm("grouped", SPEED, figure(0.8, 0.5, 1.2), CHANCE)
    facts = result(arm("planned", SPEED, None, CHANCE, **lost), held)
    assert headline(facts).name == "grouped"


def test_one_run_says_so_and_how_strong_it_is():
    for time, strength in ((0.5, "strong"), (0.75, "weak")):
        one = result(arm("planned", figure(1.9), figure(time), figure(0.0)))
        head = headline(one)
        assert head.text.endswith("(one run).")
        assert head.evidence.startswith(f"One run is {strength} evidence here")
    (verdict,) = verdicts(result(arm("planned", figure(1.2), figure(0.85), figure(0.0))))
    assert (verdict.word, verdict.why) == ("cannot tell", "One run: more would tell (--seeds 3).")
    (verdict,) = verdicts(result(arm("planned", figure(1.9), figure(0.5), figure(-0.3))))
    assert verdict.word == "cannot tell"


def test_where_nothing_is_faster_the_baseline_is_kept():
    slower = arm("grouped", figure(0.8, 0.7, 0.9), figure(1.3, 1.2, 1.4), CHANCE)
    same = arm("planned", figure(1.0, 0.99, 1.01), figure(1.02, 0.99, 1.05), CHANCE)
    head = headline(result(slower, same))
    assert head.verdict == "do not use"
    assert head.text == (
        "Keep your batches: nothing here is faster (3 seeds). The closest is planned batches: as "
        "many tokens per second as the baseline: 1.00 (0.99 – 1.01) ×; the baseline's final loss "
        "in 1.02 (0.99 – 1.05) × the time."
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"failed": 1, "time": None}, "became NaN or infinite in 1 of 3 runs: repair that first"),
        ({"improved": 0.0}, "did not improve: train it longer"),
        ({"improved": -0.1}, 'if higher is better, give the task better="higher"'),
        ({"improved": None}, "did not improve: train it longer"),
        ({"improved": 0.0, "gain": None}, "baseline's loss at the end of a run is not a number"),
        ({"held": 2, "never": 1, "time": None}, "does not reach the target in all runs"),
    ],
)
def test_a_baseline_that_sets_no_standard_allows_no_verdict(changes, why):
    facts = result(FASTER)
    facts["summary"][0] |= changes
    (verdict,) = verdicts(facts)
    assert verdict.word == "cannot tell"
    assert why in verdict.why
    assert headline(facts).text == f"Cannot tell (3 seeds): {verdict.why}"


def test_a_strategy_whose_loss_became_no_number_gains_nothing():
    failed = FASTER | {"failed": 2, "held": 0, "time": None, "gain": None}
    (verdict,) = verdicts(result(failed))
    assert verdict.word == "no gain"
    assert "its loss became NaN or infinite in 2 of 3 runs" in verdict.text


def test_a_strategy_is_named_by_what_differs_from_the_baseline():
    facts = result(FASTER | {"name": "planned+auto", "precision": "bf16"})
    assert headline(facts).text.startswith("Switch to planned batches in bf16: ")
    facts = result(FASTER | {"name": "plain+bf16", "precision": "bf16"})
    assert headline(facts).text.startswith("Switch to bf16: ")
    facts = result(FASTER | {"name": "planned+curriculum"})
    facts["strategies"][1]["order"] = "curriculum:loss"
    assert headline(facts).text.startswith("Switch to planned batches, easy samples first: ")
    facts = result(FASTER | {"name": "mine"})
    facts["strategies"][1]["kind"] = "planned"
    assert headline(facts).text.startswith("Switch to mine: ")


def test_a_given_target_is_named():
    facts = result(FASTER, target=0.9)
    assert target_name(facts) == "loss 0.9"
    assert "loss 0.9 in 0.52 of the time" in headline(facts).text


def test_before_a_run_is_complete_nothing_is_judged():
    facts = result(FASTER) | {"runs": []}
    assert verdicts(facts) == []
    assert headline(facts).text == "Cannot tell yet: no run is complete. These are speeds so far."
    assert headline(facts | {"summary": []}) is None
    assert sentences(facts | {"summary": []}) == []


@pytest.mark.parametrize(
    ("speed", "said"),
    [
        (figure(1.01, 0.99, 1.03), "passed"),
        (figure(1.01, 1.005, 1.015), "passed"),
        (figure(1.05, 0.99, 1.1), "failed"),
        (figure(0.99, 0.7, 1.4), "failed"),
        (figure(1.02), "passed"),
    ],
)
def test_a_strategy_and_its_twin_are_a_check_of_the_machine(speed, said):
    facts = result(FASTER | {"name": TWIN, "speed": speed})
    assert headline(facts).text.startswith(f"Self-check {said}")
    assert len(sentences(facts)) == 1
