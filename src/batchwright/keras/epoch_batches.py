"""The batches of a plan by number, fetched ahead of time, with their sample weights scaled."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeAlias

import keras
import numpy as np

from batchwright.batches import TOGETHER, Arrays, Entries
from batchwright.errors import PlanError
from batchwright.keras.weights import MeanWeight, scaled
from batchwright.plans import Plan
from batchwright.typing import Batch

Fetch: TypeAlias = Callable[..., Batch]
"""int64[B] sample indices → ``(x, y, sample_weight)``, padded arrays with B rows. If the plan
splits samples, it is also given int64[B] starts: where in its sample each row begins."""


class EpochBatches:
    """Fetches the batches of a plan by number, and the next ones ahead of time.

    Others fetched ahead are dropped when a batch is asked for out of order. An error of `fetch` is
    raised where its batch is asked for. The threads, each with one batch in work and one in store,
    end with the object. Sample weights are divided by the mean, unless it is None.
    """

    def __init__(self, plan: Plan, fetch: Fetch, mean: MeanWeight | None, workers: int = 0) -> None:
        self.plan, self.mean = plan, mean
        self._fetch, self._workers = fetch, workers
        self._pending: dict[int, Future[Batch]] = {}
        self._block: tuple[int, Arrays] | None = None
        self._lock = Lock()
        self._threads = None
        if workers:
            self._threads = ThreadPoolExecutor(workers, thread_name_prefix="batchwright-fetch")

    def __reduce__(self) -> tuple[type, tuple[Plan, Fetch, MeanWeight | None, int]]:
        return type(self), (self.plan, self._fetch, self.mean, self._workers)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> Batch:
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

    def _fetched(self, number: int) -> Batch:
        """Fetch a batch, and scale its weights."""
        plan = self.plan
        entries = self._entries(number)
        batch = self._fetch(*(each for each in entries if each is not None))
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
        weights, samples = keras.tree.flatten(sample_weight), len(entries.samples)
        rows = min((len(each) for each in weights if np.ndim(each)), default=samples)
        if rows < samples and plan.layout.kind == "padded":
            raise PlanError(
                f"fetch returned {rows} rows for {samples} samples: some would be lost. Return a "
                "row for each."
            )
        most = plan.layout.max_length
        is_cut = isinstance(most, int) and entries.starts is None and np.ndim(sample_weight) == 2
        # Columns without a weight are padding, which fetch may add to have fewer shapes.
        if is_cut and np.asarray(sample_weight)[:, most:].any():
            raise PlanError(
                f"batch {number} has rows of {np.shape(sample_weight)[1]} tokens, but the plan "
                f'truncates samples to {most} (oversize="truncate"): it would exceed the budget. '
                "Truncate them in fetch, to plan.layout.max_length."
            )
        return batch if self.mean is None else (x, y, scaled(sample_weight, self.mean))

    def _entries(self, number: int) -> Entries:
        """Return a batch of the plan: batches are computed a block at a time, for all threads."""
        held = self._block
        if held is None or held[0] != number // TOGETHER:
            first = number - number % TOGETHER
            several = range(first, min(first + TOGETHER, len(self)))
            held = self._block = number // TOGETHER, self.plan.batches.select(several).arrays()
        return held[1].batch(number % TOGETHER)
