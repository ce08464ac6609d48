"""Columns out of Hugging Face datasets, saved or live."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from batchwright._format import one_line
from batchwright.errors import SourceError, SourceNotFoundError
from batchwright.sources.table import Batches, Table, checked

if TYPE_CHECKING:
    import datasets

_BATCH_ROWS = 4096


def is_saved(directory: Path) -> bool:
    """Return whether `datasets.save_to_disk` wrote this directory."""
    return any((directory / name).is_file() for name in ("state.json", "dataset_dict.json"))


def saved_files(directory: Path) -> list[Path]:
    """Return the Arrow files of a saved dataset, in the order of its rows.

    Raises:
        SourceError: The directory holds several splits, or its description is damaged.
    """
    if (directory / "dataset_dict.json").is_file():
        names = sorted(path.parent.name for path in directory.glob("*/state.json"))
        raise SourceError(
            f"{directory} holds splits, which are planned one by one. Name one of its "
            f"directories: {', '.join(map(repr, names))}."
        )
    description = directory / "state.json"
    state = json.loads(description.read_bytes())
    entries = state.get("_data_files") if isinstance(state, dict) else None
    if not isinstance(entries, list):
        raise SourceError(f"{description} names no data files.")
    if not entries:
        raise SourceError(f"{directory} has no rows.")
    files: list[Any] = [
        entry.get("filename") if isinstance(entry, dict) else entry for entry in entries
    ]
    for name in files:
        # A path elsewhere is refused: everything a dataset saves is in its directory.
        if not isinstance(name, str) or name in {"", ".", ".."} or Path(name).name != name:
            raise SourceError(
                f"{description} names {one_line(repr(name), 80)} as a data file; expected the name "
                "of a file beside it."
            )
        if not (directory / name).is_file():
            raise SourceNotFoundError(
                f"{directory} is not complete: there is no file {directory / name}."
            )
    if len(set(files)) < len(files):
        raise SourceError(f"{description} names a data file twice.")
    return [directory / name for name in files]


def is_live(source: object) -> TypeGuard[datasets.Dataset]:
    """Return whether `source` is an object of the package `datasets`, without importing it."""
    return type(source).__module__.partition(".")[0] == "datasets"


def table(dataset: Any) -> Table:
    """Open a live `datasets.Dataset`, as selected, shuffled and filtered; its format is ignored.

    Raises:
        SourceError: It is a dictionary of splits, or a stream of unknown length.
    """
    kind = type(dataset).__name__
    if isinstance(dataset, dict):
        raise SourceError(
            f"A {kind} holds splits, which are planned one by one. Pass one of them: "
            f"{', '.join(map(repr, dataset))}."
        )
    if not hasattr(dataset, "num_rows"):
        raise SourceError(
            f"A {kind} has no fixed number of rows. Pass a datasets.Dataset, for instance one "
            "loaded without streaming=True."
        )

    def batches(column: str) -> Batches:
        seen = 0
        for batch in dataset.select_columns([column]).with_format("arrow").iter(_BATCH_ROWS):
            seen += batch.num_rows
            for chunk in batch.column(column).chunks:
                yield checked(chunk), seen / dataset.num_rows

    return Table(f"the {kind}", "Arrow", tuple(dataset.column_names), batches)


def fingerprint(dataset: Any) -> str | None:
    """Return what identifies a live dataset's contents, or None where it does not say."""
    value = getattr(dataset, "_fingerprint", None)
    return f"{value}-{dataset.num_rows}" if isinstance(value, str) else None
