"""A training run that goes on from its last checkpoint, whoever restarts it, and notes what it reads.

Each start of the run is a leg: rank R writes a line for every batch to FOLDER/LEG-R.jsonl. The list
in FOLDER/endings.json says how legs end, one after the other: in which update, on how many ranks,
and how: `"rank": 1` kills that rank; `"node": true` kills the agent of torchrun that started it
too; `"waits": true` has all ranks wait for the launcher to end them.
"""

import json
import os
import signal

import numpy as np
import torch
from torch import distributed
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import batchwright as bw
from batchwright.torch import PadCollator, PlanLoader, Precision, windows

LENGTHS = np.random.default_rng(0).lognormal(2, 0.6, 120).clip(1, 30).astype(int)
SAMPLES = [
    {name: torch.full((n,), i) for name in ("tokens", "labels")} for i, n in enumerate(LENGTHS)
]
EPOCHS = 2
EVERY = 3
"""Updates between checkpoints."""

BATCHES = 4
"""Batches of an update, of all ranks together."""


def planner_of(ranks):
    """Plan the same updates for any number of ranks."""
    return bw.Planner(LENGTHS, max_tokens=48, seed=3, world_size=ranks, accumulate=BATCHES // ranks)


def planned_updates():
    """Return the samples of each update."""
    planner = planner_of(1)
    updates = range(len(planner) // BATCHES)
    return [
        sorted(planner.samples_of(epoch, update).tolist())
        for epoch in range(EPOCHS)
        for update in updates
    ]


def model_of():
    """Return a small model with the same weights each time."""
    model = torch.nn.Sequential(torch.nn.Embedding(120, 8), torch.nn.Linear(8, 120)).double()
    with torch.no_grad():
        for each in model.parameters():
            each.copy_(torch.arange(each.numel()).sin().view_as(each))
    return model


def loss_sum(model, batch):
    scores = model(batch["tokens"]).transpose(1, 2)
    return cross_entropy(scores, batch["labels"], reduction="sum")


class Diary:
    """What a rank does, a line each, so that it is there however the process ends."""

    def __init__(self, folder, leg, rank):
        self.path = folder / f"{leg}-{rank}.jsonl"

    def write(self, **line):
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Ending:
    """Ends a leg in one of its updates."""

    def __init__(self, folder, rank, number, settings):
        self.mark, self.rank, self.settings = folder / f"ended-{number}", rank, settings

    def come(self, update, before):
        """End the leg if this is the update; `before` is called first."""
        given = self.settings
        if update != given.get("update"):
            return
        if given.get("waits"):
            self.mark.touch()
            wait_for_the_end()
        elif self.rank == given["rank"]:
            before()
            self.mark.touch()
            if given.get("node"):
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


def wait_for_the_end():
    while True:
        signal.pause()


def begun(folder):
    """Return the number of this leg, and how it ends; the same on every rank."""
    endings = json.loads((folder / "endings.json").read_text(encoding="utf-8"))
    ended = len(list(folder.glob("ended-*")))
    found = [len(list(folder.glob("*-0.jsonl"))), ended, (endings[ended:] or [{}])[0]]
    if distributed.is_initialized():
        distributed.broadcast_object_list(found)
    return found


def train(folder, load, save, *, prepare=lambda loader: loader, workers=0, before_end=lambda: None):
    """Train from the last checkpoint on; leave the weights in FOLDER/weights.pt.

    Args:
        folder: Where the endings are, and diaries go.
        load: Returns the state of the last checkpoint, or None.
        save: Keeps a state as a checkpoint; called on every rank.
        prepare: Returns the loader that is trained with.
        workers: Of the loader.
        before_end: Called before a rank is killed.
    """
    rank, ranks = 0, 1
    if distributed.is_initialized():
        rank, ranks = distributed.get_rank(), distributed.get_world_size()
    leg, ended, settings = begun(folder)
    if ranks < settings.get("ranks", 1):
        wait_for_the_end()  # the others are on their way
    net = model_of()
    model = DistributedDataParallel(net) if ranks > 1 else net
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    precision = Precision("fp32", check_loss=False)
    loader = PlanLoader(SAMPLES, planner_of(ranks), collate_fn=PadCollator(), num_workers=workers)
    parts = {"model": net, "optimizer": optimizer, "precision": precision, "loader": loader}
    update, state = 0, load()
    if state is not None:
        update = state["update"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    diary, ending = Diary(folder, leg, rank), Ending(folder, rank, ended, settings)
    diary.write(begin=update, ranks=ranks)
    prepared = prepare(loader)
    for epoch in range(loader.epoch, EPOCHS):
        loader.set_epoch(epoch)
        for window in windows(prepared):
            with precision.update(model, optimizer, weight=window.tokens) as step:
                for batch in window:
                    diary.write(update=update, read=batch["tokens"].max(1).values.tolist())
                    step.backward(loss_sum, batch)
                ending.come(update, before_end)
            update += 1
            if update % EVERY == 0:
                state = {name: part.state_dict() for name, part in parts.items()}
                save(state | {"update": update})
    weights = torch.cat([each.detach().flatten() for each in net.parameters()])
    diary.write(weights=[float(weights.sum()), float(weights.square().sum())])
    if rank == 0:
        torch.save(weights, folder / "weights.pt")
