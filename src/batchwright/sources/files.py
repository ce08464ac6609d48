"""Finds the files that a path stands for, and opens each of them."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, overload

from batchwright._format import one_line
from batchwright.errors import SourceError, SourceNotFoundError
from batchwright.sources import columnar, text_files, token_files
from batchwright.sources.locations import AnyPath, Uri, expanded, size_of
from batchwright.sources.table import Columns, Table, reading


class Format(NamedTuple):
    """How a kind of file is opened."""

    kind: str  # for messages
    open: Callable[[AnyPath], Columns]
    columnar: bool = False  # whether one column can be read alone, without parsing
    typed: bool = True  # False if every value is text
    sizes: Callable[[AnyPath], Columns] | None = None  # opens it for the sizes of lists


_LINES = Format("text", text_files.lines)

FORMATS = {
    ".npy": Format(".npy", columnar.npy, columnar=True),
    ".parquet": Format("Parquet", columnar.parquet, columnar=True),
    **dict.fromkeys(
        (".arrow", ".feather", ".ipc"),
        Format("Arrow", columnar.arrow, columnar=True, sizes=partial(columnar.arrow, sizes=True)),
    ),
    **dict.fromkeys((".jsonl", ".ndjson"), Format("JSON lines", text_files.json_lines)),
    ".csv": Format("CSV", text_files.delimited, typed=False),
    ".tsv": Format("TSV", partial(text_files.delimited, delimiter=b"\t"), typed=False),
    token_files.MEGATRON: Format("Megatron", token_files.megatron, columnar=True),
    token_files.DATATROVE: Format("datatrove", token_files.datatrove, columnar=True),
}
"""A new format is one function and one line here."""

_KNOWN = ", ".join(FORMATS)

# The most rows that are accepted: this number, or this number for each byte, whichever is more. If
# all lengths are equal, Parquet stores a million rows in a hundred bytes.
_ALWAYS_BELIEVED = 1 << 23
_ROWS_PER_BYTE = 200
_ROWS_PER_COLUMNAR_BYTE = 10_000


@overload
def files_of(source: Path) -> Sequence[Path]: ...


@overload
def files_of(source: AnyPath) -> Sequence[AnyPath]: ...


def files_of(source: AnyPath) -> Sequence[AnyPath]:
    """Return the files that a path or a URI stands for, in the order of their rows.

    A file stands for itself. A directory stands for the dataset saved in it, or for its shards in
    the order of their names; so does a pattern such as `data/train-*.parquet`.
    """
    with reading(str(source), "a source"):
        if source.is_dir():
            if (source / "dataset_dict.json").is_file():
                splits = sorted(path.parts[-2] for path in source.glob("*/state.json"))
                raise SourceError(
                    f"{source} holds splits, each of which is planned separately. Name one of its "
                    f"directories: {', '.join(map(repr, splits))}."
                )
            if (source / "state.json").is_file():
                return _files_of_saved_dataset(source)
            return _shards(source.iterdir(), source)
        if source.exists():
            return [source]
        if glob.has_magic(str(source)):
            if isinstance(source, Uri):
                return _shards(expanded(source), source)
            matches = glob.glob(str(source))  # noqa: PTH207 -- Path.glob takes no absolute pattern
            return _shards(map(Path, matches), source)
    raise SourceNotFoundError(f"There is no file or directory {source}.")


def open_file(path: AnyPath, *, lines: bool = False, sizes: bool = False) -> Table:
    """Open one file by its suffix; with `lines`, also a `.txt` with one sample per line.

    With `sizes`, the items of lists may be replaced by nulls.
    """
    with reading(str(path), "a file"):
        size = size_of(path)
    format_ = format_of(path, lines=lines) or _manifest(path)
    if format_ is None:
        raise SourceError(
            f"{path} is of an unknown kind {path.suffix or '(no suffix)'!r}; expected {_KNOWN}."
        )
    if not path.is_file():
        raise SourceError(f"{path} is not a regular file.")
    if size == 0:
        raise SourceError(f"{path} is empty: it has 0 bytes.")
    with reading(str(path), format_.kind):
        columns, batches = ((sizes and format_.sizes) or format_.open)(path)
    per_byte = _ROWS_PER_COLUMNAR_BYTE if format_.columnar else _ROWS_PER_BYTE
    most_rows = max(_ALWAYS_BELIEVED, per_byte * size)
    return Table(str(path), format_.kind, columns, batches, format_.typed, most_rows)


def format_of(path: AnyPath, *, lines: bool = False) -> Format | None:
    """Return the format of a suffix, which may be followed by that of a codec."""
    suffix = path.suffix.lower()
    if suffix == token_files.MEGATRON and format_of(Path(path.stem)) is not None:
        return None  # lhotse's index of the lines of a manifest, x.jsonl.idx
    if path.name.lower().endswith(token_files.DATATROVE):
        return FORMATS[token_files.DATATROVE]
    packed = suffix in text_files.CODECS
    if packed:
        suffix = Path(path.stem).suffix.lower()
    format_ = _LINES if lines and suffix == ".txt" else FORMATS.get(suffix)
    return None if packed and format_ is not None and format_.columnar else format_


def _manifest(path: AnyPath) -> Format | None:
    """Return JSON lines for a `.json` that is named explicitly, such as a manifest of NeMo."""
    name = path.stem if path.suffix.lower() in text_files.CODECS else path.name
    return FORMATS[".jsonl"] if name.lower().endswith(".json") else None


def contents(files: Sequence[AnyPath]) -> list[tuple[str, str]] | None:
    """Return the suffixes and a hash of each file; None if one cannot be read.

    For a remote file, its ETag is used instead of a hash.
    """

    def hashed(file: AnyPath) -> tuple[str, str]:
        if etag := etag_of(file):
            return str(file), f"{size_of(file)} {etag}"
        if not file.is_file():  # a pipe would wait
            raise FileNotFoundError(file)
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "blake2b").hexdigest()
        return "".join(file.suffixes[-2:]).lower(), digest

    try:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(hashed, files))
    except (OSError, SourceError):
        return None


def etag_of(file: AnyPath) -> str:
    """Return the ETag by which a remote file system identifies a file's content; else ""."""
    return file.facts.etag if isinstance(file, Uri) and file.facts is not None else ""


def watch(source: AnyPath, files: Sequence[AnyPath]) -> Callable[[], bool]:
    """Return a function that says whether the files are unchanged since now."""
    before = _state(files)

    def is_unchanged() -> bool:
        try:  # a remote file keeps what it was found with
            found = files_of(Uri(source.text)) if isinstance(source, Uri) else files
        except SourceError:
            return False
        return _state(found) == before

    return is_unchanged


def _state(files: Sequence[AnyPath]) -> list[object] | None:
    try:
        return [each.facts if isinstance(each, Uri) else _stat(each) for each in files]
    except OSError:
        return None


def _stat(file: Path) -> tuple[int, ...]:
    s = file.stat()
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def _shards(candidates: Iterable[AnyPath], source: AnyPath) -> list[AnyPath]:
    # Writers leave files such as _SUCCESS, .part-0.crc and README.md beside the shards.
    named = _manifest(source)
    files = {
        path: format_
        for path in sorted(candidates, key=lambda each: each.parts)
        if (format_ := format_of(path) or (named and _manifest(path)))
        and not path.name.startswith((".", "_"))
        and _is_there(path)
    }
    if not files:
        raise SourceNotFoundError(f"{source} holds no file of a known kind: {_KNOWN}.")
    if len(set(files.values())) > 1:
        kinds = sorted({format_.kind for format_ in files.values()})
        raise SourceError(
            f"{source} holds files of several kinds ({', '.join(kinds)}). Name one kind with a "
            "pattern such as '*.parquet'."
        )
    return list(files)


def _is_there(path: AnyPath) -> bool:
    """Return whether a path is a file; raise for a link whose file is missing."""
    if path.is_file():
        return True
    if isinstance(path, Path) and path.is_symlink() and not path.exists():
        raise SourceNotFoundError(f"{path} is a link to {path.readlink()}, which is missing.")
    return False


def _files_of_saved_dataset(directory: AnyPath) -> list[AnyPath]:
    """Return the Arrow files that `datasets.save_to_disk` wrote, in the order of the rows."""
    description = directory / "state.json"
    with reading(str(directory), "a saved dataset"):
        state = json.loads(description.read_bytes())
        names = [entry["filename"] for entry in state["_data_files"]]
        # A path elsewhere is refused: all files of a saved dataset are in its directory.
        elsewhere = [name for name in names if Path(name).name != name]
    if not names:
        raise SourceError(f"{directory} has no rows.")
    if elsewhere or len(set(names)) < len(names):
        raise SourceError(
            f"{description} names {one_line(repr(elsewhere or names), 80)} as data files; expected "
            "names of files beside it, each once."
        )
    for name in names:
        if not (directory / name).is_file():
            raise SourceNotFoundError(
                f"{directory} is not complete: there is no file {directory / name}."
            )
    return [directory / name for name in names]
