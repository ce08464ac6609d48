"""Any metric over any data, shard by shard: restartable, here or on a Ray cluster."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from batchwright._array_file import read_checked_npy, write_checked_npy
from batchwright._checks import check_choice, whole_number
from batchwright._files import remove_unfinished, write_bytes
from batchwright._format import one_line
from batchwright._states import parsed
from batchwright.errors import LengthsError, SourceError
from batchwright.sources.columns import source_of
from batchwright.sources.engines import mapped
from batchwright.sources.files import files_of
from batchwright.sources.locations import located
from batchwright.sources.progress import Advance, progress_bar
from batchwright.sources.read import counted_rows
from batchwright.sources.scores import Metric, as_batch, checked_scores, metric_name
from batchwright.sources.shards import absolute
from batchwright.sources.table import Place, Values, is_missing, without_missing
from batchwright.sources.uris import Location
from batchwright.typing import Batch, FloatArray, Sample

SHARD_SIZE = 1 << 16
MANIFEST = "manifest.json"
SHARDS = "shard-*.npy"

_FORMAT = {"format": "batchwright-scores", "format_version": 1}
A_FILE = "a file"
"""In place of the size of a shard, where each is a file."""

_PROBES = 64


def score(
    source: str | os.PathLike[str] | Sequence[Sample],
    metric: Metric,
    *,
    shard_size: int = SHARD_SIZE,
    folder: str | os.PathLike[str] | None = None,
    fingerprint: str | None = None,
    column: str | None = None,
    backend: Literal["local", "ray"] = "local",
    progress: bool | None = None,
) -> FloatArray:
    """Score every sample with a metric, one shard at a time.

    Guarantees one finite score per sample, in the order of the data. With a folder, a run that
    was killed continues where it was; a folder of other data, another metric or another shard
    size is refused.

    Args:
        source: Samples: anything with a length that can be sliced, such as a list, an array or a
            `datasets.Dataset`; or a path that `read_lengths` takes, or of a `.txt` in which every
            line is a sample.
        metric: From the samples of a shard to a number for each: a slice of `source`; of a file,
            list[str], or number[m] of a column of numbers.
        shard_size: Samples of a shard; on Ray, where a shard is a file, samples scored at a time.
        folder: Where scores of finished shards are kept. None: nowhere.
        fingerprint: What else distinguishes this data and metric from others, such as the name of
            a model's checkpoint. Samples are compared by their number and 64 of them, a file by
            its content, a metric by its name and code.
        column: Which column of a file; None: the only one, or `text`.
        backend: "local" scores in this process, "ray" the files of a path where they are, one a
            task, with Ray Data: on the cluster that `ray.init` connected to, or on this machine.
            Its workers must reach the path.
        progress: Show a progress bar, as `read_lengths` does.

    Raises:
        LengthsError: The metric returned something else than a finite number for each sample, the
            folder is of something else, or there are no samples.
        SourceError: The file cannot be read.
        MissingExtraError: `backend="ray"` without Ray.

    Example:
        >>> score(["aa", "b", "cccc"], lambda texts: [len(text) for text in texts], shard_size=2)
        array([2., 1., 4.])
    """
    size = whole_number("score", "shard_size", shard_size, error=LengthsError)
    check_choice("score", "backend", backend, ("local", "ray"), LengthsError)
    facts: dict[str, object] = {"metric": metric_name(metric), "fingerprint": fingerprint}
    facts["shard_size"] = A_FILE if backend == "ray" else size
    if isinstance(source, str | os.PathLike):
        data = Column(source, column)
        facts |= {} if folder is None else {"data": data.identity()}
        kept = None if folder is None else ShardFolder(folder, facts)

        def of_rows(pieces: Batch) -> npt.ArrayLike:
            return metric(as_batch(pieces))

        with progress_bar("Scoring", show=progress) as advance:
            if backend == "ray":
                return score_files(data, of_rows, size, kept, advance)
            return score_shards(data.shards(size), of_rows, kept, advance)
    if backend == "ray":
        raise LengthsError(
            "score(backend='ray') takes the path of files, which Ray's workers read, not samples "
            "in memory. Save them first, for instance by Dataset.to_parquet, or score them here."
        )
    if column is not None:
        raise LengthsError(f"score(column={column!r}) goes with a path.")
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__") or not len(source):
        raise LengthsError(
            f"a {type(source).__name__} cannot be sliced, or is empty: pass a list, an array "
            "or a dataset of at least one sample."
        )
    samples: Batch = source
    rows = len(source)
    shards = [
        Shard(first // size, first, slice(first, first + size), stop - first, stop / rows)
        for first in range(0, rows, size)
        for stop in [min(first + size, rows)]
    ]
    facts |= {} if folder is None else data_facts(source)
    kept = None if folder is None else ShardFolder(folder, facts)
    with progress_bar("Scoring", show=progress) as advance:
        return score_shards(shards, lambda part: metric(samples[part]), kept, advance)


def score_shards(
    shards: Iterable[Shard], metric: Metric, kept: ShardFolder | None, advance: Advance
) -> FloatArray:
    """Score every shard that is not kept already."""
    done = {} if kept is None else kept.scores()
    results: dict[int, FloatArray] = {}
    for shard in shards:
        scores = done.get(shard.number)
        if scores is None:
            scores = checked_scores(metric(shard.samples), shard.first, shard.num_rows)
            if kept is not None:
                kept.save(shard.number, scores)
        elif scores.size != shard.num_rows:
            raise LengthsError(
                f"shard {shard.number} was kept with {scores.size} scores, it has "
                f"{shard.num_rows} rows. Remove the folder."
            )
        results[shard.number] = scores
        advance(shard.fraction)
    return np.concatenate([results[number] for number in sorted(results)])


def score_files(
    column: Column, metric: Metric, size: int, kept: ShardFolder | None, advance: Advance
) -> FloatArray:
    """Score the files of a column where they are, on Ray, each in one task: a shard is a file.

    Args:
        column: Of a path.
        metric: From pieces of rows to a number for each; sent to Ray's workers.
        size: Rows that are scored at a time.
        kept: Where scores of finished files are kept.
        advance: Told the share of files that are finished.
    """
    files = column.files()
    done = {} if kept is None else kept.scores()
    results = {number: done[number] for number in range(len(files)) if number in done}
    left = [number for number in range(len(files)) if number not in results]
    tasks = [(files[number],) for number in left]
    of_file = partial(_of_file, column.of_a_file(), metric, size)
    with closing(mapped(of_file, tasks, on="ray")) as found:
        for count, (number, scores) in enumerate(found, len(results) + 1):
            if kept is not None:
                kept.save(left[number], scores)
            results[left[number]] = scores
            advance(count / len(files))
    scores = np.concatenate([results[number] for number in sorted(results)])
    if not scores.size:
        raise SourceError(f"{column.name} has no rows.")
    return scores


def _of_file(opened: Callable[[str], Column], metric: Metric, size: int, file: str) -> FloatArray:
    scores = [np.empty(0)]
    for shard in opened(file).shards(size):
        try:
            scores.append(checked_scores(metric(shard.samples), shard.first, shard.num_rows))
        except LengthsError as error:
            raise LengthsError(f"{file}: {error}") from error
    return np.concatenate(scores)


class Shard(NamedTuple):
    """Consecutive samples."""

    number: int  # of the shard, from 0
    first: int  # sample
    samples: Batch  # a slice of samples; of a column, pieces of rows with where they come from
    num_rows: int
    fraction: float  # of the source, which has been read


class Column:
    """A column of whatever a path stands for, or the lines of a `.txt`, read in shards.

    Without a name the column is found as `read_lengths` does, by what will be measured of it. With
    `fill`, missing rows are empty texts, or 0; else they are refused.
    """

    def __init__(
        self,
        source: Location,
        column: str | None = None,
        *,
        measure: str | None = "characters",
        fill: bool = False,
        may_be_empty: bool = False,
    ) -> None:
        self._given, self._column, self._measure = source, column, measure
        self._fill, self._may_be_empty = fill, may_be_empty
        self._source = source_of(source, lines=True)
        self.name = self._source.name

    def files(self) -> list[str]:
        """Return its files, with their paths from the root on."""
        return [absolute(each) for each in files_of(located(self._given))]

    def of_a_file(self) -> Callable[[str], Column]:
        """Return what opens the column of one of its files, which may have no rows."""
        return partial(
            Column,
            column=self._column,
            measure=self._measure,
            fill=self._fill,
            may_be_empty=True,
        )

    def identity(self) -> list[object]:
        """Return what distinguishes the content and this column from others."""
        return [self._source.content(), self._column]

    def shards(self, size: int) -> Iterator[Shard]:
        """Go through the column, `size` rows at a time."""
        number, held, rows, fraction, before = 0, [], 0, 0.0, 0
        read = self._source.rows(
            self._column, measure=self._measure, may_be_empty=self._may_be_empty
        )
        for values, place, fraction in read:
            if (missing := is_missing(values)) is not None:
                if not self._fill:
                    raise LengthsError(_missing(missing, place, before, read))
                values = without_missing(values, missing)  # noqa: PLW2901 -- the same rows
            start, before = 0, before + len(values)
            while start < len(values):
                stop = min(len(values), start + size - rows)
                there = place._replace(first_row=place.first_row + start)
                held.append((values[start:stop], there))
                rows += stop - start
                start = stop
                if rows == size:
                    yield Shard(number, number * size, held, rows, fraction)
                    number, held, rows = number + 1, [], 0
        if rows:
            yield Shard(number, number * size, held, rows, fraction)


def _missing(
    found: np.ndarray, place: Place, before: int, rest: Iterator[tuple[Values, Place, float]]
) -> str:
    """Count the missing rows, those of the rest included."""
    count, size, first = int(found.sum()), before + found.size, before + int(found.argmax())
    for values, _, _ in rest:
        others = is_missing(values)
        count, size = count + (0 if others is None else int(others.sum())), size + len(values)
    said = counted_rows(count, size, first, f" of {place.column!r}", "missing")
    return (
        f"{place.source}: {said}, and every sample needs a score. Fill or filter them; the command "
        "scores them as empty with --empty drop|one."
    )


class ShardFolder:
    """A folder of scores: one `.npy` per shard, and a manifest of the facts they depend on.

    A shard is there whole or not at all. A folder of other facts is refused.
    """

    def __init__(self, path: str | os.PathLike[str], facts: Mapping[str, object]) -> None:
        self.path = Path(path)
        manifest = self.path / MANIFEST
        wanted = json.loads(json.dumps(_FORMAT | dict(facts)))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.path)
            if not manifest.exists() and next(self.path.glob(SHARDS), None) is None:
                text = json.dumps(wanted, indent=2) + "\n"
                write_bytes(manifest, text.encode(), LengthsError)
            found = dict(parsed(manifest.read_bytes()))
        except LengthsError:
            raise
        except (OSError, ValueError, TypeError) as error:
            raise LengthsError(
                f"{self.path} is not a folder of scores: {one_line(error)}. Choose another folder."
            ) from error
        for name in [*wanted, *found]:
            there, here = found.get(name), wanted.get(name)
            if there != here:
                raise LengthsError(
                    f"{self.path} holds scores of something else: {name} is "
                    f"{one_line(json.dumps(there), 60)} there, {one_line(json.dumps(here), 60)} "
                    "here. Choose another folder, or remove it."
                )

    def scores(self) -> dict[int, FloatArray]:
        """Return the scores of all shards that are finished and not damaged, by number."""
        found: dict[int, FloatArray] = {}
        for file in sorted(self.path.glob(SHARDS)):
            number = file.stem.removeprefix("shard-")
            if number.isdecimal() and (scores := read_checked_npy(file)) is not None:
                found[int(number)] = scores
        return found

    def save(self, number: int, scores: FloatArray) -> None:
        """Keep the scores of a shard, whole or not at all."""
        # Looking for what killed writers left takes longer with every shard: once is enough.
        file = self.path / f"shard-{number:08d}.npy"
        write_checked_npy(file, scores, LengthsError, tidy=False)


def data_facts(source: Sequence[Sample]) -> dict[str, object]:
    """Return how many rows there are, and a hash of some of them."""
    size = len(source)
    digest = hashlib.sha256()
    for index in np.unique(np.linspace(0, size - 1, _PROBES).astype(np.int64)).tolist():
        digest.update(_bytes(source[index]))
    return {"num_samples": size, "data": digest.hexdigest()[:32]}


def _bytes(value: Sample) -> bytes:
    """Write a row out so that equal rows have equal bytes in every process."""
    match value:
        case str() | bytes() | int() | float() | bool() | None:
            return f"{type(value).__name__}:{value!r};".encode("utf-8", "surrogatepass")
        case Mapping():
            pairs = (_bytes(key) + _bytes(each) for key, each in value.items())
            return b"{" + b"".join(pairs) + b"}"
        case list() | tuple():
            return b"[" + b"".join(map(_bytes, value)) + b"]"
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        array = np.empty(0, dtype=object)
    if array.dtype == object:  # an image, a record: only its type can be compared
        return f"<{type(value).__qualname__}>".encode()
    return f"{array.dtype.str}{array.shape}".encode() + array.tobytes()
