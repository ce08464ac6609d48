"""Which samples an update of an epoch had, or will have, from a saved state alone."""

from __future__ import annotations

from dataclasses import dataclass

from batchwright.errors import PlanError
from batchwright.plan_source import PlanSource
from batchwright.plans import Plan
from batchwright.resume import Leg, Position, plans_of_legs
from batchwright.typing import State


@dataclass(frozen=True)
class Traced:
    """One update of an epoch that several numbers of ranks may have worked on."""

    epoch: int
    update: int  # from 0, over all legs
    num_updates: int  # if the ranks of the last leg go on to the end
    num_done: int  # before the state
    leg: Leg  # whose update it is
    plan: Plan  # its batches: batch `i` is of rank ``i % leg.world_size``

    @classmethod
    def of(cls, source: PlanSource, position: Position, update: int) -> Traced:
        """Find an update by its number from 0; below 0 back from the position.

        An update that a leg did not finish counts as one of it, and as not done in the last.

        Raises:
            PlanError: If the epoch has no such update.
        """
        legs, plans = position.legs, plans_of_legs(source, position)
        sizes = [leg.world_size * leg.accumulate for leg in legs]
        counts = [-(-leg.consumed // size) for leg, size in zip(legs, sizes, strict=True)]
        done = sum(counts[:-1]) + legs[-1].consumed // sizes[-1]
        counts[-1] = -(-len(plans[-1]) // sizes[-1])
        number = update if update >= 0 else done + update
        if not 0 <= number < sum(counts):
            raise PlanError(
                f"update {update}: epoch {position.epoch} has updates 0 to {sum(counts) - 1}, "
                f"{done} of which were done: expected one of these, or -{done} to -1."
            )
        before, place = 0, number
        while place >= counts[before]:
            place -= counts[before]
            before += 1
        leg, size = legs[before], sizes[before]
        end = len(plans[before]) if before == len(legs) - 1 else leg.consumed
        batches = plans[before][place * size : min(place * size + size, end)]
        return cls(position.epoch, number, sum(counts), done, leg, batches)

    def described(self, rank: int | None = None) -> State:
        """Return the update as JSON can keep it: all of its batches, or those of one rank."""
        batches = []
        for number in range(len(self.plan)):
            own, (samples, starts) = number % self.leg.world_size, self.plan.entries(number)
            if rank in {None, own}:
                more = {} if starts is None else {"starts": starts.tolist()}
                batches.append({"rank": own, "samples": samples.tolist()} | more)
        return {
            "epoch": self.epoch,
            "update": self.update,
            "num_updates": self.num_updates,
            "num_done": self.num_done,
            "world_size": self.leg.world_size,
            "accumulate": self.leg.accumulate,
            "batches": batches,
        }
