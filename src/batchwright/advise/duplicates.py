"""Samples that occur more than once, byte for byte."""

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from batchwright.errors import LengthsError
from batchwright.lengths import as_lengths, totals
from batchwright.typing import IntArray, IntoLengths

SECONDS = 10.0
"""How long samples are fetched one by one."""

_SIZE = 16  # bytes of a digest: among 10⁹ samples two unequal ones share it once in 10²⁰ times
_PROBES = 100  # samples in which the label is looked for

_Path: TypeAlias = tuple[str, ...]  # the keys and positions that lead to a part of a sample


@dataclass(frozen=True)
class Duplicates:
    """Samples that are equal to another.

    Of equal samples with different labels, all labels but the most frequent one must be wrong.
    """

    num_samples: int  # how many were compared, from the first on
    num_distinct: int  # how many different ones there are
    num_repeated: int  # samples after the first of their kind: those that deduplication removes
    share: float  # the same, of all samples
    largest: int  # how often the most frequent sample occurs
    token_share: float | None  # their tokens, of all tokens. None: without lengths
    num_contradicting: int | None  # labels that are certainly wrong. None: without labels
    contradicting_share: float | None  # the same, of all samples
    is_complete: bool  # whether all samples were compared. If not, all figures are lower bounds


def profile_duplicates(
    samples: Any,
    *,
    lengths: IntoLengths | None = None,
    labels: Any = None,
    seconds: float = SECONDS,
) -> Duplicates:
    """Count exact duplicates.

    Two samples are equal if their text, or their type, shape and bytes, are equal. Dictionaries and
    tuples are compared in all their parts except the sample's label, if labels are given: otherwise
    no two samples could contradict each other. Near duplicates are not found.

    A million texts take about a second.

    Args:
        samples: n texts (a list, or a column of `pyarrow`), an array [n, ...] whose rows are
            compared, or any sequence of tensors, arrays, texts, numbers, and dictionaries, tuples
            and lists of these.
        lengths: integer[n] or integer[n, k], tokens.
        labels: [n], the class of each sample: integers or names.
        seconds: Samples that have to be fetched one by one are fetched for this time; the rest is
            not compared.

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
    classes = None if labels is None else encode(labels, "labels").codes
    for name, given in (("lengths", sizes), ("labels", classes)):
        if given is not None:
            check_one_for_each(name, len(given), size)
    codes = _codes(samples, labels, seconds)
    looked_at = codes.size
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    token_share = contradicting = None
    if sizes is not None:  # equal samples are equally long, whichever of them stays
        tokens = int(sizes[:looked_at].sum(dtype=np.int64))
        token_share = 1 - int(sizes[first].sum(dtype=np.int64)) / tokens
    if classes is not None:
        contradicting = _contradicting(codes, classes[:looked_at])
    return Duplicates(
        num_samples=looked_at,
        num_distinct=counts.size,
        num_repeated=looked_at - counts.size,
        share=(looked_at - counts.size) / looked_at,
        largest=int(counts.max()),
        token_share=token_share,
        num_contradicting=contradicting,
        contradicting_share=None if contradicting is None else contradicting / looked_at,
        is_complete=looked_at == size,
    )


def first_of_each(samples: Any) -> IntArray:
    """Return the samples that are not equal to an earlier one: those that deduplication keeps.

    Args:
        samples: As `profile_duplicates` takes them.

    Returns:
        int64[m], increasing: `Planner(lengths[kept])` plans them, and its sample i is `kept[i]`.

    Raises:
        LengthsError: If a sample has no bytes to compare.

    Example:
        >>> first_of_each(["a", "b", "a", "c"])
        array([0, 1, 3])
    """
    _, first = np.unique(_codes(samples, None, float("inf")), return_index=True)
    kept: IntArray = np.sort(first).astype(np.int64)
    return kept


class Encoding(NamedTuple):
    """The distinct values of a column, k of them, and its values as codes, int64[n]."""

    codes: IntArray
    values: list[Any]

    @property
    def counts(self) -> IntArray:
        """How often each value occurs, int64[k]."""
        return np.bincount(self.codes, minlength=len(self.values))


def encode(values: Any, name: str) -> Encoding:
    """Number the distinct values of a column from 0 to k - 1.

    Args:
        values: [n], integers, texts, or anything hashable: an array, a list, a column of `pyarrow`.
        name: The name in messages.

    Raises:
        LengthsError: If a value is missing or not hashable, or the shape is not [n].

    Example:
        >>> encode(["de", "ko", "de"], "groups").codes
        array([0, 1, 0])
    """
    if hasattr(values, "dictionary_encode"):
        codes, distinct = _encoded_column(values, name)
        _check_present(distinct.to_pylist(), codes, name)
        return Encoding(codes, distinct.to_pylist())
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        array = np.asarray(values)
        if array.ndim != 1:
            raise LengthsError(f"{name} have shape {list(array.shape)}, expected one per sample.")
        if array.dtype.kind != "O":
            found, inverse = np.unique(array, return_inverse=True)
            codes = inverse.astype(np.int64)
            _check_present(found.tolist(), codes, name)
            return Encoding(codes, found.tolist())
        values = array.tolist()
    # Hashed by the interpreter's own loops: a million texts take some tenths of a second.
    try:
        numbers: dict[Hashable, int] = dict.fromkeys(values, 0)
    except TypeError as error:
        raise LengthsError(f"{name} must be numbers or texts: {error}.") from error
    listed = list(numbers)
    numbers.update(zip(listed, range(len(listed)), strict=True))
    codes = np.fromiter(map(numbers.__getitem__, values), np.int64, count=len(values))
    _check_present(listed, codes, name)
    return Encoding(codes, listed)


def check_one_for_each(name: str, given: int, size: int) -> None:
    """Raise `LengthsError` unless a column has one value for each sample."""
    if given != size:
        raise LengthsError(f"{name} are {given:,} for {size:,} samples: expected one each.")


def _check_present(distinct: list[Any], codes: IntArray, name: str) -> None:
    for code, value in enumerate(distinct):
        if value is None or value != value:  # noqa: PLR0124 -- is NaN
            index = int(np.argmax(codes == code))
            raise LengthsError(f"{name}[{index}] is missing: fill it, or leave the sample out.")


def _encoded_column(column: Any, name: str) -> tuple[IntArray, Any]:
    """Encode a column of `pyarrow`, without making Python objects of its values."""
    if column.null_count:
        index = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise LengthsError(f"{name}[{index}] is missing: fill it, or leave the sample out.")
    encoded = column.dictionary_encode()
    if hasattr(encoded, "combine_chunks"):
        encoded = encoded.combine_chunks()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary


def _codes(samples: Any, labels: Any, seconds: float) -> IntArray:
    """Number the distinct samples, int64[m]; m is less than n if the time runs out."""
    if hasattr(samples, "dictionary_encode"):
        return _encoded_column(samples, "samples")[0]
    if isinstance(samples, np.ndarray) and samples.dtype.kind not in "OUS":
        flat = np.ascontiguousarray(samples).reshape(len(samples), -1)
        if not flat.shape[1]:
            return np.zeros(len(samples), dtype=np.int64)
        as_bytes = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1])))[:, 0]
        codes: IntArray = np.unique(as_bytes, return_inverse=True)[1].astype(np.int64)
        return codes
    if isinstance(samples, np.ndarray):
        are_texts = samples.ndim == 1 and samples.dtype.kind in "US"
    else:
        are_texts = isinstance(samples, list | tuple) and set(map(type, samples)) == {str}
    return encode(samples if are_texts else _digests(samples, labels, seconds), "samples").codes


def _contradicting(codes: IntArray, classes: IntArray) -> int:
    """Count the labels that differ from the most frequent one of equal samples."""
    num_classes = classes.max() + 1
    pairs, counts = np.unique(codes * num_classes + classes, return_counts=True)
    most = np.zeros(codes.max() + 1, dtype=np.int64)
    np.maximum.at(most, pairs // num_classes, counts)
    return int(codes.size - most.sum())


def _digests(samples: Any, labels: Any, seconds: float) -> list[bytes]:
    """Hash each sample but its label, from the first on, until the time runs out; at least one."""
    left_out = set() if labels is None else _label_paths(samples, np.asarray(labels).tolist())
    found: list[bytes] = []
    ends = time.monotonic() + seconds
    for index in range(len(samples)):
        hashed = blake2b(digest_size=_SIZE)
        for path, part in _parts(samples[index]):
            if path not in left_out:
                kind, data = _as_bytes(part, index)
                # Led by where, what and how much, so that unequal samples never make equal bytes.
                hashed.update(f"{path} {kind} {len(data)}:".encode("utf-8", "surrogatepass"))
                hashed.update(data)
        found.append(hashed.digest())
        if time.monotonic() > ends:
            break
    return found


def _parts(value: Any, path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    """Walk through dictionaries, tuples and lists; lists of numbers are one part, for speed."""
    if isinstance(value, Mapping):
        yield path, f"{len(value)} keys"
        for key in sorted(value, key=repr):
            yield from _parts(value[key], (*path, repr(key)))
    elif isinstance(value, list) and _are_small_numbers(value):
        yield path, np.asarray(value)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        yield path, f"{len(value)} entries"
        for position, each in enumerate(value):
            yield from _parts(each, (*path, str(position)))
    else:
        yield path, value


def _are_small_numbers(values: list[Any]) -> bool:
    if len(values) < 3:
        return False
    types = set(map(type, values))
    return types == {float} or (types == {int} and -(2**63) <= min(values) <= max(values) < 2**63)


def _as_bytes(part: Any, index: int) -> tuple[str, bytes]:
    """Return the type of a part, and its bytes."""
    if isinstance(part, str):
        return "text", part.encode("utf-8", "surrogatepass")
    if isinstance(part, bytes):
        return "bytes", part
    if part is None or isinstance(part, int):  # integers of any size
        return type(part).__name__, str(part).encode()
    array = _as_array(part)
    if array.dtype.kind == "O":
        raise LengthsError(
            f"sample {index} holds {type(part).__name__}, which cannot be compared: expected "
            "tensors, arrays, texts, numbers, or dictionaries, tuples and lists of these."
        )
    return f"{getattr(part, 'dtype', array.dtype)} {array.shape}", array.tobytes()


def _as_array(part: Any) -> Any:
    if hasattr(part, "detach"):  # a tensor of torch, which is not imported for that
        part = part.detach().cpu()
        if part.dtype.is_floating_point and part.dtype.itemsize < 4:
            part = part.float()  # NumPy lacks some of these types, and float32 holds them
    if isinstance(part, int | float | complex) or hasattr(part, "__array__"):
        return np.asarray(part)
    return np.array(None, dtype=object)  # NumPy would iterate over anything with an index


def _label_paths(samples: Any, labels: Sequence[Any]) -> set[_Path]:
    """Find where samples hold their label: the parts that equal it in each of the first samples."""
    found: set[_Path] | None = None
    for index, label in enumerate(islice(labels, _PROBES)):
        equal = {
            path
            for path, part in _parts(samples[index])
            if path and not isinstance(part, str | bytes) and _is_number(part, label)
        }
        found = equal if found is None else found & equal
    return found or set()


def _is_number(part: Any, label: Any) -> bool:
    array = _as_array(part)
    return array.ndim == 0 and array.dtype.kind in "buif" and array.item() == label
