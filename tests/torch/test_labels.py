"""What a batch weighs: every label that counts, whatever its type, and nothing that is guessed."""

import collections
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.torch import ImageCollator, PackCollator, PadCollator, windows
from batchwright.torch.windows import label_count

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)
names = st.sampled_from(["labels", "label", "label_ids"])
sides = st.sampled_from(["left", "right"])

TOKEN_LABELS = {
    "int": lambda n: [7] * n,
    "int array": lambda n: np.full(n, 7, np.int32),
    "uint8": lambda n: np.full(n, 156, np.uint8),
    "float": lambda n: np.zeros(n, np.float32),
    "bool": lambda n: np.ones(n, bool),
    "bool list": lambda n: [True] * n,
}


@given(
    sizes=lengths,
    kind=st.sampled_from(sorted(TOKEN_LABELS)),
    name=names,
    side=sides,
    data=st.data(),
)
def test_labels_of_tokens_weigh_as_many_as_there_are(sizes, kind, name, side, data):
    """The collator and the count agree, whatever type labels are of and however they meet."""
    samples = [{"frames": np.ones((n, 2), "f4"), name: TOKEN_LABELS[kind](n)} for n in sizes]
    extra = data.draw(st.sampled_from(["lengths", "attention_mask"])) if "bool" in kind else None
    multiple = data.draw(st.sampled_from([1, 4])) if kind != "float" else 1
    options = {} if extra is None else {extra: data.draw(st.sampled_from([True, name]))}
    batch = PadCollator(side=side, pad_to_multiple_of=multiple, **options)(samples)
    assert label_count(batch) == sum(sizes)
    real = PadCollator(side=side, attention_mask=True, pad_to_multiple_of=multiple)(
        [{"x": [1] * n} for n in sizes]
    )["attention_mask"]
    padding = batch[name][real == 0]
    assert not (padding if "bool" in kind else padding != -100).any()
    assert int(batch[name].ne(0).sum()) >= (0 if kind == "float" else sum(sizes))


@given(sizes=lengths, empty=st.integers(0, 3), kind=st.sampled_from([int, float, bool]))
def test_labels_of_rows_weigh_as_many_as_there_are(sizes, empty, kind):
    samples = [{"x": [1] * n, "label": kind(1)} for n in sizes]
    assert label_count(PadCollator()(samples)) == len(sizes)
    batch = PadCollator(shapes=[(len(sizes) + empty, 9)])(samples)
    assert batch["label"].dtype == {int: torch.int64, float: torch.float32, bool: torch.int64}[kind]
    assert label_count(batch) == len(sizes)


@given(sizes=lengths, kind=st.sampled_from(sorted(TOKEN_LABELS)), align=st.integers(1, 3))
def test_packed_labels_of_any_type(sizes, kind, align):
    samples = [{"input_ids": [1] * n, "labels": TOKEN_LABELS[kind](n)} for n in sizes]
    batch = PackCollator(align=align)(samples)
    assert label_count(batch) == sum(sizes) - len(sizes)
    ignored = batch["labels"] == -100
    assert ignored.sum() == batch["labels"].numel() - sum(sizes) + len(sizes)


def test_packed_labels_go_by_the_names_of_trainers():
    samples = [{"input_ids": [1, 2], "label_ids": [5, 6]}, {"input_ids": [3], "label_ids": [7]}]
    assert PackCollator()(samples)["labels"].tolist() == [[-100, 6, -100]]
    classes = [{"input_ids": [1, 2], "label": 5}]
    assert PackCollator()(classes)["labels"].tolist() == [[-100, 2]]


@dataclasses.dataclass
class Batch:
    x: Any
    labels: Any


@pytest.mark.parametrize(
    ("batch", "weight"),
    [
        ({"labels": torch.tensor([[1, 2, -100]])}, 2),
        ({"label": torch.tensor([1, -100, 3])}, 2),
        ({"label_ids": np.array([[1, -100], [3, 4]], np.int32)}, 3),
        (collections.UserDict(labels=torch.tensor([0.5, 1.5])), 2),
        (Batch(torch.zeros(2, 3), torch.tensor([[1, -100, -100], [2, 3, -100]])), 3),
        ({"labels": torch.tensor([[0.5], [1.5]])}, 2),
        ({"labels": torch.tensor([[True], [False]])}, 2),
        ({"labels": torch.tensor([1, 0]).bool()}, 2),
        ({"x": torch.zeros(2, 3, 5), "labels": torch.zeros(2, 3)}, 6),
        ({"x": torch.zeros(2, 3, 5), "labels": torch.zeros(2, 3, 4)}, 24),
        ({"x": torch.zeros(2, 8, 8), "labels": torch.zeros(2, 8, 8)}, 128),
        (
            # Padded with zeros, and lengths that say so.
            {"x": torch.zeros(2, 3), "labels": torch.zeros(2, 3), "lengths": torch.tensor([3, 1])},
            4,
        ),
        ({"x": torch.zeros(2, 3), "lengths": torch.tensor([3, 1])}, 4),
        ({"x": torch.zeros(2, 3), "attention_mask": torch.tensor([[1, 1, 0]])}, 2),
        ((torch.zeros(3, 2), torch.tensor([1, 2, -100])), 2),
        ((torch.zeros(2, 3), torch.tensor([[1, 2, -100], [3, -100, -100]])), 3),
        ([torch.zeros(3, 2), torch.zeros(3)], 3),
        (({"ids": torch.zeros(3, 2)}, torch.zeros(3, 1)), 3),
        (torch.zeros(5, 2), 5),
        ({"labels": torch.empty(0, 3)}, 0),
    ],
)
def test_what_counts(batch, weight):
    assert label_count(batch) == weight


BOXES = [{"boxes": torch.ones(2, 4)}]


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ({"labels": BOXES}, r"batch\['labels'\] is of type list"),
        ({"labels": ["cat"]}, r"batch\['labels'\] is of type list"),
        ({"labels": None, "lengths": torch.ones(3)}, r"batch\['labels'\] is of type NoneType"),
        ({"labels": np.array(["a"], dtype=object)}, r"batch\['labels'\] is of type ndarray"),
        ({"labels": torch.tensor(3)}, "a tensor without rows"),
        ((torch.zeros(2, 3), torch.tensor([[1, 2, 0], [3, 0, 0]])), "nothing says what pads it"),
        ((torch.zeros(2, 3), torch.tensor([[1, 2, 3], [3, 4, 5]])), "nothing says what pads it"),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), "does each entry count, or each row"),
        # Vectors of a fixed size, one a row: class probabilities, several labels.
        ({"x": torch.zeros(2, 9), "labels": torch.full((2, 5), 0.2)}, "each entry count, or each"),
        ({"x": torch.zeros(2, 9), "labels": torch.zeros(2, 5).bool()}, "no boolean says"),
        ({"x": torch.zeros(2, 9), "labels": torch.zeros(2, 9).bool()}, "no boolean says"),
        ({"labels": torch.tensor([[1, 2, -1]])}, "negative numbers other than -100"),
        ({"lengths": [1, 2]}, r"batch\['lengths'\] is no tensor \[rows\]"),
        ({"attention_mask": torch.ones(2, 1, 3, 3)}, r"is no tensor \[rows, length\]"),
        ({"text": "a"}, "what a batch of type dict weighs"),
        ((torch.zeros(2), ["a", "b"]), "what a batch of type tuple weighs"),
        (None, "what a batch of type NoneType weighs"),
    ],
)
def test_what_is_not_known_is_refused_and_names_the_way_out(batch, told):
    with pytest.raises(bw.errors.LossError, match=told) as refused:
        next(windows([batch], accumulate=1))
    assert "ass weigh=" in str(refused.value)
    assert next(windows([batch], accumulate=1, weigh=lambda _: 3)).tokens == 3


@pytest.mark.parametrize("weight", [None, "x", -1, float("nan"), torch.ones(2)], ids=repr)
def test_weights_are_numbers(weight):
    with pytest.raises(bw.errors.LossError, match="weigh returned"):
        next(windows([torch.ones(2)], accumulate=1, weigh=lambda _: weight))


def test_labels_of_images_of_a_fixed_shape_are_ignored_where_there_is_no_image():
    samples = [{"image": np.ones((3, 2, 2)), "label_ids": 4}]
    batch = ImageCollator(shapes=[(3, (2, 2))])(samples)
    assert batch["label_ids"].tolist() == [4, -100, -100]
    assert label_count(batch) == 1


def test_matrices_in_tuples_count_once_it_is_known_how_they_are_padded():
    full, padded = (torch.ones(2, 3, dtype=torch.long) for _ in range(2))
    padded[0, 1:] = -100
    with pytest.raises(bw.errors.LossError, match="nothing says what pads it in a tuple"):
        next(windows([(full, full), (full, padded)], accumulate=1))
    assert next(windows([(full, full), (full, padded)], accumulate=2)).tokens == 10
    loader = torch.utils.data.DataLoader([0, 1], collate_fn=lambda _: (full, batches.pop(0)))
    batches = [padded, full, full, full]
    assert [window.tokens for window in windows(loader, accumulate=1)] == [4, 6]
    assert [window.tokens for window in windows(loader, accumulate=1)] == [6, 6]  # it remembers


def test_a_collator_that_pads_with_what_is_ignored_says_so():
    samples = [([1, 2], [2, 3]), ([4, 5], [5, 6])]
    loader = torch.utils.data.DataLoader(samples, collate_fn=PadCollator((0, -100)))
    assert [window.tokens for window in windows(loader, accumulate=1)] == [2, 2]
    loader = torch.utils.data.DataLoader(samples, collate_fn=PadCollator())
    with pytest.raises(bw.errors.LossError, match="nothing says what pads it in a tuple"):
        next(windows(loader, accumulate=1))
