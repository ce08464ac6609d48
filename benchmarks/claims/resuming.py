"""What it costs to go on in the middle of an epoch."""

import time
from collections.abc import Iterator

import numpy as np

import batchwright as bw
from benchmarks.claims.claim import Claim, Samples
from benchmarks.length_sets import TEXT

RANKS = 8
POSITIONS = 200
REPEATS = 5


def resuming(samples: Samples) -> Iterator[Claim]:
    """Resume a plan of 10⁷ samples anywhere: slice it, and read a rank's next batch."""
    lengths = TEXT.draw(samples(10_000_000))
    plan = bw.plan(lengths, max_tokens=16_384, world_size=RANKS)
    steps = len(plan) // RANKS
    positions = np.unique(np.linspace(0, steps - 1, POSITIONS).astype(np.int64)) * RANKS
    milliseconds, right = [], True
    for number, position in enumerate(positions.tolist()):
        rank = number % RANKS
        rounds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            rest = plan[position:]
            batch = rest[rank]
            rounds.append(time.perf_counter() - start)
        milliseconds.append(min(rounds) * 1e3)
        right = right and _goes_on(plan, rest, batch, position, rank)
    subject = f"resume a plan of {lengths.size:,} lengths, TokenBudget(16,384), 8 ranks"
    yield Claim(
        subject,
        "plan[k:] and a rank's next batch",
        max(milliseconds),
        at_most=1.0,
        unit="ms",
        note=f"the slowest of {len(milliseconds)} positions, each the best of {REPEATS} times; "
        f"median {float(np.median(milliseconds)):.3g} ms",
    )
    yield Claim.true(subject, "the batches that were left", right)
    start = time.perf_counter()
    shard = plan.shard(0, RANKS)
    elapsed = time.perf_counter() - start
    yield Claim(
        subject,
        "a rank's shard, made anew",
        elapsed * 1e3,
        unit="ms",
        note=f"{len(shard):,} of {len(plan):,} batches, once an epoch",
    )


def _goes_on(plan: bw.Plan, rest: bw.Plan, batch: np.ndarray, position: int, rank: int) -> bool:
    return (
        len(rest) == len(plan) - position
        and np.array_equal(batch, plan[position + rank])
        and np.array_equal(rest.indices, plan.indices[plan.offsets[position] :])
        and np.array_equal(rest.offsets, plan.offsets[position:] - plan.offsets[position])
    )
