"""Threads that fetch the next batches while the model trains on this one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any


class FetchAhead:
    """Fetches batches by number, and the ones that follow before they are asked for.

    Guarantees the batch that was asked for, in whatever sequence: what was fetched ahead in vain
    is dropped. An error of `fetch` is raised where its batch is asked for. The threads end when
    nobody holds the object any more.

    Args:
        fetch: Batch number → batch. Called from several threads at a time.
        num_batches: There are no batches from here on.
        workers: Threads; each has one batch in work and one in store.

    Example:
        >>> ahead = FetchAhead(lambda batch: batch * batch, num_batches=4, workers=2)
        >>> [ahead(batch) for batch in (0, 1, 3)]
        [0, 1, 9]
    """

    def __init__(self, fetch: Callable[[int], Any], *, num_batches: int, workers: int) -> None:
        self._fetch = fetch
        self._num_batches = num_batches
        self._depth = 2 * workers
        self._pending: dict[int, Future[Any]] = {}
        self._lock = Lock()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="batchwright-fetch")

    def __call__(self, batch: int) -> Any:
        """Return a batch, and begin with those after it."""
        with self._lock:
            wanted = range(batch, min(batch + 1 + self._depth, self._num_batches))
            for stale in [number for number in self._pending if number not in wanted]:
                self._pending.pop(stale).cancel()
            for number in wanted:
                if number not in self._pending:
                    self._pending[number] = self._threads.submit(self._fetch, number)
            future = self._pending.pop(batch)
        return future.result()
