"""Planning beside NumPy's own shuffle and sort, by pytest-benchmark: one table for each size.

Absolute times, with their spread; `python -m benchmarks.planning` takes the ratios in turns.
"""

import numpy as np
import pytest

import batchwright as bw
from benchmarks.length_sets import TEXT

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
WORK = {
    "permutation": lambda lengths: np.random.default_rng(0).permutation(lengths.size),
    "counting argsort": lambda lengths: np.argsort(lengths.astype(np.uint16), kind="stable"),
    "plan": lambda lengths: bw.plan(lengths, max_tokens=16_384),
    "plan, 8 ranks of 4": lambda lengths: bw.plan(
        lengths, max_tokens=16_384, world_size=8, accumulate=4
    ),
    "pack": lambda lengths: bw.plan(lengths, batching=bw.Packing(8_192)),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("work", WORK)
def test_planning(benchmark, size, work):
    benchmark.group = f"{size:,} lengths"
    lengths = TEXT.draw(size)
    rounds = 3 if size > 1_000_000 else 10
    benchmark.pedantic(WORK[work], args=(lengths,), rounds=rounds, warmup_rounds=1)
