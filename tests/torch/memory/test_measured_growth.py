"""Where fake tensors fail: real steps that grow towards the limit."""

import numpy as np
import pytest
import torch

from batchwright.errors import BudgetError
from batchwright.torch.memory.fitting import growing_peaks
from batchwright.torch.memory.steps import real_steps
from benchmarks.memory_prediction import Peeking, Transformer, language_loss
from tests.torch.memory.networks import MEBIBYTE, fitted, task_of


def test_code_that_looks_at_values_is_measured_and_the_reason_kept():
    model = Peeking()
    memory = fitted(model)
    assert memory.how == "measured"
    assert "DataDependent" in memory.findings.reason
    probes = memory.findings.probes
    assert all(each.measured + memory.state_bytes <= memory.limit for each in probes)
    assert {each.length for each in probes} >= {16, 128}
    with real_steps(task_of(model), 16) as run:
        for length in (20, 75, 120):
            rows = memory.max_batch(length)
            step = run(rows, length)
            assert memory.state_bytes + step <= memory.limit
            predicted = memory.peak(rows, length) - memory.state_bytes
            assert predicted == pytest.approx(step, rel=0.03)
    assert memory.explain(4, 64).parts[0].name == "the step"


def test_boolean_indexing_is_measured_too():
    def loss_sum(model, batch):
        tokens, targets = batch
        logits = model(tokens)
        kept = targets > 100
        return torch.nn.functional.cross_entropy(logits[kept], targets[kept], reduction="sum")

    memory = fitted(Transformer(width=32, layers=1), loss_sum=loss_sum)
    assert memory.how == "measured"
    assert memory.max_tokens() > 128


@pytest.mark.parametrize("c", [0, 3])
@pytest.mark.parametrize("longest", [16, 400, 5_000])
def test_growth_never_passes_the_capacity_and_comes_near(c, longest):
    taken = []

    def run(rows, length):
        taken.append(10_000 + rows * length * (200 + c * length))
        return taken[-1]

    capacity = 1.2 * (10_000 + longest * (200 + c * longest))
    peaks = growing_peaks(run, np.arange(8, longest + 1), capacity=capacity)
    assert max(taken) <= capacity
    assert max(taken) > 0.6 * capacity
    assert list(peaks.values()) == taken
    assert max(length for _, length in peaks) == longest


def test_growth_stops_before_a_row_that_does_not_fit():
    taken = []

    def run(rows, length):
        taken.append(rows * length * length)
        return taken[-1]

    with pytest.raises(BudgetError, match="not even one of length 1000 fits"):
        growing_peaks(run, np.arange(8, 1_001), capacity=900**2)
    assert max(taken) <= 900**2


def test_an_error_of_the_model_is_the_one_that_is_seen():
    def loss_sum(model, batch):
        tokens, _ = batch
        return language_loss(model, (tokens, tokens[:, :-1]))

    with pytest.raises(ValueError, match="batch_size"):
        fitted(Transformer(width=32, layers=1), loss_sum=loss_sum, limit=24 * MEBIBYTE)
