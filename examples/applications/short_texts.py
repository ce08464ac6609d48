"""A training job: which drawer of a collection of sayings does a text come from?

    batchwright compare examples/applications/short_texts.py            three seeds
    batchwright compare examples/applications/short_texts.py --quick    one

Quotations, jokes, definitions and verses, from a word to several hundred. They come in two Debian
packages (1 MB), which `apt-get` fetches when they are first needed.
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

PACKAGES = ("fortunes", "fortunes-min")

PAD = 0

UNKNOWN = "<unknown>"

VOCABULARY = 4_096

LONGEST = 256
"""Longer texts are cut to this many tokens."""

FEWEST = 200
"""Drawers with fewer texts are left out."""

Sample = dict[str, Tensor | int]
"""``"tokens"``, int64[length], and ``"labels"``, the number of the drawer."""

Batch = dict[str, Tensor]
"""``"tokens"``, int64[rows, longest], padded, and ``"labels"``, int64[rows]."""

collate = PadCollator({"tokens": PAD})


class Reader(nn.Module):
    """A recurrent network, and the largest of what it says at any word."""

    def __init__(self, num_drawers: int, width: int):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width, padding_idx=PAD)
        self.read = nn.GRU(width, width, batch_first=True)
        self.decide = nn.Linear(width, num_drawers)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64[rows, length] → scores, float[rows, drawers]."""
        read = self.read(self.embed(tokens))[0]
        return self.decide(read.masked_fill((tokens == PAD)[:, :, None], -1.0).amax(1))


def drawers(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Read the texts of each drawer, each once; small drawers are left out."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        for path in sorted((folder / "usr/share/games/fortunes").iterdir()):
            if not path.suffix and path.is_file() and not path.is_symlink():
                content = path.read_text(encoding="utf-8", errors="replace")
                texts = [text.strip() for text in content.split("\n%\n")]
                found[path.name] = list(dict.fromkeys(filter(None, texts)))
    return {name: texts for name, texts in sorted(found.items()) if len(texts) >= FEWEST}


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Return the *sum* of the loss over the texts."""
    return cross_entropy(model(batch["tokens"]).float(), batch["labels"], reduction="sum")


def mean_loss(model: nn.Module, samples: Sequence[Sample]) -> float:
    """Return the mean loss of a text, nats."""
    plan = bw.plan([len(each["tokens"]) for each in samples], max_tokens=8_192)
    batches = (collate([samples[row] for row in rows]) for rows in plan)
    return sum(loss_sum(model, batch).item() for batch in batches) / len(samples)


def prepare(*, num_samples: int, num_validation: int) -> tuple[list[Sample], int]:
    """Read, learn a vocabulary from the texts to train on, and encode: validation comes first.

    Returns:
        Samples, and the number of drawers.

    Raises:
        NoPackageError: If the texts cannot be had.
    """
    found = drawers([unpacked(package) for package in PACKAGES])
    labelled = [(text, label) for label, texts in enumerate(found.values()) for text in texts]
    order = np.random.default_rng(0).permutation(len(labelled))[: num_samples + num_validation]
    texts, labels = zip(*(labelled[index] for index in order), strict=True)
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<pad>", UNKNOWN], show_progress=False
    )
    tokenizer.train_from_iterator(texts[num_validation:], trainer)
    samples: list[Sample] = [
        {"tokens": torch.tensor(each.ids[:LONGEST]), "labels": label}
        for each, label in zip(tokenizer.encode_batch(list(texts)), labels, strict=True)
    ]
    return samples, len(found)


def task(*, quick: bool = False) -> Task:
    """Describe the job for `batchwright compare`."""
    num_validation = 300 if quick else 1_500
    every, num_drawers = prepare(
        num_samples=1_500 if quick else 8_000, num_validation=num_validation
    )
    validation, samples = every[:num_validation], every[num_validation:]
    return Task(
        samples=samples,
        lengths=[len(each["tokens"]) for each in samples],
        collate=collate,
        model=lambda: Reader(num_drawers, width=64),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), 3e-3, fused=True),
        loss_sum=loss_sum,
        evaluate=lambda model: mean_loss(model, validation),
        batch_size=32,
        metric="validation loss",
        device="cpu",  # where validation data are
        labels=[each["labels"] for each in samples],
        strategies=["plain", "grouped", "planned", "planned+curriculum:length", "planned+bf16"],
    )
