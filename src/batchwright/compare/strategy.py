"""Strategies: ways to train a task, given by name, in Python or in a TOML file."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from batchwright._checks import check_choice
from batchwright._format import one_line
from batchwright.batching import Buckets, FixedSize, Packing, TokenBudget
from batchwright.batching.fixed_size import LengthGrouped
from batchwright.errors import BatchwrightError, BudgetError, SourceNotFoundError, TaskError
from batchwright.order import Curriculum, Sequential, Shuffle
from batchwright.planner import Planner
from batchwright.stats.baseline import are_unlike, narrower, slots_of
from batchwright.torch.data.pad_collator import PadCollator
from batchwright.typing import Batching, Order

if TYPE_CHECKING:
    from batchwright.compare.task import Collate, Task
    from batchwright.layout import Layout

Kind: TypeAlias = Literal["plain", "grouped", "planned", "mixed", "packed", "buckets"]
"""Shuffled, the task's batch size, or as many samples as fit when all are the longest; as many,
sorted by length within every 50 batches, as trainers do; `TokenBudget`; the same with updates cut
into eight batches where they have fewer, so that each holds all lengths; `Packing`; `Buckets` of
eight shapes."""

KINDS = get_args(Kind)
ORDERS = ("shuffle", "sequential", "curriculum", "anticurriculum", "control")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "auto")

DENSE = "dense limit"
"""Name of the arm without padding, in the shapes of the strongest batching."""

LATER = 0.5
"""Share of a run after which a curriculum is a plain shuffle of everything."""

ROUNDINGS = (16, 8)
"""Below fp32, rows are padded to a multiple of the first of these that is at most a `ROUNDS`-th of
the mean length; more padding would cost more than it gains.

CPUs prepare bf16 kernels for each new shape, which takes longer than they save if every batch has a
shape of its own. GPUs want multiples of 8 or more.
"""

ROUNDS = 8

_SCORED = {"curriculum", "anticurriculum", "control"}
_FIELDS = ("kind", "order", "precision")


@dataclass(frozen=True)
class Strategy:
    """One way to train a task: its batches, order and precision.

    Guarantees the task's memory budget (not where plain batches have the batch size of a task) and
    tokens per update, and so as many updates as any other strategy of the task (of a curriculum,
    about), unless its options say otherwise.

    Args:
        name: The name shown in tables.
        kind: How samples become batches: see `Kind`.
        order: One of `ORDERS`, a curriculum with the name of its difficulty after a colon, or an
            Order.
        precision: One of `PRECISIONS`.
        options: Further arguments of the Batching, such as ``{"mixing": "update"}``; or
            ``max_tokens`` or ``step_tokens`` in place of the task's.

    Raises:
        TaskError: If a name is unknown, or a value has the wrong type.

    Example:
        >>> Strategy.named("planned+curriculum:length+bf16").order
        'curriculum:length'
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
            raise TaskError(f"Strategy({self.name!r}): expected a name other than {DENSE!r}.")
        kind, colon, scores = self._parts
        checks = [("kind", self.kind, KINDS), ("precision", self.precision, PRECISIONS)]
        if isinstance(self.order, str | type) or not callable(self.order):
            checks.append(("order", kind or self.order, ORDERS))
        for name, value, choices in checks:
            check_choice("Strategy", name, value, choices, error=TaskError)
        if colon and (kind not in _SCORED or not scores):
            raise TaskError(
                f"Strategy(order={self.order!r}): expected a curriculum before the colon and a "
                "difficulty of the task after it, or no colon."
            )
        if not isinstance(self.options, Mapping):
            raise TaskError(f"Strategy(options={self.options!r}): expected a dictionary.")

    @classmethod
    def named(cls, name: str) -> Strategy:
        """Make a strategy from a kind, then an order, a precision or both, joined by plus signs.

        Raises:
            TaskError: If a part is unknown.
        """
        kind, *others = name.split("+")
        settings = {"kind": kind}
        for part in others:
            what = "order" if part.partition(":")[0] in ORDERS else "precision"
            if what in settings or (what == "precision" and part not in PRECISIONS):
                raise TaskError(
                    f"strategy {name!r}: {part!r} is no order ({', '.join(ORDERS)}) and no "
                    f"precision ({', '.join(PRECISIONS)}), or there are two of a kind."
                )
            settings[what] = part
        return cls(name, **settings)  # type: ignore[arg-type]  # a str, which is checked

    def planner(self, task: Task, *, seed: int) -> Planner:
        """Make the planner of a run.

        Raises:
            TaskError: If an option is unknown, or the task has no such difficulty.
            BudgetError: If a sample alone exceeds the budget.
        """
        update: dict[str, Any] = {"step_tokens": self.options.get("step_tokens", task.step_tokens)}
        if self._is_as_today(task) and "step_tokens" not in self.options:
            update = {"accumulate": task.plain_accumulate}
        try:
            return self._planner(task, seed, update)
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, BatchwrightError):
                raise
            raise TaskError(f"strategy {self.name!r}: {error}.") from error

    def _planner(self, task: Task, seed: int, update: Mapping[str, Any]) -> Planner:
        order, batching = self._order(task, seed), self._batching(task)
        made = partial(Planner, task.sizes, order=order, seed=seed, **update)
        planner = made(batching=batching)
        if self.kind != "mixed" or not isinstance(batching, TokenBudget):
            return planner
        slots = slots_of(len(task.sizes), -(-len(planner) // planner.accumulate))
        if planner.accumulate >= slots:
            return planner
        cut = narrower(batching, task.sizes, planner.accumulate / slots)
        return made(batching=cut).resized(1, slots)

    def excess(self, task: Task) -> int | None:
        """Return the most tokens of a batch, where batches of the task's size exceed its budget."""
        if not self._is_as_today(task):
            return None
        most = self.planner(task, seed=0)(0).stats(task.sizes).max_batch_tokens
        return most if most > task.max_tokens else None

    def needs_mixing(self, task: Task) -> bool:
        """Return whether updates are unlike one another in length, and those of `mixed` less so."""
        if self.kind != "planned" or self.order != "shuffle":
            return False
        mixed = dataclasses.replace(self, kind="mixed")
        unlike, even = (
            each.planner(task, seed=0)(0).stats(task.sizes).dispersion for each in (self, mixed)
        )
        return are_unlike(unlike, even)

    def preparation(self, task: Task) -> float:
        """Return the seconds it took to compute the scores of the order."""
        return task.difficulty(self._parts[2] or None)[1] if self._parts[0] in _SCORED else 0.0

    def collate(self, task: Task, layout: Layout) -> Collate:
        """Return the function that makes batches of samples in the planned shapes.

        Raises:
            TaskError: If the task's own function cannot do that.
        """
        if layout.kind == "packed":
            if task.collate_packed is None:
                raise TaskError(
                    f"strategy {self.name!r} packs rows, and the task has no collate_packed: give "
                    "it a PackCollator, and a loss_sum that takes its batches."
                )
            return task.collate_packed
        if layout.multiple == 1 and layout.shapes is None:
            return task.collate
        if not isinstance(task.collate, PadCollator):
            raise TaskError(
                f"strategy {self.name!r} pads to planned shapes, and the task's collate is a "
                f"{type(task.collate).__name__}: make it a PadCollator."
            )
        multiple = layout.multiple if layout.multiple > 1 else task.collate.pad_to_multiple_of
        shapes = task.collate.shapes if layout.shapes is None else layout.shapes
        return dataclasses.replace(task.collate, pad_to_multiple_of=multiple, shapes=shapes)

    @property
    def _parts(self) -> tuple[str, str, str]:
        """The order's name, a colon, and the name of its difficulty; empty where it has none."""
        return self.order.partition(":") if isinstance(self.order, str) else ("", "", "")

    def _batching(self, task: Task) -> Batching:
        options = dict(self.options)
        budget = options.pop("max_tokens", task.max_tokens)
        options.pop("step_tokens", None)
        if (multiple := self._multiple(task)) > 1:
            options.setdefault("pad_to_multiple_of", multiple)
        if self.kind in {"planned", "mixed"}:
            return TokenBudget(budget, **options)
        if self.kind == "packed":
            return Packing(budget, **options)
        if self.kind == "buckets":
            return Buckets(options.pop("num_shapes", 8), max_tokens=budget, **options)
        if self._is_as_today(task):
            options["batch_size"] = task.batch_size
        elif "batch_size" not in options:
            multiple = options.get("pad_to_multiple_of", 1)
            options["batch_size"] = safe_batch_size(task, budget, multiple)
        return (FixedSize if self.kind == "plain" else LengthGrouped)(**options)

    def _is_as_today(self, task: Task) -> bool:
        """Say whether batches have the batch size of the task, whatever they take."""
        is_other = {"batch_size", "max_tokens"}.intersection(self.options)
        return self.kind in {"plain", "grouped"} and task.batch_size is not None and not is_other

    def _multiple(self, task: Task) -> int:
        """Return the multiple that rows are padded to, which helps only where lengths vary."""
        is_asked = self.precision not in {"fp32", "tf32"} and self.kind not in {"packed", "buckets"}
        can = isinstance(task.collate, PadCollator) and task.collate.pad_to_multiple_of == 1
        if not (is_asked and can and (task.sizes != task.sizes[0]).any()):
            return 1
        shortest = float(np.min(task.sizes.mean(axis=0)))
        return next((each for each in ROUNDINGS if shortest >= ROUNDS * each), 1)

    def _order(self, task: Task, seed: int) -> Order:
        if not isinstance(self.order, str):
            return self.order
        kind, _, name = self._parts
        if kind not in _SCORED:
            return Sequential() if kind == "sequential" else Shuffle()
        order = Curriculum(
            task.difficulty(name or None)[0],
            epochs=task.epochs * LATER,
            direction="hard" if kind == "anticurriculum" else "easy",
        )
        return order.control(seed) if kind == "control" else order


def safe_batch_size(task: Task, max_tokens: int, multiple: int = 1) -> int:
    """Return how many samples fit a budget when all are as long as the longest; at least one."""
    longest = -(-task.sizes.reshape(len(task.sizes), -1).max(axis=0).astype(int) // multiple)
    tokens = int(longest.sum()) * multiple
    if tokens > max_tokens:
        raise BudgetError(
            f"the longest sample takes {tokens:,} tokens, more than max_tokens={max_tokens:,}. "
            "Raise max_tokens, or leave out or cut longer samples."
        )
    return max_tokens // tokens


def parse_strategies(text: str) -> list[Strategy]:
    """Read names separated by commas, such as ``"plain, planned+bf16"``, or a TOML file.

    Raises:
        TaskError: If a name is unknown or repeated, or there is none.
    """
    if text.endswith(".toml"):
        return read_strategies(text)
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise TaskError("there are no strategies. Expected at least one, such as plain.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise TaskError(f"strategy {twice[0]!r} is there twice. Give each its own name.")
    return [Strategy.named(name) for name in names]


def read_strategies(path: Path | str) -> list[Strategy]:
    """Read the strategies of a TOML file: a table each, named as the strategy.

    ``kind``, ``order`` and ``precision`` are those of `Strategy`; everything else in a table is an
    option of the Batching.

    Raises:
        SourceNotFoundError: If there is no such file.
        TaskError: If the file cannot be read, or a setting is unknown.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise TaskError(f"{path} is no regular file. Expected a TOML file.")
    if not Path(path).exists():
        raise SourceNotFoundError(f"{path}: there is no such file. Expected a TOML file.")
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TaskError(f"{path} cannot be read: {one_line(error)}.") from error
    if not tables or not all(isinstance(each, dict) for each in tables.values()):
        raise TaskError(f"{path}: expected a table for each strategy, such as [planned].")
    found = []
    for name, table in tables.items():
        settings = {key: table.pop(key) for key in _FIELDS if key in table}
        if "kind" not in settings:
            base = Strategy.named(name)
            settings = {key: getattr(base, key) for key in _FIELDS} | settings
        found.append(Strategy(name, **settings, options=table))
    return found
