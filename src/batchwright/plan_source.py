"""Where a sampler's plans come from: a planner, or one plan for every epoch."""

import copy
import operator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from batchwright.batching.custom import described, rebuilt
from batchwright.errors import BatchwrightError, PlanError
from batchwright.planner import Planner
from batchwright.plans import Plan, has_pieces
from batchwright.sharding import share
from batchwright.typing import Batching, IntArray, Last, LengthArray
from batchwright.without import without_samples

if TYPE_CHECKING:
    from batchwright.stats.running import Spread

Settings: TypeAlias = dict[str, Any]
"""What a state says of its planner: batching, step_tokens and last; and constraints, if any."""


class PlannerSource:
    """Plans epochs with a planner, resized to the number of ranks."""

    def __init__(self, planner: Planner) -> None:
        self.left_out = planner.left_out
        self._planner = planner = _complete(planner)
        self._sized = {planner.world_size: planner}
        self._made: tuple[tuple[int, int, int, int], Plan] | None = None
        self._spread: tuple[object, Spread] | None = None  # of the lengths, once it is asked for
        self.seed = operator.index(planner.seed)
        self.fingerprint: str | None = planner.fingerprint
        self.last: Last = planner.last
        self.settings: Settings | None = {
            "batching": described(planner.batching),
            "step_tokens": None if planner.step_tokens is None else int(planner.step_tokens),
            "last": planner.last,
        }
        if constraints := _constraints_of(planner):
            self.settings["constraints"] = constraints

    @property
    def lengths(self) -> LengthArray:
        """The lengths, for another budget, and to measure updates."""
        return self._planner.lengths

    def __reduce__(self) -> tuple[type, tuple[Planner]]:
        """Go to another process, where plans are made again."""
        return type(self), (self._planner.without(self.left_out),)

    def rebuilt(self, settings: Settings | None) -> "PlanSource":
        """Return the source that a state with these settings was planned by.

        Where the settings do not say everything (a batching of the user's), it is this one: the
        hash of the plan decides.
        """
        if settings == self.settings or settings is None or settings["batching"] is None:
            return self
        batching = rebuilt(settings["batching"])
        try:
            planner = _replanned(
                self._planner,
                batching=batching,
                step_tokens=settings["step_tokens"],
                last=settings["last"],
            )
        except BatchwrightError as error:
            raise PlanError(
                f"the state was planned from {settings!r}, and these lengths cannot be: {error}"
            ) from error
        return PlannerSource(planner)

    def accumulate(self, world_size: int) -> int:
        """Return the batches of an update on each rank: given, or found for `step_tokens`."""
        return self._for(world_size).accumulate

    def num_batches(self, world_size: int) -> int:
        """Return the batches of every epoch over all ranks, without planning one."""
        return len(self._for(world_size))

    def plan(
        self, epoch: int, world_size: int, accumulate: int, num_batches: int | None = None
    ) -> Plan:
        """Return the global plan of an epoch, with so many batches if a saved state names them."""
        planner = self._for(world_size)
        if planner.accumulate != accumulate or num_batches not in (None, len(planner)):
            planner = self._planner.resized(world_size, accumulate)
        key = (epoch, world_size, accumulate, len(planner))
        if self._made is None or self._made[0] != key:
            self._made = None  # frees the last epoch before the next is planned
            self._made = (key, planner(epoch))
        return self._made[1]

    def hash_of(self, plan: Plan) -> str:
        """Hash what a plan is made from: no batch of it is made."""
        return plan.identity()

    def is_alike(self, plan: Plan) -> bool:
        """Check whether other epochs have the same plan, as in validation."""
        planner = self._for(plan.origin.world_size)
        return _is_alike(planner, planner(plan.origin.epoch))

    def spread(self, plan: Plan) -> "Spread | None":
        """Measure how long samples are, as a plan of this source cuts them. O(n), then kept."""
        from batchwright.stats.running import Spread

        kind = plan.layout.max_length, plan.layout.area, has_pieces(plan)
        if self._spread is None or self._spread[0] != kind:
            self._spread = (kind, Spread.of(self.lengths, plan))
        return self._spread[1]

    def _for(self, world_size: int) -> Planner:
        if world_size not in self._sized:
            self._sized[world_size] = self._planner.resized(world_size)
        return self._sized[world_size]


class FixedSource:
    """Gives the same plan for every epoch, split where ranks need equal counts."""

    lengths: LengthArray | None = None
    settings: Settings | None = None
    left_out: IntArray = np.empty(0, dtype=np.int64)
    last: Last = "short"  # loses nothing: a plan does not know its planner's policy

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._split: tuple[tuple[int, int], Plan] | None = None
        self.seed = operator.index(plan.origin.seed)
        self.fingerprint = plan.origin.fingerprint

    def rebuilt(self, settings: Settings | None) -> "PlanSource":
        """Return this source: the hash of the plan decides."""
        return self

    def accumulate(self, world_size: int) -> int:
        """Return what the plan was made for."""
        return self._plan.origin.accumulate

    def num_batches(self, world_size: int) -> int:
        """Return the batches of the plan, once they can be shared equally."""
        return len(self.plan(0, world_size, self.accumulate(world_size)))

    def plan(
        self, epoch: int, world_size: int, accumulate: int, num_batches: int | None = None
    ) -> Plan:
        """Return the plan; see `PlannerSource.plan`."""
        if self._plan.origin.is_shard and world_size > 1:
            raise PlanError(
                "the plan is one rank's part of a plan already (plan.shard), and would be shared "
                f"again among {world_size} ranks. Give every rank the whole plan; or, if each has "
                "its shard, rank=0, world_size=1."
            )
        key = (world_size, accumulate)
        if self._split is None or self._split[0] != key:
            shared = share(self._plan, world_size, accumulate, epoch, last="short")
            assert shared is not None  # noqa: S101 (only "drop" leaves nothing)
            self._split = (key, shared)
        return self._split[1]

    def hash_of(self, plan: Plan) -> str:
        """Hash the batches: the plan may be loaded as arrays next time."""
        return plan.digest()

    def is_alike(self, plan: Plan) -> bool:
        """Every epoch has the same plan."""
        return True

    def spread(self, plan: Plan) -> "Spread | None":
        """Return None: a plan holds no lengths."""
        return None


def kept(source: "PlanSource", plan: Plan, update: int) -> Plan:
    """Return a plan without what the source leaves out, for updates of so many batches."""
    return without_samples(plan, source.left_out, update) if source.left_out.size else plan


PlanSource: TypeAlias = PlannerSource | FixedSource
"""Gives the global plan of any epoch, for any number of ranks. Deterministic."""


def as_source(plans: Planner | Plan) -> PlanSource:
    """Wrap a planner or a plan."""
    if isinstance(plans, Plan):
        return FixedSource(plans)
    if isinstance(plans, Planner):
        return PlannerSource(plans)
    raise PlanError(
        f"PlanBatchSampler got a {type(plans).__name__}, expected a Planner (a new plan every "
        "epoch) or a Plan (the same batches every epoch)."
    )


def _replanned(
    planner: Planner, *, batching: Batching, step_tokens: int | None, last: Last
) -> Planner:
    """Make a planner of the same lengths, order and seed with other settings."""
    index = planner._index  # noqa: SLF001 -- sorted already
    kept = planner._constraints  # noqa: SLF001 -- checked already
    gone = planner._empty  # noqa: SLF001 -- found already
    lengths = planner.lengths if index is None else index
    if gone.size:
        lengths = planner.lengths.copy()
        lengths[gone] = 0
    return Planner(
        lengths,
        batching=batching,
        order=planner.order,
        seed=planner.seed,
        step_tokens=step_tokens,
        cost=planner.cost,
        last=last,
        empty="drop" if gone.size else "error",
        within=None if kept is None else kept.within,
        unique=None if kept is None else kept.unique,
        together=None if kept is None else kept.together,
    )


def _constraints_of(planner: Planner) -> dict[str, str]:
    """Return a hash of each constraint that the batches of a planner keep.

    Example:
        >>> list(_constraints_of(Planner([3, 5], max_tokens=10, unique=["a", "b"])))
        ['unique']
    """
    kept = planner._constraints  # noqa: SLF001 -- read only here
    return {} if kept is None else kept.described()


def _complete(planner: Planner) -> Planner:
    """Return a planner of the same epochs that leaves no samples out by name."""
    if not planner.left_out.size:
        return planner
    other = copy.copy(planner)
    other.left_out = planner.left_out[:0]
    return other


def _is_alike(planner: Planner, plan: Plan) -> bool:
    """Say whether a planner makes the same plan of another epoch, as for validation.

    Example:
        >>> from batchwright.order import Sequential
        >>> planner = Planner([5, 3, 8], max_tokens=10, order=Sequential())
        >>> _is_alike(planner, planner(0))
        True
    """
    epoch = plan.origin.epoch
    return planner(epoch - 1 if epoch else 1).identity() == plan.identity()
