"""A fingerprint of each sample: equal for samples that are equal byte for byte."""

import time
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Any, TypeAlias

import numpy as np

from batchwright.errors import ScoresError

Path: TypeAlias = tuple[str, ...]
"""Where a part of a sample is: the keys and positions that lead to it."""

_SIZE = 16
"""Bytes of a digest: among 10⁹ samples two unequal ones share it once in 10²⁰ times."""

_PROBES = 100
"""Samples in which the label is looked for."""


def digests(samples: Any, labels: Any = None, *, seconds: float = float("inf")) -> list[bytes]:
    """Take the fingerprint of each sample.

    Args:
        samples: Anything with a length and an index.
        labels: [n], numbers; what equals the label in one sample after the other is left out.
            None: nothing is.
        seconds: When to stop.

    Returns:
        16 bytes for each sample, from the first on, until the time is over; one at least.

    Raises:
        ScoresError: If a sample is of a kind that has no bytes.

    Complexity:
        O(bytes), and a loop of Python over the samples.

    Example:
        >>> one, other, third = digests([{"x": np.ones(2)}, {"x": np.ones(2)}, {"x": np.ones(3)}])
        >>> one == other, one == third
        (True, False)
    """
    left_out = set() if labels is None else _label_paths(samples, np.asarray(labels).tolist())
    found: list[bytes] = []
    ends = time.monotonic() + seconds
    for index in range(len(samples)):
        found.append(_digest(samples[index], left_out, index))
        if time.monotonic() > ends:
            break
    return found


def _digest(sample: Any, left_out: set[Path], index: int) -> bytes:
    hashed = blake2b(digest_size=_SIZE)
    for path, part in _parts(sample):
        if path not in left_out:
            kind, data = _as_bytes(part, index)
            # Led by where, what and how much, so that unequal samples never make equal bytes.
            hashed.update(f"{path} {kind} {len(data)}:".encode("utf-8", "surrogatepass"))
            hashed.update(data)
    return hashed.digest()


def _parts(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Walk through dictionaries, tuples and lists."""
    if isinstance(value, Mapping):
        yield path, f"{len(value)} keys"
        for key in sorted(value, key=repr):
            yield from _parts(value[key], (*path, repr(key)))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if isinstance(value, list) and _are_small_numbers(value):
            yield path, np.asarray(value)  # quicker compared as a whole
            return
        yield path, f"{len(value)} entries"
        for position, each in enumerate(value):
            yield from _parts(each, (*path, str(position)))
    else:
        yield path, value


def _are_small_numbers(values: list[Any]) -> bool:
    """Whether this is a list such as of tokens."""
    if len(values) < 3:
        return False
    types = set(map(type, values))
    return types == {float} or (types == {int} and -(2**63) <= min(values) <= max(values) < 2**63)


def _as_bytes(part: Any, index: int) -> tuple[str, bytes]:
    """Return what a part is, and its bytes."""
    if isinstance(part, str):
        return "text", part.encode("utf-8", "surrogatepass")
    if isinstance(part, bytes):
        return "bytes", part
    if part is None or isinstance(part, int):  # whole numbers of any size
        return type(part).__name__, str(part).encode()
    array = _as_array(part)
    if array.dtype.kind == "O":
        raise ScoresError(
            f"sample {index} holds {type(part).__name__}, which cannot be compared: expected "
            "tensors, arrays, texts, numbers, or dictionaries, tuples and lists of such."
        )
    return f"{getattr(part, 'dtype', array.dtype)} {array.shape}", array.tobytes()


def _as_array(part: Any) -> Any:
    if hasattr(part, "detach"):  # a tensor of torch, which is not imported for that
        part = part.detach().cpu()
        if part.dtype.is_floating_point and part.dtype.itemsize < 4:
            part = part.float()  # NumPy has not all of these types, and float32 holds them
    if isinstance(part, int | float | complex) or hasattr(part, "__array__"):
        return np.asarray(part)
    return np.array(None, dtype=object)  # NumPy would go through whatever can be indexed


def _label_paths(samples: Any, labels: Sequence[Any]) -> set[Path]:
    """Find where samples hold their label: what equals it in each of the first samples."""
    found: set[Path] | None = None
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
