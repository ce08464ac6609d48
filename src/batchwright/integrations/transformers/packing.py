"""Packed rows under a trainer: documents that share a row do not read one another."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from batchwright.errors import PlanError
from batchwright.integrations.transformers.reading import columns_of
from batchwright.torch.data.pack_collator import PackCollator

_NOISE = 1e-5
"""What equal outputs may differ by, relative to the largest."""


def check_packing(trainer: Any, collator: Any) -> None:
    """Raise `PlanError` if what a model says of a packed document depends on the one before."""
    model, data = trainer.model, trainer.train_dataset
    leave_no_cache(model)
    columns = columns_of(data)
    if "seq_lengths" in columns and isinstance(collator, PackCollator):
        raise PlanError(
            "SFTConfig(packing=True) has packed the data already, and PackCollator would take a "
            "packed row for one document. Leave packing= out: pack= packs, anew in every epoch."
        )
    if columns and "input_ids" not in columns:
        raise PlanError(
            f"the training data has the columns {columns}, and documents to pack are 'input_ids': "
            "plan without pack=."
        )
    masks = {"completion_mask", "assistant_masks"} & set(columns)
    if masks and "labels" not in columns:
        raise PlanError(
            f"the trainer's collator makes labels of {min(masks)!r}, and PackCollator takes them "
            "as they are: add a column 'labels', with -100 at tokens that do not count."
        )
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise PlanError(
            f"a {type(model.active_peft_config).__name__} puts its prompt before the first "
            "document of a row only. Plan without pack=."
        )
    try:
        first, second = (dict(data[index]) for index in (0, 1))
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


def leave_no_cache(model: Any) -> None:
    """Switch a model's cache off: with one, it ignores positions that begin again."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for each in (config, text):
        if getattr(each, "use_cache", False):
            each.use_cache = False


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
