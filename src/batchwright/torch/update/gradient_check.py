"""How far a training loop's gradient is from the one of the mean over everything."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch

from batchwright.errors import LossError
from batchwright.torch.data.rows import num_rows
from batchwright.torch.update.passes import FixedRandomness, LossSum, untouched
from batchwright.torch.update.ranks import ranks_of
from batchwright.torch.windows import LabelCounter
from batchwright.typing import Batch


@dataclass(frozen=True)
class GradientErrors:
    """Relative errors of a window's gradient, by how its batches are averaged.

    Each is the norm of the difference to the exact gradient, over the norm of that.
    """

    mean_of_means: float  # each batch's mean loss, averaged over batches: what most loops do
    by_samples: float  # each batch's mean loss, weighted by its samples
    exact: float  # the sum of the loss over the sum of the weights, batch after batch
    present: float | None = None  # of the loop that was given; None: none was


def check_gradient(
    model: torch.nn.Module,
    window: Iterable[Batch],
    loss_sum: LossSum,
    *,
    weigh: Callable[[Batch], float] | None = None,
    present: Callable[[torch.nn.Module, list[Batch]], None] | None = None,
) -> GradientErrors:
    """Measure how far the usual ways of averaging are off, on a window of the user's own.

    The model runs in its own mode, with random numbers replaced by constants, as dropout would
    hide the difference. It is left as it was, gradients included. About four passes over the
    window.

    Args:
        model: The model; of one in DistributedDataParallel, this rank's copy is looked at, and
            `present` gets the wrapper.
        window: The batches of one update.
        loss_sum: ``(model, batch) → the sum of the loss``.
        weigh: What a batch weighs; see `windows`.
        present: The user's own loop, ``(model, batches)``, which leaves its gradient in the
            parameters: to be compared too. Its scale counts.

    Raises:
        LossError: If the window is empty, or weighs nothing.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> loss_sum = lambda model, batch: model(batch).square().sum()
        >>> errors = check_gradient(model, [torch.ones(1, 2), 3 * torch.ones(9, 2)], loss_sum)
        >>> errors.exact < 1e-6 < errors.mean_of_means
        True
    """
    batches = list(window)
    counter = LabelCounter()
    counter.look(batches)
    weights = [float((counter if weigh is None else weigh)(batch)) for batch in batches]
    if not batches or not sum(weights) > 0:
        raise LossError(f"a window of {len(batches)} batches that weighs {sum(weights)}: nothing.")
    samples = [float(num_rows(batch) or 1) for batch in batches]
    means = [1 / max(weight, 1e-30) for weight in weights]
    local = ranks_of(model).model

    def of(batches: Sequence[Batch], factors: Sequence[float]) -> torch.Tensor:
        local.zero_grad(set_to_none=True)
        for batch, factor in zip(batches, factors, strict=True):
            torch.autograd.backward(loss_sum(local, batch).float() * factor)
        return flat_gradient(local)

    def error(gradient: torch.Tensor) -> float:
        return relative_error(gradient, reference)

    with untouched(local), FixedRandomness():  # type: ignore[no-untyped-call]
        # Added up in double precision, each batch from a pass of its own.
        sums = reduce(torch.add, (of([batch], [1.0]) for batch in batches))
        reference = sums / sum(weights)
        shares = [each / sum(samples) for each in samples]
        exact = error(of(batches, [1 / sum(weights)] * len(batches)))
        of_means = error(of(batches, [mean / len(batches) for mean in means]))
        by_samples = error(of(batches, [m * s for m, s in zip(means, shares, strict=True)]))
        own = None
        if present is not None:
            local.zero_grad(set_to_none=True)
            present(model, batches)
            own = error(flat_gradient(local))
    return GradientErrors(of_means, by_samples, exact, own)


def flat_gradient(model: torch.nn.Module) -> torch.Tensor:
    """Return the gradient of all parameters as one vector, float64; zeros where there is none."""
    trained = [each for each in model.parameters() if each.requires_grad]
    gradients = (torch.zeros_like(each) if each.grad is None else each.grad for each in trained)
    return torch.cat([each.to_dense().detach().flatten().double() for each in gradients])


def relative_error(gradient: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the norm of the difference over the norm of the reference."""
    return float((gradient - reference).norm() / reference.norm().clamp_min(1e-300))
