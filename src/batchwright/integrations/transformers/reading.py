"""What a trainer's own data and collator say: batches, rows, lengths."""

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from batchwright.errors import ColumnNotFoundError
from batchwright.lengths import Lengths
from batchwright.sources import read_lengths
from batchwright.torch.data.flat_tokens import FlatTokens
from batchwright.typing import IntArray, LengthArray

_CHUNK = 256
"""Samples that a collator tokenises together, for their lengths."""


def lengths_of(trainer: Any, dataset: Any) -> LengthArray:
    """Read the lengths of data: [n]; with several columns [n, k].

    Where no column has tokens, they are counted in what the trainer's collator makes of the
    samples, all of them.
    """
    config = getattr(trainer.model, "config", None)
    names = [getattr(trainer.args, "length_column_name", None) or "length", "input_ids"]
    columns = columns_of(dataset)
    name = next((name for name in names if name in columns), None)
    if name is None:
        try:
            with undisturbed():
                counted = _collated(trainer, dataset)
        except Exception as error:
            raise ColumnNotFoundError(
                f"the {type(dataset).__name__} has the columns {list(columns)}, and no 'input_ids' "
                f"or '{names[0]}' to take lengths from. Tokenise the texts first; of other data, "
                "give use_plan(trainer, Planner(lengths, …))."
            ) from error
        return Lengths.of(counted).array
    chosen = [name]
    if getattr(config, "is_encoder_decoder", False) and "labels" in columns:
        chosen = ["input_ids", "labels"] if "input_ids" in columns else chosen
    if isinstance(dataset, FlatTokens):
        read = [dataset.lengths for _ in chosen]
    elif type(dataset).__module__.startswith("datasets."):
        read = [read_lengths(dataset, column=each, cache=False, progress=False) for each in chosen]
    else:
        samples = [dataset[index] for index in range(len(dataset))]
        read = [np.array([_size(sample[each]) for sample in samples]) for each in chosen]
    return Lengths.of(read[0] if len(read) == 1 else np.stack(read, axis=1)).array


def columns_of(dataset: Any) -> list[str]:
    """Return the names of a data set's columns, as far as it has any."""
    names = getattr(dataset, "column_names", None)
    if names is None:
        first = dataset[0] if hasattr(dataset, "__len__") and len(dataset) else None
        names = first if isinstance(first, Mapping) else ()
    return list(names)


def batch_of(trainer: Any, indices: Sequence[int], collator: Any = None) -> Any:
    """Collate samples of the training data as the trainer's own loader does."""
    data = trainer.train_dataset
    collator = trainer.data_collator if collator is None else collator
    if not hasattr(trainer, "_build_dataloader"):  # that of sentence-transformers keeps columns
        if type(data).__module__.startswith("datasets."):
            data = trainer._remove_unused_columns(data)  # noqa: SLF001
        else:
            collator = trainer._get_collator_with_removed_columns(collator)  # noqa: SLF001
    with undisturbed():
        return collator([data[index] for index in indices])


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Leave the global generators as they were: collators draw from them."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda: Any = torch.cuda
    with torch.random.fork_rng(range(cuda.device_count() if cuda.is_initialized() else 0)):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def rows_of(batch: Any) -> int | None:
    """Count the rows of a batch: of its tokens, else of what it has first. None: unknown."""
    if isinstance(batch, Mapping):
        names = sorted(batch, key=lambda name: not str(name).endswith("input_ids"))
        batch = [batch[name] for name in names]
    return next((len(value) for value in batch if _has_rows(value)), None)


def rows_of_a_sample(trainer: Any) -> float:
    """Count the rows that a sample takes: 1; 2 for pairs; 0.5 where two share a row."""
    try:
        batch = batch_of(trainer, [0, 1])
    except Exception:  # noqa: BLE001 (training will say what is wrong)
        return 1.0
    rows = rows_of(batch)
    return 1.0 if rows is None or (rows == 1 and "input_ids" not in batch) else rows / 2


def _has_rows(value: Any) -> bool:
    return bool(value.ndim) if isinstance(value, Tensor) else isinstance(value, list)


def _size(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") and np.ndim(value) else int(value)


def _collated(trainer: Any, dataset: Any) -> IntArray:
    """Count the tokens that a collator makes of each sample: one column for each of its fields.

    A sample of several rows, as of a pair, counts as many as they take, padded.
    """
    collate = trainer.data_collator
    if getattr(trainer, "_is_vision_dataset", False):
        raise ColumnNotFoundError("images are read one by one")
    alone = collate([dataset[0]])
    masks = [name for name in alone if str(name).endswith("attention_mask")]
    if not masks:
        raise ColumnNotFoundError(f"{type(collate).__name__} gives {list(alone)}, and no masks")
    size = _CHUNK if all(len(alone[name]) == 1 for name in masks) else 1
    parts = []
    for begin in range(0, len(dataset), size):
        samples = [dataset[index] for index in range(begin, min(begin + size, len(dataset)))]
        batch = collate(samples)
        counts = [batch[name].sum(dim=1) for name in masks]
        if size == 1:
            counts = [len(each) * each.max()[None] for each in counts]
        parts.append(torch.stack(counts, dim=1).numpy())
    found: IntArray = np.concatenate(parts).astype(np.int64)
    return found[:, 0] if len(masks) == 1 else found
