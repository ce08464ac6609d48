"""The files that a path stands for, and how each of them is opened."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from batchwright._format import one_line
from batchwright.errors import SourceError, SourceNotFoundError
from batchwright.sources import blocks, columnar, delimited
from batchwright.sources.json_lines import json_lines
from batchwright.sources.table import Columns, Table, reading


class Format(NamedTuple):
    """How a kind of file is opened.

    Attributes:
        kind: What messages call it.
        open: Opens it.
        columnar: Whether one column is read by itself, and needs no parsing.
        typed: False where every value is text.
    """

    kind: str
    open: Callable[[Path], Columns]
    columnar: bool = False
    typed: bool = True


_ARROW = Format("Arrow", columnar.arrow, columnar=True)
_JSON = Format("JSON lines", json_lines)
_LINES = Format("text", blocks.lines)

FORMATS = {
    ".npy": Format(".npy", columnar.npy, columnar=True),
    ".parquet": Format("Parquet", columnar.parquet, columnar=True),
    ".arrow": _ARROW,
    ".feather": _ARROW,
    ".ipc": _ARROW,
    ".jsonl": _JSON,
    ".ndjson": _JSON,
    ".csv": Format("CSV", delimited.csv, typed=False),
    ".tsv": Format("TSV", delimited.tsv, typed=False),
}
"""A new format is one function and one line here."""

_KNOWN = ", ".join(FORMATS)
_DESCRIPTIONS = ("state.json", "dataset_dict.json")  # what `datasets.save_to_disk` writes

# How many rows are believed: so many, or so many for each byte, whichever is more. Where all
# lengths are equal, Parquet keeps a million rows in a hundred bytes.
_ALWAYS_BELIEVED = 1 << 23
_ROWS_PER_BYTE = 200
_ROWS_PER_COLUMNAR_BYTE = 10_000


def files_of(source: Path) -> list[Path]:
    """Return the files that a path stands for, in the order of their rows.

    A file stands for itself. A directory stands for the dataset saved in it, or for its shards in
    the order of their names; so does a pattern such as `data/train-*.parquet`.

    Raises:
        SourceNotFoundError: There is no such file, or no file of a known kind.
        SourceError: A directory holds several kinds.
    """
    with reading(str(source), "a source"):
        exists, entries = source.exists(), list(source.iterdir()) if source.is_dir() else None
        if not exists and glob.has_magic(str(source)):
            matches = glob.glob(str(source))  # noqa: PTH207 -- Path.glob takes no absolute pattern
            entries = [Path(name) for name in matches]
        is_saved = any((source / name).is_file() for name in _DESCRIPTIONS)
    if is_saved:
        with reading(str(source), "a saved dataset"):
            return _files_of_saved_dataset(source)
    if entries is not None:
        return _shards(entries, str(source))
    if exists:
        return [source]
    raise SourceNotFoundError(f"There is no file or directory {source}.")


def open_file(path: Path, *, lines: bool = False) -> Table:
    """Open one file as what its suffix says.

    Args:
        path: The file.
        lines: Whether a `.txt` is taken, in which every line is a sample.

    Raises:
        SourceNotFoundError: The file is gone.
        SourceError: It is empty, of an unknown kind, or not what its suffix says.
    """
    with reading(str(path), "a file"):
        size = path.stat().st_size
    suffix = _suffix(path)
    format_ = _LINES if lines and suffix == ".txt" else FORMATS.get(suffix)
    if format_ is None:
        raise SourceError(
            f"{path} is of an unknown kind {path.suffix or '(no suffix)'!r}; expected {_KNOWN}."
        )
    if not path.is_file():
        raise SourceError(f"{path} is not a regular file.")
    if size == 0:
        raise SourceError(f"{path} is empty: it has 0 bytes.")
    with reading(str(path), format_.kind):
        columns, batches = format_.open(path)
    most_rows = size * (_ROWS_PER_COLUMNAR_BYTE if format_.columnar else _ROWS_PER_BYTE)
    most_rows = max(_ALWAYS_BELIEVED, most_rows)
    return Table(str(path), format_.kind, columns, batches, format_.typed, most_rows)


def is_columnar(path: Path) -> bool:
    """Return whether one column of a file is read by itself, and needs no parsing."""
    format_ = FORMATS.get(_suffix(path))
    return format_ is not None and format_.columnar


def _suffix(path: Path) -> str:
    """Return the suffix of the format, without a codec's; "" where the two do not go together."""
    suffix = path.suffix.lower()
    if suffix not in blocks.CODECS:
        return suffix
    inner = Path(path.stem).suffix.lower()
    format_ = _LINES if inner == ".txt" else FORMATS.get(inner)
    return "" if format_ is None or format_.columnar else inner


def _shards(candidates: list[Path], source: str) -> list[Path]:
    # Writers leave files such as _SUCCESS, .part-0.crc and README.md beside the shards.
    files = sorted(
        path
        for path in candidates
        if _suffix(path) in FORMATS and not path.name.startswith((".", "_")) and path.is_file()
    )
    if not files:
        raise SourceNotFoundError(f"{source} holds no file of a known kind: {_KNOWN}.")
    kinds = sorted({_suffix(path) for path in files})
    if len({FORMATS[kind] for kind in kinds}) > 1:
        example = Path(source, f"*{kinds[0]}") if Path(source).is_dir() else f"*{kinds[0]}"
        raise SourceError(
            f"{source} holds files of several kinds ({', '.join(kinds)}). "
            f"Name one kind with a pattern, for instance '{example}'."
        )
    return files


def _files_of_saved_dataset(directory: Path) -> list[Path]:
    """Return the Arrow files of a saved dataset, in the order of its rows."""
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
