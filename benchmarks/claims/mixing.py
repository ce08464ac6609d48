"""How well updates are mixed, and at which price in padding."""

from collections.abc import Iterator

import numpy as np

import batchwright as bw
from batchwright.stats.variety import variety
from benchmarks.claims.claim import Claim, Samples
from benchmarks.length_sets import TEXT
from benchmarks.plain_measures import dispersion_beside_shuffles, tokens_laid_out

RANKS, SLOTS = 8, 4
UPDATES_SEEN = 10_000  # of plans and of shuffles; their variance is then known to 1.5 %


def stratified(samples: Samples) -> Iterator[Claim]:
    """Mix by strata: the default."""
    yield from _claims(samples(1_000_000), "stratified", {"at_most": 0.5}, least_efficiency=0.999)


def by_update(samples: Samples) -> Iterator[Claim]:
    """Give every update the same share of every length."""
    yield from _claims(
        samples(1_000_000),
        "update",
        {"at_most": 0.1},
        least_efficiency=0.93,
    )


def varied(samples: Samples) -> Iterator[Claim]:
    """Count batch-mates over several epochs, and what more of them cost."""
    lengths = TEXT.draw(samples(100_000))
    for slack in (0.0, 0.02):
        batching = bw.TokenBudget(16_384, slack=slack)
        planner = bw.Planner(lengths, batching=batching)
        found = variety(planner)
        middle = [
            share
            for low, share in zip(found.bands, found.batches, strict=False)
            if 0.1 <= low < 0.9
        ]
        subject = f"{lengths.size:,} lengths, TokenBudget(16,384, slack={slack:g})"
        yield Claim(
            subject,
            "distinct batch-mates ÷ those of a shuffle",
            float(min(middle)),
            at_least=0.5 if slack else None,
            note=f"of the middle 80 % of the samples, over {found.epochs} epochs",
        )
        padded = int(tokens_laid_out(planner(0), lengths).sum())
        real = int(lengths.sum(dtype=np.int64))
        yield Claim(subject, "efficiency", real / padded, at_least=0.985)


def _claims(
    size: int, mixing: str, bounds: dict[str, float], *, least_efficiency: float
) -> Iterator[Claim]:
    lengths = TEXT.draw(size)
    batching = bw.TokenBudget(16_384, mixing=mixing)
    planner = bw.Planner(lengths, batching=batching, world_size=RANKS, accumulate=SLOTS)
    updates = len(planner) // (RANKS * SLOTS)
    # A few hundred updates say little about a variance: several epochs are looked at.
    plans = [planner(epoch) for epoch in range(max(1, min(200, UPDATES_SEEN // updates)))]
    subject = f'{size:,} lengths, TokenBudget(16,384, mixing="{mixing}"), 8 ranks × 4'
    note = f"mean of {len(plans)} epochs of {updates:,} updates"

    told = [plan.stats(lengths).dispersion for plan in plans]
    yield Claim(
        subject,
        "dispersion",
        float(np.mean(told)),
        **bounds,
        note=f"{note}; {min(told):.3g} to {max(told):.3g}",
    )
    padded = sum(int(tokens_laid_out(plan, lengths).sum()) for plan in plans)
    real = len(plans) * int(lengths.sum(dtype=np.int64))
    yield Claim(subject, "efficiency", real / padded, at_least=least_efficiency, note=note)

    shuffles = max(20, min(400, UPDATES_SEEN // updates))
    seen = dispersion_beside_shuffles(plans[0], lengths, shuffles=shuffles)
    yield Claim(
        subject,
        "dispersion as told ÷ as seen",
        told[0] / seen,
        at_least=0.95,
        at_most=1.05,
        note=f"{told[0]:.4g} told by stats, {seen:.4g} seen beside {shuffles} real shuffles",
    )
