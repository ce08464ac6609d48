"""Metrics of samples: their arguments, the check of their results, and their names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import chain
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright.errors import LengthsError, SourceError
from batchwright.order.scores import as_array
from batchwright.sources.table import Place, Values, kind_of, type_of
from batchwright.typing import Batch, FloatArray

Metric: TypeAlias = Callable[[Batch], npt.ArrayLike]
"""From m samples to float[m]."""


def metric_name(metric: Callable[..., object]) -> str:
    """Return the name of a metric, with a hash of its code where it has any."""
    function = getattr(metric, "func", metric)  # of a functools.partial
    named = function if hasattr(function, "__qualname__") else type(function)
    name = f"{named.__module__}.{named.__qualname__}"
    code = getattr(function, "__code__", None)
    digest = code and hashlib.sha256(code.co_code + repr(code.co_names).encode()).hexdigest()
    return f"{name}#{digest[:12]}" if digest else name


def checked_scores(answer: npt.ArrayLike, first: int, size: int) -> FloatArray:
    """Return a metric's result for the samples from `first` on, float64[size], all finite.

    Raises:
        LengthsError: The result is something else.

    Example:
        >>> checked_scores([1, 2.5], first=0, size=2)
        array([1. , 2.5])
    """
    array = as_array(answer, "the metric's answer")
    if array.shape != (size,) or array.dtype.kind not in "buif":
        raise LengthsError(
            f"the metric returned {array.dtype}{list(array.shape)} for samples {first} to "
            f"{first + size - 1}, expected a number for each, float[{size}]."
        )
    scores = array.astype(np.float64)
    finite = np.isfinite(scores)
    if not finite.all():
        index = int(np.argmin(finite))
        raise LengthsError(
            f"the metric's score of sample {first + index} is {scores[index]}, but every score "
            "must be a finite number."
        )
    return scores


def as_batch(pieces: list[tuple[Values, Place]]) -> Batch:
    """Return rows as the argument of a metric: number[m], or a list of texts, bytes or lists."""
    parts: list[Batch] = []
    for values, place in pieces:
        kind = kind_of(values)
        if isinstance(values, np.ndarray):
            parts.append(values)
        elif kind == "numbers":
            parts.append(values.to_numpy(zero_copy_only=False))
        elif kind in {"text", "binary", "lists"}:
            parts.append(values.to_pylist())
        else:
            raise SourceError(
                f"{place} is of type {type_of(values)}; expected text, numbers or lists."
            )
        if type(parts[-1]) is not type(parts[0]):
            raise SourceError(f"{place.row(0)} has another type than the rows before it.")
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [*chain(*parts)]
