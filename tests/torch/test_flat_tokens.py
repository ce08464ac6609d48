"""Flat tokens: a batch gathered at once is the batch of its samples one by one."""

import pickle
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset, default_collate

import batchwright as bw
from batchwright.errors import (
    ColumnNotFoundError,
    LengthsError,
    PlanError,
    SourceError,
    SourceNotFoundError,
)
from batchwright.torch import (
    FlatTokens,
    PackCollator,
    PadCollator,
    Piece,
    PieceDataset,
    PlanBatchSampler,
    PlanLoader,
)
from batchwright.torch.data.flat_rows import FlatBatch


def copied(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301


KINDS = {
    "array": lambda flat: flat,
    "tensor": torch.from_numpy,
    "Arrow": pa.array,
    "chunks": lambda flat: pa.chunked_array([pa.array(flat)]),
}
DTYPES = ("uint8", "uint16", "int32", "uint32", "int64", "uint64", ">u2")


@st.composite
def flat_data(draw, least=0):
    """Draw tokens with labels, weights of tokens and of samples; and the samples one by one."""
    lengths = draw(st.lists(st.integers(least, 12), min_size=1, max_size=8))
    offsets = np.append(0, np.cumsum(lengths)) + draw(st.integers(0, 3))
    dtype = draw(st.sampled_from(DTYPES))
    total = int(offsets[-1]) + draw(st.integers(0, 3))
    rng = np.random.default_rng(total)
    fields = {"input_ids": rng.integers(0, 99, total).astype(dtype)}
    if draw(st.booleans()):
        fields["labels"] = rng.integers(-9, 99, total).astype("int16")
    if draw(st.booleans()) and sum(lengths):
        fields["weights"] = rng.random(total, dtype=np.float32)
        fields["is_answer"] = rng.random(total) < 0.5
    columns = {}
    if draw(st.booleans()):
        columns = {"weight": rng.random(len(lengths)), "label": rng.integers(0, 5, len(lengths))}
    kind = draw(st.sampled_from(list(KINDS))) if dtype != ">u2" else "array"
    dataset = FlatTokens(
        {name: KINDS[kind](flat) for name, flat in fields.items()}, offsets, columns=columns
    )
    samples = [
        {name: flat[start:stop] for name, flat in fields.items()}
        | {name: values[index] for name, values in columns.items()}
        for index, (start, stop) in enumerate(pairwise(offsets))
    ]
    chosen = draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=9))
    return dataset, samples, chosen


def assert_same(found, expected):
    assert type(found) is type(expected) is dict
    assert [*found] == [*expected]
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert found[name].dtype == value.dtype, name
            assert found[name].equal(value), name
        else:
            assert found[name] == value, name


@given(data=flat_data(), options=st.data())
def test_padding_gives_what_it_gives_for_single_samples(data, options):
    dataset, samples, chosen = data
    collate = PadCollator(
        options.draw(st.sampled_from((0, -1, 7, {"input_ids": 9}, {"input_ids": 2**40}))),
        side=options.draw(st.sampled_from(("right", "left"))),
        pad_to_multiple_of=options.draw(st.sampled_from((1, 2, 8))),
        max_length=options.draw(st.none() | st.integers(1, 12)),
        sequences=[name for name, value in samples[0].items() if np.ndim(value)],
        attention_mask=options.draw(st.sampled_from((True, False, "input_ids"))),
        lengths=options.draw(st.booleans()),
    )
    batch = dataset.__getitems__(chosen)
    assert isinstance(batch, FlatBatch)
    expected = collate([samples[index] for index in chosen])
    assert_same(collate(batch), expected)
    assert_same(collate(list(batch)), expected)
    assert_same(collate(copied(batch)), expected)


@given(data=flat_data(least=1), options=st.data())
def test_packing_gives_what_it_gives_for_single_samples(data, options):
    dataset, samples, chosen = data
    align = options.draw(st.sampled_from((1, 4)))
    capacity = options.draw(st.sampled_from((None, 16 * len(chosen))))
    collate = PackCollator(
        labels=options.draw(st.sampled_from(("labels", None))),
        align=align,
        capacity=capacity,
        max_length=options.draw(st.none() | st.integers(1, 12)),
        pad=options.draw(
            st.sampled_from((0, 5, *([{"weights": 0.0}] if "weights" in samples[0] else [])))
        ),
    )
    batch = dataset.__getitems__(chosen)
    expected = collate([samples[index] for index in chosen])
    assert_same(collate(batch), expected)
    assert_same(collate(list(batch)), expected)


@given(data=flat_data(least=1), options=st.data())
def test_pieces_are_those_of_a_piece_dataset(data, options):
    dataset, samples, chosen = data
    pieces = []
    for index in chosen:
        size = len(samples[index]["input_ids"])
        start = options.draw(st.integers(0, size - 1))
        stop = options.draw(st.none() | st.integers(start + 1, size + 3))
        pieces.append(options.draw(st.sampled_from((Piece(index, start, stop), index))))
    fields = [name for name, value in samples[0].items() if np.ndim(value)]
    expected = PackCollator()(PieceDataset(samples, fields=fields).__getitems__(pieces))
    assert_same(PackCollator()(dataset.__getitems__(pieces)), expected)
    assert_same(PackCollator()(PieceDataset(dataset, fields=fields).__getitems__(pieces)), expected)


def test_shapes_of_buckets_and_rows_in_several_columns():
    lengths = np.random.default_rng(0).integers(1, 30, 60)
    offsets = np.append(0, np.cumsum(lengths))
    tokens = np.arange(offsets[-1])
    dataset = FlatTokens(tokens, offsets, labels=True)
    plan = bw.plan(dataset.lengths, batching=bw.Buckets(3, max_tokens=120))
    two_rows = PackCollator(columns={"input_ids": "encoder", "labels": "decoder"})
    for collate in (PadCollator(shapes=plan.layout.shapes), two_rows):
        for batch in plan:
            samples = [dataset[int(index)] for index in batch]
            assert_same(collate(dataset.__getitems__(batch.tolist())), collate(samples))


def corpus(folder, *, count=300):
    """Write tokens and offsets whose tokens say which sample they are of."""
    lengths = np.random.default_rng(0).lognormal(3, 0.8, count).clip(1, 90).astype(int)
    np.save(folder / "offsets.npy", np.append(0, np.cumsum(lengths)))
    np.repeat(np.arange(count), lengths).astype(np.uint16).tofile(folder / "tokens.bin")
    tokens = np.memmap(folder / "tokens.bin", np.uint16, "r")
    offsets = np.load(folder / "offsets.npy", mmap_mode="r")
    return FlatTokens(tokens, offsets, labels=True, columns={"number": np.arange(count)}), lengths


@pytest.mark.parametrize(
    "batching",
    [
        bw.TokenBudget(256, oversize="drop", pad_to_multiple_of=8),
        bw.Packing(64, oversize="truncate"),
        bw.Packing(16, oversize="split"),
    ],
    ids=["padded", "truncated", "split"],
)
def test_a_loader_gives_the_plan(tmp_path, batching):
    dataset, lengths = corpus(tmp_path)
    assert dataset.lengths.tolist() == lengths.tolist()
    planner = bw.Planner(dataset.lengths, batching=batching)
    plan = planner(0)
    is_packed = isinstance(batching, bw.Packing)
    collate = PackCollator(max_length=plan.layout.max_length) if is_packed else PadCollator(-1)
    loader = PlanLoader(dataset, planner, collate_fn=collate)
    read = np.zeros(len(lengths), dtype=int)
    for batch, entries in zip(loader, PlanBatchSampler(planner), strict=True):
        tokens = batch["input_ids"]
        samples = [each[0] if isinstance(each, tuple) else each for each in entries]
        if is_packed:
            owners = batch["document_ids"][0]
            assert tokens[0].tolist() == [samples[owner] for owner in owners]
        else:
            assert batch["number"].tolist() == samples
            assert tokens.numel() <= 256
            assert tokens.max(1).values.tolist() == samples
        np.add.at(read, tokens[tokens >= 0].numpy(), 1)
    if plan.layout.max_length == 64:
        assert read.tolist() == np.minimum(lengths, 64).tolist()
    else:
        assert read.tolist() == lengths.tolist()


def test_memory_maps_are_pickled_by_path(tmp_path):
    _, lengths = corpus(tmp_path, count=20_000)
    tokens = np.memmap(tmp_path / "tokens.bin", np.uint16, "r")
    offsets = np.load(tmp_path / "offsets.npy", mmap_mode="r")
    dataset = FlatTokens(tokens, offsets, labels=True)
    assert len(pickle.dumps(dataset)) < 1_000
    assert copied(dataset)[7]["labels"].tolist() == [7] * lengths[7]
    part = tokens[100:200][50:]  # of a view, the offset is not that of the file
    copy = copied(FlatTokens(part, [0, 3, 50]))
    assert copy[1]["input_ids"].tolist() == part[3:].tolist()
    every_second = copied(FlatTokens(tokens[:100:2], [0, 3, 50]))
    assert every_second[1]["input_ids"].tolist() == tokens[6:100:2].tolist()


def test_a_mapped_file_that_was_cut_off_is_refused(tmp_path):
    path = tmp_path / "tokens.bin"
    np.arange(9, dtype=np.uint16).tofile(path)
    dataset = FlatTokens(np.memmap(path, np.uint16, "r"), [0, 5, 9])
    np.arange(5, dtype=np.uint16).tofile(path)
    with pytest.raises(SourceError, match=r"tokens.bin cannot be read as uint16\[9\]"):
        copied(dataset)
    path.unlink()
    with pytest.raises(SourceNotFoundError, match=r"no file .*tokens.bin"):
        copied(dataset)


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_the_same(tmp_path, context):
    dataset, _ = corpus(tmp_path)
    planner = bw.Planner(dataset.lengths, max_tokens=512)
    expected = list(PlanLoader(dataset, planner, collate_fn=PadCollator()))
    options = {"num_workers": 1, "multiprocessing_context": context}
    found = list(PlanLoader(dataset, planner, collate_fn=PadCollator(), **options))
    assert len(found) == len(expected) > 5
    for batch, other in zip(found, expected, strict=True):
        assert_same(batch, other)


def test_other_collators_get_samples(tmp_path):
    dataset, lengths = corpus(tmp_path)
    loader = DataLoader(dataset, batch_size=3, collate_fn=lambda batch: batch)
    batch = next(iter(loader))
    assert [sample["number"] for sample in batch] == [0, 1, 2]
    assert [len(sample["labels"]) for sample in batch[1:]] == lengths[1:3].tolist()
    with pytest.raises(TypeError, match=r"'input_ids'.*collate\(list\(batch\)\)"):
        batch["input_ids"]
    with pytest.raises(AttributeError, match=r"'keys'.*collate\(list\(batch\)\)"):
        batch.keys()  # as the collators of Transformers that call tokenizer.pad
    assert [sample["number"] for sample in copied(batch)] == [0, 1, 2]
    even = FlatTokens(np.arange(12), np.arange(0, 13, 3))
    assert default_collate(even.__getitems__([3, 0]))["input_ids"].tolist() == [
        [9, 10, 11],
        [0, 1, 2],
    ]
    part = DataLoader(Subset(dataset, [5, 7]), batch_size=2, collate_fn=PadCollator())
    assert next(iter(part))["number"].tolist() == [5, 7]
    assert even[-1]["input_ids"].tolist() == [9, 10, 11]
    assert [len(sample["input_ids"]) for sample in even] == [3] * 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FlatTokens(np.zeros((2, 3)), [0, 1]), r"shape \[2, 3\]; expected a flat array"),
        (lambda: FlatTokens(np.array(["a"]), [0, 1]), "expected one type of numbers"),
        (lambda: FlatTokens(np.arange(3), [0.0, 1.0]), "expected integers"),
        (lambda: FlatTokens(np.arange(3), []), r"float64\[0\]; expected integers"),
        (lambda: FlatTokens(np.arange(3), [0, 4]), "sample 0 go from 0 to 4, of 3 tokens"),
        (lambda: FlatTokens(np.arange(3), [-1, 2]), "sample 0 go from -1 to 2"),
        (lambda: FlatTokens(np.arange(9), [0, 5, 3, 9]).lengths, "sample 1 go from 5 to 3"),
        (
            lambda: FlatTokens(np.arange(9), [0, 5, 3, 9])[1],
            "5 to 3, of 9 tokens: they are damaged",
        ),
        (
            lambda: FlatTokens({"input_ids": np.arange(3), "labels": np.arange(4)}, [0, 3]),
            "'labels' has 4 entries and 'input_ids' 3",
        ),
        (
            lambda: FlatTokens(np.arange(3), [0, 3], columns={"weight": [1.0, 2.0]}),
            r"columns\['weight'\] is float64\[2\]; expected one number for each of 1 samples",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(make, message):
    with pytest.raises(LengthsError, match=message):
        make()


@pytest.mark.parametrize(
    "fields", [{}, {"labels": np.arange(3)}, {"input_ids": np.arange(3), "labels": np.arange(3)}]
)
def test_labels_are_made_of_tokens_where_there_are_none(fields):
    with pytest.raises(ColumnNotFoundError, match=r"labels=True\) got the fields .* and no labels"):
        FlatTokens(fields, [0, 3], labels=True)


def test_indices_that_are_none_are_refused():
    dataset = FlatTokens(np.arange(9), [0, 5, 9])
    with pytest.raises(IndexError, match="sample 2 of 2"):
        dataset[2]
    with pytest.raises(TypeError, match="not integers"):
        dataset.__getitems__([0.5])
    with pytest.raises(PlanError, match="sample 0 has 5 tokens, the piece begins at 5"):
        dataset[Piece(0, 5, 9)]
    with pytest.raises(PlanError, match="sample 1 has 4 tokens, the piece begins at -1"):
        dataset[Piece(1, -1, 2)]
    with pytest.raises(LengthsError, match="no sample to collate"):
        PadCollator()(dataset.__getitems__([]))


def test_long_offsets_and_many_samples():
    dataset = FlatTokens(np.zeros(5, np.uint8), np.array([0, 2, 2, 5], np.uint64))
    assert dataset.lengths.dtype == np.int32
    assert dataset.lengths.tolist() == [2, 0, 3]
    assert len(FlatTokens(np.zeros(0), [0])) == 0
