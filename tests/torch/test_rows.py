"""Rows of a batch: whatever it consists of, a row keeps what belongs to it."""

import collections
import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.torch import PackCollator
from batchwright.torch.data.rows import count_rows, halves, num_rows, select_rows
from batchwright.torch.data.trees import tensors_of


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: Any
    y: Any


@dataclasses.dataclass(slots=True)
class Slotted:
    x: Any
    y: Any = None


class Named(NamedTuple):
    x: Any
    y: Any


class Attributes(dict):
    __getattr__ = dict.__getitem__


# Fields, each made of the numbers of rows, so that a field of chosen rows can be made as well.
FIELDS = {
    "tensor": torch.tensor,
    "matrix": lambda ids: torch.tensor(ids).reshape(-1, 1) * torch.ones(1, 5),
    "array": np.array,
    "objects": lambda ids: np.array([*map(str, ids), None], dtype=object)[:-1],
    "texts": lambda ids: [f"text {i}" for i in ids],
    "tuple": lambda ids: tuple(f"text {i}" for i in ids),
    "none": lambda ids: [None for _ in ids],
    "lists": lambda ids: [list(range(i)) for i in ids],
    "images": lambda ids: [torch.full((3, 5 + i, 9 - i), i) for i in ids],
    "boxes": lambda ids: [torch.full((i, 4), i) for i in ids],
    "targets": lambda ids: [{"boxes": torch.full((i, 4), i), "name": str(i)} for i in ids],
    "numbers": lambda ids: [torch.tensor(i) for i in ids],
}
WHOLE = {
    "scale": 2.0,
    "name": "train",
    "nothing": None,
    "zero": torch.tensor(3.0),
}
HOLDERS = {
    "dict": lambda a, b: {"a": a, "b": b},
    "ordered": lambda a, b: collections.OrderedDict(a=a, b=b),
    "default": lambda a, b: collections.defaultdict(list, a=a, b=b),
    "user": lambda a, b: collections.UserDict(a=a, b=b),
    "attributes": lambda a, b: Attributes(a=a, b=b),
    "pair": lambda a, b: (a, b),
    "named": Named,
    "frozen": Frozen,
    "slotted": Slotted,
}

ids = st.lists(st.integers(1, 6), min_size=1, max_size=8)
fields = st.sampled_from(sorted(FIELDS))
batches = st.recursive(
    fields | st.sampled_from(sorted(WHOLE)),
    lambda inner: st.tuples(st.sampled_from(sorted(HOLDERS)), inner, inner),
    max_leaves=6,
)


def looks_like_rows(spec):
    """Whether a tuple of as many facts might be an entry a row: it is taken for that."""
    if isinstance(spec, str):
        return False
    facts = spec[0] == "pair" and all(each in WHOLE for each in spec[1:])
    return facts or any(map(looks_like_rows, spec[1:]))


def made(spec, rows):
    if isinstance(spec, str):
        return FIELDS[spec](rows) if spec in FIELDS else WHOLE[spec]
    holder, *inner = spec
    return HOLDERS[holder](*(made(each, rows) for each in inner))


def same(one, other):  # noqa: PLR0911 (a case a line)
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, collections.abc.Mapping):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if dataclasses.is_dataclass(one):
        names = [each.name for each in dataclasses.fields(one)]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@given(spec=batches, rows=ids, data=st.data())
def test_chosen_rows_are_the_batch_of_these_rows(spec, rows, data):
    """However it is nested, taking rows is the same as making the batch of them, or is refused."""
    assume(any(name in str(spec) for name in FIELDS) and not looks_like_rows(spec))
    assume(not isinstance(spec, str))
    batch = made(spec, rows)
    number = num_rows(batch)
    if number is None:
        with pytest.raises(bw.errors.UpdateError, match=r"split=|rows"):
            halves(batch)
        return
    assert number == len(rows)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=9))
    taken = select_rows(batch, torch.tensor(chosen, dtype=torch.int64))
    assert same(taken, made(spec, [rows[i] for i in chosen]))
    if len(rows) > 1:
        first, second = halves(batch)
        middle = len(rows) // 2
        assert same(first, made(spec, rows[:middle]))
        assert same(second, made(spec, rows[middle:]))


@given(spec=st.tuples(st.sampled_from(sorted(HOLDERS)), batches, st.just("matrix")), rows=ids)
def test_with_a_tensor_of_rows_hardly_anything_is_refused(spec, rows):
    assume(not looks_like_rows(spec))
    batch = made(spec, rows)
    boxes_that_fit = len(set(rows)) == 1 and rows[0] == len(rows)
    assume(not boxes_that_fit)
    assume(len(rows) != 2)  # a pair of structures: fields, or one for each of two rows
    assume(len(rows) not in {3, 4})  # images of three rows and channels, below
    assert count_rows(batch) == len(rows)


def test_a_list_in_a_dict_goes_with_the_rows_and_facts_stay():
    batch = {"x": torch.arange(5), "text": list("abcde"), "classes": ["cat", "dog"], "scale": 2.0}
    first, second = halves(batch)
    assert first["text"] == ["a", "b"]
    assert second["text"] == ["c", "d", "e"]
    assert first["classes"] == second["classes"] == ["cat", "dog"]
    assert first["x"].data_ptr() == batch["x"].data_ptr()


def test_batches_of_detectors():
    images = [torch.full((3, 10 + i, 20 - i), i) for i in range(6)]
    targets = [{"boxes": torch.full((2, 4), i), "labels": torch.tensor([i, i])} for i in range(6)]
    samples = zip(images, targets, strict=True)
    for batch in ((images, targets), tuple(zip(*samples, strict=True))):
        first, second = halves(batch)
        assert [int(image[0, 0, 0]) for image in second[0]] == [3, 4, 5]
        assert [int(target["labels"][0]) for target in second[1]] == [3, 4, 5]
        smallest, _ = halves(first)  # three rows, as many as channels
        assert [int(image[0, 0, 0]) for image in smallest[0]] == [0]
        assert type(smallest[0]) is type(batch[0])
    stacked = {"images": torch.zeros(3, 3, 9, 9), "crops": images[:3], "boxes": targets[:3]}
    assert [len(part["crops"]) for part in halves(stacked)] == [1, 2]


def test_lists_of_fields_as_a_data_loader_makes_them():
    inputs, labels = torch.arange(6).reshape(2, 3), torch.tensor([7, 8])
    for batch in ([inputs, labels], [[inputs, inputs + 1], labels], ((inputs, inputs), labels)):
        first, second = halves(batch)
        assert type(first) is type(batch)
        assert [part.shape[0] for part in tensors_of(first)] == [1] * len(tensors_of(batch))
        assert second[1].tolist() == [8]
    assert halves([inputs])[0][0].tolist() == [[0, 1, 2]]
    assert (
        halves({"scales": [torch.zeros(4, 2), torch.ones(4, 3)], "y": labels.repeat(2)})[0][
            "scales"
        ][1].tolist()
        == [[1.0] * 3] * 2
    )


def test_a_batch_that_is_a_list_of_rows():
    assert halves(["a", "b", "c"]) == (["a"], ["b", "c"])
    dicts = [{"image": torch.zeros(3, 5 + i, 7 - i), "height": i} for i in range(4)]
    assert [each["height"] for each in select_rows(dicts, [3, 1])] == [3, 1]
    pairs = [(torch.zeros(3, 4, 4), label) for label in range(3)]
    assert [label for _, label in halves(pairs)[1]] == [1, 2]


class Object:
    def __init__(self, **held):
        vars(self).update(held)


@dataclasses.dataclass
class Counting:
    x: Any

    def __post_init__(self):
        self.number = len(self.x)


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ({"x": torch.zeros(2, 3), "f": [torch.zeros(2, 4)] * 2}, r"batch\['f'\] holds 2 fields"),
        ({"x": torch.zeros(3), "y": torch.zeros(4)}, r"batch\['x'\] has 3 rows and batch\['y'\]"),
        ({"x": torch.zeros(3), "y": [torch.zeros(2)] * 4}, r"batch\['y'\] is a list of 4 for 3"),
        ({"x": torch.zeros(3), "y": ["a"] * 6}, r"batch\['y'\] is a list of 6 for 3 rows"),
        (Named(torch.zeros(3), Object(boxes=torch.zeros(3, 4))), r"batch\.y is a Object"),
        ((torch.zeros(3), {"y": iter("abc")}), r"batch\[1\]\['y'\] is a str_ascii_iterator"),
        (Counting(torch.zeros(4)), r"batch\.number is an attribute besides the fields"),
        ([torch.zeros(3, 8, 8)] * 2, "a list of 2: are these rows, or fields"),
        ([{"x": torch.zeros(4)}, {"x": torch.zeros(4)}], "a list of 2: are these rows, or fields"),
        ([[1, 2, 3], [4, 5, 6]], "a list of 2: are these rows, or fields"),
        ({"levels": [torch.zeros(4, 2), torch.zeros(4, 1)]}, r"batch\['levels'\] is a list of 2"),
        ((["a", "b"], [{}, {}, {}], [{}, {}]), r"batch\[0\] has 2 entries and batch\[1\] has 3"),
        (torch.nn.utils.rnn.pack_sequence([torch.zeros(3)]), "PackedSequence"),
        ("text", "a batch of type str has no rows"),
        ({"a": 1}, "a batch of type dict has no rows"),
        (None, "a batch of type NoneType has no rows"),
        (torch.tensor(1.0), "has no rows"),
        ({"x": torch.zeros(1, 3)}, "a single row"),
        ([], "no rows"),
    ],
)
def test_what_is_not_known_is_refused_by_name(batch, told):
    with pytest.raises(bw.errors.UpdateError, match=told):
        halves(batch)


def test_a_list_is_not_read_in_another_way_because_its_rows_are_three():
    """Images of varying size are one entry a row, in a batch of three rows too."""
    for rows in (2, 3, 4, 5):
        images = [torch.zeros(3, 5 + i, 8 - i) for i in range(rows)]
        assert (
            len(halves({"y": torch.zeros(rows), "images": images})[1]["images"]) == rows - rows // 2
        )


def test_dataclasses_are_copied_as_they_are():
    @dataclasses.dataclass
    class Scaled:
        x: torch.Tensor
        made: int = dataclasses.field(init=False, default=0)

        def __post_init__(self):
            self.x = self.x / 2

        @functools.cached_property
        def total(self):
            return self.x.sum()

    batch = Scaled(torch.tensor([2.0, 4.0]))
    assert batch.total == 3
    first, _ = halves(batch)
    assert (first.x.tolist(), first.made, float(first.total)) == ([1.0], 0, 1.0)
    assert batch.total == 3


def test_a_mapping_keeps_its_class_where_it_can():
    transformers = pytest.importorskip("transformers")
    batch = transformers.BatchEncoding({"input_ids": torch.arange(4).reshape(2, 2)})
    first, second = halves(batch)
    assert type(first) is transformers.BatchEncoding
    assert second.to("cpu")["input_ids"].tolist() == [[2, 3]]
    output = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=torch.zeros(2, 3))
    assert halves(output)[0].last_hidden_state.shape == (1, 3)

    class Odd(collections.abc.Mapping):
        def __init__(self, one, another):
            self.held = {"one": one, "another": another}

        def __getitem__(self, name):
            return self.held[name]

        def __iter__(self):
            return iter(self.held)

        def __len__(self):
            return len(self.held)

    assert halves(Odd(torch.arange(2), ["a", "b"]))[1] == {
        "one": torch.tensor([1]),
        "another": ["b"],
    }


def test_other_layouts_of_tensors():
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    sparse = torch.eye(2).to_sparse()
    first, second = halves({"nested": nested, "sparse": sparse, "y": [0, 1]})
    assert [each.tolist() for each in second["nested"].unbind()] == [[1.0] * 3]
    assert first["sparse"].to_dense().tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("rows", [[2], [-1], [0.5], [True, False], [[0]]])
def test_rows_that_there_are_not_are_refused(rows):
    with pytest.raises(bw.errors.UpdateError, match="of a batch of 2"):
        select_rows(torch.zeros(2), rows)


def test_packed_batches_have_one_row():
    batch = PackCollator()([{"input_ids": [1, 2]}, {"input_ids": [3]}])
    assert count_rows(batch) == 1
    assert select_rows(batch, [0]) is batch
    with pytest.raises(bw.errors.UpdateError, match="stays whole"):
        select_rows(batch, [0, 0])
