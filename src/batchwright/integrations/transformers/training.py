"""Planned batches in a trainer's own training: batches, exact updates, exact resume."""

import itertools
import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_callback import ExportableState

from batchwright.errors import PlanError
from batchwright.integrations.transformers.evaluation import Evaluation
from batchwright.integrations.transformers.figures import LoggedFigures
from batchwright.integrations.transformers.loading import Loader
from batchwright.integrations.transformers.making import (
    check_packing,
    check_trainer,
    made_planner,
)
from batchwright.plan_source import as_source
from batchwright.planner import Planner
from batchwright.resume import Course, chart, read_position
from batchwright.torch.data.batch_sampler import PlanBatchSampler, check_loader
from batchwright.torch.data.pack_collator import PackCollator

_IGNORED = -100
"""The label of what no loss counts."""

_STATE = "trainer_state.json"
"""What Trainer writes last into a checkpoint."""


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

    Call it once the trainer is constructed: `Trainer`, `Seq2SeqTrainer`, and trainers that are made
    of them. Its collator, workers, column removal, callbacks and checkpoints stay.

    - Each rank trains on its part of each epoch's plan.
    - The update is the one of the mean over everything that the loss counts in it, on all ranks,
      also for models whose loss ignores `num_items_in_batch`: the model's own mean over a batch is
      weighted by the labels that are not -100. A `compute_loss` or `compute_loss_func` of
      your own, and losses for CTC, are left as they are.
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
            data that is no `datasets.Dataset`, each sample is read once for that.
        max_tokens: The budget of a batch, padding included, where no planner is given.
        batch_size: Samples that a batch holds at present; None: `per_device_train_batch_size`.
            Where neither planner, `max_tokens` nor `pack` is given, the budget is what such batches
            may take at most, and an update keeps its present number of tokens: the
            trainer's `gradient_accumulation_steps` is set for that.
        pack: Pack documents into rows of this many tokens, without padding, by a `PackCollator`.
            For models that keep packed documents apart; others are refused.
        collator: In place of the trainer's, for training.
        evaluate: Whether evaluation and prediction are planned too.

    Returns:
        The same trainer.

    Raises:
        PlanError: If the trainer is none, or does what a plan does; if it accumulates other numbers
            of batches than a given planner plans; or if the model reads across packed documents.
            When resuming: if the checkpoint cannot be continued exactly.
        ColumnNotFoundError: If lengths are to be read, and there are no tokens.
        BudgetError: If a sample exceeds the budget.
    """
    check_trainer(trainer)
    is_made = planner is None
    if planner is None:
        planner = made_planner(trainer, max_tokens=max_tokens, batch_size=batch_size, pack=pack)
        trainer.args.gradient_accumulation_steps = planner.accumulate
    elif not isinstance(planner, Planner) or (max_tokens, batch_size, pack) != (None,) * 3:
        raise PlanError(
            f"use_plan got a {type(planner).__name__} and max_tokens={max_tokens}, batch_size="
            f"{batch_size}, pack={pack}: give either a Planner or what to make one from."
        )
    if pack is not None and collator is None:
        collator = PackCollator()
    run = _Training(trainer, planner, collator, is_made=is_made)
    run.check_accumulation()
    packs = trainer.data_collator if collator is None else collator
    if isinstance(packs, PackCollator):
        check_packing(trainer, packs)
    methods: dict[str, Any] = {}
    for name in ("train", "get_train_dataloader", "compute_loss"):
        methods[name] = getattr(run, name)
    if run.weighs:
        trainer.model_accepts_loss_kwargs = True  # so that nothing is divided by accumulation
        methods["get_batch_samples"] = run.get_batch_samples
    if evaluate and not trainer.args.batch_eval_metrics and trainer.args.eval_do_concat_batches:
        methods |= Evaluation(trainer, planner.batching, run.counted).methods()
    for name, method in (methods | run.figures.methods()).items():
        setattr(trainer, name, method)
    trainer.add_callback(run.callback())
    return trainer


class _Training:
    """What stands in place of some of a trainer's methods, and calls these."""

    def __init__(self, trainer: Any, planner: Planner, collator: Any, *, is_made: bool) -> None:
        self.trainer, self.planner, self.collator = trainer, planner, collator
        self.is_made = is_made  # from the trainer's settings, which are of so many ranks
        names = ("train", "get_train_dataloader", "compute_loss", "get_batch_samples")
        self.original = {name: getattr(trainer, name) for name in names}
        kind = type(trainer)
        plain = kind.compute_loss is Trainer.compute_loss
        plain = plain and kind.get_batch_samples is Trainer.get_batch_samples
        model = trainer.accelerator.unwrap_model(trainer.model)
        name = type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__
        self.weighs = plain and trainer.compute_loss_func is None and "CTC" not in name
        causal = name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        self.shifts = causal or bool(getattr(trainer, "_loss_shifts_labels", False))
        self.sampler: PlanBatchSampler | None = None
        self.resumed: tuple[Any, int] | None = None  # the state to load, and batches before it
        self.begun: int | None = None  # updates before the present pass, once it has begun
        self.figures = LoggedFigures(trainer, self.position)

    # Training

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **options: Any) -> Any:
        self.resumed = None
        if resume_from_checkpoint is True:
            resume_from_checkpoint = _last_whole(Path(self.trainer.args.output_dir)) or True
        if isinstance(resume_from_checkpoint, str | Path):
            self._resume(Path(resume_from_checkpoint))
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

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: Any
    ) -> tuple[list[Any], Tensor | None]:
        """Take the batches of an update, and count what its loss sums over, on all ranks."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        counts = [self.counted(batch) for batch in batches]
        known = [count for count in counts if count is not None]
        if not batches or len(known) < len(counts):
            return batches, None
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
        """Weight the model's mean over a batch by its share of the update; evaluate it as it is."""
        original, trainer = self.original["compute_loss"], self.trainer
        count, total = self.counted(inputs), num_items_in_batch
        options["return_outputs"] = return_outputs
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

    def counted(self, inputs: Any) -> Tensor | None:
        """Count what the loss of a batch is a mean over: labels, or rows. None: unknown."""
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

    def _resume(self, checkpoint: Path) -> None:
        """Make the next run go on where a checkpoint was written, or raise `PlanError`."""
        if not (checkpoint / _STATE).exists():
            return  # weights alone: a new run
        found = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        step, callbacks = found["global_step"], found.get("stateful_callbacks", {})
        saved = callbacks.get("PlanCallback", {}).get("attributes")
        if not saved:
            raise PlanError(
                f"{checkpoint} was written without this plan: which samples it has seen is "
                "unknown. Begin a new run from its weights: from_pretrained(…), and train() "
                "without resume_from_checkpoint."
            )
        args = self.trainer.args
        ranks, accumulate = saved["world_size"], saved["accumulate"]
        batches, now = ranks * accumulate, args.world_size
        if batches % now or (now == ranks and accumulate != args.gradient_accumulation_steps):
            raise PlanError(
                f"{checkpoint} was trained in updates of {ranks} ranks × {accumulate} batches, and "
                f"now there are {now} ranks × {args.gradient_accumulation_steps}: Trainer would "
                f"count epochs wrongly. Resume with gradient_accumulation_steps={accumulate} on "
                f"{ranks} ranks, or on another number that divides {batches}."
            )
        if batches // now != args.gradient_accumulation_steps:
            if self.trainer.is_deepspeed_enabled:
                raise PlanError(f"set gradient_accumulation_steps={batches // now} for DeepSpeed.")
            warnings.warn(
                f"{checkpoint} was trained by {ranks} ranks × {accumulate} batches an update. On "
                f"{now}, gradient_accumulation_steps is {batches // now}, so that updates stay.",
                stacklevel=3,
            )
            args.gradient_accumulation_steps = batches // now
        if self.is_made and self.planner.step_tokens is not None:
            settings = saved["sampler"].get("settings") or {}
            self.planner = Planner(
                self.planner.lengths,
                batching=self.planner.batching,
                seed=self.planner.seed,
                step_tokens=settings.get("step_tokens"),
            )
        self.planner = self.planner.resized(now, batches // now)
        source = as_source(self.planner)
        position = read_position(saved["sampler"], source)
        length, updates = source.num_batches(now) // now, saved["updates"]
        epoch, done = divmod(step, updates)
        skipped = done * (batches // now)
        left = len(chart(source, position, now)) if done else length
        fits = -(-length // (batches // now)) == updates and skipped + left == length
        if not fits or position.epoch != (epoch if done else epoch - 1):
            raise PlanError(
                f"{checkpoint} is {done} of {updates} updates into epoch {epoch}, and now an epoch "
                f"has {length} batches on each of {now} ranks, of which {left} are left: Trainer "
                f"would count wrongly. Resume with the budget that the run began with."
            )
        if done:
            self.resumed = saved["sampler"], skipped
            args.ignore_data_skip = False  # the batches that Trainer skips are empty


def _last_whole(folder: Path) -> Path | None:
    """Return the last checkpoint that was written to its end. None: there is no checkpoint.

    A run that is killed while it saves leaves one that nothing can go on from.
    """
    found = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("*/")]
    numbered = sorted((int(match[1]), path) for match, path in found if match)
    for _, path in reversed(numbered):
        try:
            json.loads((path / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            warnings.warn(
                f"{path} was not written to its end: the checkpoint before it is continued.",
                stacklevel=4,
            )
            continue
        return path
    if numbered:
        raise PlanError(
            f"no checkpoint in {folder} was written to its end. Delete them, and train() without "
            "resume_from_checkpoint."
        )
    return None
