"""Trainer: a small language model of Python's own library, 8 functions × 2 an update."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from batchwright.integrations.transformers import use_plan
from benchmarks.doctor_gains.jobs.common import Meter, options_of
from benchmarks.group_by_length.data import write_data
from benchmarks.group_by_length.jobs import job_of
from benchmarks.group_by_length.setting import Setting


def main() -> None:
    options = options_of(__doc__, batch_size=8, accumulate=2)
    setting = Setting(
        "functions",
        options.samples or 1_200,
        1_024,
        epochs=1,
        batch_size=options.batch_size,
        accumulate=options.accumulate,
        learning_rate=4e-3,
    )
    meter = Meter(options.updates)

    class Metered(TrainerCallback):
        """Ends the run once there are enough updates."""

        def on_step_end(self, args: object, state: object, control: Any, **_: object) -> None:
            control.should_training_stop = meter.update()

    def count(_: torch.nn.Module, __: object, batch: Any) -> None:
        meter.count(int(batch["attention_mask"].sum()), batch["input_ids"].numel())

    with tempfile.TemporaryDirectory() as folder:
        job = job_of(setting, write_data(setting, Path(folder)))
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=setting.batch_size,
            gradient_accumulation_steps=setting.accumulate,
            num_train_epochs=1_000,
            learning_rate=setting.learning_rate,
            lr_scheduler_type="constant",
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
            callbacks=[Metered()],
        )
        job.model.register_forward_pre_hook(count, with_kwargs=True)
        if options.planned:
            use_plan(trainer)
        trainer.train()
    meter.report()


if __name__ == "__main__":
    main()
