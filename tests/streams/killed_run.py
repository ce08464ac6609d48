"""A run over a stream that can be killed at any moment, and goes on where it was.

    python killed_run.py OUT WORKERS STOP_AT

It stops where it has seen STOP_AT batches, if it has not been killed by then; 0 stops nowhere.
What it has seen and the loader's state are kept in OUT/kept.pt after each batch, in one move.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

import batchwright as bw
from batchwright.torch import PadCollator
from batchwright.torch.data.stream_dataset import StreamDataset

LENGTHS = np.random.default_rng(0).integers(1, 30, 451)
BUDGET = 120


def sample(number):
    """Sample i holds nothing but i: what was trained on can be read off a batch."""
    return {"input_ids": torch.full((int(LENGTHS[number]),), number)}


def size(each):
    return len(each["input_ids"])


def from_start(start):
    return (sample(number) for number in range(start, LENGTHS.size))


def pairs_from_start(start):
    """The same with labels of another length: those of the sample as far from the end."""
    last = LENGTHS.size - 1
    return (
        sample(number) | {"labels": torch.full((int(LENGTHS[last - number]),), number)}
        for number in range(start, LENGTHS.size)
    )


def sizes(each):
    return len(each["input_ids"]), len(each["labels"])


PAIRS = {
    "samples": pairs_from_start,
    "length": sizes,
    "batching": bw.TokenBudget((BUDGET, BUDGET + 20)),
}


def dataset_of(samples=from_start, **options):
    defaults = {
        "batching": bw.TokenBudget(BUDGET),
        "length": size,
        "collate": PadCollator(pad=-1),
        "buffer_size": 60,
        "seed": 3,
    }
    return StreamDataset(samples, **(defaults | options))


def numbers_of(batch):
    return batch["input_ids"][:, 0].tolist()


def main():
    out, workers, stop_at = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    dataset = dataset_of()
    loader = StatefulDataLoader(dataset, batch_size=None, num_workers=workers)
    seen, first = [], 0
    if (out / "kept.pt").exists():
        kept = torch.load(out / "kept.pt", weights_only=False)
        seen, first = kept["seen"], kept["epoch"]
        loader.load_state_dict(kept["loader"])
    for epoch in range(first, 2):
        dataset.set_epoch(epoch)
        for batch in loader:
            seen.append((epoch, numbers_of(batch)))
            torch.save(
                {"seen": seen, "epoch": epoch, "loader": loader.state_dict()}, out / "partial.pt"
            )
            (out / "partial.pt").replace(out / "kept.pt")
            if len(seen) == stop_at:
                time.sleep(10_000)


if __name__ == "__main__":
    main()
