"""Accelerate: what kind of thing a dictionary defines, 64 glosses an update."""

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import batchwright as bw
from batchwright.torch import PlanLoader, Precision, windows
from benchmarks.doctor_gains.jobs.common import Meter, examples, options_of

with examples():
    import text_classification

VOCABULARY = 4_096


def main() -> None:
    options = options_of(__doc__, batch_size=64)
    torch.manual_seed(0)
    count_of = options.samples or 6_000
    samples, _ = text_classification.prepare(
        num_samples=count_of, num_validation=100, vocabulary=VOCABULARY
    )
    samples = samples[100:]
    lengths = [len(each["tokens"]) for each in samples]
    accelerator = Accelerator(cpu=True)
    model = text_classification.Reader(VOCABULARY, width=96, layers=2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    collate = text_classification.collate
    meter = Meter(options.updates)

    def count(batch) -> None:
        tokens = batch["tokens"]
        meter.count(int((tokens != text_classification.PAD).sum()), tokens.numel())

    def train(model, optimizer) -> None:
        loader = DataLoader(
            samples, batch_size=options.batch_size, shuffle=True, collate_fn=collate
        )
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        while True:
            for batch in loader:
                loss = cross_entropy(model(batch["tokens"]), batch["labels"])
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                count(batch)
                if meter.update():
                    return

    def train_planned(model, optimizer) -> None:
        planner = bw.Planner(lengths, batch_size=options.batch_size, accumulate=options.accumulate)
        loader = PlanLoader(samples, planner, collate_fn=collate)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        precision = Precision("fp32")
        for epoch in range(1_000):
            loader.set_epoch(epoch)
            for window in windows(loader):
                with precision.update(model, optimizer, weight=window.tokens) as update:
                    for batch in window:
                        update.backward(text_classification.loss_sum, batch)
                        count(batch)
                if meter.update():
                    return

    (train_planned if options.planned else train)(model, optimizer)
    meter.report()
    accelerator.end_training()


if __name__ == "__main__":
    main()
