"""Training dynamics on disk: a safetensors file of columns."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from batchwright.errors import ScoresError

FORMAT = "batchwright-dynamics"
FORMAT_VERSION = "1"


def save_columns(columns: Mapping[str, npt.NDArray[Any]], path: str | Path) -> None:
    """Write arrays by name; an existing file is replaced once the new one is whole.

    Raises:
        ScoresError: The file cannot be written.
    """
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION}
    try:
        save_file(dict(columns), partial, metadata=metadata)
        partial.replace(target)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise ScoresError(f"{target}: cannot be written ({_one_line(error)}).") from error


def load_columns(path: str | Path, names: AbstractSet[str]) -> dict[str, npt.NDArray[Any]]:
    """Read what `save_columns` wrote.

    Raises:
        ScoresError: The file is missing, truncated, of a later format, or has other columns.
    """
    source = Path(path)
    if not source.is_file():
        raise ScoresError(f"{source}: no such file of training dynamics.")
    try:
        with safe_open(source, framework="numpy") as file:
            metadata = file.metadata() or {}
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise ScoresError(
            f"{source}: truncated, or no safetensors file ({_one_line(error)})."
        ) from error
    said = (metadata.get("format"), metadata.get("format_version"))
    fits = set(columns) == set(names) and all(
        isinstance(column, np.ndarray) and column.ndim == 1 and column.size
        for column in columns.values()
    )
    if said != (FORMAT, FORMAT_VERSION) or not fits:
        raise ScoresError(
            f"{source}: no training dynamics that this version reads. Make them with Dynamics.save."
        )
    return columns


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
