"""A plan as the batch sampler of a `DataLoader`, and whether the loader does what it expects."""

import functools
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch.utils.data import Subset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from batchwright._checks import epoch_number
from batchwright._ranks import given_place
from batchwright.batches import TOGETHER, Arrays
from batchwright.errors import PlanError
from batchwright.plan_source import as_source, kept
from batchwright.planner import Planner
from batchwright.plans import Plan, has_pieces
from batchwright.resume import Course, Position, chart, read_position, warn_of_repeated
from batchwright.torch.data.pack_collator import PackCollator
from batchwright.torch.data.pad_collator import PadCollator
from batchwright.torch.data.ranks import placed
from batchwright.torch.data.samples import Piece, PieceDataset
from batchwright.torch.data.wrappers import passage, unwrapped
from batchwright.typing import State

Entries: TypeAlias = list[int] | list[Piece]
"""One batch: sample indices, or pieces of samples where the plan splits long ones."""

_DEPTH = 16
"""Callers looked at, and data sets inside of one another."""

_DISPATCHER = "DataLoaderDispatcher"
"""What accelerate calls a loader of which one rank reads, and sends the others their parts."""

_PREPARED = (
    "Give PlanLoader(dataset, planner) in place of the DataLoader: accelerate and Lightning leave "
    "it as it is."
)


class PlanBatchSampler:
    """Gives a rank its batches of each epoch's plan, and remembers where it is.

    All ranks get the same number of batches, the same in every epoch, and together they are the
    plan: rank `r` gets batches ``r, r + world_size, …``. A resumed run, also on another number of
    workers or ranks or with a smaller budget, gets exactly the samples that it had not consumed, in
    the same global order, without replay.

    `PlanLoader` is a `DataLoader` around it that resumes without further code, as torchdata's
    `StatefulDataLoader` does. Another `DataLoader` with workers runs ahead of the training loop:
    use `state_after`. What is around the sampler, the data set and the collator are checked at the
    first batch, as by `planned_sampler`.

    Args:
        plans: A `Planner`: a new plan every epoch. Or one global `Plan` (not a shard of it): the
            same batches every epoch, split where the ranks need it.
        rank: This process, from 0. None: as `torch.distributed` says once it is initialised.
        world_size: Processes that get different data. None: as `rank`.

    Attributes:
        epoch: The epoch of the next iterator.
        begun: How many iterators have begun.

    Raises:
        PlanError: If `plans` is neither, or rank and world size are invalid.

    Example:
        >>> from batchwright import Planner
        >>> planner = Planner([5, 3, 8, 2, 7, 1], max_tokens=10)
        >>> sampler = PlanBatchSampler(planner, rank=0, world_size=2)
        >>> len(sampler), len(list(sampler))
        (2, 2)
        >>> saved = sampler.state_after(1)  # one batch of this rank was consumed
        >>> sampler.load_state_dict(saved)
        >>> len(list(sampler))
        1
    """

    def __init__(
        self, plans: Planner | Plan, *, rank: int | None = None, world_size: int | None = None
    ) -> None:
        self._given = given_place(rank, world_size)
        self._source = as_source(plans)
        self._course: Course | None = None  # of the iterator that began last
        self._loaded: Position | None = None  # where the next iterator begins
        self._passes = 0  # from the beginning of the epoch, since it was set
        self._is_spent = False  # one of them came to the end
        self._has_warned = False  # that the epoch is repeated
        self.epoch = self.begun = 0

    def __len__(self) -> int:
        """Count this rank's batches of a whole epoch, also while one is resumed in its middle."""
        world_size = self.world_size
        return self._source.num_batches(world_size) // world_size

    def __iter__(self) -> "PlanIterator":
        """Begin an epoch, or go on where the loaded state says."""
        return PlanIterator(self._begin, self._state, self._end)

    def __repr__(self) -> str:
        rank, world_size = placed(self._given, "")
        return (
            f"PlanBatchSampler({self._source.num_batches(world_size) // world_size} batches an "
            f"epoch, epoch {self.epoch}, rank {rank} of {world_size})"
        )

    @property
    def sampler(self) -> "PlanBatchSampler":
        """The sampler itself: trainers look for `set_epoch` on ``batch_sampler.sampler``."""
        return self

    @property
    def accumulate(self) -> int:
        """Batches of one update on this rank."""
        return self._source.accumulate(self.world_size)

    @property
    def rank(self) -> int:
        """This process, from 0."""
        return placed(self._given, "PlanBatchSampler")[0]  # ranks may be known only later

    @property
    def world_size(self) -> int:
        """Processes that share the epoch."""
        return placed(self._given, "PlanBatchSampler")[1]

    @property
    def num_batches(self) -> int:
        """This rank's batches of the present epoch, those consumed before a resume included.

        As many as of any epoch, unless it is resumed on other ranks or with another budget.
        """
        course = self._course
        if self._loaded is not None:
            course = chart(self._source, self._upcoming(), self.world_size)
        is_resumed = course is not None and course.epoch == self.epoch and course.known is not None
        return len(self) if course is None or not is_resumed else course.num_batches

    @property
    def course(self) -> Course | None:
        """What the last iterator goes through. None: none has begun."""
        return self._course

    @property
    def plan(self) -> Plan:
        """The global plan of the present epoch, whole."""
        world_size = self.world_size
        accumulate = self._source.accumulate(world_size)
        plan = self._source.plan(self.epoch, world_size, accumulate)
        return kept(self._source, plan, world_size * accumulate)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iterator; a state of another one is then forgotten."""
        self.epoch = epoch_number(epoch)
        self._passes, self._is_spent = 0, False

    def state_after(self, consumed: int) -> State:
        """Return where the run is when the training loop has consumed some batches.

        Args:
            consumed: Batches that the loop took from the loader in its present pass (after a
                resume: since that). The same on every rank.

        Returns:
            A few hundred bytes that JSON can keep, the same on every rank. Save it at the end
            of an update.
        """
        course = self._course
        moved_on = course is not None and course.epoch != self.epoch and not consumed
        if course is None or self._loaded is not None or moved_on:
            course = chart(self._source, self._upcoming(), self.world_size)
        return self._state(course, consumed)

    def load_state_dict(self, state: State, *, planned_by: Planner | Plan | None = None) -> None:
        """Make the next iterator go on where a state was saved, in that state's epoch.

        Args:
            state: From `state_after`, or from an iterator's `state_dict`, saved under any number of
                ranks or workers, any budget, and with any batching of this library.
            planned_by: What the state's epoch began with, if that was of another order or seed, or
                batched by a function of your own.

        Raises:
            PlanError: If it is of other lengths, seed or settings, or no state.
        """
        began = None if planned_by is None else as_source(planned_by)
        position = read_position(state, self._source, began)
        if position.legs:
            chart(self._source, position, self.world_size)  # refuses what does not fit
        self._loaded = position
        self.epoch = position.epoch
        self._passes, self._is_spent = 0, False

    def _upcoming(self) -> Position:
        """Return where the next iterator begins."""
        if self._loaded is not None and self._loaded.epoch == self.epoch:
            return self._loaded
        return Position(self.epoch)

    def _state(self, course: Course | None, taken: int) -> State:
        """Return the state after some batches; without a course, that of the next iterator."""
        position = self._upcoming() if course is None else course.after(taken)
        return position.state(self._source)

    def _begin(self, state: State | None = None) -> tuple[Course, int]:
        """Bind an iterator to what is left of an epoch; return that, and the rank."""
        source = self._source
        rank, world_size = placed(self._given, "PlanBatchSampler", begins=True)
        position = self._upcoming() if state is None else read_position(state, source)
        self._course = None  # frees the last plan before the next is made
        course = chart(source, position, world_size, warn=True)
        self._course, self._loaded = course, None
        self.begun += 1
        if course.plan is not None and (loader := _loader_in_use(self)) is not None:
            dataset, collate_fn, around = loader
            check_loader(course.plan, dataset, collate_fn)
            skipped = check_around(self, around)
            if skipped and course.known is not None:
                raise PlanError(
                    f"a {type(around[0]).__name__} skips {skipped} batches, and the loaded state "
                    "has skipped what was consumed already. Do one or the other."
                )
        if len(course):  # at its end the next epoch may be set already: then it stays
            self.epoch = course.epoch
        if course.known is None:
            # A first look at a batch or two does not count; nor epochs that are all alike, as in
            # validation.
            repeated = (self._is_spent or self._passes > 1) and not self._has_warned
            if repeated and course.plan is not None:
                self._has_warned = True
                if not source.is_alike(course.plan):
                    warn_of_repeated(self.epoch, stacklevel=3)
            self._passes += 1
        return course, rank

    def _end(self, course: Course) -> None:
        """Take note that an iterator came to its end."""
        self._is_spent = self._is_spent or course.epoch == self.epoch


class PlanIterator(Iterator[Entries]):
    """Goes through one rank's batches of one epoch.

    Its state says what was *taken* from the iterator, in batches of all ranks together. A loader
    with workers takes ahead of the training loop: see `PlanBatchSampler.state_after`.
    """

    def __init__(
        self,
        begin: Callable[[State | None], tuple[Course, int]],
        state: Callable[[Course | None, int], State],
        end: Callable[[Course], None],
    ) -> None:
        self._begin, self._state, self._end = begin, state, end
        self._course: Course | None = None
        self._rank = 0
        self._taken = 0
        self._block: Arrays | None = None  # the batches from `_first` on, computed together
        self._first = 0

    def __next__(self) -> Entries:
        """Return the next batch, as plain integers: data sets expect them."""
        if self._course is None:
            self._course, self._rank = self._begin(None)
        course, plan = self._course, self._course.plan
        if plan is None or self._taken >= len(course):
            self._end(course)
            raise StopIteration
        if self._block is None or self._taken >= self._first + len(self._block):
            first = course.start + self._taken * course.world_size
            last = min(first + TOGETHER * course.world_size, len(plan))
            numbers = range(first + self._rank, last, course.world_size)
            self._block, self._first = plan.batches.select(numbers).arrays(), self._taken
        entries = self._block.batch(self._taken - self._first)
        self._taken += 1
        samples: list[int] = entries.samples.tolist()
        if entries.starts is None:
            return samples
        starts, size = entries.starts.tolist(), plan.layout.max_length
        ends = [None if size is None else start + size for start in starts]
        return list(map(Piece, samples, starts, ends))

    def state_dict(self) -> State:
        """Return where the iterator is: less than 1 KB, which JSON can keep."""
        return self._state(self._course, self._taken)

    def load_state_dict(self, state: State) -> None:
        """Go on where a state was saved; see `PlanBatchSampler.load_state_dict`."""
        self._course, self._rank = self._begin(state)
        self._taken, self._block = 0, None


def planned_sampler(loader: object) -> PlanBatchSampler:
    """Return the sampler of a loader; raise if the loader would ignore its plan.

    Call this once, on the loader as it is trained with: trainers replace samplers, or shard batches
    a second time, without a word. Wrappers that skip the first batches are right.

    Raises:
        PlanError: If the loader draws its batches from something else, or shards again what the
            plan has already shared among ranks; if the data set has not one sample for each length,
            or it or the collator does not cut samples as planned.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> planned_sampler(DataLoader([1, 2, 3], shuffle=True))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        batchwright.errors.PlanError: the loader draws its batches from a BatchSampler over a ...
    """
    sampler, around = unwrapped(loader, PlanBatchSampler)
    if sampler is None:
        drawn = " over a ".join(type(each).__name__ for each in around[1:] or around)
        raise PlanError(
            f"the loader draws its batches from a {drawn}, not from a plan: its order is ignored. "
            f"{_PREPARED} Of a trainer that makes loaders, see get_train_dataloader."
        )
    check_around(sampler, around)
    dataset = getattr(loader, "dataset", None)
    if dataset is not None:
        check_loader(sampler.plan, dataset, getattr(loader, "collate_fn", None))
    return sampler


def check_around(sampler: PlanBatchSampler, around: Sequence[object]) -> int:
    """Raise `PlanError` if what is around a sampler shards its batches again.

    Returns:
        How many of this rank's first batches are skipped.
    """
    wrappers = [each for each in around if not hasattr(each, "collate_fn")]  # without loaders
    ranks, count = sampler.world_size, len(sampler)
    found = passage(wrappers, sampler, count)
    dispatching = next((each for each in around if type(each).__name__ == _DISPATCHER), None)
    if found is not None and found.step == 1 and (dispatching is None or ranks == 1):
        return found.first
    sharding = wrappers[0] if dispatching is None else dispatching
    name, step = type(sharding).__name__, 0 if found is None else found.step
    if ranks > 1:
        raise PlanError(
            f"a {name} shards batches that the plan has already shared among {ranks} ranks. "
            f"{_PREPARED}"
        )
    if step and count % step:
        raise PlanError(
            f"a {name} shares {count} batches among {step} processes: they would get unequal "
            f"numbers, or some batches twice. {_PREPARED}"
        )
    if found is not None and not step:
        raise PlanError(f"a {name} changes the order of the plan's batches. {_PREPARED}")
    return 0


def check_loader(plan: Plan, dataset: object, collate_fn: object) -> None:
    """Raise `PlanError` unless a data set and a collator do what a plan expects."""
    try:
        size = len(dataset)  # type: ignore[arg-type]  # may not have one
    except Exception:  # noqa: BLE001 (a data set may say in any way that it does not know)
        size = None
    planned = plan.origin.num_samples
    fits = planned == size if planned is not None else size is None or plan.indices.max() < size
    if size is not None and not fits:
        count = f"{planned} lengths" if planned is not None else f"sample {plan.indices.max()}"
        raise PlanError(
            f"the plan was made for {count}, and the {type(dataset).__name__} has {size} samples. "
            "Plan with one length for each sample, after every filter; to train on a part, give "
            "the loader a torch.utils.data.Subset."
        )
    if has_pieces(plan):
        if not _takes_pieces(dataset):
            raise PlanError(
                f'the plan splits long samples (oversize="split"), and a {type(dataset).__name__} '
                "gives whole ones. Wrap it: PieceDataset(dataset). A data set of your own that "
                "takes a Piece says so: takes_pieces = True."
            )
    elif plan.layout.max_length is not None:
        _check_cuts(plan.layout.max_length, collate_fn)


def _takes_pieces(dataset: object) -> bool:
    for _ in range(_DEPTH):
        if isinstance(dataset, PieceDataset) or getattr(dataset, "takes_pieces", False) is True:
            return True
        if isinstance(dataset, Subset):  # looks numbers up, and knows no pieces
            return False
        dataset = getattr(dataset, "dataset", None)
    return False


def _check_cuts(planned: int | tuple[int, ...], collate_fn: object) -> None:
    while isinstance(collate_fn, functools.partial):
        collate_fn = collate_fn.func
    if not isinstance(collate_fn, PadCollator | PackCollator):
        return
    given = collate_fn.max_length
    most = planned if isinstance(planned, tuple) else (planned,)
    cuts = given if isinstance(given, tuple) else (given,) * len(most)
    bounds = zip(cuts, most, strict=False)
    if any((math.inf if cut is None else cut) > bound for cut, bound in bounds):
        name = type(collate_fn).__name__
        raise PlanError(
            f'the plan truncates samples to {planned} tokens (oversize="truncate"), and '
            f"{name}(max_length={given}) does not. Give it {name}(max_length={planned})."
        )


def _loader_in_use(sampler: object) -> tuple[object, object, list[object]] | None:
    """Return data set and collator of the loader that is asking a sampler for a batch, if any.

    And what is around the sampler. A `DataLoader` gives nothing of itself to its batch sampler, so
    look for it among the callers.
    """
    frame, callers = sys._getframe(1).f_back, list[object]()  # noqa: SLF001
    while frame is not None and len(callers) < _DEPTH:
        callers.append(frame.f_locals.get("self"))
        frame = frame.f_back
    for place, caller in enumerate(callers):
        if isinstance(caller, _BaseDataLoaderIter):
            found, around = unwrapped(getattr(caller, "_index_sampler", None), type(sampler))
            if found is sampler:
                outer = [each for each in callers[place:] if type(each).__name__ == _DISPATCHER]
                collate_fn = getattr(caller, "_collate_fn", None)
                return caller._dataset, collate_fn, outer + around  # noqa: SLF001
    return None


def warn_if_over_budget(course: Course | None, batch: object) -> bool:
    """Warn if token ids [rows, tokens] take more than the plan's budget; return whether they do."""
    budget = None if course is None or course.plan is None else course.plan.layout.budget
    if budget is None:
        return False
    if isinstance(batch, tuple | list):
        batch = dict(enumerate(batch))
    for name, value in batch.items() if isinstance(batch, Mapping) else [("batch", batch)]:
        if not isinstance(value, torch.Tensor) or value.ndim != 2 or value.is_floating_point():
            continue
        rows, tokens = value.shape
        if rows * tokens > budget:
            warnings.warn(
                f"a batch has {rows} × {tokens} = {rows * tokens} tokens in {name!r}, and the plan "
                f"a budget of {budget}. Plan with the lengths that samples have when they are "
                "collated, and give the collator max_length=plan.layout.max_length and the "
                "planner's pad_to_multiple_of.",
                stacklevel=4,
            )
            return True
    return False
