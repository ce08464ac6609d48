"""Samples that are there more than once, byte for byte."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from batchwright.advise.encoding import encode, encode_column
from batchwright.advise.sample_digest import digests
from batchwright.errors import ScoresError
from batchwright.lengths import as_lengths, totals
from batchwright.typing import IntArray, IntoLengths

SECONDS = 10.0
"""How long samples that have to be fetched one by one are looked at."""


@dataclass(frozen=True)
class Duplicates:
    """Samples that are equal to another.

    Attributes:
        num_samples: How many were looked at, from the first on.
        num_distinct: How many different ones there are.
        num_repeated: Samples beyond the first of their kind: what removing duplicates removes.
        share: The same, of all samples.
        largest: How often the most frequent sample is there.
        token_share: Tokens of the samples beyond the first, of all tokens. None: lengths were
            not given.
        num_contradicting: Labels that are wrong for sure, at the least: of equal samples with
            different labels all but the most frequent label. None: labels were not given.
        contradicting_share: The same, of all samples.
        is_complete: Whether all samples were looked at. Of a part, all figures are lower bounds.
    """

    num_samples: int
    num_distinct: int
    num_repeated: int
    share: float
    largest: int
    token_share: float | None
    num_contradicting: int | None
    contradicting_share: float | None
    is_complete: bool


def profile_duplicates(
    samples: Any,
    *,
    lengths: IntoLengths | None = None,
    labels: Any = None,
    seconds: float = SECONDS,
) -> Duplicates:
    """Count exact duplicates.

    Two samples are equal if their text, or their type, shape and bytes, are equal. Near
    duplicates are not found. Samples that are dictionaries or tuples are compared in all they
    hold, but for what is the sample's label, if labels are given: else no two samples could
    contradict each other.

    Args:
        samples: n texts (a list, or a column of `pyarrow`), an array [n, ...] whose rows are
            compared, or any sequence of tensors, arrays, texts, numbers, and dictionaries, tuples
            and lists of such.
        lengths: integer[n] or integer[n, k], tokens.
        labels: [n], the class of each sample: integers or names.
        seconds: Samples that have to be fetched one by one are fetched for so long; what comes
            later is not looked at.

    Returns:
        The counts.

    Raises:
        ScoresError: If there are no samples, one is of a kind that has no bytes, or labels or
            lengths are not one for each.

    Complexity:
        O(n) for texts and for samples that are fetched, O(n log n) for rows of an array. A million
        texts take about a second.

    Source:
        Lee et al., *Deduplicating Training Data Makes Language Models Better*, 2021,
        arXiv:2107.06499.

    Example:
        >>> profile_duplicates(["a", "b", "a", "a"], labels=[0, 1, 0, 1]).num_contradicting
        1
    """
    size = len(samples)
    if not size:
        raise ScoresError("there are no samples to compare.")
    sizes = None if lengths is None else totals(as_lengths(lengths, columns=True))
    classes = None if labels is None else encode(labels, "labels").codes
    for name, given in (("lengths", sizes), ("labels", classes)):
        if given is not None and len(given) != size:
            raise ScoresError(f"{name} are {len(given):,} for {size:,} samples: expected one each.")
    codes = _codes(samples, labels, seconds)
    counts = np.bincount(codes)
    looked_at = codes.size
    repeated = looked_at - counts.size
    contradicting = None if classes is None else _contradicting(codes, classes[:looked_at])
    return Duplicates(
        num_samples=looked_at,
        num_distinct=counts.size,
        num_repeated=repeated,
        share=repeated / looked_at,
        largest=int(counts.max()),
        token_share=None if sizes is None else _token_share(codes, sizes[:looked_at]),
        num_contradicting=contradicting,
        contradicting_share=None if contradicting is None else contradicting / looked_at,
        is_complete=looked_at == size,
    )


def first_of_each(samples: Any) -> IntArray:
    """Return which samples are not equal to an earlier one: what deduplication keeps.

    Args:
        samples: As `profile_duplicates` takes them.

    Returns:
        int64[m], rising: `Planner(lengths[kept])` plans them, and sample i of that is `kept[i]`.

    Raises:
        ScoresError: If a sample is of a kind that has no bytes.

    Complexity:
        O(n log n).

    Example:
        >>> first_of_each(["a", "b", "a", "c"])
        array([0, 1, 3])
    """
    _, first = np.unique(_codes(samples, None, float("inf")), return_index=True)
    kept: IntArray = np.sort(first).astype(np.int64)
    return kept


def _codes(samples: Any, labels: Any, seconds: float) -> IntArray:
    """Number the distinct samples, int64[m]; m is less than n where the time is over."""
    if hasattr(samples, "dictionary_encode"):
        return encode_column(samples, "samples")[0]
    if isinstance(samples, np.ndarray) and samples.dtype.kind not in "OUS":
        return _codes_of_rows(samples)
    if _are_texts(samples):
        return encode(samples, "samples").codes
    return encode(digests(samples, labels, seconds=seconds), "samples").codes


def _are_texts(samples: Any) -> bool:
    if isinstance(samples, np.ndarray):
        return samples.ndim == 1 and samples.dtype.kind in "US"
    return isinstance(samples, list | tuple) and set(map(type, samples)) == {str}


def _codes_of_rows(rows: Any) -> IntArray:
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    if not flat.shape[1]:
        return np.zeros(len(rows), dtype=np.int64)
    as_bytes = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1])))[:, 0]
    codes: IntArray = np.unique(as_bytes, return_inverse=True)[1].astype(np.int64)
    return codes


def _token_share(codes: IntArray, sizes: Any) -> float:
    # Equal samples are equally long, so which of them stays makes no difference.
    _, first = np.unique(codes, return_index=True)
    tokens = int(sizes.sum(dtype=np.int64))
    return 1 - int(sizes[first].sum(dtype=np.int64)) / tokens


def _contradicting(codes: IntArray, classes: IntArray) -> int:
    """Count the labels that differ from the most frequent one of equal samples."""
    pairs, counts = np.unique(codes * (classes.max() + 1) + classes, return_counts=True)
    most = np.zeros(codes.max() + 1, dtype=np.int64)
    np.maximum.at(most, pairs // (classes.max() + 1), counts)
    return int(codes.size - most.sum())
