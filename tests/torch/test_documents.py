"""Packed batches are cut between documents: each part is the packed batch of its documents."""

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.torch import PackCollator, PatchCollator
from batchwright.torch.data.documents import cut_documents
from batchwright.torch.data.rows import halves, num_rows

documents = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=2, max_size=6)


def assert_equal(part, expected):
    assert part.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert part[name].dtype == value.dtype, name
            assert part[name].tolist() == value.tolist(), name
        else:
            assert part[name] == value, name


@given(documents=documents, align=st.integers(1, 4), spare=st.none() | st.integers(0, 5))
def test_each_part_is_the_packed_batch_of_its_documents(documents, align, spare):
    samples = [{"input_ids": each, "kind": [7] * len(each)} for each in documents]
    options = {"align": align, "pad": {"input_ids": 3, "kind": 5}}
    width = sum(-(-len(each) // align) * align for each in documents)
    capacity = None if spare is None else width + spare
    batch = PackCollator(capacity=capacity, **options)(samples)
    first, second = cut_documents(batch)
    assert num_rows(batch) == 1
    number = int(first["document_ids"].max()) + 1
    place = first["input_ids"].shape[1]
    assert_equal(first, PackCollator(**options)(samples[:number]))
    left = None if capacity is None else capacity - place
    assert_equal(second, PackCollator(capacity=left, **options)(samples[number:]))
    ends = torch.tensor([-(-len(each) // align) * align for each in documents]).cumsum(0)[:-1]
    total = width if capacity is None else capacity
    assert abs(place - total / 2) == min(abs(ends - total / 2))


@given(documents=documents, align=st.integers(1, 3), capacity=st.none() | st.integers(54, 60))
def test_rows_of_several_columns_are_cut_between_the_same_documents(documents, align, capacity):
    samples = [{"source": each, "target": each[::-1][: 1 + len(each) // 2]} for each in documents]
    options = {"columns": {"source": "encoder", "target": "decoder"}, "align": align}
    capacity = None if capacity is None else (3 * capacity, 2 * capacity)
    first, second = halves(PackCollator(capacity=capacity, **options)(samples))
    number = int(first["encoder_document_ids"].max()) + 1
    for name in ("encoder", "decoder"):
        assert set(first[f"{name}_document_ids"].flatten().tolist()) - {-1} == {*range(number)}
        left = len(documents) - number
        assert set(second[f"{name}_document_ids"].flatten().tolist()) - {-1} == {*range(left)}
        for part in (first, second):
            edges = part[f"{name}_cu_seq_lens"]
            assert edges[0] == 0
            assert part[f"{name}_max_length"] == edges.diff().max()
    if capacity is None:
        expected = PackCollator(**options)(samples[:number])
        if align == 1:
            assert_equal(first, expected)
            assert_equal(second, PackCollator(**options)(samples[number:]))
        assert first["source"].tolist() == expected["source"].tolist()
        assert first["target"].tolist() == expected["target"].tolist()


def test_images_in_patches_take_their_labels_along():
    images = [torch.full((3, 4 * size, 8), size) for size in (1, 2, 3)]
    batch = PatchCollator(4)([{"image": each, "labels": i} for i, each in enumerate(images)])
    first, second = halves(batch)
    assert_equal(
        first, PatchCollator(4)([{"image": each, "labels": i} for i, each in enumerate(images[:2])])
    )
    assert second["labels"].tolist() == [2]
    assert second["sizes"].tolist() == [[12, 8]]


@dataclasses.dataclass
class Flat:
    tokens: torch.Tensor
    cu_seqlens: torch.Tensor
    max_seqlen: Any
    names: list[str]
    mask: Any = None
    scale: float = 1.0


def test_packed_batches_of_other_tools():
    tokens = torch.arange(6)
    first, second = halves(
        Flat(tokens, torch.tensor([0, 1, 3, 6]), torch.tensor(3), ["a", "b", "c"])
    )
    assert (first.tokens.tolist(), second.tokens.tolist()) == ([0, 1, 2], [3, 4, 5])
    assert (first.cu_seqlens.tolist(), int(first.max_seqlen)) == ([0, 1, 3], 2)
    assert (first.names, second.names) == (["a", "b"], ["c"])
    mask = torch.ones(1, 1, 6, 6).tril()
    positions = torch.tensor([[0, 1, 0, 1, 2, 0]])
    batch = {"input_ids": tokens[None], "position_ids": positions, "mask": mask}
    assert [part["mask"].shape[-1] for part in halves(batch)] == [2, 4]
    batch = {"input_ids": tokens[None], "seq_idx": torch.tensor([[0, 0, 0, 1, 1, 1]]).int()}
    assert halves(batch)[1]["seq_idx"].tolist() == [[0, 0, 0]]
    batch["seq_idx"] += 5  # numbers of the user's own
    assert halves(batch)[1]["seq_idx"].tolist() == [[6, 6, 6]]


@pytest.mark.parametrize(
    "batch",
    [
        {"input_ids": torch.ones(1, 4), "position_ids": torch.arange(4)[None]},
        {"input_ids": torch.ones(1, 4), "position_ids": torch.tensor([[1, 1, 0, 1]])},
        {
            "input_ids": torch.ones(1, 4),
            "position_ids": torch.tensor([[0, 0, 0, 1]]),  # padded on the left
            "attention_mask": torch.tensor([[0, 0, 1, 1]]),
        },
        {"input_ids": torch.ones(1, 4), "segment_ids": torch.tensor([[0, 0, 1, 1]])},  # sentences
        {"input_ids": torch.ones(2, 4), "document_ids": torch.zeros(2, 4, dtype=torch.long)},
        torch.ones(1, 4),
        (torch.ones(1, 4),),
        None,
    ],
)
def test_what_is_not_packed_is_not_cut(batch):
    assert cut_documents(batch) is None


def test_a_single_document_is_not_cut():
    batch = PackCollator(capacity=9)([{"input_ids": [1, 2, 3]}])
    assert cut_documents(batch) is None
    with pytest.raises(bw.errors.UpdateError, match="a packed row of a single document"):
        halves(batch)


def test_fields_that_belong_to_no_token_are_refused_by_name():
    batch = PackCollator()([{"input_ids": [1, 2, 3]}, {"input_ids": [4]}])
    with pytest.raises(bw.errors.UpdateError, match=r"batch\['speaker'\] is a tensor \[1, 7\]"):
        halves(batch | {"speaker": torch.zeros(1, 7)})
    with pytest.raises(bw.errors.UpdateError, match=r"hold \{'a': 1, 'b': 2\} documents"):
        halves({"a_cu_seqlens": torch.tensor([0, 3]), "b_cu_seqlens": torch.tensor([0, 1, 3])})
