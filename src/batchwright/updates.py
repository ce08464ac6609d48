"""Which batches share an update, and which rank gets which: equal counts, mix, and balance."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from batchwright._random import random_bits
from batchwright.errors import PlanError
from batchwright.lengths import logs
from batchwright.typing import FloatArray, IntArray, Last

_EVEN = 1.04
"""Slowest rank over the mean that counts as even: finer balance would cost mix."""

_MOST_REPEATED = 1_000_000
"""Samples may be repeated so often, or as often as there are samples, whichever is more."""


def num_batches(
    needed: int,
    samples: int,
    *,
    world_size: int,
    accumulate: int,
    last: Last,
    updates: int | None = None,
) -> int:
    """Choose how many batches an epoch has: whole updates where samples suffice for them.

    Returns:
        A multiple of ``world_size * accumulate``; or under ``"short"`` of `world_size`. More than
        `samples` where some have to be repeated.

    Example:
        >>> [num_batches(9, 9, world_size=2, accumulate=4, last=each)
        ...  for each in ("short", "drop", "repeat")]
        [10, 8, 16]
    """
    update = world_size * accumulate
    whole = -(-needed // update) * update if updates is None else updates * update
    if whole <= samples:
        return whole
    if last != "drop":
        count = whole if last == "repeat" else -(-needed // world_size) * world_size
        if count - samples > max(samples, _MOST_REPEATED):
            raise PlanError(
                f"{samples} samples cannot fill {count} batches, world_size={world_size} × "
                f"accumulate={accumulate} under last={last!r}: the same ones would come over and "
                "over. Use fewer ranks, or accumulate less."
            )
        return count
    if samples < update:
        raise PlanError(
            f"{samples} samples cannot fill one update of {update} batches, world_size="
            f'{world_size} × accumulate={accumulate}: with last="drop" none would remain. Use '
            'last="short" or "repeat", fewer ranks, or accumulate less.'
        )
    return samples // update * update


def split_offsets(
    offsets: IntArray, num_batches: int, *, weights: FloatArray | None = None
) -> IntArray:
    """Split batches in two, the heaviest first, until there are `num_batches`.

    Returns:
        int64[num_batches + 1], with every offset of `offsets` in it. O(b log b) a round, and
        as many rounds as a batch must be halved.

    Example:
        >>> split_offsets(np.array([0, 4, 5]), 4)
        array([0, 1, 2, 4, 5])
    """
    if num_batches > offsets[-1]:
        raise PlanError(
            f"{int(offsets[-1])} samples cannot fill {num_batches} batches: none may be empty."
        )
    heavy = np.diff(offsets).astype(np.float64) if weights is None else weights.copy()
    while offsets.size - 1 < num_batches:
        sizes = np.diff(offsets)
        chosen = _heaviest(np.where(sizes > 1, heavy, 0.0), num_batches - sizes.size)
        middles = offsets[chosen] + (sizes[chosen] >> 1)
        heavy[chosen] /= 2
        offsets = np.insert(offsets, chosen + 1, middles)
        heavy = np.insert(heavy, chosen + 1, heavy[chosen])
    return offsets


def _heaviest(weights: FloatArray, count: int) -> IntArray:
    """Choose up to `count` of the positive weights; among equals, ones evenly spaced."""
    candidates = int(np.count_nonzero(weights))
    if count >= candidates:
        return np.flatnonzero(weights)
    threshold = np.partition(weights, weights.size - count)[weights.size - count]
    above, equal = np.flatnonzero(weights > threshold), np.flatnonzero(weights == threshold)
    missing = count - above.size
    spaced = equal[(np.arange(missing) * equal.size) // missing]
    return np.sort(np.concatenate((above, spaced)))


def arranged(
    num_batches: int,
    pools: IntArray | None,
    *,
    keys: FloatArray | None,
    costs: FloatArray | None,
    world_size: int,
    accumulate: int,
    rng: np.random.Generator,
) -> IntArray:
    """Rearrange batches so that each update is a fair mix, or each rank's work is even.

    An update is ``world_size * accumulate`` consecutive batches; batch `i` of it goes to rank
    ``i % world_size``. Without costs, each update gets one random batch of every stratum of
    keys. With costs, ranks that wait for each other get batches of like cost, and updates are
    mixed as far as the number of slots allows.

    Batches of one of the `pools`, offsets int64[p + 1] over batches, may change places; None leaves
    all where they are. `keys` are mean log-lengths, float64[b] (None: batches are random samples
    already), and `costs` their work, float64[b] (None: only the mix matters).

    Returns:
        int64[b], a permutation: which batch comes at each place. O(b log b).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> lengths = np.array([9.0, 8.0, 2.0, 1.0])
        >>> order = arranged(4, np.array([0, 4]), keys=lengths, costs=None, world_size=1,
        ...                  accumulate=2, rng=rng)
        >>> sorted((lengths[order].reshape(2, 2) > 5).sum(axis=1).tolist())
        [1, 1]
    """
    places = np.arange(num_batches)
    ranked_by = keys if costs is None else costs
    if pools is None or ranked_by is None:
        return places
    update = world_size * accumulate
    for start, stop in pairwise(pools.tolist()):
        size = stop - start
        if update == 1 and costs is None:  # nothing to mix
            places[start:stop] = start + _random_order(size, rng)
            continue
        # A pool may begin and end inside an update: only its whole updates are mixed.
        head = min(-start % update, size)
        tail = (size - head) % update
        ranked = np.argsort(-ranked_by[start:stop], kind="stable")
        edge, inner = _spaced_apart(ranked, head + tail)
        edge = edge[_random_order(edge.size, rng)]
        if costs is None:
            mixed = _mixed(inner, update, rng)
        else:
            pool_keys = None if keys is None else keys[start:stop]
            slots = (accumulate, world_size)
            mixed = _balanced(inner, pool_keys, costs[start:stop], slots, rng)
        places[start:stop] = start + np.concatenate((edge[:head], mixed, edge[head:]))
    return places


def rank_imbalance(costs: FloatArray, world_size: int, accumulate: int) -> float:
    """Compare the slowest rank with the mean, summed over updates; costs are float64[b].

    Returns:
        1 where no rank ever waits. A last update that is not whole counts as far as it goes.

    Example:
        >>> rank_imbalance(np.array([3.0, 1.0, 1.0, 3.0]), world_size=2, accumulate=2)
        1.0
    """
    update = world_size * accumulate
    whole = costs.size // update * update
    slowest = 0.0
    if whole:
        per_rank = costs[:whole].reshape(-1, accumulate, world_size).sum(axis=1)
        slowest += per_rank.max(axis=1).sum()
    if whole < costs.size:
        last = np.arange(costs.size - whole) % world_size
        slowest += np.bincount(last, costs[whole:]).max()
    return float(slowest / (costs.sum() / world_size))


def _mixed(ranked: IntArray, update: int, rng: np.random.Generator) -> IntArray:
    """Give each update one random batch of every stratum, in random slots."""
    if not ranked.size:  # an update may have any number of slots
        return ranked
    strata = ranked.reshape(update, -1)
    drawn = np.take_along_axis(strata, _random_rows(strata.shape, rng), axis=1)
    updates = drawn.T
    slots = _random_rows(updates.shape, rng)
    return np.take_along_axis(updates, slots, axis=1).ravel()


def _balanced(
    ranked: IntArray,
    keys: FloatArray | None,
    costs: FloatArray,
    slots: tuple[int, int],
    rng: np.random.Generator,
) -> IntArray:
    """Mix updates as finely as even ranks allow.

    Batches go to updates in groups of like cost: groups of one mix best, groups as large as the
    world make every slot even. The smallest that keeps ranks even is taken.
    """
    if not ranked.size:
        return ranked
    accumulate, world_size = slots
    means = logs(costs) if keys is None else keys
    group = 1 if accumulate > 1 else world_size  # one slot a rank: nothing can even out
    while True:
        while world_size % group:
            group += 1
        updates = _compose(ranked.reshape(-1, group), means, world_size * accumulate, rng)
        updates = _hand_to_ranks(updates.reshape(-1, accumulate, world_size), costs, rng)
        found = updates.ravel()
        if group >= world_size or rank_imbalance(costs[found], world_size, accumulate) <= _EVEN:
            return found
        group *= 2


def _compose(
    groups: IntArray, means: FloatArray, update: int, rng: np.random.Generator
) -> IntArray:
    """Give each update one group of every stratum: int64[g, size] → int64[updates, update]."""
    num_strata = update // groups.shape[1]
    strata = means[groups].mean(axis=1).reshape(num_strata, -1)  # [stratum, update]
    num_updates = strata.shape[1]
    total = np.zeros(num_updates)
    picks = np.empty(strata.shape, dtype=np.int64)
    # Narrow strata are shared out at random, wide ones so that they even out what is there already.
    for position, stratum in enumerate(np.argsort(strata.std(axis=1), kind="stable").tolist()):
        if position < (num_strata + 1) // 2:
            chosen = _random_order(num_updates, rng)
        else:
            chosen = np.empty(num_updates, dtype=np.int64)
            chosen[np.argsort(total, kind="stable")] = np.argsort(-strata[stratum], kind="stable")
        total += strata[stratum][chosen]
        picks[stratum] = stratum * num_updates + chosen
    return groups[picks.T].reshape(num_updates, update)


def _hand_to_ranks(updates: IntArray, costs: FloatArray, rng: np.random.Generator) -> IntArray:
    """Share each update's batches so that ranks sum up alike: int64[updates, slots, ranks]."""
    num_updates, accumulate, world_size = updates.shape
    batches = updates.reshape(num_updates, -1)
    batches = np.take_along_axis(batches, np.argsort(-costs[batches], axis=1, kind="stable"), 1)
    shared = np.empty_like(updates)
    load = np.zeros((num_updates, world_size))
    held = np.zeros((num_updates, world_size), dtype=np.int64)
    each = np.arange(num_updates)
    # Longest processing time first: the next heaviest to the rank with the least, if it has room.
    for batch in batches.T:
        rank = load.argmin(axis=1)
        shared[each, held[each, rank], rank] = batch
        load[each, rank] += costs[batch]
        held[each, rank] += 1
        load[held == accumulate] = np.inf
    shared = shared[_random_order(num_updates, rng)]
    ranks = _random_rows((num_updates, 1, world_size), rng)
    slots = _random_rows((num_updates, accumulate), rng)[:, :, None]
    return np.take_along_axis(np.take_along_axis(shared, ranks, axis=2), slots, axis=1)


def _spaced_apart(ranked: IntArray, count: int) -> tuple[IntArray, IntArray]:
    """Take `count` entries evenly spaced; return them, and the rest."""
    if not count:
        return ranked[:0], ranked
    taken = (np.arange(count) * ranked.size + ranked.size // 2) // count
    return ranked[taken], np.delete(ranked, taken)


def _random_order(size: int, rng: np.random.Generator) -> IntArray:
    return _random_rows((size,), rng)


def _random_rows(shape: tuple[int, ...], rng: np.random.Generator) -> IntArray:
    """Draw a random order along the last axis, for each row anew."""
    # A sort of keys, random bits above and places below, is several times quicker than argsort.
    keys = random_bits(rng, int(np.prod(shape))).reshape(shape)
    low = np.uint64((1 << (shape[-1] - 1).bit_length()) - 1)
    keys &= ~low
    keys |= np.arange(shape[-1], dtype=np.uint64)
    keys.sort(axis=-1)
    keys &= low
    return keys.view(np.int64)
