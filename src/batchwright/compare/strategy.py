"""One way to train a task: in which batches, in which order, and at which precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from batchwright.batching import Batching, Buckets, FixedSize, Packing, TokenBudget
from batchwright.compare.length_grouped import LengthGrouped
from batchwright.compare.task import Collate, Task
from batchwright.errors import BudgetError, StrategyError
from batchwright.layout import Layout
from batchwright.order import Curriculum, Order, Sequential, Shuffle
from batchwright.planner import Planner
from batchwright.torch.data.pad_collator import PadCollator

Kind: TypeAlias = Literal["plain", "grouped", "planned", "packed", "buckets"]

KINDS: dict[str, str] = {
    "plain": "shuffled, as many samples a batch as fit when all are the longest",
    "grouped": "as many, sorted by length within every 50 batches, as trainers do",
    "planned": "TokenBudget: sorted once, cut at the budget, updates mixed",
    "packed": "Packing: rows filled without padding (needs collate_packed)",
    "buckets": "Buckets: at most eight padded shapes",
}

ORDERS: dict[str, str] = {
    "shuffle": "every sample once an epoch",
    "sequential": "as they are stored",
    "curriculum": "easy samples first, by the task's first difficulty, or the one named",
    "anticurriculum": "hard samples first",
    "control": "the curriculum's pacing over samples in random order",
}

PRECISIONS: dict[str, str] = {
    "fp32": "single precision",
    "tf32": "products of fewer bits, on GPUs that have them",
    "bf16": "bfloat16 products, fp32 weights",
    "fp16": "half precision products with a scaled loss, fp32 weights",
    "auto": "the one that is measured to be the quickest here",
}

DENSE = "dense limit"
"""The arm of batches without padding, of the shapes that the strongest batching makes."""

LATER = 0.5
"""The share of a run after which a curriculum is a plain shuffle of everything."""

ROUNDINGS = (16, 8)
"""Rows may be padded to multiples of one of these where products are of fewer bits than fp32.

Processors prepare their bf16 kernels for each shape, which is not paid back where every batch has
a shape of its own; GPUs want multiples of 8 or more. It is the first of which the mean length is
`ROUNDS` times as much: more padding than that costs more than it gains.
"""

ROUNDS = 8


@dataclass(frozen=True)
class Strategy:
    """One way to train. What it does not say is as everywhere.

    Guarantees the task's memory budget and tokens per update, and so as many updates as any other
    strategy of the task (a curriculum, which draws, may have one more or less in a short epoch),
    unless its options say otherwise.

    Args:
        name: What tables call it.
        kind: How samples become batches: see `KINDS`.
        order: One of `ORDERS`, a curriculum with the name of its difficulty behind a colon, or
            an Order.
        precision: One of `PRECISIONS`.
        options: Further arguments of the Batching, such as ``{"mixing": "update"}``; or
            ``max_tokens`` or ``step_tokens`` in place of the task's.

    Raises:
        StrategyError: If a name is unknown, or something is of the wrong type.

    Example:
        >>> Strategy.named("planned+curriculum:length+bf16")
        Strategy(name='planned+curriculum:length+bf16', kind='planned', order='curriculum:length', \
precision='bf16', options={})
    """

    name: str
    _: KW_ONLY
    kind: Kind = "planned"
    order: str | Order = "shuffle"
    precision: str = "fp32"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the names."""
        if not isinstance(self.name, str) or not self.name.strip() or self.name == DENSE:
            raise StrategyError(
                f"a strategy was named {self.name!r}: expected a text that is not empty, and not "
                f"{DENSE!r}, which names the limit of all."
            )
        self._check("kind", self.kind, KINDS)
        self._check("precision", self.precision, PRECISIONS)
        if isinstance(self.order, str):
            self._check_order(self.order)
        elif isinstance(self.order, type) or not callable(self.order):
            self._check("order", self.order, ORDERS)
        if not isinstance(self.options, Mapping):
            raise StrategyError(
                f"strategy {self.name!r}: options={self.options!r}, expected a dictionary."
            )

    @classmethod
    def named(cls, name: str) -> Strategy:
        """Make a strategy of a name such as ``planned``, ``plain+bf16``, ``packed+curriculum``.

        Args:
            name: A kind; then an order or a precision or both, each behind a plus.

        Raises:
            StrategyError: If a part is unknown.
        """
        kind, *others = name.split("+")
        settings: dict[str, Any] = {"kind": kind}
        for part in others:
            what = "order" if part.partition(":")[0] in ORDERS else "precision"
            if what in settings or (what == "precision" and part not in PRECISIONS):
                raise StrategyError(
                    f"strategy {name!r}: {part!r} is no order ({', '.join(ORDERS)}) and no "
                    f"precision ({', '.join(PRECISIONS)}), or there are two of a kind."
                )
            settings[what] = part
        return cls(name, **settings)

    def planner(self, task: Task, *, seed: int) -> Planner:
        """Make the planner of a run.

        Raises:
            StrategyError: If an option is unknown, or the task has no such difficulty.
            BudgetError: If a sample alone exceeds the budget.
        """
        return Planner(
            task.sizes,
            batching=self._batching(task),
            order=self._order(task, seed),
            step_tokens=self.options.get("step_tokens", task.step_tokens),
            seed=seed,
        )

    def preparation(self, task: Task) -> float:
        """Return the seconds that scores for its order took to compute."""
        if isinstance(self.order, str) and self.order.partition(":")[0] in _SCORED:
            return task.difficulty(self.order.partition(":")[2] or None)[1]
        return 0.0

    def collate(self, task: Task, layout: Layout) -> Collate:
        """Return what makes batches of samples, in the shapes that were planned.

        Raises:
            StrategyError: If the task's own cannot do that.
        """
        if layout.kind == "packed":
            if task.collate_packed is None:
                raise StrategyError(
                    f"strategy {self.name!r} packs rows, and the task has no collate_packed: give "
                    "it a PackCollator, and a loss_sum that takes its batches."
                )
            return task.collate_packed
        asked: dict[str, Any] = {}
        if layout.multiple > 1:
            asked["pad_to_multiple_of"] = layout.multiple
        if layout.shapes is not None:
            asked["shapes"] = layout.shapes
        if not asked:
            return task.collate
        if not isinstance(task.collate, PadCollator):
            raise StrategyError(
                f"strategy {self.name!r} pads rows in its own way ({', '.join(asked)}), which the "
                f"task's collate, of type {type(task.collate).__name__}, cannot: make it a "
                "PadCollator."
            )
        return dataclasses.replace(task.collate, **asked)

    def _batching(self, task: Task) -> Batching:
        options = dict(self.options)
        budget = options.pop("max_tokens", task.max_tokens)
        options.pop("step_tokens", None)
        rounding = self._rounding(task)
        if rounding > 1:
            options.setdefault("pad_to_multiple_of", rounding)
        try:
            if self.kind == "planned":
                return TokenBudget(budget, **options)
            if self.kind == "packed":
                return Packing(budget, **options)
            if self.kind == "buckets":
                return Buckets(options.pop("num_shapes", 8), max_tokens=budget, **options)
            multiple = options.get("pad_to_multiple_of", 1)
            rows = options.pop("batch_size", None)
            if rows is None:
                rows = safe_batch_size(task, budget, multiple)
            return (FixedSize if self.kind == "plain" else LengthGrouped)(rows, **options)
        except TypeError as error:
            raise StrategyError(f"strategy {self.name!r}: {error}.") from error

    def _rounding(self, task: Task) -> int:
        """Return what rows are rounded up to, which only helps where lengths vary."""
        is_asked = self.precision not in {"fp32", "tf32"} and self.kind not in {"packed", "buckets"}
        can = isinstance(task.collate, PadCollator) and task.collate.pad_to_multiple_of == 1
        if not (is_asked and can and (task.sizes != task.sizes[0]).any()):
            return 1
        shortest = float(np.min(task.sizes.mean(axis=0)))
        return next((each for each in ROUNDINGS if shortest >= ROUNDS * each), 1)

    def _order(self, task: Task, seed: int) -> Order:
        if not isinstance(self.order, str):
            return self.order
        kind, _, name = self.order.partition(":")
        if kind not in _SCORED:
            return Sequential() if kind == "sequential" else Shuffle()
        order = Curriculum(
            task.difficulty(name or None)[0],
            epochs=task.epochs * LATER,
            direction="hard" if kind == "anticurriculum" else "easy",
        )
        return order.control(seed) if kind == "control" else order

    def _check_order(self, order: str) -> None:
        kind, colon, scores = order.partition(":")
        self._check("order", kind, ORDERS)
        if colon and (kind not in _SCORED or not scores):
            raise StrategyError(
                f"strategy {self.name!r}: order {order!r}, expected a curriculum before the colon "
                "and a difficulty of the task behind it, or no colon."
            )

    def _check(self, what: str, value: object, known: Mapping[str, str]) -> None:
        if not isinstance(value, str) or value not in known:
            listed = ", ".join(known)
            raise StrategyError(
                f"strategy {self.name!r}: there is no {what} {value!r}, expected one of {listed}."
            )


_SCORED = {"curriculum", "anticurriculum", "control"}


def safe_batch_size(task: Task, max_tokens: int, multiple: int = 1) -> int:
    """Return how many samples fit a budget when all are as long as the longest.

    Raises:
        BudgetError: If not even one does.
    """
    longest = -(-task.sizes.reshape(len(task.sizes), -1).max(axis=0).astype(int) // multiple)
    tokens = int(longest.sum()) * multiple
    if tokens > max_tokens:
        raise BudgetError(
            f"the longest sample takes {tokens:,} tokens, more than max_tokens={max_tokens:,}. "
            "Raise max_tokens, or leave out or cut what is longer."
        )
    return max_tokens // tokens
