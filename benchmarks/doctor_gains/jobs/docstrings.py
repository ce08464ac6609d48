"""A plain loop: fill in the bytes that are missing from documentation, 32 texts an update."""

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import batchwright as bw
from batchwright.torch import PlanLoader, Precision, windows
from benchmarks.doctor_gains.jobs.common import Meter, examples, options_of

with examples():
    import docstrings


def main() -> None:
    options = options_of(__doc__, batch_size=32)
    torch.manual_seed(0)
    samples = docstrings.task(quick=False).samples[: options.samples]
    lengths = [len(each["tokens"]) for each in samples]
    model = docstrings.Filler(width=64, layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    meter = Meter(options.updates)

    def count(batch) -> None:
        meter.count(int((batch["tokens"] != docstrings.PAD).sum()), batch["tokens"].numel())

    def train() -> None:
        loader = DataLoader(
            samples,
            batch_size=options.batch_size,
            shuffle=True,
            collate_fn=docstrings.collate,
        )
        while True:
            for batch in loader:
                scores = model(batch["tokens"]).flatten(0, 1)
                loss = cross_entropy(scores, batch["labels"].flatten())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                count(batch)
                if meter.update():
                    return

    def train_planned() -> None:
        planner = bw.Planner(lengths, batch_size=options.batch_size, accumulate=options.accumulate)
        loader = PlanLoader(samples, planner, collate_fn=docstrings.collate)
        precision = Precision("fp32")
        for epoch in range(1_000):
            loader.set_epoch(epoch)
            for window in windows(loader):
                with precision.update(model, optimizer, weight=window.tokens) as update:
                    for batch in window:
                        update.backward(docstrings.loss_sum, batch)
                        count(batch)
                if meter.update():
                    return

    train_planned() if options.planned else train()
    meter.report()


if __name__ == "__main__":
    main()
