"""Checks of a task before long work starts."""

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch

from batchwright._format import plural
from batchwright.budgets import suggest
from batchwright.compare.arm import moved
from batchwright.compare.task import Task
from batchwright.errors import BatchwrightError, LossError, TaskError
from batchwright.lengths import totals
from batchwright.torch.data.rows import halves
from batchwright.torch.data.trees import tensors_of
from batchwright.torch.update.loss_check import LossFindings, Trial
from batchwright.torch.update.measuring import policy_for
from batchwright.torch.update.passes import refuse_other_functions, refuse_other_losses
from batchwright.torch.windows import LabelCounter
from batchwright.typing import Batch, Field, LengthArray

_PROBES = 8

_ROWS = 4

_FEWER = 4  # times fewer samples than of usual length: the longest one decides


def check_task(task: Task) -> None:
    """Check a task by training its model on a few samples; random states stay as they were.

    Raises:
        TaskError: If a function fails or returns the wrong thing, if the loss is not a sum or not
            finite, or if the lengths do not fit the samples.
    """
    before = torch.random.get_rng_state()
    _warn_of_a_long_sample(task)
    try:
        _check_lengths(task)
        torch.manual_seed(0)
        model = _called("model", task.model)
        if not isinstance(model, torch.nn.Module):
            raise TaskError(f"model returned {type(model).__name__}, expected a torch.nn.Module.")
        _check_is_new(model, _called("model", task.model))
        model.to(task.place())
        # A few samples around the median length, of different lengths if there are some.
        order = np.argsort(totals(task.sizes), kind="stable")
        places = np.linspace(0.2, 0.8, _ROWS) * (len(order) - 1)
        samples = [task.samples[index] for index in order[places.astype(int)].tolist()]
        batch = moved(_called("collate", task.collate, samples), task.place())
        _check_weight(task, batch)
        _check_loss(task, model, batch)
        _check_step(task, model, batch)
        model.eval()
        with torch.no_grad():
            metric = task.as_metric(_called("evaluate", task.evaluate, model))
        _check_number("evaluate", metric)
        _check_number("schedule", _called("schedule", task.schedule, 0.5))
    finally:
        torch.random.set_rng_state(before)


def _warn_of_a_long_sample(task: Task) -> None:
    """Warn where a few long samples decide the batch size that is assumed of plain batches."""
    if task.batch_size is not None:
        return
    sizes = totals(task.sizes)
    budgets, rows = suggest(sizes, max_tokens=task.max_tokens), task.max_tokens // int(sizes.max())
    if rows and budgets.batch_size >= _FEWER * rows:
        warnings.warn(
            f"plain batches hold {plural(rows, 'sample')}, as many as fit where all are as long as "
            f"the longest, sample {int(sizes.argmax())} of {budgets.longest:,} tokens. Of usual "
            f"length, at most {budgets.usual:,}, {budgets.batch_size:,} fit. Give batch_size, as "
            "your batches have it now; or cut or leave out the longest samples.",
            stacklevel=3,
        )


def _called(name: str, function: Callable[..., Field], *arguments: object) -> Field:
    try:
        return function(*arguments)
    except Exception as error:
        ours = isinstance(error, BatchwrightError)
        said = ":" if ours else f" failed with {type(error).__name__}:"
        raise TaskError(f"{name}{said} {error}") from error


def _check_is_new(model: torch.nn.Module, other: torch.nn.Module) -> None:
    """Check that two calls make two models."""
    trained = {id(each) for each in model.parameters() if each.requires_grad}
    if any(id(each) in trained for each in other.parameters()):
        raise TaskError(
            "model returned the same weights twice, expected a new model at each call: strategies "
            "that share one would train each other's."
        )


def _check_number(name: str, value: object, *, least: float = -math.inf) -> None:
    """Check that a function returned a finite number above some other."""
    if not isinstance(value, int | float) or not least < value < math.inf:
        above = "" if least == -math.inf else f" above {least:g}"
        raise TaskError(f"{name} returned {value!r:.60}, expected a finite number{above}.")


def _check_lengths(task: Task) -> None:
    """Check that batches of single samples grow with their lengths."""
    columns = task.sizes.reshape(len(task.sizes), -1).T
    for column, sizes in enumerate(columns):
        order = np.argsort(sizes, kind="stable")
        probes = order[np.unique(np.linspace(0, len(order) - 1, _PROBES).astype(int))].tolist()
        if sizes[probes[0]] == sizes[probes[-1]]:
            continue
        shapes = []
        for index in probes:
            batch = _called("collate", task.collate, [task.samples[index]])
            shapes.append([tuple(each.shape) for each in tensors_of(batch)])
        if not _some_dimension_grows(shapes, sizes[probes]):
            found = [
                f"sample {probes[place]} has length {sizes[probes[place]]} and makes a batch of "
                f"{', '.join(str(list(each)) for each in shapes[place])}"
                for place in (0, -1)
            ]
            of = f", column {column}," if len(columns) > 1 else ""
            raise TaskError(
                f"lengths{of} do not match the samples: {'; '.join(found)}. Expected a dimension "
                "that grows with the length: are lengths in the sequence of the samples, and does "
                "collate pad to the longest only?"
            )


def _some_dimension_grows(
    shapes: Sequence[Sequence[tuple[int, ...]]], lengths: LengthArray
) -> bool:
    if len({tuple(map(len, each)) for each in shapes}) > 1:
        return True  # tensors of varying number or rank cannot be compared
    sizes = np.array([sum(each, ()) for each in shapes])  # a row per sample, all its dimensions
    is_longer, steps = np.diff(lengths)[:, None] > 0, np.diff(sizes, axis=0)
    follows = ((steps >= 0) & (is_longer | (steps == 0))).all(axis=0)
    return bool((follows & (sizes[0] < sizes[-1])).any())


def _check_weight(task: Task, batch: Batch) -> None:
    weigh = task.weigh
    if weigh is None:
        # A counter of labels has to see padding first: the shortest sample with the longest.
        sizes = totals(task.sizes)
        ends = [task.samples[int(end)] for end in (np.argmin(sizes), np.argmax(sizes))]
        weigh = LabelCounter(in_use=bool(sizes.min() == sizes.max()))
        weigh.look([_called("collate", task.collate, ends)])
    name = "weigh=None" if task.weigh is None else "weigh"
    _check_number(name, _called(name, weigh, batch), least=0)


def _check_loss(task: Task, model: torch.nn.Module, batch: Batch) -> None:
    try:
        refuse_other_functions(task.loss_sum)
        loss = _called("loss_sum", task.loss_sum, model, batch)
        refuse_other_losses(loss)
        _check_number("loss_sum", float(loss.detach()))
        trial = Trial(task.loss_sum, model, batch, halves, policy_for("fp32", task.place()))
        LossFindings().check(trial)
    except LossError as error:
        said = str(error).replace(", or pass check_loss=False to Precision if this is right", "")
        raise TaskError(said) from error


def _check_step(task: Task, model: torch.nn.Module, batch: Batch) -> None:
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
