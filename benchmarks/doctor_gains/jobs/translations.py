"""A plain loop that accumulates: English, then its German, as one text; 16 pairs × 2 an update."""

from itertools import islice

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import batchwright as bw
from batchwright.torch import PadCollator, PlanLoader, Precision, windows
from benchmarks.doctor_gains.jobs.common import Meter, examples, options_of

with examples():
    from language_model import GPT
    from translation_pairs import pairs

VOCABULARY, CONTEXT = 2_048, 256
END = 1

collate = PadCollator({"tokens": 0})


def prepare(num_samples: int) -> list[dict[str, Tensor]]:
    """Encode pairs: only German is to be predicted."""
    found = pairs()
    chosen = [found[row] for row in np.random.default_rng(0).permutation(len(found))[:num_samples]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for pair in chosen for text in pair[:2]), trainer)
    sources, targets = (
        tokenizer.encode_batch([pair[column] for pair in chosen]) for column in (0, 1)
    )
    samples = []
    for source, target in zip(sources, targets, strict=True):
        tokens = torch.tensor([*source.ids, END, *target.ids, END])[: CONTEXT + 1]
        labels = tokens[1:].clone()
        labels[: len(source.ids)] = -100
        samples.append({"tokens": tokens[:-1], "labels": labels})
    return samples


def scores_of(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the scores of each token."""
    return model.head(model(batch["tokens"])).flatten(0, 1)


def loss_sum(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the *sum* of the loss over the German tokens."""
    return cross_entropy(scores_of(model, batch), batch["labels"].flatten(), reduction="sum")


def main() -> None:
    options = options_of(__doc__, batch_size=16, accumulate=2)
    torch.manual_seed(0)
    samples = prepare(options.samples or 4_000)
    lengths = [len(each["tokens"]) for each in samples]
    model = GPT(VOCABULARY, CONTEXT, width=96, layers=2)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    meter = Meter(options.updates)

    def count(batch) -> None:
        meter.count(int((batch["tokens"] != 0).sum()), batch["tokens"].numel())

    def train() -> None:
        loader = DataLoader(
            samples,
            batch_size=options.batch_size,
            shuffle=True,
            drop_last=True,
            collate_fn=collate,
        )
        while True:
            batches = iter(loader)
            for _ in range(len(loader) // options.accumulate):
                for batch in islice(batches, options.accumulate):
                    loss = cross_entropy(scores_of(model, batch), batch["labels"].flatten())
                    (loss / options.accumulate).backward()
                    count(batch)
                optimizer.step()
                optimizer.zero_grad()
                if meter.update():
                    return

    def train_planned() -> None:
        planner = bw.Planner(lengths, batch_size=options.batch_size, accumulate=options.accumulate)
        loader = PlanLoader(samples, planner, collate_fn=collate)
        precision = Precision("fp32")
        for epoch in range(1_000):
            loader.set_epoch(epoch)
            for window in windows(loader):
                with precision.update(model, optimizer, weight=window.tokens) as update:
                    for batch in window:
                        update.backward(loss_sum, batch)
                        count(batch)
                if meter.update():
                    return

    train_planned() if options.planned else train()
    meter.report()


if __name__ == "__main__":
    main()
