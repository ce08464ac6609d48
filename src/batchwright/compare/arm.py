"""A strategy at work: a model of its own, trained update by update, with its own clock."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count, islice
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from batchwright.compare.dense_limit import without_padding
from batchwright.compare.devices import moved, settle
from batchwright.compare.strategy import Strategy
from batchwright.compare.task import Task
from batchwright.lengths import totals
from batchwright.plans import Plan
from batchwright.torch.data.labels import LabelCounter
from batchwright.torch.update.pass_state import TorchRandomState, devices_of
from batchwright.torch.update.precision import Precision


@dataclass
class Spent:
    """What an arm has spent, and what it got for it.

    Attributes:
        seconds: Of training: making batches, forward, backward, optimizer; and what was to be
            computed before.
        tokens: Real tokens trained on.
        padded_tokens: The same, as laid out.
        worst_batch: Tokens of the largest batch, as laid out.
        updates: Steps of the optimizer that were tried.
        batches: How many there were.
    """

    seconds: float = 0.0
    tokens: int = 0
    padded_tokens: int = 0
    worst_batch: int = 0
    updates: int = 0
    batches: int = 0


@dataclass(frozen=True)
class Evaluation:
    """What an arm had reached.

    Attributes:
        tokens: Real tokens trained on until then.
        seconds: Of its own training.
        metric: What the task's `evaluate` returned.
    """

    tokens: int
    seconds: float
    metric: float


class Arm:
    """A strategy with its model, in one run.

    Guarantees that arms of one seed begin with the same weights, that each sees only its own
    random numbers, and that evaluating, saving and waiting for its turn cost it no time.

    Args:
        task: What is trained.
        strategy: In which way.
        seed: Of weights and batches.
        name: What tables call it. None: as the strategy.
        dense: Train on batches without padding: the limit of what any batching can do.

    Attributes:
        spent: What training has taken so far.
        evaluations: In sequence.
        loss: Of the last update.
        precision: Computes the updates.
    """

    def __init__(
        self,
        task: Task,
        strategy: Strategy,
        *,
        seed: int,
        name: str | None = None,
        dense: bool = False,
    ) -> None:
        self.task, self.strategy, self.seed = task, strategy, seed
        self.name = strategy.name if name is None else name
        self.dense = dense
        self.device = task.place()
        self.planner = strategy.planner(task, seed=seed)
        self.spent = Spent(seconds=0.0 if dense else strategy.preparation(task))
        self.evaluations: list[Evaluation] = []
        self.loss = math.nan
        others = torch.random.get_rng_state()
        torch.manual_seed(seed)
        self.model = task.model().to(self.device)
        self._random = TorchRandomState.capture(devices_of(self.model))
        torch.random.set_rng_state(others)
        self.optimizer = task.optimizer(self.model)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self.precision = Precision(strategy.precision, check_loss=False)  # type: ignore[arg-type]  # a str
        self._updates = self._load()

    @property
    def updates_of_run(self) -> int:
        """Updates of the whole run."""
        return self.task.epochs * self._updates_of_epoch

    @property
    def progress(self) -> float:
        """The share of the run that is over; above 1 if it goes on."""
        return self.spent.updates / self.updates_of_run

    @property
    def tokens_per_second(self) -> float:
        """Real tokens a second of its own training."""
        return self.spent.tokens / self.spent.seconds if self.spent.seconds else 0.0

    @property
    def has_failed(self) -> bool:
        """Whether the loss is no number any more."""
        return self.spent.updates > 0 and not math.isfinite(self.loss)

    def choose_precision(self, mode: str | None = None) -> None:
        """Measure which precision is the quickest, if that is to be found out.

        Args:
            mode: What was found out earlier, for this strategy.
        """
        if self.strategy.precision != "auto":
            return
        if mode is not None:
            self.precision = Precision(mode, check_loss=False)  # type: ignore[arg-type]  # a str
            return
        plan = self._plan(0)
        collate = self.strategy.collate(self.task, plan.layout)
        middle = np.argsort(plan.layout.batch_tokens(*self._laid_out(plan)))[len(plan) // 2]
        batch = collate([self.task.samples[index] for index in plan[int(middle)].tolist()])
        self.precision = Precision.measure(
            self.model, self.task.loss_sum, moved(batch, self.device)
        )

    def update(self) -> float:
        """Take a step of the optimizer, by the mean loss over what its batches weigh together.

        Returns:
            The seconds that it took.
        """
        task, spent = self.task, self.spent
        others = TorchRandomState.capture(devices_of(self.model))
        self._random.restore()
        self.model.train()
        settle(self.device)
        started = perf_counter()
        tokens, padded, batches = next(self._updates)
        # The middle of the update, so that the first does not have a rate of nothing.
        share = task.schedule((spent.updates + 0.5) / self.updates_of_run)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * share
        # How labels are padded was seen when the task was checked.
        count = LabelCounter(in_use=True)
        weigh: Callable[[Any], float] = count if task.weigh is None else task.weigh
        weight = float(sum(weigh(batch) for batch in batches))
        with self.precision.update(
            self.model, self.optimizer, weight=weight, clip=task.clip
        ) as update:
            for batch in batches:
                update.backward(task.loss_sum, moved(batch, self.device))
        settle(self.device)
        seconds = perf_counter() - started
        self._random = TorchRandomState.capture(devices_of(self.model))
        others.restore()
        # Where a loss scale was too large the step is skipped, and the loss was fine.
        self.loss = update.loss
        spent.seconds += seconds
        spent.tokens += tokens
        spent.padded_tokens += int(padded.sum())
        spent.worst_batch = max(spent.worst_batch, int(padded.max()))
        spent.updates += 1
        spent.batches += padded.size
        return seconds

    def evaluate(self) -> float:
        """Measure the task's metric, and remember it with what was spent until then."""
        others = TorchRandomState.capture(devices_of(self.model))
        self.model.eval()
        with torch.no_grad():
            metric = self.task.as_metric(self.task.evaluate(self.model))
        others.restore()
        self.evaluations.append(Evaluation(self.spent.tokens, self.spent.seconds, metric))
        return metric

    def largest_batches(self, number: int = 2) -> list[Any]:
        """Return the batches of the first epoch that take the most room, and the longest rows."""
        plan = self._plan(0)
        entries, offsets = self._laid_out(plan)
        sizes = plan.layout.batch_tokens(entries, offsets)
        rows = np.maximum.reduceat(totals(entries), offsets[:-1])
        chosen = {*np.argsort(sizes)[-number:].tolist(), int(rows.argmax())}
        collate = self.strategy.collate(self.task, plan.layout)
        return [
            collate([self.task.samples[index] for index in plan[each].tolist()])
            for each in sorted(chosen)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return everything that going on needs: tensors, numbers, and lists and dicts of them."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision.state_dict(),
            "random": self._random.cpu,
            "random_of_devices": {str(at): state for at, state in self._random.devices.items()},
            "spent": asdict(self.spent),
            "evaluations": [asdict(each) for each in self.evaluations],
            "loss": self.loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where an arm of the same task, strategy and seed was."""
        self.choose_precision(state["precision"]["mode"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state_dict(state["precision"])
        devices = {torch.device(at): kept for at, kept in state["random_of_devices"].items()}
        self._random = TorchRandomState(state["random"], devices)
        self.spent = Spent(**state["spent"])
        self.evaluations = [Evaluation(**each) for each in state["evaluations"]]
        self.loss = state["loss"]
        self._updates = self._load()

    @property
    def _updates_of_epoch(self) -> int:
        return -(-len(self.planner) // self.planner.accumulate)  # the last may be a short one

    def _plan(self, epoch: int) -> Plan:
        plan = self.planner(epoch)
        return without_padding(plan, self.task.sizes) if self.dense else plan

    def _laid_out(self, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
        return plan.entry_lengths(self.task.sizes), plan.offsets

    def _load(self) -> Iterator[tuple[int, np.ndarray, list[Any]]]:
        """Yield real tokens, tokens of each batch as laid out, and the batches of each update."""
        accumulate = self.planner.accumulate
        epoch, done = divmod(self.spent.updates, self._updates_of_epoch)
        for plan in map(self._plan, count(epoch)):
            entries, offsets = self._laid_out(plan)
            padded = plan.layout.batch_tokens(entries, offsets)
            real = np.add.reduceat(totals(entries).astype(np.int64), offsets[:-1])
            first = done * accumulate
            batches = iter(
                DataLoader(
                    self.task.samples,  # type: ignore[arg-type]  # any sequence
                    batch_sampler=[batch.tolist() for batch in islice(plan, first, None)],
                    collate_fn=self.strategy.collate(self.task, plan.layout),
                    # Else each loader takes a number from the generator that the model draws from.
                    generator=torch.Generator(),
                )
            )
            for start in range(first, len(plan), accumulate):
                span = slice(start, start + accumulate)
                yield int(real[span].sum()), padded[span], list(islice(batches, accumulate))
            done = 0
