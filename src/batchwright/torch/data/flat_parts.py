"""Flat arrays of tokens out of files and Arrow's buffers, as they lie there."""

import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from batchwright.errors import ColumnNotFoundError, LengthsError, SourceError, SourceNotFoundError
from batchwright.sources.columnar import check_end_of_stream
from batchwright.sources.files import files_of
from batchwright.sources.locations import Uri, located
from batchwright.sources.table import reading
from batchwright.sources.token_files import DATATROVE, MEGATRON, datatrove_tokens, megatron_tokens
from batchwright.torch.data.flat_rows import FlatArray, FlatRows
from batchwright.typing import Field, IntArray

_ARROW = (".arrow", ".feather", ".ipc")


@dataclass(frozen=True, eq=False)
class Edges:
    """Where samples begin and end in flat arrays.

    Args:
        array: integer[n + 1], memory-mapped or not. Or [n], with the edges that it lacks below.
        unit: How much the edges count for a token.
        first: Stands before the array.
        last: Stands after the array, in tokens.
    """

    array: FlatArray
    unit: int = 1
    first: int | None = None
    last: int | None = None

    def __len__(self) -> int:
        return self.array.size - (self.first is None and self.last is None)

    def at(self, samples: IntArray) -> tuple[IntArray, IntArray]:
        """Return where samples begin and end: two int64[m]."""
        if self.first is not None:
            return np.where(samples > 0, self._edge(samples - 1), self.first), self._edge(samples)
        if self.last is None:
            return self._edge(samples), self._edge(samples + 1)
        later = samples + 1
        stops = self._edge(np.minimum(later, self.array.size - 1))
        return self._edge(samples), np.where(later < self.array.size, stops, self.last)

    def _edge(self, number: IntArray) -> IntArray:
        edge = self.array[number].astype(np.int64, copy=False)
        if self.unit == 1:
            return edge
        places, rest = np.divmod(edge, self.unit)
        if rest.any():
            raise LengthsError(
                f"a sample begins at byte {edge[rest != 0][0]:,}, inside of a token of {self.unit} "
                "bytes: the index is damaged."
            )
        return places

    def whole(self) -> IntArray:
        """Return int64[n + 1], in memory."""
        starts, stops = self.at(np.arange(len(self)))
        return np.append(starts, stops[-1:]) if starts.size else np.zeros(1, np.int64)


@dataclass(frozen=True, eq=False)
class Chunks:
    """A flat array that is in one piece or in several; no sample is in two."""

    arrays: tuple[FlatArray, ...]
    begins: IntArray  # int64[pieces + 1], at which token each begins, and the end

    @staticmethod
    def of(arrays: Sequence[FlatArray], name: str) -> "Chunks":
        """Take pieces of one type together."""
        kinds = {each.dtype for each in arrays}
        if len(kinds) != 1 or next(iter(kinds)).kind not in "iufb":
            raise LengthsError(
                f"{name!r} is of type {', '.join(map(str, kinds)) or 'unknown'}; expected one "
                "type of numbers."
            )
        sizes = [each.size for each in arrays]
        pieces = tuple(map(np.ascontiguousarray, arrays))
        return Chunks(pieces, np.append(0, np.cumsum(sizes, dtype=np.int64)))

    def __len__(self) -> int:
        return int(self.begins[-1])

    def rows(self, starts: IntArray, lengths: IntArray) -> FlatRows:
        """Return the rows of a batch. Out of several pieces they are copied, one by one."""
        if len(self.arrays) == 1:
            return FlatRows(self.arrays[0], starts, lengths)
        pieces = np.searchsorted(self.begins[1:-1], starts, side="right")
        places = starts - self.begins[pieces]
        stops = (places + lengths).tolist()
        parts = [
            self.arrays[piece][start:stop]
            for piece, start, stop in zip(pieces.tolist(), places.tolist(), stops, strict=True)
        ]
        tokens = np.concatenate([self.arrays[0][:0], *parts])
        return FlatRows(tokens, np.cumsum(lengths) - lengths, lengths)


class Part(NamedTuple):
    """Samples in flat arrays."""

    fields: Mapping[str, Chunks]  # one entry a token
    edges: Edges
    columns: Mapping[str, FlatArray] = {}  # one number a sample


def chunks_of(values: Field, name: str) -> Chunks:
    """Take an array, tensor or Arrow array of numbers, [total], without a copy where possible."""
    if _is_arrow(values):
        chunks = getattr(values, "chunks", [values])
        return Chunks.of([_numbers(each, name) for each in chunks], name)
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1:
        raise LengthsError(
            f"{name!r} is of shape {list(array.shape)}; expected a flat array, [total]."
        )
    return Chunks.of([array], name)


def part_of_arrow(data: Field, names: Sequence[str] | None, rows: IntArray | None = None) -> Part:
    """Take lists of numbers, and numbers, out of an array or table of Arrow, or a data set.

    Only `rows` need to have values; None: all.
    """
    fields: dict[str, Chunks] = {}
    numbers: dict[str, FlatArray] = {}
    edges: Edges | None = None
    columns = _columns_of(data, names)
    for name, column in columns.items():
        kind = _kind(column.type)
        if kind == "other" and names is None:
            continue
        nulls = column.null_count
        if nulls and rows is not None:
            nulls = int(column.is_null().to_numpy(zero_copy_only=False)[rows].sum())
        if kind == "other" or nulls:
            what = f"{nulls:,} nulls" if kind != "other" else f"type {column.type}"
            raise LengthsError(
                f"column {name!r} has {what}; expected numbers, or lists of them. Name others: "
                "fields=[…]."
            )
        chunks = getattr(column, "chunks", [column]) or [column.combine_chunks()]
        if kind == "number":
            numbers[name] = np.concatenate([_numbers(each.fill_null(0), name) for each in chunks])
            continue
        arrays, offsets = zip(*(_lists(each, name) for each in chunks), strict=True)
        fields[name] = Chunks.of(arrays, name)
        own = Edges(offsets[0] if len(offsets) == 1 else _joined(offsets))
        if edges is not None and not np.array_equal(own.array, edges.array):
            raise LengthsError(
                f"lists of {name!r} are not as long as those of {next(iter(fields))!r}. Name "
                "columns of one length: fields=[…]."
            )
        edges = edges or own
    if edges is None:
        raise ColumnNotFoundError(f"none of the columns {list(columns)} holds lists of numbers.")
    return Part(fields, edges, numbers)


def _columns_of(data: Any, names: Sequence[str] | None) -> dict[str, Any]:
    """Return the columns of a table or data set; an array is one of `input_ids`."""
    table: Any = data
    if type(data).__module__.startswith("datasets."):
        table = getattr(data, "data", None)
    if _is_arrow(table) and not hasattr(table, "column_names"):
        return {"input_ids": table}
    if not hasattr(table, "column"):
        raise SourceError(
            f"Tokens cannot be taken from a {type(data).__name__}: pass lists or a table of "
            "pyarrow, or a datasets.Dataset, one of the splits, loaded without streaming=True."
        )
    for name in names or ():
        if name not in table.column_names:
            raise ColumnNotFoundError(
                f"there is no column {name!r}, expected one of {table.column_names}."
            )
    listed = table.column_names if names is None else names
    return {name: table.column(name) for name in listed}


def parts_of_files(path: str | os.PathLike[str], names: Sequence[str] | None) -> list[Part]:
    """Open files of tokens that say where samples are, memory-mapped."""
    given = located(path)
    if isinstance(given, Uri):
        raise SourceError(
            f"{given}: tokens are memory-mapped: copy the files to this machine, and name the "
            "copies."
        )
    if given.suffix == ".bin":
        index = given.with_suffix(MEGATRON)
        if given.is_file() and not index.exists():
            raise SourceNotFoundError(
                f"There is no {index} to say where the samples of {given} are. Without one, use "
                "FlatTokens(np.memmap(…), offsets)."
            )
        given = index
    elif given.suffix == ".ds":
        given = given.with_name(f"{given.name}.index")
    found = []
    for file in files_of(given):
        kind = file.suffix.lower()
        with reading(str(file), "tokens"):
            if kind in _ARROW:
                found.append(part_of_arrow(_mapped_table(file), names))
                continue
            if kind != MEGATRON and not file.name.lower().endswith(DATATROVE):
                raise SourceError(
                    f"{file} does not say where samples are; expected {MEGATRON}, {DATATROVE} or "
                    f"{', '.join(_ARROW)}. Give FlatTokens the array and its offsets."
                )
            tokens = (megatron_tokens if kind == MEGATRON else datatrove_tokens)(file)
            array = (
                np.memmap(tokens.path, tokens.dtype, "r") if tokens.tokens else np.empty(0, "u2")
            )
            places = np.asarray(tokens.edges)
            edges = Edges(places, tokens.unit, last=tokens.tokens)
            if tokens.are_ends:
                edges = Edges(places, first=0)
            found.append(Part({"input_ids": Chunks.of([array], "input_ids")}, edges))
    return found


def joined(parts: Sequence[Part]) -> Part:
    """Put the samples of several parts one after the other."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    for part in parts:
        if [*part.fields, *part.columns] != [*first.fields, *first.columns]:
            raise LengthsError(
                f"files hold the fields {[*first.fields, *first.columns]} and "
                f"{[*part.fields, *part.columns]}; expected the same."
            )
    fields = {
        name: Chunks.of([each for part in parts for each in part.fields[name].arrays], name)
        for name in first.fields
    }
    columns = {
        name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns
    }
    return Part(fields, Edges(_joined([part.edges.whole() for part in parts])), columns)


class MappedArray(NamedTuple):
    """A part of a memory-mapped file, as it is pickled: without what it holds."""

    path: str
    dtype: str
    offset: int
    size: int

    @staticmethod
    def of(array: Field) -> "Field | MappedArray":
        """Describe an array that lies in a mapped file; return others as they are."""
        root = array
        while isinstance(root, np.ndarray) and not isinstance(root.base, mmap.mmap):
            root = root.base
        name = getattr(root, "filename", None)
        whole = isinstance(array, np.ndarray) and array.ndim == 1 and array.flags.c_contiguous
        if name is None or not whole or getattr(root, "mode", None) not in {"r", "r+"}:
            return array
        offset = root.offset + array.ctypes.data - root.ctypes.data
        return MappedArray(str(name), array.dtype.str, offset, array.size)

    def open(self) -> FlatArray:
        """Map the file again."""
        with reading(self.path, f"{np.dtype(self.dtype)}[{self.size}]"):
            return np.memmap(self.path, self.dtype, "r", self.offset, (self.size,))


def _mapped_table(path: Path) -> Any:
    import pyarrow as pa

    with path.open("rb") as file:
        is_stream = file.read(6) != b"ARROW1"
    source = pa.memory_map(os.fspath(path))
    if not is_stream:
        return pa.ipc.open_file(source).read_all()
    table = pa.ipc.open_stream(source).read_all()
    check_end_of_stream(source, path)
    return table


def _is_arrow(values: Field) -> bool:
    return type(values).__module__.partition(".")[0] == "pyarrow"


def _kind(type_: Any) -> str:
    from pyarrow import types

    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    inner = type_.value_type if any(is_one(type_) for is_one in lists) else type_
    tests = (types.is_integer, types.is_floating, types.is_boolean)
    if not any(is_one(inner) for is_one in tests):
        return "other"
    return "number" if inner is type_ else "list"


def _numbers(array: Any, name: str) -> FlatArray:
    """Return Arrow's numbers as they lie in memory; booleans, which are bits there, as bytes."""
    array.validate()
    if array.null_count:
        raise LengthsError(f"{name!r} holds {array.null_count} nulls; expected numbers.")
    made: FlatArray = array.to_numpy(zero_copy_only=str(array.type) != "bool")
    return made


def _lists(array: Any, name: str) -> tuple[FlatArray, FlatArray]:
    """Return the values of lists, and offsets that begin at 0."""
    from pyarrow import types

    array.validate()
    if types.is_fixed_size_list(array.type):
        sizes = array.is_valid().to_numpy(zero_copy_only=False) * array.type.list_size
        return _numbers(array.flatten(), name), np.append(0, np.cumsum(sizes))
    offsets = array.offsets.to_numpy() if len(array) else np.zeros(1, np.int64)
    first, last = int(offsets[0]), int(offsets[-1])
    values = array.values.slice(first, last - first)
    return _numbers(values, name), offsets - first if first else offsets


def _joined(offsets: Sequence[FlatArray]) -> IntArray:
    """Put offsets that begin at 0 one after the other."""
    sizes = np.concatenate([np.diff(each.astype(np.int64)) for each in offsets])
    return np.append(0, np.cumsum(sizes))
