"""Selection inside a batch: score many candidates, train on few.

The weight of an update is what the *selected* rows weigh:

    chosen = [small_loss(model, losses_of, batch, keep=rate)[0] for batch in window]
    with precision.update(model, optimizer, weight=sum(map(label_count, chosen))) as update:
        for batch in chosen:
            update.backward(loss_sum, batch)

Each rank selects among its own rows. A comparison has to count the pass over the candidates, about
a third of a training step on them: see `pays`.
"""

import math
import operator
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal, SupportsFloat, SupportsIndex, TypeAlias

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

from batchwright.errors import LossError, UpdateError
from batchwright.torch.data.rows import count_rows, select_rows
from batchwright.torch.update.passes import evaluating, untouched
from batchwright.typing import Batch, Field

LossesOf: TypeAlias = Callable[[Any, Any], Tensor]
"""``(model, batch) → float[rows]``, the loss of each row."""

Keep: TypeAlias = SupportsIndex | SupportsFloat
"""How many rows are kept: an integer; or a share, a float above 0 and at most 1, rounded down."""

Selected: TypeAlias = tuple[Any, Tensor]
"""A smaller batch, and int64[k], its rows in the larger one."""


def select(batch: Batch, scores: Tensor, *, keep: Keep, by: Literal["small", "large"]) -> Selected:
    """Keep the rows of a batch with the smallest or the largest scores, in their order.

    Of equal scores the first rows are kept. A score that is not finite is never selected, even if
    fewer rows than asked for are left. O(rows · log rows).

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
    if by not in {"small", "large"}:
        raise LossError(f'select(by={by!r}): expected "small" or "large".')
    scores = _scores_of(batch, scores)
    count = _count(keep, scores.numel())
    candidates = _finite_rows(scores)
    order = scores[candidates].sort(descending=by == "large", stable=True).indices
    rows = candidates[order[:count]].sort().values
    return select_rows(batch, rows), rows


def sample_losses(
    model: Module, losses_of: LossesOf, batch: Batch, *, training: bool = False
) -> Tensor:
    """Score the rows of a batch, float[rows], by a forward pass without a gradient.

    Modes, buffers and gradients of the model and the states of random generators are left as they
    were: a run that scores draws the same dropout as one that does not.

    Args:
        model: The model. DistributedDataParallel is bypassed, so no rank waits for another; sharded
            models need every rank to score at the same time.
        losses_of: ``(model, batch) → float[rows]``: a loss, or any other score, of each row.
        batch: The candidates.
        training: Keep each module in its mode. False: everything in evaluation mode.

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
    mode = nullcontext() if training else evaluating(local)
    try:
        with torch.no_grad(), untouched(local), mode:
            losses = losses_of(local, batch)
    finally:
        # Else an autocast around this call hands weights without a gradient to the next pass.
        torch.clear_autocast_cache()
    return _scores_of(batch, losses)


def top_loss(model: Module, losses_of: LossesOf, batch: Batch, *, keep: Keep) -> Selected:
    """Keep the rows with the largest losses: online hard example mining.

    For clean data: where labels are wrong, those are the rows that it keeps. Arguments, results
    and errors are those of `sample_losses` and `select`.

    Source: A. Shrivastava et al., *… Online Hard Example Mining*, 2016, arXiv:1604.03540.
    """
    return select(batch, sample_losses(model, losses_of, batch), keep=keep, by="large")


def small_loss(model: Module, losses_of: LossesOf, batch: Batch, *, keep: Keep) -> Selected:
    """Keep the rows with the smallest losses: where labels are wrong, mostly the right ones.

    Keep all at first, as `batchwright.pacing.keep_rate` does. In Co-teaching, each of two models
    trains on what the other one selected: pass that one. Arguments, results and errors are those of
    `sample_losses` and `select`.

    Example:
        >>> batch = torch.tensor([3.0, 1.0, 2.0, 9.0, 4.0])
        >>> small_loss(torch.nn.Identity(), lambda model, x: model(x), batch, keep=0.6)
        (tensor([3., 1., 2.]), tensor([0, 1, 2]))

    Source: B. Han et al., *Co-teaching*, 2018, arXiv:1804.06872, algorithm 1.
    """
    return select(batch, sample_losses(model, losses_of, batch), keep=keep, by="small")


def rho(
    model: Module, losses_of: LossesOf, batch: Batch, irreducible: Tensor, *, keep: Keep
) -> Selected:
    """Keep the rows whose loss can be reduced the most: RHO-LOSS.

    What a model that was trained on other data cannot predict either is noise: `irreducible`,
    float[rows], is each row's loss under such a model, as `batchwright.difficulty.out_of_fold`
    makes it. The source takes ten times as many candidates as it keeps.

    Example:
        >>> batch, noise = torch.tensor([1.0, 5.0, 3.0]), torch.tensor([0.5, 5.0, 1.0])
        >>> rho(torch.nn.Identity(), lambda model, x: model(x), batch, noise, keep=1)
        (tensor([3.]), tensor([2]))

    Source: S. Mindermann et al., *Prioritized Training …*, 2022, arXiv:2206.07137.
    """
    floor = _scores_of(batch, irreducible, name="irreducible")
    losses = sample_losses(model, losses_of, batch)
    return select(batch, losses - floor.to(losses.device), keep=keep, by="large")


def importance(
    batch: Batch, scores: Tensor, *, keep: Keep, generator: torch.Generator
) -> tuple[Any, Tensor, Tensor]:
    """Draw rows in proportion to their scores, with weights that keep the gradient unbiased.

    The expectation of ``(weights · losses).sum() / k`` is the mean loss over the candidates, so the
    weight of the update is k (for a mean over tokens, times the candidates' tokens a row). Put the
    weights into the batch, so that they are split with it. The variance is smallest where scores
    are the norms of the rows' gradients; the source takes ``‖softmax(logits) − one_hot(label)‖``
    for cross entropy. Rows are drawn with replacement. A score of 0 is never drawn, unless all are
    0; one that is not finite is no candidate.

    Args:
        batch: The candidates; see `select`.
        scores: float[rows], 0 or more.
        keep: Rows to draw, k, or their share of the candidates.
        generator: The only source of random numbers.

    Returns:
        The drawn rows as a batch; int64[k], their numbers; float[k], their weights,
        1 ÷ (candidates · probability of the row).

    Raises:
        LossError: As `select` does, and if a score is negative.

    Example:
        >>> batch, scores = {"x": torch.arange(4)}, torch.tensor([0.0, 1.0, 2.0, 1.0])
        >>> generator = torch.Generator().manual_seed(0)
        >>> drawn, rows, weights = importance(batch, scores, keep=3, generator=generator)
        >>> bool((weights == 1 / scores[rows]).all()), drawn["x"].tolist() == rows.tolist()
        (True, True)

    Source: A. Katharopoulos, F. Fleuret, *Not All Samples Are Created Equal: Deep Learning with
    Importance Sampling*, 2018, arXiv:1803.00942.
    """
    scores = _scores_of(batch, scores)
    count = _count(keep, scores.numel())
    candidates = _finite_rows(scores)
    chances = _chances(scores[candidates])
    uniform = torch.empty(count, dtype=torch.float64, device=generator.device)
    drawn = _drawn(chances, uniform.uniform_(generator=generator).to(scores.device))
    weights = (1 / (candidates.numel() * chances[drawn])).to(scores.dtype)
    rows = candidates[drawn]
    return select_rows(batch, rows), rows, weights


def pays(scores: Tensor, *, keep: Keep, forward_share: float = 1 / 3) -> bool:
    """Check whether importance sampling is worth its forward pass, by these scores.

    τ = √(mean of squares) ÷ mean is the root mean square of a row's gradient, drawn uniformly ÷
    drawn by scores. By the source, scoring B rows is worth it if forward_share · B + k < τ · k.
    (Variance falls with the number of rows: it would be τ² · k.) One batch is noisy: ask several.

    Args:
        scores: float[B], 0 or more; those that are not finite do not count for τ.
        keep: Rows to draw, k, or their share of the candidates.
        forward_share: Cost of scoring a row ÷ of training on it. 1/3: backward costs two forward.

    Raises:
        LossError: If a score is negative, none is finite, or a setting is out of range.

    Example:
        >>> pays(torch.ones(8), keep=2), pays(torch.tensor([9.0] + 15 * [0.1]), keep=8)
        (False, True)

    Source: Katharopoulos and Fleuret, 2018, arXiv:1803.00942: τ > (B + 3k) ÷ 3k.
    """
    if not 0 <= forward_share < math.inf:
        raise LossError(
            f"pays(forward_share={forward_share!r}): expected a cost of 0 or more, about 1/3."
        )
    scores = _scores_of(scores, scores)
    count = _count(keep, scores.numel())
    chances = _chances(scores[_finite_rows(scores)])
    gain = math.sqrt(chances.numel() * float(chances.square().sum()))
    return gain > 1 + forward_share * scores.numel() / count


def _scores_of(batch: Batch, scores: Field, *, name: str = "scores") -> Tensor:
    """Return scores as float32 or wider without a gradient; raise unless there is one a row."""
    try:
        rows = count_rows(batch)
    except UpdateError as error:
        raise LossError(f"no rows to choose from: {error}") from error
    if not rows:
        raise LossError("no rows to choose from: the batch is empty.")
    if not isinstance(scores, Tensor) or scores.shape != (rows,):
        given = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise LossError(
            f"{name} are {given} for a batch of {rows} rows: expected a tensor [{rows}], one "
            'number for each (reduction="none", then the sum over everything but the rows).'
        )
    return scores.detach().to(torch.promote_types(scores.dtype, torch.float32))


def _count(keep: Any, rows: int) -> int:
    """Return how many rows are kept."""
    try:
        count = operator.index(keep)
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


def _finite_rows(scores: Tensor) -> Tensor:
    """Return the rows that may be chosen, int64[m]."""
    rows = scores.isfinite().nonzero().flatten()
    if not rows.numel():
        raise LossError(
            f"none of {scores.numel()} scores is finite: expected at least one. Look for NaN in "
            "the batch, or lower the learning rate."
        )
    return rows


def _chances(scores: Tensor) -> Tensor:
    """Return probabilities in proportion to scores, float64[m]; equal ones if all are 0."""
    if (least := float(scores.min())) < 0:
        raise LossError(f"a score of {least:g}: expected 0 or more, to draw in proportion to it.")
    wide = scores.double()
    # The largest becomes 1 first: sums and squares neither overflow nor vanish.
    largest = wide.max()
    wide = wide / largest if largest > 0 else torch.ones_like(wide)
    return wide / wide.sum()


def _drawn(chances: Tensor, uniform: Tensor) -> Tensor:
    """Invert the distribution at numbers in [0, 1): int64[k], never one of probability 0."""
    possible = chances.nonzero().flatten()
    bounds = chances[possible].cumsum(0)
    places = torch.searchsorted(bounds, uniform * bounds[-1], right=True)
    # A product that was rounded up to the last bound.
    return possible[places.clamp(max=possible.numel() - 1)]
