"""Where a run is in an epoch, in a few integers, and what is left of the epoch from there.

An epoch may be walked in several *legs*, one for each number of ranks that worked on it. The first
leg is the planner's plan. Each further leg is what the one before it left over, split again to
equal counts for the ranks that are there now. So a position is, for every leg, how many of its
batches all ranks together consumed; from that the rest is computed, never replayed.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from batchwright.errors import PlanError, PlanMismatchError
from batchwright.plans import Plan
from batchwright.sharding import equalize
from batchwright.torch.plan_source import PlanSource
from batchwright.typing import FloatArray

STATE_VERSION = 1

_PROBES = 4096  # entries of each array in the checksum: tens of microseconds, whatever the plan


class Leg(NamedTuple):
    """The part of an epoch that was walked by one number of ranks.

    Attributes:
        world_size: Ranks.
        accumulate: Batches of an update on each rank.
        consumed: Batches consumed in this leg, by all ranks together.
    """

    world_size: int
    accumulate: int
    consumed: int


@dataclass(frozen=True)
class Position:
    """A place in an epoch.

    Attributes:
        epoch: The epoch.
        legs: What was walked of it; none is the epoch's beginning.
        num_batches: Batches of the first leg's plan. None at the beginning.
        checksum: Of the first leg's plan. None at the beginning.
    """

    epoch: int
    legs: tuple[Leg, ...] = ()
    num_batches: int | None = None
    checksum: str | None = None

    def state(self, source: PlanSource) -> dict[str, Any]:
        """Write the position down, as JSON can keep it."""
        return {
            "version": STATE_VERSION,
            "epoch": self.epoch,
            "legs": [list(leg) for leg in self.legs],
            "seed": source.seed,
            "fingerprint": source.fingerprint,
            "num_batches": self.num_batches,
            "checksum": self.checksum,
        }


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
        num_batches: Batches of the first leg's plan.
        checksum: Of the first leg's plan.
    """

    epoch: int
    world_size: int
    accumulate: int
    plan: Plan | None
    start: int
    earlier: tuple[Leg, ...]
    num_batches: int
    checksum: str

    def __len__(self) -> int:
        """Count the batches that are left for each rank."""
        return 0 if self.plan is None else (len(self.plan) - self.start) // self.world_size

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
        leg = Leg(self.world_size, self.accumulate, self.start + consumed * self.world_size)
        # A leg of nothing is none: whoever resumes there may as well plan or split anew.
        legs = (*self.earlier, leg) if leg.consumed else self.earlier
        if not legs:
            return Position(self.epoch)
        return Position(self.epoch, legs, self.num_batches, self.checksum)


def read_position(state: Mapping[str, Any], source: PlanSource) -> Position:
    """Check a state against the plans it is to be used with.

    Args:
        state: What `Position.state` wrote, perhaps by way of JSON.
        source: The plans.

    Returns:
        The position in it.

    Raises:
        PlanMismatchError: If it is no state, of another format, or of other lengths or another
            seed.
    """
    try:
        version, epoch, legs = state["version"], state["epoch"], state["legs"]
        seed, fingerprint = state["seed"], state["fingerprint"]
        position = Position(
            epoch, tuple(Leg(*leg) for leg in legs), state["num_batches"], state["checksum"]
        )
    except (TypeError, KeyError) as error:
        message = (
            f"not a state of PlanBatchSampler ({type(error).__name__}: {error}). Load what "
            "iter(sampler).state_dict() or sampler.state_after(…) returned."
        )
        raise PlanMismatchError(message) from error
    if version != STATE_VERSION:
        message = (
            f"the state has format {version!r}, this version reads {STATE_VERSION}. Resume with "
            "the version of batchwright that saved it."
        )
        raise PlanMismatchError(message)
    numbers = [epoch, *(number for leg in position.legs for number in leg)]
    if not all(type(number) is int and number >= 0 for number in numbers) or not all(
        min(leg) > 0 and leg.consumed % leg.world_size == 0 for leg in position.legs
    ):
        message = (
            f"the state says epoch {epoch!r}, legs {legs!r}; expected [world_size, accumulate, "
            "batches consumed by all ranks], whole numbers. It was changed after it was saved."
        )
        raise PlanMismatchError(message)
    if fingerprint != source.fingerprint:
        message = (
            f"the state was saved with other lengths (fingerprint {fingerprint}, now "
            f"{source.fingerprint}). Resume with the same data in the same order, or begin anew."
        )
        raise PlanMismatchError(message)
    if seed != source.seed:
        message = f"the state was saved with seed={seed!r}, now seed={source.seed}. Use {seed!r}."
        raise PlanMismatchError(message)
    return position


def first_plan(source: PlanSource, position: Position) -> Plan:
    """Make the plan again in which a position's first leg is counted.

    Raises:
        PlanMismatchError: If it comes out as another one than when the state was saved.
    """
    first = position.legs[0]
    plan = source.plan(position.epoch, first.world_size, first.accumulate, position.num_batches)
    if len(plan) != position.num_batches or checksum(plan) != position.checksum:
        message = (
            f"epoch {position.epoch} was planned as {position.num_batches} batches (checksum "
            f"{position.checksum}) for world_size={first.world_size}, accumulate="
            f"{first.accumulate}; the same now gives {len(plan)} (checksum {checksum(plan)}). "
            "Resume with the batching, order, cost and step_tokens that the run began with, or "
            f"begin the next epoch: set_epoch({position.epoch + 1})."
        )
        raise PlanMismatchError(message)
    return plan


def chart(source: PlanSource, position: Position, world_size: int) -> Course:
    """Find what is left of an epoch, for the ranks that are there now.

    Guarantees that what is left is exactly what was not consumed, in the same global sequence,
    in equal counts for all ranks.

    Args:
        source: The plans.
        position: Where the run is.
        world_size: Ranks now.

    Returns:
        The course. Once the epoch is planned, a matter of integers for the ranks that were there
        before; for others O(b log b) with b batches.

    Raises:
        PlanMismatchError: If the position is not one of these plans.
        PlanError: If fewer samples are left than the ranks need.
    """
    epoch, legs = position.epoch, position.legs
    accumulate = source.accumulate(world_size)
    if not legs:
        plan = source.plan(epoch, world_size, accumulate)
        return Course(epoch, world_size, accumulate, plan, 0, (), len(plan), checksum(plan))
    plan = first_plan(source, position)
    num_batches, hashed = len(plan), checksum(plan)
    for leg, following in pairwise(legs):
        plan = share(left_of(plan, leg), following.world_size, following.accumulate, epoch)
    last = legs[-1]
    here: Plan | None = plan
    earlier, start = legs[:-1], last.consumed
    if start > len(plan):
        raise _changed(plan, last)
    if (last.world_size, last.accumulate) != (world_size, accumulate):
        here = (
            share(left_of(plan, last), world_size, accumulate, epoch) if start < len(plan) else None
        )
        earlier, start = legs, 0
    return Course(epoch, world_size, accumulate, here, start, earlier, num_batches, hashed)


def left_of(plan: Plan, leg: Leg) -> Plan:
    """Return the batches of a leg's plan that were not consumed: at least one.

    Raises:
        PlanMismatchError: If none is left.
    """
    if leg.consumed >= len(plan):
        raise _changed(plan, leg)
    return plan[leg.consumed :]


def share(rest: Plan, world_size: int, accumulate: int, epoch: int) -> Plan:
    """Split what is left of an epoch so that all ranks get the same number of batches.

    Where too few samples are left for whole updates, the last update is a short one.

    Args:
        rest: The batches that are left.
        world_size: Ranks.
        accumulate: Batches of an update on each rank.
        epoch: The epoch that they are left of.

    Returns:
        The same samples in the same sequence; no batch is larger than it was.

    Raises:
        PlanError: If there are too few samples even for one batch a rank.
    """
    for multiple in (world_size * accumulate, world_size):
        if -(-len(rest) // multiple) * multiple <= rest.indices.size:
            return equalize(rest, multiple_of=multiple)
    message = (
        f"{rest.indices.size} samples in {len(rest)} batches are left of epoch {epoch}: "
        f"{world_size} ranks cannot share them equally without losing or repeating some. Resume "
        f"with a number of ranks that divides {len(rest)}, or leave them out: "
        f"set_epoch({epoch + 1})."
    )
    raise PlanError(message)


def checksum(plan: Plan) -> str:
    """Hash a plan's size and some thousand entries spread over it.

    Enough to tell plans of other settings apart, which differ nearly everywhere; quick enough
    to be asked at every resume.
    """
    digest = hashlib.sha256(f"{len(plan)}:{plan.indices.size}:".encode())
    for array in (plan.indices, plan.offsets, plan.starts):
        if array is not None:
            step = -(-array.size // _PROBES)
            digest.update(array[::step].astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _changed(plan: Plan, leg: Leg) -> PlanMismatchError:
    return PlanMismatchError(
        f"the state says that {leg.world_size} ranks consumed {leg.consumed} batches where there "
        f"were {len(plan)}. It was changed after it was saved."
    )
