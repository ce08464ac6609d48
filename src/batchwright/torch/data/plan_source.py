"""Where a sampler's plans come from: a planner, or one plan for every epoch."""

from __future__ import annotations

import operator
from typing import Any, Protocol

from batchwright.batching.described import described, rebuilt
from batchwright.errors import BatchwrightError, PlanError, PlanMismatchError
from batchwright.planner import Planner, is_alike
from batchwright.plans import Plan
from batchwright.sharding import share
from batchwright.typing import Last, LengthArray


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

    @property
    def lengths(self) -> LengthArray | None:
        """The lengths. None: unknown."""
        ...

    @property
    def num_samples(self) -> int | None:
        """How many lengths there are. None: unknown."""
        ...

    @property
    def last(self) -> Last:
        """What becomes of batches of one sample that ranks cannot share equally."""
        ...

    @property
    def settings(self) -> dict[str, Any] | None:
        """What, besides lengths, seed and order, plans are made from, as JSON can keep it."""
        ...

    def rebuilt(self, settings: dict[str, Any] | None) -> PlanSource:
        """Return plans of the same lengths, seed and order, made from other settings.

        Raises:
            PlanMismatchError: If nothing can be planned from those.
        """
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

    def __getstate__(self) -> dict[str, Any]:
        """Go to another process: plans are made there."""
        return {"_planner": self._planner}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive."""
        self.__init__(state["_planner"])  # type: ignore[misc]

    @property
    def seed(self) -> int:
        """The planner's seed."""
        return operator.index(self._planner.seed)

    @property
    def fingerprint(self) -> str:
        """Hash of the planner's lengths."""
        return self._planner.fingerprint

    @property
    def lengths(self) -> LengthArray:
        """The planner's lengths."""
        return self._planner.lengths

    @property
    def num_samples(self) -> int:
        """How many there are."""
        return self._planner.num_samples

    @property
    def last(self) -> Last:
        """The planner's policy."""
        return self._planner.last

    @property
    def settings(self) -> dict[str, Any]:
        """Batching, if it is one of ours, and the rest that numbers of batches depend on."""
        planner = self._planner
        tokens = None if planner.step_tokens is None else int(planner.step_tokens)
        return {
            "batching": described(planner.batching),
            "step_tokens": tokens,
            "last": planner.last,
        }

    def rebuilt(self, settings: dict[str, Any] | None) -> PlanSource:
        """Return the source that a state of these settings was planned by.

        Where the settings do not say it all (a batching of the user's), it is this one: the hash of
        the plan decides.
        """
        if settings == self.settings or not settings or settings.get("batching") is None:
            return self
        try:
            planner = Planner(
                self._planner.lengths,
                batching=rebuilt(settings["batching"]),
                order=self._planner.order,
                seed=self._planner.seed,
                step_tokens=settings["step_tokens"],
                cost=self._planner.cost,
                last=settings["last"],
            )
        except PlanMismatchError:
            raise
        except (BatchwrightError, KeyError) as error:
            raise PlanMismatchError(
                f"the state was planned from {settings!r}, and these lengths cannot be: {error}"
            ) from error
        return PlannerSource(planner)

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

    def is_alike(self, plan: Plan) -> bool:
        """Say whether another epoch is the same plan."""
        return is_alike(self._for(plan.origin.world_size), plan)

    def _for(self, world_size: int) -> Planner:
        if world_size not in self._sized:
            self._sized[world_size] = self._planner.resized(world_size)
        return self._sized[world_size]


class FixedSource:
    """Gives one and the same plan for every epoch, split where ranks need equal counts."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._split: tuple[tuple[int, int], Plan] | None = None

    @property
    def seed(self) -> int:
        """The seed that the plan was made from."""
        return operator.index(self._plan.origin.seed)

    @property
    def fingerprint(self) -> str | None:
        """Hash of the lengths that the plan was made for."""
        return self._plan.origin.fingerprint

    @property
    def lengths(self) -> None:
        """A plan holds none."""
        return

    @property
    def num_samples(self) -> int | None:
        """How many lengths it was made for."""
        return self._plan.origin.num_samples

    @property
    def last(self) -> Last:
        """The policy that loses nothing: a plan does not know its planner's."""
        return "short"

    @property
    def settings(self) -> None:
        """A plan is what it is."""
        return

    def rebuilt(self, settings: dict[str, Any] | None) -> PlanSource:
        """Return this source: the hash of the plan decides."""
        return self

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
        if self._plan.origin.is_shard and world_size > 1:
            message = (
                "the plan is one rank's part of a plan already (plan.shard), and would be shared "
                f"again among {world_size} ranks: each would see a part of its part. Give every "
                "rank the whole plan; or, if each has its shard, rank=0, world_size=1."
            )
            raise PlanError(message)
        key = (world_size, accumulate)
        if self._split is None or self._split[0] != key:
            shared = share(self._plan, world_size, accumulate, epoch, last=self.last)
            if shared is None:
                message = (
                    f"a plan of {self._plan.indices.size} samples leaves nothing for "
                    f"{world_size} ranks × {accumulate} batches under last={self.last!r}. Use "
                    "fewer ranks, or another policy."
                )
                raise PlanError(message)
            self._split = (key, shared)
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
