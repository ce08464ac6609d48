"""What is trained, by everybody alike: one job whose samples have one length, one with two."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import language_model
import numpy as np
import torch
import translation
from torch import Tensor, nn

from benchmarks.trainer.setting import Setting

Sample = tuple[Tensor, ...]
Batch = tuple[Tensor, ...]


class Job(Protocol):
    """A training job of the examples: see `examples/applications/language_model.py`."""

    samples: Sequence[Sample]
    lengths: np.ndarray
    learning_rate: float

    def collate(self, samples: Sequence[Sample]) -> Batch: ...
    def model(self) -> nn.Module: ...
    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer: ...
    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor: ...
    def evaluate(self, model: nn.Module) -> float: ...
    def without_padding(self, batches: Sequence[np.ndarray]) -> tuple["Job", list[np.ndarray]]: ...


def prepare(setting: Setting) -> Job:
    """Make the job: a GPT on Python's library (one column), or translation (two)."""
    make = language_model.prepare if setting.job == "one column" else translation.prepare
    return replace(make(num_samples=setting.num_samples), seed=setting.seed)


def row_tokens(lengths: np.ndarray) -> np.ndarray:
    """Count the tokens of each sample, of all columns: int64[n] or int64[n, k] → int64[n]."""
    return lengths if lengths.ndim == 1 else lengths.sum(axis=1)


def laid_out(batch: Batch) -> int:
    """Count the tokens of a batch, padding included; what is predicted is no further column."""
    return sum(part.numel() for part in batch[:-1])


def real_tokens(batch: Batch) -> int:
    """Count the real tokens of a batch, of all columns."""
    sources = batch[:-2]
    # What is read of a target, the last field but one, is as long as what is predicted of it.
    return label_count(batch) + sum(int((source != translation.PAD).sum()) for source in sources)


def label_count(batch: Batch) -> int:
    """Count the tokens of a batch that have a loss."""
    return int((batch[-1] != language_model.IGNORED).sum())


class WithLoss(nn.Module):
    """A job's model as Trainer wants it: it takes fields by name, and returns its loss.

    The loss is the sum over real tokens, divided by their number in the whole update, which
    Trainer tells: the exact mean, as ours is.

    Args:
        job: What is trained.
        count: Told of each batch.
    """

    def __init__(self, job: Job, count: Callable[[Batch], None]) -> None:
        super().__init__()
        self.job = job
        self.count = count
        self.model = job.model()

    def forward(
        self, labels: Tensor, num_items_in_batch: Tensor | int | None = None, **inputs: Tensor
    ) -> Mapping[str, Tensor]:
        """Return ``{"loss": …}``."""
        batch = (*inputs.values(), labels)
        self.count(batch)
        total = self.job.loss_sum(self.model, batch)
        if num_items_in_batch is None:
            num_items_in_batch = label_count(batch)
        return {"loss": total / num_items_in_batch}
