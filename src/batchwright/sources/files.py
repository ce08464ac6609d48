"""The files that a path stands for, and how each of them is opened."""

from __future__ import annotations

import glob
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from batchwright.errors import SourceError, SourceNotFoundError
from batchwright.sources import blocks, columnar, delimited, huggingface, json_lines
from batchwright.sources.table import Table, reading

FORMATS: dict[str, Callable[[Path], Table]] = {
    ".npy": columnar.npy,
    ".parquet": columnar.parquet,
    ".arrow": columnar.arrow,
    ".feather": columnar.arrow,
    ".ipc": columnar.arrow,
    ".jsonl": json_lines.table,
    ".ndjson": json_lines.table,
    ".csv": delimited.csv,
    ".tsv": delimited.tsv,
}
"""How each kind of file is opened. A new format is one function and one line here."""

_COMPRESSIBLE = frozenset({".jsonl", ".ndjson", ".csv", ".tsv", ".txt"})
_KNOWN = ", ".join(FORMATS)

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
        is_saved = exists and huggingface.is_saved(source)
    if is_saved:
        return huggingface.saved_files(source)
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
    opener = blocks.lines if lines and suffix == ".txt" else FORMATS.get(suffix)
    if opener is None:
        raise SourceError(
            f"{path} is of an unknown kind {path.suffix or '(no suffix)'!r}; expected {_KNOWN}."
        )
    if not path.is_file():
        raise SourceError(f"{path} is not a regular file.")
    if size == 0:
        raise SourceError(f"{path} is empty: it has 0 bytes.")
    rows_per_byte = _ROWS_PER_COLUMNAR_BYTE if is_columnar(path) else _ROWS_PER_BYTE
    return replace(opener(path), most_rows=max(_ALWAYS_BELIEVED, size * rows_per_byte))


def is_columnar(path: Path) -> bool:
    """Return whether one column of a file is read by itself, and needs no parsing."""
    return _suffix(path) in FORMATS.keys() - _COMPRESSIBLE


def _suffix(path: Path) -> str:
    """Return the suffix of the format, without a codec's; "" where the two do not go together."""
    suffix = path.suffix.lower()
    if suffix not in blocks.CODECS:
        return suffix
    inner = Path(path.stem).suffix.lower()
    return inner if inner in _COMPRESSIBLE else ""


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
