"""Planned batches in a trainer's evaluation and prediction: results in the order of the data."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torch.utils.data import IterableDataset
from transformers.trainer_utils import EvalPrediction, denumpify_detensorize

from batchwright.batching import TokenBudget
from batchwright.budgets import suggest
from batchwright.errors import BatchwrightError, PlanError
from batchwright.integrations.transformers.loading import Loader
from batchwright.integrations.transformers.reading import lengths_of
from batchwright.planner import Planner


class Evaluation:
    """Stands in place of the methods by which a trainer evaluates, and calls these.

    Args:
        trainer: As constructed.
        batching: That of training, whose budget is kept.
        counted: What the loss of a batch is a mean over; None: unknown.
        rows: Rows that a sample takes.
    """

    def __init__(
        self, trainer: Any, batching: Any, counted: Callable[[Any], Tensor | None], rows: float
    ) -> None:
        self._trainer, self._batching, self._counted = trainer, batching, counted
        self._rows = rows
        self._read: dict[int, tuple[Any, Any]] = {}  # the trainer's own data, with lengths
        self._original = {name: getattr(trainer, name) for name in self.methods()}

    def methods(self) -> dict[str, Any]:
        """Return the methods by the names that the trainer's have."""
        names = ("get_eval_dataloader", "get_test_dataloader", "evaluation_loop")
        return {name: getattr(self, name) for name in names}

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Make a loader for evaluation data, or for the trainer's own of that name."""
        own, given = self._original["get_eval_dataloader"](eval_dataset), eval_dataset
        if given is None or isinstance(given, str):
            given = (
                self._trainer.eval_dataset if given is None else self._trainer.eval_dataset[given]
            )
        wants = self._trainer.compute_metrics and not self._trainer.args.prediction_loss_only
        return self._planned(own, given, predicts=bool(wants))

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Make a loader for prediction."""
        own = self._original["get_test_dataloader"](test_dataset)
        return self._planned(own, test_dataset, predicts=True)

    def _planned(self, own: Any, dataset: Any, *, predicts: bool) -> Any:
        args = self._trainer.args
        if isinstance(own.dataset, IterableDataset) or (predicts and self._rows != 1):
            return own
        try:
            lengths = self._lengths(dataset)
        except BatchwrightError:
            return own
        if len(lengths) != len(own.dataset) or len(lengths) < args.world_size:
            return own
        budget = getattr(self._batching, "max_tokens", None)
        batching = evaluation_batching(
            lengths, args.eval_batch_size, budget if isinstance(budget, int) else None
        )
        plan = Planner(lengths, batching=batching, world_size=args.world_size)(0)
        loader = Loader(own, plan, args, own.collate_fn)
        loader.batches = list(plan.shard(args.process_index, args.world_size))
        return loader

    def _lengths(self, dataset: Any) -> Any:
        if id(dataset) in self._read:
            return self._read[id(dataset)][1]
        lengths, own = lengths_of(self._trainer, dataset), self._trainer.eval_dataset
        if any(each is dataset for each in (own.values() if isinstance(own, dict) else [own])):
            self._read[id(dataset)] = dataset, lengths
        return lengths

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,  # noqa: FBT001 (as Trainer has it)
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """Go through this rank's batches as Trainer does; put what all ranks found in order."""
        trainer, original = self._trainer, self._original["evaluation_loop"]
        rest = (description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if not isinstance(dataloader, Loader):
            return original(dataloader, *rest)
        args = trainer.args
        metrics, step = trainer.compute_metrics, trainer.prediction_step
        losses: list[tuple[Tensor, Tensor]] = []
        inputs: list[Any] = [None]

        def prediction_step(model: Any, batch: Any, *more: Any, **options: Any) -> Any:
            count = self._counted(batch)
            found = step(model, batch, *more, **options)
            if found[0] is not None:
                rows = torch.tensor(len(dataloader.batches[len(losses)]))
                losses.append((found[0], rows if count is None else count))
            return found

        def keep(given: EvalPrediction) -> dict[str, Any]:
            inputs[0] = given.inputs
            return {}

        trainer.gather_function = lambda tensor: tensor  # everything is gathered at the end
        trainer.compute_metrics = None if metrics is None else keep
        trainer.prediction_step = prediction_step
        averages, args.average_tokens_across_devices = args.average_tokens_across_devices, False
        try:
            output = original(dataloader, *rest)
        finally:
            args.average_tokens_across_devices = averages
            trainer.prediction_step = step
            trainer.compute_metrics = metrics
        own = np.array([(float(loss), int(count)) for loss, count in losses]).reshape(-1, 2)
        each = (
            np.repeat(own[:, 0], [len(batch) for batch in dataloader.batches]) if losses else None
        )
        mine = [np.concatenate(dataloader.batches), own, each]
        mine += [output.predictions, output.label_ids, inputs[0]]
        order, counted, *arrays = zip(*_of_all_ranks(mine, args.world_size), strict=True)
        _weight_metrics(trainer, counted)
        places = np.argsort(np.concatenate(order))
        each, predictions, labels, inputs[0] = (_in_order(parts, places) for parts in arrays)
        found = dict(output.metrics)
        if losses:
            means, counts = np.concatenate(counted).T
            kept = counts > 0
            kept = kept & np.isfinite(means) if args.logging_nan_inf_filter else kept
            mean = np.average(means[kept], weights=counts[kept]) if kept.any() else math.nan
            found[f"{metric_key_prefix}_loss"] = float(mean)
        if metrics is not None and predictions is not None and labels is not None:
            losses_each = each if "loss" in args.include_for_metrics else None
            given = EvalPrediction(predictions, labels, inputs=inputs[0], losses=losses_each)
            for name, value in denumpify_detensorize(metrics(given)).items():
                is_full = name.startswith(f"{metric_key_prefix}_")
                found[name if is_full else f"{metric_key_prefix}_{name}"] = value
        return output._replace(predictions=predictions, label_ids=labels, metrics=found)


def _weight_metrics(trainer: Any, counted: Sequence[Any]) -> None:
    """Weight what a trainer of TRL notes of each batch, and would average, by what it counts."""
    noted = getattr(trainer, "_metrics", None)
    own = noted.get("eval") if isinstance(noted, Mapping) else None
    if not isinstance(own, dict) or len({len(each) for each in counted}) != 1:
        return
    weights = sum(each[:, 1] for each in counted)  # of each batch, on all ranks
    for name, values in own.items():
        if len(values) == len(weights) > 1 and np.any(weights):
            own[name] = [float(np.average(values, weights=weights))]


def evaluation_batching(lengths: Any, batch_size: int, max_tokens: int | None) -> TokenBudget:
    """Return batches that hold every sample: of training's budget, or of so many usual samples."""
    budgets = suggest(lengths, batch_size=batch_size, max_tokens=max_tokens)
    return TokenBudget(budgets.for_all)


def _of_all_ranks(mine: Any, world_size: int) -> list[Any]:
    """Return what each rank has, on every rank."""
    everything = [mine] * world_size
    if world_size > 1:
        distributed.all_gather_object(everything, mine)
    return everything


def _in_order(parts: Sequence[Any], places: Any) -> Any:
    """Join what ranks have, nested as it is, in the order of the data."""
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, Mapping):
        return {name: _in_order([part[name] for part in parts], places) for name in first}
    if isinstance(first, tuple | list):
        return type(first)(_in_order(each, places) for each in zip(*parts, strict=True))
    joined = np.concatenate(parts)
    if len(joined) != len(places):
        raise PlanError(
            f"the model gave {len(joined)} rows for {len(places)} samples: they have no order. "
            "Use use_plan(…, evaluate=False)."
        )
    return joined[places]
