"""A plan as the batch sampler of a `DataLoader`."""

import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from batchwright.checks import epoch_number
from batchwright.errors import PlanError
from batchwright.planner import Planner
from batchwright.plans import Plan
from batchwright.torch.data.loader_checks import check_loader, loader_in_use
from batchwright.torch.data.pieces import Piece
from batchwright.torch.data.placement import given_place, placed
from batchwright.torch.data.plan_source import PlannerSource, PlanSource, as_source
from batchwright.torch.data.resume import Course, Position, chart, read_position

Batch: TypeAlias = list[int] | list[Piece]
"""One batch: sample indices, or pieces of samples where the plan splits long ones."""


class PlanBatchSampler:
    """Hands a rank its batches of each epoch's plan, and remembers where it is.

    Guarantees that all ranks get the same number of batches, the same in every epoch, and that
    together they are the plan: rank `r` gets batches ``r, r + world_size, …``. A run that is
    resumed, on another number of workers or ranks or with a smaller budget if need be, gets
    exactly the samples that it had not consumed, in the same global sequence. Nothing is replayed,
    and no process talks to another.

    An iterator owns its plan: it takes the epoch at its first batch, and a later `set_epoch` is
    for the next iterator. In a `DataLoader` it then also checks, once an epoch, that the data set
    has as many samples as there were lengths, and that pieces and truncated samples are cut.

    With torchdata's `StatefulDataLoader` there is nothing to do: the iterator has
    `state_dict()` and `load_state_dict()`. A plain `DataLoader` with workers runs ahead of the
    training loop, so there `state_after` is told how many batches the loop consumed; that
    state may also be loaded under another number of workers.

    Args:
        plans: A `Planner`: a new plan every epoch. Or one global `Plan` (not a shard of it): the
            same batches every epoch. Either fits any number of ranks: a planner is resized, the
            batches of a plan are split, and where it has fewer samples than there are ranks, some
            come twice, with a warning.
        rank: This process, from 0. None: what `torch.distributed` says once it is initialised,
            else 0.
        world_size: Processes that share the epoch, as far as they get different data. None: as
            `rank`.

    Attributes:
        epoch: The epoch of the next iterator.

    Raises:
        PlanError: If `plans` is neither, or rank and world size make no sense.

    Example:
        >>> from batchwright import Planner, TokenBudget
        >>> planner = Planner([5, 3, 8, 2, 7, 1], batching=TokenBudget(10))
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
        self._passes = 0  # that began at the beginning of the epoch since it was set
        self._is_spent = False  # one of them came to the end
        self._has_warned = False  # that the epoch comes once more
        self.epoch = 0

    def __len__(self) -> int:
        """Count this rank's batches of a whole epoch.

        It is the same for every epoch, and also while an epoch is resumed in its middle:
        trainers ask once, and count steps with it.
        """
        _, world_size = self._placed()
        return self._source.num_batches(world_size) // world_size

    def __iter__(self) -> "PlanIterator":
        """Begin an epoch, or go on where the loaded state says."""
        return PlanIterator(self._source, self._begin, self._next_position, self._end)

    def __repr__(self) -> str:
        """Describe the sampler in a line."""
        rank, world_size = placed(self._given, "")
        num_batches = self._source.num_batches(world_size) // world_size
        return (
            f"PlanBatchSampler({num_batches} batches an epoch, epoch {self.epoch}, "
            f"rank {rank} of {world_size})"
        )

    @property
    def sampler(self) -> "PlanBatchSampler":
        """The sampler itself: trainers look for `set_epoch` on ``batch_sampler.sampler``."""
        return self

    @property
    def accumulate(self) -> int:
        """Batches of one update on this rank."""
        return self._source.accumulate(self._placed()[1])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iterator.

        A loaded state of another epoch is forgotten once that iterator begins.

        Raises:
            PlanError: If it is no integer of at least 0.
        """
        self.epoch = epoch_number(epoch)
        self._passes, self._is_spent = 0, False

    @property
    def rank(self) -> int:
        """This process, from 0."""
        return self._placed()[0]

    @property
    def world_size(self) -> int:
        """Processes that share the epoch."""
        return self._placed()[1]

    @property
    def course(self) -> Course | None:
        """What the pass that began last goes through. None: none has begun."""
        return self._course

    @property
    def plan(self) -> Plan:
        """The global plan of the present epoch, whole."""
        _, world_size = self._placed()
        accumulate = self._source.accumulate(world_size)
        return self._source.plan(self.epoch, world_size, accumulate)

    def state_after(self, consumed: int) -> dict[str, Any]:
        """Say where the run is when the training loop has consumed some batches.

        Args:
            consumed: Batches that the loop took from the loader since it began its present
                pass (after a resume: since that). The same on every rank.

        Returns:
            A few hundred bytes that JSON can keep, the same on every rank. Save it at the end
            of an update: what was accumulated of one is not in it.

        Raises:
            PlanError: If the pass has fewer batches.
        """
        course = self._course
        moved_on = course is not None and course.epoch != self.epoch and not consumed
        if course is None or self._loaded is not None or moved_on:
            course = self._chart(self._next_position())
        try:
            batches = operator.index(consumed)
        except TypeError:
            batches = -1
        if not 0 <= batches <= len(course):
            message = (
                f"state_after({consumed!r}): this pass has {len(course)} batches for this rank. "
                "Count the batches that the loop consumed since it began."
            )
            raise PlanError(message)
        return course.after(batches).state(self._source)

    def load_state_dict(
        self, state: Mapping[str, Any], *, planned_by: Planner | Plan | None = None
    ) -> None:
        """Make the next iterator go on where a state was saved, and `epoch` the epoch it is of.

        Where the state was saved under another budget, what is left of its epoch comes in the same
        sequence, in batches that keep the budget there is now.

        Args:
            state: From `state_after`, or from an iterator's `state_dict`, saved under any number
                of ranks and with any batching of this library.
            planned_by: What the state's epoch began with, if that was of another order or seed, or
                batched by a function of your own. None: the state says enough.

        Raises:
            PlanMismatchError: If it is of other lengths, seed or settings, or no state.
            BudgetError: If samples that were split, and are half seen, cannot be cut to the new
                budget.
        """
        began = None if planned_by is None else as_source(planned_by)
        position = read_position(state, self._source, began)
        if position.legs:
            self._chart(position)
        self._loaded = position
        self.epoch = position.epoch
        self._passes, self._is_spent = 0, False

    def _placed(self) -> tuple[int, int]:
        """Return rank and world size. Asked anew each time: ranks may be known only later."""
        return placed(self._given, "PlanBatchSampler")

    def _next_position(self) -> Position:
        if self._loaded is not None and self._loaded.epoch == self.epoch:
            return self._loaded
        return Position(self.epoch)

    def _chart(self, position: Position, *, warn: bool = False) -> Course:
        return chart(self._source, position, self._placed()[1], warn=warn)

    def _begin(self, position: Position | None = None) -> tuple[Course, int]:
        """Bind an iterator to what is left of an epoch; return that, and the rank."""
        self._course = None  # frees the last plan before the next is made
        upcoming = self._next_position() if position is None else position
        course = self._chart(upcoming, warn=True)
        self._course, self._loaded = course, None
        if course.plan is not None and (loader := loader_in_use(self)) is not None:
            check_loader(course.plan, *loader)
        if len(course):  # at its end the next epoch may be set already: then it stays
            self.epoch = course.epoch
        if course.known is None:
            self._warn_if_repeated(course)
            self._passes += 1
        return course, self._placed()[0]

    def _end(self, course: Course) -> None:
        """Take note that an iterator came to its end."""
        self._is_spent = self._is_spent or course.epoch == self.epoch

    def _warn_if_repeated(self, course: Course) -> None:
        """Warn if the epoch comes once more. A first look at a batch or two is none."""
        source, repeated = self._source, self._is_spent or self._passes > 1
        if not repeated or self._has_warned or not isinstance(source, PlannerSource):
            return
        self._has_warned = True
        # Where all epochs are alike, as in validation, nothing was forgotten.
        if course.plan is not None and not source.is_alike(course.plan):
            warnings.warn(
                f"epoch {self.epoch} begins once more, with the same batches. Call "
                "sampler.set_epoch(epoch) before each epoch; or, where the same batches are "
                "wanted, make the sampler of one plan: PlanBatchSampler(planner(0)).",
                stacklevel=3,
            )


class PlanIterator(Iterator[Batch]):
    """Goes through one rank's batches of one epoch.

    Its state is counted in batches of all ranks together, so it may be loaded under another
    number of them. It says what was *taken* from the iterator, which a loader with workers
    does ahead of the training loop; `StatefulDataLoader` accounts for that, and for others
    there is `PlanBatchSampler.state_after`.

    Args:
        source: The plans.
        begin: Binds the iterator to an epoch: position → course and rank. Without a position,
            to the sampler's next one.
        upcoming: Says what the sampler's next position is.
        end: Takes note that the iterator came to the end of its course.
    """

    def __init__(
        self,
        source: PlanSource,
        begin: Callable[[Position | None], tuple[Course, int]],
        upcoming: Callable[[], Position],
        end: Callable[[Course], None],
    ) -> None:
        self._source, self._begin, self._upcoming, self._end = source, begin, upcoming, end
        self._course: Course | None = None
        self._rank = 0
        self._taken = 0

    def __next__(self) -> Batch:
        """Return the next batch, as plain integers: data sets expect them."""
        if self._course is None:
            self._course, self._rank = self._begin(None)
        course = self._course
        if course.plan is None or self._taken >= len(course):
            self._end(course)
            raise StopIteration
        batch = course.start + self._taken * course.world_size + self._rank
        self._taken += 1
        return entries_of(course.plan, batch)

    def state_dict(self) -> dict[str, Any]:
        """Say where the iterator is: less than 1 KB, which JSON can keep."""
        # Before the first batch no epoch is bound, and none is planned for asking.
        course = self._course
        position = self._upcoming() if course is None else course.after(self._taken)
        return position.state(self._source)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was saved, under any number of ranks; see the sampler's method.

        Raises:
            PlanMismatchError: If it is of other lengths, seed or settings, or no state.
            BudgetError: If samples that are half seen cannot be cut to the new budget.
        """
        self._course, self._rank = self._begin(read_position(state, self._source))
        self._taken = 0


def entries_of(plan: Plan, batch: int) -> Batch:
    """Return a batch as plain integers, or as pieces where the plan splits samples."""
    entries: list[int] = plan[batch].tolist()
    if plan.starts is None:
        return entries
    starts = plan.starts[int(plan.offsets[batch]) : int(plan.offsets[batch + 1])]
    size = plan.layout.max_length
    return [
        Piece(sample, start, None if size is None else start + size)
        for sample, start in zip(entries, starts.tolist(), strict=True)
    ]
