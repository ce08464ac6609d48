"""Documents of a packed row do not see each other: as if each went through the model alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention.flex_attention import create_mask, flex_attention

import batchwright as bw
from batchwright.torch import PackCollator, PadCollator, document_block_mask, document_mask

VOCABULARY, WIDTH, HEADS = 50, 32, 4

ids = st.lists(st.lists(st.integers(-1, 3), min_size=9, max_size=9), min_size=1, max_size=3)

# flex_attention says so wherever it runs without torch.compile.
unfused = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.project_in = nn.Linear(WIDTH, 3 * WIDTH)
        self.project_out = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden, attend):
        batch, width, _ = hidden.shape
        projected = self.project_in(hidden).view(batch, width, 3, HEADS, -1)
        mixed = attend(*projected.permute(2, 0, 3, 1, 4))
        return self.project_out(mixed.transpose(1, 2).reshape(batch, width, WIDTH))


class Transformer(nn.Module):
    """Two layers, learnt positions: whatever leaks between documents shows."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(64, WIDTH)
        self.attention = nn.ModuleList(Attention() for _ in range(2))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH)) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids, position_ids, attend):
        hidden = self.tokens(input_ids) + self.positions(position_ids)
        for layer in range(2):
            hidden = hidden + self.attention[layer](self.norms[2 * layer](hidden), attend)
            hidden = hidden + self.mlp[layer](self.norms[2 * layer + 1](hidden))
        return self.head(hidden)


def dense(mask=None, *, causal=False):
    def attend(query, key, value):
        return nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal
        )

    return attend


def flexible(mask):
    return lambda query, key, value: flex_attention(query, key, value, block_mask=mask)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Transformer()


@pytest.fixture(scope="module")
def documents():
    generator = torch.Generator().manual_seed(1)
    return [
        {"input_ids": torch.randint(1, VOCABULARY, (size,), generator=generator)}
        for size in (5, 1, 12, 3, 1, 8)
    ]


def alone(model, documents, *, causal):
    """Send each document through the model by itself, [1, tokens of all, vocabulary]."""
    outputs = []
    for each in documents:
        tokens = each["input_ids"][None]
        outputs.append(model(tokens, torch.arange(tokens.shape[1])[None], dense(causal=causal)))
    return torch.cat(outputs, dim=1)


def inside(batch):
    return batch["document_ids"][0] >= 0


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "collate", [PackCollator(), PackCollator(align=8), PackCollator(capacity=50, align=2)]
)
def test_a_packed_forward_is_the_separate_ones(model, documents, collate, causal):
    batch = collate(documents)
    mask = document_mask(batch["document_ids"], causal=causal)
    output = model(batch["input_ids"], batch["position_ids"], dense(mask))
    assert output.isfinite().all()
    expected = alone(model, documents, causal=causal)
    assert torch.allclose(output[:, inside(batch)], expected, atol=1e-5)
    leaking = model(batch["input_ids"], batch["position_ids"], dense(causal=causal))
    assert not torch.allclose(leaking[:, inside(batch)], expected, atol=1e-2)


@unfused
@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("collate", [PackCollator(), PackCollator(align=8, capacity=150)])
def test_flex_attention_gives_the_same(model, documents, collate, causal):
    batch = collate(documents)
    mask = document_block_mask(batch["document_ids"], causal=causal)
    with torch.no_grad():  # flex_attention has no backward on the CPU
        positions = batch["position_ids"].clamp(max=63)  # of the long gap behind all documents
        output = model(batch["input_ids"], positions, flexible(mask))
        expected = alone(model, documents, causal=causal)
    assert torch.allclose(output[:, inside(batch)], expected, atol=1e-5)


def test_a_packed_loss_has_the_gradient_of_the_padded_one(model, documents):
    packed = PackCollator(align=4)(documents)
    mask = document_mask(packed["document_ids"])
    output = model(packed["input_ids"], packed["position_ids"], dense(mask))
    gradient = gradient_of(model, output[0], packed["labels"][0])

    labelled = [each | {"labels": each["input_ids"].clone()} for each in documents]
    for each in labelled:
        each["labels"][0] = -100
    padded = PadCollator()(labelled)
    positions = torch.arange(padded["input_ids"].shape[1])[None]
    output = model(padded["input_ids"], positions, dense(causal=True))
    expected = gradient_of(model, output.flatten(0, 1), padded["labels"].flatten())
    for mine, theirs in zip(gradient, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def gradient_of(model, output, labels):
    """Differentiate the sum of the loss of predicting each token from those before it."""
    loss = nn.functional.cross_entropy(output[:-1], labels[1:], reduction="sum")
    return torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.slow
@given(ids=ids, causal=st.booleans())
def test_both_masks_are_what_a_plain_loop_says(ids, causal):
    tensor = torch.tensor(ids)
    mask = document_mask(tensor, causal=causal)
    assert mask.dtype == torch.bool
    assert mask.shape == (len(ids), 1, 9, 9)
    expected = [
        [
            [row[query] == row[key] and (query >= key or not causal) for key in range(9)]
            for query in range(9)
        ]
        for row in ids
    ]
    assert mask[:, 0].tolist() == expected
    block = document_block_mask(tensor, causal=causal)
    assert block.shape == (len(ids), 1, 9, 9)
    assert torch.equal(create_mask(block.mask_mod, len(ids), None, 9, 9, device="cpu"), mask)


@pytest.mark.parametrize("ids", [torch.zeros(3), torch.zeros(1, 3), torch.zeros(1, 1, 3).int()])
def test_what_are_no_ids_is_refused(ids):
    for make in (document_mask, document_block_mask):
        with pytest.raises(bw.errors.LengthsError, match=r"expected integers \[batch, T\]"):
            make(ids)


@pytest.mark.slow
@pytest.mark.parametrize("align", [1, 8])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_transformers_model_keeps_documents_apart(documents, implementation, align):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        attn_implementation=implementation,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    batch = PackCollator(align=align)(documents)
    kept = {name: batch[name] for name in ("input_ids", "position_ids", "labels")}
    with torch.no_grad():
        output = model(**kept, use_cache=False)
        separate = [model(each["input_ids"][None], use_cache=False).logits for each in documents]
        mask = document_mask(batch["document_ids"])
        if implementation == "eager":  # adds its mask to the scores
            mask = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
        masked = model(**kept, attention_mask=mask, use_cache=False).logits
    expected = torch.cat(separate, dim=1)
    assert torch.allclose(output.logits[:, inside(batch)], expected, atol=1e-5)
    assert torch.allclose(masked[:, inside(batch)], expected, atol=1e-5)
    labels = torch.cat([each["input_ids"][1:] for each in documents])
    logits = torch.cat([each[0, :-1] for each in separate])
    assert torch.allclose(output.loss, nn.functional.cross_entropy(logits, labels), atol=1e-5)
