"""What the loss of a trainer is: a mean over labels, a mean over samples, or neither."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import Trainer

from batchwright.errors import PlanError
from batchwright.integrations.transformers.reading import batch_of, rows_of, undisturbed

Kind = Literal["labels", "rows", "own", "batch"]
"""What the loss of a batch is.

- ``"labels"``: without `num_items_in_batch`, the mean over the labels that count.
- ``"rows"``: without it, the mean over the samples.
- ``"own"``: the trainer's own sum over `num_items_in_batch`.
- ``"batch"``: it depends on what shares a batch.
"""

_FEW = 6
"""Samples that a loss is tried on."""

_NOISE, _COARSE = 1e-4, 2e-2
"""What sums that are equal may differ by, relative to the largest loss; `_COARSE`: not in fp32."""

_OF_TRL: dict[str, Kind] = {"SFTTrainer": "labels", "RewardTrainer": "rows", "DPOTrainer": "rows"}
_OVER_BATCH = {"aot", "aot_unpaired", "sft"}
"""Losses of `DPOTrainer` that are no means over samples."""


def kind_of_loss(trainer: Any, counted: Callable[[Any], Tensor | None]) -> Kind:
    """Return what a trainer's loss is; where it is not known, try it on a few samples."""
    where = next(each for each in type(trainer).__mro__ if "compute_loss" in vars(each))
    if type(trainer).get_batch_samples is not Trainer.get_batch_samples:
        return "own"
    if "compute_loss" in vars(trainer) or trainer.compute_loss_func is not None:
        return _tried(trainer, counted)
    model = type(base_model(trainer))
    if where is Trainer and model.__module__.startswith("transformers."):
        if "CTC" in model.__name__:
            return "own"
        if _has_labels(trainer, counted):
            return "labels"
    if where.__module__.startswith("trl.") and where.__name__ in _OF_TRL:
        kinds = getattr(trainer.args, "loss_type", None) or ()
        kinds = {kinds} if isinstance(kinds, str) else set(kinds)
        return "batch" if kinds & _OVER_BATCH else _OF_TRL[where.__name__]
    return _tried(trainer, counted)


def base_model(trainer: Any) -> Any:
    """Return the model without wrappers and adapters."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _has_labels(trainer: Any, counted: Callable[[Any], Tensor | None]) -> bool:
    try:
        return counted(batch_of(trainer, [0])) is not None
    except Exception:  # noqa: BLE001 (training will say what is wrong)
        return True


def _tried(trainer: Any, counted: Callable[[Any], Tensor | None]) -> Kind:
    """Compare the loss of samples together with those of two parts of them."""
    try:
        samples = _unlike(trainer, counted)
        groups = [samples]
        for at in (1, len(samples) // 2):
            groups += [samples[:at], samples[at:]]
        batches = [batch_of(trainer, group) for group in groups]
        numbers: dict[Kind, list[Any]] = {
            "labels": [counted(batch) for batch in batches],
            "rows": [rows_of(batch) for batch in batches],
            "own": [1] * len(batches),
        }
        losses = _losses(trainer, groups)
    except Exception as error:  # noqa: BLE001 (a check that fails is no reason not to train)
        warnings.warn(
            f"what the loss of a {type(trainer).__name__} is a mean over could not be checked: "
            f"{error!r}. It is left as it is: an update is then the mean of its batches' losses, "
            "unless the loss is divided by num_items_in_batch.",
            stacklevel=5,
        )
        return "own"
    tries = {
        kind: _off(losses, list(map(int, counts)))
        for kind, counts in numbers.items()
        if None not in counts
    }
    best = min(tries, key=lambda kind: tries[kind])
    is_fine = all(each.dtype == torch.float32 for each in trainer.model.parameters())
    noise = _NOISE if is_fine and not trainer.args.tf32 else _COARSE
    return best if tries[best] < noise else "batch"


def _unlike(trainer: Any, counted: Callable[[Any], Tensor | None]) -> list[int]:
    """Choose a few samples, with as many and as few labels as can be found quickly."""
    count = len(trainer.train_dataset)
    if count < 2:
        raise PlanError("there are too few samples")
    some: list[int] = np.unique(np.linspace(0, count - 1, 4 * _FEW).astype(int)).tolist()
    labels = [counted(batch_of(trainer, [each])) for each in some]
    if None in labels or count < _FEW:
        return some[:_FEW]
    numbers = {each: int(label or 0) for each, label in zip(some, labels, strict=True)}
    rising = sorted((each for each in some if numbers[each]), key=lambda each: numbers[each])
    rising = rising if len(rising) >= _FEW else some
    ends = rising[: _FEW // 2], rising[-(_FEW // 2) :]
    return [each for pair in zip(*ends, strict=True) for each in pair]


def _off(losses: Sequence[float], counts: Sequence[int]) -> float:
    """Return by how much weighted losses of parts do not add up, relative to the largest."""
    size = max(map(abs, losses)) * counts[0]
    sums = [loss * count if count else 0.0 for loss, count in zip(losses, counts, strict=True)]
    off = max(abs(sums[0] - sums[1] - sums[2]), abs(sums[0] - sums[3] - sums[4]))
    return off / size if size > 0 else math.inf


def _losses(trainer: Any, groups: Sequence[Sequence[int]]) -> list[float]:
    """Compute the loss of each group of samples, and leave no trace in the trainer."""
    other = copy.copy(trainer)
    for name, value in vars(trainer).items():
        setattr(other, name, _with_own_containers(value))
    model = trainer.model
    trained = [each for each in model.modules() if each.training]

    def loss(group: Sequence[int], total: int | None) -> float:
        batch = trainer._prepare_inputs(batch_of(trainer, group))  # noqa: SLF001
        return float(other.compute_loss(model, batch, num_items_in_batch=total))

    model.eval()
    try:
        with undisturbed(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with trainer.compute_loss_context_manager():
                try:
                    return [loss(group, None) for group in groups]
                except Exception:  # noqa: BLE001 (one that cannot do without the number)
                    return [loss(group, len(groups[0])) for group in groups]
    finally:
        for each in trained:
            each.training = True


def _with_own_containers(value: Any) -> Any:
    """Copy dicts and lists, not what they hold."""
    if isinstance(value, dict):
        own = copy.copy(value)
        own.update({name: _with_own_containers(each) for name, each in value.items()})
        return own
    return [_with_own_containers(each) for each in value] if type(value) is list else value
