"""Stand-ins for a model and its optimizer, so that neither is touched."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from batchwright.errors import BudgetError
from batchwright.torch.memory.task import Task
from batchwright.torch.update.passes import RandomState, devices_of


def fake_copy(task: Task, mode: FakeTensorMode) -> Task:
    """Copy a task into fake tensors: shapes and types, without memory.

    Args:
        task: The task, left as it is.
        mode: The mode that the copy belongs to.

    Returns:
        The same task on fake tensors, in training mode. Its optimizers have no state yet: their
        step counters would have values, and fake tensors have none.
    """
    with FakeCopyMode(mode):
        twin = _copied(task, {})
    for optimizer in twin.optimizers:
        optimizer.state.clear()
    twin.clear()
    return twin


@contextmanager
def lent_copy(task: Task) -> Iterator[Task]:
    """Lend a copy that shares the tensors, and put their values back afterwards.

    The device needs no second set of parameters and states; their values wait on the processor
    meanwhile. Everything else, gradients included, is the copy's own.

    Args:
        task: The task, left as it was once the block ends.

    Yields:
        The copy, in training mode.
    """
    tensors = {id(each): each for each in _kept(task)}
    memo: dict[int, Any] = {key: _alias(tensor) for key, tensor in tensors.items()}
    values = [(each, each.detach().to("cpu", copy=True)) for each in tensors.values()]
    twin = _copied(task, memo)
    try:
        yield twin
    finally:
        twin.clear()
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)


@contextmanager
def random_states_kept(model: torch.nn.Module) -> Iterator[None]:
    """Put the global random states back as they were: of torch, NumPy and Python.

    Nothing here draws from them, but models and `make_batch` may.
    """
    state = RandomState.capture(devices_of(model))
    try:
        yield
    finally:
        state.restore()


def _copied(task: Task, memo: dict[int, Any]) -> Task:
    try:
        model = copy.deepcopy(task.model, memo)
        optimizers = tuple(_optimizer_copy(each, memo) for each in task.optimizers)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise BudgetError(
            f"the model or its optimizer cannot be copied ({error}). Pass the plain module, before "
            "it is compiled or wrapped for several devices."
        ) from error
    if not model.training:
        model.train()
    return dataclasses.replace(task, model=model, optimizers=optimizers)


def _optimizer_copy(
    optimizer: torch.optim.Optimizer, memo: dict[int, Any]
) -> torch.optim.Optimizer:
    twin = copy.deepcopy(optimizer, memo)
    # Optimizers pickle, and so copy, without what subclasses add to them. What can be called is
    # left behind: hooks, and a `step` that a schedule has wrapped, belong to the original.
    for name, value in vars(optimizer).items():
        if name not in vars(twin) and not callable(value):
            setattr(twin, name, copy.deepcopy(value, memo))
    return twin


def _kept(task: Task) -> Iterator[torch.Tensor]:
    yield from task.model.parameters()
    yield from task.model.buffers()
    yield from task.optimizer_tensors()
    for optimizer in task.optimizers:
        for group in optimizer.param_groups:
            yield from (value for value in group.values() if isinstance(value, torch.Tensor))


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    shared = tensor.detach()
    if not isinstance(tensor, torch.nn.Parameter):
        return shared.requires_grad_(tensor.requires_grad)
    parameter = torch.nn.Parameter(shared, requires_grad=tensor.requires_grad)
    vars(parameter).update(vars(tensor))
    return parameter
