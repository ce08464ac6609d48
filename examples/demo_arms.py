"""The ways of making batches that the demonstration compares, and an arm that trains with one.

All arms have the same memory budget, the same tokens per update, the same learning rate at the
same token, the same first weights, and the exact token mean as the loss of an update. What
differs is which samples share a batch, and therefore how much is padding.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice, pairwise
from math import sqrt
from time import perf_counter
from typing import TypeAlias

import numpy as np
from language_model import Batch, Job
from torch.utils.data import DataLoader

from batchwright.torch import Precision

Batches: TypeAlias = Sequence[np.ndarray]
"""Sample indices of each batch, int64[rows]."""

Updates: TypeAlias = Sequence[Batches]
"""The batches of each update."""

WARM_UP = 0.2
"""The learning rate rises over this share of the run's tokens."""


def learning_rate_at(progress: float) -> float:
    """Return the share of the highest rate: a linear warm-up, then an inverse square root.

    It depends on tokens trained on, not on updates, and it does not know where the run ends, so
    that a run can go on a little longer (Vaswani et al., *Attention Is All You Need*, 2017).

    Args:
        progress: Tokens trained on ÷ tokens of the run.
    """
    return min(progress / WARM_UP, sqrt(WARM_UP / progress))


def plain(lengths: np.ndarray, max_tokens: int, rng: np.random.Generator) -> Batches:
    """Shuffle, and cut into batches of one size: the largest whose worst case fits the budget."""
    batch_size = max_tokens // int(lengths.max())
    return _cut(rng.permutation(lengths.size), batch_size)


def length_grouped(
    lengths: np.ndarray, max_tokens: int, rng: np.random.Generator, *, megabatch: int = 50
) -> Batches:
    """Do what trainers offer: the same batch size, each 50 batches' samples sorted by length."""
    batch_size = max_tokens // int(lengths.max())
    groups = _cut(rng.permutation(lengths.size), megabatch * batch_size)
    ordered = [group[np.argsort(-lengths[group], kind="stable")] for group in groups]
    return _cut(np.concatenate(ordered), batch_size)


def into_updates(batches: Batches, lengths: np.ndarray, num_updates: int) -> Updates:
    """Accumulate consecutive batches until the tokens of an update are reached.

    Guarantees `num_updates` updates, equal in the mean, as long as no batch alone has more tokens
    than an update: a batch belongs to the update in which its middle token lies.
    """
    ends = np.cumsum([lengths[batch].sum() for batch in batches])
    middles = (ends + np.concatenate(([0], ends[:-1]))) / 2
    borders = np.searchsorted(middles, ends[-1] / num_updates * np.arange(1, num_updates))
    edges = [0, *borders.tolist(), len(batches)]
    updates = [batches[a:b] for a, b in pairwise(edges)]
    return [update for update in updates if update]


def windows(batches: Batches, accumulate: int) -> Updates:
    """Accumulate a constant number of batches: what a plan is made for."""
    return [batches[start : start + accumulate] for start in range(0, len(batches), accumulate)]


@dataclass(frozen=True)
class Evaluation:
    """What an arm had reached.

    Attributes:
        tokens: Real tokens trained on until then.
        seconds: Of its own training.
        loss: Of a token of the validation set, nats.
    """

    tokens: int
    seconds: float
    loss: float


@dataclass(eq=False)
class Arm:
    """One way to make batches, with a model of its own.

    Args:
        name: As the report calls it.
        job: What is trained.
        updates_of: Epoch → the batches of its updates.
        precision: Computes the updates.

    Attributes:
        seconds: Spent in `update`: making batches, forward, backward, optimizer.
        tokens: Real tokens trained on.
        padded_tokens: The same, padding included.
        worst_batch: Tokens of the largest batch, padding included.
        num_updates: How many there were.
        loss: Of a token in the last update.
        evaluations: In sequence.
    """

    name: str
    job: Job
    updates_of: Callable[[int], Updates]
    precision: Precision = field(default_factory=lambda: Precision("fp32"))
    seconds: float = 0.0
    tokens: int = 0
    padded_tokens: int = 0
    worst_batch: int = 0
    num_updates: int = 0
    loss: float = float("nan")
    evaluations: list[Evaluation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = self.job.model()
        self.optimizer = self.job.optimizer(self.model)
        self._windows = self._load()

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def _load(self) -> Iterator[tuple[int, Iterator[Batch]]]:
        """Yield real tokens and batches of each update, epoch after epoch."""
        for epoch in count():
            updates = self.updates_of(epoch)
            order = [batch.tolist() for update in updates for batch in update]
            loader = DataLoader(self.job.samples, batch_sampler=order, collate_fn=self.job.collate)
            batches = iter(loader)
            for update in updates:
                tokens = sum(int(self.job.lengths[batch].sum()) for batch in update)
                yield tokens, islice(batches, len(update))

    def update(self) -> None:
        """Take one step of the optimizer, by the mean loss over all real tokens of its batches."""
        started = perf_counter()
        tokens, batches = next(self._windows)
        self.tokens += tokens
        for group in self.optimizer.param_groups:
            progress = self.tokens / self.job.lengths.sum()
            group["lr"] = self.job.learning_rate * learning_rate_at(progress)
        with self.precision.update(self.model, self.optimizer, weight=tokens, clip=1.0) as update:
            for inputs, targets in batches:
                update.backward(self.job.loss_sum, (inputs, targets))
                self.padded_tokens += inputs.numel()
                self.worst_batch = max(self.worst_batch, inputs.numel())
        self.loss = update.loss
        self.num_updates += 1
        self.seconds += perf_counter() - started

    def evaluate(self) -> float:
        """Validate; this costs the arm no time."""
        loss = self.job.evaluate(self.model)
        self.evaluations.append(Evaluation(self.tokens, self.seconds, loss))
        return loss


def reached(evaluations: Sequence[Evaluation], loss: float) -> Evaluation | None:
    """Find when a loss was first reached, linearly between evaluations; None if it never was."""
    for before, after in pairwise(evaluations):
        if after.loss <= loss:
            share = (before.loss - loss) / (before.loss - after.loss)
            return Evaluation(
                round(before.tokens + share * (after.tokens - before.tokens)),
                before.seconds + share * (after.seconds - before.seconds),
                loss,
            )
    return None


def _cut(order: np.ndarray, size: int) -> Batches:
    return np.split(order, range(size, order.size, size))
