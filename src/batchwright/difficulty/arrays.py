"""Arrays as users bring them, read or refused in one sentence."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from batchwright.errors import ScoresError


def as_array(values: Any, name: str) -> npt.NDArray[Any]:
    """Read anything that NumPy can read: a list, an array, a tensor on the CPU.

    Args:
        values: What was given.
        name: What messages call it.

    Raises:
        ScoresError: NumPy cannot read it.

    Example:
        >>> as_array([[1, 2], [3]], "features")
        Traceback (most recent call last):
        batchwright.errors.ScoresError: features cannot be read as an array ...
    """
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ScoresError(
            f"{name} cannot be read as an array ({reason}). Give numbers; of a tensor, "
            "tensor.detach().float().cpu()."
        ) from error


def as_labels(labels: Any, size: int) -> npt.NDArray[np.integer[Any]]:
    """Read one whole number per sample.

    Args:
        labels: integer[n].
        size: n.

    Raises:
        ScoresError: They are not n integers.
    """
    array = as_array(labels, "labels")
    if array.shape != (size,) or array.dtype.kind not in "iu":
        raise ScoresError(
            f"labels are {array.dtype}{list(array.shape)}, expected one class, an integer, for "
            f"each of {size} samples."
        )
    return array


def check_types(texts: Sequence[Any], *types: type) -> None:
    """Raise unless every sample is of one of a few types.

    Raises:
        ScoresError: Naming the first that is not.
    """
    if all(issubclass(found, types) for found in set(map(type, texts))):
        return
    index = next(k for k, text in enumerate(texts) if not isinstance(text, types))
    expected = " or ".join(each.__name__ for each in types)
    raise ScoresError(
        f"texts[{index}] is of type {type(texts[index]).__name__}, expected {expected}."
    )
