"""Trains a job, from the last checkpoint if there is one, and notes what the model reads.

torchrun --nproc-per-node 2 elastic.py FOLDER

FOLDER/job.json describes the job: see `tests.stress.elastic`. Each rank writes a line for every
batch to FOLDER/LEG-RANK.jsonl: the update, the samples, the loss. It dies without notice where the
job says.
"""

import gc
import json
import multiprocessing
import os
import signal
import sys
import warnings
from pathlib import Path

import torch
from torch import distributed
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from batchwright.integrations.transformers import use_plan
from batchwright.torch import PackCollator, PlanLoader, Precision, windows
from tests.integrations.trainers import COLLATE, model_of, samples_of, trainer_of
from tests.stress.elastic import LENGTHS, planner_of


def place():
    """Return rank and world size as torchrun says."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def samples_in(batch):
    return sorted({int(token) - 1 for token in batch["input_ids"].unique() if token > 0})


class Diary:
    """What a rank does, a line each, so that it is there however the process ends."""

    def __init__(self, folder, leg):
        self.file = (folder / f"{leg}-{place()[0]}.jsonl").open("w", encoding="utf-8")

    def write(self, **line):
        print(json.dumps(line), file=self.file, flush=True)


class Death:
    """Ends this rank without notice at a place of an update, counted from where a leg begins."""

    def __init__(self, death):
        self.death, self.begin = death, 0

    def at(self, where, update):
        death = self.death
        if death is None or (where, update - self.begin) != (death["where"], death["update"]):
            return
        if place()[0] in death["ranks"]:
            os.kill(os.getpid(), signal.SIGKILL)


class Watch(TrainerCallback):
    """Calls `Death` where it may be due."""

    def __init__(self, death, diary):
        self.death, self.diary = death, diary

    def on_train_begin(self, args, state, control, **_):
        self.diary.write(begin=state.global_step)
        self.death.begin = state.global_step

    def on_step_begin(self, args, state, control, **_):
        self.death.at("begin", state.global_step)

    def on_pre_optimizer_step(self, args, state, control, **_):
        self.death.at("optimizer", state.global_step)

    def on_step_end(self, args, state, control, **_):
        self.death.at("end", state.global_step)

    def on_save(self, args, state, control, **_):
        self.death.at("saved", state.global_step)


def by_trainer(job, folder, diary, death):
    """Train under `use_plan`; return the model."""
    ranks = place()[1]
    planner = None if job["made"] else planner_of(job, ranks)
    trainer = trainer_of(
        job["model"],
        folder / "trained",
        train_dataset=samples_of(job["model"], LENGTHS[: job["samples"]]),
        num_train_epochs=job["epochs"],
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2 if planner is None else planner.accumulate,
        seed=job["seed"],
        save_strategy="steps",
        save_steps=job["every"],
        dataloader_num_workers=job["workers"],
        callbacks=[Watch(death, diary)],
    )
    collator = PackCollator() if job["batching"] == "packed" else None
    use_plan(trainer, planner, collator=collator)
    read = []
    trainer.model.register_forward_pre_hook(
        lambda model, args, given: read.append(samples_in(given)), with_kwargs=True
    )
    compute_loss, save_state = trainer.compute_loss, trainer._save_rng_state

    def noted(*args, **options):
        loss = compute_loss(*args, **options)
        step = trainer.state.global_step
        diary.write(update=step, read=read.pop(), loss=float(loss) / ranks)
        death.at("pass", step)
        return loss

    def while_saving(folder):
        death.at("saving", trainer.state.global_step)
        save_state(folder)

    trainer.compute_loss, trainer._save_rng_state = noted, while_saving
    saved = any(folder.glob("trained/checkpoint-*/trainer_state.json"))
    read.clear()  # what `use_plan` had it read
    trainer.train(resume_from_checkpoint=saved)
    return trainer.model


def by_loop(job, folder, diary, death):
    """Train by `PlanLoader` and `Precision.update`; return the model."""
    rank, ranks = place()
    if ranks > 1:
        distributed.init_process_group("gloo")
    local = model_of("classifier")
    local.register_forward_pre_hook(
        lambda model, args, given: diary.write(update=update_of[0], read=samples_in(given)),
        with_kwargs=True,
    )
    model = DistributedDataParallel(local) if ranks > 1 else local
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    precision = Precision("fp32", check_loss=False)
    loader = PlanLoader(
        samples_of("classifier", LENGTHS[: job["samples"]]),
        planner_of(job, ranks),
        collate_fn=COLLATE,
        num_workers=job["workers"],
    )
    saved, update_of = folder / "saved.pt", [0]
    if saved.exists():
        state = torch.load(saved)
        for name, each in (("model", local), ("optimizer", optimizer), ("precision", precision)):
            each.load_state_dict(state[name])
        loader.load_state_dict(state["loader"])
        update_of[0] = state["update"]
    diary.write(begin=update_of[0])
    death.begin = update_of[0]

    def save():
        state = {
            "model": local.state_dict(),
            "optimizer": optimizer.state_dict(),
            "precision": precision.state_dict(),
            "loader": loader.state_dict(),
            "update": update_of[0],
        }
        if rank == 0:
            partial = saved.with_suffix(".partial")
            torch.save(state, partial)
            death.at("saving", update_of[0])
            partial.replace(saved)

    def loss_sum(model, batch):
        loss = cross_entropy(model(**batch).logits, batch["labels"], reduction="sum")
        death.at("pass", update_of[0])
        return loss

    for epoch in range(loader.epoch, job["epochs"]):
        loader.set_epoch(epoch)
        for window in windows(loader):
            death.at("begin", update_of[0])
            with precision.update(model, optimizer, weight=window.tokens) as update:
                for batch in window:
                    update.backward(loss_sum, batch)
                death.at("optimizer", update_of[0])
            diary.write(update=update_of[0], loss=update.loss / ranks)
            update_of[0] += 1
            death.at("end", update_of[0])
            if update_of[0] % job["every"] == 0:
                save()
                death.at("saved", update_of[0])
    return local


def main(folder):
    """Train the job of a folder."""
    folder = Path(folder)
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # so that only faults make a difference
    # Workers are not forked beside the threads of gloo, which can deadlock.
    multiprocessing.set_start_method("forkserver", force=True)
    multiprocessing.set_forkserver_preload(["batchwright.torch"])
    diary, death = Diary(folder, job["leg"]), Death(job["death"])
    train = by_trainer if job["kind"] == "trainer" else by_loop
    try:
        model = train(job, folder, diary, death)
        weights = torch.cat([each.detach().flatten() for each in model.parameters()])
        diary.write(weights=[float(weights.sum()), float(weights.square().sum())])
        if place()[0] == 0:
            torch.save(weights, folder / "weights.pt")
        del model
    finally:  # the threads of a group that outlives the interpreter abort the process
        gc.collect()
        if distributed.is_initialized():
            distributed.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1])
