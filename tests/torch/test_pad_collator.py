"""Padding: every token in its place, nothing else but padding around it."""

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
        (PadCollator(), [], bw.errors.LengthsError, "no sample"),
        (
            PadCollator({"label": 1}),
            [{"labels": [1]}],
            bw.errors.ColumnNotFoundError,
            "names 'label'",
        ),
        (
            PadCollator(),
            [{"a": [1]}, {"b": [1]}],
            bw.errors.ColumnNotFoundError,
            "sample 1 .* field 'a'",
        ),
        (
            PadCollator(),
            [([1], [2]), ([1],)],
            bw.errors.ColumnNotFoundError,
            "sample 1 .* no field 1",
        ),
        (
            PadCollator(),
            [{"a": [1]}, ([1],)],
            bw.errors.LengthsError,
            "sample 1 .* is a tuple, the first",
        ),
        (PadCollator(), [{"a": [1]}, {"a": 1}], bw.errors.LengthsError, "'a' of sample 1 .* a int"),
        (PadCollator(), [{"a": ["x"]}], bw.errors.LengthsError, "field 'a' cannot be laid out"),
        (PadCollator(), [[[1, 2], [3]]], bw.errors.LengthsError, "field 0 cannot be laid out"),
        (
            PadCollator(),
            [np.ones((1, 2)), np.ones((1, 3))],
            bw.errors.LengthsError,
            r"\[1, 2\], \[1, 3\]",
        ),
        (
            PadCollator(lengths="x"),
            [{"a": [1]}],
            bw.errors.ColumnNotFoundError,
            r"lengths='x'.*\['a'\]",
        ),
        (PadCollator(lengths=True), [{"a": 1}], bw.errors.ColumnNotFoundError, "lengths=True"),
        (
            PadCollator(attention_mask=None),
            [{"a": [1]}],
            bw.errors.ColumnNotFoundError,
            "attention_mask=None",
        ),
        (
            PadCollator(attention_mask=2),
            [([1], [2])],
            bw.errors.ColumnNotFoundError,
            "attention_mask=2",
        ),
    ],
)
def test_what_cannot_be_collated_is_named(collate, samples, error, told):
    with pytest.raises(error, match=told):
        collate(samples)


@pytest.mark.parametrize("settings", [{"pad_to_multiple_of": 0}, {"max_length": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(bw.errors.BudgetError, match="expected an integer of at least 1"):
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


# What a sample of `n` tokens has, and what its batch then has beside the rows.
KINDS_OF_FIELDS = {
    "input_ids": lambda n: [1] * n,
    "mask": lambda n: np.ones(n, dtype=bool),
    "frames": lambda n: torch.ones(n, 4),
    "speaker": lambda n: torch.ones(5),
    "scores": lambda n: [0.0, 1.0, 0.0],
    "image": lambda n: torch.zeros(3, 5, 4),
    "class": lambda n: n,
    "weight": lambda n: 0.5,
    "text": lambda n: "a" * n,
    "boxes": lambda n: {"at": torch.ones(n, 4)},
}
FIXED = {"speaker": (5,), "scores": (3,), "image": (3, 5, 4), "class": (), "weight": ()}


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    names=st.lists(st.sampled_from(sorted(KINDS_OF_FIELDS)), unique=True),
    multiple=st.sampled_from([1, 4, 8]),
    max_length=st.none() | st.integers(1, 9),
    side=st.sampled_from(["left", "right"]),
)
def test_what_comes_out_does_not_depend_on_the_samples_that_meet(
    sizes, names, multiple, max_length, side
):
    """A field is of one kind, type and size in every batch, also where lengths happen to agree."""
    names = ["input_ids", *(name for name in names if name != "input_ids")]
    samples = [{name: KINDS_OF_FIELDS[name](n) for name in names} for n in sizes]
    collate = PadCollator(pad_to_multiple_of=multiple, max_length=max_length, side=side)
    batch = collate(samples)
    assert [*batch] == names
    width = max(min(n, max_length or 9) for n in sizes)
    width += -width % multiple
    for name, value in batch.items():
        assert len(value) == len(sizes)
        if name in {"text", "boxes"}:
            assert isinstance(value, list)
        else:
            assert tuple(value.shape[1:2]) == ((width,) if name not in FIXED else FIXED[name][:1])
            assert tuple(value.shape[1:]) in {FIXED.get(name), (width,), (width, 4)}
        single = collate(samples[:1])[name]
        assert type(single) is type(value)
        assert getattr(single, "dtype", None) == getattr(value, "dtype", None)


def test_fields_are_named_where_their_type_does_not_say_what_they_are():
    samples = [{"x": torch.ones(n, 1), "labels": torch.zeros(n), "bag": [1, 0]} for n in (3, 9)]
    with pytest.raises(bw.errors.ColumnNotFoundError, match=r"sequences=\['x', 'bag', 'labels'\]"):
        PadCollator(pad_to_multiple_of=8)(samples)
    batch = PadCollator(pad_to_multiple_of=8, sequences=["x", "labels"])(samples)
    assert {name: list(value.shape[1:]) for name, value in batch.items()} == {
        "x": [16, 1],
        "labels": [16],
        "bag": [2],
    }
    assert PadCollator(pad_to_multiple_of=8, sequences="x")(samples)["labels"].shape == (2, 9)
    with pytest.raises(bw.errors.ColumnNotFoundError, match="'y' is no sequence of the samples"):
        PadCollator(sequences=["y"])(samples)
    video = [{"video": torch.ones(n, 3, 2, 2)} for n in (2, 3)]
    with pytest.raises(bw.errors.ColumnNotFoundError, match="Name those that are to be rounded"):
        PadCollator(max_length=2)(video)
    assert PadCollator(max_length=2, sequences=["video"])(video)["video"].shape[1] == 2
    assert PadCollator(lengths=True)(video)["lengths"].tolist() == [2, 3]
    picture = {"image": torch.zeros(3, 4, 4), "input_ids": [1, 2]}
    assert PadCollator(lengths=True)([picture])["lengths"].tolist() == [2]


@given(rows=rows, pad=st.integers(-9, 9), multiple=st.sampled_from((1, 4)))
def test_padding_on_the_left_is_that_on_the_right_turned_round(rows, pad, multiple):
    fields = [{"ids": row, "labels": row, "frames": np.ones((len(row), 2))} for row in rows]
    turned = [{name: value[::-1] for name, value in each.items()} for each in fields]
    options = {"pad_to_multiple_of": multiple, "attention_mask": True, "lengths": True}
    left = PadCollator(pad, side="left", **options)(fields)
    right = PadCollator(pad, **options)(turned)
    for name in ("ids", "labels", "frames", "attention_mask"):
        assert left[name].flip(1).tolist() == right[name].tolist()
    assert left["lengths"].tolist() == right["lengths"].tolist()
    inside = left["attention_mask"].bool()
    assert left["ids"][inside].tolist() == [token for row in rows for token in row]
    assert (left["labels"][~inside] == -100).all()


def test_rows_that_are_not_there_and_padding_on_the_left():
    collate = PadCollator(7, side="left", shapes=[(3, 4)], attention_mask=True)
    batch = collate([{"ids": [1, 2], "active": [True, True]}])
    assert batch["ids"].tolist() == [[7, 7, 1, 2], [7] * 4, [7] * 4]
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1], [0] * 4, [0] * 4]
    assert batch["active"].tolist() == [[False, False, True, True], [False] * 4, [False] * 4]


@pytest.mark.parametrize("name", ["labels", "label", "label_ids"])
def test_labels_by_all_their_names(name):
    batch = PadCollator(3)([{"x": [1, 2], name: [4, 5]}, {"x": [1], name: [6]}])
    assert batch[name].tolist() == [[4, 5], [6, -100]]


def test_no_padding_of_booleans_is_true_unless_asked_for():
    samples = [{"ids": [5], "active": [True]}, {"ids": [5, 6], "active": [False, True]}]
    assert PadCollator(9)(samples)["active"].tolist() == [[True, False], [False, True]]
    assert PadCollator({"active": True})(samples)["active"].tolist()[0] == [True, True]
    given = PadCollator({"active": -100})(samples)["active"]
    assert (given.dtype, given.tolist()[0]) == (torch.int64, [1, -100])


@pytest.mark.parametrize("limits", [(2, 3), (3, 2)])
def test_each_column_is_cut_to_its_own_length(limits):
    samples = [{"source": [1] * 5, "target": [2] * 5, "voice": [0.5] * 4}]
    columns = {"source": 0, "target": 1, "voice": None}
    batch = PadCollator(max_length=limits, columns=columns)(samples)
    assert tuple(value.shape[1] for value in batch.values()) == (*limits, 4)
    pairs = PadCollator(max_length=limits)([([1] * 5, [2] * 5)])
    assert tuple(value.shape[1] for value in pairs) == limits
    with pytest.raises(bw.errors.ColumnNotFoundError, match="Say which belongs to which"):
        PadCollator(max_length=(1, 2, 3))([([1] * 5, [2] * 5)])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"pad": None}, "the padding is None"),
        ({"pad": {"input_ids": None}}, "the padding of 'input_ids' is None"),
        ({"pad": (0, None)}, "the padding of 1 is None"),
        ({"pad": "0"}, "the padding is '0'"),
        ({"pad": torch.zeros(2)}, "the padding is tensor"),
        ({"side": "both"}, "side='both'"),
        ({"side": None}, "side=None"),
        ({"pad_to_multiple_of": None}, "pad_to_multiple_of=None"),
        ({"pad_to_multiple_of": "8"}, "pad_to_multiple_of='8'"),
        ({"pad_to_multiple_of": 2.5}, "pad_to_multiple_of=2.5"),
        ({"max_length": "9"}, "max_length='9'"),
        ({"max_length": (9, 0)}, "max_length=0"),
        ({"shapes": []}, r"shapes=\[\]"),
        ({"shapes": 8}, "shapes=8"),
        ({"shapes": [(2, 8), (2, (8, 8))]}, "as many columns"),
        ({"shapes": [(2, (8, 8))], "max_length": (3, 3, 3)}, "as many columns"),
        ({"columns": ["input_ids"]}, "expected a dict"),
    ],
)
def test_options_of_other_types_are_refused_when_it_is_made(options, told):
    with pytest.raises(bw.errors.BudgetError, match=told):
        PadCollator(**options)


def test_padding_that_whole_numbers_cannot_hold_is_refused():
    for pad in (float("nan"), 0.5, float("inf")):
        with pytest.raises(bw.errors.LengthsError, match="'ids' holds whole numbers"):
            PadCollator(pad)([{"ids": [1]}])
    assert PadCollator(np.int64(3))([[1, 2], [1]]).tolist() == [[1, 2], [1, 3]]


def test_it_goes_to_workers_whatever_it_was_made_of():
    given = collections.UserDict(input_ids=1)
    collate = PadCollator(
        given,
        shapes=iter([(4, 8)]),
        columns=types.MappingProxyType({"input_ids": 0}),
        sequences=dict.fromkeys(["input_ids"]).keys(),
        side="left",
    )
    before = collate([{"input_ids": [1, 2]}])["input_ids"]
    other = pickle.loads(pickle.dumps(collate))  # noqa: S301
    assert other == collate
    assert torch.equal(other([{"input_ids": [1, 2]}])["input_ids"], before)
