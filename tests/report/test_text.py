"""The report fits its terminal, in characters it has, and says what the facts say."""

import io

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from rich.console import Console

import batchwright as bw
from batchwright._format import number, percent
from batchwright.report.compared import compared_report
from batchwright.report.inspected import PlanView, plan_report
from batchwright.report.text import encodable, print_report
from batchwright.stats.plan_facts import PlanFacts, file_facts, inspected_facts, plan_facts
from tests.report.conftest import RESULTS, result_of
from tests.strategies import jobs

LENGTHS = np.clip(np.random.default_rng(0).lognormal(4, 1, 2_000), 1, 512).astype(int)


def text_of(facts, *, width=80, named=None, **options):
    view = PlanView(facts, **{"source": "corpus.npy", **(named or {})})
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False, **options)
    print_report(console, plan_report(view))
    return file.getvalue()


def rows_of(text):
    """Read the figures back: label → the words after it."""
    after = text[text.index("\nPlan") :].split("\n\n")[0].splitlines()[2:]
    return {line[:16].strip(): line[16:].split() for line in after if line[:1].strip()}


@pytest.mark.slow
@settings(max_examples=30)
@given(job=jobs(), width=st.integers(60, 140))
def test_any_plan_fits_any_terminal(job, width):
    try:
        plan = job.planner()(0)
    except (bw.errors.PlanError, bw.errors.BudgetError):
        reject()
    for gather in (plan_facts, inspected_facts, lambda *_: PlanFacts(file_facts(plan))):
        text = text_of(gather(plan, job.lengths), width=width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        assert "None" not in text
        assert encodable(text, "ascii").isascii()
        assert "?" not in encodable(text, "ascii")


@pytest.mark.parametrize("width", [60, 80, 96])
def test_figures_of_any_size_fit(width):
    lengths = np.random.default_rng(0).integers(10**9, 10**11, 3_000)
    facts = plan_facts(bw.plan(lengths, max_tokens=10**12), lengths)
    text = text_of(facts, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert number(facts.measured.stats.num_tokens) in text
    assert number(facts.measured.lengths.max) in text.replace("\n", "") or width == 60


def test_the_text_says_what_the_facts_say():
    batching = bw.TokenBudget(400, oversize="drop")
    plan = bw.plan(LENGTHS, batching=batching, world_size=4, accumulate=2, seed=7, epoch=3)
    facts = inspected_facts(plan, LENGTHS)
    text = text_of(facts, width=96)
    facts = facts.as_json()
    rows = rows_of(text)
    assert {label: words[0] for label, words in rows.items()} == {
        "batches": number(facts["num_batches"]),
        "updates": number(facts["num_steps"]),
        "samples a batch": number(facts["samples_per_batch_mean"]),
        "shapes": number(facts["shapes"]),
        "efficiency": percent(facts["efficiency"]).split()[0],
        "largest batch": number(facts["max_batch_tokens"]),
        "fill": percent(facts["fill"]).split()[0],
        "lower bound": number(facts["lower_bound"]),
        "update size": number(facts["step_tokens_mean"]),
        "length mix": number(facts["dispersion"]),
        "rank imbalance": f"{facts['imbalance_padded']:.3f}",
        "dropped": number(facts["dropped"]),
        "seed": "7",
    }
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for name in ("plan", "plain_batches"):
        assert percent(facts["waste"][name]) in text[text.index("Batches") : text.index("\nPlan")]
    assert facts["dropped"] > 0
    assert f"dropped {number(facts['dropped'])} longer than the budget" in lines
    assert "epoch 3" in text
    text = text_of(plan_facts(plan, LENGTHS), width=96)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    summary = facts["lengths"] | {"p999": facts["budgets"]["p999"]}
    names = ("num_samples", "num_tokens", "median", "mean", "p95", "p999", "max")
    assert " ".join(number(summary[name]) for name in names) in lines


def test_packing_speaks_of_rows_and_of_what_is_empty():
    plan = bw.plan(LENGTHS, batching=bw.Packing(512))
    text = text_of(plan_facts(plan, LENGTHS))
    assert "rows packed to 512 tokens" in text
    assert "empty" in text
    assert text.count("padding") == 1  # of batches today


@pytest.mark.parametrize(
    ("batching", "line"),
    [
        (bw.TokenBudget(256, oversize="truncate"), "samples, to 256"),
        (bw.Packing(256, oversize="split"), "samples, into pieces of 256"),
        (bw.TokenBudget(256, oversize="drop"), "longer than the budget"),
        (bw.TokenBudget(512), "every sample is in the plan, exactly once"),
    ],
)
def test_what_becomes_of_long_samples_is_told(batching, line):
    text = text_of(inspected_facts(bw.plan(LENGTHS, batching=batching), LENGTHS))
    told = [row for row in text.splitlines() if line in row]
    assert len(told) == 1
    assert number(np.count_nonzero(LENGTHS > 256)) in told[0] or "exactly once" in line


@pytest.mark.parametrize(
    ("order", "batching", "words"),
    [
        (bw.Shuffle(), bw.TokenBudget(512), "less even than a plain shuffle"),
        (bw.Shuffle(), bw.FixedSize(10**6), "a single update"),
    ],
)
def test_dispersion_comes_with_words(order, batching, words):
    plan = bw.plan(LENGTHS, batching=batching, order=order)
    assert words in text_of(inspected_facts(plan, LENGTHS))


def test_many_batches_an_update_are_more_even():
    plan = bw.plan(LENGTHS, max_tokens=512, accumulate=32)
    assert "more even than a plain shuffle" in text_of(inspected_facts(plan, LENGTHS))


def test_equal_lengths_have_no_curve():
    text = text_of(plan_facts(bw.plan([7] * 20, max_tokens=70), [7] * 20))
    assert "▁" not in text
    assert "planned, same tokens per update: 2, 0 %." in text.replace("\n", " ")


def test_the_unit_is_what_was_measured():
    text = text_of(plan_facts(bw.plan(LENGTHS, max_tokens=512), LENGTHS), named={"unit": "words"})
    assert "words" in text
    assert "token" not in text.replace("step_tokens", "")


def test_names_cannot_steer_the_terminal():
    plan = bw.plan(LENGTHS, max_tokens=512)
    name = "[bold]x[/bold]\x1b[31m\n.npy"
    text = text_of(plan_facts(plan, LENGTHS), named={"source": name}, force_terminal=True)
    assert "[bold]x[/bold]\\x1b[31m\\n.npy" in text


def test_the_file_alone_tells_what_it_knows():
    plan = bw.plan(LENGTHS, max_tokens=512, world_size=2)
    rows = rows_of(text_of(PlanFacts(file_facts(plan))))
    assert rows["made for"][:1] == ["2,000"]
    assert rows["batches"][0] == number(len(plan))
    assert "efficiency" not in rows


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_comparison_fits_a_screen_and_ends_in_its_headline(path):
    report = compared_report(result_of(path))
    file = io.StringIO()
    print_report(Console(file=file, width=80, highlight=False), report)
    lines = file.getvalue().splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80 or report.head.code
    assert all(len(row) == 5 for row in report.printed[0].rows)
    end = " ".join(" ".join(lines[-8:]).split())
    assert " ".join(report.head.text.split()) in end
    for row in report.printed[0].rows:
        assert sum(line.startswith(f"{row['']} ") for line in lines) == 1


def test_a_target_that_is_reached_before_training_is_held_and_no_time():
    result = result_of(RESULTS / "translation.json")
    runs = len(result["runs"])
    for each, held in zip(result["summary"], (runs, runs - 1), strict=False):
        each |= {"time": None, "held": held, "lost": 0, "never": runs - held}
    rows = compared_report(result).printed[0].rows
    assert [row["time"] for row in rows[:2]] == ["held", f"in {runs - 1} of {runs} only"]
