"""One arm in a process of its own: ``worker.py ARM JSON``, its name and what it trains."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from batchwright.integrations.transformers import use_plan
from benchmarks.group_by_length.jobs import Job, job_of
from benchmarks.group_by_length.setting import Setting
from benchmarks.trainer.turns import Turns

WARM_UP = 20
"""Updates in which the learning rate rises."""


def train(setting: Setting, job: Job, arm: str, turns: Turns) -> None:
    """Train by Trainer: shuffled, grouped by length, or with `use_plan`."""

    class TakingTurns(TrainerCallback):
        """Waits for its turn before each update."""

        def on_step_begin(self, args: object, state: object, control: Any, **_: object) -> None:
            if next(turn, "over") == "over":
                control.should_training_stop = True

    def count(model: torch.nn.Module, _: object, batch: Any) -> None:
        if model.training:
            turns.clock.count(int(batch["attention_mask"].sum()), batch["input_ids"].numel())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=setting.batch_size,
            gradient_accumulation_steps=setting.accumulate,
            train_sampling_strategy="group_by_length" if arm == "group_by_length" else "random",
            num_train_epochs=1_000,
            learning_rate=setting.learning_rate,
            lr_scheduler_type="inverse_sqrt",
            warmup_steps=WARM_UP,
            max_grad_norm=1.0,
            seed=setting.seed,
            use_cpu=True,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            job.model,
            arguments,
            train_dataset=job.samples,
            data_collator=job.collate,
            callbacks=[TakingTurns()],
        )
        samples = setting.batch_size * setting.accumulate
        updates = -(-len(job.samples) // samples)
        if arm == "use_plan":
            use_plan(trainer)
            loader = trainer.get_train_dataloader()
            updates = -(-len(loader) // arguments.gradient_accumulation_steps)
        job.model.register_forward_pre_hook(count, with_kwargs=True)
        turn = turns.taken(job.evaluate)
        turns.ready(
            updates=setting.epochs * updates, accumulate=arguments.gradient_accumulation_steps
        )
        trainer.train()


def main() -> None:
    """Prepare the job, then train as requests come in."""
    # What a library prints must not be taken for an answer.
    turns = Turns(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    torch.set_num_threads(1)
    given = json.loads(sys.argv[2])
    data = Path(given.pop("data_file"))
    setting = Setting(**given)
    train(setting, job_of(setting, data), sys.argv[1], turns)


if __name__ == "__main__":
    main()
