"""Whether an update that says it was applied was, and one that says it was not was not."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch

from batchwright.torch import Precision
from benchmarks.claims.claim import Claim, Samples

UPDATES = 200
ROWS = 4

Optimizers = Callable[[torch.nn.Sequential], list[torch.optim.Optimizer]]

OPTIMIZERS: dict[str, Optimizers] = {
    "SGD": lambda model: [torch.optim.SGD(model.parameters(), lr=0.01)],
    "AdamW": lambda model: [torch.optim.AdamW(model.parameters(), lr=0.01)],
    "fused AdamW": lambda model: [torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)],
    "two optimizers": lambda model: [
        torch.optim.AdamW(model[0].parameters(), lr=0.01),
        torch.optim.SGD(model[1].parameters(), lr=0.01),
    ],
}


def skips(rounds: Samples) -> Iterator[Claim]:
    """Make gradients infinite or NaN at random, in one of two layers, and look what moves."""
    for mode in ("fp32", "bf16", "fp16"):
        for name, make in OPTIMIZERS.items():
            wrong, skipped, number = _wrong(make, mode, rounds(UPDATES))
            yield Claim(
                f"skipped steps, {mode}",
                f"updates told wrong, {name}",
                wrong,
                at_most=0,
                at_any_size=True,
                note=f"of {number}, {skipped} of them skipped",
            )
    for name, make in OPTIMIZERS.items():
        wrong, number = _wrong_by_scale(make, rounds(UPDATES))
        yield Claim(
            "skipped steps, fp16 by hand: skipped if the scale went down",
            f"updates told wrong, {name}",
            wrong,
            note=f"of {number}: an optimizer moved, or did not, against what was told",
        )


def _wrong(make: Optimizers, mode: str, updates: int) -> tuple[int, int, int]:
    model, spoil = _model()
    optimizers = make(model)
    precision = Precision(mode, scaler=_scaler() if mode == "fp16" else None, check_loss=False)
    wrong = 0
    for factor, layer, batch in _draws(updates):
        spoil[layer] = factor
        before = _parameters(model)
        with precision.update(model, optimizers, weight=ROWS) as update:
            update.backward(_loss_sum, batch)
        spoil[layer] = 1.0
        moved = [not torch.equal(a, b) for a, b in zip(before, _parameters(model), strict=True)]
        # Not only what was spoilt: a loss scale that grew too far overflows by itself.
        finite = all(bool(each.grad.isfinite().all()) for each in model.parameters())
        assert math.isfinite(factor) or not finite
        wrong += moved != [finite] * len(moved) or update.applied != finite
    counted = precision.applied + precision.skipped == updates
    return wrong + (not counted), precision.skipped, updates


def _wrong_by_scale(make: Optimizers, updates: int) -> tuple[int, int]:
    model, spoil = _model()
    optimizers, scaler = make(model), _scaler()
    wrong = 0
    for factor, layer, batch in _draws(updates):
        spoil[layer] = factor
        before = _parameters(model)
        for optimizer in optimizers:
            optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = _loss_sum(model, batch) / ROWS
        scaler.scale(loss).backward()
        spoil[layer] = 1.0
        scale = scaler.get_scale()
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        told = scaler.get_scale() >= scale
        moved = [not torch.equal(a, b) for a, b in zip(before, _parameters(model), strict=True)]
        wrong += moved != [told] * len(moved)
        if scaler.get_scale() < 1:
            scaler = _scaler()  # it has no floor
    return wrong, updates


def _model() -> tuple[torch.nn.Sequential, list[float]]:
    """Make a model, and the factors by which the gradient of each layer can be spoilt."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    spoil = [1.0, 1.0]
    for number, layer in enumerate(model):
        for parameter in layer.parameters():
            parameter.register_hook(lambda gradient, n=number: gradient * spoil[n])
    return model, spoil


Batch = tuple[torch.Tensor, torch.Tensor]


def _draws(updates: int) -> Iterator[tuple[float, int, Batch]]:
    """Draw what the gradient is multiplied by, in which layer; and a batch that is new each time.

    Nothing can be learnt from the batches, so that no gradient becomes too small to move anything.
    """
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    bad = [math.inf, -math.inf, math.nan]
    for number in range(updates):
        # Never three bad ones in a row: that may be an error, for a loss scale that sank.
        factor = bad[int(rng.integers(3))] if number % 3 and rng.random() < 0.5 else 1.0
        inputs, targets = torch.randn(2, ROWS, 4, generator=generator)
        yield factor, number % 2, (inputs, targets)


def _loss_sum(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    inputs, targets = batch
    return (model(inputs).float() - targets).square().sum()


def _scaler() -> torch.amp.GradScaler:
    # Grows at every good step, so that it has not sunk to nothing after some bad ones.
    return torch.amp.GradScaler("cpu", init_scale=2.0**6, growth_interval=1)


def _parameters(model: torch.nn.Module) -> list[torch.Tensor]:
    return [each.detach().clone() for each in model.parameters()]
