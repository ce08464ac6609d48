"""Planned batches in a trainer's own training: batches, exact updates, exact resume."""

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_callback import ExportableState

from batchwright.batching import FixedSize
from batchwright.errors import PlanError
from batchwright.integrations.transformers.evaluation import Evaluation
from batchwright.integrations.transformers.figures import LoggedFigures
from batchwright.integrations.transformers.gathering import uneven
from batchwright.integrations.transformers.loading import Loader
from batchwright.integrations.transformers.losses import base_model, kind_of_loss
from batchwright.integrations.transformers.making import check_trainer, made_planner
from batchwright.integrations.transformers.packing import check_packing, leave_no_cache
from batchwright.integrations.transformers.reading import rows_of, rows_of_a_sample
from batchwright.integrations.transformers.resuming import continued, last_whole
from batchwright.plan_source import as_source
from batchwright.planner import Planner
from batchwright.resume import Course
from batchwright.torch.data.batch_sampler import PlanBatchSampler, check_loader
from batchwright.torch.data.pack_collator import PackCollator

_IGNORED = -100
"""The label of what no loss counts."""


def use_plan(
    trainer: Any,
    planner: Planner | None = None,
    *,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    pack: int | None = None,
    collator: Callable[[list[Any]], Any] | None = None,
    evaluate: bool = True,
) -> Any:
    """Make a `Trainer` train, evaluate and predict in planned batches.

    Call it once the trainer is constructed: `Trainer`, `Seq2SeqTrainer`, TRL's `SFTTrainer`,
    `RewardTrainer` and `DPOTrainer`, `SentenceTransformerTrainer`, and trainers that are made of
    them; also of models of PEFT. Its collator, workers, column removal, callbacks and checkpoints
    stay.

    - Each rank trains on its part of each epoch's plan.
    - The update is the one of the mean over everything that the loss counts in it, on all ranks,
      also for models whose loss ignores `num_items_in_batch`: the model's own mean over a batch is
      weighted by the labels that are not -100. A `compute_loss` or `compute_loss_func` of
      your own, and losses of sentence-transformers, are tried on a few samples: a mean over labels
      or samples is weighted by them; one that uses `num_items_in_batch` is left as it is, and so
      are losses for CTC.
    - A loss that depends on what shares a batch, such as a contrastive one, is no sum over samples:
      the update is the mean over its batches, and evaluation stays as it was. The planner that is
      made keeps the number of rows of a batch; where a few are left, batches are smaller.
    - `resume_from_checkpoint` goes on at the sample where the checkpoint was written, also on
      another number of ranks that an update's batches can be shared among; accumulation is then
      set so that an update keeps its batches.
    - Each line that is logged of training also has `padding`, `tokens` (of an update),
      `tokens_per_second` and `dispersion`, since the last line and of all ranks: see `metrics.of`.
    - Evaluation and prediction pad little. Predictions are in the order of the data, and the loss
      is that of one batch of everything. Where the evaluation data has no readable lengths,
      and under `batch_eval_metrics`, they stay as they were.

    Args:
        trainer: As constructed.
        planner: The plan. None: made from the lengths of ``trainer.train_dataset``: a column
            `length`, else of `input_ids`; for models of source and target also of `labels`. Of
            data that is no `datasets.Dataset`, each sample is read once for that; of texts that
            the trainer's collator tokenises, and of pairs, each goes once through the collator.
        max_tokens: The budget of a batch, padding included, where no planner is given.
        batch_size: Samples that a batch holds at present; None: `per_device_train_batch_size`.
            Where neither planner, `max_tokens` nor `pack` is given, the budget is what such batches
            of samples of usual length take, and of the longest at least one; and an update keeps
            its present number of tokens: the trainer's `gradient_accumulation_steps` is set for
            that. With `max_tokens` or `pack`, `batch_size` only sets the tokens of an update.
        pack: Pack documents into rows of this many tokens, without padding, by a `PackCollator`.
            For models that keep packed documents apart; others are refused.
        collator: In place of the trainer's, for training.
        evaluate: Whether evaluation and prediction are planned too.

    Returns:
        The same trainer.

    Raises:
        PlanError: If the trainer is none, does what a plan does, or chooses its batches itself; if
            it accumulates other numbers of batches than a given planner plans; or if the model
            reads across packed documents.
            When resuming: if the checkpoint cannot be continued exactly.
        ColumnNotFoundError: If lengths are to be read, and there are no tokens.
        BudgetError: If a sample exceeds the budget.
    """
    check_trainer(trainer)
    run = _Training(trainer)
    run.is_made = planner is None
    if planner is None:
        planner = made_planner(
            trainer,
            max_tokens=max_tokens,
            batch_size=batch_size,
            pack=pack,
            joins=run.rows < 1 and collator is None,
            compares=run.kind == "batch",
        )
        trainer.args.gradient_accumulation_steps = planner.accumulate
    elif not isinstance(planner, Planner):
        raise PlanError(
            f"use_plan got a {type(planner).__name__}, not a Planner: give it Planner(lengths, …), "
            "which plans every epoch, or none."
        )
    elif (max_tokens, batch_size, pack) != (None,) * 3:
        raise PlanError(
            f"use_plan got a Planner and max_tokens={max_tokens}, batch_size={batch_size}, "
            f"pack={pack}: give either a Planner or what to make one from."
        )
    if pack is not None and collator is None:
        collator = PackCollator()
    run.planner, run.collator = planner, collator
    run.check_accumulation()
    own = trainer.data_collator
    if run.rows < 1 or isinstance(own, PackCollator):
        leave_no_cache(trainer.model)
    if isinstance(collator, PackCollator) or (collator is None and run.rows < 1):
        check_packing(trainer, collator or own)
    run.check_comparisons()
    methods: dict[str, Any] = {}
    for name in ("train", "get_train_dataloader", "compute_loss"):
        methods[name] = getattr(run, name)
    if not trainer.is_deepspeed_enabled:  # Transformers 5.2 sets it, and divides again
        trainer.accelerator.gradient_accumulation_steps = 1
    if run.weighs:
        # So that nothing is divided by accumulation.
        trainer.model_accepts_loss_kwargs = trainer.loss_is_scaled_for_ga = True
        methods["get_batch_samples"] = run.get_batch_samples
    args = trainer.args
    evaluates = not args.batch_eval_metrics and args.eval_do_concat_batches
    if evaluate and evaluates and run.kind != "batch":
        methods |= Evaluation(trainer, planner.batching, run.counted, run.rows).methods()
    for name, method in (methods | run.figures.methods()).items():
        setattr(trainer, name, method)
    trainer.add_callback(run.callback())
    return trainer


class _Training:
    """What stands in place of some of a trainer's methods, and calls these."""

    planner: Planner
    collator: Any
    is_made = False  # whether the planner is of the trainer's settings, which are of so many ranks

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        names = ("train", "get_train_dataloader", "compute_loss", "get_batch_samples")
        self.original = {name: getattr(trainer, name) for name in names}
        causal = type(base_model(trainer)).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        self.shifts = causal or bool(getattr(trainer, "_loss_shifts_labels", False))
        self.rows = rows_of_a_sample(trainer)
        self.kind = kind_of_loss(trainer, self.counted_labels)
        self.weighs = self.kind in {"labels", "rows"}
        self.gathers = any(each.__module__.startswith("trl.") for each in type(trainer).__mro__)
        self.waiting = 0  # batches of an update whose loss is to be weighted
        self.has_warned = False
        self.sampler: PlanBatchSampler | None = None
        self.resumed: tuple[Any, int] | None = None  # the state to load, and batches before it
        self.begun: int | None = None  # updates before the present pass, once it has begun
        self.figures = LoggedFigures(trainer, self.position)

    # Training

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **options: Any) -> Any:
        self.resumed = None
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole(Path(self.trainer.args.output_dir)) or True
        if isinstance(resume_from_checkpoint, str | Path):
            found = Path(resume_from_checkpoint), self.trainer, self.planner
            going_on = continued(*found, is_made=self.is_made)
            if going_on is not None:
                self.planner, self.resumed = going_on
        return self.original["train"](resume_from_checkpoint, *args, **options)

    def get_train_dataloader(self) -> DataLoader[Any]:
        args = self.trainer.args
        self.check_accumulation()
        own = self.original["get_train_dataloader"]()
        collator = own.collate_fn if self.collator is None else self.collator
        loader = Loader(own, self.planner, args, collator)
        check_loader(loader.planned.plan, own.dataset, collator)
        if self.resumed is not None:
            loader.go_on(*self.resumed)
            self.resumed = None
        self.sampler, self.begun = loader.planned, None
        return loader

    def check_accumulation(self) -> None:
        """Raise unless the trainer accumulates as many batches as were planned."""
        args = self.trainer.args
        planned = as_source(self.planner).accumulate(args.world_size)
        if planned != args.gradient_accumulation_steps:
            raise PlanError(
                f"gradient_accumulation_steps={args.gradient_accumulation_steps}, and the planner "
                f"plans {planned} batches of an update for each of {args.world_size} ranks. Make "
                f"it {planned}, or give Planner another accumulate=."
            )

    def check_comparisons(self) -> None:
        """Warn where a loss depends on what shares a batch, and batches differ in rows."""
        batching = self.planner.batching
        is_even = isinstance(batching, FixedSize) or getattr(batching, "max_samples", None)
        if self.kind == "batch" and not is_even:
            warnings.warn(
                f"the loss of this {type(self.trainer).__name__} depends on what shares a batch, "
                "and planned batches of short samples have more rows than those of long ones. "
                "Leave max_tokens out, or plan TokenBudget(…, max_samples=…).",
                stacklevel=3,
            )

    def check_weighted(self) -> None:
        """Warn where the trainer has made an update without `compute_loss`."""
        if self.waiting and not self.has_warned:
            self.has_warned = True
            warnings.warn(
                f"{type(self.trainer).__name__}.training_step does not call compute_loss, so its "
                "batches are not weighted: the update is the sum of what it makes of each.",
                stacklevel=2,
            )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: Any
    ) -> tuple[list[Any], Tensor | None]:
        """Take the batches of an update, and count what its loss sums over, on all ranks."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        counts = [self.counted(batch) for batch in batches]
        known = [count for count in counts if count is not None]
        if not batches or len(known) < len(counts):
            return batches, None
        self.waiting = len(batches)
        total = torch.stack([count.to(device) for count in known]).sum()
        return batches, self.trainer.accelerator.reduce(total, reduction="sum")

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,  # noqa: FBT001, FBT002 (as Trainer has it)
        num_items_in_batch: Any = None,
        **options: Any,
    ) -> Any:
        """Weight the mean over a batch by the batch's share of the update; evaluate it as it is."""
        original, trainer = self._original_loss, self.trainer
        count, total = self.counted(inputs), num_items_in_batch
        options["return_outputs"] = return_outputs
        if model.training and self.waiting and total is None:
            raise PlanError(
                f"{type(trainer).__name__}.training_step does not pass num_items_in_batch on to "
                "compute_loss, and without it a batch has no weight. Pass it on."
            )
        self.waiting = 0
        if count is None or total is None or not self.weighs:
            is_own = not (model.training or trainer.args.average_tokens_across_devices)
            if is_own and count is not None and total is not None:
                total = count.clamp(min=1)  # of this rank
            return original(model, inputs, num_items_in_batch=total, **options)
        found = original(model, inputs, num_items_in_batch=None, **options)
        loss, outputs = found if return_outputs else (found, None)
        share: Any = 1.0
        if model.training:
            share = count.to(total.device) * trainer.accelerator.num_processes / total
        loss = torch.where(count.to(loss.device) > 0, loss * share, 0.0)
        return (loss, outputs) if return_outputs else loss

    def _original_loss(self, *args: Any, **options: Any) -> Any:
        accelerator = self.trainer.accelerator
        if not self.gathers or accelerator.num_processes == 1:
            return self.original["compute_loss"](*args, **options)
        with uneven(accelerator):
            return self.original["compute_loss"](*args, **options)

    def counted(self, inputs: Any) -> Tensor | None:
        """Count what the loss of a batch is a mean over: labels, or rows. None: unknown."""
        if self.kind != "rows":
            return self.counted_labels(inputs)
        rows = rows_of(inputs)
        return None if rows is None else torch.tensor(rows, device=self.trainer.args.device)

    def counted_labels(self, inputs: Any) -> Tensor | None:
        """Count the labels of a batch that are not -100; of other labels, the rows."""
        if not isinstance(inputs, Mapping):
            return None
        names = ("shift_labels", "labels", *self.trainer.label_names)
        name = next((name for name in names if inputs.get(name) is not None), None)
        labels = None if name is None else inputs[name]
        if not isinstance(labels, Tensor):
            return None
        if labels.is_floating_point() or name not in {"shift_labels", "labels"}:
            return torch.tensor(len(labels), device=labels.device)
        if self.shifts and name == "labels" and labels.ndim > 1:
            labels = labels[..., 1:]
        return labels.ne(_IGNORED).sum()

    # Checkpoints

    def callback(self) -> TrainerCallback:
        run = self

        class PlanCallback(TrainerCallback, ExportableState):  # type: ignore[misc]
            """Writes where the run is into the trainer's own state, in the same file."""

            def state(self) -> dict[str, Any]:
                return {"args": {}, "attributes": run.state()}

            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                run.figures.begin()

            def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                run.begun = state.global_step

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                run.check_weighted()

            def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                run.figures.measure()

        return PlanCallback()

    def position(self) -> tuple[Course, int] | None:
        """Return what the present pass goes through, and how many batches were trained on."""
        course = None if self.sampler is None else self.sampler.course
        if course is None or self.begun is None:
            return None
        updates = self.trainer.state.global_step - self.begun
        consumed = updates * self.trainer.args.gradient_accumulation_steps
        return course, min(consumed, len(course))  # the last update may have fewer

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds: how the epoch was planned, and how far it is."""
        if self.sampler is None:
            return {}
        args, sampler = self.trainer.args, self.sampler
        accumulate, (_, consumed) = args.gradient_accumulation_steps, self.position() or (None, 0)
        return {
            "world_size": args.world_size,
            "accumulate": accumulate,
            "updates": -(-len(sampler) // accumulate),
            "sampler": sampler.state_after(consumed),
        }
