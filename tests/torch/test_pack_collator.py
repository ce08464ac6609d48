"""Packing: documents one behind the other, each told apart from the next."""

import collections
import pickle
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import batchwright as bw
from batchwright.torch import PackCollator, PieceDataset, PlanBatchSampler
from tests.torch.planners import log_normal

documents = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=6)
NAMES = [
    "input_ids",
    "position_ids",
    "labels",
    "cu_seq_lens_q",
    "cu_seq_lens_k",
    "max_length_q",
    "max_length_k",
    "document_ids",
]


def packed_by_hand(documents, align, capacity):
    """Lay tokens out one at a time; a gap is a segment of its own."""
    ids, positions, labels, owners, edges = [], [], [], [], [0]

    def add(tokens, owner, targets):
        if tokens:
            ids.extend(tokens)
            positions.extend(range(len(tokens)))
            labels.extend(targets)
            owners.extend([owner] * len(tokens))
            edges.append(len(ids))

    for owner, tokens in enumerate(documents):
        gap = -len(tokens) % align
        if capacity is not None and owner == len(documents) - 1:
            gap = capacity - len(ids) - len(tokens)
        add(tokens, owner, [-100, *tokens[1:]])
        add([7] * gap, -1, [-100] * gap)
    return ids, positions, labels, owners, edges


@given(
    documents=documents,
    align=st.sampled_from((1, 4, 8)),
    room=st.none() | st.integers(0, 9),
    as_rows=st.sampled_from((list, np.array, torch.tensor)),
)
def test_the_row_is_what_a_plain_loop_lays_out(documents, align, room, as_rows):
    taken = sum(len(tokens) + -len(tokens) % align for tokens in documents)
    capacity = None if room is None else taken + room
    collate = PackCollator(align=align, capacity=capacity, pad=7)
    batch = collate([{"input_ids": as_rows(tokens)} for tokens in documents])
    ids, positions, labels, owners, edges = packed_by_hand(documents, align, capacity)
    assert [*batch] == NAMES
    assert batch["input_ids"].tolist() == [ids]
    assert batch["position_ids"].tolist() == [positions]
    assert batch["labels"].tolist() == [labels]
    assert batch["document_ids"].tolist() == [owners]
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == edges
    assert batch["max_length_q"] == batch["max_length_k"] == int(np.diff(edges).max())


@pytest.mark.slow
@given(documents=documents, with_labels=st.booleans(), start=st.sampled_from((0, 2)))
def test_it_says_what_transformers_collator_says(documents, with_labels, start):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.DataCollatorWithFlattening(
        return_flash_attn_kwargs=True, return_seq_idx=True, position_ids_start=start
    )
    samples = [{"input_ids": tokens} for tokens in documents]
    if with_labels:
        samples = [each | {"labels": [-i for i in each["input_ids"]]} for each in samples]
    expected = theirs(samples)
    batch = PackCollator(position_ids_start=start)(samples)
    expected["document_ids"] = expected.pop("seq_idx").to(torch.int64)
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        assert type(batch[name]) is type(value), name
        if isinstance(value, torch.Tensor):
            assert batch[name].dtype == value.dtype, name
            assert torch.equal(batch[name], value), name
        else:
            assert batch[name] == value, name


def test_labels_may_have_another_name_or_be_left_out():
    samples = [{"input_ids": [1, 2, 3], "targets": [4, 5, 6]}]
    assert PackCollator(labels="targets")(samples)["labels"].tolist() == [[-100, 5, 6]]
    assert "labels" not in PackCollator(labels=None)(samples)
    filled = PackCollator(capacity=4)(samples)
    assert filled["labels"].tolist() == [[-100, 2, 3, -100]]


def test_masks_and_other_fields_are_left_out_unless_named():
    samples = [
        {"input_ids": [1, 2], "attention_mask": [1, 1], "weight": [0.5, 0.25]},
        {"input_ids": [3], "attention_mask": [1], "weight": [1.0]},
    ]
    assert [*PackCollator()(samples)] == NAMES
    batch = PackCollator(pad={"weight": 0.0}, capacity=4)(samples)
    assert batch["weight"].tolist() == [[0.5, 0.25, 1.0, 0.0]]
    assert batch["input_ids"].tolist() == [[1, 2, 3, 0]]


def test_single_sequences_are_tokens():
    batch = PackCollator()([np.array([1, 2], dtype=np.uint16), np.array([3], dtype=np.uint16)])
    assert batch["input_ids"].tolist() == [[1, 2, 3]]
    assert batch["input_ids"].dtype == torch.int64


def test_long_documents_are_cut_as_a_truncating_plan_expects():
    collate = PackCollator(max_length=2)
    samples = [{"input_ids": [1, 2, 3], "labels": [4, 5, 6]}, {"input_ids": [7], "labels": [8]}]
    batch = collate(samples)
    assert batch["input_ids"].tolist() == [[1, 2, 7]]
    assert batch["labels"].tolist() == [[-100, 5, -100]]


@pytest.mark.parametrize(
    ("collate", "samples", "error", "told"),
    [
        (PackCollator(), [], bw.errors.LengthsError, "no sample"),
        (PackCollator(), [{"tokens": [1]}], bw.errors.ColumnNotFoundError, "expected 'input_ids'"),
        (PackCollator(), [([1], [2])], bw.errors.ColumnNotFoundError, "expected 'input_ids'"),
        (PackCollator(), [[1], []], bw.errors.LengthsError, "sample 1 .* empty"),
        (
            PackCollator(),
            [{"input_ids": [1, 2], "labels": [1]}],
            bw.errors.LengthsError,
            "sample 0 .* 1 entries in 'labels' for 2",
        ),
        (
            PackCollator(capacity=4, align=2),
            [{"input_ids": [1]}, {"input_ids": [1, 2, 3]}],
            bw.errors.BudgetError,
            "take 6 tokens .* capacity=4",
        ),
        (
            PackCollator(pad={"x": 1}),
            [{"input_ids": [1]}],
            bw.errors.ColumnNotFoundError,
            "expected 'x'",
        ),
    ],
)
def test_what_cannot_be_packed_is_named(collate, samples, error, told):
    with pytest.raises(error, match=told):
        collate(samples)


@pytest.mark.parametrize("settings", [{"align": 0}, {"capacity": 0}, {"max_length": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(bw.errors.BudgetError, match="expected an integer of at least 1"):
        PackCollator(**settings)


def test_it_goes_to_workers():
    collate = PackCollator(capacity=9, pad={"input_ids": 3})
    assert pickle.loads(pickle.dumps(collate)) == collate  # noqa: S301


@pytest.mark.parametrize("align", [1, 8])
@pytest.mark.parametrize("oversize", ["split", "truncate"])
def test_rows_of_a_plan_have_one_shape_and_every_token(align, oversize):
    lengths = log_normal(60, longest=150)
    planner = bw.Planner(lengths, batching=bw.Packing(64, align=align, oversize=oversize))
    documents = [{"input_ids": 1 + 1000 * i + np.arange(n)} for i, n in enumerate(lengths)]
    plan = planner(0)
    collate = PackCollator(capacity=64, align=align, max_length=plan.layout.max_length)
    loader = DataLoader(
        PieceDataset(documents), batch_sampler=PlanBatchSampler(planner), collate_fn=collate
    )
    rows = [row["input_ids"] for row in loader]
    assert {row.shape for row in rows} == {(1, 64)}
    tokens = torch.cat(rows, dim=1)
    kept = [each["input_ids"][: 64 if oversize == "truncate" else None] for each in documents]
    assert sorted(tokens[tokens > 0].tolist()) == np.concatenate(kept).tolist()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"pad": None}, "the padding is None"),
        ({"pad": {"input_ids": None}}, "the padding of 'input_ids' is None"),
        ({"columns": ["input_ids"]}, "expected a dict"),
        ({"capacity": "9"}, "capacity='9'"),
        ({"max_length": 2.5}, "max_length=2.5"),
        ({"align": None}, "align=None"),
        ({"position_ids_start": "2"}, "position_ids_start='2'"),
    ],
)
def test_options_of_other_types_are_refused_when_it_is_made(options, told):
    with pytest.raises(bw.errors.BudgetError, match=told):
        PackCollator(**options)


def test_it_goes_to_workers_whatever_it_was_made_of():
    collate = PackCollator(
        columns=types.MappingProxyType({"input_ids": "encoder"}),
        pad=collections.UserDict(input_ids=3),
    )
    before = collate([{"input_ids": [1, 2]}])
    other = pickle.loads(pickle.dumps(collate))  # noqa: S301
    assert other == collate
    assert torch.equal(other([{"input_ids": [1, 2]}])["input_ids"], before["input_ids"])
