"""What the loops train: a small model of bytes, on the functions of Python's library."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

sys.path.append(str(Path(__file__).resolve().parents[1] / "applications"))
from python_functions import functions

VOCABULARY = 256


def samples(count: int = 240) -> tuple[list[dict[str, Tensor]], np.ndarray]:
    """Return the bytes of functions, the bytes to predict, and the lengths, int64[n]."""
    texts = [np.frombuffer(text.encode()[:512], np.uint8) for text in functions(count=count)]
    codes = [torch.tensor(text, dtype=torch.int64) for text in texts if len(text) > 1]
    data = [{"input_ids": each[:-1], "labels": each[1:]} for each in codes]
    return data, np.array([each["labels"].numel() for each in data])


class Net(nn.Module):
    """A small recurrent model of bytes."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.body = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64[rows, length] → scores, float[rows, length, 256]."""
        return self.head(self.body(self.embed(input_ids))[0])


def loss_sum(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the sum of the loss over all bytes; padding has the label −100, which is ignored."""
    scores = model(batch["input_ids"]).float()
    return cross_entropy(scores.transpose(1, 2), batch["labels"], reduction="sum")
