"""Sample weights and a metric that count every token of an epoch alike, in batches of any size."""

from collections.abc import Callable
from typing import TypeAlias

import keras
import numpy as np
import numpy.typing as npt

from batchwright.batches import OnDemand
from batchwright.errors import LossError, PlanError
from batchwright.planner import Planner
from batchwright.plans import Plan, has_pieces
from batchwright.typing import Field

MeanWeight: TypeAlias = tuple[float, float | None]
"""The total weight of a batch, averaged over an epoch: for weights float[B], one for each sample,
and float[B, T], one for each token; None: unknown."""


def mean_weight(
    plan: Plan, planner: Planner | None, weights: npt.ArrayLike | None = None
) -> MeanWeight:
    """Average the total weights of an epoch's batches, over all ranks.

    Without weights float64[n], a sample counts its length if tokens have weights, else 1.
    """
    if weights is None:
        tokens = plan.batches.tokens() if isinstance(plan.batches, OnDemand) else None
        if planner is None:
            return plan.num_samples / len(plan), None
        if tokens is None:
            tokens = int(plan.entry_lengths(planner.given).sum())
        return plan.num_samples / len(plan), tokens / len(plan)
    each = np.asarray(weights, dtype=np.float64)
    if each.ndim != 1 or not np.isfinite(each).all() or (each < 0).any() or not each.any():
        raise LossError(
            f"weights of shape {list(each.shape)}: expected [n], finite numbers of at least 0, "
            "not all 0: the weight of each sample in the loss."
        )
    if has_pieces(plan):
        raise PlanError(
            "weights are of whole samples, but the plan splits some. Omit weights: tokens are "
            "counted from the planner's lengths."
        )
    planned = plan.origin.num_samples
    largest = int(plan.indices.max()) if planned is None else planned - 1
    if largest >= each.size or planned not in {None, each.size}:
        samples = f"{planned} samples" if planned else f"sample {largest}"
        raise PlanError(
            f"the plan is of {samples}, but there are {each.size} weights. Give one for every "
            "sample."
        )
    mean = sum(float(each[block.indices].sum()) for block in plan.batches.blocks()) / len(plan)
    return mean, mean


def scaled(sample_weight: Field, mean: MeanWeight) -> Field:
    """Divide the weights of a batch, in any structure, by the mean weight of a batch.

    Only a loss reduced by ``"sum"`` keeps this scale: ``"sum_over_batch_size"`` (Keras' default)
    divides by the cells of each batch, ``"mean_with_sample_weight"`` by the batch's own weights.
    """

    def divided(values: Field) -> Field:
        if values is None:
            return None
        array = np.asarray(values)
        unit = mean[0 if array.ndim == 1 else 1]
        if unit is None:
            raise PlanError(
                f"sample_weight{list(array.shape)} has a weight for each token, but a plan does "
                "not know its lengths. Give weights=lengths, or a Planner in place of the plan."
            )
        return (array / unit).astype(np.float32)

    return keras.tree.map_structure(divided, sample_weight)


def require_sums(model: keras.Model) -> None:
    """Raise LossError unless every loss of a compiled model is reduced by ``"sum"``."""
    for loss in keras.tree.flatten(getattr(model, "loss", None)):
        reduction = getattr(loss, "reduction", "sum_over_batch_size")
        if loss is not None and reduction != "sum":
            name = loss if isinstance(loss, str) else getattr(loss, "name", None) or loss.__name__
            raise LossError(
                f'the loss "{name}" is reduced by "{reduction}", which divides by what each batch '
                'happens to hold. Compile with a loss of reduction="sum", such as '
                'keras.losses.MeanSquaredError(reduction="sum"): the weights of the data set '
                "make it a mean. Or make the data set with exact=False."
            )


class TokenMean(keras.metrics.Metric):  # type: ignore[misc]
    """The mean of a function over tokens: Σ weight × value ÷ Σ weight over all batches.

    Keras' own metrics first average over each row, padding included, so rows of short batches
    count for more. Pass this as one of ``weighted_metrics``. The scale of weights cancels.

    Args:
        function: ``(y_true, y_pred) → float[B, T]`` or ``float[B]``, such as
            `keras.losses.sparse_categorical_crossentropy`.
        name: Its name in logs. None: the function's name.

    Example:
        >>> metric = TokenMean(keras.losses.mean_squared_error)
        >>> metric.update_state([[[1.0], [5.0]]], [[[3.0], [0.0]]], sample_weight=[[1, 0]])
        >>> metric.update_state([[[1.0]]], [[[1.0]]], sample_weight=[[1]])
        >>> float(metric.result())
        2.0
    """

    def __init__(self, function: Callable[[Field, Field], Field], name: str | None = None) -> None:
        super().__init__(name=name or function.__name__)
        self._function = function
        self._total = self.add_weight(name="total", initializer="zeros")
        self._weight = self.add_weight(name="weight", initializer="zeros")

    def update_state(self, y_true: Field, y_pred: Field, sample_weight: Field = None) -> None:
        """Add a batch, with weights of the shape of the function's values."""
        y_true = keras.ops.convert_to_tensor(y_true)
        y_pred = keras.ops.cast(y_pred, self.dtype)
        values = keras.ops.cast(self._function(y_true, y_pred), self.dtype)
        if sample_weight is None:
            sample_weight = keras.ops.ones_like(values)
        weights = keras.ops.cast(sample_weight, self.dtype)
        self._total.assign_add(keras.ops.sum(values * weights))
        self._weight.assign_add(keras.ops.sum(weights))

    def result(self) -> Field:
        """Return the mean so far; 0 if nothing has a weight."""
        return keras.ops.divide_no_nan(self._total, self._weight)
