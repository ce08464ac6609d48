"""Train in a loop of your own: the ten lines of the README as a program.

    python examples/loops/pytorch.py

Batches of at most 4,096 tokens, two to an update, exact gradients, and the precision that is
measured to be the fastest.
"""

import sys

import torch
from byte_model import Net, loss_sum, samples

import batchwright as bw
from batchwright.torch import PadCollator, PlanLoader, Precision, windows

EPOCHS = 2


def main() -> None:
    """Train, and print the mean loss of each epoch."""
    torch.manual_seed(0)
    dataset, lengths = samples()
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    planner = bw.Planner(lengths, batching=bw.TokenBudget(4_096), accumulate=2)
    print(planner(0).stats(lengths))
    loader = PlanLoader(dataset, planner, collate_fn=PadCollator())
    precision = Precision("auto")

    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        total = tokens = 0.0
        for window in windows(loader):
            with precision.update(model, optimizer, weight=window.tokens, clip=1.0) as update:
                for batch in window:
                    update.backward(loss_sum, batch)
            total, tokens = total + update.loss * window.tokens, tokens + window.tokens
        print(f"epoch {epoch}: loss {total / tokens:.3f} in {precision.mode}")


if __name__ == "__main__":
    sys.exit(main())
