"""Any metric over any data, shard by shard: restartable, here or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright._checks import check_choice, whole_number
from batchwright.difficulty.arrays import as_array
from batchwright.difficulty.shards import (
    Column,
    Shard,
    ShardFolder,
    as_batch,
    data_facts,
    metric_name,
    slices,
)
from batchwright.errors import LengthsError, MissingExtraError
from batchwright.sources.progress import Advance, progress_bar
from batchwright.typing import Batch, FloatArray, Sample

Metric: TypeAlias = Callable[[Batch], npt.ArrayLike]
"""From m samples to float[m]."""

SHARD_SIZE = 1 << 16


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
    was killed continues where it was: finished shards are read, not scored again. A folder of
    other data, another metric or another shard size is refused.

    Args:
        source: Samples: anything with a length that can be sliced, such as a list, an array or a
            `datasets.Dataset`; or the path of a file that `batchwright.sources` reads, or of a
            `.txt` in which every line is a sample.
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
        progress: Show a progress bar on standard error: True, False, or None for where that is a
            terminal and scoring takes more than a second.

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
    shards: Callable[[Container[int]], Iterator[Shard]]
    answers = metric
    if isinstance(source, str | os.PathLike):
        if backend == "ray":
            raise LengthsError("score(backend='ray') takes samples, not a path: read them first.")
        data = Column(source, column)
        shards, answers = partial(data.shards, size), lambda rows: metric(as_batch(rows))
        facts |= {} if folder is None else {"data": data.identity()}
    else:
        if column is not None:
            raise LengthsError(f"score(column={column!r}) goes with a path.")
        if not hasattr(source, "__len__") or not hasattr(source, "__getitem__") or not len(source):
            raise LengthsError(
                f"a {type(source).__name__} cannot be sliced, or is empty: pass a list, an array "
                "or a dataset of at least one sample."
            )
        shards = partial(slices, source, size)
        if backend == "ray":
            shards, answers = partial(_answers_of_ray, source, metric, size), lambda scores: scores
        facts |= {} if folder is None else data_facts(source)
    kept = None if folder is None else ShardFolder(folder, facts)
    with progress_bar("Scoring", show=progress) as advance:
        return score_shards(shards, answers, kept, advance)


def score_shards(
    shards: Callable[[Container[int]], Iterator[Shard]],
    metric: Metric,
    kept: ShardFolder | None,
    advance: Advance,
) -> FloatArray:
    """Score every shard that is not kept; `shards` takes the numbers of the kept ones."""
    done = {} if kept is None else kept.scores()
    results: dict[int, FloatArray] = {}
    for shard in shards(done):
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


def _answers_of_ray(
    source: Sequence[Sample], metric: Metric, size: int, skip: Container[int]
) -> Iterator[Shard]:
    """Yield shards with the metric's answers for samples, as workers finish them."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(
            "backend='ray' needs Ray Data, which is not installed. Run: pip install 'ray[data]', "
            "or leave it at 'local'."
        ) from error
    shards = list(slices(source, size, skip=range(len(source))))
    yield from (shard for shard in shards if shard.number in skip)
    rows = [{"number": shard.number} for shard in shards if shard.number not in skip]
    if not rows:
        return
    shared = ray.put(source)  # once; workers take their slices from there

    def answer(row: dict[str, int]) -> dict[str, int | np.ndarray]:
        first = row["number"] * size
        samples = ray.get(shared)[first : first + size]
        return {"number": row["number"], "scores": np.asarray(metric(samples), np.float64)}

    scored = ray.data.from_items(rows, override_num_blocks=len(rows)).map(answer)
    for done, row in enumerate(scored.iter_rows(), 1):
        shard = shards[int(row["number"])]
        yield shard._replace(samples=np.asarray(row["scores"]), fraction=done / len(rows))


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
