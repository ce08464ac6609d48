"""Train one job in several precisions, in turns, and say whether they learn alike.

All of them see the same batches at the same time and begin with the same weights; each update is
timed beside the others', so that whatever else the machine does hits all alike. Weights are kept,
and validated, in fp32: what differs is how an update is computed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

import batchwright as bw
from batchwright.torch import PlanBatchSampler, Precision, Window, windows

REFERENCE = "fp32"
"""The precision that others are compared with."""

WARM_UP = 0.1
"""The learning rate rises over this share of the updates."""

MIDDLE = (25, 50, 75)
"""Percentiles: the middle half of many timings, and its median."""


class Job(Protocol):
    """What is trained, on what, and how well; a dataclass with a seed for its first weights."""

    samples: Sequence[Any]
    lengths: np.ndarray
    collate: Callable[[list[Any]], Any]

    def model(self) -> nn.Module: ...

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer: ...

    def loss_sum(self, model: nn.Module, batch: Any) -> Tensor: ...

    def evaluate(self, model: nn.Module) -> float: ...


@dataclass(frozen=True)
class Experiment:
    """A job, and how long it is trained in which batches and precisions.

    Args:
        job: What is trained.
        batching: Which samples share a batch.
        epochs: How often each sample is seen.
        baseline: Validation loss of a guess that does not look at the input, nats.
        accuracy: Share of the validation set that a model gets right. None: no such thing.
        step_tokens: Tokens of an update, about. None: an update is a batch.
        modes: Of `Precision`; the reference among them.
        num_evaluations: During a run, besides the one before it.
    """

    job: Job
    batching: Callable[..., bw.Plan]
    epochs: int
    baseline: float
    accuracy: Callable[[nn.Module], float] | None = None
    step_tokens: int | None = None
    modes: Sequence[str] = (REFERENCE, "bf16", "auto")
    num_evaluations: int = 10


@dataclass(eq=False)
class Run:
    """One seed, trained in one mode.

    Args:
        asked: The mode that was asked for.
        job: What is trained; its seed is the run's.
        num_updates: How long.

    Attributes:
        seconds: Of each update: forward, backward, optimizer; of the first also what
            ``"auto"`` takes to choose.
        losses: Of the validation set, at each evaluation, the first before training.
    """

    asked: str
    job: Job
    num_updates: int
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.precision = Precision(self.asked)
        self.model = self.precision.prepare(self.job.model())
        self.optimizer = self.job.optimizer(self.model)
        self.scheduler = LambdaLR(
            self.optimizer, lambda done: learning_rate_at((done + 1) / self.num_updates)
        )

    def update(self, window: Window) -> None:
        """Take one step by the mean loss over all that the batches of the window hold."""
        started = perf_counter()
        with self.precision.update(
            self.model, self.optimizer, weight=window.tokens, clip=1.0
        ) as update:
            for batch in window:
                update.backward(self.job.loss_sum, batch)
        if update.applied:
            self.scheduler.step()
        self.seconds.append(perf_counter() - started)

    def evaluate(self) -> None:
        """Validate; this is not timed."""
        self.model.eval()
        self.losses.append(self.job.evaluate(self.model))
        self.model.train()


def learning_rate_at(progress: float) -> float:
    """Return the share of the highest rate: a linear warm-up, then a cosine to a tenth."""
    after = max(0.0, (progress - WARM_UP) / (1 - WARM_UP))
    return min(progress / WARM_UP, 0.55 + 0.45 * math.cos(math.pi * after))


def train(experiment: Experiment, seed: int, show: Callable[[Run], None]) -> list[Run]:
    """Train a run in each mode, in turns.

    Args:
        experiment: What to train, and how.
        seed: Of the first weights and of the batches.
        show: Called after each update.

    Returns:
        The runs.
    """
    job = replace(experiment.job, seed=seed)
    planner = bw.Planner(
        job.lengths, batching=experiment.batching, step_tokens=experiment.step_tokens, seed=seed
    )
    sampler = PlanBatchSampler(planner)
    loader = DataLoader(job.samples, batch_sampler=sampler, collate_fn=job.collate)
    num_updates = experiment.epochs * len(planner) // planner.accumulate
    evaluate_after = np.linspace(0, num_updates, experiment.num_evaluations + 1).round()
    runs = [Run(mode, job, num_updates) for mode in experiment.modes]
    for run in runs:
        run.evaluate()
    for epoch in range(experiment.epochs):
        sampler.set_epoch(epoch)
        for window in windows(loader):
            # Each is first in turn: who meets a shape first also prepares kernels for it.
            runs = [*runs[1:], runs[0]]
            for run in runs:
                run.update(window)
                if len(run.seconds) in evaluate_after:
                    run.evaluate()
                show(run)
    return runs


@dataclass(frozen=True)
class Timing:
    """What an update takes, beside the reference's on the same batches.

    Attributes:
        milliseconds: Median of an update.
        ratio: Median over updates of its time over the reference's.
        middle: Between these lies the middle half of those ratios.
    """

    milliseconds: float
    ratio: float
    middle: tuple[float, float]


def timing(runs: Sequence[Run], reference: Sequence[Run]) -> Timing:
    """Compare times update by update, but for each run's first: that one also prepares."""
    seconds = np.concatenate([run.seconds[1:] for run in runs])
    others = np.concatenate([run.seconds[1:] for run in reference])
    low, ratio, high = np.percentile(seconds / others, MIDDLE).tolist()
    return Timing(1e3 * float(np.median(seconds)), ratio, (low, high))


@dataclass(frozen=True)
class Parity:
    """Whether a precision learns like the reference, as far as the noise between seeds shows.

    Curves are compared by the logarithm of loss ÷ loss, so that their beginning, where losses are
    large, does not outweigh their end; over evaluations the root mean square is taken.

    Attributes:
        per_seed: From each seed's loss curve to the reference's of the same seed.
        difference: Of the means over seeds: what is left of that when seeds do not agree on its
            sign.
        noise: Standard error of such a difference, were all runs independent: from the standard
            deviation between the reference's seeds. None: there is only one.
        final: The last loss minus the reference's, of each seed, nats.
        agrees: Whether the difference is within two standard errors. None: no noise is known.
    """

    per_seed: list[float]
    difference: float
    noise: float | None
    final: list[float]
    agrees: bool | None


def parity(curves: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> Parity:
    """Compare loss curves with the reference's, of the same seeds.

    Args:
        curves: Validation losses of each seed, without the one before training, in which
            nothing can differ; float[seeds, evaluations].
        reference: The same of the reference.
    """
    losses, others = np.log(curves), np.log(reference)
    apart = losses - others
    num_seeds = len(others)
    difference = _root_mean_square(apart.mean(axis=0))
    noise = None
    if num_seeds > 1:
        noise = _root_mean_square(others.std(axis=0, ddof=1)) * math.sqrt(2 / num_seeds)
    return Parity(
        per_seed=[_root_mean_square(each) for each in apart],
        difference=difference,
        noise=noise,
        final=(np.exp(losses) - np.exp(others))[:, -1].tolist(),
        # A loss that is no number is near nothing: the comparison is false.
        agrees=None if noise is None else difference < 2 * noise,
    )


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
