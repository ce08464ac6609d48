"""What the command says of a plan is what the plan is, in JSON and in text, saved or not."""

import json
import re

import numpy as np
import pytest

import batchwright as bw
from batchwright._format import number, percent
from tests.cli.command import BUDGET, LENGTHS, PLAN, facts_of, invoke, run

PROMISED = {
    *("num_samples", "num_batches", "num_tokens", "padded_tokens", "efficiency", "dispersion"),
    *("max_batch_tokens", "lower_bound", "shapes", "dropped", "world_size", "seconds"),
}


@pytest.mark.parametrize(
    "options",
    [
        ("--max-tokens", "2048", "--world-size", "2", "--accumulate", "3", "--cost", "quadratic"),
        ("--max-tokens", "2048", "--mixing", "update", "--step-tokens", "20000"),
        ("--max-tokens", "2048", "--mixing", "2", "--seed", "3", "--epoch", "4"),
        ("--max-tokens", "300", "--oversize", "drop", "--pad-to-multiple-of", "8"),
        ("--max-tokens", "300", "--oversize", "truncate", "--max-samples", "9"),
        ("--pack", "300", "--oversize", "split", "--pad-to-multiple-of", "4"),
        ("--pack", "512", "--order", "sequential"),
        ("--fixed-size", "16", "--window", "100"),
        ("--batch-size", "24"),
        ("--batch-size", "24", "--max-tokens", "2048"),
    ],
)
def test_inspect_says_of_the_saved_plan_what_plan_said(options, tmp_path):
    path = str(tmp_path / "plan.safetensors")
    facts = facts_of(*PLAN, *options, "-o", path)
    assert facts.keys() >= PROMISED
    assert facts["plan"] == path
    assert bw.Plan.load(path).digest() == facts["digest"]
    baseline = options[:2] if options[0] == "--batch-size" else ()
    again = facts_of("inspect", path, "lengths.npy", *baseline)
    assert {name: facts[name] for name in again.keys() & facts.keys() - {"seconds_reading"}} == {
        name: again[name] for name in again.keys() & facts.keys() - {"seconds_reading"}
    }
    assert facts.keys() - again.keys() == {"batching", "order", "step_tokens", "cost", "seconds"}
    alone = facts_of("inspect", path)
    assert {name: facts[name] for name in alone if name != "source"} == {
        name: alone[name] for name in alone if name != "source"
    }


def test_a_plan_of_an_index_is_a_small_file_beside_it(tmp_path):
    index, path = tmp_path / "lengths.index", tmp_path / "plan.safetensors"
    plan = bw.plan(bw.LengthIndex.build(LENGTHS, index), max_tokens=2_048)
    facts = facts_of("plan", str(index), "--max-tokens", "2048", "-o", str(path))
    assert path.stat().st_size < 8_000
    assert facts["digest"] == plan.digest() == facts_of("inspect", str(path))["digest"]
    moved = index.rename(tmp_path / "moved.index")
    refused = invoke("inspect", str(path))
    assert refused.exit_code == 2
    assert "which is not there" in refused.stderr
    again = facts_of("inspect", str(path), str(moved))
    assert (again["digest"], again["efficiency"]) == (facts["digest"], facts["efficiency"])
    refused = invoke("plan", str(moved), "--max-tokens", "2048", "--length", "words")
    assert refused.exit_code == 2
    assert "a length index has no columns" in refused.stderr


def test_the_command_makes_the_plan_that_the_library_makes():
    options = ("--world-size", "4", "--step-tokens", "30000", "--seed", "5", "--epoch", "2")
    facts = facts_of(
        *BUDGET, *options, "--max-samples", "50", "--pad-to-multiple-of", "8", "--slack", "0.1"
    )
    batching = bw.TokenBudget(2_048, max_samples=50, pad_to_multiple_of=8, slack=0.1)
    plan = bw.plan(LENGTHS, batching=batching, world_size=4, step_tokens=30_000, seed=5, epoch=2)
    assert facts["digest"] == plan.digest()
    assert facts["efficiency"] == plan.stats(LENGTHS).efficiency
    assert facts["batching"]["name"] == "TokenBudget"
    assert facts["batching"]["max_samples"] == 50
    assert facts["batching"]["slack"] == 0.1


def test_a_process_prints_one_json_object_and_nothing_else():
    code, out, err = run(*BUDGET, "--json", FORCE_COLOR="1")
    assert (code, err) == (0, b"")
    assert out.count(b"\n") == 1
    facts = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert facts.keys() >= PROMISED
    assert facts["plan"] is None


def test_text_and_json_say_the_same(tmp_path):
    path = str(tmp_path / "plan.safetensors")
    facts = facts_of(*BUDGET, "--world-size", "2", "-o", path)
    text = text_of("inspect", path, "lengths.npy")
    for told in (
        f"batches {number(facts['num_batches'])} of 2,000 samples",
        f"efficiency {percent(facts['efficiency'])}",
        f"largest batch {number(facts['max_batch_tokens'])} tokens",
        f"fill {percent(facts['fill'])}",
        f"lower bound {number(facts['lower_bound'])}",
        f"length mix {number(facts['dispersion'])}",
        f"rank imbalance {facts['imbalance_padded']:.3f}",
    ):
        assert told in text
    for report in (text, text_of(*BUDGET, "--world-size", "2")):
        plain = facts["plain_batches"]
        for told in (
            f"{percent(facts['waste']['plain_batches'])} {plain['dispersion']:.2f}",
            f"this plan {percent(facts['waste']['plan'])} {facts['dispersion']:.2f}",
            f"Assumed {plain['batch_size']} samples a batch",
            f"planned: {number(facts['num_batches'])}, {percent(facts['waste']['plan'])}.",
        ):
            assert told in report


def text_of(*args):
    """Run a command; return its words, without the bars."""
    return " ".join(re.sub("[█▏▎▍▌▋▊▉░]+", "", invoke(*args).stdout).split())


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--batch-size", "16"),
        ("--batch-size", "16", "--accumulate", "4", "--world-size", "2"),
        ("--batch-size", "16", "--max-tokens", "600", "--seed", "3"),
        ("--batch-size", "16", "--pack", "600", "--order", "sequential"),
        ("--batch-size", "16", "--step-tokens", "9000", "--cost", "quadratic"),
        ("--max-tokens", "300", "--oversize", "truncate", "--slack", "0.1"),
        ("--max-tokens", "700", "--accumulate", "8", "--window", "500"),
        ("--batch-size", "16", "--oversize", "drop", "--mixing", "update"),
        ("--fixed-size", "16"),
    ],
)
def test_a_report_fits_a_screen_and_its_code_makes_the_plan(options, monkeypatch):
    values = LENGTHS.copy()
    values[3] = 30_000
    np.save("outlier.npy", values)
    monkeypatch.setenv("COLUMNS", "80")
    sources = {"lengths.npy": LENGTHS, "outlier.npy": values}
    if {"300", "600", "700"}.intersection(options):
        del sources["outlier.npy"]  # such a budget is refused
    for source, lengths in sources.items():
        done = invoke("plan", source, *options)
        assert done.exit_code == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) <= 24
        (code,) = (line for line in lines if line.startswith("planner = "))
        planner = eval(code.removeprefix("planner = "), {"bw": bw, "lengths": lengths})  # noqa: S307
        facts = facts_of("plan", source, *options)
        assert planner(0).digest() == facts["digest"]
        verdict = " ".join(" ".join(lines[-2:]).split())
        assert percent(facts["waste"]["plan"]) in verdict  # which comes last


def test_the_baseline_is_the_users():
    facts = facts_of(*PLAN, "--batch-size", "32")
    plain, smaller = facts["plain_batches"], facts["smaller_batches"]
    fixed = facts_of(*PLAN, "--fixed-size", "32")
    for name in ("num_batches", "padded_tokens", "efficiency", "dispersion", "max_batch_tokens"):
        assert plain[name] == fixed[name]
    assert (plain["batch_size"], plain["assumed"]) == (32, False)
    assert facts["num_steps"] == plain["num_steps"] == 63
    assert facts["step_tokens"] == round(LENGTHS.sum() / 63)
    assert facts["budgets"]["max_tokens"] == facts["budget"]
    text = text_of(*PLAN, "--batch-size", "32")
    assert (
        f"Yours: {plain['num_batches']} batches, {percent(1 - plain['efficiency'])} padding; "
        f"planned, same tokens per update: {facts['num_batches']}"
    ) in text
    assert f"{smaller['dispersion']:.2f} at {percent(1 - smaller['efficiency'])}" in text
    assert "--batch-size 4 --accumulate 8" in text


def test_outliers_are_named():
    values = np.append(LENGTHS, [30_000, 36_314])
    np.save("outliers.npy", values)
    text = text_of("plan", "outliers.npy", "--batch-size", "32")
    assert "2 of 2,002 samples (0.1 %) set the budget: up to 36,314 tokens" in text
    cut = facts_of("plan", "outliers.npy", "--batch-size", "32", "--oversize", "truncate")
    assert cut["budget"] == cut["budgets"]["max_tokens"] < 36_314
    assert f"truncate, {number(cut['budget'])} would do" in text
    assert cut["waste"]["plain_batches"] > 0.5
    assert cut["waste"]["plan"] < 0.2
    given = facts_of("plan", "outliers.npy", "--max-tokens", "2048", "--oversize", "truncate")
    assert given["plain_batches"]["batch_size"] > 1
    assert given["waste"]["plain_batches"] > given["waste"]["plan"]


def test_what_is_assumed_is_what_is_planned():
    np.save("long.npy", np.append(LENGTHS, 100_000))
    facts = facts_of("plan", "long.npy")
    assert facts["plain_batches"]["assumed"]
    assert facts["plain_batches"]["num_batches"] == pytest.approx(facts["num_batches"], rel=0.03)


def test_budgets_hold_the_present_batches_where_rows_are_rounded_up():
    for lengths in (LENGTHS, [7], [5, 100_000]):
        np.save("rounded.npy", lengths)
        facts = facts_of(
            "plan", "rounded.npy", "--batch-size", "16", "--pad-to-multiple-of", "1024"
        )
        assert facts["num_batches"] <= max(2, facts["plain_batches"]["num_batches"])
        assert facts["budget"] % 1024 == 0


def test_smaller_batches_are_proposed_with_options_that_make_them():
    text = text_of(*PLAN, "--batch-size", "32")
    rows, accumulate = re.search(r"--batch-size (\d+) --accumulate (\d+)", text).groups()
    made = facts_of(*PLAN, "--batch-size", rows, "--accumulate", accumulate)
    assert f"{made['dispersion']:.2f} at {percent(made['waste']['plan'])}" in text
    text = text_of(*PLAN, "--batch-size", "32", "--step-tokens", "2500")
    assert "speed and mix conflict" in text
    assert "--accumulate" not in text  # would make other updates


def test_columns_measures_and_their_units():
    facts = facts_of(
        "plan", "table.csv", "--fixed-size", "1", "--length", "words", "--measure", "words"
    )
    assert (facts["unit"], facts["num_tokens"], facts["source"]) == ("words", 4, "table.csv")
    assert facts_of("plan", "table.csv", "--fixed-size", "2", "--no-cache")["num_tokens"] == 8


@pytest.mark.filterwarnings("always")
def test_a_warning_is_one_line():
    done = invoke(*BUDGET, "--world-size", "3000")
    assert done.exit_code == 0
    assert done.stderr.startswith("batchwright: warning: 2000 samples cannot fill 3000 batches")
    assert done.stderr.count("\n") == 1
    assert "1,000 repetitions of samples" in done.stdout
