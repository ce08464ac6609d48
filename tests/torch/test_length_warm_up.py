"""Sequence-length warm-up: short rows at first, every token with its label, exact to resume."""

import collections
import dataclasses
import json
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import batchwright as bw
import batchwright.pacing
from batchwright.errors import (
    BudgetError,
    ColumnNotFoundError,
    LengthsError,
    PlanError,
)
from batchwright.torch import PadCollator, PlanBatchSampler, Precision
from batchwright.torch.data.length_warm_up import LengthWarmUp
from batchwright.torch.update.gradient_check import flat_gradient
from batchwright.torch.windows import label_count
from tests.torch.attention_model import loss_sum


class Pair(NamedTuple):
    inputs: torch.Tensor
    labels: torch.Tensor


sizes = st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any)
lengths = st.integers(1, 33)


def constant(length):
    return lambda _progress: length


def samples_of(sizes):
    """Documents whose tokens are all different, with the next token as label."""
    start, samples = 1, []
    for size in sizes:
        tokens = list(range(start, start + size))
        labels = [*tokens[1:], -100][:size]
        samples.append({"input_ids": tokens, "labels": labels, "kind": size})
        start += size
    return samples


def pairs_by_hand(samples):
    return collections.Counter(
        pair for each in samples for pair in zip(each["input_ids"], each["labels"], strict=True)
    )


def pairs_in(batch):
    """Go through the rows by the mask, cell by cell."""
    return collections.Counter(
        (int(batch["input_ids"][row, column]), int(batch["labels"][row, column]))
        for row in range(len(batch["input_ids"]))
        for column in range(batch["input_ids"].shape[1])
        if batch["attention_mask"][row, column]
    )


def pieces_by_hand(size, length):
    """As few pieces as possible, the larger ones last, no two more than one token apart."""
    count = max(1, -(-size // length))
    small, larger = divmod(size, count)
    return sorted([small] * (count - larger) + [small + 1] * larger)


@given(sizes=sizes, length=lengths, pad=st.sampled_from((0, 7)), multiple=st.sampled_from((1, 8)))
def test_every_token_is_there_once_with_its_label(sizes, length, pad, multiple):
    samples = samples_of(sizes)
    batch = PadCollator({"input_ids": pad}, attention_mask=True, lengths=True)(samples)
    warm_up = LengthWarmUp(
        constant(length), total_tokens=1000, world_size=2, pad={"input_ids": pad},
        pad_to_multiple_of=multiple,
    )  # fmt: skip
    made = warm_up(batch)
    rows, width = made["input_ids"].shape
    assert width <= length
    assert pairs_in(made) == pairs_by_hand(samples)
    assert made["attention_mask"].sum(1).tolist() == made["lengths"].tolist()
    assert (made["input_ids"][made["attention_mask"] == 0] == pad).all()
    assert (made["labels"][made["attention_mask"] == 0] == -100).all()
    assert [*made] == [*batch]
    assert {len(value) for value in made.values()} == {rows}
    assert {name: value.dtype for name, value in made.items()} == {
        name: value.dtype for name, value in batch.items()
    }
    assert warm_up.tokens == 2 * sum(sizes)
    if batch["input_ids"].shape[1] > length:
        by_hand = [pieces_by_hand(size, length) for size in sizes]
        assert sorted(made["lengths"].tolist()) == sorted(sum(by_hand, []))
        assert made["kind"].tolist() == [
            size for size, parts in zip(sizes, by_hand, strict=True) for _ in parts
        ]
        longest = max(map(max, by_hand))
        assert width == max(longest, 1, min(length, longest + -longest % multiple))
    else:
        assert made is batch


@given(sizes=sizes, length=lengths)
def test_tokens_stay_in_sequence(sizes, length):
    batch = PadCollator(attention_mask=True)(samples_of(sizes))
    made = LengthWarmUp(constant(length), total_tokens=9)(batch)
    assert made["input_ids"][made["attention_mask"] == 1].tolist() == [*range(1, sum(sizes) + 1)]


@given(data=st.data(), length=lengths)
def test_a_mask_may_pad_on_the_left_and_have_holes(data, length):
    rows, width = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 20)))
    mask = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=width, max_size=width),
                           min_size=rows, max_size=rows))
    )  # fmt: skip
    tokens = torch.arange(rows * width).reshape(rows, width)
    made = LengthWarmUp(constant(length), total_tokens=9, pad=-1)(
        {"input_ids": tokens, "labels": tokens + 1, "attention_mask": mask}
    )
    assert made["input_ids"].shape[1] <= length
    assert made["attention_mask"].dtype == torch.bool
    assert made["input_ids"][made["attention_mask"]].tolist() == tokens[mask].tolist()
    assert made["labels"][made["attention_mask"]].tolist() == (tokens[mask] + 1).tolist()


@given(sizes=sizes, length=lengths)
def test_loss_and_weight_are_unchanged_where_context_is_not_used(sizes, length):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(200, 8), torch.nn.Linear(8, 200)).double()
    batch = PadCollator(lengths=True)(samples_of(sizes))
    made = LengthWarmUp(constant(length), total_tokens=9)(batch)
    assert label_count(made) == label_count(batch)
    gradients = []
    for each in (batch, made):
        model.zero_grad()
        loss_sum(model, each).backward()
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", [4, 5, 100])
def test_kinds_of_batches_stay_what_they_are(length):
    tokens = torch.arange(20).reshape(2, 10)
    made = LengthWarmUp(constant(length), total_tokens=100)(tokens)
    assert made.shape[1] <= length or length == 100
    assert made[made != 0].tolist() == [*range(1, 20)]  # a tensor has no mask: 0 is padding here
    named = LengthWarmUp(constant(length), total_tokens=100, pad=(0, -100))(
        Pair(tokens, tokens + 1)
    )
    assert type(named) is Pair
    assert named.labels[named.labels != -100].tolist() == [*range(1, 21)]
    made = LengthWarmUp(constant(length), total_tokens=100)(
        [tokens, torch.tensor([10, 3]), ["a", "b"], 0.5, torch.tensor(2)]
    )
    assert isinstance(made, list)
    assert made[3:] == [0.5, torch.tensor(2)]
    pieces = -(-10 // length)
    assert made[2] == ["a"] * pieces + ["b"] * pieces
    assert made[1].tolist() == [10] * pieces + [3] * pieces


def test_more_dimensions_are_cut_with_the_rest():
    frames = torch.randn(2, 10, 3)
    made = LengthWarmUp(constant(4), total_tokens=100, pad={"frames": 9})(
        {"frames": frames, "labels": torch.ones(2, 10), "lengths": torch.tensor([10, 7])}
    )
    inside = torch.arange(4) < made["lengths"][:, None]
    assert torch.equal(made["frames"][inside], torch.cat((frames[0], frames[1, :7])))
    assert (made["frames"][~inside] == 9).all()
    assert made["frames"].dtype == torch.float32


def test_lengths_grow_with_the_tokens_of_all_ranks():
    pacing = batchwright.pacing.length_warm_up(8, 32, step=8, reach=0.5)
    warm_up = LengthWarmUp(pacing, total_tokens=1280, world_size=2)
    batch = {"input_ids": torch.ones(2, 32), "lengths": torch.tensor([32, 32])}
    widths, by_hand = [], []
    for step in range(12):
        by_hand.append(int(pacing(step * 128 / 1280)))
        assert warm_up.length == by_hand[-1]
        widths.append(warm_up(batch)["input_ids"].shape[1])
    assert by_hand == [8, 8, 16, 16, 24, 32, 32, 32, 32, 32, 32, 32]
    # Equal pieces: 32 tokens in rows of at most 24 are two of 16.
    assert widths == [8, 8, 16, 16, 16, 32, 32, 32, 32, 32, 32, 32]
    assert warm_up.tokens == 12 * 128
    assert warm_up.progress == pytest.approx(1.2)


@given(sizes=st.lists(sizes, min_size=2, max_size=8), stop=st.integers(0, 8))
def test_a_resumed_run_cuts_as_if_it_had_not_stopped(sizes, stop):
    pacing = batchwright.pacing.length_warm_up(2, 30, step=2, reach=0.7)
    total = sum(map(sum, sizes))
    collate = PadCollator(attention_mask=True)
    batches = [collate(samples_of(each)) for each in sizes]
    through = LengthWarmUp(pacing, total_tokens=total)
    expected = [through(batch) for batch in batches]
    before = LengthWarmUp(pacing, total_tokens=total)
    made = [before(batch) for batch in batches[:stop]]
    after = LengthWarmUp(pacing, total_tokens=total)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    made += [after(batch) for batch in batches[stop:]]
    for one, other in zip(made, expected, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert after.state_dict() == through.state_dict()


def test_states_of_other_runs_are_refused():
    pacing = batchwright.pacing.length_warm_up(2, 30, step=2)
    warm_up = LengthWarmUp(pacing, total_tokens=100)
    good = warm_up.state_dict()
    for state in (None, {}, good | {"version": 9}, good | {"tokens": -1}, good | {"tokens": "1"}):
        with pytest.raises(PlanError, match=r"no state of LengthWarmUp.*state_dict\(\)"):
            warm_up.load_state_dict(state)
    with pytest.raises(PlanError, match="total_tokens=101 at length 2"):
        warm_up.load_state_dict(good | {"total_tokens": 101})
    with pytest.raises(PlanError, match="length would be 3"):
        LengthWarmUp(constant(3), total_tokens=100).load_state_dict(good)
    assert warm_up.state_dict() == good


TOKENS = torch.zeros(2, 9, dtype=torch.int64)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ("text", LengthsError, "batch of type str has no tensor"),
        (torch.zeros(3), LengthsError, "no tensor"),
        ({"source": TOKENS, "target": TOKENS[:, :7]}, LengthsError, r"'target'.*\[2, 7\].*'source'"),
        ({"input_ids": TOKENS[:1], "cu_seq_lens_q": torch.tensor([0, 4, 9])}, LengthsError, "cu_seq"),
        ({"input_ids": TOKENS, "attention_mask": torch.ones(2, 9, 9)}, LengthsError, "attention_mask"),
        ({"input_ids": TOKENS, "names": ["a"] * 4}, LengthsError, "'names' of the batch is a list"),
        ({"input_ids": TOKENS, "more": {"x": TOKENS}}, LengthsError, "'more' of the batch is a dict"),
        ({"input_ids": TOKENS, "lengths": torch.tensor([3, 10])}, LengthsError, "from 3 to 10, but rows have 9"),
        ({"input_ids": TOKENS, "lengths": torch.tensor([3.0, 9.0])}, LengthsError, "float32"),
        ((TOKENS, TOKENS), BudgetError, r"pad=\(0, -100\)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("length", [4, 99])
def test_batches_that_cannot_be_cut_are_refused_from_the_first_on(batch, error, message, length):
    warm_up = LengthWarmUp(constant(length), total_tokens=100)
    with pytest.raises(error, match=message):
        warm_up(batch)
    assert warm_up.tokens == 0


def test_settings_that_make_no_sense_are_refused():
    for name in ("total_tokens", "world_size", "pad_to_multiple_of"):
        with pytest.raises(BudgetError, match=rf"LengthWarmUp\({name}=0\)"):
            LengthWarmUp(constant(4), **{"total_tokens": 9, name: 0})
    with pytest.raises(BudgetError, match="length of 0 after 0 tokens"):
        LengthWarmUp(constant(0), total_tokens=9)(TOKENS)
    with pytest.raises(ColumnNotFoundError, match="'label'"):
        LengthWarmUp(constant(4), total_tokens=9, pad={"label": 1})({"input_ids": TOKENS})


def test_lengths_follow_a_mask_that_says_otherwise():
    tokens = torch.arange(1, 11).reshape(1, 10)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 0, 0]])
    batch = {"input_ids": tokens, "attention_mask": mask, "lengths": torch.tensor([10])}
    made = LengthWarmUp(constant(3), total_tokens=9, pad=5)(batch)
    assert made["input_ids"].tolist() == [[4, 5, 5], [6, 7, 8]]
    assert made["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert made["lengths"].tolist() == [2, 3]


def test_an_epoch_of_a_planned_loader_keeps_its_tokens_and_its_gradient():
    samples = samples_of([5, 30, 12, 1, 22, 9, 17, 28, 3, 30])
    sizes = [each["kind"] for each in samples]
    planner = bw.Planner(sizes, batching=bw.TokenBudget(64), seed=1)
    loader = DataLoader(
        samples, batch_sampler=PlanBatchSampler(planner(0)),
        collate_fn=PadCollator(attention_mask=True),
    )  # fmt: skip
    pacing = batchwright.pacing.length_warm_up(4, 30, step=4, reach=1.0)
    warm_up = LengthWarmUp(pacing, total_tokens=sum(sizes))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(200, 8), torch.nn.Linear(8, 200))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    gradients, pairs, widths = [], collections.Counter(), []
    for cut in (None, warm_up):
        batches = [batch if cut is None else cut(batch) for batch in loader]
        weight = sum(map(label_count, batches))
        with Precision("fp32").update(model, optimizer, weight=weight) as update:
            for batch in batches:
                update.backward(loss_sum, batch)
        gradients.append(flat_gradient(model))
    for batch in batches:
        pairs += pairs_in(batch)
        widths.append(batch["input_ids"].shape[1])
    assert pairs == pairs_by_hand(samples)
    assert widths[0] <= 4
    assert len(widths) > 2
    assert warm_up.length == 30
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_rows_padded_on_the_left_are_cut_by_their_mask():
    samples = [{"input_ids": [1, 2, 3, 4, 5], "label_ids": [2, 3, 4, 5, 6]}, {"input_ids": [7], "label_ids": [8]}]  # fmt: skip
    batch = PadCollator(9, side="left", attention_mask=True, lengths=True)(samples)
    made = LengthWarmUp(constant(3), total_tokens=100, pad={"input_ids": 9})(batch)
    assert made["input_ids"].tolist() == [[1, 2, 9], [3, 4, 5], [7, 9, 9]]
    assert made["label_ids"].tolist() == [[2, 3, -100], [4, 5, 6], [8, -100, -100]]
    assert made["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert made["lengths"].tolist() == [2, 3, 1]


def test_whatever_belongs_to_a_row_is_repeated_for_each_piece():
    @dataclasses.dataclass
    class Batch:
        tokens: torch.Tensor
        active: torch.Tensor
        names: tuple
        speakers: np.ndarray
        scale: float = 2.0

    batch = Batch(TOKENS, torch.ones(2, 9, dtype=torch.bool), ("a", "b"), np.array([4, 5]))
    made = LengthWarmUp(constant(5), total_tokens=100, pad={"active": -100})(batch)
    assert made.tokens.shape == (4, 5)
    assert int(made.active.sum()) == 18  # nothing becomes true
    assert made.names == ("a", "a", "b", "b")
    assert made.speakers.tolist() == [4, 4, 5, 5]
    assert made.scale == 2.0
