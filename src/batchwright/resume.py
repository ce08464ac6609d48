"""Where a run is in an epoch, as a few integers, and what is left of the epoch from there.

An epoch has one *leg* for each number of ranks, or budget, that worked on it. The first leg is the
planner's plan. Each further leg is what the one before left over, split again into batches that
keep the present budget, in equal counts for the present ranks. So a position is, for every leg, how
many of its batches all ranks together consumed; the rest is computed from that, never replayed.
"""

import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from batchwright._states import fits, opened, sealed
from batchwright.batches import Arrays
from batchwright.constraints import difference
from batchwright.errors import PlanError
from batchwright.nodes import OnNodes
from batchwright.plan_source import PlanSource, kept
from batchwright.plans import Plan, replaced
from batchwright.refitting import Fit, refitted
from batchwright.sharding import share
from batchwright.typing import Field, Last, State
from batchwright.without import empties_a_batch, holds_none

if TYPE_CHECKING:
    from batchwright.stats.running import RunningFigures

STATE_VERSION = 2

_MOST_BATCHES = 1 << 24  # of an update: a state may come from a damaged file

_FIELDS: dict[str, Any] = {
    "epoch": int,
    "seed": Any,
    "fingerprint": Any,
    "settings": dict[str, Any] | None,
    "num_batches": int | None,
    "plan": str | None,
    "legs": tuple[Any, ...],
}


class Leg(NamedTuple):
    """The part of an epoch that one number of ranks went through, within one budget."""

    world_size: int
    accumulate: int
    consumed: int  # batches, by all ranks together
    last: Last = "short"  # how what the leg before left was shared
    fit: Fit | None = None  # what its batches keep, if that differs from the leg before

    def described(self) -> list[Field]:
        """Return the leg as JSON can keep it."""
        if self.fit is not None:
            return [*self[:4], self.fit.described()]
        return [*self[: 3 if self.last == "short" else 4]]


class Beginning(NamedTuple):
    """The plan that an epoch began with: what makes it again, its batches, and its hash."""

    source: PlanSource
    num_batches: int
    hashed: str

    def is_of(self, plan: Plan) -> bool:
        """Check whether this plan is it; earlier versions saved the digest of arrays."""
        if len(plan) != self.num_batches:
            return False
        is_same = self.hashed == self.source.hash_of(plan)
        return is_same or (isinstance(plan.batches, Arrays) and self.hashed == plan.digest())


@dataclass(frozen=True, eq=False)
class Position:
    """A place in an epoch: its legs so far, and the plan of the first; none at the beginning."""

    epoch: int
    legs: tuple[Leg, ...] = ()
    begun: Beginning | None = None

    def state(self, source: PlanSource) -> State:
        """Return the position as JSON can keep it; `source` makes the plans of the run."""
        plans = source if self.begun is None else self.begun.source
        fields = {
            "epoch": self.epoch,
            "seed": plans.seed,
            "fingerprint": plans.fingerprint,
            "settings": plans.settings,
            "num_batches": None if self.begun is None else self.begun.num_batches,
            "plan": None if self.begun is None else self.begun.hashed,
            "legs": [leg.described() for leg in self.legs],
        }
        return sealed(fields, version=STATE_VERSION)


@dataclass(frozen=True, eq=False)
class Course:
    """What is left of an epoch, as the ranks of one world share it."""

    epoch: int
    leg: Leg  # the present one, with what was consumed of its plan before
    plan: Plan | None  # the global plan of this leg; None: nothing was left for it
    source: PlanSource  # makes the plan that the epoch began with
    earlier: tuple[Leg, ...] = ()
    known: Beginning | None = None  # the plan that the epoch began with; None: it is `plan`

    @property
    def world_size(self) -> int:
        """Ranks."""
        return self.leg.world_size

    @property
    def start(self) -> int:
        """Batches of the plan that were consumed before."""
        return self.leg.consumed

    def __len__(self) -> int:
        """Count the batches that are left for each rank."""
        return 0 if self.plan is None else (len(self.plan) - self.start) // self.world_size

    @property
    def num_batches(self) -> int:
        """Each rank's batches of the epoch: those that were consumed, and those that are left."""
        done = sum(leg.consumed // leg.world_size for leg in (*self.earlier, self.leg))
        return done + len(self)

    @cached_property
    def begun(self) -> Beginning | None:
        """The plan that the epoch began with; hashed on demand."""
        if self.known is not None or self.plan is None:
            return self.known
        whole = self.plan
        if self.source.left_out.size:
            whole = self.source.plan(self.epoch, self.leg.world_size, self.leg.accumulate)
        return Beginning(self.source, len(whole), self.source.hash_of(whole))

    def running(self) -> "RunningFigures | None":
        """Return what measures the updates that are left. None: lengths are unknown."""
        from batchwright.stats.running import RunningFigures

        spread = None if self.plan is None else self.source.spread(self.plan)
        if self.plan is None or spread is None or self.source.lengths is None:
            return None
        update = self.leg.world_size * self.leg.accumulate
        place = {"update": update, "world_size": self.world_size, "start": self.start}
        return RunningFigures(self.plan, self.source.lengths, spread, **place)

    def after(self, consumed: int) -> Position:
        """Return the position once every rank has consumed that many batches of what is left."""
        try:
            batches = operator.index(consumed)
        except TypeError:
            batches = -1
        if not 0 <= batches <= len(self):
            raise PlanError(
                f"state_after({consumed!r}): this pass has {len(self)} batches for this rank. "
                "Count the batches that the loop consumed since it began."
            )
        done = self.start + batches * self.world_size
        # A leg of nothing is left out: who resumes there may plan or split again.
        legs = (*self.earlier, self.leg._replace(consumed=done)) if done else self.earlier
        return Position(self.epoch, legs, self.begun) if legs else Position(self.epoch)


def warn_of_repeated(epoch: int, *, stacklevel: int) -> None:
    """Warn that an epoch begins again, although a planner has others."""
    warnings.warn(
        f"epoch {epoch} is repeated, with the same batches. Call set_epoch(epoch) before each "
        "epoch; or, where the same batches are wanted, give one plan, planner(0), in place of the "
        "planner.",
        stacklevel=stacklevel + 1,
    )


def read_position(
    state: Mapping[str, Any], source: PlanSource, planned_by: PlanSource | None = None
) -> Position:
    """Check a state, perhaps out of JSON, against the plans of a run, and return its position.

    `planned_by` makes the plan that the state's epoch began with. None: found by the state itself.
    """
    fields = read_fields(state)
    epoch, num_batches, hashed = fields["epoch"], fields["num_batches"], fields["plan"]
    settings = fields["settings"]
    fit = all(fits(fields[name], _FIELDS[name]) for name in _FIELDS)
    if settings is not None:
        fit = fit and settings.keys() - {"constraints"} == {"batching", "step_tokens", "last"}
        fit = fit and isinstance(settings.get("constraints", {}), dict)
        fit = fit and isinstance(settings["batching"], dict | None)
    legs = _legs(fields["legs"]) if fit else None
    if legs is None or epoch < 0 or len({bool(legs), num_batches is not None, bool(hashed)}) > 1:
        raise PlanError(
            f"the state says epoch {epoch!r}, {num_batches!r} batches, legs {fields['legs']!r}; "
            "expected whole numbers, and legs of [world_size, accumulate, batches consumed by all "
            "ranks]. It was changed after it was saved."
        )
    plans = source if planned_by is None else planned_by
    for given, ours in (
        (fields["fingerprint"], plans.fingerprint),
        (plans.fingerprint, source.fingerprint),
    ):
        if given != ours:
            raise PlanError(
                f"the state was saved with other lengths (fingerprint {given}, now {ours}). Resume "
                "with the same data in the same order, or start over."
            )
    if fields["seed"] != plans.seed:
        raise PlanError(
            f"the state was saved with seed={fields['seed']!r}, now seed={plans.seed}. Use "
            f"{fields['seed']!r}, or load_state_dict(state, planned_by=Planner(…))."
        )
    if settings is not None and plans.settings is not None:  # of plans the hash decides
        saved, now = (each.get("constraints", {}) for each in (settings, plans.settings))
        if saved != now:
            raise PlanError(
                f"the state was saved with another {difference(saved, now)}: batches that keep "
                "other constraints cannot be made again. Use those of the run, or "
                "load_state_dict(state, planned_by=Planner(…))."
            )
    if not legs:
        return Position(epoch)
    if planned_by is None:
        plans = source.rebuilt(settings)
    return Position(epoch, legs, Beginning(plans, num_batches, hashed))


def read_fields(state: Mapping[str, Any]) -> State:
    """Check that a state is one, and return its fields."""
    return opened(
        state,
        _FIELDS,
        owner="PlanBatchSampler",
        version=STATE_VERSION,
        how="iter(sampler).state_dict() or sampler.state_after(…)",
    )


def _legs(given: list[Field]) -> tuple[Leg, ...] | None:
    """Read saved legs; None if they cannot be."""
    for number, each in enumerate(given):
        numbers, others = (each[:3], each[3:]) if isinstance(each, list) else ([], [])
        if (
            [type(count) for count in numbers] != [int] * 3
            or min(numbers) < 1
            or numbers[2] % numbers[0]
            or numbers[0] * numbers[1] > _MOST_BATCHES
            or len(others) > min(number, 1) * 2
            or (others and str(others[0]) not in get_args(Last))
        ):
            return None
    return tuple(Leg(*each[:4], *map(Fit.rebuilt, each[4:])) for each in given)


def chart(source: PlanSource, position: Position, world_size: int, *, warn: bool = False) -> Course:
    """Return what is left of an epoch, for the present ranks and budget.

    It is exactly what was not consumed, in the same global order, in equal counts for all ranks, in
    batches that keep the budget of `source`. With `warn`, some of it that has to come twice is
    warned about. Once the epoch is planned, O(1) for the ranks that were there before; for others
    O(b log b) with b batches.
    """
    epoch, legs, begun = position.epoch, position.legs, position.begun
    accumulate = source.accumulate(world_size)
    update = world_size * accumulate
    if begun is None:
        whole = kept(source, source.plan(epoch, world_size, accumulate), update)
        return Course(epoch, Leg(world_size, accumulate, 0), whole, source)
    plans = plans_of_legs(source, position)
    last, plan = legs[-1], plans[-1]
    fit = next((leg.fit for leg in reversed(legs) if leg.fit), Fit.of(plans[0]))
    wanted = fit
    if begun.source is not source or any(leg.fit for leg in legs):
        wanted = Fit.of(source.plan(epoch, world_size, accumulate))
    new = None if wanted == fit else wanted
    if new is None and (last.world_size, last.accumulate) == (world_size, accumulate):
        return Course(epoch, last, kept(source, plan, update), source, legs[:-1], begun)
    _refuse_moved(source, plan, last)
    leg = Leg(world_size, accumulate, 0, source.last, new)
    shared = None
    if last.consumed < len(plan):
        shared = _shared_again(source, plan[last.consumed :], leg, epoch, warn=warn)
        if shared is not None:
            is_over = holds_none(shared, source.left_out)
            shared = None if is_over else kept(source, shared, update)
    return Course(epoch, leg, shared, source, legs, begun)


def _refuse_moved(source: PlanSource, plan: Plan, leg: Leg) -> None:
    """Raise where a batch of the present update may have taken a sample of another.

    Other ranks share what is left of the whole plan, which does not know of that: the sample would
    be lost, or come twice.
    """
    update = leg.world_size * leg.accumulate
    begin = leg.consumed - leg.consumed % update
    if begin < leg.consumed and empties_a_batch(plan[begin : begin + update], source.left_out):
        raise PlanError(
            f"the state was saved inside an update, of which `without` leaves out a whole batch: "
            f"only world_size={leg.world_size}, accumulate={leg.accumulate} can go on from there. "
            "Resume with those, or from a state that was saved at the end of an update."
        )


def plans_of_legs(source: PlanSource, position: Position) -> list[Plan]:
    """Return the global plan that the ranks of each leg shared, whole."""
    epoch, legs, begun = position.epoch, position.legs, position.begun
    if begun is None:
        return []
    first = legs[0]
    began = begun.source.plan(epoch, first.world_size, first.accumulate, begun.num_batches)
    if not begun.is_of(began):
        raise PlanError(
            f"epoch {epoch} was planned as {begun.num_batches} batches (hash "
            f"{begun.hashed[:8]}) for world_size={first.world_size}, accumulate="
            f"{first.accumulate}; the same now gives {len(began)} (hash "
            f"{begun.source.hash_of(began)[:8]}). "
            "Resume with the order, cost, batching and version of batchwright that the run began "
            "with, or pass what planned it: "
            "load_state_dict(state, planned_by=Planner(…))."
        )
    plans = [_planned(began, first)]
    for leg, following in pairwise(legs):
        rest = _planned(plans[-1], leg, left=1)[leg.consumed :]
        plans.append(_planned(_shared_again(source, rest, following, epoch), following))
    return plans


def _planned(plan: Plan | None, leg: Leg, *, left: int = 0) -> Plan:
    """Return the plan of a leg; raise if it lacks the batches that were consumed and are left."""
    if plan is None or leg.consumed + left > len(plan):
        raise PlanError(
            f"the state says that {leg.world_size} ranks consumed {leg.consumed} batches where "
            f"there were {0 if plan is None else len(plan)}. It was changed after it was saved."
        )
    return plan


def _shared_again(
    source: PlanSource, rest: Plan, leg: Leg, epoch: int, *, warn: bool = False
) -> Plan | None:
    """Return what the ranks of a leg share of what is left."""
    if isinstance(rest.batches, OnNodes):  # along the line: each node goes on with its own shards
        ranks_per_node = rest.batches.ranks_per_node
        along = _shared_again(
            source, replaced(rest, batches=rest.batches.left()), leg, epoch, warn=warn
        )
        if along is None:
            return None
        line = along.batches
        return replaced(
            along, batches=OnNodes.of(line, leg.world_size, leg.accumulate, ranks_per_node)
        )
    fitted: Plan | None = rest
    if leg.fit is not None:
        if source.lengths is None:
            raise PlanError(
                "the rest of the epoch is to keep another budget, and a Plan holds no lengths for "
                "that. Resume with a sampler of a Planner."
            )
        fitted = refitted(rest, source.lengths, leg.fit)
    if fitted is None:
        return None
    return share(fitted, leg.world_size, leg.accumulate, epoch, last=leg.last, warn=warn)
