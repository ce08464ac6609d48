"""Pieces: one behind the other, they are the sample."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

import batchwright as bw
from batchwright.torch import Piece, PieceDataset, PlanBatchSampler


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20), capacity=st.integers(1, 12))
def test_the_pieces_of_a_plan_are_the_samples(lengths, capacity):
    samples = [{"input_ids": list(range(n)), "name": str(n)} for n in lengths]
    plan = bw.plan(lengths, batching=bw.Packing(capacity, oversize="split"))
    loader = DataLoader(
        PieceDataset(samples),
        batch_sampler=PlanBatchSampler(plan),
        collate_fn=lambda batch: batch,
    )
    parts = [each for batch in loader for each in batch]
    asked = [piece for batch in PlanBatchSampler(plan) for piece in batch]
    rebuilt = {index: [] for index in range(len(lengths))}
    for piece, part in sorted(zip(asked, parts, strict=True), key=lambda pair: _place(pair[0])):
        sample = piece if isinstance(piece, int) else piece.sample
        rebuilt[sample] += part["input_ids"]
        assert part["name"] == samples[sample]["name"]
        assert len(part["input_ids"]) <= capacity
    assert [rebuilt[i] for i in range(len(lengths))] == [each["input_ids"] for each in samples]


def _place(piece):
    return (piece, 0) if isinstance(piece, int) else (piece.sample, piece.start)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_every_kind_of_sequence_is_cut(kind):
    dataset = PieceDataset([kind([5, 6, 7, 8])])
    assert list(dataset[Piece(0, 1, 3)]) == [6, 7]
    assert list(dataset[0, 2, 9]) == [7, 8]
    assert list(dataset[0]) == [5, 6, 7, 8]
    assert len(dataset) == 1


def test_numbers_and_strings_belong_to_every_piece():
    sample = {"x": np.arange(6), "y": torch.arange(6), "label": 1, "name": "abcdef", "span": (0, 1)}
    part = PieceDataset([sample])[Piece(0, 4, 6)]
    assert part["x"].tolist() == part["y"].tolist() == [4, 5]
    assert (part["label"], part["name"], part["span"]) == (1, "abcdef", (0, 1))
    assert len(sample["x"]) == 6


def test_tuples_stay_tuples_and_frames_are_cut_along_time():
    tokens, frames, label = PieceDataset([([1, 2, 3], np.ones((3, 2)), 7)])[Piece(0, 1, 3)]
    assert tokens == [2, 3]
    assert frames.shape == (2, 2)
    assert label == 7


def test_fields_to_cut_can_be_named():
    sample = {"input_ids": [1, 2, 3, 4], "topics": [0.5, 0.5]}
    with pytest.raises(
        bw.errors.LengthsError, match=r"sample 0 has fields of different lengths.*fields="
    ):
        PieceDataset([sample])[Piece(0, 2, 4)]
    part = PieceDataset([sample], fields=["input_ids"])[Piece(0, 2, 4)]
    assert part == {"input_ids": [3, 4], "topics": [0.5, 0.5]}
    with pytest.raises(bw.errors.ColumnNotFoundError, match="no field 'tokens', it has"):
        PieceDataset([sample], fields=["tokens"])[Piece(0, 2, 4)]


def test_a_piece_behind_the_end_is_refused():
    with pytest.raises(bw.errors.PlanError, match=r"sample 0 has 4 tokens .* begins at 4"):
        PieceDataset([[1, 2, 3, 4]])[Piece(0, 4, 8)]


class Fetched(Dataset):
    """A data set that is asked for a batch at once."""

    def __init__(self):
        self.asked = []

    def __getitem__(self, index):
        raise AssertionError

    def __getitems__(self, indices):
        self.asked.append(indices)
        return [list(range(index)) for index in indices]


def test_a_batch_is_asked_for_at_once_where_the_data_set_can():
    dataset = Fetched()
    parts = PieceDataset(dataset).__getitems__([Piece(5, 0, 2), (4, 2, 4), 3])
    assert parts == [[0, 1], [2, 3], [0, 1, 2]]
    assert dataset.asked == [[5, 4, 3]]
