"""A stream of batches as the data set of a `DataLoader`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, distributed
from torch.utils.data import IterableDataset, get_worker_info

from batchwright.batching import Batching
from batchwright.batching.custom import BatchingFunction
from batchwright.errors import PlanError, PlanMismatchError
from batchwright.streams import BatchStream, stream
from batchwright.streams.buffer import Cut, Measure, slice_of
from batchwright.streams.source import Samples
from batchwright.torch.pieces import Piece, PieceDataset


class StreamDataset(IterableDataset[Any]):
    """Batches samples whose lengths are only known when they arrive, inside the loader's workers.

    For ``DataLoader(dataset, batch_size=None)``: what it yields are batches. Guarantees what
    `batchwright.stream` does, with any number of workers. Worker `w` of `W` takes samples
    ``w, w + W, …`` of the stream and batches them in a buffer of its own (so `W` buffers are
    held on each rank); no sample comes twice, none is lost. Each worker's batches are shared
    by the ranks in equal numbers, and the loader takes from the workers in turn, in the same way
    on every rank: so all ranks get equally many batches, a multiple of `accumulate`, without
    talking. All ranks need the same number of workers. The batches of one update then come from
    several workers; each is a random one of its worker's, and updates are a little less even
    than without workers. Another number of workers makes other batches of the same samples.

    With torchdata's `StatefulDataLoader` there is nothing to do: a resumed run gets the identical
    rest, under the same number of workers. In a plain `DataLoader` without workers,
    `state_dict` says where the loop is; with workers, those run ahead in other processes, and
    exact resume needs the `StatefulDataLoader`.

    Args:
        samples: A sequence, a function ``start → iterator`` that begins with sample `start`, or
            anything else to iterate over. The same samples on every rank.
        batching: How samples become batches; see `batchwright.stream`.
        length: ``sample → length``, or a tuple of one for each column; None is `len`.
        cut: ``(sample, start, stop) → sample``, for samples above the budget that are truncated
            or split; None cuts every sequence of a dict or tuple, as `PieceDataset` does; of
            several columns, the sequences of a tuple, one for each.
        collate: Makes one value of the samples of a batch, in the worker: `PadCollator`,
            `PackCollator`. None yields lists, which the loader's ``collate_fn`` may take.
        buffer_size: Samples to hold, in each worker.
        seed: Zero or larger.
        accumulate: Batches of one update on each rank.
        rank: This process, from 0. None: what `torch.distributed` says once it is initialised,
            else 0.
        world_size: Ranks that share each update. None: as `rank`.
        presharded: Whether what a worker iterates over is its own part already, as with an
            `IterableDataset` that asks `get_worker_info` (Hugging Face's does). None: no; but for
            an `IterableDataset` with workers it has to be said.

    Attributes:
        epoch: The epoch of the next iterator.

    Raises:
        PlanError: If rank and world size make no sense. For others see `batchwright.stream`.

    Example:
        >>> from batchwright import TokenBudget
        >>> from batchwright.torch import PadCollator
        >>> dataset = StreamDataset(
        ...     [[1, 2, 3], [4], [5, 6, 7]], batching=TokenBudget(6), collate=PadCollator()
        ... )
        >>> loader = torch.utils.data.DataLoader(dataset, batch_size=None)
        >>> sorted(batch.shape for batch in loader)
        [torch.Size([1, 1]), torch.Size([2, 3])]
    """

    def __init__(
        self,
        samples: Samples,
        *,
        batching: Batching | BatchingFunction,
        length: Measure | None = None,
        cut: Cut | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        buffer_size: int = 20_000,
        seed: int = 0,
        accumulate: int = 1,
        rank: int | None = None,
        world_size: int | None = None,
        presharded: bool | None = None,
    ) -> None:
        if (rank is None) != (world_size is None):
            message = f"rank={rank}, world_size={world_size}: give both, or neither."
            raise PlanError(message)
        self._samples = _Iterated(samples) if isinstance(samples, IterableDataset) else samples
        self._options: dict[str, Any] = {
            "batching": batching,
            "length": length,
            "cut": _cut if cut is None else cut,
            "buffer_size": buffer_size,
            "seed": seed,
            "accumulate": accumulate,
        }
        self._collate = collate
        self._presharded = presharded
        self._given = None if rank is None or world_size is None else (rank, world_size)
        # The epoch, whether workers began the last pass, and whether an epoch was set. Shared with
        # the workers, also with those that live on from epoch to epoch.
        self._shared = _shared(torch.zeros(3, dtype=torch.int64))
        self._pass: BatchStream | None = None
        self._loaded: Mapping[str, Any] | None = None
        self._stream(0)  # wrong settings are told here, not in a worker

    @property
    def epoch(self) -> int:
        """The epoch of the next iterator."""
        return int(self._shared[0])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iterator, in this process and in all workers.

        A loaded state of another epoch is forgotten once that iterator begins.

        Raises:
            PlanError: If it is no integer of at least 0.
        """
        try:
            number = operator.index(epoch)
        except TypeError:
            number = -1
        if number < 0:
            message = f"set_epoch({epoch!r}): expected an integer of at least 0."
            raise PlanError(message)
        self._shared[0], self._shared[2] = number, 1

    def __iter__(self) -> Iterator[Any]:
        """Begin the epoch, or go on where the loaded state says."""
        in_worker = get_worker_info() is not None
        loaded, self._loaded = self._loaded, None
        # Workers load one after the other: those of an epoch stay together.
        if loaded is not None and (in_worker or loaded["epoch"] == self.epoch):
            here = self._stream(loaded["epoch"])
            here.load_state_dict(loaded)
        else:
            here = self._stream(self.epoch)
        self._pass = here
        self._shared[1] = in_worker
        # Not `here` itself: a loader that finds a state in both would keep it twice.
        return map(_as_it_is if self._collate is None else self._collate, here)

    def state_dict(self) -> dict[str, Any]:
        """Say where the pass that began last is: a few KB, which JSON can keep.

        Raises:
            PlanError: If that pass is in the workers of a loader, which alone can tell.
        """
        if self._shared[1] and get_worker_info() is None:
            message = (
                "workers read this stream, and run ahead of the loop. Use torchdata's "
                "StatefulDataLoader, and save the state_dict() of that."
            )
            raise PlanError(message)
        if self._loaded is not None and self._loaded["epoch"] == self.epoch:
            return dict(self._loaded)
        if self._pass is None:
            return self._stream(self.epoch).state_dict()
        return self._pass.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iterator go on where a state was saved, and `epoch` the epoch it is of.

        A state of the end of an epoch leaves an epoch that was set as it is: a loader that loads it
        behind `set_epoch` begins that one.

        Args:
            state: From `state_dict`, saved with the same number of workers. Under other numbers of
                ranks or `accumulate`, exactly what was not emitted follows, in other batches.

        Raises:
            PlanMismatchError: If it is no state, or one of another seed or number of workers.
        """
        epoch = state.get("epoch") if isinstance(state, Mapping) else None
        if type(epoch) is not int or epoch < 0:
            message = "not a state of a StreamDataset. Load what state_dict() returned."
            raise PlanMismatchError(message)
        self._stream(epoch).load_state_dict(state)  # refuses what does not fit
        if not (state.get("ended") and self._shared[2]):
            self._shared[0] = epoch
        self._loaded = dict(state)

    def __getstate__(self) -> dict[str, Any]:
        """Go to a worker: the rank is fixed on the way, as nothing there knows it."""
        return self.__dict__ | {"_given": self._placed(), "_pass": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive in a worker, or as a copy."""
        self.__dict__.update(state)
        _shared(self._shared)

    def _placed(self) -> tuple[int, int]:
        if self._given is not None:
            return self._given
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1

    def _stream(self, epoch: int) -> BatchStream:
        rank, world_size = self._placed()
        worker = get_worker_info()
        if worker is not None and self._presharded is None and isinstance(self._samples, _Iterated):
            message = (
                "the samples are an IterableDataset, read by workers. Say whether each worker "
                "gets its own part of it already (presharded=True: it asks get_worker_info, as "
                "Hugging Face's do) or all of it (presharded=False)."
            )
            raise PlanError(message)
        part = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return stream(
            self._samples,
            **self._options,
            epoch=epoch,
            rank=rank,
            world_size=world_size,
            part=part,
            presharded=bool(self._presharded),
        )


class _Iterated:
    """Hides that an `IterableDataset` has the methods of a sequence: it only raises in them."""

    def __init__(self, samples: IterableDataset[Any]) -> None:
        self._samples = samples

    def __iter__(self) -> Iterator[Any]:
        return iter(self._samples)


def _shared(values: Tensor) -> Tensor:
    return values.share_memory_()  # type: ignore[no-untyped-call,no-any-return]


def _as_it_is(batch: list[Any]) -> list[Any]:
    return batch


def _cut(sample: Any, start: Any, stop: Any) -> Any:
    if isinstance(start, tuple):
        return slice_of(sample, start, stop)
    return PieceDataset([sample])[Piece(0, start, stop)]
