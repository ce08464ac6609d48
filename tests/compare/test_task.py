"""What a task refuses when it is made, and what it says of itself."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchwright.budgets import suggest
from batchwright.compare.task import warm_up_then_decay
from batchwright.errors import BudgetError, LengthsError, TaskError
from tests.compare.conftest import make_task


def test_a_task_counts_the_tokens_of_all_columns(task):
    pairs = np.stack([task.sizes, 2 * task.sizes], axis=1)
    assert make_task(lengths=pairs).num_tokens == 3 * task.num_tokens


def test_budgets_are_those_of_a_batch_size():
    task = make_task(batch_size=24, max_tokens=None, step_tokens=None)
    budgets = suggest(task.sizes, batch_size=24)
    assert (task.max_tokens, task.step_tokens) == (budgets.for_all, budgets.step_tokens)
    assert task.plain_accumulate == 1
    whole = make_task(batch_size=4, step_tokens=budgets.step_tokens)
    assert (whole.max_tokens, whole.plain_accumulate) == (80, 6)
    assert whole.step_tokens == budgets.step_tokens
    assert make_task().plain_accumulate is None


def test_another_batch_size_brings_its_own_budgets(task):
    task.difficulty()
    object.__setattr__(task, "origin", ("job.py", True, "."))
    other = task.with_batch_size(24)
    budgets = suggest(task.sizes, batch_size=24)
    assert (other.max_tokens, other.step_tokens) == (budgets.for_all, budgets.step_tokens)
    assert other.origin == ("job.py", True, ".")
    assert other.with_batch_size(24) is other


def test_without_lengths_all_samples_are_alike():
    assert make_task(lengths=None).num_tokens == 240


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"lengths": [1, 2, 3]}, TaskError, "has 3 for 240 samples"),
        ({"lengths": [0] * 240}, LengthsError, ""),
        ({"labels": [1, 2]}, TaskError, "Task(labels=…) has 2 for 240 samples"),
        ({"groups": 3}, TaskError, "Task(groups=…) has int for 240 samples"),
        ({"features": np.ones((3, 2))}, TaskError, "Task(features=…) has 3 for 240 samples"),
        ({"model": 3}, TaskError, "Task(model=3): expected a function"),
        ({"max_tokens": 0}, BudgetError, "max_tokens"),
        ({"batch_size": 0}, BudgetError, "batch_size"),
        ({"max_tokens": None}, TaskError, "Task has no max_tokens. Give both, or the batch_size"),
        ({"max_tokens": None, "step_tokens": None}, TaskError, "no max_tokens and no step_tokens"),
        ({"better": "best"}, ValueError, "better"),
    ],
)
def test_what_is_of_the_wrong_kind_is_refused(changes, error, said):
    with pytest.raises(error) as caught:
        make_task(**changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scores_are_computed_once_and_when_they_are_needed():
    calls = []

    def compute():
        calls.append(1)
        return np.arange(240.0)

    task = make_task(difficulties={"mine": compute})
    assert calls == []
    scores, seconds = task.difficulty()
    assert task.difficulty("mine")[0] is scores
    assert calls == [1]
    assert seconds > 0
    assert task.difficulty("length")[1] == 0
    with pytest.raises(TaskError, match="no difficulty 'other', only: length, mine"):
        task.difficulty("other")


def test_the_default_rate_rises_and_falls_and_never_ends():
    rates = [warm_up_then_decay(share) for share in (0.0, 0.1, 0.2, 0.8, 1.25)]
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0.4])


@settings(max_examples=50)
@given(share=st.floats(0.05, 1.0), epochs=st.integers(1, 6), seed=st.integers(0, 3))
def test_a_shortened_task_has_about_that_share_of_the_tokens(share, epochs, seed):
    task = make_task(epochs=epochs)
    task = dataclasses.replace(task, difficulties={"own": task.sizes * 2.0})
    short = task.shortened(share, seed=seed)
    assert len(short.samples) == len(short.sizes)
    # A sample keeps its length and its score.
    for place in range(0, len(short.samples), 17):
        assert len(short.samples[place]["tokens"]) == short.sizes[place]
    assert short.difficulty("own")[0] == pytest.approx(short.sizes * 2.0)
    entries = len(short.samples) * short.epochs
    expected = share * len(task.samples) * epochs
    assert abs(entries - expected) <= max(1, len(task.samples) / 2)
    if share * epochs >= 1:
        assert len(short.samples) == len(task.samples)


def test_what_scores_took_is_charged_in_proportion(monkeypatch):
    now = 0.0

    def slow():
        nonlocal now
        now += 3.0
        return np.arange(240.0)

    clock = SimpleNamespace(perf_counter=lambda: now)
    monkeypatch.setattr("batchwright.compare.task.time", clock)

    task = make_task(difficulties={"slow": slow})
    whole = task.difficulty("slow")[1]
    assert whole == 3.0
    assert task.shortened(0.5).difficulty("slow")[1] == pytest.approx(0.5 * whole)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_no_share_is_refused(share):
    with pytest.raises(TaskError, match="above 0, up to 1"):
        make_task().shortened(share)
