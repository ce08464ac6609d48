"""Shards scored by the workers of a Ray cluster."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from batchwright.errors import MissingExtraError


def answers(
    source: Sequence[Any],
    metric: Callable[[Any], npt.ArrayLike],
    spans: Sequence[tuple[int, int]],
) -> Iterator[tuple[int, npt.ArrayLike]]:
    """Run a metric over spans of a source with Ray Data.

    The source goes to the object store once; a worker takes its slices from there. Connect to a
    cluster with `ray.init` first, otherwise Ray starts one on this machine.

    Args:
        source: What can be sliced.
        metric: From a slice to a number for each sample.
        spans: Where slices begin and end.

    Yields:
        Where a span begins, and the metric's answer, as they become ready.

    Raises:
        MissingExtraError: Ray Data is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(
            "backend='ray' needs Ray Data, which is not installed. Run: pip install 'ray[data]', "
            "or leave it at 'local'."
        ) from error
    if not spans:
        return
    shared = ray.put(source)

    def answer(span: dict[str, Any]) -> dict[str, Any]:
        samples = ray.get(shared)[span["start"] : span["stop"]]
        return {"start": span["start"], "scores": np.asarray(metric(samples), dtype=np.float64)}

    rows = [{"start": start, "stop": stop} for start, stop in spans]
    scored = ray.data.from_items(rows, override_num_blocks=len(rows)).map(answer)
    for row in scored.iter_rows():
        yield int(row["start"]), np.asarray(row["scores"])
