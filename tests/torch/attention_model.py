"""A small causal language model, with lengths that padding and packing both keep apart."""

import torch
from torch.nn import functional


class Attention(torch.nn.Module):
    def __init__(self, vocabulary=50, width=16, heads=2, dropout=0.0):
        super().__init__()
        self.embed = torch.nn.Embedding(vocabulary, width)
        self.mix = torch.nn.Linear(width, 3 * width)
        self.out = torch.nn.Linear(width, width)
        self.norm = torch.nn.LayerNorm(width)
        self.drop = torch.nn.Dropout(dropout)
        self.head = torch.nn.Linear(width, vocabulary)
        self.heads = heads

    def forward(self, tokens):
        x = self.embed(tokens)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.mix(self.norm(x)).chunk(3, dim=-1)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.head(x + self.drop(self.out(mixed.transpose(1, 2).flatten(-2))))


def loss_sum(model, batch):
    logits = model(batch["input_ids"])
    return functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100, reduction="sum"
    )


def padded(sequences):
    """Pad sequences of tokens on the right; the next token is the label."""
    width = max(len(each) for each in sequences)
    tokens = torch.zeros(len(sequences), width, dtype=torch.long)
    labels = torch.full((len(sequences), width), -100)
    for row, each in enumerate(sequences):
        tokens[row, : len(each)] = torch.as_tensor(each)
        labels[row, : len(each) - 1] = torch.as_tensor(each[1:])
    return {"input_ids": tokens, "labels": labels}


def sequences(count, seed=0, longest=24, vocabulary=50):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(2, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(1, vocabulary, (size,), generator=generator).tolist() for size in sizes]
