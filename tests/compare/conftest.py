"""A task that trains in milliseconds: which of two letters is more frequent in a word."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from batchwright.compare import Task
from batchwright.torch import PadCollator


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(3, 8, padding_idx=0)
        self.decide = nn.Sequential(nn.Dropout(0.1), nn.Linear(8, 2))

    def forward(self, tokens):
        return self.decide(self.embed(tokens).sum(1))


def loss_sum(model, batch):
    return cross_entropy(model(batch["tokens"]), batch["labels"], reduction="sum")


def make_task(num_samples=240, **changes):
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.1, num_samples), 40)
    words = [torch.from_numpy(rng.integers(1, 3, length)) for length in lengths]
    samples = [
        {"tokens": word, "labels": int((word == 1).sum() > (word == 2).sum())} for word in words
    ]
    collate = PadCollator()

    def evaluate(model):
        batch = collate(samples[:60])
        return float(loss_sum(model, batch)) / 60

    settings = {
        "samples": samples,
        "lengths": lengths,
        "collate": collate,
        "model": Counter,
        "optimizer": lambda model: torch.optim.AdamW(model.parameters(), 1e-2),
        "loss_sum": loss_sum,
        "evaluate": evaluate,
        "max_tokens": 80,
        "step_tokens": 160,
        "device": "cpu",
    }
    return Task(**settings | changes)


@pytest.fixture
def task():
    return make_task()
