"""Any metric over any data, shard by shard: restartable, here or on a Ray cluster."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright._array_file import read_checked_npy, write_checked_npy
from batchwright._checks import check_choice, whole_number
from batchwright._files import remove_unfinished, write_bytes
from batchwright._format import one_line
from batchwright._states import parsed
from batchwright.difficulty.scores import as_array
from batchwright.errors import LengthsError, MissingExtraError, SourceError
from batchwright.sources.columns import source_of
from batchwright.sources.progress import Advance, progress_bar
from batchwright.sources.read import counted_rows
from batchwright.sources.table import (
    Place,
    Values,
    is_missing,
    kind_of,
    type_of,
    without_missing,
)
from batchwright.typing import Batch, FloatArray, Sample

Metric: TypeAlias = Callable[[Batch], npt.ArrayLike]
"""From m samples to float[m]."""

SHARD_SIZE = 1 << 16
MANIFEST = "manifest.json"
SHARDS = "shard-*.npy"

_FORMAT = {"format": "batchwright-scores", "format_version": 1}
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
        shard_size: Samples of a shard.
        folder: Where scores of finished shards are kept. None: nowhere.
        fingerprint: What else distinguishes this data and metric from others, such as the name of
            a model's checkpoint. Samples are compared by their number and 64 of them, a file by
            its content, a metric by its name and code.
        column: Which column of a file; None: the only one, or `text`.
        backend: "local" scores in this process, "ray" with Ray Data, on the cluster that
            `ray.init` connected to, or on this machine; not for paths.
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
    facts["shard_size"] = size
    samples: Batch = source
    shards: Iterable[Shard]
    if isinstance(source, str | os.PathLike):
        if backend == "ray":
            raise LengthsError("score(backend='ray') takes samples, not a path: read them first.")
        data = Column(source, column)
        shards = data.shards(size)
        facts |= {} if folder is None else {"data": data.identity()}
    else:
        if column is not None:
            raise LengthsError(f"score(column={column!r}) goes with a path.")
        if not hasattr(source, "__len__") or not hasattr(source, "__getitem__") or not len(source):
            raise LengthsError(
                f"a {type(source).__name__} cannot be sliced, or is empty: pass a list, an array "
                "or a dataset of at least one sample."
            )
        rows = len(source)
        shards = [
            Shard(first // size, first, slice(first, first + size), stop - first, stop / rows)
            for first in range(0, rows, size)
            for stop in [min(first + size, rows)]
        ]
        facts |= {} if folder is None else data_facts(source)
    kept = None if folder is None else ShardFolder(folder, facts)
    if backend == "ray":
        shards = _scored_by_ray(samples, metric, shards, {} if kept is None else kept.scores())

    def scored(part: Batch) -> npt.ArrayLike:
        scores: npt.ArrayLike = part
        if backend == "local":
            is_path = isinstance(source, str | os.PathLike)
            scores = metric(as_batch(part) if is_path else samples[part])
        return scores

    with progress_bar("Scoring", show=progress) as advance:
        return score_shards(shards, scored, kept, advance)


def score_shards(
    shards: Iterable[Shard], metric: Metric, kept: ShardFolder | None, advance: Advance
) -> FloatArray:
    """Score every shard that is not kept already."""
    done = {} if kept is None else kept.scores()
    results: dict[int, FloatArray] = {}
    for shard in shards:
        scores = done.get(shard.number)
        if scores is None:
            scores = _checked(metric(shard.samples), shard)
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


def _scored_by_ray(
    source: Sequence[Sample], metric: Metric, shards: Iterable[Shard], done: Container[int]
) -> Iterator[Shard]:
    """Yield shards with their scores for samples, as workers finish them."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(
            "backend='ray' needs Ray Data, which is not installed. Run: pip install 'ray[data]', "
            "or leave it at 'local'."
        ) from error
    left = {shard.number: shard for shard in shards}
    yield from (left.pop(number) for number in [*left] if number in done)
    if not left:
        return
    shared = ray.put(source)  # once; workers take their slices from there

    def scored(row: dict[str, int]) -> dict[str, int | np.ndarray]:
        samples = ray.get(shared)[row["first"] : row["stop"]]
        return {"number": row["number"], "scores": np.asarray(metric(samples), np.float64)}

    rows = [
        {"number": shard.number, "first": shard.first, "stop": shard.first + shard.num_rows}
        for shard in left.values()
    ]
    found = ray.data.from_items(rows, override_num_blocks=len(rows)).map(scored).iter_rows()
    for count, row in enumerate(found, 1):
        shard = left[int(row["number"])]
        yield shard._replace(samples=np.asarray(row["scores"]), fraction=count / len(rows))


def _checked(answer: npt.ArrayLike, shard: Shard) -> FloatArray:
    first, size = shard.first, shard.num_rows
    array = as_array(answer, "the metric's answer")
    if array.shape != (size,) or array.dtype.kind not in "buif":
        raise LengthsError(
            f"the metric returned {array.dtype}{list(array.shape)} for samples {first} to "
            f"{first + size - 1}, expected a number for each, float[{size}]."
        )
    scores = array.astype(np.float64)
    finite = np.isfinite(scores)
    if not finite.all():
        index = int(np.argmin(finite))
        raise LengthsError(
            f"the metric's score of sample {first + index} is {scores[index]}, but every score "
            "must be a finite number."
        )
    return scores


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
        source: str | os.PathLike[str],
        column: str | None = None,
        *,
        measure: str | None = "characters",
        fill: bool = False,
    ) -> None:
        self._fill = fill
        self._source = source_of(source, lines=True)
        self._column, self._measure = column, measure
        self.name = self._source.name

    def identity(self) -> list[object]:
        """Return what distinguishes the content and this column from others."""
        return [self._source.content(), self._column]

    def shards(self, size: int) -> Iterator[Shard]:
        """Go through the column, `size` rows at a time."""
        number, held, rows, fraction, before = 0, [], 0, 0.0, 0
        read = self._source.rows(self._column, measure=self._measure)
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


def as_batch(pieces: list[tuple[Values, Place]]) -> Batch:
    """Return rows as a metric takes them: number[m], or a list of texts, bytes or lists."""
    parts: list[Batch] = []
    for values, place in pieces:
        kind = kind_of(values)
        if isinstance(values, np.ndarray):
            parts.append(values)
        elif kind == "numbers":
            parts.append(values.to_numpy(zero_copy_only=False))
        elif kind in {"text", "binary", "lists"}:
            parts.append(values.to_pylist())
        else:
            raise SourceError(
                f"{place} is of type {type_of(values)}; expected text, numbers or lists."
            )
        if type(parts[-1]) is not type(parts[0]):
            raise SourceError(f"{place.row(0)} has another type than the rows before it.")
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [*chain(*parts)]


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


def metric_name(metric: Callable[[Batch], npt.ArrayLike]) -> str:
    """Return the name of a metric, with a hash of its code where it has any."""
    function = getattr(metric, "func", metric)  # of a functools.partial
    named = function if hasattr(function, "__qualname__") else type(function)
    name = f"{named.__module__}.{named.__qualname__}"
    code = getattr(function, "__code__", None)
    digest = code and hashlib.sha256(code.co_code + repr(code.co_names).encode()).hexdigest()
    return f"{name}#{digest[:12]}" if digest else name


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
