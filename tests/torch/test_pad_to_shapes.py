"""Batches of fixed shapes: empty rows count for nothing."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import batchwright as bw
from batchwright.torch import PadCollator, PlanBatchSampler

RNG = np.random.default_rng(0)
LENGTHS = np.clip(RNG.lognormal(2.5, 0.8, 120), 1, 60).astype(int)
SAMPLES = [
    {"input_ids": RNG.integers(1, 9, length), "labels": RNG.integers(1, 9, length), "speaker": 4}
    for length in LENGTHS
]


def test_a_loader_gives_only_the_planned_shapes_and_every_token():
    planner = bw.Planner(LENGTHS, batching=bw.Buckets(3, max_tokens=200))
    shapes = planner(0).layout.shapes
    loader = DataLoader(
        SAMPLES,
        batch_sampler=PlanBatchSampler(planner),
        collate_fn=PadCollator(shapes=shapes, attention_mask=True, lengths=True),
    )
    seen, tokens = set(), 0
    for batch in loader:
        rows, length = batch["input_ids"].shape
        seen.add((rows, length))
        assert batch["labels"].shape == batch["attention_mask"].shape == (rows, length)
        assert batch["speaker"].shape == batch["lengths"].shape == (rows,)
        real = batch["attention_mask"].bool()
        tokens += int(real.sum())
        assert (batch["labels"][~real] == -100).all()
        assert (batch["labels"][real] != -100).all()
        assert torch.equal(batch["lengths"], real.sum(1))
        empty = batch["lengths"] == 0
        assert (batch["speaker"][empty] == 0).all()
        assert (batch["speaker"][~empty] == 4).all()
    assert seen <= set(shapes)
    assert tokens == LENGTHS.sum()


def test_what_fits_into_no_shape_is_refused():
    collate = PadCollator(shapes=[(2, 8)])
    assert collate([torch.ones(3)]).shape == (2, 8)
    with pytest.raises(bw.BudgetError, match="1 samples of up to 9 tokens fit into none"):
        collate([torch.ones(9)])
    with pytest.raises(bw.BudgetError, match="3 samples of up to 2 tokens fit into none"):
        collate([torch.ones(2)] * 3)
    with pytest.raises(bw.ColumnNotFoundError, match="'text' holds no numbers"):
        collate([{"ids": torch.ones(3), "text": "a"}])
