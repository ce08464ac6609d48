"""Batches that were planned for one budget, changed to keep another."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from batchwright.batches import Arrays
from batchwright.errors import BudgetError, PlanError
from batchwright.layout import Layout, Padded, layout_of
from batchwright.plans import Plan, has_pieces, lengths_of_entries, replaced
from batchwright.typing import LengthArray, State

_MOST_PARTS = 16
"""Parts that a piece of a sample may be cut into, at most."""


@dataclass(frozen=True)
class Fit:
    """What batches have to keep."""

    layout: Layout  # the shape of a batch, and the budget
    # Whether samples longer than ``layout.max_length`` are split into pieces of it. Else they
    # are cut to it.
    splits: bool

    @classmethod
    def of(cls, plan: Plan) -> "Fit":
        """Return what the batches of a plan keep."""
        return cls(plan.layout, has_pieces(plan))

    def described(self) -> State:
        """Return the settings that differ from their defaults, for JSON."""
        bare = Padded().described()
        settings = self.layout.described().items()
        return {"splits": self.splits} | {k: v for k, v in settings if v != bare[k]}

    @classmethod
    def rebuilt(cls, description: State) -> "Fit":
        """Make one of what `described` returned."""
        try:
            settings = dict(description)
            splits = settings.pop("splits")
            for name in ("caps", "shapes", "max_length"):
                if isinstance(settings.get(name), list):
                    settings[name] = _tuples(settings[name])
            fit = cls(layout_of(**settings), splits)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PlanError(f"the state has no valid budget: {description!r} ({error}).") from error
        if type(splits) is not bool:
            raise PlanError(f"the state says splits={splits!r}, expected true or false.")
        return fit


def refitted(plan: Plan, lengths: LengthArray, fit: Fit) -> Plan | None:
    """Make the batches of a plan keep another budget.

    Batches that do not fit are halved until they do, between groups that stay together. Samples
    and groups that do not fit alone are left out, and listed in ``dropped["oversize"]``. Pieces of
    samples are cut further.

    Returns:
        A plan of the same samples in the same sequence. None: no sample is left. O(m log m).

    Example:
        >>> plan = Plan(np.arange(4), np.array([0, 4]))
        >>> [b.tolist() for b in refitted(plan, np.full(4, 5), Fit(Padded(10), False))]
        [[0, 1], [2, 3]]
    """
    pieces = _pieces(plan, lengths, fit)
    arrays, entries = pieces.batches.arrays(), lengths_of_entries(pieces, lengths)
    if arrays.groups is None:
        long = ~fit.layout.fits(entries)
    else:
        units = arrays.units()
        long = np.repeat(fit.layout.too_large(entries, units), np.diff(units))
    if long.any():
        gone = np.unique(pieces.indices[long])
        kept = _without(pieces, long)
        if kept is None:
            return None
        dropped = np.union1d(pieces.dropped.get("oversize", gone[:0]), gone)
        pieces = replaced(kept, dropped={**pieces.dropped, "oversize": dropped})
        arrays, entries = pieces.batches.arrays(), lengths_of_entries(pieces, lengths)
    units = arrays.units()
    offsets = np.searchsorted(units, arrays.offsets)
    while (large := fit.layout.too_large(entries, units[offsets]) & (np.diff(offsets) > 1)).any():
        chosen = np.flatnonzero(large)
        middles = (offsets[chosen] + offsets[chosen + 1]) >> 1
        offsets = np.insert(offsets, chosen + 1, middles)
    return replaced(pieces, batches=dataclasses.replace(arrays, offsets=units[offsets]))


def _pieces(plan: Plan, lengths: LengthArray, fit: Fit) -> Plan:
    """Make every entry whole, cut, or several pieces, as the new budget has it."""
    layout = fit.layout
    if plan.starts is None and not fit.splits:
        return replaced(plan, layout=layout)
    if plan.starts is None:
        size = layout.max_length
        starts = np.zeros(plan.indices.size, dtype=np.int64)
        ends = lengths[plan.indices].astype(np.int64)
    else:
        size = _part_size(plan.layout.max_length, layout.longest_row)
        starts, ends = plan.starts, lengths[plan.indices].astype(np.int64)
        ends = np.minimum(ends, starts + int(plan.layout.max_length))  # type: ignore[arg-type]
    if not isinstance(size, int):  # of several columns nothing is split
        return replaced(plan, layout=layout)
    parts = -(-(ends - starts) // size)
    before = np.concatenate(([0], np.cumsum(parts)))
    nth = np.arange(before[-1]) - np.repeat(before[:-1], parts)
    return replaced(
        plan,
        batches=Arrays(
            np.repeat(plan.indices, parts),
            before[plan.offsets],
            np.repeat(starts, parts) + nth * size,
        ),
        layout=dataclasses.replace(layout, max_length=size),
    )


def _part_size(size: object, limit: int | None) -> int:
    """Return the length of the largest equal parts of a piece that fit."""
    if not isinstance(size, int):
        raise PlanError(f"pieces of {size!r} tokens cannot be read.")
    if limit is None or size <= limit:
        return size
    for parts in range(-(-size // limit), _MOST_PARTS + 1):
        if size % parts == 0:
            return size // parts
    raise BudgetError(
        f"samples were split into pieces of {size} tokens, some of which are seen; no equal parts "
        f"of those fit into {limit}. Resume with a budget that divides {size}, such as "
        f"{size // 2}, or begin the next epoch with this one."
    )


def _without(plan: Plan, gone: npt.NDArray[np.bool_]) -> Plan | None:
    if gone.all():
        return None
    kept = np.concatenate(([0], np.cumsum(~gone)))
    offsets = np.unique(kept[plan.offsets])
    batches = plan.batches.arrays().of_entries(np.flatnonzero(~gone), offsets)
    return replaced(plan, batches=batches)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
