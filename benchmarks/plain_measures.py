"""Figures of a plan, counted plainly and without `Plan.stats`: what the claims are checked by."""

import numpy as np
import numpy.typing as npt

import batchwright as bw

Lengths = npt.NDArray[np.integer]
Figures = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

_BLOCK = 1 << 20  # samples looked at together
_BATCHES = 1 << 14  # batches looked at together


def uses_every_sample_once(plan: bw.Plan, num_samples: int) -> bool:
    """Tick off the samples one by one; in blocks, with a byte a sample."""
    if plan.indices.size != num_samples:
        return False
    seen = np.zeros(num_samples, dtype=bool)
    for start in range(0, num_samples, _BLOCK):
        block = plan.indices[start : start + _BLOCK]
        if block.min() < 0 or block.max() >= num_samples:
            return False
        seen[block] = True
    return bool(seen.all())


def uses_every_token_once(plan: bw.Plan, lengths: Lengths) -> bool:
    """Lay the pieces of split samples side by side: each must begin where the last one ended."""
    starts = np.zeros_like(plan.indices) if plan.starts is None else plan.starts
    order = np.lexsort((starts, plan.indices))
    samples, begins = plan.indices[order], starts[order]
    ends = begins + _entry_lengths(plan, lengths)[order]
    first = np.append(True, samples[1:] != samples[:-1])
    last = np.append(first[1:], True)
    return bool(
        np.array_equal(samples[first], np.arange(lengths.size))
        and (begins[first] == 0).all()
        and (begins[1:][~first[1:]] == ends[:-1][~first[1:]]).all()
        and np.array_equal(ends[last], lengths)
    )


def tokens_laid_out(plan: bw.Plan, lengths: Lengths) -> Whole:
    """Count the tokens of each batch in memory, int64[b]: rows × longest row, or the row's sum."""
    return _by_batch(plan, lengths, np.maximum if plan.layout.kind == "padded" else np.add)


def squares_laid_out(plan: bw.Plan, lengths: Lengths) -> Figures:
    """Sum the squared lengths of each packed row, float64[b]."""
    entries = _entry_lengths(plan, lengths).astype(np.float64)
    return np.add.reduceat(entries**2, plan.offsets[:-1])


def rank_imbalance(plan: bw.Plan, costs: Figures | Whole, world_size: int) -> float:
    """Let ranks walk their shards side by side: the time of the slowest, over the mean.

    Args:
        plan: The global plan.
        costs: float64[b], work of each of its batches.
        world_size: Ranks. Each hands its batches in after all slots of an update.
    """
    # Each batch is known by its first entry's place among the indices, so that what a rank has
    # is read from its shard, and not from where this function thinks that it should be.
    cost_of = dict(zip(_names(plan), costs.tolist(), strict=True))
    slots = plan.origin.accumulate
    waits = np.zeros((world_size, len(plan) // world_size // slots))
    for rank in range(world_size):
        work = np.array([cost_of[name] for name in _names(plan.shard(rank, world_size))])
        waits[rank] = work.reshape(-1, slots).sum(axis=1)
    return float(waits.max(axis=0).sum() / waits.mean(axis=0).sum())


def dispersion_beside_shuffles(plan: bw.Plan, lengths: Lengths, *, shuffles: int) -> float:
    """Compare the plan's updates with updates that real shuffles of the samples make.

    Each shuffle is cut into as many updates as the plan has, of as many tokens each, to the
    nearest sample. Returned is the variance over updates of the token-weighted mean log-length,
    over the same variance of the shuffles.
    """
    update = plan.origin.world_size * plan.origin.accumulate
    edges = plan.offsets[np.arange(0, len(plan) + update, update)]
    entries = lengths[plan.indices].astype(np.float64)
    step_tokens = np.add.reduceat(entries, edges[:-1])
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(shuffles):
        shuffled = rng.permutation(entries)
        cuts = np.searchsorted(np.cumsum(shuffled), np.cumsum(step_tokens) - 0.5)
        cuts[-1] = entries.size
        drawn.append(_variance_of_means(shuffled, np.append(0, cuts)))
    return _variance_of_means(entries, edges) / float(np.mean(drawn))


def _variance_of_means(entries: Figures, edges: Whole) -> float:
    centre = np.average(np.log(entries), weights=entries)
    updates = np.split(entries, edges[1:-1])
    means = np.array([np.average(np.log(each), weights=each) for each in updates])
    return float(((means - centre) ** 2).mean())


def _entry_lengths(plan: bw.Plan, lengths: Lengths) -> Whole:
    entries = lengths[plan.indices].astype(np.int64)
    if plan.starts is not None:
        entries -= plan.starts
    budget = plan.layout.budget
    return entries if budget is None else np.minimum(entries, budget)


def _by_batch(plan: bw.Plan, lengths: Lengths, together: np.ufunc) -> Whole:
    out = np.empty(len(plan), dtype=np.int64)
    for start in range(0, len(plan), _BATCHES):
        some = plan[start : start + _BATCHES]
        out[start : start + len(some)] = together.reduceat(
            _entry_lengths(some, lengths), some.offsets[:-1]
        )
    return out if together is np.add else out * np.diff(plan.offsets)


def _names(plan: bw.Plan) -> list[int]:
    return plan.indices[plan.offsets[:-1]].tolist()
