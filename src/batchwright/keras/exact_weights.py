"""Sample weights that let every token of an epoch weigh the same, in batches of any size."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from batchwright.errors import LossError, PlanError
from batchwright.plans import Plan
from batchwright.typing import LengthArray


@dataclass(frozen=True)
class MeanWeight:
    """What the samples of a batch weigh together in the loss, on average over an epoch.

    Attributes:
        per_sample: For weights float[B]: one for each sample.
        per_token: For weights float[B, T]: one for each token. None: unknown.
    """

    per_sample: float
    per_token: float | None


def mean_weight(
    plan: Plan, *, lengths: LengthArray | None, weights: npt.NDArray[np.float64] | None = None
) -> MeanWeight:
    """Average over the batches of an epoch what their samples weigh.

    Args:
        plan: The epoch, over all ranks.
        lengths: integer[n], tokens of each sample, that the plan was made for. None: unknown.
        weights: float64[n], what each sample weighs in total. None: its tokens where each token
            has a weight, else 1.

    Returns:
        The means. O(m).

    Raises:
        PlanError: If weights are given for a plan that splits samples.

    Example:
        >>> plan = Plan(np.array([0, 1, 2]), np.array([0, 2, 3]))
        >>> mean_weight(plan, lengths=np.array([5, 3, 4]))
        MeanWeight(per_sample=1.5, per_token=6.0)
    """
    if weights is None:
        tokens = None if lengths is None else float(plan.entry_lengths(lengths).sum()) / len(plan)
        return MeanWeight(plan.indices.size / len(plan), tokens)
    if plan.starts is not None:
        raise PlanError(
            "weights are of whole samples, but the plan splits some. Leave weights out: tokens "
            "are counted from the planner's lengths."
        )
    planned = plan.origin.num_samples
    if int(plan.indices.max()) >= weights.size or planned not in {None, weights.size}:
        samples = f"{planned} samples" if planned else f"sample {int(plan.indices.max())}"
        raise PlanError(
            f"the plan is of {samples}, but there are {weights.size} weights. Give one for every "
            "sample."
        )
    mean = float(weights[plan.indices].sum()) / len(plan)
    return MeanWeight(mean, mean)


def scaled(sample_weight: Any, mean: MeanWeight) -> Any:
    """Divide the weights of a batch by what the samples of a batch weigh on average.

    The loss of a batch, reduced by ``"sum"``, is then Σ weight × loss / mean weight: over an
    epoch every token moves the parameters as much as any other, however large its batch.
    Only ``"sum"`` lets weights through as they are. ``"sum_over_batch_size"`` (Keras' default,
    also called ``"mean"``) divides by the cells of each batch, padding too, or by the unmasked
    ones where a layer made a mask; ``"mean_with_sample_weight"`` divides by the batch's own
    weights, which cancels any scale.

    Args:
        sample_weight: float[B] or float[B, T], of the loss's own shape; 0 for padding. Or a
            tuple, list or dict of such.
        mean: The mean weight of a batch.

    Returns:
        The same, as float32.

    Raises:
        PlanError: If tokens have weights, and how many there are is unknown.

    Example:
        >>> scaled(np.array([[1, 1, 1], [1, 0, 0]]), MeanWeight(2.0, 4.0))
        array([[0.25, 0.25, 0.25],
               [0.25, 0.  , 0.  ]], dtype=float32)
    """

    def divided(values: Any) -> Any:
        if values is None:
            return None
        array = np.asarray(values)
        unit = mean.per_sample if array.ndim == 1 else mean.per_token
        if unit is None:
            raise PlanError(
                f"sample_weight{list(array.shape)} has a weight for each token, but a plan does "
                "not know its lengths. Give weights=lengths, or a Planner in place of the plan."
            )
        return (array / unit).astype(np.float32)

    return keras.tree.map_structure(divided, sample_weight)


def require_sums(model: keras.Model) -> None:
    """Raise unless every loss that a model was compiled with is a sum.

    Args:
        model: A compiled model.

    Raises:
        LossError: Naming the loss and its reduction.
    """
    for loss in keras.tree.flatten(getattr(model, "loss", None)):
        if loss is None:
            continue
        reduction = getattr(loss, "reduction", "sum_over_batch_size")
        if reduction != "sum":
            name = loss if isinstance(loss, str) else getattr(loss, "name", None) or loss.__name__
            raise LossError(
                f'the loss "{name}" is reduced by "{reduction}", which divides by what each batch '
                'happens to hold. Compile with a loss of reduction="sum", such as '
                'keras.losses.MeanSquaredError(reduction="sum"): the weights of the data set '
                "make it a mean. Or make the data set with exact=False."
            )
