"""What an update costs over the same steps written by hand."""

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from batchwright.torch import Precision
from benchmarks.claims.claim import Claim, Samples
from benchmarks.precision.language_model import Batch, full, loss_sum, make, token_count

WIDTH, LAYERS, LENGTH = 64, 4, 32
STEP = 0.010
PAIRS = 400
COPIES = 4
CLIP = 1.0


def overhead(rounds: Samples) -> Iterator[Claim]:
    """Take steps by hand and with `Precision` in turns; look at the difference of each pair."""
    for mode in ("bf16", "fp32"):
        for slots in (1, 4):
            yield from _overhead(mode, slots, rounds(PAIRS))


def _overhead(mode: str, slots: int, pairs: int) -> Iterator[Claim]:
    model = make(WIDTH, layers=LAYERS)
    rows = _rows_for(model, mode, STEP / slots)
    batches = [full(rows, LENGTH, seed=slot) for slot in range(slots)]
    each = max(1, pairs // COPIES)
    taken = [pair for _ in range(COPIES) for pair in _pairs(model, batches, mode, each)]
    hand = statistics.median(pair.wall[0] for pair in taken)
    wall = Interval.of([pair.wall[1] - pair.wall[0] for pair in taken])
    worked_by_hand = statistics.median(pair.worked[0] for pair in taken)
    worked = Interval.of([pair.worked[1] - pair.worked[0] for pair in taken])
    at_work = sum(sum(p.worked) for p in taken) / sum(sum(p.wall) for p in taken)
    several = f"{slots} batches of {rows} × {LENGTH}" if slots > 1 else f"{rows} × {LENGTH} tokens"
    yield Claim(
        f"an update in {mode}, {several}, clipped, beside the same by hand",
        "time on top",
        100 * wall.median / hand,
        at_most=1.0,
        unit="%",
        note=f"{wall.in_percent(hand)}, of {1e3 * hand:.3g} ms by hand; {len(taken)} pairs",
        more={
            "by_hand_seconds": hand,
            "difference_seconds": wall.median,
            "at_work": min(1.0, at_work),
        },
    )
    yield Claim(
        f"an update in {mode}, {several}, clipped, beside the same by hand",
        "the processor's time on top",
        100 * worked.median / worked_by_hand,
        unit="%",
        note=f"{worked.in_percent(worked_by_hand)}: without what others took away",
        more={"by_hand_seconds": worked_by_hand, "difference_seconds": worked.median},
    )


@dataclass(frozen=True)
class Interval:
    """A median, and where that of more pairs would be with 95 %: by order statistics."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Interval":
        ordered, size = sorted(values), len(values)
        reach = math.ceil(0.98 * math.sqrt(size))
        low, high = max(0, size // 2 - reach), min(size - 1, size // 2 + reach)
        return cls(statistics.median(ordered), ordered[low], ordered[high])

    def in_percent(self, whole: float) -> str:
        return f"95 %: {100 * self.low / whole:.2f} to {100 * self.high / whole:.2f} %"


@dataclass(frozen=True)
class Pair:
    """Seconds of a step by hand and of one of ours: of the clock, and of the processor."""

    wall: tuple[float, float]
    worked: tuple[float, float]


Step = Callable[[], object]


def _pairs(model: torch.nn.Module, batches: list[Batch], mode: str, pairs: int) -> list[Pair]:
    """Time pairs on fresh copies of the model: where in memory it lies makes a difference too."""
    steps = (
        _by_hand(copy.deepcopy(model), batches, mode),
        _ours(copy.deepcopy(model), batches, mode),
    )
    for _ in range(5):
        for step in steps:
            step()
    return [_pair(steps, turn) for turn in range(pairs)]


def _pair(steps: tuple[Step, Step], turn: int) -> Pair:
    wall, worked = [0.0, 0.0], [0.0, 0.0]
    for each in (0, 1) if turn % 2 else (1, 0):
        process, start = time.process_time(), time.perf_counter()
        steps[each]()
        wall[each] = time.perf_counter() - start
        worked[each] = time.process_time() - process
    return Pair((wall[0], wall[1]), (worked[0], worked[1]))


def _by_hand(model: torch.nn.Module, batches: list[Batch], mode: str) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    weight = sum(token_count(batch) for batch in batches)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            with torch.autocast("cpu", dtype=torch.bfloat16) if mode == "bf16" else nullcontext():
                loss = loss_sum(model, batch)
            (loss / weight).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    return step


def _ours(model: torch.nn.Module, batches: list[Batch], mode: str) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    weight = sum(token_count(batch) for batch in batches)
    precision = Precision(mode)

    def step() -> None:
        with precision.update(model, optimizer, weight=weight, clip=CLIP) as update:
            for batch in batches:
                update.backward(loss_sum, batch)

    return step


def _rows_for(model: torch.nn.Module, mode: str, seconds: float) -> int:
    """Return how many rows take about this long, forward and backward, by hand."""
    rows = 1
    while rows < 512:
        step = _by_hand(copy.deepcopy(model), [full(rows + 1, LENGTH)], mode)
        step()
        taken = []
        for _ in range(7):
            start = time.process_time()
            step()
            taken.append(time.process_time() - start)
        if statistics.median(taken) > seconds:
            break
        rows += max(1, rows // 4)
    return rows
