"""Samples that occur more than once, byte for byte."""

import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright._format import items_that_are
from batchwright.advise.noise_sources import NoiseSource, from_duplicates
from batchwright.errors import LengthsError
from batchwright.lengths import as_lengths, totals
from batchwright.typing import Field, IntArray, IntoLengths, Sample

SECONDS = 10.0
"""Time limit for fetching samples one by one, in seconds."""

Column: TypeAlias = Any
"""One value for each sample: an array, a list, a column of `pyarrow`, a data set."""

_PROBES = 100  # samples in which to look for the label


@dataclass(frozen=True)
class Duplicates:
    """Samples that are equal to another.

    If equal samples have different labels, all but the most frequent label must be wrong.
    """

    num_samples: int  # how many were compared, from the first on
    num_distinct: int  # how many different ones there are
    num_repeated: int  # samples that are equal to an earlier one: deduplication removes them
    share: float  # the same, of all samples
    largest: int  # how often the most frequent sample occurs
    token_share: float | None  # their share of all tokens. None: without lengths
    num_contradicting: int | None  # labels that must be wrong. None: without labels
    contradicting_share: float | None  # the same, of all samples
    is_complete: bool  # whether all samples were compared. If not, all figures are lower bounds
    noise: NoiseSource | None = None  # label noise, if equal samples were labelled separately


def profile_duplicates(
    samples: Column,
    *,
    lengths: IntoLengths | None = None,
    labels: Column = None,
    seconds: float = SECONDS,
) -> Duplicates:
    """Count samples whose text, or type, shape and bytes, are equal. Near duplicates are not found.

    Args:
        samples: n texts (a list, or a column of `pyarrow`), an array [n, ...] whose rows are
            compared, or any sequence of tensors, arrays, texts, numbers, and dictionaries, tuples
            and lists of these. A part that is the sample's label is left out.
        lengths: integer[n] or integer[n, k], tokens.
        labels: [n], the class of each sample: integers or names.
        seconds: Time limit for fetching samples one by one; the rest is not compared.

    Raises:
        LengthsError: If there are no samples, a sample has no bytes to compare, or there is not one
            label or length for each sample.

    Source:
        Lee et al., *Deduplicating Training Data Makes Language Models Better*, 2021,
        arXiv:2107.06499.

    Example:
        >>> profile_duplicates(["a", "b", "a", "a"], labels=[0, 1, 0, 1]).num_contradicting
        1
    """
    size = len(samples)
    if not size:
        raise LengthsError("there are no samples to compare.")
    sizes = None if lengths is None else totals(as_lengths(lengths, columns=True))
    classes = None if labels is None else encode(labels, "labels")[0]
    for name, given in (("lengths", sizes), ("labels", classes)):
        if given is not None:
            check_one_for_each(name, given, size)
    codes = _codes(samples, labels, seconds)
    compared = codes.size
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    token_share = contradicting = noise = None
    if sizes is not None:  # equal samples are equally long, whichever of them stays
        kept = int(sizes[first].sum(dtype=np.int64))
        token_share = 1 - kept / int(sizes[:compared].sum(dtype=np.int64))
    if classes is not None:
        pairs, times = np.unique(np.stack([codes, classes[:compared]]), axis=1, return_counts=True)
        most = np.zeros(counts.size, dtype=np.int64)  # how often the most frequent label occurs
        np.maximum.at(most, pairs[0], times)
        contradicting = int(compared - most.sum())
        noise = from_duplicates(codes, classes[:compared], int(classes.max()) + 1)
    return Duplicates(
        num_samples=compared,
        num_distinct=counts.size,
        num_repeated=compared - counts.size,
        share=(compared - counts.size) / compared,
        largest=int(counts.max()),
        token_share=token_share,
        num_contradicting=contradicting,
        contradicting_share=None if contradicting is None else contradicting / compared,
        is_complete=compared == size,
        noise=noise,
    )


def first_of_each(samples: Column) -> IntArray:
    """Return the samples that are not equal to an earlier one, int64[m], increasing.

    `Planner(lengths[kept])` plans them, and its sample i is `kept[i]`.

    Raises:
        LengthsError: If a sample has no bytes to compare.

    Example:
        >>> first_of_each(["a", "b", "a", "c"])
        array([0, 1, 3])
    """
    _, first = np.unique(_codes(samples, None, float("inf")), return_index=True)
    kept: IntArray = np.sort(first).astype(np.int64)
    return kept


def encode(values: Column, name: str) -> tuple[IntArray, list[object]]:
    """Number the distinct values of a column from 0 to k - 1; a million take tenths of a second."""
    if hasattr(values, "dictionary_encode"):  # of pyarrow: no Python objects for all its values
        encoded = values.dictionary_encode()
        encoded = encoded.combine_chunks() if hasattr(encoded, "chunks") else encoded
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        distinct = encoded.dictionary.to_pylist()
    else:
        if not isinstance(values, Sequence) or isinstance(values, str | bytes):
            array = np.asarray(values)
            if array.ndim != 1:
                raise LengthsError(f"{name} have shape {list(array.shape)}, expected one each.")
            values = array.tolist()
        try:
            numbers: dict[Hashable, int] = dict.fromkeys(values, 0)
        except TypeError as error:
            raise LengthsError(f"{name} must be numbers or texts: {error}.") from error
        distinct = list(numbers)
        numbers.update(zip(distinct, range(len(distinct)), strict=True))
        codes = np.fromiter(map(numbers.__getitem__, values), np.int64, count=len(values))
    missing = [code for code, each in enumerate(distinct) if each is None or each != each]  # noqa: PLR0124 -- is NaN
    if (is_missing := np.isin(codes, [-1, *missing])).any():
        index, count = int(np.argmax(is_missing)), int(np.count_nonzero(is_missing))
        said = items_that_are("missing", count, codes.size, name, index)
        raise LengthsError(f"{said}: fill what is missing, or leave such samples out.")
    return codes, distinct


def check_one_for_each(name: str, given: Column, size: int) -> None:
    """Raise `LengthsError` unless a column has one value for each sample."""
    if len(given) != size:
        raise LengthsError(f"{name}: {len(given):,} for {size:,} samples; expected one for each.")


def _codes(samples: Column, labels: Column, seconds: float) -> IntArray:
    """Number the distinct samples, int64[m]; m is less than n if the time runs out."""
    given = samples
    if isinstance(given, np.ndarray) and given.dtype.kind in "US":
        given = given.tolist()
    if isinstance(given, np.ndarray) and given.dtype.kind != "O":
        given = list(map(np.ndarray.tobytes, given.reshape(len(given), -1)))
    elif not hasattr(given, "dictionary_encode"):
        are_texts = isinstance(given, list | tuple) and set(map(type, given)) == {str}
        given = given if are_texts else _digests(given, labels, seconds)
    return encode(given, "samples")[0]


def _digests(samples: Column, labels: Column, seconds: float) -> list[bytes]:
    """Hash each sample but its label, from the first on, until the time runs out; at least one."""
    probed = [] if labels is None else np.asarray(labels)[:_PROBES].tolist()
    # The parts that are the label in all of the first samples.
    places = [
        {place for place, part in _parts(samples[index]).items() if _is_number(part, label)}
        for index, label in enumerate(probed)
    ]
    left_out = set.intersection(*places) if places else set()
    found: list[bytes] = []
    ends = time.monotonic() + seconds
    for index in range(len(samples)):
        sample = samples[index]
        if left_out:
            sample = {at: part for at, part in _parts(sample).items() if at not in left_out}
        found.append(_digest(sample, index))
        if time.monotonic() > ends:
            break
    return found


def _parts(sample: Sample) -> dict[Hashable, Field]:
    if isinstance(sample, list | tuple):
        return dict(enumerate(sample))
    return dict(sample) if isinstance(sample, Mapping) else {}


def _digest(value: Field, index: int) -> bytes:
    """Hash a value of any depth. All hashes are as long, so those of its parts can be joined."""
    parts: Iterable[Field] | None = None
    kind, data = type(value).__name__, b""
    if isinstance(value, Mapping):
        items = sorted(value.items(), key=lambda item: repr(item[0]))
        kind, parts = "dict", chain.from_iterable(items)
    elif isinstance(value, str | bytes):
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    elif isinstance(value, list) and set(map(type, value)) <= {int, float}:
        data = repr(value).encode()
    elif isinstance(value, Sequence):
        parts = value
    elif value is None or isinstance(value, int | float | complex):
        data = repr(value).encode()
    else:
        array = _as_array(value)
        if array is None or array.dtype.kind == "O":
            raise LengthsError(
                f"sample {index} holds {kind}, which cannot be compared: expected tensors, arrays, "
                "texts, numbers, or dictionaries, tuples and lists of these."
            )
        kind, data = f"{getattr(value, 'dtype', array.dtype)} {array.shape}", array.tobytes()
    if parts is not None:
        data = b"".join(_digest(each, index) for each in parts)
    # Of 16 bytes: among 10⁹ samples two unequal ones share it once in 10²⁰ times.
    return blake2b(f"{kind}:".encode() + data, digest_size=16).digest()


def _as_array(part: Field) -> npt.NDArray[np.generic] | None:
    if hasattr(part, "detach"):  # a tensor of torch, which is not imported for that
        part = part.detach().cpu()
        if part.dtype.is_floating_point and part.dtype.itemsize < 4:
            part = part.float()  # NumPy lacks some of these types, and float32 holds them
    # NumPy would iterate over anything else that has an index.
    is_array = isinstance(part, int | float | complex) or hasattr(part, "__array__")
    return np.asarray(part) if is_array else None


def _is_number(part: Field, label: object) -> bool:
    array = None if isinstance(part, str | bytes) else _as_array(part)
    if array is None or array.ndim or array.dtype.kind not in "buif":
        return False
    return bool(array.item() == label)
