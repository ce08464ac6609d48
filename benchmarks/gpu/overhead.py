"""What an update costs beside one written by hand, and how long a GPU waits for a loader."""

from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter

import torch
from torch.profiler import ProfilerActivity, profile

import batchwright as bw
from batchwright.compare import Task
from batchwright.compare.arm import moved, settle
from batchwright.torch import PlanLoader, Precision, windows
from batchwright.typing import IntArray
from benchmarks.gpu.models import Batch, next_tokens, text_loss
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.speed import Row
from benchmarks.gpu.tasks import texts

CLIP = 1.0

WORKERS = 2

Step = Callable[[], object]


def update(sizes: Sizes) -> Row:
    """Time updates in bf16, of one batch and of four, by hand and with `Precision` in turns."""
    task = texts(sizes)
    device = torch.device(sizes.device)
    plan = bw.plan(task.sizes, max_tokens=max(sizes.longest, sizes.max_tokens // 4))
    batches = [_batch(task, plan[place], device) for place in range(4)]
    return {str(count): _beside(task, batches[:count], sizes) for count in (1, 4)}


def _batch(task: Task, rows: IntArray, device: torch.device) -> Batch:
    return moved(task.collate([task.samples[index] for index in rows.tolist()]), device)


def _beside(task: Task, batches: list[Batch], sizes: Sizes) -> Row:
    device = torch.device(sizes.device)
    steps = [make(task.model().to(device), batches) for make in (_by_hand, _ours)]
    for step in steps * 3:
        step()
    taken: list[tuple[float, float]] = []
    for turn in range(sizes.pairs):
        pair = [0.0, 0.0]
        for place in (0, 1) if turn % 2 else (1, 0):
            settle(device)
            begun = perf_counter()
            steps[place]()
            settle(device)
            pair[place] = perf_counter() - begun
        taken.append((pair[0], pair[1]))
    by_hand, ours = (_launches(step, device) for step in steps)
    hand = median(first for first, _ in taken)
    return {
        "batches": len(batches),
        "seconds_by_hand": hand,
        "on_top": median(second - first for first, second in taken) / hand,
        "launches_by_hand": by_hand,
        "launches": ours,
    }


def _by_hand(model: torch.nn.Module, batches: list[Batch]) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    weight, kind = sum(map(next_tokens, batches)), next(model.parameters()).device.type

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=kind)
        for batch in batches:
            with torch.autocast(kind, dtype=torch.bfloat16):
                loss = text_loss(model, batch)
            (loss / weight).backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return float(total)  # as every loop that logs its loss

    return step


def _ours(model: torch.nn.Module, batches: list[Batch]) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    weight, mode = sum(map(next_tokens, batches)), Precision("bf16")

    def step() -> float:
        with mode.update(model, optimizer, weight=weight, clip=CLIP) as made:
            for batch in batches:
                made.backward(text_loss, batch)
        return made.loss

    return step


def _launches(step: Step, device: torch.device) -> int | None:
    """Count the kernels that a step launches. None: there is no GPU, or nothing counts."""
    if device.type != "cuda":
        return None
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        step()
        settle(device)
    return sum("LaunchKernel" in each.name for each in trace.events()) or None


def loader(sizes: Sizes) -> Row:
    """Feed a GPT by a `PlanLoader` with workers, and by batches that lie on the device already."""
    task = texts(sizes)
    device = torch.device(sizes.device)
    planner = bw.Planner(task.sizes, max_tokens=task.max_tokens, step_tokens=task.step_tokens)
    fed = PlanLoader(
        task.samples,
        planner,
        collate_fn=task.collate,
        num_workers=WORKERS,
        pin_memory=device.type == "cuda",
        persistent_workers=True,
    )
    model = task.model().to(device)
    optimizer, mode = task.optimizer(model), Precision("bf16")
    plan, size = planner(0), planner.accumulate
    there = [
        [_batch(task, plan[place], device) for place in range(start, start + size)]
        for start in (0, size)
    ]

    def train(groups: Iterator[list[Batch]], count: int) -> tuple[float, float]:
        """Return the seconds of some updates, and those that the loop waited for batches."""
        waited, begun = 0.0, perf_counter()
        for _ in range(count):
            asked = perf_counter()
            batches = next(groups)
            waited += perf_counter() - asked
            weight = sum(map(next_tokens, batches))
            with mode.update(model, optimizer, weight=weight, clip=CLIP) as made:
                for batch in batches:
                    made.backward(text_loss, moved(batch, device))
        settle(device)
        return perf_counter() - begun, waited

    cycled = _cycled(there)
    train(cycled, 2)
    groups = _forever(fed)
    train(groups, 1)  # workers start
    seconds, waited = train(groups, sizes.loaded)
    without, _ = train(cycled, sizes.loaded)
    return {
        "workers": WORKERS,
        "updates": sizes.loaded,
        "seconds_per_update": seconds / sizes.loaded,
        "seconds_per_update_without_loader": without / sizes.loaded,
        "waited": waited / seconds,
    }


def _forever(fed: PlanLoader) -> Iterator[list[Batch]]:
    epoch = 0
    while True:
        fed.set_epoch(epoch)
        for window in windows(fed, weigh=next_tokens):
            yield list(window)
        epoch += 1


def _cycled(groups: list[list[Batch]]) -> Iterator[list[Batch]]:
    while True:
        yield from groups
