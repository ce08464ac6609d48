"""Checks of what users give for each sample: difficulty, weights, groups."""

import numpy as np
import numpy.typing as npt

from batchwright._checks import keep_number
from batchwright._format import one_line
from batchwright.errors import LengthsError, PlanError
from batchwright.typing import Field, FloatArray

_INEXACT = 2.0**53
"""From here on floats do not hold every integer."""


def keep_positive(
    instance: object, *names: str, optional: tuple[str, ...] = (), most: float = np.inf
) -> None:
    """Check numbers above 0 of a frozen dataclass; those in `optional` may be None."""
    expected = "a positive number" + ("" if most == np.inf else f", at most {most:,.0f}")
    for name in (*names, *optional):
        if getattr(instance, name) is not None or name not in optional:
            keep_number(instance, name, lambda n: 0 < n <= most, expected, error=PlanError)


def as_array(values: Field, name: str) -> np.ndarray:
    """Read anything that NumPy can read: a list, an array, a tensor on the CPU."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise LengthsError(
            f"{name} cannot be read as an array ({one_line(error)}). Pass numbers; for a tensor, "
            "tensor.detach().float().cpu()."
        ) from error


def as_scores(values: npt.ArrayLike, *, name: str) -> FloatArray:
    """Return a copy of one finite number per sample, float64[n], or raise LengthsError."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise LengthsError(f"{name} cannot be read as numbers ({error}). Give float[n].") from error
    _check_shape(array, name)
    bad = ~np.isfinite(array)
    if bad.any():
        index = int(np.argmax(bad))
        raise LengthsError(
            f"{name}[{index}] is {array[index]}, and {int(bad.sum())} of {array.size} are not "
            "finite. Score those samples, or give them the largest score there is."
        )
    return array


def as_weights(values: npt.ArrayLike, *, name: str) -> FloatArray:
    """Return scores of at least 0, not all of them 0, or raise LengthsError."""
    array = as_scores(values, name=name)
    if (array < 0).any():
        index = int(np.argmax(array < 0))
        raise LengthsError(f"{name}[{index}] is {array[index]}, expected at least 0.")
    if not array.any():
        raise LengthsError(f"{name} are all 0: nothing would ever be drawn.")
    return array


def as_groups(values: npt.ArrayLike, *, name: str) -> npt.NDArray[np.generic]:
    """Return a copy of one group (class, source) per sample, or raise LengthsError."""
    try:
        array = np.array(values)
    except (RuntimeError, TypeError, ValueError) as error:  # PyTorch raises the first
        raise LengthsError(f"{name} cannot be read as an array ({error}). Give [n].") from error
    _check_shape(array, name)
    if array.dtype.kind in {"f", "O", "M", "m"}:
        for index, group in enumerate(array.tolist()):
            if _is_missing(group):
                raise LengthsError(
                    f"{name}[{index}] is {group}: give every sample a group, an integer or a name."
                )
    if array.dtype.kind == "f" and (np.abs(array) >= _INEXACT).any():
        index = int(np.argmax(np.abs(array) >= _INEXACT))
        raise LengthsError(
            f"{name}[{index}] is {array[index]:.0f} as a float, and floats do not tell such "
            "numbers apart. Give integers that one dtype holds, or names."
        )
    try:
        if array.dtype.kind == "O":
            np.unique(array)
    except TypeError as error:
        raise LengthsError(f"{name} cannot be sorted ({error}): give integers or names.") from error
    return array


def refuse_other_data(num_scores: int, num_samples: int, *, name: str) -> None:
    """Raise LengthsError unless there is one value for each sample."""
    if num_scores != num_samples:
        raise LengthsError(
            f"{name} has {num_scores:,} entries for {num_samples:,} samples. Give one for each, "
            "in the sequence of the data."
        )


def _is_missing(group: object) -> bool:
    try:
        return group is None or bool(group != group)  # noqa: PLR0124 -- NaN
    except TypeError:  # pandas.NA
        return True


def _check_shape(array: npt.NDArray[np.generic], name: str) -> None:
    if array.ndim != 1 or not array.size:
        raise LengthsError(f"{name} has shape {list(array.shape)}, expected [n]: one per sample.")
