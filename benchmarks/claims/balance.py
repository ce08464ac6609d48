"""Whether ranks that wait for each other have equal work: simulated, shard by shard."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import batchwright as bw
from benchmarks.claims.claim import Claim, Samples
from benchmarks.length_sets import TEXT
from benchmarks.plain_measures import rank_imbalance, squares_laid_out, tokens_laid_out

WORLDS = (8, 64, 256, 1024)


@dataclass(frozen=True)
class Seen:
    """One plan, walked by all its ranks.

    Attributes:
        imbalance: Slowest rank over the mean, summed over steps.
        told: The same, as `Plan.stats` tells it.
        stats: All that it tells.
    """

    imbalance: float
    told: float
    stats: bw.PlanStats


def padded(samples: Samples) -> Iterator[Claim]:
    """Padded batches, one a rank: dealt for mix, and dealt for even ranks.

    Dealt for mix, each step has a batch of every length, and the fullest decides: ranks wait for
    what rounding leaves free in the others, and for the batches halved to make whole steps.
    With a thousand ranks that is a little over the target, which a named cost reaches.
    """
    large, small = (TEXT.draw(samples(size)) for size in (10_000_000, 1_000_000))
    for cost in (None, "padded"):
        dealt = "dealt for mix" if cost is None else 'cost="padded"'
        subject = (
            f"balance of {large.size:,} lengths, TokenBudget(16,384), one batch a rank, {dealt}"
        )
        agree = True
        for world_size in WORLDS:
            seen, beside = (_padded(lengths, world_size, cost) for lengths in (large, small))
            if seen is None:
                continue
            agree = agree and _agree(seen, beside)
            yield Claim(
                subject,
                f"{world_size} ranks: imbalance_padded",
                seen.imbalance,
                at_most=1.025 if cost is None and world_size > 256 else 1.02,
                note=_note(seen, beside, f"batches {seen.stats.fill:.4f} full"),
            )
        yield Claim.true(subject, "stats tell what simulated ranks see", agree)


def quadratic(samples: Samples) -> Iterator[Claim]:
    """Packed rows, dealt by what full attention costs."""
    large, small = (TEXT.draw(samples(size)) for size in (10_000_000, 1_000_000))
    for slots, at_most in ((1, 1.02), (4, 1.05)):
        subject = (
            f'balance of {large.size:,} lengths, Packing(8,192), cost="quadratic", '
            f"steps of {slots} row{'s' * (slots > 1)} a rank"
        )
        agree = True
        for world_size in WORLDS:
            seen, beside = (_quadratic(lengths, world_size, slots) for lengths in (large, small))
            if seen is None:
                continue
            agree = agree and _agree(seen, beside)
            yield Claim(
                subject,
                f"{world_size} ranks: imbalance_quadratic",
                seen.imbalance,
                at_most=at_most,
                note=_note(seen, beside),
            )
            if slots > 1:
                dispersion = seen.stats.dispersion
                yield Claim(subject, f"{world_size} ranks: dispersion", dispersion, at_most=2.0)
        yield Claim.true(subject, "stats tell what simulated ranks see", agree)


def _padded(lengths: np.ndarray, world_size: int, cost: str | None) -> Seen | None:
    if _too_few(lengths, 16_384, world_size):
        return None
    plan = bw.plan(lengths, max_tokens=16_384, world_size=world_size, cost=cost)
    stats = plan.stats(lengths)
    imbalance = rank_imbalance(plan, tokens_laid_out(plan, lengths), world_size)
    return Seen(imbalance, stats.imbalance_padded, stats)


def _quadratic(lengths: np.ndarray, world_size: int, slots: int) -> Seen | None:
    if _too_few(lengths, 8_192, world_size * slots):
        return None
    plan = bw.plan(
        lengths,
        batching=bw.Packing(8_192),
        world_size=world_size,
        accumulate=slots,
        cost="quadratic",
    )
    stats = plan.stats(lengths)
    imbalance = rank_imbalance(plan, squares_laid_out(plan, lengths), world_size)
    return Seen(imbalance, stats.imbalance_quadratic, stats)


def _too_few(lengths: np.ndarray, budget: int, update: int) -> bool:
    """Tell whether full batches would not make a single update, as in a quick run."""
    return int(lengths.sum(dtype=np.int64)) < budget * update


def _agree(*seen: Seen | None) -> bool:
    return all(abs(each.told / each.imbalance - 1) < 1e-9 for each in seen if each is not None)


def _note(seen: Seen, beside: Seen | None, *further: str) -> str:
    parts = [_steps(seen), *further]
    if beside is not None:
        few = f"{beside.stats.num_samples:,} samples"
        parts.append(f"with {few} {beside.imbalance:.4f} in {_steps(beside)}")
    return "; ".join(parts)


def _steps(seen: Seen) -> str:
    return f"{seen.stats.num_steps:,} steps, dispersion {seen.stats.dispersion:.3g}"
