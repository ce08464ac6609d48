"""A plain loop over a PlanLoader, on any number of ranks.

python planned.py FOLDER [--resume], or by torchrun
"""

import gc
import os

import torch
from samples import EPOCHS, LENGTHS, SAMPLES, Model, collate, loss_of, options, save
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import batchwright as bw
from batchwright.torch import PlanLoader


def train(given, rank, ranks):
    """Train, from the last checkpoint if that is asked for."""
    torch.manual_seed(0)
    own = Model()
    optimizer = torch.optim.AdamW(own.parameters(), lr=0.01)
    loader = PlanLoader(SAMPLES, bw.Planner(LENGTHS, max_tokens=128), collate_fn=collate)
    path, updates = given.folder / "last.pt", 0
    if given.resume:
        state = torch.load(path)
        own.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["loader"])
        updates = state["updates"]
    model = DistributedDataParallel(own) if ranks > 1 else own
    for epoch in range(loader.epoch, EPOCHS):
        loader.set_epoch(epoch)
        for batch in loader:
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            updates += 1
            if updates % given.every == 0 and rank == 0:
                state = {"model": own.state_dict(), "optimizer": optimizer.state_dict()}
                save({**state, "loader": loader.state_dict(), "updates": updates}, path)


if __name__ == "__main__":
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        distributed.init_process_group("gloo")
    try:
        train(options(), rank, ranks)
    finally:  # the threads of a group that outlives the interpreter abort the process
        gc.collect()
        if distributed.is_initialized():
            distributed.destroy_process_group()
