"""What a column holds, whichever of Arrow's many types it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np

from batchwright.sources.table import Values

if TYPE_CHECKING:
    import pyarrow as pa

Kind: TypeAlias = Literal["numbers", "text", "lists", "binary", "other"]


def plain(values: Values) -> Values:
    """Undo the encodings that kernels do not take: dictionaries, views, extensions, decimals."""
    if isinstance(values, np.ndarray):
        return values
    import pyarrow as pa

    array: Any = values
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    for encoded, type_ in (
        (pa.types.is_string_view, pa.large_string()),
        (pa.types.is_binary_view, pa.large_binary()),
        (pa.types.is_decimal, pa.float64()),
    ):
        if encoded(array.type):
            array = array.cast(type_)
    return cast("Values", array)


def kind_of(values: Values) -> Kind | None:
    """Return what plain values are, or None where all that is known is that they are null."""
    if isinstance(values, np.ndarray):
        return "numbers" if values.dtype.kind in "iuf" else "other"
    import pyarrow as pa

    types = pa.types
    if types.is_null(values.type):
        return None
    tests: dict[Kind, tuple[Callable[[pa.DataType], bool], ...]] = {
        "numbers": (types.is_integer, types.is_floating),
        "text": (types.is_string, types.is_large_string),
        "lists": (
            types.is_list,
            types.is_large_list,
            types.is_fixed_size_list,
            types.is_list_view,
            types.is_large_list_view,
        ),
        "binary": (types.is_binary, types.is_large_binary, types.is_fixed_size_binary),
    }
    for kind, are in tests.items():
        if any(test(values.type) for test in are):
            return kind
    return "other"
