"""Measured costs: the fit, and that it tells attention from the rest."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.torch import fit_cost
from batchwright.torch.update.measuring import fitted
from tests.torch.attention_model import Attention

coefficients = st.floats(0, 10).map(lambda x: 0.0 if x < 1e-3 else x)


@given(a=coefficients, b=coefficients, c=coefficients)
def test_the_fit_finds_the_coefficients_of_exact_times(a, b, c):
    lengths = np.array([1, 3, 10, 30, 100, 300.0])
    seconds = a + b * lengths + c * lengths**2
    if not seconds.min() > 0:
        return
    found = bw.CostModel(*fitted(lengths, seconds)) if any((a, b, c)) else None
    assert found(lengths) == pytest.approx(seconds, rel=0.05)
    assert min(found.a, found.b, found.c) >= 0


@given(seed=st.integers(0, 999))
def test_noise_makes_no_negative_cost(seed):
    rng = np.random.default_rng(seed)
    lengths = np.array([8, 16, 64, 256, 1024.0])
    seconds = (1e-3 + 1e-5 * lengths) * rng.uniform(0.5, 2, 5)
    assert min(fitted(lengths, seconds)) >= 0
    assert max(fitted(lengths, seconds)) > 0


@pytest.mark.slow
def test_a_model_is_measured_and_left_as_it_was():
    torch.manual_seed(0)
    model = torch.nn.Sequential(Attention(), torch.nn.Flatten(0, 1), torch.nn.BatchNorm1d(50))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    measured = fit_cost(
        model,
        lambda model, tokens: model(tokens).float().square().sum(),
        lambda rows, length: torch.full((rows, length), 3),
        lengths=[4, 17, 40],
        max_tokens=160,
        rounds=3,
    )
    assert measured.lengths[0] == 4
    assert measured.lengths[-1] == 40
    assert measured.rows.tolist() == (160 // measured.lengths).tolist()
    assert (measured.seconds > 0).all()
    assert (measured.cost(measured.lengths) > 0).all()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert all(each.grad is None for each in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    planner = bw.Planner(
        np.random.default_rng(0).integers(4, 41, 200),
        batching=bw.TokenBudget(160),
        world_size=2,
        cost=measured.cost,
    )
    assert len(planner(0)) == len(planner)


def test_bad_input():
    model = torch.nn.Linear(2, 1)

    def loss_sum(model, batch):
        return model(batch).sum()

    with pytest.raises(bw.errors.BudgetError, match="below one row of the longest length, 50"):
        fit_cost(model, loss_sum, lambda *_: None, lengths=[3, 50], max_tokens=40)
    with pytest.raises(bw.errors.BudgetError, match="made a batch of 7 rows"):
        fit_cost(model, loss_sum, lambda *_: torch.ones(7, 2), lengths=[2, 4], max_tokens=40)
    with pytest.raises(bw.errors.BudgetError, match="rounds=0"):
        fit_cost(model, loss_sum, lambda *_: None, lengths=[2], max_tokens=40, rounds=0)
