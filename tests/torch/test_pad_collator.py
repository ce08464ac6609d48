"""Padding: every token in its place, nothing else but padding around it."""

import collections
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import batchwright as bw
from batchwright.torch import PadCollator, PlanBatchSampler
from tests.torch.planners import log_normal

KINDS = {
    "list": list,
    "array": np.array,
    "tensor": torch.tensor,
    "uint16": lambda row: np.array(row, dtype=np.uint16),
    "int32 tensor": lambda row: torch.tensor(row, dtype=torch.int32),
    "memory map": lambda row: np.asarray(row, dtype=np.int64)[:],
}

rows = st.lists(st.lists(st.integers(1, 99), min_size=0, max_size=9), min_size=1, max_size=6)


def padded_by_hand(rows, pad, multiple=1, max_length=None):
    rows = [row[:max_length] for row in rows]
    width = max(1, *map(len, rows), 0)
    width += -width % multiple
    return [row + [pad] * (width - len(row)) for row in rows]


@given(
    rows=rows,
    kind=st.sampled_from(sorted(KINDS)),
    pad=st.integers(-100, 9),
    multiple=st.sampled_from((1, 2, 8)),
    max_length=st.none() | st.integers(1, 9),
)
def test_every_row_is_itself_and_padding(rows, kind, pad, multiple, max_length):
    collate = PadCollator(pad, pad_to_multiple_of=multiple, max_length=max_length)
    batch = collate([KINDS[kind](row) if row else [] for row in rows])
    assert batch.dtype == torch.int64
    assert batch.tolist() == padded_by_hand(rows, pad, multiple, max_length)


@given(rows=rows, other=rows)
def test_fields_are_padded_each_on_its_own(rows, other):
    size = min(len(rows), len(other))
    samples = [{"source": rows[i], "target": other[i]} for i in range(size)]
    collate = PadCollator({"target": 7}, attention_mask="source", lengths="target")
    batch = collate(samples)
    assert batch["source"].tolist() == padded_by_hand(rows[:size], 0)
    assert batch["target"].tolist() == padded_by_hand(other[:size], 7)
    assert batch["lengths"].tolist() == [len(row) for row in other[:size]]
    assert batch["attention_mask"].sum(1).tolist() == [len(row) for row in rows[:size]]
    ones = [[1] * len(row) for row in rows[:size]]
    assert batch["attention_mask"].tolist() == padded_by_hand(ones, 0)
    assert [*batch] == ["source", "target", "attention_mask", "lengths"]


def test_labels_and_masks_get_padding_that_means_nothing():
    samples = [
        {"input_ids": [5, 6], "labels": [6, 7], "attention_mask": [1, 1]},
        {"input_ids": [8], "labels": [9], "attention_mask": [1]},
    ]
    for pad in (3, {"input_ids": 3}):
        batch = PadCollator(pad)(samples)
        assert batch["input_ids"].tolist() == [[5, 6], [8, 3]]
        assert batch["labels"].tolist() == [[6, 7], [9, -100]]
        assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert PadCollator({"labels": 0})(samples)["labels"].tolist() == [[6, 7], [9, 0]]
    nothing = torch.nn.functional.cross_entropy(
        torch.zeros(1, 9), batch["labels"][1, 1:], reduction="sum"
    )
    assert nothing == 0


def test_a_mask_of_the_samples_stays_theirs():
    samples = [
        {"input_ids": [5, 6], "attention_mask": [0, 1]},
        {"input_ids": [7], "attention_mask": [1]},
    ]
    batch = PadCollator(attention_mask=True)(samples)
    assert batch["attention_mask"].tolist() == [[0, 1], [1, 0]]


def test_tuples_stay_tuples_and_are_padded_by_position():
    collate = PadCollator((1, 2, 0), lengths=1, attention_mask=True)
    source, target, label, mask, lengths = collate([([5, 6], [7], 1.5), ([8], [9, 9, 9], 2.5)])
    assert source.tolist() == [[5, 6], [8, 1]]
    assert target.tolist() == [[7, 2, 2], [9, 9, 9]]
    assert label.tolist() == [1.5, 2.5]
    assert label.dtype == torch.float32
    assert mask.tolist() == [[1, 1], [1, 0]]
    assert lengths.tolist() == [1, 3]


def test_single_sequences_become_a_tensor_with_what_was_asked_for_behind_it():
    samples = [torch.tensor([5, 6]), torch.tensor([7])]
    assert PadCollator()(samples).tolist() == [[5, 6], [7, 0]]
    batch, lengths = PadCollator(lengths=True)(samples)
    assert batch.tolist() == [[5, 6], [7, 0]]
    assert lengths.tolist() == [2, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.bool])
def test_other_types_stay(dtype):
    samples = [torch.ones(2, dtype=dtype), torch.ones(1, dtype=dtype)]
    batch = PadCollator()(samples)
    assert batch.dtype == dtype
    assert batch.tolist() == [[1, 1], [1, 0]]


def test_lists_of_floats_are_torchs_default_and_arrays_stay():
    assert PadCollator()([[0.5], [1, 2]]).dtype == torch.float32
    assert PadCollator()([np.array([0.5]), np.array([1.0, 2.0])]).dtype == torch.float64


def test_an_empty_row_does_not_change_the_type():
    batch = PadCollator()([{"labels": []}, {"labels": [3, 4]}])
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [[-100, -100], [3, 4]]
    assert PadCollator()([[], []]).tolist() == [[0], [0]]


def test_frames_are_padded_along_time():
    frames = [np.ones((3, 2), dtype=np.float32), np.ones((1, 2), dtype=np.float32)]
    batch, lengths = PadCollator(lengths=True, pad_to_multiple_of=4)(frames)
    assert batch.shape == (2, 4, 2)
    assert batch.sum((1, 2)).tolist() == [6, 2]
    assert lengths.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 0], torch.int64),
        ([np.int32(1), np.int32(0)], torch.int64),
        ([np.array(1), np.array(0)], torch.int64),
        ([torch.tensor(1), torch.tensor(0)], torch.int64),
        ([1.0, 0.0], torch.float32),
        ([np.float64(1), np.float64(0)], torch.float64),
        ([np.float16(1), np.float16(0)], torch.float16),
        ([True, False], torch.bool),
    ],
)
def test_numbers_are_stacked(values, dtype):
    batch = PadCollator()([{"x": [1], "y": value} for value in values])
    assert batch["y"].dtype == dtype
    assert batch["y"].tolist() == [1, 0]


@pytest.mark.parametrize("values", [["a", "b"], [None, None], [1, None], [(1, 2), (3, 4)]])
def test_anything_else_stays_a_list(values):
    batch = PadCollator()([{"x": [1], "y": value} for value in values])
    assert batch["y"] == values


def test_mappings_of_any_kind_are_dicts():
    samples = [collections.UserDict(input_ids=[5, 6]), collections.UserDict(input_ids=[7])]
    assert PadCollator()(samples)["input_ids"].tolist() == [[5, 6], [7, 0]]


@pytest.mark.parametrize(
    ("collate", "samples", "error", "told"),
    [
        (PadCollator(), [], bw.LengthsError, "no sample"),
        (PadCollator({"label": 1}), [{"labels": [1]}], bw.ColumnNotFoundError, "names 'label'"),
        (PadCollator(), [{"a": [1]}, {"b": [1]}], bw.ColumnNotFoundError, "sample 1 .* field 'a'"),
        (PadCollator(), [([1], [2]), ([1],)], bw.ColumnNotFoundError, "sample 1 .* no field 1"),
        (PadCollator(), [{"a": [1]}, ([1],)], bw.LengthsError, "sample 1 .* is a tuple, the first"),
        (PadCollator(), [{"a": [1]}, {"a": 1}], bw.LengthsError, "'a' of sample 1 .* a int"),
        (PadCollator(), [{"a": ["x"]}], bw.LengthsError, "field 'a' cannot be laid out"),
        (PadCollator(), [[[1, 2], [3]]], bw.LengthsError, "field 0 cannot be laid out"),
        (PadCollator(), [np.ones((1, 2)), np.ones((1, 3))], bw.LengthsError, r"\[1, 2\], \[1, 3\]"),
        (PadCollator(lengths="x"), [{"a": [1]}], bw.ColumnNotFoundError, r"lengths='x'.*\['a'\]"),
        (PadCollator(lengths=True), [{"a": 1}], bw.ColumnNotFoundError, "lengths=True"),
        (PadCollator(attention_mask=2), [([1], [2])], bw.ColumnNotFoundError, "attention_mask=2"),
    ],
)
def test_what_cannot_be_collated_is_named(collate, samples, error, told):
    with pytest.raises(error, match=told):
        collate(samples)


@pytest.mark.parametrize("settings", [{"pad_to_multiple_of": 0}, {"max_length": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(bw.BudgetError, match="expected an integer of at least 1"):
        PadCollator(**settings)


def test_it_goes_to_workers():
    collate = PadCollator({"input_ids": 1}, attention_mask=True)
    assert pickle.loads(pickle.dumps(collate)) == collate  # noqa: S301


@pytest.mark.parametrize("oversize", ["error", "truncate"])
def test_batches_of_a_plan_keep_its_budget(oversize):
    lengths = log_normal(100, longest=200)
    budget = 128 if oversize == "truncate" else 256
    batching = bw.TokenBudget(budget, pad_to_multiple_of=8, oversize=oversize)
    planner = bw.Planner(lengths, batching=batching)
    plan = planner(0)
    dataset = [{"input_ids": np.full(length, i)} for i, length in enumerate(lengths)]
    collate = PadCollator(-1, pad_to_multiple_of=8, max_length=plan.layout.max_length)
    loader = DataLoader(dataset, batch_sampler=PlanBatchSampler(planner), collate_fn=collate)
    sizes = [batch["input_ids"].numel() for batch in loader]
    assert max(sizes) <= budget
    assert sum(sizes) == plan.stats(lengths).padded_tokens
