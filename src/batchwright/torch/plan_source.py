"""Where a sampler's plans come from: a planner, or one plan for every epoch."""

from typing import Protocol

from batchwright.errors import PlanError
from batchwright.planner import Planner
from batchwright.plans import Plan
from batchwright.sharding import equalize


class PlanSource(Protocol):
    """Gives the global plan of any epoch, for any number of ranks. Deterministic."""

    @property
    def seed(self) -> int:
        """The seed of the plans."""
        ...

    @property
    def fingerprint(self) -> str | None:
        """Hash of the lengths that plans are made for. None: unknown."""
        ...

    def accumulate(self, world_size: int) -> int:
        """Return the batches of an update on each rank, for that many ranks."""
        ...

    def num_batches(self, world_size: int) -> int:
        """Return the batches of an epoch over all ranks: the same for every epoch."""
        ...

    def plan(
        self, epoch: int, world_size: int, accumulate: int, num_batches: int | None = None
    ) -> Plan:
        """Return the global plan of an epoch; the last one made is kept.

        Args:
            epoch: The epoch.
            world_size: Ranks that share each update.
            accumulate: Batches of one update on each rank.
            num_batches: How many batches it had when a state was saved. None: any number.

        Returns:
            A plan whose number of batches is a multiple of `world_size`.
        """
        ...


class PlannerSource:
    """Plans epochs with a planner, resized to the ranks there are."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._sized = {planner.world_size: planner}
        self._made: tuple[tuple[int, int, int, int], Plan] | None = None

    @property
    def seed(self) -> int:
        """The planner's seed."""
        return self._planner.seed

    @property
    def fingerprint(self) -> str:
        """Hash of the planner's lengths."""
        return self._planner.fingerprint

    def accumulate(self, world_size: int) -> int:
        """Return what the planner was given, or finds for its `step_tokens`."""
        return self._for(world_size).accumulate

    def num_batches(self, world_size: int) -> int:
        """Return the planner's constant; no epoch is planned for it."""
        return len(self._for(world_size))

    def plan(
        self, epoch: int, world_size: int, accumulate: int, num_batches: int | None = None
    ) -> Plan:
        """Plan an epoch, unless it is the one planned last; see `PlanSource.plan`."""
        planner = self._for(world_size)
        if planner.accumulate != accumulate or num_batches not in (None, len(planner)):
            planner = self._planner.resized(world_size, accumulate)
        key = (epoch, world_size, accumulate, len(planner))
        if self._made is None or self._made[0] != key:
            self._made = None  # frees the last epoch before the next is planned
            self._made = (key, planner(epoch))
        return self._made[1]

    def _for(self, world_size: int) -> Planner:
        if world_size not in self._sized:
            self._sized[world_size] = self._planner.resized(world_size)
        return self._sized[world_size]


class FixedSource:
    """Gives one and the same plan for every epoch, split where ranks need equal counts."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._split: tuple[int, Plan] = (1, plan)

    @property
    def seed(self) -> int:
        """The seed that the plan was made from."""
        return self._plan.origin.seed

    @property
    def fingerprint(self) -> str | None:
        """Hash of the lengths that the plan was made for."""
        return self._plan.origin.fingerprint

    def accumulate(self, world_size: int) -> int:
        """Return what the plan was made for, whatever the ranks."""
        return self._plan.origin.accumulate

    def num_batches(self, world_size: int) -> int:
        """Return the batches of the plan, once they can be shared equally."""
        return len(self.plan(0, world_size, self.accumulate(world_size)))

    def plan(
        self, epoch: int, world_size: int, accumulate: int, num_batches: int | None = None
    ) -> Plan:
        """Return the plan; see `PlanSource.plan`."""
        multiple = world_size * accumulate
        if self._split[0] != multiple:
            self._split = (multiple, equalize(self._plan, multiple_of=multiple))
        return self._split[1]


def as_source(plans: Planner | Plan) -> PlanSource:
    """Wrap what the user gave.

    Raises:
        PlanError: If it is neither a planner nor a plan.
    """
    if isinstance(plans, Plan):
        return FixedSource(plans)
    if isinstance(plans, Planner):
        return PlannerSource(plans)
    message = (
        f"PlanBatchSampler got a {type(plans).__name__}, expected a Planner (a new plan every "
        "epoch) or a Plan (the same batches every epoch)."
    )
    raise PlanError(message)
