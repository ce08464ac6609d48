"""Selection inside a batch: the right rows, no trace of scoring them."""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

import batchwright.pacing
from batchwright.errors import LossError
from batchwright.torch import Precision
from batchwright.torch.selection import sample_losses, select, small_loss, top_loss
from batchwright.torch.update.gradient_check import flat_gradient

NAN, INF = math.nan, math.inf

# Few values, so that many are equal.
any_scores = st.lists(
    st.sampled_from((0.0, -0.0, 1.0, 2.0, 2.5, -3.0, NAN, INF, -INF)), min_size=1, max_size=12
).filter(lambda scores: any(map(math.isfinite, scores)))


class Pair(NamedTuple):
    inputs: torch.Tensor
    labels: torch.Tensor


class Noisy(torch.nn.Module):
    """Everything that a pass could leave a trace in."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)
        self.drop = torch.nn.Dropout(0.5)
        self.out = torch.nn.Linear(3, 4)
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("unsaved", torch.zeros(2), persistent=False)

    def forward(self, x):
        self.passes = self.passes + 1  # replaced, where batch normalisation changes in place
        self.unsaved.add_(torch.rand(2))  # random in evaluation mode too
        return self.out(self.drop(self.norm(x)))


def cross_entropy(model, batch):
    return functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def classification(rows=12):
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(rows, 3, generator=generator),
        "y": torch.randint(4, (rows,), generator=generator),
        "scale": 2.0,
    }


def identity(_model, batch):
    return batch


def rows_by_hand(scores, count, by):
    """Take the best row again and again; the first of equal ones."""
    left = [row for row, score in enumerate(scores) if math.isfinite(score)]
    chosen = []
    while left and len(chosen) < count:
        best = left[0]
        for row in left:
            if (scores[row] < scores[best]) if by == "small" else (scores[row] > scores[best]):
                best = row
        left.remove(best)
        chosen.append(best)
    return sorted(chosen)


@given(scores=any_scores, data=st.data(), by=st.sampled_from(("small", "large")))
def test_the_rows_are_those_found_one_by_one(scores, data, by):
    keep = data.draw(st.integers(1, len(scores)))
    batch = torch.arange(len(scores)) * 10
    chosen, rows = select(batch, torch.tensor(scores), keep=keep, by=by)
    assert rows.dtype == torch.int64
    assert rows.tolist() == rows_by_hand(scores, keep, by)
    assert chosen.tolist() == [10 * row for row in rows.tolist()]


@given(numerator=st.integers(1, 100), size=st.integers(1, 100))
def test_a_share_is_rounded_down_but_never_to_nothing(numerator, size):
    exact = max(1, math.floor(Fraction(numerator, 100) * size))
    scores = torch.arange(size)
    for share in (
        numerator / 100,
        np.array(numerator / 100),
        torch.tensor(numerator / 100).double(),
    ):
        assert len(select(scores, scores, keep=share, by="large")[1]) == exact


def test_whole_numbers_of_any_kind_are_rows_and_not_shares():
    scores = torch.arange(5.0)
    for one in (1, np.int64(1), torch.tensor(1)):
        assert select(scores, scores, keep=one, by="large")[1].tolist() == [4]
    assert len(select(scores, scores, keep=1.0, by="large")[1]) == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_scores_of_any_type_are_compared(dtype):
    scores = torch.tensor([3, 1, 2], dtype=dtype)
    assert select(scores, scores, keep=2, by="small")[1].tolist() == [1, 2]


def test_kinds_of_batches_stay_what_they_are():
    rows = torch.arange(4)
    scores = torch.tensor([0.0, 3.0, 1.0, 2.0])
    batch = {"a": rows, "b": (rows[:, None], "text"), "c": 2.0, "d": torch.tensor(5)}
    chosen, _ = select(batch, scores, keep=2, by="large")
    assert chosen["a"].tolist() == [1, 3]
    assert chosen["b"][0].tolist() == [[1], [3]]
    assert chosen["b"][1] == "text"
    assert (chosen["c"], chosen["d"]) == (2.0, torch.tensor(5))
    chosen, _ = select(Pair(rows, rows + 1), scores, keep=2, by="large")
    assert type(chosen) is Pair
    assert chosen.labels.tolist() == [2, 4]
    assert isinstance(select([rows, rows], scores, keep=2, by="large")[0], list)
    chosen, _ = select(rows, scores, keep=2, by="large")
    chosen.zero_()
    assert rows.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("keep", [0, -1, 5, True, 0.0, -0.5, 1.01, NAN, "2", None, [1, 2]])
def test_keep_out_of_range_is_refused(keep):
    scores = torch.arange(4.0)
    message = r"keep=.* of 4 rows: expected an integer from 1 to 4, or a share"
    with pytest.raises(LossError, match=message):
        select(scores, scores, keep=keep, by="small")


def test_scores_that_tell_nothing_are_refused():
    batch = torch.zeros(3, 2)
    with pytest.raises(LossError, match="none of 3 scores is finite"):
        select(batch, torch.tensor([NAN, NAN, INF]), keep=1, by="small")
    for scores, given_ in (
        (torch.zeros(4), r"\[4\]"),
        (torch.zeros(3, 2), r"\[3, 2\]"),
        (torch.tensor(1.0), r"\[\]"),
        ([1.0, 2.0, 3.0], "list"),
    ):
        with pytest.raises(LossError, match=rf"scores are {given_} for a batch of 3 rows"):
            select(batch, scores, keep=1, by="small")
        with pytest.raises(LossError, match=r'reduction="none"'):
            sample_losses(torch.nn.Identity(), lambda _model, _batch, it=scores: it, batch)
    for nothing in ("text", torch.zeros(0), {"a": torch.zeros(2), "b": torch.zeros(3)}):
        with pytest.raises(LossError, match="no rows to choose from"):
            select(nothing, torch.zeros(0), keep=1, by="small")
    with pytest.raises(LossError, match="expected one of 'small', 'large'"):
        select(batch, torch.zeros(3), keep=1, by="largest")


def traces(model):
    return (
        [value.clone() for value in model.buffers()],
        [id(value) for value in model.buffers()],
        [module.training for module in model.modules()],
        [value.grad for value in model.parameters()],
        torch.get_rng_state(),
    )


@pytest.mark.parametrize("fails", [False, True])
def test_scoring_leaves_no_trace(fails):
    torch.manual_seed(0)
    model, batch = Noisy(), classification()
    model.drop.eval()  # a module that is not in the mode of the others
    cross_entropy(model.train(), batch).sum().backward()
    model.drop.eval()

    def losses_of(model, batch):
        losses = cross_entropy(model, batch)
        if fails:
            raise RuntimeError("on the way")
        return losses

    before = traces(model)
    if fails:
        with pytest.raises(RuntimeError, match="on the way"):
            sample_losses(model, losses_of, batch)
    else:
        losses = sample_losses(model, losses_of, batch)
        assert not losses.requires_grad
    after = traces(model)
    assert all(map(torch.equal, after[0], before[0]))
    assert after[1:4] == before[1:4]
    assert torch.equal(after[4], before[4])


def test_dropout_is_off():
    torch.manual_seed(0)
    model, batch = Noisy(), classification()
    expected = cross_entropy(model.eval(), batch)
    torch.testing.assert_close(sample_losses(model.train(), cross_entropy, batch), expected)


def test_half_precision_losses_are_widened():
    losses = sample_losses(torch.nn.Identity(), identity, torch.ones(2, dtype=torch.bfloat16))
    assert losses.dtype == torch.float32


def test_gradients_flow_after_scoring_under_the_same_autocast():
    model, batch = torch.nn.Linear(3, 4), classification()
    with torch.autocast("cpu", torch.bfloat16):
        sample_losses(model, lambda model, batch: model(batch["x"]).float().sum(1), batch)
        model(batch["x"]).float().sum().backward()
    assert model.weight.grad is not None


def test_the_wrappers_choose_by_what_they_say():
    torch.manual_seed(0)
    model, batch = Noisy().eval(), classification()
    losses = cross_entropy(model, batch).tolist()
    for (chosen, rows), expected in (
        (top_loss(model, cross_entropy, batch, keep=5), rows_by_hand(losses, 5, "large")),
        (small_loss(model, cross_entropy, batch, keep=5), rows_by_hand(losses, 5, "small")),
    ):
        assert rows.tolist() == expected
        assert torch.equal(chosen["x"], batch["x"][expected])
        assert torch.equal(chosen["y"], batch["y"][expected])


@pytest.mark.parametrize(("progress", "kept"), [(0.0, 12), (0.5, 9), (1.0, 7)])
def test_a_keep_rate_is_a_pacing(progress, kept):
    rate = batchwright.pacing.keep_rate(0.4, reach=1.0)
    assert len(small_loss(Noisy(), cross_entropy, classification(), keep=rate(progress))[1]) == kept


def test_an_update_takes_the_chosen_rows():
    torch.manual_seed(0)
    model, batch = torch.nn.Sequential(torch.nn.Linear(3, 4)), classification()
    chosen, rows = small_loss(model, cross_entropy, batch, keep=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with Precision("fp32").update(model, optimizer, weight=4) as update:
        update.backward(lambda model, batch: cross_entropy(model, batch).sum(), chosen)
    expected = torch.autograd.grad(cross_entropy(model, batch)[rows].mean(), model.parameters())
    torch.testing.assert_close(
        flat_gradient(model), torch.cat([each.flatten() for each in expected]).double(),
        check_dtype=False,
    )  # fmt: skip
