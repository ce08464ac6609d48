"""Columns out of Hugging Face datasets, saved or live."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from batchwright.errors import SourceError, SourceNotFoundError
from batchwright.sources.columnar import checked
from batchwright.sources.table import Batches, Table, reading

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
    with reading(str(directory), "a saved dataset"):
        splits = directory / "dataset_dict.json"
        if splits.is_file():
            names = sorted(path.parent.name for path in directory.glob("*/state.json"))
            raise SourceError(
                f"{directory} holds splits, which are planned one by one. Name one of its "
                f"directories: {', '.join(map(repr, names))}."
            )
        state = json.loads((directory / "state.json").read_bytes())
        try:
            files = [directory / file["filename"] for file in state["_data_files"]]
        except (KeyError, TypeError) as error:
            raise SourceError(f"{directory / 'state.json'} names no data files.") from error
    if not files:
        raise SourceError(f"{directory} has no rows.")
    for file in files:
        if not file.is_file():
            raise SourceNotFoundError(f"{directory} is not complete: there is no file {file}.")
    return files


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
        rows = dataset.select_columns([column]).with_format("arrow")
        seen = 0
        for batch in rows.iter(_BATCH_ROWS):
            seen += batch.num_rows
            for chunk in batch.column(column).chunks:
                yield checked(chunk), seen / dataset.num_rows

    return Table(f"the {kind}", "Arrow", tuple(dataset.column_names), batches, columnar=True)


def fingerprint(dataset: Any) -> str | None:
    """Return what identifies a live dataset's contents, or None where it does not say."""
    value = getattr(dataset, "_fingerprint", None)
    return f"{value}-{dataset.num_rows}" if isinstance(value, str) else None
