"""Selection inside a batch: score many candidates, train on few.

The weight of an update is what the *selected* rows weigh:

    chosen = [small_loss(model, losses_of, batch, keep=rate)[0] for batch in window]
    with precision.update(model, optimizer, weight=sum(map(label_count, chosen))) as update:
        for batch in chosen:
            update.backward(loss_sum, batch)

Each rank selects among its own rows. Scoring takes about a third of a training step on the
candidates, which a comparison has to count.
"""

import math
import operator
from collections.abc import Callable
from typing import Literal, SupportsFloat, SupportsIndex, TypeAlias

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

from batchwright._checks import check_choice
from batchwright.errors import LossError, UpdateError
from batchwright.torch.data.rows import count_rows, select_rows
from batchwright.torch.update.passes import evaluating, untouched
from batchwright.typing import Batch

__all__ = ["sample_losses", "select", "small_loss", "top_loss"]

LossesOf: TypeAlias = Callable[[Module, Batch], Tensor]
"""``(model, batch) → float[rows]``, the loss of each row."""

Keep: TypeAlias = SupportsIndex | SupportsFloat
"""How many rows are kept: an integer; or a share, a float above 0 and at most 1, rounded down."""

Selected: TypeAlias = tuple[Batch, Tensor]
"""A smaller batch, and int64[k], its rows in the larger one."""


def select(batch: Batch, scores: Tensor, *, keep: Keep, by: Literal["small", "large"]) -> Selected:
    """Keep the rows of a batch with the smallest or the largest scores, in their order.

    Of equal scores the first rows are kept. A score that is not finite is never selected, even if
    fewer rows than asked for are left. Scores can be anything: RHO-LOSS (S. Mindermann et al.,
    2022, arXiv:2206.07137) takes `sample_losses` less those of a model trained on other data.

    Args:
        batch: A tensor, or a dict, tuple or dataclass of tensors with the rows in dimension 0 and
            lists with one entry a row.
        scores: float[rows].
        keep: An integer: that many rows. A float: that share of the rows, above 0 and at most 1,
            rounded down, but at least one row; 1.0 keeps all.
        by: ``"small"`` or ``"large"``.

    Raises:
        LossError: If there are no rows, `scores` is not one number for each, none is finite, or
            `keep` is out of range.

    Example:
        >>> batch = {"x": torch.arange(4), "scale": 2.0}
        >>> chosen, rows = select(batch, torch.tensor([3.0, 1.0, 1.0, 2.0]), keep=0.5, by="large")
        >>> chosen["x"].tolist(), chosen["scale"], rows.tolist()
        ([0, 3], 2.0, [0, 3])
    """
    check_choice("select", "by", by, ("small", "large"), LossError)
    scores = _checked(batch, scores)
    count = _count(keep, scores.numel())
    finite = scores.isfinite().nonzero().flatten()
    if not finite.numel():
        raise LossError(
            f"none of {scores.numel()} scores is finite: expected at least one. Look for NaN in "
            "the batch, or lower the learning rate."
        )
    order = scores[finite].sort(descending=by == "large", stable=True).indices
    rows = finite[order[:count]].sort().values
    return select_rows(batch, rows), rows


def sample_losses(model: Module, losses_of: LossesOf, batch: Batch) -> Tensor:
    """Score the rows of a batch, float[rows], by a forward pass in evaluation mode.

    Modes, buffers and gradients of the model and the states of random generators are left as they
    were. DistributedDataParallel is bypassed, so no rank waits for another; with sharded models
    every rank has to score at the same time.

    Raises:
        LossError: If the losses are not one number for each row.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5))
        >>> _ = torch.nn.init.ones_(model[0].weight), torch.nn.init.zeros_(model[0].bias)
        >>> squares = lambda model, batch: model(batch).square().sum(1)
        >>> sample_losses(model, squares, torch.tensor([[1.0], [2.0]])), model.training
        (tensor([1., 4.]), True)
    """
    local = model.module if isinstance(model, DistributedDataParallel) else model
    try:
        with torch.no_grad(), untouched(local), evaluating(local):
            losses = losses_of(local, batch)
    finally:
        # Else an autocast around this call hands weights without a gradient to the next pass.
        torch.clear_autocast_cache()
    return _checked(batch, losses)


def top_loss(model: Module, losses_of: LossesOf, batch: Batch, *, keep: Keep) -> Selected:
    """Keep the rows with the largest losses: online hard example mining, for clean labels.

    Source: A. Shrivastava et al., *… Online Hard Example Mining*, 2016, arXiv:1604.03540.
    """
    return select(batch, sample_losses(model, losses_of, batch), keep=keep, by="large")


def small_loss(model: Module, losses_of: LossesOf, batch: Batch, *, keep: Keep) -> Selected:
    """Keep the rows with the smallest losses: where labels are wrong, mostly the right ones.

    Keep all at first, as `batchwright.pacing.keep_rate` does. In Co-teaching, each of two models
    trains on what the other one selected: pass that one.

    Example:
        >>> batch = torch.tensor([3.0, 1.0, 2.0, 9.0, 4.0])
        >>> small_loss(torch.nn.Identity(), lambda model, x: model(x), batch, keep=0.6)
        (tensor([3., 1., 2.]), tensor([0, 1, 2]))

    Source: B. Han et al., *Co-teaching*, 2018, arXiv:1804.06872, algorithm 1.
    """
    return select(batch, sample_losses(model, losses_of, batch), keep=keep, by="small")


def _checked(batch: Batch, scores: object) -> Tensor:
    """Return scores as float32 or wider without a gradient, one for each row."""
    try:
        rows = count_rows(batch)
    except UpdateError as error:
        raise LossError(f"no rows to choose from: {error}") from error
    if not rows:
        raise LossError("no rows to choose from: the batch is empty.")
    if not isinstance(scores, Tensor) or scores.shape != (rows,):
        given = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise LossError(
            f"scores are {given} for a batch of {rows} rows: expected a tensor [{rows}], one "
            'number for each (reduction="none", then the sum over everything but the rows).'
        )
    return scores.detach().to(torch.promote_types(scores.dtype, torch.float32))


def _count(keep: object, rows: int) -> int:
    """Return how many rows are kept."""
    try:
        count = operator.index(keep)  # type: ignore[arg-type]  # others raise
    except TypeError:
        share = float(keep) if isinstance(keep, SupportsFloat) else math.nan
        # Rounded first: 0.29 · 100 is 28.999….
        count = max(1, math.floor(round(share * rows, 4))) if 0 < share <= 1 else 0
    if 1 <= count <= rows and not isinstance(keep, bool):
        return count
    raise LossError(
        f"keep={keep!r} of {rows} rows: expected an integer from 1 to {rows}, or a share above 0 "
        "and at most 1 (a float: 1.0 keeps all)."
    )
