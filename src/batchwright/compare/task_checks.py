"""Checks of a task before long work starts."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from batchwright.compare.arm import moved
from batchwright.compare.task import Task
from batchwright.errors import BatchwrightError, LossError, TaskError
from batchwright.lengths import totals
from batchwright.torch.data.rows import halves
from batchwright.torch.data.trees import tensors_of
from batchwright.torch.update.loss_check import LossFindings, Trial
from batchwright.torch.update.loss_functions import refuse_other_functions, refuse_other_losses
from batchwright.torch.update.modes import policy_for
from batchwright.torch.windows import LabelCounter

_PROBES = 8

_ROWS = 4


def check_task(task: Task) -> None:
    """Check a task by training its model on a few samples; random states stay as they were.

    Raises:
        TaskError: If a function fails or returns the wrong thing, if the loss is not a sum or not
            finite, or if the lengths do not fit the samples.
    """
    before = torch.random.get_rng_state()
    try:
        _check_lengths(task)
        model = _model(task)
        batch = moved(_called("collate", task.collate, _typical(task)), task.place())
        _check_weight(task, batch)
        _check_loss(task, model, batch)
        _check_step(task, model, batch)
        _check_metric(task, model)
        share = _called("schedule", task.schedule, 0.5)
        if not isinstance(share, int | float) or not math.isfinite(share):
            raise TaskError(
                f"schedule returned {share!r} in the middle of the run, expected a share of the "
                "learning rate."
            )
    finally:
        torch.random.set_rng_state(before)


def _called(name: str, function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except BatchwrightError as error:
        raise TaskError(f"{name}: {error}") from error
    except Exception as error:
        raise TaskError(f"{name} failed with {type(error).__name__}: {error}") from error


def _typical(task: Task) -> list[Any]:
    """Return a few samples around the median length, of different lengths if there are some."""
    sizes = totals(task.sizes)
    order = np.argsort(sizes, kind="stable")
    places = np.linspace(0.2, 0.8, _ROWS) * (len(order) - 1)
    return [task.samples[index] for index in order[places.astype(int)].tolist()]


def _check_lengths(task: Task) -> None:
    """Check that batches of single samples grow with their lengths."""
    lengths = task.sizes.reshape(len(task.sizes), -1)
    for column in range(lengths.shape[1]):
        sizes = lengths[:, column]
        order = np.argsort(sizes, kind="stable")
        probes = np.unique(order[np.linspace(0, len(order) - 1, _PROBES).astype(int)])
        probes = probes[np.argsort(sizes[probes], kind="stable")]
        if sizes[probes[0]] == sizes[probes[-1]]:
            continue
        shapes = []
        for index in probes.tolist():
            batch = _called("collate", task.collate, [task.samples[index]])
            shapes.append([tuple(each.shape) for each in tensors_of(batch)])
        if not _some_dimension_grows(shapes, sizes[probes].tolist()):
            last, first = int(probes[-1]), int(probes[0])
            of = f", column {column}," if lengths.shape[1] > 1 else ""
            found = [
                f"sample {index} has length {sizes[index]} and makes a batch of "
                f"{', '.join(str(list(each)) for each in shape)}"
                for index, shape in ((first, shapes[0]), (last, shapes[-1]))
            ]
            raise TaskError(
                f"lengths{of} do not match the samples: {'; '.join(found)}. Expected a dimension "
                "that grows with the length: are lengths in the sequence of the samples, and does "
                "collate pad to the longest only?"
            )


def _some_dimension_grows(
    shapes: Sequence[Sequence[tuple[int, ...]]], lengths: Sequence[int]
) -> bool:
    if len({tuple(map(len, each)) for each in shapes}) > 1:
        return True  # tensors of varying number or rank cannot be compared
    longer = np.diff(lengths)
    sizes = np.array([sum(each, ()) for each in shapes])  # a row per sample, all its dimensions
    steps = np.diff(sizes, axis=0)
    follows = ((steps >= 0) & ((longer > 0)[:, None] | (steps == 0))).all(axis=0)
    return bool((follows & (sizes[0] < sizes[-1])).any())


def _model(task: Task) -> torch.nn.Module:
    torch.manual_seed(0)
    model = _called("model", task.model)
    if not isinstance(model, torch.nn.Module):
        raise TaskError(f"model returned {type(model).__name__}, expected a torch.nn.Module.")
    return model.to(task.place())


def _check_weight(task: Task, batch: Any) -> None:
    name, weigh = ("weigh", task.weigh) if task.weigh else ("weigh=None", _counter(task))
    weight = _called(name, weigh, batch)
    if not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise TaskError(
            f"weigh returned {weight!r} for a batch of {_ROWS} samples, expected a positive "
            "number: what the loss sums over."
        )


def _counter(task: Task) -> LabelCounter:
    """Return a counter of labels that has seen padding: the shortest sample with the longest."""
    sizes = totals(task.sizes)
    ends = [task.samples[int(end)] for end in (np.argmin(sizes), np.argmax(sizes))]
    counter = LabelCounter(in_use=bool(sizes.min() == sizes.max()))
    counter.look([_called("collate", task.collate, ends)])
    return counter


def _check_loss(task: Task, model: torch.nn.Module, batch: Any) -> None:
    try:
        refuse_other_functions(task.loss_sum)
        loss = _called("loss_sum", task.loss_sum, model, batch)
        refuse_other_losses(loss)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TaskError(
                f"loss_sum returned {value} for the first batch, of a model with new weights. "
                "Expected a number: look for a logarithm of 0, a division by 0, or an overflow."
            )
        policy = policy_for("fp32", task.place())
        trial = Trial(task.loss_sum, model, batch, halves, policy)
        LossFindings().check(trial)
    except LossError as error:
        said = str(error).replace(", or pass check_loss=False to Precision if this is right", "")
        raise TaskError(said) from error


def _check_step(task: Task, model: torch.nn.Module, batch: Any) -> None:
    optimizer = _called("optimizer", task.optimizer, model)
    if not isinstance(optimizer, torch.optim.Optimizer):
        kind = type(optimizer).__name__
        raise TaskError(f"optimizer returned {kind}, expected a torch.optim.Optimizer.")
    own = {id(parameter) for parameter in model.parameters()}
    held = {id(each) for group in optimizer.param_groups for each in group["params"]}
    if not own & held:
        raise TaskError("optimizer holds no parameter of the model that it was given.")
    model.train()
    _called("the backward pass", task.loss_sum(model, batch).backward)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            raise TaskError(f"the gradient of {name} is not finite at the first batch.")


def _check_metric(task: Task, model: torch.nn.Module) -> None:
    model.eval()
    with torch.no_grad():
        value = task.as_metric(_called("evaluate", task.evaluate, model))
    if not math.isfinite(value):
        raise TaskError(f"evaluate returned {value} for a model with new weights.")
