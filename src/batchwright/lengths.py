"""Lengths of samples: checked once, counted, hashed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from batchwright._format import items_that_are
from batchwright._random import BLOCK
from batchwright.errors import BatchwrightError, LengthsError
from batchwright.typing import (
    Empty,
    FloatArray,
    IndexOfLengths,
    IntArray,
    IntoLengths,
    LengthArray,
)

_LARGEST = 2**53  # exact in float64, in which costs and means are counted
MOST_TOKENS = 2**62
"""The most that are counted in 64-bit integers."""

_DENSE = 1 << 22  # lengths up to here are counted in a table, whatever their number


@dataclass(frozen=True, eq=False)
class Lengths:
    """Lengths that were checked by `as_lengths`, and are hashed once: for several uses."""

    array: LengthArray
    known: str | None = None  # the hash of the index that they come from. None: they come from none

    @classmethod
    def of(cls, lengths: IntoLengths) -> Lengths:
        """Check lengths, integer[n] or [n, k], unless they are checked already."""
        if isinstance(lengths, cls):
            return lengths
        known = lengths.fingerprint if isinstance(lengths, IndexOfLengths) else None
        return cls(as_lengths(lengths, columns=True), known)

    def __array__(self, *args: object, **options: object) -> LengthArray:
        return self.array

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint`."""
        return fingerprint(self.array) if self.known is None else self.known


def as_lengths(lengths: IntoLengths, *, columns: bool = False) -> LengthArray:
    """Check lengths and return them as an array of integers.

    Guarantees one finite whole number of at least 1 per sample. An integer array is returned
    as it is, in its own type: nothing is copied.

    Args:
        lengths: integer[n], one length per sample (tokens, frames, patches). Floats are
            accepted where all of them are whole numbers.
        columns: Whether integer[n, k] will do too: several lengths of each sample, such as those
            of source and target.

    Returns:
        integer[n], or integer[n, k] with k of at least 2.

    Raises:
        LengthsError: If a length is NaN, infinite, fractional, zero or negative (the first is
            named), the shape is not [n], or there is no sample.

    Example:
        >>> as_lengths([3, 5, 2])
        array([3, 5, 2])
        >>> as_lengths([3, 0, 2])
        Traceback (most recent call last):
        batchwright.errors.LengthsError: 1 of 3 lengths is 0, lengths[1]. Leave out empty samples \
by Planner(lengths, empty="drop"), or count them as 1 by np.maximum(lengths, 1).
    """
    if isinstance(lengths, Lengths) and (columns or lengths.array.ndim == 1):
        return lengths.array
    try:
        array = np.asarray(_listed(lengths))
    except BatchwrightError:  # of a length index that is damaged
        raise
    except (TypeError, ValueError) as error:
        raise LengthsError(
            f"lengths cannot be read as an array of numbers ({error}). Give one "
            "integer per sample, such as [len(sample) for sample in dataset]."
        ) from error
    if columns and array.ndim == 2 and array.shape[1]:
        checked = [as_lengths(column) for column in array.T]
        return checked[0] if len(checked) == 1 else np.stack(checked, axis=1)
    if array.ndim != 1:
        expected = "[n] or [n, k]" if columns else "[n]: one length per sample"
        raise LengthsError(
            f"lengths have shape {list(array.shape)}, expected {expected}. "
            "Reduce several columns to one, for example by their sum or maximum."
        )
    if not array.size:
        raise LengthsError("lengths are empty, expected one for each sample.")
    if array.dtype.kind == "f":
        array = _whole_numbers(array)
    if array.dtype.kind not in "iu":
        raise LengthsError(
            f"lengths have dtype {array.dtype}, expected integers. "
            "Give one whole number per sample, such as its number of tokens."
        )
    shortest, longest = int(array.min()), int(array.max())
    if shortest < 1:
        raise LengthsError(_named(array))
    if longest > _LARGEST:
        index = int(np.argmax(array > _LARGEST))
        raise LengthsError(
            f"lengths[{index}] is {int(array[index])}, more than 2**53. Is it a length?"
        )
    if longest * array.size > MOST_TOKENS:  # else they cannot add up to so many
        refuse_uncountable(array.sum(dtype=np.float64))
    return array


def _named(array: LengthArray) -> str:
    """Say which lengths are below 1."""
    if int(array.min()) < 0:
        index = int(np.argmax(array < 0))
        return (
            f"lengths[{index}] is {int(array[index])}, but every length must be at least 1. "
            "Is it a length?"
        )
    is_empty = array == 0
    count, index = int(np.count_nonzero(is_empty)), int(np.argmax(is_empty))
    said = items_that_are("0", count, array.size, "lengths", index)
    return (
        f'{said}. Leave out empty samples by Planner(lengths, empty="drop"), or count them as 1 '
        "by np.maximum(lengths, 1)."
    )


def without_empty(lengths: IntoLengths, empty: Empty) -> tuple[IntoLengths, IntArray]:
    """Count samples of length 0 as 1, where that was asked for.

    Returns:
        The lengths, and the samples that are to be left out, int64[k], rising. A sample of several
        columns is empty if one of them is.

    Raises:
        LengthsError: If all are to be left out.

    Example:
        >>> without_empty([3, 0, 2], "drop")
        (array([3, 1, 2]), array([1]))
    """
    nothing = np.empty(0, dtype=np.int64)
    if empty == "error" or isinstance(lengths, Lengths):
        return lengths, nothing
    array = np.asarray(_listed(lengths))
    if array.dtype.kind not in "iuf" or not 1 <= array.ndim <= 2:
        return lengths, nothing  # which is refused
    is_empty = array == 0
    filled = np.where(is_empty, array.dtype.type(1), array)
    if empty == "one":
        return filled, nothing
    rows = np.flatnonzero(is_empty if array.ndim == 1 else is_empty.any(axis=1))
    if rows.size and rows.size == len(array):
        raise LengthsError(f"all {rows.size:,} samples are empty: none is left.")
    return filled, rows


def _listed(lengths: IntoLengths) -> object:
    """Make a list of an iterable that is not a sequence, such as a generator."""
    known = isinstance(lengths, str | bytes | Sequence | Mapping | AbstractSet)
    if isinstance(lengths, Iterable) and not known and not hasattr(lengths, "__array__"):
        return list(lengths)
    return lengths


def refuse_uncountable(tokens: FloatArray | IntArray | np.float64) -> None:
    """Raise LengthsError if any number of tokens, float64[...], is above 2**62."""
    most = float(np.max(tokens, initial=0.0))
    if most > MOST_TOKENS:
        raise LengthsError(
            f"lengths come to {most:.3g} tokens together, more than 2**62, which 64-bit integers "
            "cannot count. Are they lengths?"
        )


def total_of(values: IntArray) -> int:
    """Add up exactly, where the sum may be more than 64 bits hold.

    Example:
        >>> total_of(np.full(4, 2**62)) == 2**64
        True
    """
    low = np.bitwise_and(values, 0xFFFFFFFF)
    return (int(np.right_shift(values, 32).sum()) << 32) + int(low.sum())


def sums_of_batches(values: IntArray, offsets: IntArray) -> IntArray:
    """Add up what each batch holds: int64[m] and offsets int64[b + 1] → int64[b]."""
    if values.size and int(values.max()) * values.size > MOST_TOKENS:
        refuse_uncountable(np.add.reduceat(values.astype(np.float64), offsets[:-1]))
    return np.add.reduceat(values, offsets[:-1])


def _whole_numbers(array: npt.NDArray[np.floating]) -> IntArray:
    bad = ~(np.isfinite(array) & (array == np.floor(array)) & (np.abs(array) <= _LARGEST))
    if bad.any():
        index = int(np.argmax(bad))
        raise LengthsError(
            f"lengths[{index}] is {array[index]}, but every length must be a finite whole number. "
            "Round them yourself, or measure in a smaller unit (frames instead of seconds)."
        )
    return array.astype(np.int64)


def fingerprint(lengths: LengthArray) -> str:
    """Hash lengths, integer[n], to 32 hexadecimal digits; their integer type does not matter.

    Example:
        >>> fingerprint(np.array([3, 5, 2])) == fingerprint(np.array([3, 5, 2], dtype=np.int16))
        True
        >>> fingerprint(np.array([3, 5, 2])) == fingerprint(np.array([5, 3, 2]))
        False
    """
    import hashlib  # not for free, and needed only here

    # The smallest type that holds the values: four times fewer bytes to hash in most cases.
    dtype = np.min_scalar_type(int(lengths.max())).newbyteorder("<")
    shape = ":".join(map(str, lengths.shape))
    digest = hashlib.sha256(f"{shape}:{dtype.itemsize}:".encode())
    for start in range(0, len(lengths), BLOCK):
        digest.update(lengths[start : start + BLOCK].astype(dtype).tobytes())
    return digest.hexdigest()[:32]


def totals(lengths: LengthArray) -> LengthArray:
    """Return one length for each sample: its own, or the sum of its columns.

    Example:
        >>> totals(np.array([[3, 4], [5, 1]]))
        array([7, 6])
    """
    if lengths.ndim == 1:
        return lengths
    if lengths.shape[1] * _LARGEST > MOST_TOKENS:
        refuse_uncountable(lengths.sum(axis=1, dtype=np.float64))
    summed: IntArray = lengths.sum(axis=1, dtype=np.int64)
    return summed


def runs(lengths: LengthArray, members: IntArray) -> tuple[IntArray, IntArray]:
    """Count samples of equal length.

    Returns:
        Distinct lengths from long to short, and how many members have each, both int64[r].
        O(m + longest), or O(m log m) where lengths are sparse and huge.

    Example:
        >>> runs(np.array([3, 5, 3, 2]), np.arange(4))
        (array([5, 3, 2]), array([1, 2, 1]))
    """
    if not members.size:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    longest = int(lengths.max())
    if longest > max(_DENSE, 4 * members.size) or members.size < longest >> 4:
        values, counts = np.unique(lengths[members].astype(np.int64), return_counts=True)
        return values[::-1], counts[::-1].astype(np.int64)
    table = np.zeros(longest + 1, dtype=np.int64)
    for start in range(0, members.size, BLOCK):
        block = lengths[members[start : start + BLOCK]]
        counted = np.bincount(block.astype(np.int64, copy=False))
        table[: counted.size] += counted
    values = np.flatnonzero(table)[::-1]
    return values, table[values]


def logs(values: FloatArray) -> FloatArray:
    """Take a logarithm that is the same, bit for bit, on every machine.

    The last bit of `numpy.log` depends on the processor, and plans must not. This one is base 2,
    exact at powers of two and linear between them, at most 0.09 off.

    Returns:
        float64[m], strictly increasing in the values.

    Example:
        >>> logs(np.array([1.0, 2.0, 3.0, 4.0]))
        array([0. , 1. , 1.5, 2. ])
    """
    mantissa, exponent = np.frexp(values)
    return exponent + 2.0 * (mantissa - 1.0)
