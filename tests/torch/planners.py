"""Lengths and planners that the tests of `batchwright.torch` share."""

import json
from typing import Any

import numpy as np
from hypothesis import strategies as st

import batchwright as bw
from batchwright.torch import PlanBatchSampler

BATCHINGS = (
    bw.TokenBudget(48),
    bw.TokenBudget(48, slack=0.3),
    bw.TokenBudget(64, pad_to_multiple_of=4, max_samples=3),
    bw.Packing(40),
    bw.Packing(16, oversize="split"),
    bw.FixedSize(4),
)

many_lengths = st.lists(st.integers(1, 30), min_size=1, max_size=120)
batchings = st.sampled_from(BATCHINGS)


def log_normal(size: int, *, seed: int = 0, longest: int = 60) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(rng.lognormal(2.5, 0.7, size).astype(np.int64), 1, longest)


def rank_samplers(plans: Any, world_size: int) -> list[PlanBatchSampler]:
    return [PlanBatchSampler(plans, rank=rank, world_size=world_size) for rank in range(world_size)]


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(state)
    assert len(text) < 1024
    return json.loads(text)


def dealt_back(per_rank: list[list[list[Any]]]) -> list[Any]:
    """Undo the deal: rank r has batches r, r + world, …; return all entries in global sequence."""
    counts = {len(batches) for batches in per_rank}
    assert len(counts) == 1, f"ranks have {counts} batches"
    return [entry for step in zip(*per_rank, strict=True) for batch in step for entry in batch]


def entries(plan: bw.Plan) -> list[Any]:
    """List what a plan asks for, in sequence: sample indices, or (index, start, stop)."""
    if plan.starts is None:
        return plan.indices.tolist()
    size = plan.layout.max_length
    return [
        (index, start, start + size)
        for index, start in zip(plan.indices.tolist(), plan.starts.tolist(), strict=True)
    ]
