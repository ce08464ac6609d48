"""The model that updates are measured on: a small causal Transformer, and batches for it."""

from collections.abc import Sequence

import torch
from torch.nn import functional

VOCABULARY = 256
IGNORED = -100

Batch = dict[str, torch.Tensor]


class LanguageModel(torch.nn.Module):
    """A causal Transformer without dropout: what two passes over it differ in is rounding."""

    def __init__(self, width: int, *, layers: int = 2) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(VOCABULARY, width)
        self.blocks = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(
                width,
                max(1, width // 32),
                4 * width,
                dropout=0.0,
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )
        self.norm = torch.nn.LayerNorm(width)
        self.head = torch.nn.Linear(width, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = torch.nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        return self.head(self.norm(x))


class Ledger(torch.nn.Module):
    """A model that keeps a tally of samples: the gradient by `seen` is how often each was used."""

    def __init__(self, model: LanguageModel, num_samples: int) -> None:
        super().__init__()
        self.model = model
        self.seen = torch.nn.Parameter(torch.zeros(num_samples))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(tokens)


def loss_sum(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Sum the loss over the tokens of a batch."""
    logits = model(batch["input_ids"])
    loss = functional.cross_entropy(
        logits.flatten(0, 1).float(),
        batch["labels"].flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )
    return loss + model.seen[batch["samples"]].sum() if isinstance(model, Ledger) else loss


def make(width: int, *, layers: int = 2, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    return LanguageModel(width, layers=layers)


def sentences(count: int, *, longest: int, seed: int = 0) -> list[torch.Tensor]:
    """Draw sequences whose lengths are as uneven as those of texts: log-normal."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (torch.randn(count, generator=generator) * 0.8 + 2.5).exp().long().clamp(2, longest)
    return [
        torch.randint(0, VOCABULARY, (length,), generator=generator) for length in lengths.tolist()
    ]


def padded(sequences: Sequence[torch.Tensor], samples: Sequence[int]) -> Batch:
    """Pad some of the sequences on the right; the next token is the label."""
    chosen = [sequences[sample] for sample in samples]
    tokens = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence(
        [each[1:] for each in chosen], batch_first=True, padding_value=IGNORED
    )
    end = torch.full((len(chosen), 1), IGNORED)
    return {
        "input_ids": tokens,
        "labels": torch.cat([labels, end], dim=1),
        "samples": torch.tensor(samples),
    }


def full(rows: int, length: int, *, seed: int = 0) -> Batch:
    """Draw a batch without padding."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY, (rows, length), generator=generator)
    return {"input_ids": tokens, "labels": tokens.roll(-1, dims=1)}


def token_count(batch: Batch) -> float:
    return float((batch["labels"] != IGNORED).sum())
