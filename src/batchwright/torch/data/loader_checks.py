"""What only a loader can tell: whether its data set and collator do what the plan counts on."""

from __future__ import annotations

import functools
import math
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Subset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from batchwright.errors import PlanMismatchError
from batchwright.torch.data.pack_collator import PackCollator
from batchwright.torch.data.pad_collator import PadCollator
from batchwright.torch.data.pieces import PieceDataset

if TYPE_CHECKING:
    from batchwright.plans import Plan
    from batchwright.torch.data.resume import Course

_DEPTH = 16
"""Callers looked at, and data sets inside of one another."""


def check_loader(plan: Plan, dataset: Any, collate_fn: Any) -> None:
    """Raise unless a data set and a collator do what a plan counts on.

    Args:
        plan: The plan that batches are drawn from.
        dataset: What samples are taken from.
        collate_fn: What makes batches of them.

    Raises:
        PlanMismatchError: If the data set has more or fewer samples than there were lengths, if
            the plan splits samples and the data set knows no pieces, or if it truncates samples and
            the collator does not.
    """
    _check_size(plan, dataset)
    if plan.starts is not None:
        _check_pieces(dataset)
    elif plan.layout.max_length is not None:
        _check_cuts(plan.layout.max_length, collate_fn)


def loader_in_use(sampler: Any) -> tuple[Any, Any] | None:
    """Return data set and collator of the loader that is asking a sampler for a batch.

    A `DataLoader` hands nothing of itself to its batch sampler, so it is looked for among the
    callers. None: there is none.
    """
    frame = sys._getframe(1)  # noqa: SLF001
    for _ in range(_DEPTH):
        if frame.f_back is None:
            return None
        frame = frame.f_back
        caller: Any = frame.f_locals.get("self")
        if isinstance(caller, _BaseDataLoaderIter) and _reaches(
            getattr(caller, "_index_sampler", None), sampler
        ):
            return caller._dataset, getattr(caller, "_collate_fn", None)  # noqa: SLF001
    return None


def warn_if_over_budget(course: Course | None, batch: Any) -> bool:
    """Warn if the token ids of a batch take more than the plan's budget; return whether they do.

    Args:
        course: What the batch is of.
        batch: A dict, tuple or tensor. Only integers [rows, tokens] count: what else a budget
            bounds is not known here.
    """
    budget = None
    if course is not None and course.plan is not None:
        budget = course.plan.layout.budget
    if budget is None:
        return False
    fields = batch if isinstance(batch, Mapping) else {"batch": batch}
    if isinstance(batch, tuple | list):
        fields = dict(enumerate(batch))
    for name, value in fields.items():
        if not isinstance(value, torch.Tensor) or value.ndim != 2 or value.is_floating_point():
            continue
        if value.numel() > budget:
            rows, tokens = value.shape
            warnings.warn(
                f"a batch has {rows} × {tokens} = {value.numel()} tokens in {name!r}, and the plan "
                f"a budget of {budget}. Plan with the lengths that samples have when they are "
                "collated, and give the collator what the plan goes by: "
                "max_length=plan.layout.max_length where samples are truncated, and the planner's "
                "pad_to_multiple_of.",
                stacklevel=4,
            )
            return True
    return False


def _reaches(outer: Any, sampler: Any) -> bool:
    """Say whether a loader's sampler is the one given, or wraps it."""
    for _ in range(_DEPTH):
        if outer is sampler:
            return True
        outer = getattr(outer, "batch_sampler", getattr(outer, "sampler", None))
    return False


def _check_size(plan: Plan, dataset: Any) -> None:
    size, planned = _size_of(dataset), plan.origin.num_samples
    if size is None:
        return
    if planned is None and int(plan.indices.max()) < size:
        return
    if planned != size:
        count = f"{planned} lengths" if planned is not None else f"sample {plan.indices.max()}"
        consequence = (
            "The rest would never be seen"
            if planned is not None and planned < size
            else "Some that the plan asks for do not exist"
        )
        message = (
            f"the plan was made for {count}, and the {type(dataset).__name__} has {size} samples. "
            f"{consequence}: plan with one length for each sample, after every filter; to train on "
            "a part, give the loader a torch.utils.data.Subset."
        )
        raise PlanMismatchError(message)


def _size_of(dataset: Any) -> int | None:
    """Return the length of a data set, if it has one and knows it."""
    try:
        return len(dataset)
    except Exception:  # noqa: BLE001 (a data set may say in any way that it does not know)
        return None


def _check_pieces(dataset: Any) -> None:
    inside = dataset
    for _ in range(_DEPTH):
        if isinstance(inside, PieceDataset) or getattr(inside, "takes_pieces", False) is True:
            return
        if isinstance(inside, Subset):  # looks numbers up, and knows no pieces
            break
        inside = getattr(inside, "dataset", None)
    message = (
        f'the plan splits long samples (oversize="split"), and a {type(dataset).__name__} gives '
        "whole ones. Wrap it: PieceDataset(dataset). A data set of your own that takes a Piece "
        "says so: takes_pieces = True."
    )
    raise PlanMismatchError(message)


def _check_cuts(planned: int | tuple[int, ...], collate_fn: Any) -> None:
    while isinstance(collate_fn, functools.partial):
        collate_fn = collate_fn.func
    if not isinstance(collate_fn, PadCollator | PackCollator):
        return
    given: Any = collate_fn.max_length
    most = planned if isinstance(planned, tuple) else (planned,)
    cuts = tuple(given) if isinstance(given, tuple | list) else (given,) * len(most)
    if any(isinstance(cut, Mapping) for cut in cuts):
        return
    bounds = zip(cuts, most, strict=False)
    if all((math.inf if cut is None else cut) <= bound for cut, bound in bounds):
        return
    name = type(collate_fn).__name__
    message = (
        f'the plan truncates samples to {planned} tokens (oversize="truncate"), and '
        f"{name}(max_length={given}) does not: batches would exceed the budget. Give it "
        f"{name}(max_length={planned}), or planner(0).layout.max_length."
    )
    raise PlanMismatchError(message)
