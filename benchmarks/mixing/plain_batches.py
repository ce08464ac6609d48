"""The ways of making batches that trainers offer, and updates of whole batches: controls."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np

Batches: TypeAlias = Sequence[np.ndarray]
"""Sample indices of each batch, int64[rows]."""

Updates: TypeAlias = Sequence[Batches]
"""The batches of each update."""


def plain(lengths: np.ndarray, max_tokens: int, rng: np.random.Generator) -> Batches:
    """Shuffle, and cut into batches of one size: the largest whose worst case fits the budget."""
    batch_size = max_tokens // int(lengths.max())
    return _cut(rng.permutation(lengths.size), batch_size)


def length_grouped(
    lengths: np.ndarray, max_tokens: int, rng: np.random.Generator, *, megabatch: int = 50
) -> Batches:
    """Do what trainers offer: the same batch size, each 50 batches' samples sorted by length."""
    batch_size = max_tokens // int(lengths.max())
    groups = _cut(rng.permutation(lengths.size), megabatch * batch_size)
    ordered = [group[np.argsort(-lengths[group], kind="stable")] for group in groups]
    return _cut(np.concatenate(ordered), batch_size)


def into_updates(batches: Batches, lengths: np.ndarray, num_updates: int) -> Updates:
    """Accumulate consecutive batches until the tokens of an update are reached.

    Guarantees `num_updates` updates, equal in the mean, as long as no batch alone has more tokens
    than an update: a batch belongs to the update in which its middle token lies.
    """
    ends = np.cumsum([lengths[batch].sum() for batch in batches])
    middles = (ends + np.concatenate(([0], ends[:-1]))) / 2
    borders = np.searchsorted(middles, ends[-1] / num_updates * np.arange(1, num_updates))
    edges = [0, *borders.tolist(), len(batches)]
    updates = [batches[a:b] for a, b in pairwise(edges)]
    return [update for update in updates if update]


def windows(batches: Batches, accumulate: int) -> Updates:
    """Accumulate a constant number of batches: what a plan is made for."""
    return [batches[start : start + accumulate] for start in range(0, len(batches), accumulate)]


def _cut(order: np.ndarray, size: int) -> Batches:
    return np.split(order, range(size, order.size, size))
