"""What is trained here, on what: replace each numbered part by your own."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from batchwright.compare import Task
from batchwright.torch import PadCollator


class Reader(nn.Module):
    """4. Your model: here the mean of what a recurrent network reads, byte by byte."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.read = nn.Embedding(256, 32), nn.GRU(32, 64, batch_first=True)
        self.decide = nn.Linear(64, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """int64[rows, length] → scores, float32[rows, 2]."""
        is_real = (tokens != 0)[:, :, None]
        read = self.read(self.embed(tokens))[0] * is_real
        scores: torch.Tensor = self.decide(read.sum(1) / is_real.sum(1))
        return scores


def loss_sum(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """5. The *sum* of the loss over a batch, not its mean: reduction="sum"."""
    return cross_entropy(model(batch["tokens"]), batch["labels"], reduction="sum")


def task(*, quick: bool = False) -> Task:
    """Describe the job: batchwright compare this_file.py --quick."""
    # 1. Your samples, with a length each. Here: is a line of Python's help indented, or not?
    from pydoc_data.topics import topics

    lines = [line for text in topics.values() for line in text.splitlines() if line.strip()]
    lines = np.random.default_rng(0).permutation(lines).tolist()
    lines = lines[: 2_300 if quick else None]
    words = [torch.tensor(list(line.strip().encode())) for line in lines]
    is_indented = [int(line[0] == " ") for line in lines]
    samples = [
        {"tokens": tokens, "labels": label}
        for tokens, label in zip(words, is_indented, strict=True)
    ]
    training, validation = samples[300:], samples[:300]

    # 2. How samples become a batch. PadCollator pads each sequence to the longest of the batch.
    collate = PadCollator()

    # 3. How well a model does, on samples that it is never trained on.
    def accuracy(model: nn.Module) -> float:
        batch = collate(validation)
        tokens = batch["tokens"].to(next(model.parameters()).device)
        return float((model(tokens).argmax(1).cpu() == batch["labels"]).float().mean())

    return Task(
        samples=training,
        lengths=[len(tokens) for tokens in words[300:]],
        collate=collate,
        model=Reader,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3),
        loss_sum=loss_sum,
        evaluate=accuracy,
        max_tokens=1_024,  # what a batch may take, padding included: memory
        step_tokens=4_096,  # what an update learns from, about: several batches
        epochs=2,
        metric="accuracy",
        better="higher",
        strategies=["plain", "grouped", "planned"],  # batchwright compare --help: all there are
    )
