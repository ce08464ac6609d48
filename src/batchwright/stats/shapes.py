"""Which shapes the batches of a plan have, in few enough figures for a page."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from batchwright.plans import Plan
from batchwright.stats.lengths import logarithmic_edges
from batchwright.typing import IntArray, IntoLengths

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
