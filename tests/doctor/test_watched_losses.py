"""What the graph of a loss tells of its reduction."""

import pytest
import torch
from torch.nn import functional

from batchwright.doctor.watch.losses import facts_of

SCORES = torch.randn(6, 5, requires_grad=True)
TARGETS = torch.tensor([0, 1, 2, 3, -100, -100])


def told(loss):
    facts = facts_of(loss)
    counted = None if facts.counted is None else int(facts.counted)
    factor = None if facts.factor is None else pytest.approx(facts.factor)
    return facts.reduction, factor, counted


def mean():
    return functional.cross_entropy(SCORES, TARGETS)


def test_a_mean_counts_the_targets_that_are_not_left_out():
    assert told(mean()) == ("mean", 1.0, 4)


def test_factors_on_the_way_are_found():
    assert told(mean() / 4) == ("mean", 0.25, 4)
    assert told(mean() * 0.5 / 4) == ("mean", 0.125, 4)
    assert told(1024 * mean()) == ("mean", 1024.0, 4)
    assert told(mean() * torch.tensor(65536.0)) == ("mean", 65536.0, 4)


def test_a_sum_over_a_count_is_a_sum_with_a_factor():
    loss = functional.cross_entropy(SCORES, TARGETS, reduction="sum")
    assert told(loss / torch.tensor(40)) == ("sum", 1 / 40, 4)


def test_losses_of_each_target_are_known_by_what_reduces_them():
    each = functional.cross_entropy(SCORES, TARGETS, reduction="none")
    assert told(each.mean()) == ("mean", 1.0, 6)
    assert told(each.sum() / 4)[:2] == ("sum", 0.25)
    assert told((each * (TARGETS >= 0)).sum() / (TARGETS >= 0).sum())[:2] == ("sum", 0.25)


def test_other_losses_count_their_targets():
    x = torch.randn(3, 2, requires_grad=True)
    y = torch.rand(3, 2)
    assert told(functional.mse_loss(x, y)) == ("mean", 1.0, 6)
    assert told(functional.binary_cross_entropy_with_logits(x, y)) == ("mean", 1.0, 6)


def test_nothing_is_said_of_losses_that_are_added():
    assert told(mean() + SCORES.pow(2).mean()) == (None, None, None)
    assert told(mean() * SCORES.mean()) == (None, None, None)
