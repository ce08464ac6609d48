"""A training loop as many are written: random batches, fp32. `batchwright doctor` watches it.

python -m benchmarks.gpu.plain_loop [--tiny]
"""

import sys

import torch
from torch.utils.data import DataLoader

from benchmarks.gpu.models import GPT, text_loss
from benchmarks.gpu.sizes import sizes
from benchmarks.gpu.tasks import texts

UPDATES = 60


def main() -> None:
    """Train on random batches of the largest size that always fits."""
    own = sizes(tiny="--tiny" in sys.argv)
    task, device = texts(own), torch.device(own.device)
    rows = max(2, own.max_tokens // 2 // own.longest)
    loader = DataLoader(task.samples, batch_size=rows, shuffle=True, collate_fn=task.collate)
    model = GPT(own).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    for number, batch in enumerate(loader):
        if number == UPDATES:
            break
        there = {name: tensor.to(device) for name, tensor in batch.items()}
        loss = text_loss(model, there) / (there["labels"] != -100).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
