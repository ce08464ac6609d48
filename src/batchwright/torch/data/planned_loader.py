"""Whether a loader still goes by the plan, after a framework has had it in its hands."""

from typing import Any

from batchwright.errors import PlanError
from batchwright.torch.data.batch_sampler import PlanBatchSampler
from batchwright.torch.data.loader_checks import check_loader


def planned_sampler(loader: Any) -> PlanBatchSampler:
    """Return the sampler that a loader goes through; refuse one that would ignore it.

    Trainers shuffle by themselves, replace samplers, or deal batches out a second time, and say
    nothing: a curriculum is then a plain shuffle. Call this once, on the loader as it is
    trained with. It also compares the loader's data set and collator with the plan: there must be
    one sample for each length, pieces where the plan splits samples, and a cut where it truncates
    them.

    Args:
        loader: A `DataLoader`, or what a framework made of it.

    Returns:
        The sampler.

    Raises:
        PlanError: If the loader draws its batches from something else, or if ranks that the plan
            was shared among already are dealt its batches again.
        PlanMismatchError: If the data set has more or fewer samples than there were lengths, or
            samples would not be cut as planned.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> planned_sampler(DataLoader([1, 2, 3], batch_size=2, shuffle=True))
        Traceback (most recent call last):
        batchwright.errors.PlanError: the loader draws its batches from a BatchSampler over a \
RandomSampler, not from a plan: its order is ignored. Give DataLoader batch_sampler=\
PlanBatchSampler(…); a trainer that makes loaders itself has a method for it \
(get_train_dataloader, train_dataloader), and one that replaces samplers an option \
(use_distributed_sampler=False).
    """
    sampler = _sampler_of(loader)
    dataset = getattr(loader, "dataset", None)
    if dataset is not None:
        check_loader(sampler.plan, dataset, getattr(loader, "collate_fn", None))
    return sampler


def _sampler_of(loader: Any) -> PlanBatchSampler:
    found = getattr(loader, "batch_sampler", None)
    if isinstance(found, PlanBatchSampler):
        return found
    inner = getattr(found, "batch_sampler", None)
    if isinstance(inner, PlanBatchSampler):
        if inner.world_size > 1:
            raise PlanError(
                f"a {type(found).__name__} deals out batches that the plan has already shared "
                f"among {inner.world_size} ranks: each would see a part of its part. Make the "
                "sampler with rank=0, world_size=1, or leave the loader as it is."
            )
        return inner
    name = type(loader if found is None else found).__name__
    over = getattr(found, "sampler", None)
    described = name if over is None or over is found else f"{name} over a {type(over).__name__}"
    raise PlanError(
        f"the loader draws its batches from a {described}, not from a plan: its order is ignored. "
        "Give DataLoader batch_sampler=PlanBatchSampler(…); a trainer that makes loaders itself "
        "has a method for it (get_train_dataloader, train_dataloader), and one that replaces "
        "samplers an option (use_distributed_sampler=False)."
    )
