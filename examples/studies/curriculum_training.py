"""Train one job in several arms, in turns: the same first weights, another choice of samples.

An arm says which samples are drawn in what sequence, and for how many updates. The learning rate
falls to nothing over those, so that no arm owes its result to a rate that was still high.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Subset

import batchwright as bw
from batchwright.torch import LiveLosses, PlanBatchSampler, Precision, windows

Batch = dict[str, Tensor]
"""What a job trains on; "index" says which samples these are, "labels" what they are."""

FINISHED = object()


class Job(Protocol):
    """What is trained, on what, and how well; not which samples are drawn when."""

    samples: Sequence[Any]
    lengths: np.ndarray
    collate: Callable[[Any], Batch]
    test: Batch

    def model(self) -> nn.Module: ...

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer: ...

    def scores(self, model: nn.Module, batch: Batch) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Arm:
    """A way to draw samples.

    Args:
        name: What it is called in tables.
        planner: Which samples, in which batches; one batch is one update.
        num_updates: How long.
        members: int[m], the samples that the planner's indices stand for. None: all.
        validation: Samples that are not trained on. The weights that count are then those of
            the evaluation that gets most of *their* labels right, however wrong labels are.
        evaluate_every: Updates between such evaluations.
        live: Where losses are recorded while training, for an order that uses them.
        scoring_seconds: What had to be known of the samples before, and took so long.
    """

    name: str
    planner: bw.Planner
    _: KW_ONLY
    num_updates: int
    members: np.ndarray | None = None
    validation: Batch | None = None
    evaluate_every: int = 10
    live: LiveLosses | None = None
    scoring_seconds: float = 0.0


@dataclass(eq=False)
class Run:
    """An arm, while it is trained and after.

    Attributes:
        drawn: int64[n], how often each sample was trained on.
        padded_tokens: Rows × the longest of them, summed over batches.
        num_updates: Taken so far.
        seconds: Of training; validation that an arm needs is part of it, testing is not.
        best: Share of the validation set that was right at best, and after how many updates.
        accuracy: Share of the test set that is right in the end.
    """

    arm: Arm
    job: Job
    drawn: np.ndarray = field(init=False)
    padded_tokens: int = 0
    num_updates: int = 0
    seconds: float = 0.0
    best: tuple[float, int] = (-1.0, 0)
    accuracy: float = math.nan

    def __post_init__(self) -> None:
        self.drawn = np.zeros(len(self.job.samples), dtype=np.int64)

    @property
    def num_tokens(self) -> int:
        """Real tokens that were trained on: frames, or samples where all are alike."""
        return int(self.drawn @ self.job.lengths)

    def steps(self) -> Iterator[None]:
        """Train, and stop after each update for others to take theirs."""
        arm, job = self.arm, self.job
        model = job.model()
        best_weights = None
        optimizer = job.optimizer(model)
        scheduler = LambdaLR(optimizer, lambda done: learning_rate_at(done / arm.num_updates))
        # That the loss is a sum is plain to see below; checking it would record losses twice.
        precision = Precision("fp32", check_loss=False)
        batches = self._batches()
        while self.num_updates < arm.num_updates:
            started = perf_counter()
            window = next(batches)
            with precision.update(model, optimizer, weight=window.tokens) as update:
                for batch in window:
                    update.backward(self._loss_sum, batch)
                    self._take_note(batch)
            scheduler.step()
            self.num_updates += 1
            if arm.validation is not None and self.num_updates % arm.evaluate_every == 0:
                share = share_right(job, model, arm.validation)
                if share > self.best[0]:
                    self.best = share, self.num_updates
                    best_weights = copy.deepcopy(model.state_dict())
            self.seconds += perf_counter() - started
            yield
        if best_weights is not None:
            model.load_state_dict(best_weights)
        self.accuracy = share_right(job, model, job.test)

    def _batches(self) -> Iterator[Any]:
        """Go through epoch after epoch; before the next, losses are shared."""
        arm, job = self.arm, self.job
        sampler = PlanBatchSampler(arm.planner)
        samples = job.samples if arm.members is None else Subset(job.samples, arm.members)
        loader = DataLoader(samples, batch_sampler=sampler, collate_fn=job.collate)
        epoch = 0
        while True:
            sampler.set_epoch(epoch)
            yield from windows(loader)
            if arm.live is not None:
                arm.live.sync()
            epoch += 1

    def _loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        scores = self.job.scores(model, batch)
        losses = nn.functional.cross_entropy(scores, batch["labels"], reduction="none")
        if self.arm.live is not None:
            self.arm.live.record(batch["index"], losses)
        return losses.sum()

    def _take_note(self, batch: Batch) -> None:
        indices = batch["index"].numpy()
        np.add.at(self.drawn, indices, 1)
        self.padded_tokens += indices.size * int(self.job.lengths[indices].max())


@torch.no_grad()
def share_right(job: Job, model: nn.Module, batch: Batch) -> float:
    """Return the share of a batch whose label gets the highest score."""
    model.eval()
    right = job.scores(model, batch).argmax(1) == batch["labels"]
    model.train()
    return right.float().mean().item()


def learning_rate_at(progress: float) -> float:
    """Return the share of the highest rate: half a cosine, down to nothing."""
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress))


def train(job: Job, arms: Sequence[Arm], show: Callable[[Run], None]) -> list[Run]:
    """Train all arms, in turns: whatever else the machine does hits all alike.

    Args:
        job: What is trained; it makes the same first weights for each arm.
        arms: How.
        show: Called now and then.

    Returns:
        The runs, in the sequence of the arms.
    """
    runs = [Run(arm, job) for arm in arms]
    training = [(run, run.steps()) for run in runs]
    while training:
        # Each is first in turn: the first finds the caches as nobody else does.
        training = [*training[1:], training[0]]
        for each in training.copy():
            run, steps = each
            if next(steps, FINISHED) is FINISHED:
                training.remove(each)
            if run.num_updates % 50 == 0 or run.num_updates == run.arm.num_updates:
                show(run)
    return runs
