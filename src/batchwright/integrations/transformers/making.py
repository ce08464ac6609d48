"""What a plan needs of a trainer: that it can be planned, lengths, a planner."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import Trainer

from batchwright.batching import Packing, TokenBudget
from batchwright.errors import ColumnNotFoundError, PlanError
from batchwright.lengths import Lengths, totals
from batchwright.planner import Planner
from batchwright.sources import read_lengths
from batchwright.torch.data.pack_collator import PackCollator
from batchwright.typing import LengthArray

_NOISE = 1e-5
"""What equal outputs may differ by, relative to the largest."""


def check_trainer(trainer: Any) -> None:
    """Raise `PlanError` for what a plan cannot be given to."""
    if not isinstance(trainer, Trainer):
        raise PlanError(
            f"use_plan got a {type(trainer).__name__}, expected a transformers.Trainer."
        )
    if any(type(each).__name__ == "PlanCallback" for each in trainer.callback_handler.callbacks):
        raise PlanError("the trainer has a plan already. Construct another one.")
    args, data = trainer.args, trainer.train_dataset
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
    trainer: Any, *, max_tokens: int | None, batch_size: int | None, pack: int | None
) -> Planner:
    """Make a planner from the trainer's own data and settings."""
    if max_tokens is not None and pack is not None:
        raise PlanError(f"max_tokens={max_tokens}, pack={pack}: give one of them.")
    args, lengths = trainer.args, lengths_of(trainer, trainer.train_dataset)
    rows = args.per_device_train_batch_size if batch_size is None else batch_size
    sums = totals(lengths)
    batching: Any = TokenBudget(max_tokens or rows * int(sums.max()))
    if pack is not None:
        batching = Packing(pack)
    seed = args.seed if args.data_seed is None else args.data_seed
    if batch_size is None and (max_tokens or pack):
        update: Any = {"accumulate": args.gradient_accumulation_steps}
    else:
        samples = rows * args.gradient_accumulation_steps * args.world_size
        update = {"step_tokens": max(1, round(samples * float(sums.mean())))}
    return Planner(lengths, batching=batching, seed=seed, world_size=args.world_size, **update)


def lengths_of(trainer: Any, dataset: Any) -> LengthArray:
    """Read the lengths of tokenised data: [n]; for source and target [n, 2]."""
    config = getattr(trainer.model, "config", None)
    names = [getattr(trainer.args, "length_column_name", None) or "length", "input_ids"]
    columns = _columns(dataset)
    name = next((name for name in names if name in columns), None)
    if name is None:
        raise ColumnNotFoundError(
            f"the {type(dataset).__name__} has the columns {list(columns)}, and no 'input_ids' or "
            f"'{names[0]}' to take lengths from. Tokenise the texts first; of other data, give "
            "use_plan(trainer, Planner(lengths, …))."
        )
    chosen = [name]
    if getattr(config, "is_encoder_decoder", False) and "labels" in columns:
        chosen = ["input_ids", "labels"] if "input_ids" in columns else chosen
    if type(dataset).__module__.startswith("datasets."):
        found = [read_lengths(dataset, column=each, cache=False, progress=False) for each in chosen]
    else:
        samples = [dataset[index] for index in range(len(dataset))]
        found = [np.array([_size(sample[each]) for sample in samples]) for each in chosen]
    return Lengths.of(found[0] if len(found) == 1 else np.stack(found, axis=1)).array


def _columns(dataset: Any) -> list[str]:
    names = getattr(dataset, "column_names", None)
    if names is None:
        first = dataset[0] if hasattr(dataset, "__len__") and len(dataset) else None
        names = first if isinstance(first, Mapping) else ()
    return list(names)


def _size(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") and np.ndim(value) else int(value)


def check_packing(trainer: Any, collator: PackCollator) -> None:
    """Raise `PlanError` if what a model says of a packed document depends on the one before."""
    model, data = trainer.model, trainer.train_dataset
    if getattr(getattr(model, "config", None), "use_cache", False):
        model.config.use_cache = False  # with a cache, models ignore positions that begin again
    masks = {"completion_mask", "assistant_masks"} & set(_columns(data))
    if masks and "labels" not in _columns(data):
        raise PlanError(
            f"the trainer's collator makes labels of {min(masks)!r}, and PackCollator takes them "
            "as they are: add a column 'labels', with -100 at tokens that do not count."
        )
    try:
        first, second = dict(data[0]), dict(data[1])
        changed = [int(token) - 1 if token else 1 for token in first["input_ids"]]
        pairs = ([first, second], [first | {"input_ids": changed}, second])
        one, other = (_outputs(model, collator(pair)) for pair in pairs)
        own = slice(len(changed), len(changed) + len(second["input_ids"]))
        one, other = one[0, own].float(), other[0, own].float()
        differs = float((one - other).abs().max()) > _NOISE * float(one.abs().max())
    except Exception as error:  # noqa: BLE001 (a check that fails is no reason not to train)
        warnings.warn(
            f"whether packed documents read one another in a {type(model).__name__} could not be "
            f"checked: {error!r}",
            stacklevel=3,
        )
        return
    if differs:
        raise PlanError(
            f"packed documents read one another in a {type(model).__name__}: its outputs for one "
            "change with the document before. Plan without pack=; or give a collator that makes "
            "the mask that the model takes, from document_mask."
        )


def _outputs(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """Return a model's outputs, and leave no trace in it."""
    device, was_training = next(model.parameters()).device, model.training
    moved = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in batch.items()
        if name != "labels"
    }
    model.eval()
    try:
        with torch.no_grad():
            logits: Tensor = model(**moved).logits
    finally:
        model.train(was_training)
    return logits
