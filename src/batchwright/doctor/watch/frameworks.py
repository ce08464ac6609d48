"""Hooks in frameworks with their own loaders or optimizers."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from .contents import Contents
from .loaders import seen_by
from .recorder import Recorder, clock
from .updates import updates_of

_STREAM = "_batchwright_stream"


def watch_accelerate(module: Any, recorder: Recorder) -> None:
    """Hook the loaders of accelerate, which read one batch ahead, and skip batches on resume."""
    seen = seen_by(recorder)
    shard, dispatch = module.DataLoaderShard.__iter__, module.DataLoaderDispatcher.__iter__

    @functools.wraps(shard)
    def watched_shard(self: Any) -> Iterator[Any]:
        held = recorder.guarded(seen.hold, self.base_dataloader) if recorder.is_on else None
        if held is not None:
            held.clear()
        for batch in shard(self):
            if held is not None:
                recorder.guarded(_hand_on, seen, held, self)
            yield batch

    @functools.wraps(dispatch)
    def watched_dispatch(self: Any) -> Iterator[Any]:
        if not recorder.is_on:
            yield from dispatch(self)
            return
        # One rank reads for all: samples on each rank are identified by their content.
        recorder.guarded(seen.hold, self.base_dataloader)
        stream = _Stream("accelerate", recorder)
        for batch in dispatch(self):
            recorder.guarded(stream.batch, batch, 0.0)
            yield batch
        recorder.guarded(stream.end)

    module.DataLoaderShard.__iter__ = watched_shard
    module.DataLoaderDispatcher.__iter__ = watched_dispatch


def _hand_on(seen: Any, held: Any, loader: Any) -> None:
    """Record the batch that is handed on: the one before the last, or the last at the end."""
    ahead = 0 if loader.end_of_dataloader else 1
    while len(held) > ahead + 1:
        held.popleft()  # skipped
    if len(held) > ahead:
        seen.hand_out(held.popleft())


class _Stream:
    """A loader that is not torch's: its samples are identified by their content."""

    def __init__(self, name: str, recorder: Recorder) -> None:
        self._seen, self._recorder = seen_by(recorder), recorder
        self._number, self._turn = self._seen.begin_stream(name)
        self._contents = Contents()

    def batch(self, data: Any, wait: float) -> None:
        """Record a batch."""
        looked = self._recorder.looking(self._contents.look, data, "hashes") or (None, None)
        self._seen.hand_out([self._number, self._turn, clock(), wait, None, *looked])

    def end(self) -> None:
        """Record the end of the pass."""
        self._recorder.add("whole", self._number, self._turn)


def watch_grain(module: Any, recorder: Recorder) -> None:
    """Hook the iterators of grain's loader."""
    kind = module.DataLoaderIterator
    next_batch = kind.__next__

    @functools.wraps(next_batch)
    def watched(self: Any) -> Any:
        if not recorder.is_on:
            return next_batch(self)
        if _STREAM not in self.__dict__:
            self.__dict__[_STREAM] = recorder.guarded(_Stream, "grain", recorder)
        stream, start = self.__dict__[_STREAM], clock()
        try:
            batch = next_batch(self)
        except StopIteration:
            if stream is not None:
                recorder.guarded(stream.end)
            raise
        if stream is not None:
            recorder.guarded(stream.batch, batch, clock() - start)
        return batch

    kind.__next__ = watched


def watch_keras_optimizers(module: Any, recorder: Recorder) -> None:
    """Hook the optimizers of Keras, which are its own even with the torch backend."""
    updates, apply = updates_of(recorder), module.BaseOptimizer.apply

    @functools.wraps(apply)
    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        done = apply(self, *arguments, **options)
        if recorder.is_on:
            recorder.guarded(updates.applied, self)
        return done

    module.BaseOptimizer.apply = watched
