"""Trains under `use_plan` on any number of ranks; writes what the model read, and what came out.

torchrun --nproc-per-node 2 train.py OUT --accumulate 2 --kill 4 --resume OUT/checkpoint-3
"""

import argparse
import gc
import json
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback

import batchwright as bw
from batchwright.integrations.transformers import use_plan
from tests.integrations.trainers import COLLATE, LENGTHS, samples_of, trainer_of, weights


class KillAt(TrainerCallback):
    """Notes what was read when a checkpoint is written; dies without notice at an update."""

    def __init__(self, step, write):
        self.step, self.write = step, write

    def on_save(self, args, state, control, **_):
        self.write()

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
            os.kill(os.getpid(), signal.SIGKILL)


def right(scores, labels):
    return float((scores.argmax(-1) == np.array(labels)).mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--step-tokens", type=int)
    parser.add_argument("--cost")
    parser.add_argument("--sequential", action="store_true")
    parser.add_argument("--save", type=int)
    parser.add_argument("--kill", type=int)
    parser.add_argument("--resume")
    given = parser.parse_args()

    def write(**more):
        file = given.out / f"rank-{trainer.args.process_index}.json"
        found = {"read": trainer.read, "step": trainer.state.global_step} | more
        file.write_text(json.dumps(found))

    size = {"accumulate": given.accumulate}
    if given.step_tokens:
        size = {"step_tokens": given.step_tokens}
    order = bw.Sequential() if given.sequential else None
    planner = bw.Planner(LENGTHS, max_tokens=120, order=order, cost=given.cost, **size)
    samples = samples_of("classifier")
    labels = [each["labels"] for each in samples]
    saving = {"save_strategy": "steps", "save_steps": given.save} if given.save else {}
    trainer = trainer_of(
        "classifier",
        given.out,
        num_train_epochs=2,
        eval_dataset=samples,
        compute_metrics=lambda found: {"right": right(found.predictions, found.label_ids)},
        **saving,
    )
    planner = planner.resized(trainer.args.world_size)
    trainer.args.gradient_accumulation_steps = planner.accumulate
    use_plan(trainer, planner)
    if given.kill:
        trainer.add_callback(KillAt(given.kill, write))
    trainer.train(resume_from_checkpoint=given.resume)
    metrics = trainer.evaluate()
    predicted = trainer.predict(samples)
    with torch.no_grad():
        whole = trainer.model.eval()(**COLLATE(samples))
    write(
        weights=weights(trainer).tolist(),
        epoch=trainer.state.epoch,
        losses=[metrics["eval_loss"], predicted.metrics["test_loss"], float(whole.loss)],
        right=[metrics["eval_right"], right(whole.logits.numpy(), labels)],
        off=float(np.abs(predicted.predictions - whole.logits.numpy()).max()),
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    try:
        main()
    finally:  # the threads of a group that outlives the interpreter abort the process
        gc.collect()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
