"""Training dynamics on disk: a safetensors file of columns."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy.typing as npt

from batchwright._array_file import Arrays, Kind, check_seal, load_arrays, save_arrays, sealed
from batchwright.errors import ScoresError

_KIND = Kind(
    "batchwright-dynamics", "2", "training dynamics", "Make such a file with Dynamics.save."
)


def save_columns(columns: Mapping[str, npt.NDArray[Any]], path: str | Path) -> None:
    """Write arrays by name; an existing file is replaced once the new one is whole.

    Raises:
        ScoresError: The file cannot be written.
    """
    save_arrays(path, columns, sealed(columns, _KIND.metadata), ScoresError)


def load_columns(path: str | Path, names: AbstractSet[str]) -> Arrays:
    """Read what `save_columns` wrote.

    Raises:
        ScoresError: The file is missing, truncated, changed, of another version, or has other
            columns.
    """
    columns, metadata = load_arrays(path, _KIND, ScoresError)
    check_seal(path, columns, metadata, _KIND, ScoresError)
    flat = all(column.ndim == 1 and column.size for column in columns.values())
    if set(columns) != set(names) or not flat:
        raise ScoresError(f"{path}: other columns than training dynamics have. {_KIND.made_by}")
    return columns
