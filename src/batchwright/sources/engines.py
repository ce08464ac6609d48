"""One function over many files: in this process, in several, or on a Ray cluster."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, TypeVar

from batchwright._format import one_line
from batchwright.errors import BatchwrightError, MissingExtraError, SourceError

Engine: TypeAlias = Literal["local", "ray"]

ENGINES = ("local", "ray")

Task: TypeAlias = tuple[str, ...]
"""The arguments of one call, which name files."""

T = TypeVar("T")


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def mapped(
    function: Callable[..., T], tasks: Sequence[Task], *, on: Engine, workers: int | None = None
) -> Generator[tuple[int, T], None, None]:
    """Call a function for each task, and yield the number of the task and the result as it ends.

    The engine schedules; only tasks and results are sent. Close the iterator to end early: local
    processes then end at once. They always end with this process.

    Args:
        function: Called with the items of a task as arguments; pickled for other processes.
        tasks: The arguments of each call.
        on: "local", or "ray" for Ray Data, on the cluster that `ray.init` connected to, or on this
            machine.
        workers: How many calls run at a time. None: one for each core; on Ray, what Ray decides.
            Locally at most one per core; one worker is this process itself.

    Raises:
        SourceError: A process ended, or cannot be given the function.
        MissingExtraError: `on="ray"` without Ray.

    Example:
        >>> sorted(mapped(len, [("abc",), ("de",)], on="local", workers=1))
        [(0, 3), (1, 2)]
    """
    if on == "ray":
        yield from _on_ray(function, tasks, workers) if tasks else ()
        return
    most = min(cores(), len(tasks))
    if min(workers or most, most) > 1:
        yield from _in_processes(function, tasks, min(workers or most, most))
        return
    for number, task in enumerate(tasks):
        yield number, function(*task)


def _in_processes(
    function: Callable[..., T], tasks: Sequence[Task], workers: int
) -> Iterator[tuple[int, T]]:
    try:
        pickle.dumps(function)
    except Exception as error:
        raise SourceError(
            f"a metric or tokenizer cannot be sent to other processes ({one_line(error, 120)}). "
            "Define it at the top of a module, or pass workers=1."
        ) from error
    # Spawned, not forked: a copy of a process with threads may wait forever.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    processes: list[Any] = []
    try:
        with _interrupts_ignored():
            futures = {pool.submit(function, *task): n for n, task in enumerate(tasks)}
            processes += (pool._processes or {}).values()  # noqa: SLF001 -- public from 3.14 on
        for future in as_completed(futures):
            yield futures.pop(future), future.result()
        processes.clear()
    except BrokenProcessPool as error:
        raise SourceError(
            "a process that measures shards ended before it was done: for lack of memory, or "
            "because a script calls this outside of `if __name__ == '__main__':`. Pass fewer "
            "workers; with workers=1, only this process is used."
        ) from error
    finally:
        for process in processes:  # that are still at work
            process.terminate()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Start processes that ignore Ctrl-C: this process receives it, and ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # there is a process for each core
    # The pool does not end its processes when this one is killed.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _on_ray(
    function: Callable[..., T], tasks: Sequence[Task], workers: int | None
) -> Iterator[tuple[int, T]]:
    try:
        import ray.data
    except ImportError as error:
        raise MissingExtraError(
            "Ray Data is not installed. Run: pip install 'ray[data]', or leave it at 'local'."
        ) from error

    def called(row: dict[str, Any]) -> dict[str, Any]:
        result: object
        try:
            result = function(*json.loads(row["task"]))
        except BatchwrightError as error:  # without a traceback of Ray
            result = error
        return {"number": row["number"], "result": pickle.dumps(result)}

    rows = [{"number": n, "task": json.dumps(task)} for n, task in enumerate(tasks)]
    # A block is a task of Ray's: each file is one.
    data = ray.data.from_items(rows, override_num_blocks=len(rows))
    compute = None if workers is None else ray.data.TaskPoolStrategy(size=workers)
    for row in data.map(called, compute=compute).iter_rows():
        result = pickle.loads(row["result"])  # noqa: S301 -- of our own workers
        if isinstance(result, BatchwrightError):
            raise result
        yield int(row["number"]), result
