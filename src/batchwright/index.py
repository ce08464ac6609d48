"""Samples sorted by length: what planning needs of a data set, made once and kept in a file."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from batchwright.errors import PlanError, SourceNotFoundError
from batchwright.lengths import Lengths, as_lengths, fingerprint
from batchwright.typing import IntArray, IntoLengths, LengthArray

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK = 1 << 18
_MOST_COPIED = 1 << 28
_FORMAT = "batchwright-length-index"
_VERSION = 2  # 1 had no hash of the indices
_MOST_HEADER = 1 << 27
_DTYPES = {"U32": "<u4", "U64": "<u8", "I64": "<i8"}


@dataclass(frozen=True, eq=False)
class LengthIndex:
    """Sample indices sorted from long to short, and how many samples each length has.

    Samples of equal length are in the order of their indices. With a path, the sorted indices are
    memory-mapped: all processes of a machine share them, and a pickle holds only the path.

    Attributes:
        ids: uint32[n], or uint64[n] above 2**32 samples; sample indices from long to short.
        values: int64[r], the distinct lengths, from long to short.
        counts: int64[r], how many samples have each.
        fingerprint: Hash of the lengths.
        path: The file, if there is one.

    Example:
        >>> index = LengthIndex.build([3, 5, 3, 2])
        >>> index.ids.tolist(), index.values.tolist(), index.counts.tolist()
        ([1, 0, 2, 3], [5, 3, 2], [1, 2, 1])
        >>> import batchwright as bw
        >>> len(bw.Planner(index, max_tokens=6))
        3
    """

    ids: npt.NDArray[np.unsignedinteger]
    values: IntArray
    counts: IntArray
    fingerprint: str
    path: Path | None = None

    def __post_init__(self) -> None:
        """Make arrays read-only, also those of a pickle."""
        for array in (self.ids, self.values, self.counts):
            array.setflags(write=False)

    @classmethod
    def build(cls, lengths: IntoLengths, path: str | os.PathLike[str] | None = None) -> LengthIndex:
        """Sort samples by length, by counting.

        Args:
            lengths: integer[n]; a memory-mapped array is read in two passes, a block at a time.
            path: The file to write, whole or not at all. None: the index stays in memory.

        Returns:
            The index. O(n + longest); 4 bytes a sample, in memory or in the file.

        Raises:
            LengthsError: If the lengths are not positive whole numbers, [n].
            PlanError: If the file cannot be written.
        """
        array = _narrowed(as_lengths(lengths))
        values, counts = counted(array)
        dtype = np.dtype("<u4" if array.size <= 1 << 32 else "<u8")
        hashed = lengths.fingerprint if isinstance(lengths, Lengths) else fingerprint(array)
        if path is None:
            ids = np.empty(array.size, dtype)
            _fill(ids, array, values, counts)
            return cls(ids, values, counts, hashed)
        from pathlib import Path  # here, so that `import batchwright` stays quick

        from batchwright._files import replacing

        target = Path(path)
        with replacing(target, PlanError) as unfinished:
            facts = {
                "format": _FORMAT,
                "version": _VERSION,
                "num_samples": array.size,
                "dtype": next(name for name, text in _DTYPES.items() if dtype == text),
                "fingerprint": hashed,
                "values": values.tolist(),
                "counts": counts.tolist(),
            }
            offset = _write_header(unfinished, facts, array.size * dtype.itemsize)
            mapped = np.memmap(unfinished, dtype, "r+", offset, (array.size,))
            _fill(mapped, array, values, counts)
            mapped.flush()
            with unfinished.open("ab") as file:
                file.write(_digest(mapped))
        return _opened(target, is_checked=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str], lengths: IntoLengths | None = None) -> LengthIndex:
        """Map an index that `build` wrote. O(n): the file is read once, and so in memory.

        Args:
            path: The file.
            lengths: integer[n], the lengths of today: an index of other lengths is refused.

        Raises:
            SourceNotFoundError: If there is no such file.
            PlanError: If the file is damaged, no index, or of other lengths.
        """
        index = _opened(path, is_checked=True)
        if lengths is not None and fingerprint(as_lengths(lengths)) != index.fingerprint:
            raise PlanError(f"{path} was built for other lengths. Build it again.")
        return index

    @property
    def num_samples(self) -> int:
        """How many samples there are."""
        return self.ids.size

    def lengths(self) -> IntArray:
        """Return the length of every sample in the order of the data, int64[n]. O(n).

        Raises:
            PlanError: If these are not the lengths that the index was built for.
        """
        restored = np.ones(self.num_samples, dtype=np.int64)
        if int(self.ids.max()) < self.num_samples:
            restored[self.ids] = np.repeat(self.values, self.counts)
        if fingerprint(restored) != self.fingerprint:
            raise PlanError(f"{self.path or 'the index'} is damaged. Build it again.")
        return restored

    def __array__(
        self, dtype: npt.DTypeLike | None = None, *, copy: bool | None = None
    ) -> npt.NDArray[np.generic]:
        """Return the lengths: an index stands wherever lengths do, as in ``Planner(index)``."""
        return np.asarray(self.lengths(), dtype=dtype)

    def __repr__(self) -> str:
        """Describe the index in a line."""
        where = "" if self.path is None else f", path={str(self.path)!r}"
        return (
            f"LengthIndex({self.num_samples} samples, lengths {self.values[-1]} to "
            f"{self.values[0]}{where})"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the path in place of the indices, if there is one."""
        if self.path is not None:
            return _reopened, (self.path, self.fingerprint)
        return LengthIndex, (self.ids, self.values, self.counts, self.fingerprint)


def _opened(path: str | os.PathLike[str], *, is_checked: bool) -> LengthIndex:
    """Map a file; `is_checked` reads the indices and compares their hash."""
    from pathlib import Path

    target = Path(path).absolute()
    try:
        with target.open("rb") as file:
            header, offset = _read_header(file)
        num_samples, dtype = header["num_samples"], np.dtype(_DTYPES[header["dtype"]])
        values, counts = (np.array(header[name], np.int64) for name in ("values", "counts"))
        size, expected = target.stat().st_size, offset + num_samples * dtype.itemsize + 32
        if size != expected or counts.sum() != num_samples or counts.shape != values.shape:
            wrong = f"{size} bytes, expected {expected}"
            raise PlanError(f"{path}: {wrong}. Build it again.")  # noqa: TRY301 -- passes below
        ids = np.memmap(target, dtype, "r", offset, (num_samples,))
        if is_checked:
            with target.open("rb") as file:
                file.seek(expected - 32)
                if file.read(32) != _digest(ids):
                    raise PlanError(f"{path}: its indices were changed. Build it again.")  # noqa: TRY301 -- as above
    except FileNotFoundError as fault:
        raise SourceNotFoundError(f"{path}: no such file. LengthIndex.build makes one.") from fault
    except IsADirectoryError as fault:
        raise PlanError(
            f"{path} is a folder, expected a file. An index of shards is opened by "
            "batchwright.sources.open_index."
        ) from fault
    except OSError as fault:
        raise PlanError(f"{path}: cannot be read ({fault.strerror or fault}).") from fault
    except PlanError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as fault:
        raise PlanError(f"{path}: changed or damaged ({fault}). Build it again.") from fault
    return LengthIndex(ids, values, counts, header["fingerprint"], target)


def _digest(ids: npt.NDArray[np.unsignedinteger]) -> bytes:
    import hashlib

    digest = hashlib.sha256()
    for block in _blocks(ids):
        digest.update(np.ascontiguousarray(block).data)
    return digest.digest()


def _reopened(path: Path, hashed: str) -> LengthIndex:
    index = _opened(path, is_checked=False)
    if index.fingerprint != hashed:
        raise PlanError(f"{path} has been built anew for other lengths. Plan again.")
    return index


def _narrowed(lengths: LengthArray) -> LengthArray:
    """Copy lengths into 16 bits where they fit, unless the copy is large: passes take less time."""
    is_small = lengths.nbytes <= _MOST_COPIED and int(lengths.max()) < 1 << 16
    return lengths.astype(np.uint16) if is_small and lengths.itemsize > 2 else lengths


def counted(lengths: LengthArray) -> tuple[IntArray, IntArray]:
    """Count samples of each length, from long to short: two int64[r]. O(n).

    Example:
        >>> counted(np.array([3, 5, 3, 2]))
        (array([5, 3, 2]), array([1, 2, 1]))
    """
    longest = int(lengths.max())
    if longest > max(1 << 22, lengths.size):  # sparse: a table of all lengths would be larger
        values, counts = np.unique(lengths.astype(np.int64), return_counts=True)
        return values[::-1].copy(), counts[::-1].astype(np.int64)
    table = np.zeros(longest + 1, dtype=np.int64)
    for block in _blocks(lengths):
        found = np.bincount(block.astype(np.int64, copy=False))
        table[: found.size] += found
    values = np.flatnonzero(table)[::-1]
    return values, table[values]


def _blocks(lengths: LengthArray) -> Iterator[LengthArray]:
    for start in range(0, lengths.size, _CHUNK):
        yield np.asarray(lengths[start : start + _CHUNK])


def from_long_to_short(lengths: LengthArray, values: IntArray, counts: IntArray) -> IntArray:
    """Sort samples by length, int64[n], equal ones by index. O(n); see `lengths.runs`."""
    ids = np.empty(lengths.size, dtype=np.int64)
    _fill(ids, lengths, values, counts)
    return ids


def _fill(
    ids: npt.NDArray[np.integer], lengths: LengthArray, values: IntArray, counts: IntArray
) -> None:
    """Write each block's indices, sorted, after those of earlier blocks with the same length."""
    free = np.cumsum(counts) - counts  # where the next index of each length goes
    longest = int(values[0])
    keys = longest - values
    dtype: type[np.integer[Any]] = np.uint16 if longest < 1 << 16 else np.int64
    target = ids.data  # copies a few numbers sooner than an array does
    start = 0
    for block in _blocks(lengths):
        below = longest - block.astype(dtype)
        order = _by_digits(below)
        found, begins, many = _runs_of(below[order])
        run = np.searchsorted(keys, found)
        source = order.astype(ids.dtype)
        source += ids.dtype.type(start)
        if many.size * 16 < block.size:
            to = free[run]
            view, spans = source.data, (to, to + many, begins, begins + many)
            for low, high, first, last in zip(*(each.tolist() for each in spans), strict=True):
                target[low:high] = view[first:last]
        else:
            ids[np.repeat(free[run] - begins, many) + np.arange(block.size)] = source
        free[run] += many
        start += block.size


def _by_digits(numbers: LengthArray) -> IntArray:
    """Sort stably, by 16 bits at a time from the low ones on: NumPy sorts those by radix."""
    order = np.argsort(numbers.astype(np.uint16, copy=False), kind="stable")
    while numbers.itemsize > 2 and (numbers := numbers >> 16).any():
        order = order[np.argsort(numbers.astype(np.uint16)[order], kind="stable")]
    return order


def _runs_of(ordered: LengthArray) -> tuple[LengthArray, IntArray, IntArray]:
    """Return the distinct numbers of a sorted block, where each begins, and how many there are."""
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    return ordered[starts], starts, np.diff(np.append(starts, ordered.size))


def _write_header(path: Path, facts: dict[str, Any], num_bytes: int) -> int:
    """Write all but the indices, and reserve their space; return where they begin."""
    import hashlib  # here, so that `import batchwright` stays quick
    import json

    text = json.dumps(facts).encode()
    text += b" " * (-(len(text) + 40) % 64)
    content = struct.pack("<Q", len(text)) + hashlib.sha256(text).digest() + text
    with path.open("wb") as file:
        file.write(content)
        file.truncate(len(content) + num_bytes)
    return len(content)


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Read and check all but the indices. Reading never executes code."""
    import hashlib
    import json

    start = file.read(40)
    length = struct.unpack("<Q", start[:8])[0] if len(start) == 40 else 0
    text = file.read(length) if 0 < length <= _MOST_HEADER else b""
    if not text or hashlib.sha256(text).digest() != start[8:]:
        raise PlanError(f"{file.name}: truncated, changed, or not a length index. Build it again.")
    facts = json.loads(text)
    if not isinstance(facts, dict) or (facts.get("format"), facts.get("version")) != (
        _FORMAT,
        _VERSION,
    ):
        raise PlanError(f"{file.name}: an index of another version. Build it again.")
    return facts, 40 + length
