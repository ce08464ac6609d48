"""Values of any kind as codes: equal values share a number."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from batchwright.errors import ScoresError
from batchwright.typing import IntArray


class Encoding(NamedTuple):
    """What `encode` returns.

    Attributes:
        codes: int64[n], from 0 to k - 1.
        values: What each code stands for, k of them.
    """

    codes: IntArray
    values: list[Any]

    @property
    def counts(self) -> IntArray:
        """How often each value comes, int64[k]."""
        return np.bincount(self.codes, minlength=len(self.values))


def encode(values: Any, name: str) -> Encoding:
    """Number the distinct values of a column.

    Args:
        values: [n], integers, texts, or anything that can be hashed: an array, a list, a column
            of `pyarrow`.
        name: What messages call it.

    Returns:
        Codes, and the values.

    Raises:
        ScoresError: A value is missing, or cannot be hashed; or the shape is not [n].

    Complexity:
        O(n); O(n log n) for arrays.

    Example:
        >>> encode(["de", "ko", "de"], "groups").codes
        array([0, 1, 0])
    """
    if hasattr(values, "dictionary_encode"):
        codes, column = encode_column(values, name)
        distinct = column.to_pylist()
        nan = [code for code, value in enumerate(distinct) if value != value]  # noqa: PLR0124 -- is NaN
        if nan:
            _refuse(int(np.argmax(codes == nan[0])), name)
        return Encoding(codes, distinct)
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return _of_list(values, name)
    array = np.asarray(values)
    if array.ndim != 1:
        raise ScoresError(f"{name} are of shape {list(array.shape)}, expected one for each sample.")
    if array.dtype.kind == "f" and np.isnan(array).any():
        _refuse(int(np.argmax(np.isnan(array))), name)
    if array.dtype.kind == "O":
        return _of_list(array.tolist(), name)
    found, inverse = np.unique(array, return_inverse=True)
    return Encoding(inverse.astype(np.int64), found.tolist())


def _of_list(values: Sequence[Any], name: str) -> Encoding:
    # Hashed by the interpreter's own loops: a million texts take some tenths of a second.
    try:
        numbers: dict[Hashable, int] = dict.fromkeys(values, 0)
    except TypeError as error:
        raise ScoresError(
            f"{name} hold something that is neither a number nor text: {error}."
        ) from error
    distinct = list(numbers)
    if any(value is None or value != value for value in distinct):  # noqa: PLR0124 -- is NaN
        missing = (k for k, value in enumerate(values) if value is None or value != value)  # noqa: PLR0124 -- is NaN
        _refuse(next(missing), name)
    numbers.update(zip(distinct, range(len(distinct)), strict=True))
    codes = np.fromiter(map(numbers.__getitem__, values), np.int64, count=len(values))
    return Encoding(codes, distinct)


def encode_column(column: Any, name: str) -> tuple[IntArray, Any]:
    """Number the distinct values of a column of `pyarrow`, and make no Python objects of them.

    Args:
        column: An array, or a chunked one.
        name: What messages call it.

    Returns:
        int64[n], codes; and the distinct values, an array of `pyarrow`.

    Raises:
        ScoresError: A value is missing.
    """
    if column.null_count:
        _refuse(int(np.argmax(column.is_null().to_numpy(zero_copy_only=False))), name)
    encoded = column.dictionary_encode()
    if hasattr(encoded, "combine_chunks"):
        encoded = encoded.combine_chunks()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary


def _refuse(index: int, name: str) -> None:
    raise ScoresError(f"{name}[{index}] is missing: fill it, or leave the sample out.")
