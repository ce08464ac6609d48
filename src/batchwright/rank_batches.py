"""One rank's batches of each epoch, and where in an epoch it begins."""

from batchwright._checks import epoch_number
from batchwright.errors import PlanError
from batchwright.plan_source import as_source, kept
from batchwright.planner import Planner
from batchwright.plans import Plan
from batchwright.resume import Course, Position, chart, read_position
from batchwright.typing import State


class RankBatches:
    """One rank's batches of each epoch, and how far the present pass through them is.

    A pass begins where a loaded state says, else at the beginning of the epoch.

    Args:
        plans: A `Planner`: a new plan every epoch. Or one global `Plan`: the same every epoch.
        place: Rank and world size.

    Attributes:
        rank: This process, from 0.
        world_size: Processes that share the epoch.
        source: Makes the plans.
        passes: Changes whenever what is left does: a pass, another epoch or a loaded state begins.
        consumed: Batches of the present pass. None: nobody counts.
        is_counted: Whether they are counted by another than who goes through them.
        is_loaded: Whether the next pass begins where a state was saved.
        is_spent: Whether a pass came to its end since the epoch was set.

    Example:
        >>> ranked = RankBatches(Planner([5, 3, 8, 2, 7, 1], max_tokens=10), (0, 2))
        >>> len(ranked), len(ranked.left)
        (2, 2)
        >>> ranked.load_state_dict(ranked.state_after(1))
        >>> len(ranked), len(ranked.left)
        (2, 1)
    """

    consumed: int | None
    is_counted: bool
    is_loaded: bool
    is_spent: bool
    _upcoming: Position  # where the next pass begins
    _course: Course | None  # of the present pass, or of the next if none began

    def __init__(self, plans: Planner | Plan, place: tuple[int, int]) -> None:
        self.rank, self.world_size = place
        self.source = as_source(plans)
        self._is_alike: bool | None = None
        self.passes = 0
        self._go_to(Position(0))

    def __len__(self) -> int:
        """Count this rank's batches of a whole epoch."""
        return self.source.num_batches(self.world_size) // self.world_size

    @property
    def epoch(self) -> int:
        """The epoch."""
        return self._upcoming.epoch

    @property
    def accumulate(self) -> int:
        """Batches of one update on this rank."""
        return self.source.accumulate(self.world_size)

    @property
    def plan(self) -> Plan:
        """The global plan of the epoch, whole."""
        plan = self.source.plan(self.epoch, self.world_size, self.accumulate)
        return kept(self.source, plan, self.world_size * self.accumulate)

    @property
    def is_alike(self) -> bool:
        """Whether all epochs are alike, as in validation; found out once."""
        if self._is_alike is None:
            self._is_alike = self.source.is_alike(self.plan)
        return self._is_alike

    @property
    def course(self) -> Course:
        """What all ranks go through in the present pass, or in the next if none began."""
        if self._course is None:
            self._course = chart(self.source, self._upcoming, self.world_size)
        return self._course

    @property
    def left(self) -> Plan:
        """This rank's batches of the present pass, or of the next if none began."""
        course = self.course
        if course.plan is None or not len(course):
            raise PlanError(f"nothing is left of epoch {self.epoch}. Set the next epoch.")
        return course.plan[course.start :].shard(self.rank, self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; a state of another one is then forgotten."""
        number = epoch_number(epoch)
        if number != self.epoch:
            self._go_to(Position(number))
        self.is_spent = self.is_counted = False

    def begin(self) -> None:
        """Begin a pass; the one after it begins at the beginning of the epoch."""
        self._course = None  # frees the last plan before the next is made
        self._course = chart(self.source, self._upcoming, self.world_size, warn=True)
        self._upcoming, self.is_loaded = Position(self.epoch), False
        self.passes, self.consumed, self.is_counted = self.passes + 1, 0, False

    def took(self, count: int, number: int, *, is_ahead: bool = False) -> None:
        """Take note of how many batches were taken in a pass of this number, if it is the present.

        With `is_ahead` they are taken ahead of the loop that consumes them.
        """
        if number == self.passes:
            self.is_spent = count == len(self.course)
            if not self.is_counted:
                self.consumed = None if is_ahead else count

    def state_dict(self) -> State:
        """Return where the run is."""
        if self.consumed is None:
            raise PlanError(
                "how many batches were consumed is unknown here: a tf.data.Dataset takes them "
                "ahead of the loop, and fit does not count. Give fit callbacks=[dataset.callback()]"
                "; or count them, and save state_after(count)."
            )
        return self.state_after(self.consumed)

    def state_after(self, consumed: int) -> State:
        """Return where the run is once some batches of the present pass are consumed."""
        return self.course.after(consumed).state(self.source)

    def load_state_dict(self, state: State, planned_by: Planner | Plan | None = None) -> None:
        """Begin the next pass where a state was saved; see `PlanBatchSampler.load_state_dict`.

        If nothing is left of the state's epoch, it begins with the next epoch.
        """
        began = None if planned_by is None else as_source(planned_by)
        position = read_position(state, self.source, began)
        if not len(chart(self.source, position, self.world_size)):
            position = Position(position.epoch + 1)
        self._go_to(position)
        self.is_loaded = True

    def _go_to(self, position: Position) -> None:
        self._upcoming, self._course = position, None
        self.passes, self.consumed = self.passes + 1, 0
        self.is_loaded = self.is_spent = self.is_counted = False
