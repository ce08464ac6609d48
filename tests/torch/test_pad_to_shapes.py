"""Batches of fixed shapes: empty rows count for nothing."""

import itertools

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
    with pytest.raises(bw.errors.BudgetError, match="1 samples of up to 9 tokens fit into none"):
        collate([torch.ones(9)])
    with pytest.raises(bw.errors.BudgetError, match="3 samples of up to 2 tokens fit into none"):
        collate([torch.ones(2)] * 3)
    with pytest.raises(bw.errors.ColumnNotFoundError, match="'text' holds no numbers"):
        collate([{"ids": torch.ones(3), "text": "a"}])


PAIRS = np.stack([LENGTHS, np.clip(LENGTHS * RNG.lognormal(0.2, 0.3, 120), 1, 60).astype(int)], 1)
TRANSLATIONS = [
    {
        "input_ids": RNG.integers(1, 9, source),
        "attention_mask": np.ones(source, dtype=int),
        "labels": RNG.integers(1, 9, target),
        "speaker": 4,
    }
    for source, target in PAIRS
]


@pytest.mark.parametrize("cost", [None, "padded"])
def test_source_and_target_take_the_planned_shapes(cost):
    planner = bw.Planner(
        PAIRS, batching=bw.Buckets(4, max_tokens=300), world_size=2, accumulate=2, cost=cost
    )
    plan = planner(0)
    collate = PadCollator(
        shapes=plan.layout.shapes,
        columns={"input_ids": 0, "attention_mask": 0, "labels": 1},
        lengths="labels",
    )
    indices, offsets = plan.indices, plan.offsets
    tokens, laid_out = [0, 0], []
    for start, stop in itertools.pairwise(offsets):
        batch = collate([TRANSLATIONS[i] for i in indices[start:stop]])
        rows, source = batch["input_ids"].shape
        assert batch["attention_mask"].shape == (rows, source)
        assert batch["labels"].shape[0] == len(batch["speaker"]) == rows
        assert (rows, (source, batch["labels"].shape[1])) in plan.layout.shapes
        tokens[0] += int(batch["attention_mask"].sum())
        tokens[1] += int((batch["labels"] != -100).sum())
        assert torch.equal(batch["lengths"], (batch["labels"] != -100).sum(1))
        laid_out.append(batch["input_ids"].numel() + batch["labels"].numel())
    assert tokens == PAIRS.sum(axis=0).tolist()
    # What the plan says of each batch is what the collator makes of it.
    entries = plan.entry_lengths(PAIRS)
    assert plan.layout.batch_tokens(entries, offsets).tolist() == laid_out


def test_sequences_take_the_columns_in_their_sequence_or_those_that_are_named():
    samples = [(torch.ones(3), torch.ones(2)), (torch.ones(2), torch.ones(5))]
    shapes = [(4, (4, 6)), (2, (8, 8))]
    source, target = PadCollator(shapes=shapes)(samples)
    assert (source.shape, target.shape) == ((4, 4), (4, 6))
    source, target = PadCollator(shapes=shapes, columns={0: 1, 1: 0})(samples)
    assert (source.shape, target.shape) == ((2, 8), (2, 8))
    named = {"ids": 0, "next": 1, "voice": None}
    batch = PadCollator(shapes=shapes, columns=named, max_length=2)(
        [{"ids": [1, 2, 3], "next": [1], "voice": [0.5, 0.5, 0.5]}]
    )
    assert [batch[name].shape[1] for name in named] == [4, 6, 2]
    one = PadCollator(shapes=[(2, 8)], columns={"ids": 0, "voice": None})
    batch = one([{"ids": [1, 2, 3], "voice": [0.5, 0.5]}])
    assert (batch["ids"].shape, batch["voice"].shape) == ((2, 8), (2, 2))


def test_columns_that_nobody_can_guess_are_refused():
    three = [{"input_ids": [1], "attention_mask": [1], "labels": [1, 2]}]
    with pytest.raises(bw.errors.ColumnNotFoundError, match="Say which belongs to which"):
        PadCollator(shapes=[(2, (4, 4))])(three)
    with pytest.raises(bw.errors.ColumnNotFoundError, match="Name all of them"):
        PadCollator(shapes=[(2, (4, 4))], columns={"input_ids": 0, "labels": 1})(three)
    with pytest.raises(bw.errors.ColumnNotFoundError, match="Name all of them"):
        PadCollator(shapes=[(2, 4)], columns={"tokens": 0})(three)
    with pytest.raises(
        bw.errors.BudgetError, match="1 samples of up to 1 and 9 tokens fit into none"
    ):
        PadCollator(shapes=[(2, (4, 4))])([([1], [1] * 9)])
    for settings in (
        {"columns": {"input_ids": 1}, "shapes": [(2, 4)]},
        {"columns": {"input_ids": 0}, "shapes": [(2, (4, 4))]},
        {"columns": {"input_ids": 0, "labels": 2}, "shapes": [(2, (4, 4))]},
        {"shapes": [(2, (4, 4)), (2, 8)]},
        {"shapes": []},
    ):
        with pytest.raises(bw.errors.BudgetError, match="expected"):
            PadCollator(**settings)
