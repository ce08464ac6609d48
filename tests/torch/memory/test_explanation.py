"""What dominates a peak; and that what is said to cure it does."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from batchwright.torch.memory.steps import real_steps
from benchmarks.memory_prediction import Transformer
from tests.torch.memory.networks import MEBIBYTE, fitted, task_of

LIMIT = 64 * MEBIBYTE


class Checkpointed(Transformer):
    """Recomputes each layer in the backward pass."""

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return self.head(self.norm(x))


class Deep(nn.Module):
    """Many layers, few classes: activations are most of it."""

    def __init__(self, layers=6, *, recompute=False):
        super().__init__()
        self.embed = nn.Embedding(2_000, 32)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32)) for _ in range(layers)
        )
        self.head = nn.Linear(32, 4)
        self.recompute = recompute

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = x + (checkpoint(layer, x, use_reentrant=False) if self.recompute else layer(x))
        return self.head(x)


def few_classes(model, batch):
    tokens, targets = batch
    logits = model(tokens).flatten(0, 1)
    return functional.cross_entropy(logits, targets.flatten() % 4, reduction="sum")


def chunked(model, batch):
    tokens, targets = batch
    x = model.tokens(tokens) + model.positions(torch.arange(tokens.shape[1]))
    hidden = model.norm(model.blocks(x)).flatten(0, 1)
    return functional.linear_cross_entropy(
        hidden,
        model.head.weight,
        targets.flatten(),
        reduction="sum",
        options=nn.LinearCrossEntropyOptions(),
    )


@pytest.mark.slow
def test_a_large_vocabulary_is_named_as_logits():
    explanation = fitted(Transformer(layers=1), confirm=False).explain(16, 64)
    assert explanation.dominant.name == "logits"
    assert explanation.dominant.share > 0.5
    assert "cross_entropy" in explanation.dominant.cure
    assert any("2000" in each for each in explanation.tensors)


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(functional, "linear_cross_entropy"), reason="needs torch's linear_cross_entropy"
)
def test_a_chunked_loss_cures_logits():
    model = Transformer(layers=1)
    plain, cured = fitted(model, limit=LIMIT), fitted(model, loss_sum=chunked, limit=LIMIT)
    assert cured.max_tokens() > 2 * plain.max_tokens()
    with real_steps(task_of(model, loss_sum=chunked), 16) as run:
        for length in (20, 100):
            rows = cured.max_batch(length)
            assert cured.state_bytes + run(rows, length) <= LIMIT


@pytest.mark.slow
def test_kept_scores_are_named_and_fused_attention_cures_them():
    options = {"lengths": range(16, 513), "limit": LIMIT, "confirm": False}
    kept = fitted(Transformer(layers=2, heads=8, keeps_scores=True), **options)
    most = kept.explain(1, 512).dominant
    assert most.name == "attention scores"
    assert "scaled_dot_product_attention" in most.cure
    fused = fitted(Transformer(layers=2, heads=8), **options)
    names = {part.name for part in fused.explain(1, 512).parts if part.share > 0.001}
    assert "attention scores" not in names
    assert fused.peak(1, 512) < 0.6 * kept.peak(1, 512)


def test_a_fused_call_that_falls_back_is_named():
    def loss_sum(model, batch):
        query = model(batch).unsqueeze(1)
        mixed = functional.scaled_dot_product_attention(query, query, query, dropout_p=0.1)
        return mixed.square().sum()

    memory = fitted(
        nn.Embedding(100, 8),
        loss_sum=loss_sum,
        make_batch=lambda rows, length: torch.zeros(rows, length, dtype=torch.long),
        confirm=False,
    )
    most = memory.explain(4, 128).dominant
    assert most.name == "attention scores"
    assert "fall back" in most.cure


@pytest.mark.slow
def test_deep_layers_are_named_as_activations_and_checkpoints_cure_them():
    plain = fitted(Deep(), loss_sum=few_classes, limit=LIMIT)
    most = plain.explain(64, 128).dominant
    assert most.name == "activations"
    assert "checkpoint" in most.cure
    model = Deep(recompute=True)
    cured = fitted(model, loss_sum=few_classes, limit=LIMIT)
    assert cured.peak(64, 128) < 0.5 * plain.peak(64, 128)
    with real_steps(task_of(model, loss_sum=few_classes), 16) as run:
        measured = run(60, 100)
        assert cured.peak(60, 100) - cured.state_bytes == pytest.approx(measured, rel=0.03)


@pytest.mark.slow
def test_a_checkpointed_transformer_is_predicted_as_it_is():
    model = Checkpointed(width=32, layers=2)
    memory = fitted(model)
    with real_steps(task_of(model), 16) as run:
        predicted = memory.peak(9, 100) - memory.state_bytes
        assert predicted == pytest.approx(run(9, 100), rel=0.03)


def test_parts_add_up_to_the_peak():
    memory = fitted(Transformer(width=32, layers=1, keeps_scores=True), confirm=False)
    for rows, length in ((1, 16), (40, 16), (3, 128)):
        explanation = memory.explain(rows, length)
        assert sum(part.share for part in explanation.parts) == pytest.approx(1.0, abs=1e-6)
        assert explanation.peak == pytest.approx(memory.peak(rows, length), abs=2)
        assert sum(part.bytes for part in explanation.parts) == pytest.approx(
            explanation.peak, abs=len(explanation.parts)
        )
        sizes = [part.bytes for part in explanation.parts]
        assert sizes == sorted(sizes, reverse=True)


def test_in_tiny_batches_the_state_dominates():
    memory = fitted(Transformer(layers=1), confirm=False, accumulate=1)
    parts = [part.name for part in memory.explain(1, 16).parts]
    assert parts[0] == "optimizer state"
    assert "gradients" in parts


def test_text_names_shape_peak_parts_and_cure():
    text = str(fitted(Transformer(layers=1), confirm=False).explain(16, 64))
    lines = text.splitlines()
    assert lines[0].startswith("16 × 64: ")
    assert lines[0].endswith("MiB at the peak of a step")
    assert lines[1].split()[0] == "logits"
    assert lines[1].endswith("%")
    assert lines[-1].startswith("  to lower logits, use torch.nn.functional.linear_cross_entropy")
