"""A small teacher: multinomial logistic regression in NumPy, deterministic and quick."""

from dataclasses import dataclass

import numpy as np

from batchwright.typing import FloatArray, IntArray

RIDGES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
"""Penalties that are tried, from strong to weak. Noisy labels want strong ones."""

_CLIP = 5.0
"""Standard deviations beyond which a feature is cut off: rare pixels, outliers."""

_TOLERANCE = 1e-6
"""Fitting ends where a step would gain less than this, in nats per sample."""

_MOST_STEPS = 300


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Features centred, scaled, and rotated so that they are uncorrelated.

    Attributes:
        mean: float64[d].
        scale: float64[d], standard deviations; 0 for a feature that is constant.
        axes: float64[d, r], orthonormal columns.
        variances: float64[r], of the training samples along the axes.
    """

    mean: FloatArray
    scale: FloatArray
    axes: FloatArray
    variances: FloatArray

    @classmethod
    def of(cls, features: FloatArray) -> "Coordinates":
        """Fit to float64[n, d]. O(n d min(n, d))."""
        mean, scale = features.mean(axis=0), features.std(axis=0)
        # Rounding leaves some 1e-16 of the mean where a feature is constant.
        scale[scale <= 1e-12 * np.abs(mean)] = 0
        standard = _standardised(features, mean, scale)
        size, width = standard.shape
        if width <= size:
            variances, axes = np.linalg.eigh(standard.T @ standard / size)
        else:
            variances, sides = np.linalg.eigh(standard @ standard.T / size)
            axes = standard.T @ (sides / np.sqrt(np.maximum(variances, 1e-300) * size))
        kept = variances > 1e-10 * max(1.0, variances[-1])
        return cls(mean, scale, axes[:, kept], variances[kept])

    def __call__(self, features: FloatArray) -> FloatArray:
        """Transform float64[m, d] to float64[m, r]."""
        return _standardised(features, self.mean, self.scale) @ self.axes


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of a multinomial logistic regression.

    Attributes:
        slopes: float64[r, k].
        intercepts: float64[k].
    """

    slopes: FloatArray
    intercepts: FloatArray

    def probabilities(self, inputs: FloatArray) -> FloatArray:
        """Return float64[m, k] for float64[m, r]."""
        return _softmax(inputs @ self.slopes + self.intercepts)


def fit(
    inputs: FloatArray,
    labels: IntArray,
    num_classes: int,
    variances: FloatArray,
    *,
    ridge: float,
    start: Weights | None = None,
) -> Weights:
    """Minimise the mean cross-entropy plus ``ridge / 2 · ‖slopes‖²``.

    Newton's method with a fixed bound on the Hessian, which is diagonal in these coordinates, so
    that a step costs two products and never overshoots; accelerated, and restarted where the
    acceleration does.

    Args:
        inputs: float64[n, r], as `Coordinates` transforms them.
        labels: int64[n], from 0 to k - 1.
        num_classes: k.
        variances: float64[r], of the inputs.
        ridge: Strength of the penalty.
        start: Where to begin; None: at zero.

    Returns:
        The weights.

    Source:
        The bound: Böhning, "Multinomial logistic regression algorithm", 1992. The restart:
        O'Donoghue and Candès, "Adaptive restart for accelerated gradient schemes", 2012,
        arXiv:1204.3982.
    """
    size = len(labels)
    target = np.zeros((size, num_classes))
    target[np.arange(size), labels] = 1.0
    # Rows: slopes, then intercepts, whose input is 1 and which are hardly penalised.
    inputs = np.column_stack([inputs, np.ones(size)])
    penalty = np.append(np.full(len(variances), ridge), 1e-6)[:, None]
    curvature = np.append(variances, 1.0)[:, None] / 2 + penalty
    weights = np.zeros((len(penalty), num_classes))
    if start is not None:
        weights[:-1], weights[-1] = start.slopes, start.intercepts
    ahead, momentum = weights, 1.0
    for _ in range(_MOST_STEPS):
        gradient = inputs.T @ (_softmax(inputs @ ahead) - target) / size + penalty * ahead
        step = gradient / curvature
        if np.sum(step * gradient) < _TOLERANCE:
            break
        moved = ahead - step
        if np.sum(gradient * (moved - weights)) > 0:
            momentum = 1.0
        faster = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = moved + (momentum - 1) / faster * (moved - weights)
        weights, momentum = moved, faster
    return Weights(weights[:-1], weights[-1])


def _standardised(features: FloatArray, mean: FloatArray, scale: FloatArray) -> FloatArray:
    standard = (features - mean) / np.where(scale > 0, scale, np.inf)
    return np.clip(standard, -_CLIP, _CLIP)


def _softmax(logits: FloatArray) -> FloatArray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: FloatArray = shifted / shifted.sum(axis=1, keepdims=True)
    return shares
