"""Two ranks over a stream: what they read, and what is said of it.

    python streams_of_ranks.py RANK STORE OUT KIND WORKERS

KIND is "whole", "own part" (each rank reads its own), "own text" (as long, but other samples) or
"before" (a sampler is used before there are ranks).
"""

import json
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed
from torch.utils.data import DataLoader, IterableDataset

import batchwright as bw
from batchwright.torch import PlanBatchSampler, StreamDataset


class Samples(IterableDataset):
    def __init__(self, kind, rank):
        self.kind, self.rank = kind, rank

    def __iter__(self):
        first = self.rank if self.kind == "own part" else 0
        for number in range(first, 80, 2 if self.kind == "own part" else 1):
            length = 5 if self.kind == "own text" else 1 + number * 7 % 9
            yield [number + 1000 * self.rank * (self.kind == "own text")] * length


def numbers(loader):
    return [sample[0] for batch in loader for sample in batch]


def main():
    rank, store, out, kind, workers = int(sys.argv[1]), *sys.argv[2:5], int(sys.argv[5])
    torch.set_num_threads(1)
    found = {"error": None, "seen": []}

    def go():
        data = StreamDataset(
            Samples(kind, rank),
            batching=bw.TokenBudget(30),
            buffer_size=16,
            presharded=False if workers else None,
        )
        loader = DataLoader(data, batch_size=None, num_workers=workers)
        for epoch in range(2):
            data.set_epoch(epoch)
            found["seen"].append(numbers(loader))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if kind == "before":
            planner = bw.Planner([5, 3, 8, 2, 7, 1] * 10, batching=bw.TokenBudget(20))
            sampler = PlanBatchSampler(planner)
            len(sampler)
            try:
                next(iter(sampler))
            except bw.errors.PlanError as error:
                found["error"] = str(error)
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=2,
            timeout=timedelta(seconds=600),
        )
        try:
            if kind == "before":
                found["seen"].append([index for batch in sampler for index in batch])
            else:
                go()
        except bw.errors.PlanError as error:
            found["error"] = str(error)
        finally:
            # Ranks that end apart would take the meeting place from one another.
            distributed.barrier()
            distributed.destroy_process_group()
    found["warnings"] = [str(each.message) for each in caught]
    Path(out, f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
