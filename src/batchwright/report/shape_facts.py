"""The shapes of a plan's batches as plain values, few enough for a page."""

from typing import Any

import numpy as np

from batchwright.plans import Plan
from batchwright.typing import IntArray, IntoLengths

COMMONEST = 10
"""Shapes that are listed."""

_ROW_BINS = 16
_LENGTH_BINS = 24


def shape_facts(plan: Plan, lengths: IntoLengths) -> dict[str, Any]:
    """Gather which shapes batches have, and how many have which.

    The shape of a padded batch is its rows times its longest; of a packed one, the length of its
    row.

    Args:
        plan: The plan.
        lengths: integer[n] or [n, k], the lengths it was made for.

    Returns:
        `kind`; `distinct`, the number of shapes; `commonest`, at most `COMMONEST` of them, with
        `rows`, `length`, `batches`, their `share`, `samples` in them and their `padding`; and
        `grid`: batches counted in bins of `lengths` and `rows` (of a packed batch: samples), as
        `cells` [length bin, row bin, batches]. A bin holds its lower edge and not its upper.
        JSON as it stands. O(m + b log b) for b batches.

    Raises:
        PlanMismatchError: If the plan was made for other lengths.

    Example:
        >>> import batchwright as bw
        >>> facts = shape_facts(bw.plan([5, 3, 4, 2], max_tokens=10), [5, 3, 4, 2])
        >>> [(each["rows"], each["length"], each["batches"]) for each in facts["commonest"]]
        [(2, 3, 1), (2, 5, 1)]
    """
    entries, layout = plan.entry_lengths(lengths), plan.layout
    laid_out = layout.batch_tokens(entries, plan.offsets)
    areas = entries if entries.ndim == 1 else layout.areas(entries)
    real = np.add.reduceat(areas, plan.offsets[:-1])
    if layout.kind == "packed":
        rows = np.ones_like(laid_out)
        longest = laid_out
        if layout.caps is not None:
            longest = np.add.reduceat(layout.rounded(entries), plan.offsets[:-1])
    else:
        rows, longest = layout.padded_rows(entries, plan.offsets)
    shapes = np.column_stack((rows, longest))
    _, first, of, batches = np.unique(
        _keys(shapes), return_index=True, return_inverse=True, return_counts=True
    )
    shapes = shapes[first]
    chosen = np.argsort(-batches, kind="stable")[:COMMONEST]
    samples = np.bincount(of, plan.sizes)
    padding = 1 - np.bincount(of, real) / np.bincount(of, laid_out)
    row_lengths = longest if longest.ndim == 1 else layout.areas(longest)
    return {
        "kind": layout.kind,
        "distinct": len(shapes),
        "commonest": [
            {
                "rows": int(shapes[each, 0]),
                "length": _plain(shapes[each, 1:]),
                "batches": int(batches[each]),
                "share": float(batches[each] / len(plan)),
                "samples": int(samples[each]),
                "padding": float(padding[each]),
            }
            for each in chosen.tolist()
        ],
        "grid": _grid(row_lengths, plan.sizes if layout.kind == "packed" else rows),
    }


def _keys(shapes: IntArray) -> IntArray:
    """Give each row of int64[b, k] a number, the same for the same rows, that sorts as they do."""
    keys = np.zeros(len(shapes), dtype=np.int64)
    for column in shapes.T:
        _, ranks = np.unique(column, return_inverse=True)
        # As small as they can be, so that no product of columns overflows.
        _, keys = np.unique(keys * (int(ranks.max()) + 1) + ranks, return_inverse=True)
    return keys


def _plain(length: IntArray) -> int | list[int]:
    return int(length[0]) if length.size == 1 else [int(each) for each in length]


def _grid(lengths: IntArray, rows: IntArray) -> dict[str, Any]:
    across, up = _edges(lengths, _LENGTH_BINS), _edges(rows, _ROW_BINS)
    places = [
        np.searchsorted(edges, values, side="right") - 1
        for edges, values in ((across, lengths), (up, rows))
    ]
    cells, counts = np.unique(places[0] * up.size + places[1], return_counts=True)
    return {
        "lengths": across.tolist(),
        "rows": up.tolist(),
        "cells": [
            [int(cell // up.size), int(cell % up.size), int(count)]
            for cell, count in zip(cells, counts, strict=True)
        ],
    }


def _edges(values: IntArray, most: int) -> IntArray:
    """Return whole edges that are about equally far apart on a logarithmic axis."""
    first, last = int(values.min()), int(values.max())
    edges = np.unique(np.rint(np.geomspace(first, last + 1, most + 1)).astype(np.int64))
    edges[0], edges[-1] = first, last + 1  # the roots of large numbers are not exact
    return edges
