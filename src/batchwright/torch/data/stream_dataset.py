"""A stream of batches as the data set of a `DataLoader`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from batchwright._checks import MOST_EPOCHS, epoch_number
from batchwright._ranks import given_place
from batchwright.batching.custom import BatchingFunction
from batchwright.errors import PlanError
from batchwright.streams import BatchStream, stream
from batchwright.streams.intake import Cut, Measure, Samples, slice_of
from batchwright.torch.data.ranks import (
    check_not_split_by_rank,
    compare_ranks,
    content_hash,
    is_initialised,
    placed,
    splits_by_worker,
)
from batchwright.torch.data.samples import Piece, PieceDataset
from batchwright.typing import Batch, Batching, Field, Last, Sample, State

Presharded: TypeAlias = bool | Literal["workers"] | None


class StreamDataset(IterableDataset[Batch]):
    """Batches samples whose lengths are only known when they arrive, in the loader's workers.

    For ``DataLoader(dataset, batch_size=None)``: it yields batches. Guarantees what
    `batchwright.stream` does, with any number of workers: no sample comes twice, none is lost, and
    all ranks get equally many batches, a multiple of `accumulate`, without communication. They need
    the same samples, and the same number of workers. Worker `w` of `W` batches samples ``w, w + W,
    …`` in a buffer of its own; another number of workers makes other batches.

    With torchdata's `StatefulDataLoader` a resumed run gets the identical rest, under the same
    number of workers. In a plain `DataLoader` without workers, `state_dict` says where the loop is.

    `batching`, `length`, `seed`, `accumulate` and `last` are as in `batchwright.stream`, `rank` and
    `world_size` as in `PlanBatchSampler`.

    Args:
        samples: A sequence, a function ``start → iterator`` that begins with sample `start`, or
            any other iterable. The same samples on every rank: a stream that is split by rank
            already is refused. Its own `set_epoch`, if it has one, is called as each pass begins.
        cut: ``(sample, start, stop) → sample``, for samples above the budget. None cuts every
            sequence of a dict or tuple; with several columns, those of a tuple, one for each.
        collate: Makes one value of the samples of a batch, in the worker: `PadCollator`,
            `PackCollator`. None yields lists.
        buffer_size: Samples to hold, in each worker.
        presharded: Whether each worker iterates over its own part already. None: as Hugging Face's
            and WebDataset's streams say themselves, else no; any other `IterableDataset` with
            workers requires it. ``"workers"`` says that ranks do not split it.

    Attributes:
        epoch: The epoch of the next iterator.

    Raises:
        PlanError: If rank and world size are invalid, or, when iterated over, if the samples are
            split by rank already. For others see `batchwright.stream`.

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
        collate: Callable[[list[Sample]], Batch] | None = None,
        buffer_size: int = 20_000,
        seed: int = 0,
        accumulate: int = 1,
        rank: int | None = None,
        world_size: int | None = None,
        presharded: Presharded = None,
        last: Last = "short",
    ) -> None:
        self._given = given_place(rank, world_size)
        if presharded not in {None, True, False, "workers"}:
            raise PlanError(f'presharded={presharded!r}: expected None, True, False or "workers".')
        self._original = samples
        self._samples = _Iterated(samples) if isinstance(samples, IterableDataset) else samples
        self._options: State = {
            "batching": batching,
            "length": length,
            "cut": _cut if cut is None else cut,
            "buffer_size": buffer_size,
            "seed": seed,
            "accumulate": accumulate,
            "last": last,
        }
        self._collate = collate
        self._presharded = presharded
        # Shared with the workers, also with those that live on from epoch to epoch.
        self._shared = _shared(torch.zeros(len(_Shared), dtype=torch.int64))
        self._pass: BatchStream | None = None
        self._loaded: State | None = None
        self._stream(0)  # refuses wrong settings here, not in a worker

    @property
    def epoch(self) -> int:
        """The epoch of the next iterator."""
        return int(self._shared[_Shared.EPOCH])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iterator, in this process and in all workers."""
        number = epoch_number(epoch)
        if self._shared[_Shared.IN_WORKERS]:
            self._compare()  # workers cannot ask other ranks
        self._shared[:] = torch.tensor([number, self._shared[_Shared.IN_WORKERS], 1, 0, 0, 0, 0, 0])

    def __iter__(self) -> Iterator[Batch]:
        """Begin the epoch, or go on where the loaded state says."""
        worker = get_worker_info()
        check_not_split_by_rank(self._original, self._placed(begins=True)[1], self._presharded)
        self._check_iterator()
        loaded, self._loaded = self._loaded, None
        # Workers load one after the other: those of an epoch stay together.
        epoch = self.epoch
        if loaded is not None and (worker is not None or loaded["epoch"] == epoch):
            epoch = loaded["epoch"]
            here = self._stream(epoch)
            here.load_state_dict(loaded)
        else:
            here = self._stream(epoch)
            if worker is None or worker.id == 0:
                self._warn_if_repeated()
                self._shared[_Shared.BEGUN] += 1
        self._pass = here
        self._shared[_Shared.IN_WORKERS] = worker is not None
        # Not `here` itself: a loader that finds a state in both would keep it twice.
        return self._batches(here, epoch)

    def _batches(self, here: BatchStream, epoch: int) -> Iterator[Batch]:
        worker = get_worker_info()
        has_compared = worker is not None and worker.id > 0
        for batch in here:
            if not has_compared:
                has_compared = True
                if here.opening:  # what was read first, for other ranks to compare
                    window = int(here.state_dict()["batches"])
                    hashes = [1, window, content_hash(here.opening)]
                    self._shared[_Shared.HAS_READ :] = torch.tensor(hashes)
                if worker is None:
                    self._compare()
            yield batch if self._collate is None else self._collate(batch)
        self._shared[_Shared.ENDED] += epoch == self.epoch

    def _check_iterator(self) -> None:
        """Refuse an iterator that workers share; warn about one that a pass has read from."""
        if not isinstance(self._original, Iterator) or isinstance(self._original, IterableDataset):
            return
        name, worker = type(self._original).__name__, get_worker_info()
        if worker is not None and worker.num_workers > 1 and not self._presharded:
            raise PlanError(
                f"the samples are an iterator ({name}), and {worker.num_workers} workers would "
                "share what it reads from: most samples would be lost. Give a function "
                "start → iterator that opens it, or a sequence."
            )
        before = self._pass
        if before is not None and before.opening and not before.state_dict()["ended"]:
            warnings.warn(
                f"the samples are an iterator ({name}): what an earlier pass read, and did not "
                "emit, is lost. Give a function start → iterator, or a sequence.",
                stacklevel=3,
            )

    def _compare(self) -> None:
        """Compare what was read first with the other ranks."""
        has_read, window, opening = self._shared[_Shared.HAS_READ :].tolist()
        rank, world_size = self._placed()
        if not has_read or world_size < 2:
            return
        self._shared[_Shared.HAS_READ] = 0
        kind = [self._options[name] for name in ("buffer_size", "seed", "accumulate")]
        kind += [self.epoch, type(self._options["batching"]).__name__]
        opening = 0 if self._presharded is False else opening
        compare_ranks(repr(kind), rank, world_size, window, opening)

    def _warn_if_repeated(self) -> None:
        """Warn if the epoch is repeated. A first look at a batch or two does not count."""
        begun, ended = self._shared[[_Shared.BEGUN, _Shared.ENDED]].tolist()
        if (ended or begun > 1) and begun >= 0:
            self._shared[_Shared.BEGUN] = -(1 << 40)  # once
            warnings.warn(
                f"epoch {self.epoch} of the stream is repeated, with the same batches. Call "
                "dataset.set_epoch(epoch) before each epoch; also where the same ones are wanted.",
                stacklevel=3,
            )

    def state_dict(self) -> State:
        """Return where the last pass is: a few KB, which JSON can keep.

        Where a loader's workers read the stream, PlanError: only that loader can say.
        """
        if self._shared[_Shared.IN_WORKERS] and get_worker_info() is None:
            raise PlanError(
                "workers read this stream, and run ahead of the loop. Use torchdata's "
                "StatefulDataLoader, and save the state_dict() of that."
            )
        if self._loaded is not None and self._loaded["epoch"] == self.epoch:
            return dict(self._loaded)
        here = self._stream(self.epoch) if self._pass is None else self._pass
        return here.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Make the next iterator go on where a state was saved, in that state's epoch.

        A state of the end of an epoch keeps an epoch that was set: a loader that loads it after
        `set_epoch` begins that one. Under other numbers of ranks or `accumulate`, exactly what was
        not emitted follows, in other batches.

        Raises:
            PlanError: If it is no state, or one of another seed or number of workers.
        """
        epoch = state.get("epoch") if isinstance(state, Mapping) else None
        if type(epoch) is not int or not 0 <= epoch <= MOST_EPOCHS:
            raise PlanError("not a state of a StreamDataset. Load what state_dict() returned.")
        self._stream(epoch).load_state_dict(state)  # refuses what does not fit
        if not (state.get("ended") and self._shared[_Shared.IS_SET]):
            self._shared[_Shared.EPOCH] = epoch
        self._shared[[_Shared.BEGUN, _Shared.ENDED]] = 0
        self._loaded = dict(state)

    def __getstate__(self) -> State:
        """Go to a worker: the rank is fixed on the way, as nothing there knows it."""
        given = self._placed() if self._given is not None or is_initialised() else None
        return self.__dict__ | {"_given": given, "_pass": None}

    def __setstate__(self, state: State) -> None:
        self.__dict__.update(state)
        _shared(self._shared)

    def _placed(self, *, begins: bool = False) -> tuple[int, int]:
        return placed(self._given, "StreamDataset" if begins else "", begins=begins)

    def _stream(self, epoch: int) -> BatchStream:
        rank, world_size = self._placed()
        worker, presharded = get_worker_info(), self._presharded
        if presharded is None:
            presharded = splits_by_worker(self._original)
        if worker is not None and presharded is None and isinstance(self._samples, _Iterated):
            raise PlanError(
                "the samples are an IterableDataset, read by workers. Say whether each worker "
                'gets its own part of it already (presharded="workers": it asks get_worker_info) '
                "or all of it (presharded=False)."
            )
        part = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return stream(
            self._samples,
            **self._options,
            epoch=epoch,
            rank=rank,
            world_size=world_size,
            part=part,
            presharded=bool(presharded),
        )


class _Shared(IntEnum):
    """The integers that a data set shares with its workers."""

    EPOCH = 0
    IN_WORKERS = 1  # began the last pass
    IS_SET = 2  # the epoch
    BEGUN = 3  # passes of the epoch, since it was set
    ENDED = 4
    HAS_READ = 5  # whether the next two are known
    WINDOW = 6  # hash of the first window
    OPENING = 7  # hash of the first samples


class _Iterated:
    """Hides that an `IterableDataset` has the methods of a sequence: it only raises in them."""

    def __init__(self, dataset: IterableDataset[Sample]) -> None:
        self.dataset = dataset  # which may have a `set_epoch`

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.dataset)


def _shared(values: Tensor) -> Tensor:
    return values.share_memory_()  # type: ignore[no-untyped-call,no-any-return]


def _cut(sample: Sample, start: Field, stop: Field) -> Field:
    if isinstance(start, tuple):
        return slice_of(sample, start, stop)
    return PieceDataset([sample])[Piece(0, start, stop)]
