"""A training job, to begin with: replace each numbered part by your own."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, pad

import batchwright as bw
from batchwright.compare import Task
from batchwright.torch import PadCollator

Batch = dict[str, torch.Tensor]

# 1. How samples become a batch. PadCollator pads each sequence to the longest of the batch.
collate = PadCollator()


class Writer(nn.Module):
    """2. Your model: here a small network that predicts a byte from the eight before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.read = nn.Embedding(256, 32), nn.Linear(8 * 32, 256)
        self.predict = nn.Linear(256, 256)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """int64[rows, length] → scores, float32[rows, length, 256]."""
        seen = self.embed(pad(tokens, (7, 0))).unfold(1, 8, 1).flatten(2)
        scores: torch.Tensor = self.predict(torch.relu(self.read(seen)))
        return scores


def loss_sum(model: nn.Module, batch: Batch) -> torch.Tensor:
    """3. The *sum* of the loss over a batch, not its mean: reduction="sum"."""
    scores = model(batch["tokens"]).transpose(1, 2)
    return cross_entropy(scores, batch["labels"], reduction="sum")


def task(*, quick: bool = False) -> Task:
    """Describe the job: batchwright compare this_file.py --quick."""
    # 4. Your samples, with a length each. Here: paragraphs of Python's help, byte by byte.
    from pydoc_data.topics import topics

    paragraphs = {text.strip() for topic in topics.values() for text in topic.split("\n\n")}
    texts = [text.encode() for text in sorted(paragraphs) if 1 < len(text.encode()) <= 512]
    order = np.random.default_rng(0).permutation(len(texts))
    coded = [torch.tensor(list(texts[index])) for index in order]
    samples = [{"tokens": each[:-1], "labels": each[1:]} for each in coded]
    validation, training = samples[:200], samples[200:]

    # 5. How good a model is, on samples that it is never trained on.
    def loss_of_a_byte(model: nn.Module) -> float:
        device = next(model.parameters()).device
        lengths = [len(each["tokens"]) for each in validation]
        total = 0.0
        for rows in bw.plan(lengths, max_tokens=8_192):
            batch = collate([validation[row] for row in rows])
            on_device = {name: each.to(device) for name, each in batch.items()}
            total += loss_sum(model, on_device).item()
        return total / sum(lengths)

    return Task(
        samples=training,
        lengths=[len(each["tokens"]) for each in training],
        collate=collate,
        model=Writer,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=5e-3),
        loss_sum=loss_sum,
        evaluate=loss_of_a_byte,
        # 6. Your settings.
        batch_size=32,  # what your batches hold now: planned updates learn from as much,
        max_tokens=4_096,  # in batches of at most so many tokens, padding included
        epochs=1 if quick else 3,
        metric="loss of a byte",
        better="lower",  # "higher" for accuracy and the like
        strategies=["plain", "planned", "mixed"],  # batchwright compare --help: all there are
    )
