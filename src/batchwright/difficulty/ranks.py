"""Scores as percentile ranks, in which different measures can be compared and combined."""

from collections.abc import Mapping
from functools import reduce
from typing import Literal

import numpy as np
import numpy.typing as npt

from batchwright.difficulty.arrays import as_array
from batchwright.errors import LengthsError
from batchwright.order.scores import as_scores, refuse_other_data
from batchwright.typing import FloatArray, IntArray


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
    group = _codes(groups, values.size)
    order = np.lexsort((values, group))
    ordered, ordered_group = values[order], group[order]
    new_group = np.r_[True, ordered_group[1:] != ordered_group[:-1]]
    new_run = new_group | np.r_[True, ordered[1:] != ordered[:-1]]

    group_edges = np.append(np.flatnonzero(new_group), values.size)
    run_edges = np.append(np.flatnonzero(new_run), values.size)
    # Counted from 0, a run of equal scores from place a to b has average rank (a + b + 1) / 2.
    middle = (run_edges[:-1] + run_edges[1:]) / 2
    of_run = np.cumsum(new_run) - 1
    of_group = np.cumsum(new_group) - 1
    ranks = np.empty(values.size)
    ranks[order] = (middle[of_run] - group_edges[of_group]) / np.diff(group_edges)[of_group]
    return ranks


def combined(
    scores: Mapping[str, npt.ArrayLike],
    *,
    how: Literal["max", "mean"] = "max",
    weights: Mapping[str, float] | None = None,
    groups: npt.ArrayLike | None = None,
) -> FloatArray:
    """Combine several measures into one, by their percentile ranks.

    With ``how="max"`` a sample is as hard as the hardest measure says: the samples up to a
    difficulty d are those that every measure ranks up to d. With ``how="mean"``, a weighted mean.
    The result lies between 0 and 1, but is not ranked again.

    Args:
        scores: Name → number[n].
        how: "max" or "mean".
        weights: Name → weight, for a mean; None weighs all alike.
        groups: [n], as `percentiles` takes them.

    Raises:
        LengthsError: There are no scores, they differ in number, one is not finite, or weights do
            not fit.

    Source:
        The intersection: Li et al., "DeepSpeed Data Efficiency", 2022, arXiv:2212.03597.

    Example:
        >>> combined({"length": [1, 2, 3, 4], "rarity": [5, 1, 2, 9]})
        array([0.625, 0.375, 0.625, 0.875])
    """
    if not scores:
        raise LengthsError("combined() got no scores, expected at least one measure.")
    if how not in {"max", "mean"}:
        raise LengthsError(f"combined(how={how!r}): expected 'max' or 'mean'.")
    if how == "max" and weights is not None:
        raise LengthsError("combined(how='max') has no weights: the hardest measure counts.")
    columns = {name: as_scores(values, name=name) for name, values in scores.items()}
    size = next(iter(columns.values())).size
    for name, column in columns.items():
        refuse_other_data(column.size, size, name=name)
    ranks = {name: percentiles(column, groups=groups) for name, column in columns.items()}
    if how == "max":
        return reduce(np.maximum, ranks.values())
    weights = dict.fromkeys(ranks, 1.0) if weights is None else weights
    if set(weights) != set(ranks):
        raise LengthsError(f"weights are for {sorted(weights)}, scores are {sorted(ranks)}.")
    shares = np.array([weights[name] for name in ranks], dtype=np.float64)
    if not np.isfinite(shares).all() or shares.min() < 0 or shares.sum() == 0:
        raise LengthsError(
            f"weights are {dict(weights)}, expected numbers of at least 0, not all 0."
        )
    mean: FloatArray = np.average(list(ranks.values()), axis=0, weights=shares)
    return mean


def _codes(groups: npt.ArrayLike | None, size: int) -> IntArray:
    if groups is None:
        return np.zeros(size, dtype=np.int64)
    array = as_array(groups, "groups")
    if array.shape != (size,):
        raise LengthsError(
            f"groups have shape {list(array.shape)}, expected one for each of {size}."
        )
    try:
        _, codes = np.unique(array, return_inverse=True)
    except TypeError as error:
        raise LengthsError(f"groups cannot be sorted ({error}). Pass numbers or text.") from error
    return codes.astype(np.int64)
