"""Where a run is in an epoch, in a few integers, and what is left of the epoch from there.

An epoch may be walked in several *legs*, one for each number of ranks, or budget, that worked on
it. The first leg is the planner's plan. Each further leg is what the one before it left over, split
again: to batches that keep the budget there is now, in equal counts for the ranks that are there
now. So a position is, for every leg, how many of its batches all ranks together consumed; from that
the rest is computed, never replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

from batchwright._states import opened, sealed
from batchwright.errors import PlanMismatchError
from batchwright.plans import Plan
from batchwright.refitting import Fit, refitted
from batchwright.sharding import share
from batchwright.torch.data.plan_source import PlanSource
from batchwright.typing import FloatArray, Last

STATE_VERSION = 2

_MOST_BATCHES = 1 << 24  # of an update: a state may come from a damaged file

_OWNER, _HOW = "PlanBatchSampler", "iter(sampler).state_dict() or sampler.state_after(…)"
_NAMES = ("epoch", "seed", "fingerprint", "settings", "num_batches", "plan", "legs")


class Leg(NamedTuple):
    """The part of an epoch that was walked by one number of ranks, within one budget.

    Attributes:
        world_size: Ranks.
        accumulate: Batches of an update on each rank.
        consumed: Batches consumed in this leg, by all ranks together.
        last: How what the leg before it left was shared, where samples did not suffice.
        fit: What its batches keep, if that is not what those of the leg before it do.
    """

    world_size: int
    accumulate: int
    consumed: int
    last: Last = "short"
    fit: Fit | None = None

    def described(self) -> list[Any]:
        """Write the leg down as JSON can keep it."""
        numbers = [self.world_size, self.accumulate, self.consumed]
        if self.fit is not None:
            return [*numbers, self.last, self.fit.described()]
        return numbers if self.last == "short" else [*numbers, self.last]


@dataclass(frozen=True, eq=False)
class Beginning:
    """The plan that an epoch began with.

    Attributes:
        source: Makes the plan again.
        num_batches: Its batches.
        digest: Its hash.
    """

    source: PlanSource
    num_batches: int
    digest: str


@dataclass(frozen=True, eq=False)
class Position:
    """A place in an epoch.

    Attributes:
        epoch: The epoch.
        legs: What was walked of it; none is the epoch's beginning.
        begun: The plan of the first leg. None at the beginning.
    """

    epoch: int
    legs: tuple[Leg, ...] = ()
    begun: Beginning | None = None

    def state(self, source: PlanSource) -> dict[str, Any]:
        """Write the position down, as JSON can keep it.

        Args:
            source: The plans of the run; those that the epoch began with may be others.
        """
        plans = source if self.begun is None else self.begun.source
        fields = {
            "epoch": self.epoch,
            "seed": plans.seed,
            "fingerprint": plans.fingerprint,
            "settings": plans.settings,
            "num_batches": None if self.begun is None else self.begun.num_batches,
            "plan": None if self.begun is None else self.begun.digest,
            "legs": [leg.described() for leg in self.legs],
        }
        return sealed(fields, version=STATE_VERSION)


@dataclass(frozen=True, eq=False)
class Course:
    """What is left of an epoch, as the ranks of one world share it.

    Attributes:
        epoch: The epoch.
        world_size: Ranks.
        accumulate: Batches of an update on each rank.
        plan: The global plan of this leg. None: nothing was left for it.
        start: Batches of `plan` that were consumed before.
        earlier: The legs before this one.
        source: Makes the plan that the epoch began with.
        known: That plan. None: it is `plan`.
        last: How what the leg before left was shared.
        fit: What the batches keep, if that is not what those of the leg before do.
    """

    epoch: int
    world_size: int
    accumulate: int
    plan: Plan | None
    start: int
    earlier: tuple[Leg, ...]
    source: PlanSource
    known: Beginning | None = None
    last: Last = "short"
    fit: Fit | None = None

    def __len__(self) -> int:
        """Count the batches that are left for each rank."""
        return 0 if self.plan is None else (len(self.plan) - self.start) // self.world_size

    @cached_property
    def begun(self) -> Beginning:
        """The plan that the epoch began with; hashed when somebody asks."""
        if self.known is not None or self.plan is None:
            return self.known  # type: ignore[return-value]
        return Beginning(self.source, len(self.plan), self.plan.digest())

    def weight(
        self, first: int, count: int, sample_weights: FloatArray, *, rank: int | None = None
    ) -> float:
        """Sum the weights of samples in some batches of what is left.

        Args:
            first: Batches of each rank that come before.
            count: Batches of each rank to sum over.
            sample_weights: float64[n], of each sample of the data.
            rank: Sum over this rank's only. None: over all, the same sum on every rank.

        Returns:
            The sum. O(samples in those batches).
        """
        if self.plan is None:
            return 0.0
        start = self.start + first * self.world_size
        stop = start + count * self.world_size
        batches = (
            self.plan[start:stop]
            if rank is None
            else self.plan[start + rank : stop : self.world_size]
        )
        return float(sample_weights[batches.indices].sum())

    def after(self, consumed: int) -> Position:
        """Return the position once every rank has consumed that many batches of what is left."""
        done = self.start + consumed * self.world_size
        leg = Leg(self.world_size, self.accumulate, done, self.last, self.fit)
        # A leg of nothing is none: whoever resumes there may as well plan or split anew.
        legs = (*self.earlier, leg) if leg.consumed else self.earlier
        return Position(self.epoch, legs, self.begun) if legs else Position(self.epoch)


def read_position(
    state: Mapping[str, Any], source: PlanSource, planned_by: PlanSource | None = None
) -> Position:
    """Check a state against the plans it is to be used with.

    Args:
        state: What `Position.state` wrote, perhaps by way of JSON.
        source: The plans.
        planned_by: The plans that the state's epoch began with. None: they are found by what the
            state says of them.

    Returns:
        The position in it. The plan that the epoch began with is not made yet.

    Raises:
        PlanMismatchError: If it is no state, of another format, or of other lengths or another
            seed, or if it was planned in a way that it cannot tell.
    """
    fields = opened(state, _NAMES, owner=_OWNER, version=STATE_VERSION, how=_HOW)
    epoch, legs = fields["epoch"], _legs(fields["legs"])
    num_batches, digest = fields["num_batches"], fields["plan"]
    has_begun = bool(legs)
    if (
        not _is_count(epoch)
        or not _are_settings(fields["settings"])
        or has_begun != (num_batches is not None)
        or (has_begun and not (_is_count(num_batches) and isinstance(digest, str)))
    ):
        raise _changed(f"epoch {epoch!r}, {num_batches!r} batches, legs {fields['legs']!r}")
    plans = source if planned_by is None else planned_by
    for name in ("fingerprint", "seed"):
        given, ours = fields[name], getattr(plans, name)
        if given != ours:
            raise _of_others(name, given, ours)
    if source.fingerprint != plans.fingerprint:
        raise _of_others("fingerprint", plans.fingerprint, source.fingerprint)
    if not has_begun:
        return Position(epoch)
    if planned_by is None:
        plans = source.rebuilt(fields["settings"])
    return Position(epoch, legs, Beginning(plans, num_batches, digest))


def first_plan(position: Position) -> Plan:
    """Make the plan again in which a position's first leg is counted.

    Raises:
        PlanMismatchError: If it comes out as another one than when the state was saved.
    """
    first, begun = position.legs[0], position.begun
    assert begun is not None  # noqa: S101 (legs have a plan)
    plan = begun.source.plan(position.epoch, first.world_size, first.accumulate, begun.num_batches)
    if len(plan) != begun.num_batches or plan.digest() != begun.digest:
        message = (
            f"epoch {position.epoch} was planned as {begun.num_batches} batches (digest "
            f"{begun.digest[:8]}) for world_size={first.world_size}, accumulate="
            f"{first.accumulate}; the same now gives {len(plan)} (digest {plan.digest()[:8]}). "
            "Resume with the order, cost and batching that the run began with; to go on with "
            "others, say what it began with: load_state_dict(state, planned_by=Planner(…)); or "
            f"begin the next epoch: set_epoch({position.epoch + 1})."
        )
        raise PlanMismatchError(message)
    return plan


def chart(source: PlanSource, position: Position, world_size: int, *, warn: bool = False) -> Course:
    """Find what is left of an epoch, for the ranks and the budget that are there now.

    Guarantees that what is left is exactly what was not consumed, in the same global sequence,
    in equal counts for all ranks, in batches that keep the budget of `source`.

    Args:
        source: The plans.
        position: Where the run is.
        world_size: Ranks now.
        warn: Whether to warn where ranks can only share what is left if some of it comes twice.

    Returns:
        The course. Once the epoch is planned, a matter of integers for the ranks that were there
        before; for others O(b log b) with b batches.

    Raises:
        PlanMismatchError: If the position is not one of these plans.
        BudgetError: If pieces of samples cannot be cut to the new budget.
    """
    epoch, legs, begun = position.epoch, position.legs, position.begun
    accumulate = source.accumulate(world_size)
    if begun is None:
        whole = source.plan(epoch, world_size, accumulate)
        return Course(epoch, world_size, accumulate, whole, 0, (), source)
    plan: Plan | None = first_plan(position)
    fit = Fit.of(plan)  # type: ignore[arg-type]
    for leg, following in pairwise(legs):
        plan = _shared_again(source, left_of(plan, leg), following, epoch)
        fit = following.fit or fit
    last = legs[-1]
    plan, start = _from(plan, last), last.consumed
    wanted = _wanted(source, position, fit, world_size)
    new = None if wanted == fit else wanted
    if new is None and (last.world_size, last.accumulate) == (world_size, accumulate):
        shares = (epoch, world_size, accumulate)
        return Course(*shares, plan, start, legs[:-1], source, begun, last.last, last.fit)
    leg = Leg(world_size, accumulate, 0, source.last, new)
    rest = None
    if plan is not None and start < len(plan):
        rest = _shared_again(source, plan[start:], leg, epoch, warn=warn)
    return Course(epoch, world_size, accumulate, rest, 0, legs, source, begun, leg.last, new)


def left_of(plan: Plan | None, leg: Leg) -> Plan:
    """Return the batches of a leg's plan that were not consumed: at least one.

    Raises:
        PlanMismatchError: If none is left.
    """
    if plan is None or leg.consumed >= len(plan):
        raise _consumed(plan, leg)
    return plan[leg.consumed :]


def _from(plan: Plan | None, leg: Leg) -> Plan | None:
    if leg.consumed > (0 if plan is None else len(plan)):
        raise _consumed(plan, leg)
    return plan


def _wanted(source: PlanSource, position: Position, fit: Fit, world_size: int) -> Fit:
    """Return what batches have to keep now; nothing is planned where that is plain."""
    begun = position.begun
    if begun is None or (begun.source is source and not any(leg.fit for leg in position.legs)):
        return fit
    return Fit.of(source.plan(position.epoch, world_size, source.accumulate(world_size)))


def _shared_again(
    source: PlanSource, rest: Plan, leg: Leg, epoch: int, *, warn: bool = False
) -> Plan | None:
    """Make of what is left what the ranks of the next leg share."""
    if leg.fit is not None:
        if source.lengths is None:
            raise PlanMismatchError(
                "the rest of the epoch is to keep another budget, and a Plan holds no lengths to "
                "go by. Resume with a sampler of a Planner."
            )
        fitted = refitted(rest, source.lengths, leg.fit)
        if fitted is None:
            return None
        rest = fitted
    return share(rest, leg.world_size, leg.accumulate, epoch, last=leg.last, warn=warn)


def _legs(given: object) -> tuple[Leg, ...]:
    legs: list[Leg] = []
    for each in given if isinstance(given, list) else [None]:
        entries: list[Any] = each if isinstance(each, list) else []
        numbers = entries[:3]
        if (
            not 3 <= len(entries) <= 5
            or not all(map(_is_count, numbers))
            or not min(numbers)
            or numbers[2] % numbers[0]
            or numbers[0] * numbers[1] > _MOST_BATCHES
            or not {*map(str, entries[3:4])} <= {"short", "drop", "repeat"}
            or (len(entries) > 3 and not legs)
        ):
            raise _changed(f"legs {given!r}")
        legs.append(Leg(*numbers, *entries[3:4], *map(Fit.rebuilt, entries[4:])))
    return tuple(legs)


def _are_settings(given: object) -> bool:
    if not isinstance(given, dict):
        return given is None
    batching = given.get("batching")
    return set(given) == {"batching", "step_tokens", "last"} and (
        batching is None or isinstance(batching, dict)
    )


def _is_count(number: object) -> bool:
    return type(number) is int and number >= 0


def _of_others(name: str, given: object, ours: object) -> PlanMismatchError:
    if name == "seed":
        return PlanMismatchError(
            f"the state was saved with seed={given!r}, now seed={ours}. Use {given!r}, or say what "
            "the run began with: load_state_dict(state, planned_by=Planner(…))."
        )
    return PlanMismatchError(
        f"the state was saved with other lengths (fingerprint {given}, now {ours}). Resume with "
        "the same data in the same order, or begin anew."
    )


def _changed(what: str) -> PlanMismatchError:
    return PlanMismatchError(
        f"the state says {what}; expected whole numbers, and legs of [world_size, accumulate, "
        "batches consumed by all ranks]. It was changed after it was saved."
    )


def _consumed(plan: Plan | None, leg: Leg) -> PlanMismatchError:
    return PlanMismatchError(
        f"the state says that {leg.world_size} ranks consumed {leg.consumed} batches where there "
        f"were {0 if plan is None else len(plan)}. It was changed after it was saved."
    )
