"""The shapes that batches take, and what they cost each rank."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from batchwright.plans import Plan
from batchwright.stats.lengths import logarithmic_edges
from batchwright.typing import FloatArray, IntArray, IntoLengths
from batchwright.updates import rank_imbalance

POINTS = 120
"""The most points of the curve; of more steps, several share a point."""

RANKS = 16
"""The most ranks that are listed."""


@dataclass(frozen=True)
class CostCurve:
    """Costs of a rank over an epoch, a point for each step or several."""

    step: tuple[int, ...]  # the first step of each point
    mean: tuple[float, ...]  # over the ranks and the steps of the point
    least: tuple[int, ...]  # of them
    most: tuple[int, ...]  # of them


@dataclass(frozen=True)
class StepCosts:
    """What steps cost, in padded tokens of a rank; the fields are the ``--json`` keys."""

    world_size: int
    accumulate: int
    num_steps: int
    least: int  # of a rank in a step
    mean: float
    most: int
    slowest_over_mean: float  # `PlanStats.imbalance_padded`
    waiting: float  # share of all ranks' time that is spent waiting, if time follows tokens
    per_rank: tuple[int, ...] | None  # of the epoch; None: more than `RANKS`
    steps_a_point: int  # of the curve
    curve: CostCurve


def step_costs(plan: Plan, lengths: IntoLengths) -> StepCosts:
    """Sum up what steps cost each rank. O(m).

    Example:
        >>> import batchwright as bw
        >>> plan = bw.plan([5, 5, 5, 5], batching=bw.FixedSize(1), world_size=2)
        >>> costs = step_costs(plan, [5, 5, 5, 5])
        >>> costs.num_steps, costs.mean, costs.per_rank, costs.slowest_over_mean
        (2, 5.0, (10, 10), 1.0)
    """
    world_size, accumulate = plan.origin.world_size, plan.origin.accumulate
    costs = plan.layout.batch_costs(plan.entry_lengths(lengths), plan.offsets, "padded")
    of_ranks = _of_ranks(costs, world_size, accumulate)
    slowest = rank_imbalance(costs, world_size, accumulate)
    mean, most = of_ranks.sum(axis=1) / world_size, of_ranks.max(axis=1)
    idle = world_size - of_ranks.shape[1]
    least = of_ranks.min(axis=1) * (idle == 0)
    together = -(-len(of_ranks) // POINTS)
    first = np.arange(0, len(of_ranks), together)
    steps = np.diff(np.append(first, len(of_ranks)))  # the last point may have fewer
    per_rank = None
    if world_size <= RANKS:
        per_rank = (*of_ranks.sum(axis=0).astype(np.int64).tolist(), *[0] * idle)
    return StepCosts(
        world_size=world_size,
        accumulate=accumulate,
        num_steps=len(of_ranks),
        least=int(least.min()),
        mean=float(mean.mean()),
        most=int(most.max()),
        slowest_over_mean=slowest,
        waiting=1 - 1 / slowest,
        per_rank=per_rank,
        steps_a_point=together,
        curve=CostCurve(
            step=tuple(first.tolist()),
            mean=tuple((np.add.reduceat(mean, first) / steps).tolist()),
            least=tuple(np.minimum.reduceat(least, first).astype(np.int64).tolist()),
            most=tuple(np.maximum.reduceat(most, first).astype(np.int64).tolist()),
        ),
    )


def _of_ranks(costs: FloatArray, world_size: int, accumulate: int) -> FloatArray:
    """Sum the costs of batches for each step and rank: float64[steps, ranks that have batches]."""
    batch = np.arange(costs.size)
    # An update is a multiple of the world, so a batch's place in the plan names its rank.
    step, rank = batch // (world_size * accumulate), batch % world_size
    num_steps, num_ranks = int(step[-1]) + 1, min(world_size, costs.size)
    sums = np.bincount(step * num_ranks + rank, costs, minlength=num_steps * num_ranks)
    return np.asarray(sums, dtype=np.float64).reshape(num_steps, num_ranks)


COMMONEST = 10
"""The most shapes that are listed."""

_ROW_BINS = 16
_LENGTH_BINS = 24


@dataclass(frozen=True)
class Shape:
    """One shape, and the batches that have it."""

    rows: int  # rows of the batch; 1 if it is packed
    length: int | tuple[int, ...]  # of the longest row; of several columns, the longest of each
    batches: int  # how many batches have the shape
    share: float  # of all batches
    samples: int  # in those batches
    padding: float  # of those batches


@dataclass(frozen=True)
class ShapeGrid:
    """Batches counted in bins of length and rows; a bin holds its lower edge, not its upper."""

    lengths: tuple[int, ...]  # edges of the bins of lengths
    rows: tuple[int, ...]  # edges of the bins of rows; of a packed batch, of its samples
    cells: tuple[tuple[int, int, int], ...]  # (length bin, row bin, batches), where there are any


@dataclass(frozen=True)
class ShapeStats:
    """The shapes of a plan's batches; the fields are the ``--json`` keys.

    The shape of a padded batch is its rows times its longest row; of a packed one, the length of
    its row.
    """

    kind: Literal["padded", "packed"]  # of the batches
    distinct: int  # how many shapes there are
    commonest: tuple[Shape, ...]  # at most `COMMONEST` of them
    grid: ShapeGrid  # all batches


def shape_stats(plan: Plan, lengths: IntoLengths) -> ShapeStats:
    """Count the shapes of a plan's batches. O(m + b log b) for b batches.

    Example:
        >>> import batchwright as bw
        >>> stats = shape_stats(bw.plan([5, 3, 4, 2], max_tokens=10), [5, 3, 4, 2])
        >>> [(each.rows, each.length, each.batches) for each in stats.commonest]
        [(2, 3, 1), (2, 5, 1)]
    """
    entries, layout = plan.entry_lengths(lengths), plan.layout
    laid_out = layout.batch_tokens(entries, plan.offsets)
    real = np.add.reduceat(layout.areas(entries), plan.offsets[:-1])
    rows, longest = layout.shapes_of(entries, plan.offsets)
    shapes = np.column_stack((rows, longest))
    _, first, of, batches = np.unique(
        _keys(shapes), return_index=True, return_inverse=True, return_counts=True
    )
    shapes = shapes[first]
    samples = np.bincount(of, plan.sizes)
    padding = 1 - np.bincount(of, real) / np.bincount(of, laid_out)
    return ShapeStats(
        kind=layout.kind,
        distinct=len(shapes),
        commonest=tuple(
            Shape(
                rows=int(shapes[each, 0]),
                length=_plain(shapes[each, 1:].tolist()),
                batches=int(batches[each]),
                share=float(batches[each] / len(plan)),
                samples=int(samples[each]),
                padding=float(padding[each]),
            )
            for each in np.argsort(-batches, kind="stable")[:COMMONEST].tolist()
        ),
        grid=_grid(layout.areas(longest), plan.sizes if layout.kind == "packed" else rows),
    )


def _keys(shapes: IntArray) -> IntArray:
    """Number the rows of int64[b, k]: equal rows alike, in the order in which rows sort."""
    keys = np.zeros(len(shapes), dtype=np.int64)
    for column in shapes.T:
        _, ranks = np.unique(column, return_inverse=True)
        # As small as they can be, so that no product of columns overflows.
        _, keys = np.unique(keys * (int(ranks.max()) + 1) + ranks, return_inverse=True)
    return keys


def _plain(length: list[int]) -> int | tuple[int, ...]:
    return length[0] if len(length) == 1 else tuple(length)


def _grid(lengths: IntArray, rows: IntArray) -> ShapeGrid:
    across, up = logarithmic_edges(lengths, _LENGTH_BINS), logarithmic_edges(rows, _ROW_BINS)
    column = np.searchsorted(across, lengths, side="right") - 1
    row = np.searchsorted(up, rows, side="right") - 1
    cells, counts = np.unique(column * up.size + row, return_counts=True)
    placed = np.column_stack((*np.divmod(cells, up.size), counts))
    return ShapeGrid(
        tuple(across.tolist()), tuple(up.tolist()), tuple((a, b, c) for a, b, c in placed.tolist())
    )
