"""Small jobs to inject faults into: models with buffers, lists, packed rows, sparse layers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from batchwright.torch import PackCollator
from tests.torch.attention_model import Attention, padded, sequences
from tests.torch.attention_model import loss_sum as token_loss

SAMPLES = sequences(24)


@dataclass(frozen=True)
class Job:
    """A model, its loss, and how samples become a batch."""

    model: Callable[[], nn.Module]
    optimizers: Callable[[nn.Module], list[torch.optim.Optimizer]]
    loss_sum: Callable[[Any, Any], torch.Tensor]
    collate: Callable[[list[Any]], Any]
    samples: list[Any]
    weigh: Callable[[Any], float]


class Counting(nn.Module):
    """Counts its passes in three kinds of buffer, and leaves what goes through it."""

    grows = True

    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("replaced", torch.zeros(()), persistent=False)
        self.register_buffer("seen", torch.zeros(0))
        self.table = nn.Buffer(torch.arange(1000.0))

    def forward(self, x):
        with torch.no_grad():
            self.passes += 1
            self.replaced = self.replaced + 1
            if self.grows:
                self.seen.resize_(self.seen.numel() + 1).fill_(1)
        return x


def sgd(model):
    return [torch.optim.SGD(model.parameters(), lr=0.1)]


def padded_job():
    def make():
        model = Attention()
        model.out = nn.Sequential(model.out, Counting())
        return model

    return Job(make, sgd, token_loss, padded, SAMPLES, lambda b: float((b["labels"] != -100).sum()))


WORDS = ("one", "two", "three", "four")


def lists_job():
    """Rows beside a list of their texts, in a tuple; a batch normalisation that is not training."""
    generator = torch.Generator().manual_seed(3)
    samples = [
        (torch.randn(5, generator=generator), WORDS[int(torch.randint(4, (), generator=generator))])
        for _ in range(24)
    ]

    def make():
        model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
        model.append(Counting())
        model[1].eval()
        return model

    def loss_sum(model, batch):
        rows, words = batch
        labels = torch.tensor([WORDS.index(word) for word in words])
        return functional.cross_entropy(model(rows), labels, reduction="sum")

    def collate(rows):
        return torch.stack([x for x, _ in rows]), [word for _, word in rows]

    return Job(make, sgd, loss_sum, collate, samples, lambda batch: float(len(batch[1])))


def packed_job():
    def make():
        return nn.Sequential(nn.Embedding(50, 8), Counting(), nn.Linear(8, 50))

    def loss_sum(model, batch):
        scores = model(batch["input_ids"]).transpose(1, 2)
        return functional.cross_entropy(scores, batch["labels"], reduction="sum")

    samples = [{"input_ids": each} for each in SAMPLES]
    adam = lambda model: [torch.optim.AdamW(model.parameters(), lr=0.01)]  # noqa: E731
    weigh = lambda batch: float((batch["labels"] != -100).sum())  # noqa: E731
    return Job(make, adam, loss_sum, PackCollator(), samples, weigh)


def sparse_job():
    def make():
        return nn.Sequential(nn.EmbeddingBag(50, 8, sparse=True, mode="sum"), nn.Linear(8, 1))

    def optimizers(model):
        return [
            torch.optim.SparseAdam(model[0].parameters(), lr=0.01),
            torch.optim.SGD(model[1].parameters(), lr=0.1),
        ]

    def loss_sum(model, batch):
        return model(batch).square().sum()

    generator = torch.Generator().manual_seed(5)
    samples = [torch.randint(50, (3,), generator=generator) for _ in range(24)]
    return Job(make, optimizers, loss_sum, torch.stack, samples, lambda batch: float(len(batch)))


JOBS = {"padded": padded_job, "lists": lists_job, "packed": packed_job, "sparse": sparse_job}
