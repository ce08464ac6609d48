"""Scores as percentile ranks, in which different measures can be compared and combined."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Literal

import numpy as np
import numpy.typing as npt

from batchwright._checks import check_choice
from batchwright.errors import LengthsError
from batchwright.order.scores import as_array, as_groups, as_scores, refuse_other_data
from batchwright.typing import Field, FloatArray, LengthArray

SMALLEST = 1e-12
"""Smaller probabilities are taken for this."""


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


def percentiles(scores: npt.ArrayLike, *, groups: npt.ArrayLike | None = None) -> FloatArray:
    """Rank scores from 0 to 1: (average rank − ½) / n, equal scores sharing one rank.

    Ranks lie strictly between 0 and 1, keep the order of the scores, and have mean ½, within
    every group if there are groups.

    Args:
        scores: number[n], finite; higher means harder.
        groups: [n], the class, corpus or language of each sample: anything that can be sorted.
            Each sample is ranked within its group, so that no group comes late as a whole.
            None ranks all together.

    Raises:
        LengthsError: A score is NaN or infinite, or groups are not one per sample.

    Example:
        >>> percentiles([10, 30, 20, 20])
        array([0.125, 0.875, 0.5  , 0.5  ])
        >>> percentiles([1, 2, 10, 20], groups=["a", "a", "b", "b"])
        array([0.25, 0.75, 0.25, 0.75])
    """
    values = as_scores(scores, name="scores")
    group = np.zeros(values.size, dtype=np.int64)
    if groups is not None:
        given = as_groups(groups, name="groups")
        refuse_other_data(given.size, values.size, name="groups")
        group = np.unique(given, return_inverse=True)[1]
    value = np.unique(values, return_inverse=True)[1]
    # Sorted by group and value, equal scores stand beside each other.
    _, run, counts = np.unique(group * values.size + value, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    sizes = np.bincount(group)
    before = np.cumsum(sizes) - sizes
    ranks: FloatArray = (middle[run] - before[group]) / sizes[group]
    return ranks


def combined(
    scores: Mapping[str, npt.ArrayLike],
    *,
    how: Literal["max", "mean"] = "max",
    groups: npt.ArrayLike | None = None,
) -> FloatArray:
    """Combine several measures into one, by their percentile ranks.

    With ``how="max"`` a sample is as hard as the hardest measure says: the samples up to a
    difficulty d are those that every measure ranks up to d. With ``how="mean"``, the mean of the
    ranks. The result lies between 0 and 1, but is not ranked again.

    Args:
        scores: Name → number[n].
        how: "max" or "mean".
        groups: [n], as `percentiles` takes them.

    Raises:
        LengthsError: There are no scores, they differ in number, or one is not finite.

    Source:
        The intersection: Li et al., "DeepSpeed Data Efficiency", 2022, arXiv:2212.03597.

    Example:
        >>> combined({"length": [1, 2, 3, 4], "rarity": [5, 1, 2, 9]})
        array([0.625, 0.375, 0.625, 0.875])
    """
    check_choice("combined", "how", how, ("max", "mean"), LengthsError)
    if not scores:
        raise LengthsError("combined() got no scores, expected at least one measure.")
    columns = {name: as_scores(values, name=name) for name, values in scores.items()}
    size = next(iter(columns.values())).size
    for name, column in columns.items():
        refuse_other_data(column.size, size, name=name)
    ranks = [percentiles(column, groups=groups) for column in columns.values()]
    if how == "max":
        return reduce(np.maximum, ranks)
    mean: FloatArray = np.mean(ranks, axis=0)
    return mean
