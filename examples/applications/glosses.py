"""A training job: what kind of thing does a dictionary define?

    batchwright compare examples/applications/glosses.py            three seeds
    batchwright compare examples/applications/glosses.py --quick    one

WordNet (Miller, 1995) sorts its senses into 45 files: animals, foods, verbs of motion. Each sense
has a gloss, of a word to eighty. They come in a Debian package (6 MB), which `apt-get` fetches
when it is first needed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from debian_packages import unpacked
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import batchwright as bw
from batchwright.compare import Task
from batchwright.torch import PadCollator

PACKAGE = "wordnet-base"

PARTS = ("noun", "verb", "adj", "adv")

NUM_KINDS = 45

PAD = 0

UNKNOWN = "<unknown>"

VOCABULARY = 4_096

LONGEST = 128
"""Longer glosses are cut to this many tokens."""

Sample = dict[str, Tensor | int]
"""``"tokens"``, int64[length], and ``"labels"``, the number of the file."""

Batch = dict[str, Tensor]
"""``"tokens"``, int64[rows, longest], padded, and ``"labels"``, int64[rows]."""

collate = PadCollator({"tokens": PAD})


class Classifier(nn.Module):
    """A Transformer encoder (Vaswani et al., 2017), and the mean of what it says of the tokens."""

    def __init__(self, width: int, layers: int):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width, padding_idx=PAD)
        self.positions = nn.Embedding(LONGEST, width)
        layer = nn.TransformerEncoderLayer(
            width, width // 32, 2 * width, dropout=0.1, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.decide = nn.Linear(width, NUM_KINDS)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64[rows, length] → scores, float[rows, kinds]."""
        is_pad = tokens == PAD
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        read = self.encoder(x, src_key_padding_mask=is_pad).masked_fill(is_pad[:, :, None], 0.0)
        return self.decide(read.sum(1) / (~is_pad).sum(1, keepdim=True))


def glosses(folder: Path) -> list[tuple[str, int]]:
    """Read the glosses of WordNet, each with the number of its file."""
    found = []
    for part in PARTS:
        path = folder / "usr/share/wordnet" / f"data.{part}"
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith(" "):  # of the licence
                sense, gloss = line.split(" | ", maxsplit=1)
                found.append((gloss.strip(), int(sense.split()[1])))
    return found


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Return the *sum* of the loss over the glosses."""
    return cross_entropy(model(batch["tokens"]).float(), batch["labels"], reduction="sum")


def mean_loss(model: nn.Module, samples: Sequence[Sample]) -> float:
    """Return the mean loss of a gloss, nats."""
    plan = bw.plan([len(each["tokens"]) for each in samples], max_tokens=8_192)
    batches = (collate([samples[row] for row in rows]) for rows in plan)
    return sum(loss_sum(model, batch).item() for batch in batches) / len(samples)


def prepare(*, num_samples: int, num_validation: int) -> list[Sample]:
    """Read, learn a vocabulary from the glosses to train on, and encode: validation comes first.

    Raises:
        NoPackageError: If the glosses cannot be had.
    """
    found = glosses(unpacked(PACKAGE))
    order = np.random.default_rng(0).permutation(len(found))[: num_samples + num_validation]
    texts, labels = zip(*(found[index] for index in order), strict=True)
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<pad>", UNKNOWN], show_progress=False
    )
    tokenizer.train_from_iterator(texts[num_validation:], trainer)
    return [
        {"tokens": torch.tensor(each.ids[:LONGEST]), "labels": label}
        for each, label in zip(tokenizer.encode_batch(list(texts)), labels, strict=True)
    ]


def task(*, quick: bool = False) -> Task:
    """Describe the job for `batchwright compare`."""
    num_validation = 500 if quick else 2_000
    every = prepare(num_samples=2_000 if quick else 12_000, num_validation=num_validation)
    validation, samples = every[:num_validation], every[num_validation:]
    return Task(
        samples=samples,
        lengths=[len(each["tokens"]) for each in samples],
        collate=collate,
        model=lambda: Classifier(width=64, layers=2),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), 2e-3, fused=True),
        loss_sum=loss_sum,
        evaluate=lambda model: mean_loss(model, validation),
        batch_size=32,
        metric="validation loss",
        device="cpu",  # where validation data are
        labels=[each["labels"] for each in samples],
        strategies=["plain", "grouped", "planned", "planned+curriculum:length", "planned+bf16"],
    )
