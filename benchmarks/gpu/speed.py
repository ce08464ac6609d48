"""The speed of arms in turns, on batches that lie on the device before any is timed."""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from time import perf_counter
from typing import Any

import numpy as np

from batchwright.advise.trials import faster
from batchwright.compare import Strategy, Task
from batchwright.compare.arm import Arm, moved
from batchwright.typing import Batch, IntArray

Row = dict[str, Any]
"""JSON values."""

FEWEST = 3
"""Rounds that there are, whatever the time."""


class Prepared(Arm):
    """An arm whose first batches are made and moved beforehand; it goes through them in turns."""

    def __init__(self, task: Task, strategy: Strategy, *, ahead: int, dense: bool = False) -> None:
        self.ahead = ahead
        super().__init__(task, strategy, seed=0, dense=dense)

    def _load(self) -> Iterator[tuple[int, IntArray, list[Batch]]]:
        made = [
            (tokens, padded, [moved(batch, self.device) for batch in batches])
            for tokens, padded, batches in islice(super()._load(), self.ahead)
        ]
        return cycle(made)


def speeds(
    task: Task,
    strategies: Sequence[Strategy],
    *,
    seconds: float,
    warm_up: int,
    ahead: int,
    dense: bool = True,
    peaks: bool = True,
) -> list[Row]:
    """Time updates of strategies in turns, and of the dense limit: the last has no padding.

    Returns:
        Of each strategy real tokens a second, their ratio to the first strategy's and to the dense
        limit's with 95 % intervals over updates, padding, and the memory of its largest batch.
    """
    arms = [Prepared(task, each, ahead=ahead) for each in strategies]
    if dense:
        best = next((each for each in strategies if each.kind == "planned"), strategies[-1])
        arms.append(Prepared(task, best, ahead=ahead, dense=True))
    for arm in arms:
        arm.choose_precision()
    peak = [arm.peak() if peaks and not arm.dense else None for arm in arms]
    rates: list[list[float]] = [[] for _ in arms]
    first: list[float] = []
    for arm in arms:  # kernels are chosen and compiled
        first.append(arm.update())
        for _ in range(max(warm_up, ahead) - 1):
            arm.update()
    begun, turn = perf_counter(), 0
    while turn < FEWEST or perf_counter() - begun < seconds:
        places = range(len(arms))
        for place in places if turn % 2 else reversed(places):
            before = arms[place].spent.tokens
            taken = arms[place].update()
            rates[place].append((arms[place].spent.tokens - before) / taken)
        turn += 1
    rows = []
    for arm, own, memory, once in zip(arms, rates, peak, first, strict=True):
        row = {"name": arm.name, "precision": arm.mode, **_rates(own, rates[0])}
        row["of_limit"] = _ratio(own, rates[-1]) if dense else None
        row["padding"] = 1 - arm.spent.tokens / arm.spent.padded_tokens
        row["batches_per_update"] = arm.spent.batches / arm.spent.updates
        rows.append(row | {"peak_bytes": memory, "first_seconds": once})
    return rows


def _rates(rates: list[float], baseline: list[float]) -> Row:
    return {
        "updates": len(rates),
        "tokens_per_second": float(len(rates) / np.sum(1 / np.array(rates))),
        "speed": _ratio(rates, baseline),
    }


def _ratio(rates: list[float], others: list[float]) -> Row:
    found = faster(rates, others)
    return {"ratio": found.ratio, "low": found.low, "high": found.high}
