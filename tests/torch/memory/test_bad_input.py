"""Errors that say what was given, what was expected and what to do."""

import pytest
import torch
from torch import nn

from batchwright.errors import BudgetError, LengthsError, LossError
from benchmarks.memory_prediction import Transformer, language_batch, language_loss
from tests.torch.memory.networks import MEBIBYTE, fitted


@pytest.fixture
def model():
    return Transformer(width=16, layers=1)


def test_batches_of_other_rows(model):
    with pytest.raises(BudgetError, match=r"make_batch\(rows=2, length=16\).*\[3, 16\].*2 rows"):
        fitted(model, make_batch=lambda rows, length: language_batch(rows + 1, length))


def test_batches_without_a_tensor(model):
    with pytest.raises(BudgetError, match="str: no tensor; expected"):
        fitted(model, make_batch=lambda rows, length: "x" * (rows * length))


def test_batches_that_do_not_grow_with_their_length(model):
    with pytest.raises(BudgetError, match=r"make_batch\(2, 128\) returned 64 elements"):
        fitted(model, make_batch=lambda rows, _: language_batch(rows, 16))


def test_a_loss_that_is_no_scalar(model):
    with pytest.raises(LossError, match=r"\[2, 16, 2000\].*one number"):
        fitted(model, loss_sum=lambda model, batch: model(batch[0]))


def test_a_loss_without_a_gradient(model):
    with pytest.raises(LossError, match="without a gradient"):
        fitted(model, loss_sum=lambda model, batch: language_loss(model, batch).detach())


def test_a_limit_below_the_state(model):
    with pytest.raises(BudgetError, match="optimizer state alone take"):
        fitted(model, limit=100_000)


@pytest.mark.slow
def test_a_limit_below_one_row():
    model = Transformer(width=16, layers=1, keeps_scores=True)
    with pytest.raises(BudgetError, match=r"below one row of length 900.*attention scores"):
        fitted(model, lengths=[16, 900], limit=8 * MEBIBYTE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit=0"),
        ({"limit": 1.5}, "limit=1.5"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"margin": -0.1}, "margin=-0.1"),
        ({"margin": 1.0}, "margin=1.0"),
    ],
)
def test_settings_that_make_no_sense(model, options, message):
    with pytest.raises(BudgetError, match=message):
        fitted(model, **options)


def test_lengths_that_are_none(model):
    with pytest.raises(LengthsError, match="empty"):
        fitted(model, lengths=[])


def test_a_model_on_no_device():
    with pytest.raises(BudgetError, match="on no device: it has none"):
        fitted(nn.Identity(), torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))


def test_a_model_on_two_devices(model):
    model.head = nn.Linear(16, 2_000, device="meta")
    with pytest.raises(BudgetError, match="cpu, meta; expected one device"):
        fitted(model)


def test_a_model_that_cannot_be_copied(model):
    model.kept = torch.zeros(1, requires_grad=True) * 2  # deepcopy refuses what has a history
    with pytest.raises(BudgetError, match="cannot be copied"):
        fitted(model)


@pytest.mark.parametrize("name", ["peak", "explain"])
def test_shapes_that_are_none(model, name):
    memory = fitted(model, confirm=False)
    with pytest.raises(BudgetError, match=r"\(rows=0\)"):
        getattr(memory, name)(0, 5)
    with pytest.raises(BudgetError, match="max_batch"):
        memory.max_batch(0)
