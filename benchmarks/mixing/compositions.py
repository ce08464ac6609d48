"""The ways to compose updates that are compared: all of about the same number of real tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import batchwright as bw
from batchwright.stats import dispersion
from batchwright.stats.dial import Mixing
from benchmarks.mixing.plain_batches import (
    Updates,
    into_updates,
    length_grouped,
    plain,
    windows,
)

PLAIN = "plain shuffle"
PLAIN_FIXED = "plain shuffle, by 16 samples"
GROUPED_FIXED = "group_by_length, by 16 samples"
GROUPED = "group_by_length"
GROUPED_SHUFFLED = "group_by_length, updates shuffled"

STRATIFIED = 'mixing="stratified", ≥ 8 batches'

SHUFFLED = 'mixing="update", ≥ 8 batches'
"""Updates as a plain shuffle draws them: what differs from the control is chance and cuts."""

RIVALS = (GROUPED_FIXED, GROUPED)
"""What trainers ship: each 50 updates' samples from the longest to the shortest."""

MEGABATCH = 50
SAMPLES = 16
"""Of an update, where all updates have the same number."""

ROWS = 4
"""Of a batch, where updates are cut by tokens: these are met to half a batch."""

Composition = Callable[[np.ndarray, int], Updates]
"""Lengths and a seed → the batches of each update of an epoch."""


@dataclass(frozen=True)
class Mix:
    """What an epoch's updates are like.

    Attributes:
        updates: How many there are.
        batches_per_update: Mean.
        tokens_per_update: Real tokens, mean.
        tokens_spread: Their standard deviation, as a share of the mean.
        padding: Share of the cells.
        dispersion: How unlike one another updates are, as `PlanStats` tells it.
    """

    updates: int
    batches_per_update: float
    tokens_per_update: float
    tokens_spread: float
    padding: float
    dispersion: float


def compositions(step_tokens: int) -> dict[str, Composition]:
    """Name the arms: two controls, what trainers ship, and the positions of our dial.

    The control and length grouping are cut into updates of as many tokens as the planned ones
    have; beside them stand the same two with a fixed number of samples, as trainers count. Which
    samples share a batch of the planned ones follows from its budget: `step_tokens` for updates
    of one batch, a quarter or an eighth of it else. Memory is not compared here.
    """
    return {
        PLAIN: _by_tokens(plain, step_tokens),
        PLAIN_FIXED: _by_samples(plain),
        GROUPED_FIXED: _by_samples(length_grouped),
        GROUPED: _by_tokens(_grouped, step_tokens),
        GROUPED_SHUFFLED: _shuffled(_by_tokens(_grouped, step_tokens)),
        'mixing="stratified", 1 batch': _one_batch("stratified", step_tokens),
        'mixing="stratified", ≥ 4 batches': _planned("stratified", step_tokens, parts=4),
        STRATIFIED: _planned("stratified", step_tokens, parts=8),
        "mixing=4, 1 batch": _one_batch(4, step_tokens),
        SHUFFLED: _planned("update", step_tokens, parts=8),
    }


def mix(updates: Updates, lengths: np.ndarray) -> Mix:
    """Count an epoch's updates, batch by batch."""
    entries = [lengths[np.concatenate(update)] for update in updates]
    tokens = np.array([each.sum() for each in entries])
    padded = sum(len(batch) * int(lengths[batch].max()) for update in updates for batch in update)
    ends = np.cumsum([0, *(each.size for each in entries)])
    return Mix(
        updates=len(updates),
        batches_per_update=sum(map(len, updates)) / len(updates),
        tokens_per_update=float(tokens.mean()),
        tokens_spread=float(tokens.std() / tokens.mean()),
        padding=float(1 - tokens.sum() / padded),
        dispersion=dispersion(np.concatenate(entries), ends),
    )


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, 1])  # all arms draw alike; weights draw otherwise


def _by_samples(make: Callable[..., list[np.ndarray]]) -> Composition:
    def compose(lengths: np.ndarray, seed: int) -> Updates:
        return windows(make(lengths, SAMPLES * int(lengths.max()), _rng(seed)), 1)

    return compose


def _by_tokens(make: Callable[..., list[np.ndarray]], step_tokens: int) -> Composition:
    def compose(lengths: np.ndarray, seed: int) -> Updates:
        batches = make(lengths, ROWS * int(lengths.max()), _rng(seed))
        return into_updates(batches, lengths, round(lengths.sum() / step_tokens))

    return compose


def _grouped(lengths: np.ndarray, max_tokens: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Sort the samples of 50 updates at a time, also where an update is more than one batch."""
    return length_grouped(lengths, max_tokens, rng, megabatch=MEGABATCH * SAMPLES // ROWS)


def _shuffled(composition: Composition) -> Composition:
    def compose(lengths: np.ndarray, seed: int) -> Updates:
        updates = composition(lengths, seed)
        return [updates[place] for place in _rng(seed).permutation(len(updates))]

    return compose


def _planned(mixing: Mixing, step_tokens: int, *, parts: int) -> Composition:
    batching = bw.TokenBudget(step_tokens // parts, mixing=mixing)

    def compose(lengths: np.ndarray, seed: int) -> Updates:
        planner = bw.Planner(lengths, batching=batching, step_tokens=step_tokens, seed=seed)
        return windows(list(planner(0)), planner.accumulate)

    return compose


def _one_batch(mixing: Mixing, step_tokens: int) -> Composition:
    """Raise the budget until updates of one batch are as few as those of so many tokens."""

    def compose(lengths: np.ndarray, seed: int) -> Updates:
        most, budget = round(lengths.sum() / step_tokens), step_tokens
        while True:
            batching = bw.TokenBudget(budget, mixing=mixing)
            planner = bw.Planner(lengths, batching=batching, accumulate=1, seed=seed)
            if len(planner) <= most:
                return windows(list(planner(0)), 1)
            budget += max(1, budget // 100)

    return compose
