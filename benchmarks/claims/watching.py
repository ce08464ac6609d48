"""What it costs to measure the updates of a run."""

import statistics
import time
from collections.abc import Iterator

import batchwright as bw
from benchmarks.claims.claim import Claim, Samples
from benchmarks.length_sets import TEXT

BUDGET = 16_384
UPDATES = 400
ROUNDS = 5


def watching(samples: Samples) -> Iterator[Claim]:
    """Call `metrics.of` after each update of a loop over 10⁶ samples."""
    lengths = TEXT.draw(samples(1_000_000))
    for ranks, accumulate, at_most in ((1, 8, 50.0), (8, 4, None)):
        planner = bw.Planner(
            lengths, max_tokens=BUDGET, world_size=ranks, accumulate=accumulate, last="repeat"
        )
        first, *later = (_seconds(planner) for _ in range(ROUNDS))
        each = [seconds[1] for seconds in later]
        held = planner(0)[: ranks * accumulate].num_samples
        yield Claim(
            f"metrics.of, {lengths.size:,} samples",
            f"{ranks} × {accumulate} batches of {BUDGET:,} tokens an update",
            statistics.median(each) * 1e6,
            at_most=at_most,
            unit="µs",
            note=f"{held} samples an update; the first call of a run {first[0] * 1e3:.3g} ms",
            more={"least": min(each) * 1e6, "most": max(each) * 1e6, "samples": held},
        )


def _seconds(planner: bw.Planner) -> tuple[float, float]:
    """Return the time of the first call, and the mean of later ones: of the processor."""
    import torch

    from batchwright.torch import PlanLoader, Precision, windows

    # What tensors a batch holds does not matter: none is read.
    loader = PlanLoader(
        range(planner.num_samples), planner, rank=0, world_size=planner.world_size, collate_fn=len
    )
    model, precision = torch.nn.Linear(1, 1), Precision("fp32", check_loss=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    found = []
    for window in windows(loader, weigh=float):
        with precision.update(model, optimizer, weight=window.tokens) as update:
            update.backward(lambda model, _: model.weight.sum(), window.batches[0])
        begin = time.process_time()
        bw.metrics.of(update, window)
        found.append(time.process_time() - begin)
        if len(found) > UPDATES:
            break
    return found[0], statistics.mean(found[1:] or found)
