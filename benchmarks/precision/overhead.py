"""What an update costs over the same steps written by hand."""

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import torch

from batchwright.torch import Precision
from benchmarks.claims.claim import Claim, Samples
from benchmarks.precision.language_model import Batch, full, loss_sum, make, token_count

WIDTH, LAYERS, LENGTH = 64, 4, 32
STEP = 0.010
PAIRS = 20
COPIES = 30
CLIP = 1.0


def overhead(rounds: Samples) -> Iterator[Claim]:
    """Take steps by hand and with `Precision` in turns; look at the difference of each pair."""
    for mode in ("bf16", "fp32"):
        for slots in (1, 4):
            yield from _overhead(mode, slots, rounds(COPIES))
        yield _first_update(mode, rounds(COPIES))
        yield _later_checks(mode, rounds(COPIES))


def _first_update(mode: str, copies: int) -> Claim:
    """Compare updates that check their loss, as first ones do, with the same steps by hand."""
    model = make(WIDTH, layers=LAYERS)
    rows = _rows_for(model, mode, STEP)
    batches = [full(rows, LENGTH)]
    ratios = []
    for _ in range(copies):
        by_hand = _by_hand(copy.deepcopy(model), batches, mode)
        steps = (by_hand, _ours(copy.deepcopy(model), batches, mode, every_first=True))
        for step in steps:
            step()
        walls = [_pair(steps, turn).wall for turn in range(PAIRS)]
        ratios.append(statistics.median(ours / hand for hand, ours in walls))
    return Claim(
        f"the first update in {mode}, {rows} × {LENGTH} tokens, whose loss is checked",
        "time over the same by hand",
        statistics.median(ratios),
        at_most=2.0,
        unit="×",
        note=f"{min(ratios):.2f} to {max(ratios):.2f}; {PAIRS} pairs on each of {copies} copies",
    )


def _later_checks(mode: str, copies: int) -> Claim:
    """Compare later updates of a loss that was checked with those of one that never is."""
    model = make(WIDTH, layers=LAYERS)
    batches = [full(_rows_for(model, mode, STEP), LENGTH)]
    taken = []
    for _ in range(copies):
        unchecked = _ours(copy.deepcopy(model), batches, mode, check_loss=False)
        steps = (unchecked, _ours(copy.deepcopy(model), batches, mode))
        for step in steps * 3:
            step()
        taken.append([_pair(steps, turn).wall for turn in range(PAIRS)])
    surplus = Surplus.of(taken)
    return Claim(
        f"a later update in {mode}, whose loss was checked in the first",
        "time over one whose loss never is",
        100 * surplus.share,
        at_most=1.0,
        unit="%",
        note=f"{surplus.interval} of {1e3 * surplus.by_hand:.3g} ms",
        more=asdict(surplus),
    )


def _overhead(mode: str, slots: int, copies: int) -> Iterator[Claim]:
    model = make(WIDTH, layers=LAYERS)
    rows = _rows_for(model, mode, STEP / slots)
    batches = [full(rows, LENGTH, seed=slot) for slot in range(slots)]
    # Where in memory a model lies makes steps a percent slower or faster: many copies are taken.
    taken = [_pairs(model, batches, mode) for _ in range(copies)]
    several = f"{slots} batches of {rows} × {LENGTH}" if slots > 1 else f"{rows} × {LENGTH} tokens"
    subject = f"an update in {mode}, {several}, clipped, beside the same by hand"
    wall = Surplus.of([[pair.wall for pair in pairs] for pairs in taken])
    worked = Surplus.of([[pair.worked for pair in pairs] for pairs in taken])
    everything = [pair for pairs in taken for pair in pairs]
    at_work = sum(sum(p.worked) for p in everything) / sum(sum(p.wall) for p in everything)
    how = f"ms by hand; {PAIRS} pairs on each of {copies} copies"
    yield Claim(
        subject,
        "time on top",
        100 * wall.share,
        at_most=1.0,
        unit="%",
        note=f"{wall.interval} of {1e3 * wall.by_hand:.3g} {how}",
        more={**asdict(wall), "at_work": min(1.0, at_work)},
    )
    yield Claim(
        subject,
        "the processor's time on top",
        100 * worked.share,
        unit="%",
        note=f"{worked.interval}: without what others took away",
        more=asdict(worked),
    )


@dataclass(frozen=True)
class Surplus:
    """How much longer steps of ours take than those by hand.

    Attributes:
        by_hand: Median seconds of a step by hand.
        share: The median over copies of the median difference of a pair, over `by_hand`.
        low: Where that would be, with 95 %, for more copies: by order statistics.
        high: The other end.
    """

    by_hand: float
    share: float
    low: float
    high: float

    @classmethod
    def of(cls, copies: list[list[tuple[float, float]]]) -> "Surplus":
        by_hand = statistics.median(hand for pairs in copies for hand, _ in pairs)
        shares = sorted(
            statistics.median(ours - hand for hand, ours in pairs) / by_hand for pairs in copies
        )
        size, reach = len(shares), math.ceil(0.98 * math.sqrt(len(shares)))
        low, high = max(0, size // 2 - reach), min(size - 1, size // 2 + reach)
        return cls(by_hand, statistics.median(shares), shares[low], shares[high])

    @property
    def interval(self) -> str:
        return f"95 %: {100 * self.low:.2f} to {100 * self.high:.2f} %"


@dataclass(frozen=True)
class Pair:
    """Seconds of a step by hand and of one of ours: of the clock, and of the processor."""

    wall: tuple[float, float]
    worked: tuple[float, float]


Step = Callable[[], object]


def _pairs(model: torch.nn.Module, batches: list[Batch], mode: str) -> list[Pair]:
    """Time pairs on fresh copies of the model."""
    steps = (
        _by_hand(copy.deepcopy(model), batches, mode),
        _ours(copy.deepcopy(model), batches, mode),
    )
    for _ in range(3):
        for step in steps:
            step()
    return [_pair(steps, turn) for turn in range(PAIRS)]


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


def _ours(
    model: torch.nn.Module,
    batches: list[Batch],
    mode: str,
    *,
    every_first: bool = False,
    check_loss: bool = True,
) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    weight = sum(token_count(batch) for batch in batches)
    precision = Precision(mode, check_loss=check_loss)

    def step() -> None:
        nonlocal precision
        precision = Precision(mode) if every_first else precision
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
