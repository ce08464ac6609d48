"""Memory on a GPU: predicted beside true peaks, what happens when it runs out, what is lost."""

import gc
from typing import Any

import numpy as np
import torch

from batchwright.compare import Strategy
from batchwright.torch import Precision
from batchwright.torch.update.gradient_check import flat_gradient, relative_error
from benchmarks.gpu.models import GPT, Batch, next_tokens, text_loss
from benchmarks.gpu.sizes import Sizes, has_gpu
from benchmarks.gpu.speed import Row
from benchmarks.gpu.tasks import texts
from benchmarks.memory_prediction import MEBIBYTE, Case, row

SHORT_OF = 0.6
"""Share of what a batch takes that is left to it, so that memory runs out."""

SMALLER = 8
"""Batches of varying shape take this part of the budget: there are many."""


def prediction(sizes: Sizes) -> Row:
    """Hold the peaks that `MemoryModel` predicts against those of the allocator."""

    def make_batch(rows: int, length: int) -> Batch:
        tokens = torch.randint(1, sizes.vocabulary, (rows, length), device=sizes.device)
        return {"input_ids": tokens, "labels": tokens.clone()}

    found = [
        row(
            Case(
                f"GPT, {name}",
                lambda: GPT(sizes).to(sizes.device),
                autocast=autocast,
                loss_sum=text_loss,
                make_batch=make_batch,
                lengths=range(max(4, sizes.longest // 32), sizes.longest + 1),
                mebibytes=sizes.limit // MEBIBYTE,
            ),
            shapes=sizes.held_out // 2 + sizes.held_out % 2,
        )
        for name, autocast in (("bf16", torch.bfloat16), ("fp32", None))
    ]
    errors = [
        predicted / measured - 1 for each in found for *_, predicted, measured in each["held_out"]
    ]
    return {
        "cases": found,
        "shapes": len(errors),
        "most_off": float(np.abs(errors).max()),
        "under_by_more_than_the_margin": any(
            (1 + each["margin"]) * predicted < measured
            for each in found
            for *_, predicted, measured in each["held_out"]
        ),
    }


def recovery(sizes: Sizes) -> Row:
    """Run out of memory, truly where there is a GPU; compare the gradient with an undisturbed one.

    A CPU has no limit to set: there, rows above a number raise torch's error.
    """
    torch.manual_seed(0)
    model = GPT(sizes).to(sizes.device)
    rows = max(2, sizes.max_tokens // sizes.longest)
    tokens = torch.randint(1, sizes.vocabulary, (rows, sizes.longest), device=sizes.device)
    batch = {"input_ids": tokens, "labels": tokens.clone()}
    whole, _, peak = _update(model, batch)
    gc.collect()
    before = _allocated()
    if has_gpu():
        total = torch.cuda.get_device_properties(0).total_memory
        limit = before + SHORT_OF * (peak - before)
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(limit / total)
        try:
            again, retries, limited_peak = _update(model, batch)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    else:
        limit = None
        again, retries, limited_peak = _update(_Small(model, rows // 2), batch)
    gc.collect()
    return {
        "is_true": has_gpu(),
        "rows": rows,
        "length": sizes.longest,
        "peak_bytes": peak,
        "limit_bytes": limit,
        "limited_peak_bytes": limited_peak,
        "retries": retries,
        "gradient_error": relative_error(again, whole),
        "bytes_lost": None if before is None else _allocated() - before,
    }


class _Small(torch.nn.Module):
    """A model for which memory runs out above a number of rows."""

    def __init__(self, model: torch.nn.Module, rows: int):
        super().__init__()
        self.model, self.rows = model, rows

    def forward(self, batch: Batch) -> torch.Tensor:
        if len(batch["input_ids"]) > self.rows:
            raise torch.OutOfMemoryError("more rows than there is memory for")
        return self.model(batch)


def _update(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, int, int | None]:
    """Make an update in fp32; return its gradient on the CPU, its retries, and its peak memory."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    if has_gpu():
        torch.cuda.reset_peak_memory_stats()
    with Precision("fp32").update(model, optimizer, weight=next_tokens(batch)) as update:
        update.backward(text_loss, batch)
    gradient = flat_gradient(model).cpu()
    model.zero_grad(set_to_none=True)
    return gradient, update.retries, torch.cuda.max_memory_allocated() if has_gpu() else None


def _allocated() -> int | None:
    return torch.cuda.memory_allocated() if has_gpu() else None


def varying_shapes(sizes: Sizes) -> Row:
    """Train on hundreds of batches of varying shape, and see what the allocator holds beyond them.

    None of it is known on a CPU: there, batches are trained on and nothing is reported.
    """
    task = texts(sizes)
    options = {"max_tokens": max(sizes.longest, sizes.max_tokens // SMALLER)}
    found: Row = {}
    for name in ("plain", "planned"):
        gc.collect()
        if has_gpu():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.reset_accumulated_memory_stats()  # other parts ran out of memory
        shapes = _train(sizes, task, Strategy(name, kind=name, options=options))
        found[name] = {"batches": sizes.varying, "shapes": len(shapes)}
        if has_gpu():
            stats = torch.cuda.memory_stats()
            allocated, reserved = (
                stats[f"{which}_bytes.all.peak"] for which in ("allocated", "reserved")
            )
            found[name] |= {
                "allocated_peak_bytes": allocated,
                "reserved_peak_bytes": reserved,
                "reserved_over_allocated": reserved / allocated,
                "allocation_retries": stats["num_alloc_retries"],
            }
    return found


def _train(sizes: Sizes, task: Any, strategy: Strategy) -> set[tuple[int, ...]]:
    """Train on batches in bf16; return their shapes."""
    torch.manual_seed(0)
    model = task.model().to(sizes.device)
    optimizer = task.optimizer(model)
    planner = strategy.planner(task, seed=0)
    collate = strategy.collate(task, planner(0).layout)
    shapes, epoch = set(), 0
    left = sizes.varying
    while left:
        for rows in list(planner(epoch))[:left]:
            batch = collate([task.samples[index] for index in rows.tolist()])
            batch = {name: each.to(sizes.device) for name, each in batch.items()}
            shapes.add(tuple(batch["input_ids"].shape))
            with torch.autocast(sizes.device, dtype=torch.bfloat16):
                loss = text_loss(model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            left -= 1
        epoch += 1
    return shapes
