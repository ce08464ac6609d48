"""Packed pairs: a row of sources beside a row of targets, each pair kept to itself."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

import batchwright as bw
from batchwright.torch import PackCollator, PadCollator, PlanBatchSampler

VOCABULARY, WIDTH, HEADS, START = 50, 16, 2, 1
COLUMNS = {"input_ids": "encoder", "decoder_input_ids": "decoder", "labels": "decoder"}

tokens = st.lists(st.integers(2, VOCABULARY - 1), min_size=1, max_size=9)
pairs_of_tokens = st.lists(st.tuples(tokens, tokens), min_size=1, max_size=6)


def example(source, target):
    return {
        "input_ids": source,
        "decoder_input_ids": [START, *target[:-1]],
        "labels": target,
    }


def laid_out(documents, align, capacity, pad):
    """Lay documents out one token at a time: tokens, owners, positions, and segments with gaps."""
    row, owners, positions, edges = [], [], [], [0]
    for owner, document in enumerate(documents):
        gap = -len(document) % align
        if capacity is not None and owner == len(documents) - 1:
            gap = capacity - len(row) - len(document)
        row += [*document, *[pad] * gap]
        owners += [*[owner] * len(document), *[-1] * gap]
        positions += [*range(len(document)), *range(gap)]
        edges += [edges[-1] + len(document), len(row)]
    return row, owners, positions, edges


@given(
    pairs=pairs_of_tokens,
    align=st.sampled_from([1, 4]),
    room=st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9)),
    as_tuples=st.booleans(),
)
def test_the_rows_are_what_a_plain_loop_lays_out(pairs, align, room, as_tuples):
    samples = [example(*pair) for pair in pairs]
    taken = [
        sum(len(pair[c]) + -len(pair[c]) % align for pair in pairs) for c in (0, 1)
    ]  # fmt: skip
    capacity = None if room is None else tuple(a + b for a, b in zip(taken, room, strict=True))
    collate = PackCollator(columns=COLUMNS, align=align, capacity=capacity, pad={"input_ids": 7})
    batch = collate([tuple(each.values()) for each in samples] if as_tuples else samples)
    expected = {}
    for name, title in COLUMNS.items():
        pad = {"input_ids": 7, "decoder_input_ids": 0, "labels": -100}[name]
        most = None if capacity is None else capacity[title == "decoder"]
        documents = [each[name] for each in samples]
        expected[name], *of_row = laid_out(documents, align, most, pad)
        owners, positions, edges = of_row
        expected |= {
            f"{title}_document_ids": owners,
            f"{title}_position_ids": positions,
            f"{title}_cu_seq_lens": edges,
        }
    if not any(-1 in expected[f"{title}_document_ids"] for title in ("encoder", "decoder")):
        for title in ("encoder", "decoder"):  # no gap, no segments of gaps
            expected[f"{title}_cu_seq_lens"] = [0, *expected[f"{title}_cu_seq_lens"][1::2]]
    for title in ("encoder", "decoder"):
        edges = expected[f"{title}_cu_seq_lens"]
        assert batch.pop(f"{title}_max_length") == int(np.diff(edges).max())
        assert batch[f"{title}_cu_seq_lens"].dtype == torch.int32
    assert {name: value.flatten().tolist() for name, value in batch.items()} == expected
    assert all(value.ndim == 2 for name, value in batch.items() if "seq_lens" not in name)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key_and_value = nn.Linear(WIDTH, 2 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden, seen, mask):
        def heads(projected):
            return projected.unflatten(-1, (HEADS, -1)).transpose(1, 2)

        key, value = map(heads, self.key_and_value(seen).chunk(2, dim=-1))
        mixed = nn.functional.scaled_dot_product_attention(
            heads(self.query(hidden)), key, value, attn_mask=mask
        )
        return hidden + self.out(mixed.transpose(1, 2).flatten(-2))


class EncoderDecoder(nn.Module):
    """Self-attention on both sides, and from the decoder to the encoder; learnt positions."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(64, WIDTH)
        self.encoder, self.decoder, self.across = Attention(), Attention(), Attention()
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, source, target, positions, masks):
        inside, causal, across = masks
        memory = self.tokens(source) + self.positions(positions[0])
        memory = self.encoder(memory, memory, inside)
        hidden = self.tokens(target) + self.positions(positions[1])
        hidden = self.decoder(hidden, hidden, causal)
        return self.head(self.across(hidden, memory, across))


def masks_of(source_ids, target_ids):
    """Return who sees whom: inside the encoder, inside the decoder, and from there to the first."""

    def same(queries, keys):
        return queries[:, None, :, None] == keys[:, None, None, :]

    causal = same(target_ids, target_ids).tril()
    return same(source_ids, source_ids), causal, same(target_ids, source_ids)


def output_of(model, batch, ids):
    positions = [batch[f"{title}_position_ids"] for title in ("encoder", "decoder")]
    return model(batch["input_ids"], batch["decoder_input_ids"], positions, masks_of(*ids))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return EncoderDecoder()


@pytest.fixture(scope="module")
def samples():
    generator = torch.Generator().manual_seed(1)

    def draw(size):
        return torch.randint(2, VOCABULARY, (size,), generator=generator).tolist()

    return [
        example(draw(a), draw(b)) for a, b in ((5, 3), (1, 7), (12, 8), (3, 1), (1, 1), (8, 11))
    ]


def alone(model, samples):
    """Send each pair through the model by itself; a row of one pair needs no ids to be kept."""
    outputs = []
    for each in samples:
        source, target = (torch.tensor([each[n]]) for n in ("input_ids", "decoder_input_ids"))
        positions = [torch.arange(ids.shape[1])[None] for ids in (source, target)]
        causal = torch.ones(1, 1, target.shape[1], target.shape[1]).tril().bool()
        outputs.append(model(source, target, positions, (None, causal, None)))
    return torch.cat(outputs, dim=1)


COLLATORS = [
    PackCollator(columns=COLUMNS),
    PackCollator(columns=COLUMNS, align=8),
    PackCollator(columns=COLUMNS, capacity=(50, 60), align=2),
    PackCollator(columns=COLUMNS, capacity=(30, 31)),  # the encoder's row is full
]


@pytest.mark.parametrize("collate", COLLATORS)
def test_packed_pairs_give_what_each_pair_gives_alone(model, samples, collate):
    batch = collate(samples)
    ids = batch["encoder_document_ids"], batch["decoder_document_ids"]
    output = output_of(model, batch, ids)
    inside = ids[1][0] >= 0
    expected = alone(model, samples)
    assert torch.allclose(output[:, inside], expected, atol=1e-5)
    # Without the ids of either side, pairs see one another.
    for row in range(2):
        blind = list(ids)
        blind[row] = torch.zeros_like(ids[row])
        blind[1 - row] = torch.where(ids[1 - row] >= 0, 0, -1) if row == 0 else ids[0]
        assert not torch.allclose(output_of(model, batch, blind)[:, inside], expected, atol=1e-2)


@pytest.mark.parametrize("collate", COLLATORS)
def test_segments_of_both_rows_belong_together(model, samples, collate):
    """What a kernel for segments does: segment s of the queries sees segment s of the keys."""
    batch = collate(samples)
    parts = [batch[f"{title}_cu_seq_lens"].long().diff() for title in ("encoder", "decoder")]
    assert parts[0].shape == parts[1].shape
    assert [batch[f"{t}_max_length"] for t in ("encoder", "decoder")] == [
        int(sizes.max()) for sizes in parts
    ]
    segments = [torch.arange(sizes.numel()).repeat_interleave(sizes)[None] for sizes in parts]
    output = output_of(model, batch, segments)
    inside = batch["decoder_document_ids"][0] >= 0
    assert torch.allclose(output[:, inside], alone(model, samples), atol=1e-5)


def test_a_packed_loss_has_the_gradient_of_the_padded_one(model, samples):
    packed = PackCollator(columns=COLUMNS, align=4, capacity=(48, 48))(samples)
    ids = packed["encoder_document_ids"], packed["decoder_document_ids"]
    gradient = gradient_of(model, output_of(model, packed, ids), packed["labels"])
    padded = PadCollator(pad={"decoder_input_ids": 0})(samples)
    sides = [padded[name] for name in ("input_ids", "decoder_input_ids")]
    padded |= {
        f"{title}_position_ids": torch.arange(side.shape[1]).expand_as(side)
        for title, side in zip(("encoder", "decoder"), sides, strict=True)
    }
    real = [torch.where(side != 0, 0, -1) for side in sides]
    expected = gradient_of(model, output_of(model, padded, real), padded["labels"])
    for mine, theirs in zip(gradient, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)


def gradient_of(model, output, labels):
    loss = nn.functional.cross_entropy(
        output.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=-100
    )
    return torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("align", [1, 8])
@pytest.mark.parametrize("oversize", ["error", "truncate"])
def test_rows_of_a_plan_have_one_shape_and_every_token(align, oversize):
    most = 100 if oversize == "truncate" else 48
    lengths = np.random.default_rng(0).integers(1, most, (80, 2))
    planner = bw.Planner(lengths, batching=bw.Packing((64, 48), align=align, oversize=oversize))
    assert (planner(0).layout.max_length is None) == (oversize == "error")
    pairs = [
        (1 + 1000 * i + np.arange(a), 1 + 1000 * i + np.arange(b))
        for i, (a, b) in enumerate(lengths.tolist())
    ]
    collate = PackCollator(
        columns={"source": "source", "target": "target"},
        capacity=(64, 48),
        align=align,
        max_length=planner(0).layout.max_length,
    )
    loader = DataLoader(pairs, batch_sampler=PlanBatchSampler(planner), collate_fn=collate)
    rows = list(loader)
    assert len(rows) == len(planner)
    for column, (name, cap) in enumerate({"source": 64, "target": 48}.items()):
        assert {row[name].shape for row in rows} == {(1, cap)}
        came = torch.cat([row[name] for row in rows], dim=1)
        kept = [pair[column][:cap] for pair in pairs]
        assert sorted(came[came > 0].tolist()) == np.sort(np.concatenate(kept)).tolist()
    for row in rows:  # both columns of a sample are in one row
        numbers = [row[name][row[name] > 0] // 1000 for name in ("source", "target")]
        assert numbers[0].unique().tolist() == numbers[1].unique().tolist()


PAIR = {"input_ids": [1, 2], "labels": [3]}
BOTH = {"input_ids": "encoder", "labels": "decoder"}


@pytest.mark.parametrize(
    ("collate", "samples", "error", "told"),
    [
        (PackCollator(columns=BOTH), [], bw.errors.LengthsError, "no sample"),
        (
            PackCollator(columns=BOTH),
            [{"input_ids": [1]}],
            bw.errors.ColumnNotFoundError,
            "'labels'",
        ),
        (PackCollator(columns=BOTH), [([1], [2], [3])], bw.errors.ColumnNotFoundError, "3 fields"),
        (PackCollator(columns=BOTH), [[1, 2]], bw.errors.ColumnNotFoundError, "1 fields"),
        (
            PackCollator(columns=BOTH, pad={"weight": 0}),
            [PAIR | {"weight": [1.0]}],
            bw.errors.ColumnNotFoundError,
            "names 'weight'",
        ),
        (
            PackCollator(columns=BOTH),
            [PAIR, PAIR | {"labels": []}],
            bw.errors.LengthsError,
            "sample 1 .* each decoder document",
        ),
        (
            PackCollator(columns=COLUMNS),
            [PAIR | {"decoder_input_ids": [1, 2]}],
            bw.errors.LengthsError,
            "1 entries in 'labels' for 2 in 'decoder_input_ids'",
        ),
        (
            PackCollator(columns=BOTH, capacity=(3, 9)),
            [PAIR, PAIR],
            bw.errors.BudgetError,
            "2 encoder documents take 4 tokens .* capacity=3",
        ),
    ],
)
def test_what_cannot_be_packed_is_named(collate, samples, error, told):
    with pytest.raises(error, match=told):
        collate(samples)


@pytest.mark.parametrize(
    "settings",
    [
        {"columns": BOTH, "capacity": 9},
        {"columns": BOTH, "capacity": (9, 9, 9)},
        {"columns": COLUMNS, "max_length": (9,)},
        {"columns": BOTH, "capacity": (9, 0)},
        {"capacity": (9, 9)},
        {"max_length": (9, 9)},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(bw.errors.BudgetError, match="expected"):
        PackCollator(**settings)


def test_it_goes_to_workers():
    collate = PackCollator(columns=BOTH, capacity=(9, 9), pad={"input_ids": 3})
    assert pickle.loads(pickle.dumps(collate)) == collate  # noqa: S301
