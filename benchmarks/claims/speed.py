"""What planning costs, and that speed is not bought with padding, budget or samples."""

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

import batchwright as bw
from batchwright.typing import Batching
from benchmarks.claims.claim import Claim, Samples
from benchmarks.length_sets import DOCUMENTS, TEXT
from benchmarks.plain_measures import (
    tokens_laid_out,
    uses_every_sample_once,
    uses_every_token_once,
)
from benchmarks.timing import COUNTING_ARGSORT, PERMUTATION, import_times, in_turns, yardsticks

EPOCH = "whole epoch"
FIRST = "planner and first epoch"

ROUNDS = 7
IMPORT_ROUNDS = 15


def planning(samples: Samples) -> Iterator[Claim]:
    """Plan padded batches of 10⁷ samples."""
    budget = 16_384
    lengths = TEXT.draw(samples(10_000_000))
    subject = f"plan {lengths.size:,} lengths, TokenBudget(16,384)"
    batching = bw.TokenBudget(budget)
    yield from _ratios(subject, lengths, batching, at_most=1.0, aim=0.6)
    plan = bw.plan(lengths, batching=batching)
    laid_out = tokens_laid_out(plan, lengths)
    efficiency = float(lengths.sum(dtype=np.int64) / laid_out.sum())
    yield Claim(subject, "efficiency", efficiency, at_least=0.999)
    yield Claim(
        subject,
        "largest batch",
        int(laid_out.max()),
        at_most=budget,
        at_any_size=True,
        unit="tokens",
        note=f"of {len(plan):,} batches",
    )
    yield Claim.true(subject, "each sample once", uses_every_sample_once(plan, lengths.size))
    yield from _ratios(
        f"{subject}, 8 ranks × 4",
        lengths,
        batching,
        world_size=8,
        accumulate=4,
        at_most=1.0,
        aim=0.6,
    )


def packing(samples: Samples) -> Iterator[Claim]:
    """Pack 10⁷ samples into rows."""
    lengths = TEXT.draw(samples(10_000_000))
    subject = f"pack {lengths.size:,} lengths, Packing(8,192)"
    batching = bw.Packing(8_192)
    yield from _ratios(subject, lengths, batching, at_most=1.5, aim=0.8)
    yield from _rows(subject, lengths, batching, at_most=1.0005)


def packing_documents(samples: Samples) -> Iterator[Claim]:
    """Pack 10⁶ documents into long rows, the longest of them split or cut."""
    capacity = 131_072
    lengths = DOCUMENTS.draw(samples(1_000_000))
    for given, kind, batching in (
        (lengths, "split", bw.Packing(capacity, oversize="split")),
        (np.minimum(lengths, capacity), "capped", bw.Packing(capacity)),
    ):
        subject = f"pack {given.size:,} documents, Packing(131,072), {kind}"
        yield from _ratios(subject, given, batching)
        yield from _rows(subject, given, batching, at_most=1.001)


def importing(_: Samples) -> Iterator[Claim]:
    """Import batchwright, and NumPy alone."""
    times = import_times(("numpy", "batchwright"), rounds=IMPORT_ROUNDS)
    ratio = times.ratio("batchwright", "numpy")
    yield Claim(
        "import batchwright",
        "× import numpy",
        ratio.median,
        at_most=1.5,
        note=f"{ratio.least:.2f} to {ratio.most:.2f}, fresh interpreters in turns",
        more={"seconds": times.seconds},
    )


def _ratios(
    subject: str,
    lengths: np.ndarray,
    batching: Batching,
    *,
    world_size: int = 1,
    accumulate: int = 1,
    at_most: float | None = None,
    aim: float | None = None,
) -> Iterator[Claim]:
    """Time an epoch as arrays, alone and from checking the lengths on, beside the yardsticks."""
    world = {"world_size": world_size, "accumulate": accumulate}
    planner = bw.Planner(lengths, batching=batching, **world)
    tasks = {
        **yardsticks(lengths),
        EPOCH: lambda turn: planner(turn).indices,
        FIRST: lambda turn: bw.plan(lengths, batching=batching, epoch=turn, **world).indices,
    }
    times = in_turns(tasks, rounds=ROUNDS)
    for task, yardstick in (
        (EPOCH, PERMUTATION),
        (EPOCH, COUNTING_ARGSORT),
        (FIRST, PERMUTATION),
    ):
        ratio = times.ratio(task, yardstick)
        is_promised = task == EPOCH and yardstick == PERMUTATION
        bounds = {"at_most": at_most, "aim": aim} if is_promised else {}
        yield Claim(
            subject,
            f"{task} × {yardstick}",
            ratio.median,
            **bounds,
            note=f"{ratio.least:.2f} to {ratio.most:.2f} in {ROUNDS} rounds; "
            f"{times.median(task):.3g} s",
            more={**asdict(ratio), "seconds": times.median(task), "at_work": times.at_work},
        )


def _rows(
    subject: str, lengths: np.ndarray, batching: bw.Packing, *, at_most: float
) -> Iterator[Claim]:
    plan = bw.plan(lengths, batching=batching)
    tokens = int(lengths.sum(dtype=np.int64))
    bound = -(-tokens // batching.capacity)
    yield Claim(
        subject,
        "rows × ⌈tokens ÷ capacity⌉",
        len(plan) / bound,
        at_most=at_most,
        note=f"{len(plan):,} rows for {bound:,}",
    )
    yield Claim(
        subject,
        "fullest row",
        int(tokens_laid_out(plan, lengths).max()),
        at_most=batching.capacity,
        at_any_size=True,
        unit="tokens",
    )
    yield Claim.true(subject, "each token once", uses_every_token_once(plan, lengths))
