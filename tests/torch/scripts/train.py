"""A training run that can be killed at any moment and resumed on other ranks and workers.

    python train.py OUT --epochs 2 --workers 2 --resume FILE --rank R --world-size W --store FILE

After each batch, what this rank has seen and where the run is are written to OUT/rank-R.json in
one move, so that the file is whole whenever the process dies.
"""

import argparse
import gc
import json
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

import batchwright as bw
from batchwright.torch import PadCollator, PlanBatchSampler


class Sequences(Dataset):
    """Sample i begins with i: what was trained on can be read off a batch."""

    def __init__(self, lengths):
        self.lengths = lengths

    def __getitem__(self, index):
        return {"input_ids": np.full(self.lengths[index], index), "index": index}


class Mean(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.embedding = nn.Embedding(size, 8)
        self.head = nn.Linear(8, 1)

    def forward(self, batch):
        return self.head(self.embedding(batch["input_ids"]).mean(1)).square().sum()


def lengths_of(count):
    return np.random.default_rng(0).integers(1, 40, count)


def planner_of(count):
    """Plan as a script does that knows nothing of ranks: world_size=1 is the default."""
    return bw.Planner(lengths_of(count), batching=bw.TokenBudget(64), seed=5)


def write(path, content):
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    partial.replace(path)


def train(options):
    torch.manual_seed(0)
    sampler = PlanBatchSampler(planner_of(options.samples))
    state = None
    if options.resume:
        state = json.loads(options.resume.read_text())["state"]
        sampler.load_state_dict(state)
    loader = DataLoader(
        Sequences(lengths_of(options.samples)),
        batch_sampler=sampler,
        collate_fn=PadCollator(),
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
    )
    model = Mean(options.samples)
    if distributed.is_initialized():
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen, counts = [], {}
    out = options.out / f"rank-{options.rank}.json"
    for epoch in range(0 if state is None else state["epoch"], options.epochs):
        sampler.set_epoch(epoch)
        counts[epoch] = 0
        for consumed, batch in enumerate(loader, start=1):
            model(batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            seen.append([epoch, batch["index"].tolist()])
            counts[epoch] = consumed
            write(out, {"seen": seen, "state": sampler.state_after(consumed)})
            if len(seen) == options.stop_at:
                time.sleep(10_000)
    digests = [planner_of(options.samples).resized(options.world_size)(1).digest()]
    if distributed.is_initialized():
        every = [None] * options.world_size
        distributed.all_gather_object(every, digests[0])
        digests = every
    result = {"seen": seen, "counts": counts, "length": len(sampler), "digests": digests}
    write(options.out / f"done-{options.rank}.json", result)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--stop-at", type=int, help="batches, and wait there to be killed")
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world-size", type=int, default=1)
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    with group(options) if options.store else nullcontext():
        train(options)


class group:  # noqa: N801 (a context manager)
    def __init__(self, options):
        self.options = options

    def __enter__(self):
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{self.options.store}",
            rank=self.options.rank,
            world_size=self.options.world_size,
        )

    def __exit__(self, kind, *_):
        if kind is None:
            distributed.barrier()
        # What DDP still holds of the group would be torn down after the interpreter: an abort.
        gc.collect()
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
