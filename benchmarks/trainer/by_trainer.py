"""The job under Hugging Face Trainer, with its grouping by length."""

import tempfile

from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.trainer.jobs import Sample, WithLoss, laid_out, prepare, real_tokens, row_tokens
from benchmarks.trainer.setting import Setting
from benchmarks.trainer.turns import Turns

FIELDS = {2: ("input_ids", "labels"), 3: ("input_ids", "decoder_input_ids", "labels")}
"""Names of what a sample holds."""


def train(setting: Setting, arm: str, turns: Turns) -> None:
    """Train with Trainer's own loop, sampler, optimizer and schedule.

    Args:
        setting: What all arms share.
        arm: ``"trainer"``: as many samples a batch as an update holds tokens on average;
            ``"trainer, safe"``: as many as fit the budget when all are as long as the longest,
            and so many batches an update; ``"trainer, random"``: these, not grouped by length.
        turns: Who may train when.
    """
    job = prepare(setting)
    sizes = row_tokens(job.lengths)
    batch_size = round(setting.step_tokens / float(sizes.mean()))
    accumulate = 1
    if arm != "trainer":
        safe = max(1, setting.max_tokens // int(job.lengths.max(axis=0).sum()))
        accumulate = round(batch_size / safe)
        batch_size = safe
    model = WithLoss(job, lambda batch: turns.clock.count(real_tokens(batch), laid_out(batch)))
    names = FIELDS[len(job.samples[0])]

    def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        rows: list[Sample] = [tuple(sample.values()) for sample in samples]
        return dict(zip(names, job.collate(rows), strict=True))

    class TakingTurns(TrainerCallback):
        """Waits for its turn before each update."""

        def on_step_begin(self, args: object, state: object, control: object, **_: object) -> None:
            if next(turn, "over") == "over":
                control.should_training_stop = True

    turn = turns.taken(lambda: job.evaluate(model.model))
    turns.ready(updates=-(-len(job.samples) // (batch_size * accumulate)), accumulate=accumulate)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulate,
            train_sampling_strategy="random" if "random" in arm else "group_by_length",
            num_train_epochs=1_000,
            learning_rate=job.learning_rate,
            lr_scheduler_type="inverse_sqrt",
            warmup_steps=setting.warm_up,
            max_grad_norm=1.0,
            seed=setting.seed,
            use_cpu=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=[dict(zip(names, sample, strict=True)) for sample in job.samples],
            data_collator=collate,
            callbacks=[TakingTurns()],
            optimizers=(job.optimizer(model.model), None),
        )
        trainer.train()
