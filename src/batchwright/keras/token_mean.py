"""A metric that is the mean over tokens, in batches of any shape."""

from collections.abc import Callable
from typing import Any

import keras


class TokenMean(keras.metrics.Metric):  # type: ignore[misc]
    """The mean of a function over tokens: Σ weight × value ÷ Σ weight over all batches.

    Keras' own metrics first take the mean over each row, padding included, so rows of short
    batches count for more; and the loss that it shows is averaged over batches by their rows.
    Pass this as one of ``weighted_metrics``; weights scaled by `PlanDataset` change nothing.

    Args:
        function: ``(y_true, y_pred) → float[B, T]`` or ``float[B]``, such as
            `keras.losses.sparse_categorical_crossentropy`.
        name: What it is called in logs. None: the function's name.

    Example:
        >>> metric = TokenMean(keras.losses.mean_squared_error)
        >>> metric.update_state([[[1.0], [5.0]]], [[[3.0], [0.0]]], sample_weight=[[1, 0]])
        >>> metric.update_state([[[1.0]]], [[[1.0]]], sample_weight=[[1]])
        >>> float(metric.result())
        2.0
    """

    def __init__(self, function: Callable[[Any, Any], Any], name: str | None = None) -> None:
        super().__init__(name=name or function.__name__)
        self._function = function
        self._total = self.add_weight(name="total", initializer="zeros")
        self._weight = self.add_weight(name="weight", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch; weights are of the shape of the function's values."""
        y_true = keras.ops.convert_to_tensor(y_true)
        y_pred = keras.ops.cast(y_pred, self.dtype)
        values = keras.ops.cast(self._function(y_true, y_pred), self.dtype)
        if sample_weight is None:
            sample_weight = keras.ops.ones_like(values)
        weights = keras.ops.cast(sample_weight, self.dtype)
        self._total.assign_add(keras.ops.sum(values * weights))
        self._weight.assign_add(keras.ops.sum(weights))

    def result(self) -> Any:
        """Return the mean so far; 0 where nothing has a weight."""
        return keras.ops.divide_no_nan(self._total, self._weight)
