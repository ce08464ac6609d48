"""The batches of one epoch, fetched when asked for or ahead of that."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any, TypeAlias

import numpy as np

from batchwright.errors import PlanError
from batchwright.keras.weights import MeanWeight, scaled
from batchwright.plans import Plan

Fetch: TypeAlias = Callable[..., Any]
"""int64[B] sample indices → ``(x, y, sample_weight)``, padded arrays with B rows. If the plan
splits samples, it is also given int64[B] starts: where in its sample each row begins."""


class EpochBatches:
    """Fetches the batches of a plan by number, and the next ones ahead of time.

    Returns the batch that was asked for, in any order: others fetched ahead are dropped. An error
    of `fetch` is raised where its batch is asked for. The threads end with the object.

    Each worker is a thread with one batch in work and one in store. Sample weights are divided by
    the mean, unless it is None.
    """

    def __init__(self, plan: Plan, fetch: Fetch, mean: MeanWeight | None, workers: int = 0) -> None:
        self.plan, self.mean = plan, mean
        self._fetch, self._workers = fetch, workers
        self._start()

    def _start(self) -> None:
        self._pending: dict[int, Future[Any]] = {}
        self._lock = Lock()
        threads = partial(ThreadPoolExecutor, thread_name_prefix="batchwright-fetch")
        self._threads = threads(self._workers) if self._workers else None

    def __getstate__(self) -> dict[str, Any]:
        names = ("plan", "mean", "_fetch", "_workers")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of an epoch of {len(self)} batches.")
        if self._threads is None:
            return self._fetched(number)
        with self._lock:
            wanted = range(number, min(number + 1 + 2 * self._workers, len(self)))
            for stale in self._pending.keys() - set(wanted):
                self._pending.pop(stale).cancel()
            for each in wanted:
                if each not in self._pending:
                    self._pending[each] = self._threads.submit(self._fetched, each)
            future = self._pending.pop(number)
        return future.result()

    def _fetched(self, number: int) -> Any:
        """Fetch a batch, and scale its weights."""
        entries = [self.plan[number]]
        if self.plan.starts is not None:
            first = int(self.plan.offsets[number])
            entries.append(self.plan.starts[first : first + entries[0].size])
        batch = self._fetch(*entries)
        if not isinstance(batch, tuple | list):
            return batch
        if len(batch) == 2 and self.mean is not None:
            raise PlanError(
                "fetch returned (x, y) without sample_weight, so padding cannot be recognized. "
                "Return (x, y, sample_weight), with 1 where the loss counts and 0 where not; or "
                "make the data set with exact=False."
            )
        if len(batch) != 3 or batch[2] is None:
            return batch
        x, y, sample_weight = batch
        self._check_size(sample_weight, number)
        return batch if self.mean is None else (x, y, scaled(sample_weight, self.mean))

    def _check_size(self, sample_weight: Any, number: int) -> None:
        """Compare weights [B, T] with the length that the plan truncates samples to.

        Columns without a weight are padding, which `fetch` may add to have fewer shapes.
        """
        most = self.plan.layout.max_length
        if np.ndim(sample_weight) != 2 or self.plan.starts is not None or not isinstance(most, int):
            return
        if np.asarray(sample_weight)[:, most:].any():
            raise PlanError(
                f"batch {number} has rows of {np.shape(sample_weight)[1]} tokens, but the plan "
                f'truncates samples to {most} (oversize="truncate"): it would exceed the budget. '
                "Truncate them in fetch, to plan.layout.max_length."
            )
