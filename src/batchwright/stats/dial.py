"""The mixing dial, priced: what each way to mix updates costs in padding, on the user's lengths."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from batchwright._checks import whole_number
from batchwright.batching import TokenBudget
from batchwright.errors import BudgetError, PlanError
from batchwright.lengths import Lengths
from batchwright.planner import Planner
from batchwright.stats.variety import variety
from batchwright.typing import IntoLengths

Mixing = Literal["stratified", "update"] | int

POSITIONS: tuple[Mixing, ...] = ("stratified", 64, 16, 4, "update")
"""From the least padding to updates with the same share of every length."""


@dataclass(frozen=True)
class DialPosition:
    """One position of the dial."""

    mixing: Mixing  # the setting of `TokenBudget`
    accumulate: int  # batches of an update on each rank
    num_batches: int  # of an epoch
    efficiency: float  # real over padded tokens, mean of a few epochs
    dispersion: float  # how unlike updates are, mean of a few epochs: 1 is a shuffle, less is even
    # Distinct samples that share a batch with a sample over 8 epochs, relative to a shuffle.
    variety: float | None = None


def mixing_dial(
    lengths: IntoLengths,
    batching: TokenBudget,
    *,
    world_size: int = 1,
    accumulate: int | None = None,
    step_tokens: int | None = None,
    seed: int = 0,
    epochs: int = 3,
    positions: Sequence[Mixing] = POSITIONS,
) -> tuple[DialPosition, ...]:
    """Plan a few epochs at each position of the dial, and say what each is worth.

    Settings are those of `Planner`; with both `accumulate` and `step_tokens`, an update of about so
    many tokens is cut into so many batches. The figures are means over the first `epochs`. The
    `mixing` of the batching does not matter. Positions that need more samples than there are are
    left out.

    Raises:
        BudgetError: If `batching` is no `TokenBudget`, or no epoch is asked for.

    Example:
        >>> lengths = np.random.default_rng(0).integers(1, 60, 400)
        >>> first, *_, last = mixing_dial(lengths, TokenBudget(200), accumulate=8)
        >>> first.efficiency > last.efficiency, round(last.dispersion, 1)
        (True, 0.0)
    """
    if not isinstance(batching, TokenBudget):
        raise BudgetError(
            f"mixing_dial of {batching!r:.60}: expected TokenBudget(…), whose batches can be mixed."
        )
    epochs = whole_number("mixing_dial", "epochs", epochs)
    if not isinstance(positions, Sequence) or isinstance(positions, str):
        raise BudgetError(
            f"mixing_dial(positions={positions!r:.60}): expected a list of settings of mixing."
        )
    found, checked = [], Lengths.of(lengths)
    for mixing in positions:
        slack = batching.slack if mixing == "stratified" else 0.0
        try:
            planner = Planner(
                checked,
                batching=dataclasses.replace(batching, mixing=mixing, slack=slack),
                seed=seed,
                world_size=world_size,
                accumulate=accumulate if step_tokens is None else None,
                step_tokens=step_tokens,
                last="repeat",  # a price has no use for a warning
            )
            if step_tokens is not None and accumulate is not None:
                planner = planner.resized(world_size, accumulate)
        except PlanError:
            continue
        stats = [planner(epoch).stats(checked) for epoch in range(epochs)]
        found.append(
            DialPosition(
                mixing,
                planner.accumulate,
                len(planner),
                float(np.mean([each.efficiency for each in stats])),
                float(np.mean([each.dispersion for each in stats])),
                variety(planner).batch,
            )
        )
    return tuple(found)
