"""Figures of anybody's batches, counted from the batches and never asked of who made them."""

import math

import numpy as np

import batchwright as bw
from batchwright.layout import Packed, Padded
from batchwright.plans import Origin
from benchmarks.peers.roster import UPDATE, Kind
from benchmarks.plain_measures import dispersion_beside_shuffles, tokens_laid_out

MOST_SAMPLES_MIXED = 1_000_000
LEAST_UPDATES = 6
"""What updates hold is compared of so many samples at the most, and updates at the least."""


def counted(
    lengths: np.ndarray, indices: np.ndarray, offsets: np.ndarray, *, kind: Kind, budget: int
) -> dict[str, float | int]:
    """Count what batches hold, lose, repeat and lay out.

    Args:
        lengths: int64[n], tokens of each sample.
        indices: int64[m], samples, batch after batch.
        offsets: int64[b + 1], where batches begin and end.
        kind: How a batch lies in memory; of a balance, batches are the ranks.
        budget: Tokens that a batch may hold.

    Returns:
        ``batches``; ``lost``, ``twice`` and ``unknown``: samples in no batch, entries beyond a
        sample's first, entries that are no sample; and of the rest ``efficiency``: real tokens
        over those laid out; ``overrun``: the largest batch over the budget; ``over``: batches
        that exceed it; and by kind ``over_bound``: rows over the least that could do, or
        ``imbalance``: the largest share over the mean.
    """
    known = (indices >= 0) & (indices < lengths.size)
    uses = np.bincount(indices[known], minlength=lengths.size)
    figures: dict[str, float | int] = {
        "lost": int((uses == 0).sum()),
        "twice": int(np.maximum(uses - 1, 0).sum()),
        "unknown": int((~known).sum()),
    }
    plan = _plan(indices, offsets, known, kind)
    figures["batches"] = len(plan)
    tokens = tokens_laid_out(plan, lengths)
    real = int(lengths[plan.indices].sum())
    if kind == "balance":
        return {**figures, "imbalance": float(tokens.max() / tokens.mean())}
    if kind == "packed":
        figures["efficiency"] = real / (len(plan) * budget)
        figures["over_bound"] = len(plan) / math.ceil(int(lengths.sum()) / budget)
    else:
        figures["efficiency"] = real / int(tokens.sum())
        enough = len(plan) >= LEAST_UPDATES * UPDATE and lengths.size <= MOST_SAMPLES_MIXED
        if enough and lengths.min() < lengths.max():
            whole = plan[: len(plan) // UPDATE * UPDATE]
            figures["dispersion"] = dispersion_beside_shuffles(whole, lengths, shuffles=3)
    figures["overrun"] = float(tokens.max() / budget)
    figures["over"] = int((tokens > budget).sum())
    return figures


def _plan(indices: np.ndarray, offsets: np.ndarray, known: np.ndarray, kind: Kind) -> bw.Plan:
    """Make a plan of what is there: without entries that are no sample, or batches of none."""
    kept = np.concatenate(([0], np.cumsum(known)))[offsets]
    kept = kept[np.append(True, np.diff(kept) > 0)]
    layout = Padded() if kind == "padded" else Packed()
    return bw.Plan(indices[known], kept, layout=layout, origin=Origin(accumulate=UPDATE))
