"""Hooks in loaders: the samples of each batch, its padding, and the wait for it."""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Iterator
from typing import Any

from .contents import Contents
from .recorder import Recorder, clock

_INDICES = "_batchwright_indices"
_TURN = "_batchwright_turn"
_DEPTH = 6  # samplers that wrap one another


class Seen:
    """The loaders of a process, and the batches that they hand out."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._contents: dict[int, Contents] = {}
        self._passes: dict[int, int] = {}  # loader → passes begun
        self._complete: dict[int, int] = {}
        self._held: dict[int, deque[list[Any]]] = {}  # loader → batches that a wrapper hands on
        self.training: set[int] = set()
        self.last: int | None = None  # loader of the batch that was handed out last

    def begin(self, loader: Any, iterator: Any) -> None:
        """Record that a pass begins."""
        number = self.number_of(loader)
        if number in self.training:
            self._recorder.before_pass(self._complete.get(number, 0))
        self._passes[number] = self._passes.get(number, 0) + 1
        iterator.__dict__[_TURN] = (number, self._passes[number])
        self._recorder.add("pass", number, self._passes[number])

    def number_of(self, loader: Any) -> int:
        """Return the number of a loader; one that is recreated in each epoch keeps it."""
        facts = _facts(loader)
        key = (id(loader.dataset), *map(str, facts.values()))
        if key not in self._numbers:
            self._numbers[key] = len(self._numbers)
            self._recorder.add("loader", self._numbers[key], facts)
            self._contents[self._numbers[key]] = Contents()
        return self._numbers[key]

    def begin_stream(self, name: str) -> tuple[int, int]:
        """Record the start of a pass over a loader that is not torch's; return both numbers."""
        number = self._numbers.setdefault((name,), len(self._numbers))
        if number in self.training:
            self._recorder.before_pass(self._complete.get(number, 0))
        turn = self._passes[number] = self._passes.get(number, 0) + 1
        self._complete[number] = turn - 1
        if turn == 1:
            self._recorder.add("loader", number, {"dataset": name})
        self._recorder.add("pass", number, turn)
        return number, turn

    def batch(self, iterator: Any, data: Any, wait: float) -> None:
        """Record a batch, or hold it until it is handed on."""
        waiting = iterator.__dict__.get(_INDICES)
        index = waiting.popleft() if waiting else None
        if _TURN not in iterator.__dict__:  # read ahead by what resumes
            return
        number, turn = iterator.__dict__[_TURN]
        contents = self._contents[number]
        samples = names_of(index)
        if samples is None:
            looked = self._recorder.looking(contents.look, data, "hashes")
        else:
            looked = self._recorder.looking(contents.look, data)
        event = [number, turn, clock(), wait, samples, *(looked or (None, None))]
        if number in self._held:
            self._held[number].append(event)
        else:
            self.hand_out(event)

    def hand_out(self, event: list[Any]) -> None:
        """Record that the training loop has a batch."""
        self.last = event[0]
        event[2] = clock()
        self._recorder.add("batch", *event)

    def end(self, iterator: Any) -> None:
        """Record that a loader reached its end."""
        if _TURN in iterator.__dict__:
            number, turn = iterator.__dict__[_TURN]
            self._complete[number] = turn
            self._recorder.add("whole", number, turn)

    def hold(self, loader: Any) -> deque[list[Any]]:
        """Hold back the batches of a loader: a wrapper reads ahead and hands them on."""
        return self._held.setdefault(self.number_of(loader), deque())

    def trains(self) -> None:
        """Record that gradients are computed on the batch that was handed out last."""
        if self.last is not None:
            self.training.add(self.last)


@functools.cache
def seen_by(recorder: Recorder) -> Seen:
    """Return the loaders of a process."""
    return Seen(recorder)


def watch_torch(module: Any, recorder: Recorder) -> None:
    """Hook `torch.utils.data.dataloader`."""
    seen, kind = seen_by(recorder), module._BaseDataLoaderIter  # noqa: SLF001 -- it has no hooks
    next_index, next_batch = kind._next_index, kind.__next__  # noqa: SLF001

    @functools.wraps(next_index)
    def watched_index(self: Any) -> Any:
        index = next_index(self)
        self.__dict__.setdefault(_INDICES, deque()).append(index)
        return index

    @functools.wraps(next_batch)
    def watched_batch(self: Any) -> Any:
        start = clock()
        try:
            data = next_batch(self)
        except StopIteration:
            if recorder.is_on:
                recorder.guarded(seen.end, self)
            raise
        if recorder.is_on:
            recorder.guarded(seen.batch, self, data, clock() - start)
        return data

    kind._next_index, kind.__next__ = watched_index, watched_batch  # noqa: SLF001
    _watch_passes(module.DataLoader, recorder)


def watch_torchdata(module: Any, recorder: Recorder) -> None:
    """Hook the loader of torchdata, whose iterators are torch's."""
    _watch_passes(module.StatefulDataLoader, recorder)


def _watch_passes(kind: Any, recorder: Recorder) -> None:
    """Hook the beginning of passes; set the number of workers if asked to."""
    seen, begin, make = seen_by(recorder), kind.__iter__, kind.__init__

    @functools.wraps(begin)
    def watched(self: Any) -> Any:
        kept = getattr(self, "_iterator", None)
        if kept is not None and self.persistent_workers and _TURN in kept.__dict__:
            kept.__dict__.pop(_INDICES, None)  # read ahead in a pass that was abandoned
        iterator = begin(self)
        if recorder.is_on:
            recorder.guarded(seen.begin, self, iterator)
        return iterator

    kind.__iter__ = watched
    workers = recorder.options.get("workers")
    if workers is None:
        return

    names = inspect.signature(make)

    @functools.wraps(make)
    def made(self: Any, *arguments: Any, **options: Any) -> None:
        given = names.bind(self, *arguments, **options).arguments
        given = {**given.pop("kwargs", {}), **given, "num_workers": workers}
        if not workers:
            given |= {"prefetch_factor": None, "persistent_workers": False, "timeout": 0}
        given.pop("self")
        make(self, **given)

    kind.__init__ = made


def names_of(index: Any) -> list[int] | None:
    """Return the samples of a batch from what its sampler yields; None if they are unknown.

    Example:
        >>> names_of([3, 1]), names_of(7), names_of([None, None]) is None
        ([3, 1], [7], True)
    """
    if isinstance(index, int):
        return [index]
    if hasattr(index, "tolist"):
        index = index.tolist()
        index = index if isinstance(index, list) else [index]
    if not isinstance(index, (list, tuple)):
        if hasattr(index, "ids"):  # cuts of lhotse
            return [hash_of(each) for each in index.ids]
        return None
    if all(isinstance(each, int) for each in index):
        return list(index)
    if all(hasattr(each, "__index__") for each in index):
        return [each.__index__() for each in index]
    return None


def hash_of(text: object) -> int:
    """Hash a name to 62 bits, in the same way in every process."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(str(text).encode(), digest_size=8).digest(), "big") >> 2


def _facts(loader: Any) -> dict[str, Any]:
    """Describe a loader."""
    samplers = list(_samplers(loader))
    names = [type(each).__name__ for each in samplers]
    batch_sampler = getattr(loader, "batch_sampler", None)
    return {
        "num_samples": _size(loader.dataset),
        "num_batches": None if _size(loader.dataset) is None else _length(loader),
        "batch_size": _first(loader, batch_sampler, "batch_size"),
        "drop_last": bool(_first(loader, batch_sampler, "drop_last")),
        "num_workers": int(getattr(loader, "num_workers", 0)),
        "sampler": names[-1] if names else "",
        "batch_sampler": type(batch_sampler).__name__,
        "dataset": type(loader.dataset).__name__,
        "is_shuffled": _is_shuffled(samplers, loader.dataset),
        "is_planned": any(
            type(each).__module__.partition(".")[0] == "batchwright"
            for each in (*samplers, loader, loader.dataset)
        ),
        "replaces": any(
            getattr(each, "replacement", False) is True or "Weighted" in type(each).__name__
            for each in samplers
        ),
    }


def _is_shuffled(samplers: list[Any], dataset: Any) -> bool | None:
    """Return whether the samplers or the stream say that they shuffle; None if unknown."""
    for each in (*samplers, dataset):
        says = getattr(each, "shuffle", None)
        if isinstance(says, bool):
            return says
    names = {type(each).__name__ for each in samplers}
    if "SequentialSampler" in names:
        return False
    is_said = names & {"RandomSampler", "SeedableRandomSampler"} or _shuffles(dataset)
    return True if is_said else None


def _shuffles(dataset: Any) -> bool:
    """Return whether a stage of a stream of `datasets` is a shuffle."""
    if getattr(dataset, "_shuffling", None) is not None:  # up to version 4
        return True
    stage = getattr(dataset, "_ex_iterable", None)
    while stage is not None:
        if "Shuffle" in type(stage).__name__:
            return True
        stage = getattr(stage, "ex_iterable", None)
    return False


def _samplers(loader: Any) -> Iterator[Any]:
    """Yield the samplers of a loader, from the outermost on."""
    each = _sampler_of(loader)
    for _ in range(_DEPTH):
        if each is None:
            return
        yield each
        inner = _sampler_of(each)
        each = None if inner is each else inner


def _sampler_of(each: Any) -> Any:
    # The truth value of a sampler depends on its length, and that of a stream has none.
    found = getattr(each, "batch_sampler", None)
    return getattr(each, "sampler", None) if found is None else found


def _first(loader: Any, batch_sampler: Any, name: str) -> Any:
    found = getattr(loader, name, None)
    if not found and name in getattr(batch_sampler, "__dict__", {}):
        found = getattr(batch_sampler, name)
    return found if isinstance(found, (int, bool)) else None


def _size(dataset: Any) -> int | None:
    """Return the size of a data set; None for a stream."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        return None
    if any(each.__name__ == "IterableDataset" for each in type(dataset).__mro__):
        return None
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None


def _length(loader: Any) -> int | None:
    """Return the length of a loader: some loops stop there without reaching its end."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None
