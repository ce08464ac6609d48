"""What loss scaling does in `fit`: which updates were applied, and a floor under the scale."""

from typing import Any

import keras

from batchwright.errors import LossScaleError


def applied_updates(model: keras.Model) -> int:
    """Count the updates that moved the parameters.

    With mixed float16 a step whose gradients are not finite is skipped, and not counted; with
    `gradient_accumulation_steps` an update is counted once. This is also the step that
    learning rate schedules go by.

    Args:
        model: A compiled model.

    Returns:
        ``iterations`` of the optimizer inside a `LossScaleOptimizer`, or of the optimizer.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> applied_updates(model)
        0
    """
    _synchronize(model)
    return int(_number(model.optimizer.iterations))


class LossScaleFloor(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends a training in mixed float16 whose gradients are not finite, whatever the loss scale.

    `keras.optimizers.LossScaleOptimizer`, which ``compile(auto_scale_loss=True)`` wraps around the
    optimizer, halves the scale at each such step, down to zero, and says nothing: the model does
    not move any more. With other precisions there is nothing to do, and this does nothing.

    Args:
        floor: A scale below this is an error.
        every: Look at the scale after so many batches, and at the end of each epoch. Looking
            waits for the device.

    Raises:
        LossScaleError: In `fit`, if the scale is below the floor, or the model computes in
            mixed float16 and its loss is not scaled.
    """

    def __init__(self, floor: float = 1.0, *, every: int = 32) -> None:
        super().__init__()
        if not floor > 0 or every < 1:
            raise LossScaleError(
                f"floor={floor}, every={every}: expected a scale above 0, and at least 1 batch."
            )
        self._floor = floor
        self._every = every
        self._seen = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that the loss of a model in mixed float16 is scaled."""
        self._seen = 0
        is_half = self.model.dtype_policy.name == "mixed_float16"
        if is_half and _scaling(self.model.optimizer) is None:
            raise LossScaleError(
                "the model computes in mixed float16, but its loss is not scaled: small "
                "gradients become zero. Compile it with auto_scale_loss=True."
            )

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the scale from time to time."""
        self._seen += 1
        if self._seen % self._every == 0:
            self._check()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the scale."""
        self._check()

    def _check(self) -> None:
        optimizer = _scaling(self.model.optimizer)
        if optimizer is None or not optimizer.built:
            return
        _synchronize(self.model)
        scale = _number(optimizer.dynamic_scale)
        if scale < self._floor:
            raise LossScaleError(
                f"the loss scale sank to {scale:g}, below {self._floor:g}, with "
                f"{applied_updates(self.model)} updates applied: gradients are not finite even at "
                'that scale. Look for NaN in the data, lower the learning rate, or use "bf16".'
            )


def _scaling(optimizer: Any) -> Any:
    is_scaling = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return optimizer if is_scaling else None


def _number(variable: Any) -> float:
    return float(keras.ops.convert_to_tensor(variable))


def _synchronize(model: keras.Model) -> None:
    """Bring what a step on the JAX backend changed back into the model's variables."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()
