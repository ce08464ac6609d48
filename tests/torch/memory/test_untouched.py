"""Fitting leaves everything as it was: bit by bit, and object by object."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.memory_prediction import VOCABULARY, Transformer, language_batch, language_loss
from tests.torch.memory.networks import MEBIBYTE, fitted


class Counting(nn.Module):
    """Has everything that a step may change: dropout, running statistics, a plain attribute."""

    def __init__(self, *, peeks):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, VOCABULARY)
        self.register_buffer("seen", torch.zeros(1))
        self.steps = 0
        self.peeks = peeks

    def forward(self, tokens):
        self.steps += 1
        self.seen += tokens.shape[0]
        x = self.norm(self.embed(tokens).transpose(1, 2)).transpose(1, 2)
        if self.peeks and x.sum().item() == 123.0:
            x = x * 2
        return self.head(self.drop(x))


def noisy_batch(rows, length):
    """Draws from every global generator, as a careless dataset does."""
    random.random()  # noqa: S311
    np.random.rand()  # noqa: NPY002
    return language_batch(rows, length)


def random_states():
    numpy_state = np.random.get_state()  # noqa: NPY002
    return (
        torch.get_rng_state().tolist(),
        numpy_state[1].tolist(),
        numpy_state[2],
        random.getstate(),
    )


@pytest.mark.parametrize("trained", [False, True], ids=["new", "trained"])
@pytest.mark.parametrize("peeks", [False, True], ids=["fake", "measured"])
def test_nothing_is_changed(peeks, trained):
    torch.manual_seed(0)
    model = Counting(peeks=peeks)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    if trained:
        for _ in range(2):
            language_loss(model, language_batch(2, 5)).backward()
            optimizer.step()
            scheduler.step()
    model.head.weight.grad = torch.full_like(model.head.weight, 3.0)
    gradient = model.head.weight.grad
    model.drop.eval()
    identities = [id(each) for each in [*model.parameters(), *model.buffers()]]
    storages = [each.data_ptr() for each in [*model.parameters(), *model.buffers()]]
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    steps, modes = model.steps, [module.training for module in model.modules()]
    randomness = random_states()

    memory = fitted(model, optimizer, make_batch=noisy_batch, limit=16 * MEBIBYTE)

    assert memory.how == ("measured" if peeks else "fake")
    after = (model.state_dict(), optimizer.state_dict(), scheduler.state_dict())
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert [id(each) for each in [*model.parameters(), *model.buffers()]] == identities
    assert [each.data_ptr() for each in [*model.parameters(), *model.buffers()]] == storages
    assert model.head.weight.grad is gradient
    assert (gradient == 3.0).all()
    assert model.embed.weight.grad is None or trained
    assert model.steps == steps
    assert [module.training for module in model.modules()] == modes
    assert random_states() == randomness
    assert getattr(optimizer, "_opt_called", False) == trained
    assert optimizer.param_groups[0]["params"][0] is next(model.parameters())


def test_a_failing_step_leaves_the_model_as_it_was():
    model = Counting(peeks=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copy.deepcopy(model.state_dict())
    calls = []

    def failing(inner, batch):
        calls.append(batch[0].shape)
        if type(batch[0]) is torch.Tensor and len(batch[0]) > 2:
            raise RuntimeError("out of luck")
        return language_loss(inner, batch)

    with pytest.raises(RuntimeError, match="out of luck"):
        fitted(model, optimizer, failing)
    assert len(calls) > 8  # all of the fake ones, and one or two real ones
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not optimizer.state


def test_a_module_that_only_the_loss_uses_is_not_changed():
    model, teacher = Transformer(width=16, layers=1), nn.BatchNorm1d(VOCABULARY)

    def loss_sum(inner, batch):
        logits = inner(batch[0]).flatten(0, 1)
        return (logits - teacher(logits)).square().sum()

    before = copy.deepcopy(teacher.state_dict())
    memory = fitted(model, loss_sum=loss_sum)
    assert len(memory.findings.confirmations) == 2  # steps that ran for real
    torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)
    assert all(each.grad is None for each in teacher.parameters())


@pytest.mark.slow
def test_a_model_in_evaluation_mode_is_fitted_as_it_trains():
    training = fitted(Transformer(width=32, layers=1), confirm=False)
    model = Transformer(width=32, layers=1).eval()
    assert fitted(model, confirm=False).peak(8, 64) == training.peak(8, 64)
    assert not model.training


def test_the_result_holds_no_tensor():
    memory = fitted(Transformer(width=32, layers=1), confirm=False)
    data = pickle.dumps(memory)
    assert len(data) < 20_000
    assert pickle.loads(data) == memory  # noqa: S301 (our own)
