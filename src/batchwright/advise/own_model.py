"""Label noise by the task's own model, as a teacher of samples that it was not trained on."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from batchwright._random import generator
from batchwright.advise.noise_estimate import (
    FEWEST_SAMPLES,
    MOST_SAMPLES,
    from_probabilities,
    predict,
)
from batchwright.advise.noise_sources import NoiseSource
from batchwright.typing import FloatArray, IntArray

if TYPE_CHECKING:
    import torch

    from batchwright.compare import Task
    from batchwright.compare.arm import Arm

EPOCHS = 8
"""Passes over half of the samples, if there is time for them."""

_FEWEST_EPOCHS = 3
_SPARE = 0.6  # of the time is planned: embeddings are computed, and a teacher learns, in the rest


def from_model(
    task: Task,
    codes: IntArray,
    num_classes: int,
    *,
    seconds: float,
    epoch_seconds: float,
    seed: int = 0,
) -> NoiseSource | None:
    """Estimate the noise from embeddings of the task's own model, trained for a few epochs.

    A few thousand samples are divided into halves. A new model is trained on each half, and
    computes embeddings of the other one (the inputs of its last linear layer), from which a teacher
    learns the labels. So nothing that predicts a label has seen it.

    Args:
        task: The task.
        codes: int64[n], classes from 0 to k - 1.
        num_classes: k.
        seconds: Time limit.
        epoch_seconds: The time of an epoch over all samples.
        seed: Of weights, batches and halves.

    Returns:
        None if there is no time for three epochs, there are too few samples, no linear layer takes
        one row for each sample, or scikit-learn is not installed.
    """
    drawn = generator(seed, "halves").permutation(codes.size)[:MOST_SAMPLES]
    each = epoch_seconds * drawn.size / codes.size
    epochs = EPOCHS if each <= 0 else int(min(EPOCHS, _SPARE * seconds / each))
    if epochs < _FEWEST_EPOCHS or drawn.size < 2 * FEWEST_SAMPLES or not find_spec("sklearn"):
        return None
    deadline = time.perf_counter() + seconds
    halves = [np.sort(drawn[0::2]), np.sort(drawn[1::2])]
    if min(np.unique(codes[half]).size for half in halves) < 2:
        return None
    read, predicted, labels = [], [], []
    for own, other in (halves, halves[::-1]):
        arm = _trained(_part_of(task, other, epochs), deadline, seed=seed)
        embeddings = None if arm is None else _embeddings(arm, _part_of(task, own, 1))
        if embeddings is None or not np.isfinite(embeddings).all():
            return None
        read.append((own, embeddings))
    # Each half has its own model, so embeddings of the two cannot be compared.
    for own, embeddings in read:
        p, kept = predict(embeddings, np.arange(own.size), codes[own], num_classes, seed=seed)
        predicted.append(p)
        labels.append(codes[own[kept]])
    known = np.concatenate(labels)
    of = f"{known.size:,} samples by your model, trained on others for {epochs} epochs"
    return from_probabilities(np.concatenate(predicted), known, name="model", of=of)


def _part_of(task: Task, part: IntArray, epochs: int) -> Task:
    from torch.utils.data import Subset

    return replace(
        task,
        samples=Subset(task.samples, part.tolist()),  # type: ignore[arg-type]  # any sequence
        lengths=task.sizes[part],
        epochs=epochs,
        difficulties={},
        labels=None,  # of all samples, and not used in training
        groups=None,
        features=None,
    )


def _trained(task: Task, deadline: float, *, seed: int) -> Arm | None:
    """Train for a whole run of the task; None if there is no time for it, or it fails."""
    from batchwright.compare import Strategy
    from batchwright.compare.arm import Arm

    arm = Arm(task, Strategy.named("plain"), seed=seed)
    for _ in range(arm.updates_of_run):
        arm.update()
        if arm.has_failed or time.perf_counter() > deadline:
            return None
    return arm


def _embeddings(arm: Arm, task: Task) -> FloatArray | None:
    """Return the input of the last linear layer for each sample, float[n, d]."""
    import torch

    from batchwright.compare.arm import moved

    found: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, given: tuple[object, ...]) -> None:
        if given and isinstance(given[0], torch.Tensor) and given[0].ndim == 2:
            found.append(given[0].detach().float().cpu())

    layers = [each for each in arm.model.modules() if isinstance(each, torch.nn.Linear)]
    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    planner = arm.strategy.planner(task, seed=0)
    plan = planner(0)
    collate = arm.strategy.collate(task, plan.layout)
    result: FloatArray | None = None
    arm.model.eval()
    try:
        for indices in plan:
            batch = collate([task.samples[index] for index in indices.tolist()])
            found.clear()
            with torch.no_grad():
                task.loss_sum(arm.model, moved(batch, arm.device))
            taken = [each for each in found if len(each) == len(indices)]
            if not taken:
                return None
            if result is None:
                result = np.full((len(task.samples), taken[-1].shape[1]), np.nan)
            result[indices] = taken[-1].numpy()
    finally:
        for hook in hooks:
            hook.remove()
    return result
