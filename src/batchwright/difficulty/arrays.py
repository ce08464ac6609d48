"""Arrays as users bring them, read or refused in one sentence."""

from collections.abc import Sequence

import numpy as np

from batchwright._format import one_line
from batchwright.errors import LengthsError
from batchwright.typing import Field, FloatArray, LengthArray

SMALLEST = 1e-12
"""Smaller probabilities are taken for this."""


def as_array(values: Field, name: str) -> np.ndarray:
    """Read anything that NumPy can read: a list, an array, a tensor on the CPU."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise LengthsError(
            f"{name} cannot be read as an array ({one_line(error)}). Pass numbers; for a tensor, "
            "tensor.detach().float().cpu()."
        ) from error


def as_labels(labels: Field, size: int) -> LengthArray:
    """Read one integer per sample."""
    array = as_array(labels, "labels")
    if array.shape != (size,) or array.dtype.kind not in "iu":
        raise LengthsError(
            f"labels are {array.dtype}{list(array.shape)}, expected one class, an integer, for "
            f"each of {size} samples."
        )
    return array


def as_probabilities(values: Field, name: str) -> FloatArray:
    """Read float[n, k] in which every row is a distribution, within the precision of float16."""
    array = as_array(values, name)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise LengthsError(
            f"{name} are {array.dtype}{list(array.shape)}, expected float[n, k]: a row per sample, "
            "a column per class."
        )
    p = array.astype(np.float64)
    with np.errstate(invalid="ignore"):
        good = (p >= 0).all(axis=1) & (np.abs(p.sum(axis=1) - 1) < 1e-2)
    if not good.all():
        index = int(np.argmin(good))
        raise LengthsError(
            f"{name}[{index}] is not a distribution: its least value is {p[index].min():.4g}, its "
            f"sum {p[index].sum():.4g}. Expected probabilities; of logits, pass their softmax."
        )
    return p


def check_classes(labels: LengthArray, shape: tuple[int, ...]) -> None:
    """Raise unless labels are classes, 0 to k - 1, of the rows of probabilities [n, k]."""
    rows, classes = shape
    fits = rows == labels.size > 0 and classes > 1
    if not fits or labels.min() < 0 or labels.max() >= classes:
        found = f"{labels.min()} to {labels.max()}" if labels.size else "none"
        raise LengthsError(
            f"probabilities have shape {[rows, classes]}, for {labels.size} labels ({found}): "
            "expected a row for each label, and a column for each class, two or more."
        )


def check_types(texts: Sequence[object], *types: type) -> None:
    """Raise, naming the first, unless every sample is of one of a few types."""
    for index, text in enumerate(texts):
        if not isinstance(text, types):
            expected = " or ".join(each.__name__ for each in types)
            raise LengthsError(
                f"texts[{index}] is of type {type(text).__name__}, expected {expected}."
            )
