"""Measures one shard, and writes a small file of its lengths, near the data or anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from batchwright._checks import check_choice
from batchwright._format import one_line
from batchwright.errors import (
    BatchwrightError,
    LengthsError,
    SourceError,
    SourceNotFoundError,
)
from batchwright.index import counted, from_long_to_short
from batchwright.lengths import fingerprint
from batchwright.sources import uris
from batchwright.sources.columns import LENGTH_COLUMNS, source_of
from batchwright.sources.locations import AnyPath, Uri
from batchwright.sources.measures import Measure, Tokenizer, measure_of
from batchwright.sources.read import Rows, lengths_of, settled
from batchwright.sources.scores import Metric, as_batch, checked_scores, metric_name
from batchwright.sources.table import Place, Values, is_missing, reading, without_missing
from batchwright.sources.uris import Location
from batchwright.typing import FloatArray, LengthArray

_FORMAT = {"format": "batchwright-shard", "version": 1}
"""Raise the version when the measurements, or the format of the file, change."""

_KEY = b"batchwright"
_MOST = 2**32 - 1
_ROW_GROUP = 1 << 20
_NO_ROWS = "0" * 32
_NO_FACTS = (AttributeError, KeyError, OverflowError, TypeError, ValueError)  # of other JSON
_OWN_COLUMNS = frozenset({*LENGTH_COLUMNS, "order"})


@dataclass(frozen=True, eq=False)
class ShardFacts:
    """The facts about a shard in its file, without its rows.

    Attributes:
        uri: The shard: a URI, or an absolute path.
        size: Its bytes when it was measured.
        stamp: Changes when the shard does: its ETag, or the time of its last modification.
        measured: What was measured: column, measure, tokenizer, what empty rows count as, and the
            names of the scores and their metrics.
        num_rows: Samples of the shard.
        values: uint32[k], their distinct lengths, from long to short.
        counts: uint32[k], how many samples have each.
        fingerprint: Hash of the lengths.
    """

    uri: str
    size: int
    stamp: str
    measured: dict[str, Any]
    num_rows: int
    values: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.uint32]
    fingerprint: str

    def text(self) -> str:
        """Write them as JSON."""
        lists = {"values": self.values.tolist(), "counts": self.counts.tolist()}
        return json.dumps(_FORMAT | vars(self) | lists, separators=(",", ":"))

    @classmethod
    def parsed(cls, text: bytes) -> ShardFacts:
        """Read them from JSON; anything else raises one of several errors."""
        given = json.loads(text)
        if {name: given.pop(name) for name in _FORMAT} != _FORMAT:
            raise ValueError("written by another version")
        arrays = {name: np.array(given[name], np.uint32) for name in ("values", "counts")}
        return cls(**given | arrays)


def index_shard(
    uri: Location,
    out_uri: Location,
    *,
    column: str | None = None,
    measure: str | None = None,
    tokenizer: Tokenizer | None = None,
    empty: Literal["one"] | None = None,
    scores: Mapping[str, Metric] | None = None,
) -> ShardFacts:
    r"""Measure one shard, and write its lengths, its rows from long to short, and scores.

    The result depends only on the shard: call this in a task of Ray or Spark, in a job of a Slurm
    array, or in a loop. The file is Parquet, written completely or not at all, and the same byte
    for byte on every machine: `length` and `order`, both uint32, and a float32 for each score; its
    footer has the facts that are returned. If a complete file of the same shard is there already,
    nothing is measured again.

    Args:
        uri: The shard: any one file that `read_lengths` takes.
        out_uri: The file to write; see `index_tasks` for names that `index_shards` finds.
        column: Which column; see `read_lengths`.
        measure: How it becomes lengths; see `read_lengths`.
        tokenizer: What counts tokens; see `read_lengths`.
        empty: What to do with rows that are empty or missing: ``"one"`` counts them as 1, None
            refuses them.
        scores: Name → metric, a function from a list of texts to a number for each. It gets some
            rows at a time, so a score must depend only on its text. Missing rows are scored as
            empty texts.

    Returns:
        The facts in the footer.

    Raises:
        LengthsError: A row is empty, missing, or not a length; a metric's result is not finite.
        SourceError: The shard cannot be read, or changed meanwhile; the file cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     shard = pathlib.Path(folder, "texts.csv")
        ...     _ = shard.write_text("id,text\n1,to be\n2,to be or not\n3,to be\n")
        ...     facts = index_shard(shard, f"{folder}/texts.parquet", measure="words")
        >>> facts.values.tolist(), facts.counts.tolist()
        ([4, 2], [1, 2])
    """
    asked = Asked.of(column, measure, tokenizer, empty, scores)
    source = absolute(uri)
    if (path := uris.local_path(source)) is not None and path.is_dir():
        raise SourceError(f"{source} is a folder; expected one file. For all: index_shards.")
    before = uris.stamp(source)
    kept = facts_of(out_uri)
    if kept is not None and asked.is_answered_by(kept, source, before):
        return kept
    lengths, found = _measured(source, asked)
    if uris.stamp(source) != before:
        raise SourceError(f"{source} was changed while it was measured. Measure it again.")
    values = counts = order = np.empty(0, dtype=np.int64)
    if lengths.size:
        values, counts = counted(lengths)
        order = from_long_to_short(lengths, values, counts)
    facts = ShardFacts(
        source,
        *before,
        asked.facts,
        lengths.size,
        values.astype(np.uint32),
        counts.astype(np.uint32),
        fingerprint(lengths) if lengths.size else _NO_ROWS,
    )
    if (path := uris.local_path(out_uri)) is not None:
        with suppress(OSError):  # writing then explains the error
            path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"length": lengths.astype(np.uint32), "order": order.astype(np.uint32)}
    uris.written(out_uri, _parquet(columns | found, facts), tidy=False)
    return facts


def facts_of(file: Location) -> ShardFacts | None:
    """Return the facts in the file of a shard; None if there is no such file, or only half of it.

    Only the footer is read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with uris.opened(file) as opened:
            metadata = pq.read_metadata(opened)
        facts = ShardFacts.parsed((metadata.metadata or {})[_KEY])
    except SourceNotFoundError:
        return None
    except BatchwrightError:
        raise
    except (pa.ArrowException, OSError, *_NO_FACTS):
        return None
    return facts if facts.num_rows == metadata.num_rows else None


def column_of(file: Location, name: str, facts: str, num_rows: int) -> npt.NDArray[Any]:
    """Read a column of the file of a shard, and check it.

    Args:
        file: The file.
        name: `length`, `order` or a score.
        facts: The fingerprint of the shard's lengths.
        num_rows: How many rows the shard has.

    Raises:
        SourceError: The file is missing, damaged, or of other lengths.
    """
    with reading(str(file), "lengths of a shard"), uris.opened(file) as opened:
        import pyarrow.parquet as pq

        parquet = pq.ParquetFile(opened, page_checksum_verification=True)
        found = ShardFacts.parsed((parquet.metadata.metadata or {})[_KEY])
        if (found.fingerprint, parquet.metadata.num_rows) != (facts, num_rows):
            raise SourceError(f"{file} is of other lengths than the index of its folder.")
        if name not in parquet.schema_arrow.names:
            has = ", ".join(map(repr, found.measured["scores"])) or "none"
            raise SourceError(f"{file} has no scores named {name!r}; it has {has}.")
        values = parquet.read([name]).column(0).to_numpy()
        # Pages have checksums; the footer, which says where they are, does not.
        is_whole = values.size == num_rows
        if name == "order" and is_whole:
            is_whole = int(values.sum(dtype=np.int64)) == num_rows * (num_rows - 1) // 2
        if not is_whole:
            raise SourceError(f"{file} is damaged: its rows are not those of its shard.")
        return values


def absolute(location: Location | AnyPath) -> str:
    """Return a URI unchanged, and a path as an absolute one.

    Example:
        >>> absolute("s3://bucket/a.csv")
        's3://bucket/a.csv'
    """
    if isinstance(location, Uri):
        return location.text
    path = uris.local_path(location)
    return os.fspath(location) if path is None else os.path.abspath(path)  # noqa: PTH100 -- keeps links


class Asked(NamedTuple):
    """What to measure in every shard."""

    column: str | None
    how: Measure
    empty: Literal["one"] | None
    scores: Mapping[str, Metric]
    facts: dict[str, Any]  # the same in JSON

    @classmethod
    def of(
        cls,
        column: str | None,
        measure: str | None,
        tokenizer: Tokenizer | None,
        empty: Literal["one"] | None,
        scores: Mapping[str, Metric] | None,
    ) -> Asked:
        """Check what was asked for."""
        if empty is not None:
            check_choice("index_shard", "empty", empty, ("one",), SourceError)
        metrics = dict(scores or {})
        for name in metrics:
            if not isinstance(name, str) or not name or name in _OWN_COLUMNS:
                raise SourceError(
                    f"scores={{{one_line(repr(name), 60)}: …}}: this is the name of a column of "
                    "lengths, or not a name. Choose another."
                )
        how = measure_of(measure, tokenizer)
        key = how.key
        if key is None and callable(tokenizer):
            key = metric_name(tokenizer)
        facts = {
            "column": column,
            "measure": how.name,
            "tokenizer": key,
            "empty": empty,
            "scores": {name: metric_name(metric) for name, metric in metrics.items()},
        }
        return cls(column, how, empty, metrics, facts)

    def is_answered_by(self, facts: ShardFacts, source: str, stamp: tuple[int, str]) -> bool:
        """Return whether a file has what was asked for, measured on the shard as it is now."""
        same_shard = (facts.uri, facts.size, facts.stamp) == (source, *stamp)
        return same_shard and facts.measured == self.facts


def _measured(source: str, asked: Asked) -> tuple[LengthArray, dict[str, npt.NDArray[np.float32]]]:
    """Return the lengths of all rows, integer[n], and the scores that were asked for."""
    pieces: dict[str, list[FloatArray]] = {name: [] for name in asked.scores}

    def score(values: Values, place: Place) -> None:
        missing = is_missing(values)
        rows = values if missing is None else without_missing(values, missing)
        batch = as_batch([(rows, place)])
        for name, metric in asked.scores.items():
            try:
                found = checked_scores(metric(batch), place.first_row, len(values))
            except LengthsError as error:
                raise LengthsError(f"{source}: scores {name!r}: {error}") from error
            pieces[name].append(found)

    # The items of lists are not read if only their lengths are needed.
    opened = source_of(source, sizes=not pieces)
    lengths, column = lengths_of(
        opened,
        asked.column,
        asked.how,
        lambda _: None,
        look=score if pieces else None,
        may_be_empty=True,
    )
    rows = Rows(source, lengths, column)
    if asked.empty is None and (said := rows.described()):
        raise LengthsError(
            f'{said}. Count them as 1 with empty="one" (--empty one), or filter them: an index has '
            "a length for every row."
        )
    lengths = settled(rows, asked.empty)
    if lengths.size and not 1 <= int(lengths.min()) <= int(lengths.max()) <= _MOST:
        row = int(np.argmax((lengths < 1) | (lengths > _MOST)))
        raise LengthsError(
            f"{source}: row {row:,} of {column!r} (counted from 0) has the length {lengths[row]}; "
            "expected at least 1, and less than 2**32. Is it a length?"
        )
    if lengths.size > _MOST:
        raise SourceError(f"{source} has {lengths.size:,} rows, more than 2**32. Split it.")
    found = {name: _narrowed(each, f"{source}: scores {name!r}") for name, each in pieces.items()}
    is_small = not lengths.size or int(lengths.max()) < 1 << 16
    return lengths.astype(np.uint16 if is_small else np.uint32), found  # NumPy sorts 16 bits faster


def _narrowed(pieces: list[FloatArray], name: str) -> npt.NDArray[np.float32]:
    scores = np.concatenate([np.empty(0), *pieces])
    with np.errstate(over="ignore", under="ignore"):
        narrow = scores.astype(np.float32)
    if not np.isfinite(narrow).all():
        row = int(np.argmin(np.isfinite(narrow)))
        raise LengthsError(f"{name}: row {row:,} has {scores[row]}, too large for a float32.")
    return narrow


def _parquet(columns: Mapping[str, npt.NDArray[Any]], facts: ShardFacts) -> bytes:
    """Write columns as Parquet: the same bytes in every process, with a checksum per page."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = [pa.array(column) for column in columns.values()]
    fields = [
        pa.field(name, array.type, nullable=False)
        for name, array in zip(columns, arrays, strict=True)
    ]
    table, sink = pa.Table.from_arrays(arrays, schema=pa.schema(fields)), pa.BufferOutputStream()
    options: Any = {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": ["length"],
        "write_page_checksum": True,
        "store_schema": False,
    }
    writer: Any
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        writer.write_table(table, row_group_size=_ROW_GROUP)
        writer.add_key_value_metadata({_KEY: facts.text()})
    return sink.getvalue().to_pybytes()
