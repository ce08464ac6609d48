"""An arm of a comparison: a strategy that trains its own model, with its own clock."""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
import torch

from batchwright.compare.own_time import own_time
from batchwright.compare.probes import Facts, audited, peak_bytes
from batchwright.compare.strategy import DENSE, Strategy
from batchwright.compare.task import Task
from batchwright.lengths import totals
from batchwright.plans import Plan
from batchwright.torch.data.trees import mapped
from batchwright.torch.update.passes import RandomState, devices_of
from batchwright.torch.update.precision import Precision
from batchwright.torch.windows import LabelCounter
from batchwright.typing import Batch, IntArray, LengthArray, State

_NEIGHBOURS = 64


@dataclass
class Spent:
    """What an arm has spent on training."""

    seconds: float = 0.0  # of training, making batches included; and of computing scores
    tokens: int = 0  # real tokens trained on
    padded_tokens: int = 0  # the same with padding
    worst_batch: int = 0  # tokens of the largest batch, with padding
    updates: int = 0  # optimizer steps, skipped ones included
    batches: int = 0


@dataclass(frozen=True)
class Evaluation:
    """The metric of an arm at one moment."""

    tokens: int  # real tokens trained on until then
    seconds: float  # of its own training until then
    metric: float  # what the task's `evaluate` returned


class RaceArm(ABC):
    """An arm as a race sees it: what it has done so far, and what it can be asked for.

    It computes in this process (`Arm`) or in one of its own (`ArmProcess`).
    """

    updates_of_run: int

    def __init__(self, name: str, *, dense: bool) -> None:
        self.name, self.dense = name, dense
        self.spent = Spent()
        self.ended: Spent | None = None  # what it had spent when its run ended; it may go on
        self.peak_bytes: int | None = None  # memory of its largest batch
        self.evaluations: list[Evaluation] = []
        self.loss = math.nan

    @property
    def progress(self) -> float:
        """The share of the run that is done; above 1 in a longer run."""
        return self.spent.updates / self.updates_of_run

    @property
    def tokens_per_second(self) -> float:
        """Real tokens per second of its own training."""
        return self.spent.tokens / self.spent.seconds if self.spent.seconds else 0.0

    @property
    def has_failed(self) -> bool:
        """Whether the last loss was NaN or infinite."""
        return self.spent.updates > 0 and not math.isfinite(self.loss)

    @property
    @abstractmethod
    def dispersion(self) -> float | None:
        """How unlike each other its updates are in length: see `PlanStats`."""

    @property
    @abstractmethod
    def mode(self) -> str:
        """The precision that it trains in."""

    @abstractmethod
    def choose_precision(self, mode: str | None = None) -> None:
        """Replace the precision "auto" by the one that was measured earlier, or measure it now."""

    @abstractmethod
    def update(self) -> float:
        """Train one update, by the mean loss over all its batches; return its seconds."""

    @abstractmethod
    def metric(self) -> float:
        """Measure the task's metric."""

    @abstractmethod
    def peak(self) -> int | None:
        """Measure the memory of its largest batch: see `peak_bytes`."""

    @abstractmethod
    def audit(self) -> Facts | None:
        """Audit its precision on a few more updates, which change it: see `audited`."""

    @abstractmethod
    def state_dict(self) -> State | None:
        """Return everything needed to resume: tensors, numbers, and lists and dicts of them.

        None: the model or the optimizer holds what cannot be read again.
        """

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Resume from the state of an arm of the same task, strategy and seed."""

    def evaluate(self) -> None:
        """Measure the task's metric, and add it to the evaluations."""
        metric = self.metric()
        self.evaluations.append(Evaluation(self.spent.tokens, self.spent.seconds, metric))

    def record(self) -> State:
        """Return what it has done so far, as a part of its state."""
        return {
            "spent": asdict(self.spent),
            "ended": None if self.ended is None else asdict(self.ended),
            "evaluations": [asdict(each) for each in self.evaluations],
            "loss": self.loss,
            "peak_bytes": self.peak_bytes,
        }

    def restore(self, state: State) -> None:
        """Take over what it had done from its state."""
        self.spent = Spent(**state["spent"])
        self.ended = None if state["ended"] is None else Spent(**state["ended"])
        self.evaluations = [Evaluation(**each) for each in state["evaluations"]]
        self.loss, self.peak_bytes = state["loss"], state["peak_bytes"]


class Arm(RaceArm):
    """A strategy with its model, in one run.

    Guarantees that arms of one seed begin with the same weights, that each sees only its own
    random numbers, and that evaluating, saving and waiting for its turn take none of its time. A
    dense arm trains on batches without padding, to show the limit of what any batching can do.
    """

    def __init__(self, task: Task, strategy: Strategy, *, seed: int, dense: bool = False) -> None:
        super().__init__(DENSE if dense else strategy.name, dense=dense)
        self.task, self.strategy = task, strategy
        self.device = task.place()
        self.planner = strategy.planner(task, seed=seed)
        self.spent.seconds = 0.0 if dense else strategy.preparation(task)
        self._seed = seed
        with self._seeded():
            self.model = task.model().to(self.device)
            self._random = RandomState.capture(devices_of(self.model))
        self.optimizer = task.optimizer(self.model)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self.precision = Precision(strategy.precision, check_loss=False)  # type: ignore[arg-type]  # a str
        # The last update of an epoch may be a short one.
        self._updates_of_epoch = -(-len(self.planner) // self.planner.accumulate)
        self.updates_of_run = task.epochs * self._updates_of_epoch
        self._updates = self._load()

    @cached_property
    def dispersion(self) -> float | None:
        """How unlike each other its updates are in length: see `PlanStats`."""
        return self.planner(0).stats(self.task.sizes).dispersion

    @property
    def mode(self) -> str:
        """The precision that it trains in."""
        return str(self.precision.mode)

    def choose_precision(self, mode: str | None = None) -> None:
        """Replace the precision "auto" by the one that was measured earlier, or measure it now."""
        if self.strategy.precision != "auto":
            return
        if mode is not None:
            self.precision = Precision(mode, check_loss=False)  # type: ignore[arg-type]  # a str
            return
        plan = self._plan(0)
        middle = int(np.argsort(self._padded(plan))[len(plan) // 2])
        (batch,) = self._batches(plan, [middle])
        self.precision = Precision.measure(
            self.model, self.task.loss_sum, moved(batch, self.device)
        )

    def update(self) -> float:
        """Train one update, by the mean loss over all its batches; return its seconds."""
        task, spent, devices = self.task, self.spent, devices_of(self.model)
        others = RandomState.capture(devices)
        self._random.restore()
        try:
            self.model.train()
            settle(self.device)
            started = own_time()
            tokens, padded, batches = next(self._updates)
            # The middle of the update, so that the rate of the first is not 0.
            share = task.schedule((spent.updates + 0.5) / self.updates_of_run)
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * share
            # The check of the task has seen how labels are padded.
            weigh = LabelCounter(in_use=True) if task.weigh is None else task.weigh
            weight = float(sum(weigh(batch) for batch in batches))
            with self.precision.update(
                self.model, self.optimizer, weight=weight, clip=task.clip
            ) as update:
                for batch in batches:
                    update.backward(task.loss_sum, moved(batch, self.device))
            settle(self.device)
            seconds = own_time() - started
            self._random = RandomState.capture(devices)
        finally:
            others.restore()
        # Where a loss scale was too large the step is skipped, and the loss is still valid.
        self.loss = update.loss
        spent.seconds += seconds
        spent.tokens += tokens
        spent.padded_tokens += int(padded.sum())
        spent.worst_batch = max(spent.worst_batch, int(padded.max()))
        spent.updates += 1
        spent.batches += padded.size
        return seconds

    def metric(self) -> float:
        """Measure the task's metric, with the same random numbers each time."""
        self.model.eval()
        with self._seeded(), torch.no_grad():
            return self.task.as_metric(self.task.evaluate(self.model))

    def peak(self) -> int | None:
        """Measure the memory of its largest batch: see `peak_bytes`."""
        return peak_bytes(self)

    def audit(self) -> Facts | None:
        """Audit its precision on a few more updates, which change it: see `audited`."""
        return audited(self)

    def largest_batches(self) -> list[Batch]:
        """Return the two largest batches of the first epoch, and the one with the longest row."""
        plan = self._plan(0)
        sizes = totals(plan.entry_lengths(self.task.sizes))
        rows = np.maximum.reduceat(sizes, plan.offsets[:-1])
        chosen = {*np.argsort(self._padded(plan))[-2:].tolist(), int(rows.argmax())}
        return self._batches(plan, sorted(chosen))

    def state_dict(self) -> State:
        """Return everything needed to resume: tensors, numbers, and lists and dicts of them."""
        name, words, *rest = self._random.numpy
        return {
            "model": self.model.state_dict(),
            "optimizer": _with_own_numbers(self.optimizer.state_dict()),
            "precision": self.precision.state_dict(),
            "random": self._random.cpu,
            "random_of_devices": {str(at): state for at, state in self._random.devices.items()},
            "random_of_python": self._random.python,
            "random_of_numpy": [name, words.tolist(), *rest],
            **self.record(),
        }

    def load_state_dict(self, state: State) -> None:
        """Resume from the state of an arm of the same task, strategy and seed."""
        self.choose_precision(state["precision"]["mode"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state_dict(state["precision"])
        devices = {torch.device(at): kept for at, kept in state["random_of_devices"].items()}
        name, words, *rest = state["random_of_numpy"]
        numpy = (name, np.array(words, np.uint32), *rest)
        self._random = RandomState(state["random"], devices, numpy, state["random_of_python"])
        self.restore(state)
        self._updates = self._load()

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Let global generators begin from the seed of the run; restore them at the end."""
        others = RandomState.capture([] if self.device.type == "cpu" else [self.device])
        torch.manual_seed(self._seed)
        random.seed(self._seed)
        np.random.seed(self._seed % 2**32)  # noqa: NPY002 -- the one that a task may use
        try:
            yield
        finally:
            others.restore()

    def _plan(self, epoch: int) -> Plan:
        plan = self.planner(epoch)
        return without_padding(plan, self.task.sizes) if self.dense else plan

    def _padded(self, plan: Plan) -> IntArray:
        """Return the padded tokens of each batch."""
        return plan.layout.batch_tokens(plan.entry_lengths(self.task.sizes), plan.offsets)

    def _batches(self, plan: Plan, chosen: Iterable[int]) -> list[Batch]:
        collate, samples = self.strategy.collate(self.task, plan.layout), self.task.samples
        return [collate([samples[index] for index in plan[batch].tolist()]) for batch in chosen]

    def _load(self) -> Iterator[tuple[int, IntArray, list[Batch]]]:
        """Yield real tokens, padded tokens of each batch, and the batches of each update."""
        accumulate = self.planner.accumulate
        epoch, done = divmod(self.spent.updates, self._updates_of_epoch)
        for plan in map(self._plan, count(epoch)):
            padded = self._padded(plan)
            sizes = totals(plan.entry_lengths(self.task.sizes)).astype(np.int64)
            real = np.add.reduceat(sizes, plan.offsets[:-1])
            for start in range(done * accumulate, len(plan), accumulate):
                own = slice(start, min(start + accumulate, len(plan)))
                batches = self._batches(plan, range(own.start, own.stop))
                yield int(real[own].sum()), padded[own], batches
            done = 0


def _with_own_numbers(value: Any) -> Any:
    """Replace NumPy's numbers by Python's: torch writes them, and does not read them again."""
    if isinstance(value, dict):
        return {key: _with_own_numbers(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_with_own_numbers, value))
    return value.item() if isinstance(value, np.generic) else value


def moved(batch: Batch, device: torch.device) -> Batch:
    """Return a batch with its tensors on a device."""
    return mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))


def settle(device: torch.device) -> None:
    """Wait until a device has finished its work, before a clock is read."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def without_padding(plan: Plan, lengths: LengthArray) -> Plan:
    """Replace the samples of each batch by one of about their mean length, repeated.

    Guarantees batches of as many rows, with nothing to pad, and about as many real tokens. They
    show the limit of speed; what a model learns from them is meaningless. O(n log n).
    """
    columns = lengths.reshape(len(lengths), -1).astype(np.float64)
    rows = np.diff(plan.offsets)
    means = np.add.reduceat(columns[plan.indices], plan.offsets[:-1], axis=0) / rows[:, None]
    # Of samples with about the mean total, the one whose columns are most like the means.
    sizes = columns.sum(axis=1)
    by_size = np.argsort(sizes, kind="stable")
    place = np.searchsorted(sizes[by_size], means.sum(axis=1))
    window = np.arange(-_NEIGHBOURS, _NEIGHBOURS)
    near = by_size[np.clip(place[:, None] + window, 0, len(lengths) - 1)]
    distance = np.abs(columns[near] - means[:, None, :]).sum(axis=2)
    chosen = np.take_along_axis(near, distance.argmin(axis=1)[:, None], axis=1)[:, 0]
    return Plan(np.repeat(chosen, rows), plan.offsets, layout=plan.layout)
