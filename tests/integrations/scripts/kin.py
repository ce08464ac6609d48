"""Trains each kind of trainer on some ranks: anew, and from where one rank had left off.

torchrun --nproc-per-node 2 kin.py FOLDER
"""

import gc
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from batchwright.integrations.transformers import use_plan
from tests.integrations.kin import completions, kin_of, pairs, reads_of
from tests.integrations.trainers import weights

PLANS: dict[str, dict[str, Any]] = {
    "sft": {"max_tokens": 320},
    "lora": {"pack": 160},
    "rows": {"max_tokens": 400},
    "batch": {"batch_size": 8},
    "dpo": {"max_tokens": 400},
}
"""How the trainers of each kind are planned."""

STEP = 3
"""The update at which runs are left off: in the middle of an epoch."""


class SaveOnce(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        control.should_save = state.global_step == STEP and "again" not in args.output_dir


def planned(kind: str, folder: Path, ranks: int, **options: Any) -> Any:
    """Construct a trainer of a kind, with updates of two batches on any number of ranks."""
    options |= {"gradient_accumulation_steps": 2 // ranks, "num_train_epochs": 2}
    trainer = kin_of(kind, folder, per_device_eval_batch_size=4, callbacks=[SaveOnce()], **options)
    return use_plan(trainer, **PLANS[kind])


def found(kind: str, trainer: Any) -> dict[str, Any]:
    return {
        "read": reads_of(kind, trainer),
        "weights": weights(trainer).tolist(),
        "place": [trainer.state.global_step, trainer.state.epoch],
    }


def evaluated(kind: str, trainer: Any) -> dict[str, float]:
    """Evaluate, with what the trainer logs of its own."""
    if kind in {"sft", "rows"}:
        trainer.evaluate(completions() if kind == "sft" else pairs())
    kept = ("eval_loss", "eval_entropy", "eval_mean_token_accuracy")
    logs = trainer.state.log_history[-1:]
    return {name: value for each in logs for name, value in each.items() if name in kept}


def main(folder: Path) -> None:
    for kind in PLANS:
        place = folder / kind
        trainer = planned(kind, place / "two", 2)
        trainer.train()
        report = {"fresh": found(kind, trainer), "metrics": evaluated(kind, trainer)}
        trainer = planned(kind, place / "again", 2, dataloader_num_workers=1)
        trainer.train(resume_from_checkpoint=f"{place}/one/checkpoint-{STEP}")
        report["resumed"] = found(kind, trainer)
        (place / f"rank-{trainer.args.process_index}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    gc.freeze()  # trainers collect garbage whenever they begin
    try:
        main(Path(sys.argv[1]))
    finally:  # the threads of a group that outlives the interpreter abort the process
        gc.collect()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
