"""A teacher that learns curved borders between classes, in a second: kernel regression."""

from collections.abc import Iterable

import numpy as np

from batchwright._random import generator
from batchwright.typing import FloatArray, IntArray

LANDMARKS = 600
"""Samples that all others are compared with."""

_STRENGTHS = np.geomspace(0.03, 300, 13)
"""Penalties to try. Noisy labels need strong ones."""

_LEAST_SHARE = 1e-10  # of the largest eigenvalue; smaller ones are rounding
_LEAST = 1e-3


def landmarks(size: int, *, number: int = LANDMARKS, seed: int = 0) -> IntArray:
    """Return the samples that all others are compared with, int64[m]."""
    drawn: IntArray = generator(seed, "landmarks").permutation(size)[:number]
    return drawn


def leave_one_out(
    similarities: Iterable[tuple[FloatArray, IntArray]], codes: IntArray, num_classes: int
) -> FloatArray:
    """Return what a teacher trained on all other samples predicts of each, float64[n, k].

    The teacher is kernel ridge regression on the classes, whose predictions without the sample
    follow from those with it. Of several kernels and penalties it takes those of the least squared
    error on samples that were left out.

    Args:
        similarities: Kernels to try: the similarity of all samples to the landmarks, float[n, m],
            and which samples those are, int64[m].
        codes: int64[n], classes from 0 to k - 1.
        num_classes: k.

    Source:
        Predictions without a sample: Rifkin and Lippert, *Notes on Regularized Least Squares*,
        2007. Landmarks: Williams and Seeger, *Using the Nyström Method to Speed Up Kernel
        Machines*, 2000.
    """
    shares = np.bincount(codes, minlength=num_classes) / codes.size
    targets = np.eye(num_classes)[codes] - shares
    least, best = float((targets**2).mean()), np.zeros_like(targets)
    for similarity, chosen in similarities:
        inner = _inverse_root(np.asarray(similarity[chosen], np.float64))
        features = similarity @ inner
        if not features.shape[1]:  # samples without words
            continue
        values, axes = np.linalg.eigh(features.T @ features)
        kept = values > _LEAST_SHARE * max(1.0, values[-1])
        values, basis = values[kept], features @ (axes[:, kept] / np.sqrt(values[kept]))
        projected = basis.T @ targets
        squares = basis**2
        for strength in _STRENGTHS:
            shrunk = values / (values + strength)
            residual = targets - basis @ (shrunk[:, None] * projected)
            residual /= (1 - squares @ shrunk)[:, None]
            error = float((residual**2).mean())
            if error < least:
                least, best = error, targets - residual
    p = np.maximum(best + shares, _LEAST)
    probabilities: FloatArray = p / p.sum(axis=1, keepdims=True)
    return probabilities


def _inverse_root(similarity: FloatArray) -> FloatArray:
    """Return float64[m, r] whose product with its transpose is the inverse of the similarity."""
    values, axes = np.linalg.eigh(similarity)
    kept = values > 1e-5 * max(1.0, values[-1] / len(values))
    root: FloatArray = axes[:, kept] / np.sqrt(values[kept])
    return root
