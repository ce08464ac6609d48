"""The selection guide: it says yes where something pays, no where it does not, and why."""

import inspect
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchwright as bw
from batchwright._format import percent
from batchwright.advise import (
    FRAMEWORKS,
    RULES,
    Evidence,
    Gain,
    Hardware,
    LearningTrial,
    Range,
    SpeedTrial,
    advise,
    profile_data,
    profile_hardware,
    snippet,
)
from batchwright.advise.trials import faster
from tests.cli.command import invoke
from tests.docs.preparations import make_smaller
from tests.python_lines import python_lines
from tests.strategies import columns, lengths

LENGTHS = np.clip(np.random.default_rng(0).lognormal(5, 1, 5_000), 1, 1_000).astype(int)
CPU = Hardware(
    "cpu", "a processor", 2**34, 2, {"bf16": {128: Range(0.7, 0.9), 512: Range(1.8, 2.1)}}
)
GPU = Hardware("cuda", "a card", 2**36, 16, {"bf16": {512: Range(3.5, 4.0)}})


def verdicts(evidence):
    return {each.technique: each.verdict for each in advise(evidence)}


def trial(name, speed, precision="fp32"):
    speeds = tuple(1_000 * speed * factor for factor in (0.99, 1.0, 1.01))
    gain = Gain(speed, 0.98 * speed, 1.02 * speed, "as many real tokens a second")
    return SpeedTrial(name, precision, 3, 10 / speed, 1_000 * speed, gain, speeds)


def trials(*made):
    return {each.name: each for each in made}


def test_lengths_that_vary_want_dynamic_batching():
    data = profile_data(LENGTHS, max_tokens=8_000)
    given = {each.technique: each for each in advise(Evidence(data, CPU))}
    dynamic = given["dynamic batching"]
    assert dynamic.verdict == "use"
    assert dynamic.settings == {"batching": "TokenBudget(8000)"}
    planned = bw.Planner(LENGTHS, max_tokens=8_000, step_tokens=data.step_tokens)(0)
    plain = bw.plan(LENGTHS, batching=bw.FixedSize(8))
    ratio = planned.stats(LENGTHS).efficiency / plain.stats(LENGTHS).efficiency
    assert dynamic.gain.ratio == pytest.approx(ratio, rel=0.01)
    assert dynamic.gain.origin == "computed from the plan"
    assert given["packing"].verdict == "do not use"
    assert given["curriculum"].verdict == "cannot tell"  # short samples first may help


def test_the_padding_is_that_of_the_planner_in_the_snippet():
    data = profile_data(LENGTHS, batch_size=32)
    used = advise(Evidence(data, CPU))
    written = f"bw.TokenBudget({data.max_tokens}), step_tokens={data.step_tokens})"
    assert written in snippet(used, data)
    batching = bw.TokenBudget(data.max_tokens)
    planner = bw.Planner(LENGTHS, batching=batching, step_tokens=data.step_tokens)
    assert data.efficiency["planned"] == planner(0).stats(LENGTHS).efficiency


def test_equal_lengths_want_nothing_of_it():
    said = verdicts(Evidence(profile_data(np.full(1_000, 64)), CPU))
    for technique in ("dynamic batching", "packing", "static shapes"):
        assert said[technique] == "do not use"


def test_what_was_measured_on_the_task_counts_more_than_what_is_computed():
    data = profile_data(LENGTHS, max_tokens=8_000)
    slow = trials(trial("plain", 1.0), trial("planned", 0.9))
    assert verdicts(Evidence(data, CPU, slow))["dynamic batching"] == "do not use"
    fast = trials(trial("plain", 1.0), trial("planned", 2.0))
    given = advise(Evidence(data, CPU, fast))
    assert given[0].technique == "dynamic batching"
    assert given[0].gain.origin == "measured here"


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (trial("planned+bf16", 1.8, "bf16"), "do not use"),
        (trial("planned+bf16", 3.0, "bf16"), "use"),
        (trial("planned+bf16", 2.02, "bf16"), "do not use"),
    ],
)
def test_precision_is_what_the_model_says_and_not_the_machine(measured, expected):
    data = profile_data(LENGTHS, max_tokens=8_000)
    known = trials(trial("plain", 1.0), trial("planned", 2.0), measured)
    assert verdicts(Evidence(data, GPU, known))["mixed precision"] == expected
    assert verdicts(Evidence(data, GPU))["mixed precision"] == "cannot tell"
    assert verdicts(Evidence(data))["mixed precision"] == "cannot tell"


def test_what_trials_had_no_time_for_is_not_advised_again():
    data = profile_data(LENGTHS, max_tokens=8_000)
    for step_tokens, how in ((None, "run batchwright advise on a task"), (4_000, "more time")):
        advice = advise(Evidence(data, CPU, step_tokens=step_tokens))
        given = {each.technique: each.untested for each in advice}
        assert how in given["mixed precision"]
        assert how in given["other tokens per update"]


def test_scores_make_a_curriculum_worth_a_run():
    data = profile_data(LENGTHS, max_tokens=8_000)
    short_run = LearningTrial("curriculum", 0.5, 1, Gain(1.1, None, None, "as fast"), 1.0, 1.2, 0.0)
    for learning, said in (({}, "--seconds"), ({"curriculum": short_run}, "planned+control")):
        evidence = Evidence(data, CPU, {}, ("loss",), step_tokens=8_000, learning=learning)
        (advice,) = [each for each in advise(evidence) if each.technique == "curriculum"]
        assert advice.verdict == "cannot tell"
        assert said in advice.untested


@settings(max_examples=40)
@given(lengths=lengths(min_size=2))
def test_any_lengths_get_advice(lengths):
    for hardware in (None, CPU):
        given = advise(Evidence(profile_data(lengths), hardware))
        assert {each.rule for each in given} == {rule.__name__ for rule in RULES.values()}
        assert all(each.why.endswith(".") for each in given)


@settings(max_examples=20)
@given(lengths=columns(min_size=2))
def test_any_columns_get_advice(lengths):
    profile = profile_data(lengths)
    assert len(profile.columns) == lengths.shape[1]
    assert [each.longest for each in profile.columns] == lengths.max(axis=0).tolist()
    assert advise(Evidence(profile))


def test_bad_lengths_are_refused():
    with pytest.raises(bw.errors.LengthsError):
        profile_data([3, 0])
    with pytest.raises(bw.errors.BudgetError, match="max_tokens=0"):
        profile_data([3, 30], max_tokens=0)


def test_every_rule_has_a_source():
    for rule in RULES.values():
        assert "Source:" in inspect.getdoc(rule)


@pytest.mark.slow
def test_a_million_lengths_are_looked_at_without_a_loop_over_them():
    many = np.clip(np.random.default_rng(0).lognormal(5, 1, 10**6), 1, 2_048).astype(np.int32)
    few, _ = python_lines(lambda: profile_data(many[:100_000], max_tokens=16_384))
    lines, profile = python_lines(lambda: profile_data(many, max_tokens=16_384))
    assert lines < 1.5 * few
    whole = bw.plan(many, batching=bw.FixedSize(8)).stats(many).efficiency
    assert profile.efficiency["plain"] == pytest.approx(whole, rel=0.01)


@pytest.mark.slow
def test_this_machine_has_types_whose_speed_is_known():
    pytest.importorskip("torch")
    hardware = profile_hardware()
    assert hardware.device in {"cpu", "cuda"}
    ratios = [each for known in hardware.speed_over_fp32.values() for each in known.values()]
    assert all(0 < each.low <= each.high for each in ratios)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_snippets_are_python_with_the_settings_that_are_advised(framework, precision):
    data = profile_data(LENGTHS, max_tokens=8_000)
    known = trials(
        trial("plain", 1.0), trial("planned", 2.0), trial("planned+bf16", 3.0, precision)
    )
    code = snippet(advise(Evidence(data, CPU, known)), data, framework)
    compile(code, framework, "exec")
    assert "bw.TokenBudget(8000)" in code
    assert ("bf16-mixed" in code) == (framework == "lightning" and precision == "bf16")


def test_the_loop_that_is_advised_trains():
    torch = pytest.importorskip("torch")
    lengths = LENGTHS[:200]
    data = profile_data(lengths, max_tokens=8_000)
    code = snippet(advise(Evidence(data, CPU)), data)
    model = torch.nn.Linear(1, 1)
    before = model.weight.item()
    names = {
        "lengths": lengths,
        "EPOCHS": 1,
        "dataset": [
            {"tokens": torch.ones(length), "labels": torch.ones(length)} for length in lengths
        ],
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        "loss_sum": lambda model, batch: (
            (model(batch["tokens"][..., None])[..., 0] - 3).square() * (batch["tokens"] > 0)
        ).sum(),
    }
    exec(compile(code, "snippet", "exec"), names)  # noqa: S102
    assert model.weight.item() != before


def test_the_command_advises_on_lengths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("lengths.npy", LENGTHS)
    done = invoke("advise", "lengths.npy", "--max-tokens", "8000", "--json")
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    assert {each["verdict"] for each in result["advice"]} <= {"use", "do not use", "cannot tell"}
    text = invoke("advise", "lengths.npy", "--framework", "keras").stdout
    assert "assumed: --max-tokens" in text
    assert "PlanDataset" in text
    shown = invoke("advise", "lengths.npy", "--max-tokens", "8000").stdout
    assert len(shown.splitlines()) <= 30
    assert max(map(len, shown.partition("import batchwright")[0].splitlines())) <= 80
    assert " ".join(result["headline"]["text"].split()) in " ".join(shown.split())
    assert percent(1 - result["data"]["efficiency"]["plain"]) in shown


def test_the_command_lists_its_rules():
    text = invoke("advise", "--rules").stdout
    assert len(re.findall("Source:", text)) == len(RULES)
    listed = json.loads(invoke("advise", "--rules", "--json").stdout)
    assert [each["rule"] for each in listed] == [rule.__name__ for rule in RULES.values()]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "name a SOURCE of lengths, or a TASK"),
        (("no.npy",), "no.npy"),
        (("no.py",), "there is no such file"),
        (("no.py", "--length", "x"), "are for a SOURCE"),
    ],
)
def test_the_command_refuses_in_a_line(args, said):
    result = invoke("advise", *args)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_command_tries_a_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke("new-task", "mine.py").exit_code == 0
    from tests.work_clock import install  # it imports torch

    make_smaller(tmp_path / "mine.py")
    install(monkeypatch)
    done = invoke("advise", "mine.py", "--quick", "--updates", "3", "--json")
    assert done.exit_code == 0, done.stderr
    assert "A trial takes at most 3 updates of each strategy" in done.stderr
    result = json.loads(done.stdout)
    speeds = {each["name"]: each["speed"]["ratio"] for each in result["trials"]}
    assert speeds["plain"] == 1
    assert speeds["planned"] > 1.2
    (dynamic,) = [x for x in result["advice"] if x["technique"] == "dynamic batching"]
    assert (dynamic["verdict"], dynamic["gain"]["origin"]) == ("use", "measured here")


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=3, max_size=12))
@settings(max_examples=30, deadline=None)
def test_faster_is_what_all_updates_take_together(pairs):
    own, others = zip(*pairs, strict=True)
    gain = faster(own, others)
    assert gain.ratio == pytest.approx(sum(1 / each for each in others) / sum(1 / x for x in own))
    assert gain.low <= gain.ratio * (1 + 1e-9)
    assert gain.high >= gain.ratio * (1 - 1e-9)
    assert faster(own, own).high == 1


def test_updates_of_uneven_speed_are_not_flattered():
    # Half of the updates twice as fast, half of them half as fast: a run takes longer.
    assert faster([2.0, 0.5] * 4, [1.0] * 8).ratio == pytest.approx(0.8)
