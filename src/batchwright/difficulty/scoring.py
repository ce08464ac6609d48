"""Any metric over any data, shard by shard: restartable, here or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright.difficulty.arrays import as_array
from batchwright.difficulty.shards import Column, ShardFolder, as_batch, data_facts, metric_name
from batchwright.errors import MissingExtraError, ScoresError
from batchwright.sources.progress import Advance, progress_bar
from batchwright.typing import FloatArray

Metric: TypeAlias = Callable[[Any], npt.ArrayLike]
"""From m samples to float[m]."""

SHARD_SIZE = 1 << 16

_Answers: TypeAlias = Callable[[list[range]], Iterator[tuple[int, npt.ArrayLike]]]
"""From spans of samples to where each begins and the metric's answer, as they become ready."""


def score(
    source: str | os.PathLike[str] | Sequence[Any],
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
            `ray.init` connected to, or on this machine.
        progress: Show a progress bar on standard error: True, False, or None for where that is a
            terminal and scoring takes more than a second.

    Returns:
        float64[n].

    Raises:
        ScoresError: The metric returned something else than a finite number for each sample, the
            folder is of something else, or there are no samples.
        SourceError: The file cannot be read.
        MissingExtraError: `backend="ray"` without Ray.

    Example:
        >>> score(["aa", "b", "cccc"], lambda texts: [len(text) for text in texts], shard_size=2)
        array([2., 1., 4.])
    """
    if not isinstance(shard_size, int) or shard_size < 1:
        raise ScoresError(f"score(shard_size={shard_size!r}): expected an integer of at least 1.")
    if backend not in {"local", "ray"}:
        raise ScoresError(f"score(backend={backend!r}): expected 'local' or 'ray'.")
    facts: dict[str, Any] = {
        "metric": metric_name(metric),
        "fingerprint": fingerprint,
        "shard_size": shard_size,
    }
    with progress_bar("Scoring", show=progress) as advance:
        if isinstance(source, str | os.PathLike):
            if backend == "ray":
                raise ScoresError(
                    "score(backend='ray') takes samples, not a path: read them first, or score the "
                    "file with backend='local'."
                )
            data = Column(source, column)
            kept = None
            if folder is not None:
                kept = ShardFolder(folder, facts | {"data": data.identity()})
            return score_column(
                data, lambda rows: metric(as_batch(rows)), shard_size, kept, advance
            )
        if column is not None:
            raise ScoresError(f"score(column={column!r}) goes with a path.")
        if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
            raise ScoresError(
                f"a {type(source).__name__} cannot be sliced: pass a list, an array or a dataset "
                "of known length."
            )
        if not len(source):
            raise ScoresError("the source is empty, expected at least one sample.")
        kept = None if folder is None else ShardFolder(folder, facts | data_facts(source))
        answers = _answers_of_ray if backend == "ray" else _answers
        return _score_sequence(len(source), answers(source, metric), shard_size, kept, advance)


def score_column(
    data: Column,
    metric: Callable[[Any], npt.ArrayLike],
    shard_size: int,
    kept: ShardFolder | None,
    advance: Advance,
) -> FloatArray:
    """Score a column of a file. The metric takes the pieces of a shard: rows and places."""
    done = {} if kept is None else {k: kept.load(k) for k in kept.finished()}
    done = {number: scores for number, scores in done.items() if scores is not None}
    results = []
    for shard in data.shards(shard_size, skip=done):
        scores = done.get(shard.number)
        if scores is None:
            scores = _checked(metric(shard.pieces), shard.num_rows, first=shard.number * shard_size)
            if kept is not None:
                kept.save(shard.number, scores)
        elif scores.size != shard.num_rows:
            raise ScoresError(
                f"shard {shard.number} of {data.name} was kept with {scores.size} scores, it has "
                f"{shard.num_rows} rows. Remove the folder."
            )
        results.append(scores)
        advance(shard.fraction)
    return np.concatenate(results)


def _score_sequence(
    size: int, answers: _Answers, shard_size: int, kept: ShardFolder | None, advance: Advance
) -> FloatArray:
    result = np.empty(size)
    spans = [range(size)[start : start + shard_size] for start in range(0, size, shard_size)]
    missing = []
    for number, span in enumerate(spans):
        scores = None if kept is None else kept.load(number)
        if scores is None or scores.size != len(span):
            missing.append(span)
        else:
            result[span.start : span.stop] = scores
    done = len(spans) - len(missing)
    for start, answer in answers(missing):
        span = spans[start // shard_size]
        scores = _checked(answer, len(span), first=start)
        if kept is not None:
            kept.save(start // shard_size, scores)
        result[span.start : span.stop] = scores
        done += 1
        advance(done / len(spans))
    return result


def _answers(source: Sequence[Any], metric: Metric) -> _Answers:
    return lambda spans: ((span.start, metric(source[span.start : span.stop])) for span in spans)


def _answers_of_ray(source: Sequence[Any], metric: Metric) -> _Answers:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(
            "backend='ray' needs Ray Data, which is not installed. Run: pip install 'ray[data]', "
            "or leave it at 'local'."
        ) from error

    def answers(spans: list[range]) -> Iterator[tuple[int, npt.ArrayLike]]:
        if not spans:
            return
        shared = ray.put(source)  # once; workers take their slices from there

        def answer(span: dict[str, Any]) -> dict[str, Any]:
            samples = ray.get(shared)[span["start"] : span["stop"]]
            return {"start": span["start"], "scores": np.asarray(metric(samples), np.float64)}

        rows = [{"start": span.start, "stop": span.stop} for span in spans]
        scored = ray.data.from_items(rows, override_num_blocks=len(rows)).map(answer)
        for row in scored.iter_rows():
            yield int(row["start"]), np.asarray(row["scores"])

    return answers


def _checked(answer: npt.ArrayLike, size: int, *, first: int) -> FloatArray:
    array = as_array(answer, "the metric's answer")
    if array.shape != (size,) or array.dtype.kind not in "buif":
        raise ScoresError(
            f"the metric returned {array.dtype}{list(array.shape)} for samples {first} to "
            f"{first + size - 1}, expected a number for each, float[{size}]."
        )
    scores = array.astype(np.float64)
    finite = np.isfinite(scores)
    if not finite.all():
        index = int(np.argmin(finite))
        raise ScoresError(
            f"the metric's score of sample {first + index} is {scores[index]}, but every score "
            "must be a finite number."
        )
    return scores
