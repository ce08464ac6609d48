"""A `Table`: the common interface for reading every kind of source."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from batchwright._format import one_line
from batchwright.errors import (
    BatchwrightError,
    MissingExtraError,
    SourceError,
    SourceNotFoundError,
)
from batchwright.sources.locations import AnyPath, Uri
from batchwright.sources.uris import remote_file

if TYPE_CHECKING:
    import pyarrow as pa

    Array: TypeAlias = pa.Array[Any]

Values: TypeAlias = "np.ndarray | Array"
"""Consecutive rows of one column."""

Batches: TypeAlias = Iterator[tuple[Values, float]]
"""Batches of rows in order, each with the fraction of the table that has been read."""

Columns: TypeAlias = tuple[tuple[str, ...], Callable[[str], Batches]]
"""The names of columns in order, and a function that reads one of them from the first row on."""

Kind: TypeAlias = Literal["numbers", "text", "lists", "binary", "other"]

_KINDS: dict[Kind, tuple[str, ...]] = {
    "numbers": ("integer", "floating"),
    "text": ("string", "large_string"),
    "binary": ("binary", "large_binary", "fixed_size_binary"),
    "lists": ("list", "large_list", "fixed_size_list", "list_view", "large_list_view"),
}


class Table(NamedTuple):
    """Columns of one file or dataset, read a batch of rows at a time."""

    name: str  # for messages, usually its path
    kind: str  # what it is read as, usually its format
    columns: tuple[str, ...]
    batches: Callable[[str], Batches]  # reads the column with this name
    typed: bool = True  # False if every value is text (CSV)
    most_rows: int = 2**63 - 1  # to read: a few bytes can claim any number


class Place(NamedTuple):
    """Where a batch of rows comes from, for messages."""

    source: str
    column: str
    first_row: int

    def __str__(self) -> str:
        return f"{self.source}: {self.column!r}"

    def row(self, offset: int) -> str:
        """Name the row `offset` of the batch."""
        return f"{self.source}: row {self.first_row + offset:,} of {self.column!r} (counted from 0)"


@contextmanager
def reading(name: str, kind: str) -> Iterator[None]:
    """Turn any error of the libraries that read a file into one of ours, in one line."""
    try:
        yield
    except (BatchwrightError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"There is no file {name}.") from error
    except ImportError as error:
        raise MissingExtraError(
            f"{name}: reading {kind} needs the package {error.name or 'pyarrow'}, which is not "
            "installed. Run: pip install 'batchwright[sources]'"
        ) from error
    except BaseException as error:  # a panic of a library in Rust is not an Exception
        reason = "nested too deeply" if isinstance(error, RecursionError) else one_line(error, 300)
        if isinstance(error, MemoryError):
            reason = f"it needs more memory than there is ({reason})"
        raise SourceError(f"{name} cannot be read as {kind}: {reason}") from error


def native_file(path: AnyPath, *, read_ahead: bool = True) -> pa.NativeFile:
    """Open a file for pyarrow, whatever bytes its name consists of.

    With `read_ahead=False`, only the requested bytes of a remote file are read.
    """
    import pyarrow as pa

    if isinstance(path, Uri):
        remote: Any = path.open() if read_ahead else remote_file(path.text, read_ahead=False)
        return pa.PythonFile(remote, mode="r")
    name: Any = os.fsencode(path)
    return pa.OSFile(name, "rb")


def items(file: BufferedReader, dtype: np.dtype[Any] | str, count: int) -> np.ndarray:
    """Read `count` items of an array, or fewer if the file ends before them."""
    values = np.empty(count, dtype)
    size = file.readinto(values.view(np.uint8).data) if count else 0
    return values[: size // values.itemsize]


def checked(values: Array) -> Array:
    """Check every offset and every byte of UTF-8: kernels trust them, and could read too far."""
    values.validate(full=True)
    return values


def sizes_only(values: Array) -> Array:
    """Replace the items of lists by nulls, which take no memory; copy and check other values.

    In a mapped file, only the offsets of lists are then read.
    """
    import pyarrow as pa

    lists: Any = values
    is_list = pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)
    if not is_list or not len(lists):
        return pa.concat_arrays([checked(values)])
    lists.validate()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    sizes = np.diff(offsets)
    if offsets[0] < 0 or (sizes < 0).any() or offsets[-1] > len(lists.values):
        raise SourceError("the offsets of its lists are damaged.")
    return nulls_of(sizes, lists.is_null().to_numpy(zero_copy_only=False))


def nulls_of(sizes: np.ndarray, is_null: np.ndarray) -> Array:
    """Make lists of nulls with these sizes; some lists may themselves be null."""
    import pyarrow as pa

    offsets: Any = pa.array(np.append(0, np.cumsum(sizes)))
    mask: Any = pa.array(is_null) if is_null.any() else None
    made: Array = pa.LargeListArray.from_arrays(offsets, pa.nulls(int(sizes.sum())), mask=mask)
    return made


def kind_of(values: Values) -> Kind | None:
    """Return the kind of values, or None if all of them are null."""
    if isinstance(values, np.ndarray):
        return "numbers" if values.dtype.kind in "iuf" else "other"
    from pyarrow import types

    if types.is_null(values.type):
        return None
    for kind, names in _KINDS.items():
        if any(getattr(types, f"is_{name}")(values.type) for name in names):
            return kind
    return "other"


def type_of(values: Values) -> str:
    """Return the name of the values' type, for messages."""
    return one_line(values.dtype if isinstance(values, np.ndarray) else values.type, 80)


def is_missing(values: Values) -> np.ndarray | None:
    """Say which rows are null or NaN, bool[k]. None: no row is."""
    if isinstance(values, np.ndarray):
        found = np.isnan(values) if values.dtype.kind == "f" else np.zeros(0, dtype=np.bool_)
    else:
        import pyarrow.compute as pc
        from pyarrow import types

        if not values.null_count and not types.is_floating(values.type):
            return None
        found = pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False)
    return found if found.any() else None


def without_missing(values: Any, missing: np.ndarray) -> Values:
    """Replace missing rows with values of length 0."""
    if isinstance(values, np.ndarray):
        zeroed: np.ndarray = np.where(missing, values.dtype.type(0), values)
        return zeroed
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, filled = kind_of(values), values
    if kind == "lists":
        sizes = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
        return nulls_of(sizes, np.zeros(len(sizes), dtype=np.bool_))
    nothing = {"numbers": 0, "text": "", "binary": b""}.get(kind or "")
    if nothing is not None:  # else of a type that is refused
        is_fixed = pa.types.is_fixed_size_binary(values.type)
        scalar = pa.scalar(bytes(values.type.byte_width) if is_fixed else nothing, values.type)
        filled = pc.if_else(pa.array(missing), scalar, values)
    made: Values = filled
    return made


def plain(values: Values) -> Values:
    """Undo encodings that kernels do not accept: dictionaries, views, extensions, decimals."""
    if isinstance(values, np.ndarray):
        return values
    import pyarrow as pa

    array: Any = values
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    for is_encoded, type_ in (
        (pa.types.is_string_view, pa.large_string()),
        (pa.types.is_binary_view, pa.large_binary()),
        (pa.types.is_decimal, pa.float64()),
    ):
        if is_encoded(array.type):
            array = array.cast(type_)
    decoded: Values = array
    return decoded
