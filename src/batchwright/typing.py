"""The types that pass between the parts of the library."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.int64]
"""int64[m]: sample indices, offsets or sizes."""

LengthArray: TypeAlias = npt.NDArray[np.integer[Any]]
"""integer[n]: one length per sample, in whatever integer type the user keeps them."""

IntoLengths: TypeAlias = npt.ArrayLike | Sequence[int]
"""Anything NumPy can read as lengths: a list, an array, a tensor on the CPU."""

FloatArray: TypeAlias = npt.NDArray[np.float64]
"""float64[b]: one figure per batch."""

Last: TypeAlias = Literal["short", "drop", "repeat"]
"""What becomes of samples that are too few for a whole last update."""

Cost: TypeAlias = Literal["padded", "quadratic"] | Callable[[FloatArray], FloatArray]
"""What balance is measured in: a name, or a function of lengths, per row."""

Batch: TypeAlias = Any
"""A batch as the user's collate function makes it: a tensor, or a dict, tuple or dataclass of row
fields."""

Sample: TypeAlias = Any
"""A sample as the user's data set returns it."""

Field: TypeAlias = Any
"""What a sample or a batch has under one name: a tensor, an array, a number, a list."""

State: TypeAlias = dict[str, Any]
"""What `state_dict` returns: strings, numbers, lists and arrays."""
