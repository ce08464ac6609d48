"""Tells a data set which epoch `fit` is in."""

from typing import TYPE_CHECKING, Any

import keras

from batchwright.errors import PlanError
from batchwright.keras.exact_weights import require_sums

if TYPE_CHECKING:
    from batchwright.keras.plan_dataset import PlanDataset


class EpochCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets the epoch of a `PlanDataset` when `fit` begins it; made by its `callback()`.

    It goes by the number that `fit` gives, so ``initial_epoch`` is honoured, and never by
    ``on_epoch_end``, which Keras calls once more than there are epochs. Before training it checks
    what only the model knows: that epochs are trained whole, that an update has as many batches
    as planned, and that the loss is a sum where the data set's weights are exact.

    Args:
        dataset: The data set that is trained on.

    Raises:
        PlanError: In `fit`, if ``steps_per_epoch`` is not the number of batches, or the optimizer
            does not accumulate the batches that the plan has for an update.
        LossError: In `fit`, if weights are exact and a loss is not a sum.
    """

    def __init__(self, dataset: "PlanDataset") -> None:
        super().__init__()
        self._dataset = dataset

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check the model and the settings of `fit`."""
        steps, num_batches = self.params.get("steps"), len(self._dataset)
        if steps not in {None, num_batches}:
            raise PlanError(
                f"fit trains {steps} batches an epoch, but the plan has {num_batches}: samples "
                "would be lost. Leave out steps_per_epoch."
            )
        origin = self._dataset.plan.origin
        planned, accumulated = origin.world_size * origin.accumulate, _accumulated(self.model)
        if planned not in {1, accumulated}:
            raise PlanError(
                f"the plan has {planned} batches for each update (world_size × accumulate), but "
                f"the optimizer takes {accumulated}. Make it with "
                f"gradient_accumulation_steps={planned}, or plan without accumulate."
            )
        if self._dataset.exact:
            require_sums(self.model)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Plan the epoch."""
        self._dataset.set_epoch(epoch)


def _accumulated(model: keras.Model) -> int:
    optimizer = model.optimizer
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    return getattr(inner, "gradient_accumulation_steps", None) or 1
