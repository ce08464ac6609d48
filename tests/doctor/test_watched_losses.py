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


def test_a_loss_of_torch_is_known_beside_terms_that_are_added():
    extra = SCORES.pow(2).mean()
    for loss, part in (
        (mean() + 0.01 * extra, 1.0),
        (0.01 * extra + mean() + extra, 1.0),
        (torch.add(extra, mean(), alpha=0.5), 0.5),
        (mean() - 0.1 * extra, 1.0),
        (extra - mean(), -1.0),
        (0.9 * mean() + 0.1 * extra, 0.9),
        (functional.cross_entropy(SCORES, TARGETS, label_smoothing=0.1), 0.9),
    ):
        for factor in (1.0, 0.25):
            assert told(factor * loss) == ("mean", factor * part, 4)
            assert facts_of(factor * loss).part == pytest.approx(part)
    assert facts_of(mean() / 4).part is None


def test_numbers_that_are_added_change_nothing():
    assert told(sum([mean()]) / 4 + 1e-8) == ("mean", 0.25, 4)
    assert facts_of(sum([mean()])).part is None


@pytest.mark.parametrize(
    "loss",
    [
        lambda: mean() + functional.cross_entropy(SCORES[:2], TARGETS[:2]),  # which one?
        lambda: SCORES.pow(2).mean() + SCORES.abs().mean(),
        lambda: mean() * SCORES.mean(),
        lambda: mean() + mean() * SCORES.mean() + mean(),
        lambda: sum(mean() if n == 0 else SCORES.mean() for n in range(10)),  # far from the root
    ],
    ids=["two losses", "none", "a product", "two and a product", "too deep"],
)
def test_nothing_is_said_of_losses_that_are_not_one(loss):
    assert told(loss()) == (None, None, None)


def test_a_mean_that_is_written_by_hand_may_have_its_sign_anywhere():
    log = functional.log_softmax(SCORES, 1)[range(4), TARGETS[:4]]
    assert told((-log).mean() / 2) == told(-log.mean() / 2) == ("mean", 0.5, 4)


def test_what_a_mean_leaves_out_by_a_mask_is_not_counted():
    each = functional.cross_entropy(SCORES, TARGETS, reduction="none")
    mask = TARGETS >= 0
    assert told((each * mask).mean()) == ("mean", 1.0, None)
    assert told((-each * mask.float() * 2).mean()) == ("mean", 1.0, None)
    assert told(torch.where(mask, each, 0.0).mean()) == ("mean", 1.0, None)
    assert told(each.masked_fill(~mask, 0.0).mean()) == ("mean", 1.0, None)
    assert told(each[mask].mean()) == ("mean", 1.0, 4)
    assert told((SCORES - 1).pow(2).mean()) == ("mean", 1.0, 30)
    assert told((SCORES * SCORES).mean()) == ("mean", 1.0, 30)
