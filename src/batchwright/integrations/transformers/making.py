"""What a plan needs of a trainer: that it can be planned, and a planner."""

import warnings
from collections.abc import Iterable
from typing import Any

from torch.utils.data import IterableDataset
from transformers import Trainer

from batchwright.batching import Packing, TokenBudget
from batchwright.budgets import suggest
from batchwright.errors import PlanError
from batchwright.integrations.transformers.reading import lengths_of
from batchwright.order import Sequential
from batchwright.planner import Planner
from batchwright.stats.baseline import (
    MOST_LOOKED_AT,
    are_unlike,
    keeping_batches,
    smaller_batches,
)

_CHOICES = frozenset(
    {
        "get_train_dataloader",
        "_get_train_sampler",
        "get_batch_sampler",
        "get_multi_dataset_batch_sampler",
    }
)
"""Methods by which trainers choose their batches."""

_KNOWN = ("transformers.", "sentence_transformers.")
"""Where these methods choose as the settings say."""


def check_trainer(trainer: Any) -> None:
    """Raise `PlanError` for what a plan cannot be given to."""
    if not isinstance(trainer, Trainer):
        raise PlanError(
            f"use_plan got a {type(trainer).__name__}, expected a transformers.Trainer."
        )
    if any(type(each).__name__ == "PlanCallback" for each in trainer.callback_handler.callbacks):
        raise PlanError("the trainer has a plan already. Construct another one.")
    args, data = trainer.args, trainer.train_dataset
    _check_choices(trainer)
    if isinstance(data, dict):
        raise PlanError(
            f"the training data is a {type(data).__name__} of {list(data)}, and a plan is for one "
            "data set. Give the split; or, where one loss is for all, join them by "
            "datasets.concatenate_datasets, and plan within=sources for batches of one source each."
        )
    if isinstance(data, IterableDataset) or type(data).__name__ == "IterableDataset":
        raise PlanError(
            "the training data is a stream, of which nobody knows the lengths. Use StreamDataset."
        )
    if data is None:
        raise PlanError("the trainer has no train_dataset to plan.")
    if args.n_gpu > 1:
        raise PlanError(
            f"one process would split each batch among {args.n_gpu} GPUs. Launch one for each: "
            f"torchrun --nproc-per-node {args.n_gpu} …"
        )
    sizes = (getattr(trainer, f"get_{kind}_size", lambda: 1)() for kind in ("tp", "cp", "sp"))
    if max(sizes) > 1:
        raise PlanError("ranks that share samples (tensor, context, sequence) cannot be planned.")
    if args.auto_find_batch_size:
        raise PlanError(
            "auto_find_batch_size=True changes a batch size that a plan does not use. Leave it "
            "out, and choose max_tokens."
        )


def made_planner(
    trainer: Any,
    *,
    max_tokens: int | None,
    batch_size: int | None,
    pack: int | None,
    joins: bool,
    compares: bool,
) -> Planner:
    """Make a planner from the trainer's own data and settings.

    `joins`: the trainer's collator puts a batch into one row; `compares`: its loss depends on what
    shares a batch.
    """
    if max_tokens is not None and pack is not None:
        raise PlanError(f"max_tokens={max_tokens}, pack={pack}: give one of them.")
    args, lengths = trainer.args, lengths_of(trainer, trainer.train_dataset)
    rows = args.per_device_train_batch_size if batch_size is None else batch_size
    budgets = suggest(lengths, batch_size=rows)
    budget = max_tokens or budgets.for_all
    batching: Any = TokenBudget(budget)
    if pack is not None or joins:
        batching = Packing(pack or budget)
    is_given = batch_size is None and bool(max_tokens or pack)
    if compares and not max_tokens:
        batching, is_given = TokenBudget(budget, max_samples=rows), True
    seed = args.seed if args.data_seed is None else args.data_seed
    is_sequential = getattr(args, "train_sampling_strategy", "random") == "sequential"
    order = Sequential() if is_sequential else None
    if is_given:
        update: Any = {"accumulate": args.gradient_accumulation_steps}
    else:
        batches = args.gradient_accumulation_steps * args.world_size
        update = {"step_tokens": budgets.tokens_of(batches)}
    options = {"batching": batching, "order": order, "seed": seed}
    planner = Planner(lengths, world_size=args.world_size, **options, **update)
    if not is_given:
        planner = keeping_batches(planner, args.gradient_accumulation_steps)
    if not compares:
        samples = rows * args.gradient_accumulation_steps * args.world_size
        warn_of_unlike_updates(planner, samples)
    return planner


def warn_of_unlike_updates(planner: Planner, rows: int) -> None:
    """Warn where updates of a planner are unlike one another, and smaller batches would mix them.

    Args:
        planner: Made for batches of the present size.
        rows: Samples of a present update.
    """
    if planner.num_samples > MOST_LOOKED_AT:
        return
    plan, lengths = planner(0), planner.given
    stats = plan.stats(lengths)
    cut = smaller_batches(plan, plan.entry_lengths(lengths), stats)
    if cut is None or not are_unlike(stats.dispersion, cut.dispersion):
        return
    size = max(1, round(rows / (cut.accumulate * planner.world_size)))
    warnings.warn(
        "use_plan: an update has samples of similar length, from which a model may learn worse "
        f"(length mix of updates {stats.dispersion:.1f}, where a plain shuffle has 1). As many "
        f"samples an update in smaller batches have {cut.dispersion:.1f}: "
        f"TrainingArguments(per_device_train_batch_size={size}, "
        f"gradient_accumulation_steps={cut.accumulate}).",
        stacklevel=4,
    )


def _check_choices(trainer: Any) -> None:
    """Raise if the trainer has batches of its own kind, which a plan would take the place of."""
    for each in type(trainer).__mro__:
        method = next((name for name in vars(each) if name in _CHOICES), None)
        if method and not each.__module__.startswith(_KNOWN):
            raise PlanError(
                f"{each.__name__}.{method} chooses batches of its own, and a plan would take their "
                "place. If the loss does not depend on them, take the method away; to plan others, "
                "give use_plan a Planner with another order= or batching=."
            )
    chosen = getattr(trainer.args, "batch_sampler", None)
    if chosen is not None and getattr(chosen, "value", chosen) != "batch_sampler":
        raise PlanError(
            f"batch_sampler={getattr(chosen, 'value', chosen)!r} says what shares a batch, and a "
            "plan would take its place. Leave it out, and give use_plan a Planner with unique=, "
            "within= or together=, which say what may share a batch."
        )
    loss: Any = getattr(trainer, "loss", None)
    modules: Iterable[Any] = loss.modules() if hasattr(loss, "modules") else ()
    gathers = any(getattr(each, "gather_across_devices", False) for each in modules)
    if gathers and trainer.args.world_size > 1:
        raise PlanError(
            "gather_across_devices=True needs as many samples on every rank, and planned batches "
            "differ. Leave it out."
        )
