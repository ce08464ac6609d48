"""One arm with one seed: a small model, by the exact mean loss of each update."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from batchwright.torch import Precision
from benchmarks.mixing.from_examples import Job
from benchmarks.mixing.plain_batches import Updates

WARM_UP = 0.1
LEAST = 0.1

EVALUATE_AT = (0.25, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Shares of the run's tokens after which the loss of the validation set is taken."""

LATE = 0.75
"""From here on, evaluations are averaged: an end that suits an order counts less there."""


@dataclass(frozen=True)
class Losses:
    """What a run reached.

    Attributes:
        at: Shares of the run's tokens.
        validation: Mean loss of a validation token there, nats.
    """

    at: tuple[float, ...]
    validation: tuple[float, ...]

    @property
    def final(self) -> float:
        """After the last update."""
        return self.validation[-1]

    @property
    def late(self) -> float:
        """Mean over the last quarter of the run."""
        late = [loss for at, loss in zip(self.at, self.validation, strict=True) if at >= LATE]
        return sum(late) / len(late)


def learning_rate_at(progress: float) -> float:
    """Return the share of the highest rate: up, then linearly down to a tenth, as is customary.

    Args:
        progress: Tokens trained on ÷ tokens of the run.
    """
    if progress < WARM_UP:
        return progress / WARM_UP
    return 1 - (1 - LEAST) * (progress - WARM_UP) / (1 - WARM_UP)


def train(
    job: Job, updates: Updates, advance: Callable[[], None], *, weights: np.ndarray | None = None
) -> Losses:
    """Train on each update once, and evaluate on the way.

    Args:
        job: Its seed draws the first weights.
        updates: The batches of each, of one epoch or several.
        advance: Called after each update.
        weights: What each sample counts in the mean loss of its update. Default: its tokens.
    """
    model, precision = job.model(), Precision("fp32")
    optimizer = job.optimizer(model)
    weights = job.lengths if weights is None else weights
    total = sum(int(job.lengths[batch].sum()) for update in updates for batch in update)
    seen = 0
    at: list[float] = []
    validation: list[float] = []
    for update in updates:
        seen += sum(int(job.lengths[batch].sum()) for batch in update)
        weight = sum(int(weights[batch].sum()) for batch in update)
        for group in optimizer.param_groups:
            group["lr"] = job.learning_rate * learning_rate_at(seen / total)
        with precision.update(model, optimizer, weight=weight, clip=1.0) as step:
            for batch in update:
                step.backward(job.loss_sum, job.collate([job.samples[i] for i in batch]))
        if seen >= EVALUATE_AT[len(at)] * total:
            at.append(seen / total)
            validation.append(job.evaluate(model))
        advance()
    return Losses(tuple(at), tuple(validation))


def unigram_loss(job: Job) -> float:
    """Return the validation loss of what knows only how frequent tokens are, nats."""
    counts = Counter[int]()
    for _, targets in job.samples:
        counts.update(targets.tolist())
    share = np.array([counts[token] + 1 for token in range(job.vocabulary)], dtype=np.float64)
    share /= share.sum()
    unseen = torch.cat([targets for _, targets in job.validation]).numpy()
    return float(-np.log(share[unseen]).mean())
