"""What the memory of is predicted: the networks of the benchmark, and small ones beside."""

import torch

from batchwright.torch.memory import MemoryModel
from batchwright.torch.memory.steps import Task
from benchmarks.memory_prediction import language_batch, language_loss

MEBIBYTE = 2**20


def fitted(model, optimizer=None, loss_sum=language_loss, make_batch=language_batch, **options):
    """Fit with the defaults of these tests: lengths from 16 to 128, up to 24 MiB."""
    if optimizer is None:
        optimizer = torch.optim.AdamW(model.parameters())
    given = {"lengths": range(16, 129), "limit": 24 * MEBIBYTE} | options
    return MemoryModel.fit(model, optimizer, loss_sum, make_batch, **given)


def task_of(model, optimizer=None, loss_sum=language_loss, make_batch=language_batch, **options):
    """Return what real steps of the same model are run with."""
    if optimizer is None:
        optimizer = torch.optim.AdamW(model.parameters())
    given = {"autocast": None, "accumulates": True} | options
    return Task(model, (optimizer,), loss_sum, make_batch, **given)
