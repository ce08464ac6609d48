"""A training job: classify words by their definitions in a dictionary.

    batchwright compare examples/applications/text_classification.py            three seeds
    batchwright compare examples/applications/text_classification.py --quick    one

The glosses are WordNet's, of 45 kinds (animal, feeling, motion, ...), from one word to eighty. They
come in a Debian package (6.5 MB), which `apt-get` fetches when it is first needed.
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

PAD = 0

UNKNOWN = "<unknown>"

NUM_KINDS = 45

CONTEXT = 96
"""Longer glosses are cut to this many tokens."""

Sample = dict[str, Tensor | int]
"""``"tokens"``, int64[length], and ``"labels"``, the number of the kind."""

Batch = dict[str, Tensor]
"""``"tokens"``, int64[rows, longest], padded, and ``"labels"``, int64[rows]."""

collate = PadCollator({"tokens": PAD})


class Reader(nn.Module):
    """A Transformer encoder (Vaswani et al., 2017) whose tokens' mean is read."""

    def __init__(self, vocabulary: int, width: int, layers: int):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.positions = nn.Embedding(CONTEXT, width)
        layer = nn.TransformerEncoderLayer(
            width, width // 32, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, NUM_KINDS)
        nn.init.normal_(self.positions.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64[rows, length] → scores, float[rows, 45]."""
        is_padding = tokens == PAD
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        x = self.norm(self.encoder(x, src_key_padding_mask=is_padding))
        x = x.masked_fill(is_padding[:, :, None], 0.0)
        return self.head(x.sum(1) / (~is_padding).sum(1, keepdim=True))


def glosses(folder: Path) -> list[tuple[str, int]]:
    """Read the glosses, each once, and the number of their kind.

    A line of WordNet's data files has the kind in its second field, the gloss after a bar; an
    example in quotation marks may follow, which is left out.
    """
    found: dict[str, int] = {}
    for path in sorted((folder / "usr/share/wordnet").glob("data.*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):
                head, _, gloss = line.partition("|")
                gloss = gloss.partition('; "')[0].strip()
                if gloss:
                    found.setdefault(gloss, int(head.split()[1]))
    return list(found.items())


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Return the *sum* of the loss over the glosses."""
    return cross_entropy(model(batch["tokens"]).float(), batch["labels"], reduction="sum")


def accuracy(model: nn.Module, samples: Sequence[Sample]) -> float:
    """Return the share of glosses whose kind gets the highest score."""
    right = 0
    for rows in bw.plan([len(each["tokens"]) for each in samples], max_tokens=4_096):
        batch = collate([samples[row] for row in rows])
        right += int((model(batch["tokens"]).argmax(1) == batch["labels"]).sum())
    return right / len(samples)


def prepare(
    *, num_samples: int, num_validation: int, vocabulary: int
) -> tuple[list[Sample], tuple[str, ...]]:
    """Read, learn a vocabulary from the glosses to train on, and encode: validation comes first.

    Returns:
        Samples, and their texts.

    Raises:
        NoPackageError: If the glosses cannot be had.
    """
    found = glosses(unpacked(PACKAGE))
    order = np.random.default_rng(0).permutation(len(found))[: num_samples + num_validation]
    texts, kinds = zip(*(found[index] for index in order), strict=True)
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", UNKNOWN]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts[num_validation:], trainer)
    encoded = tokenizer.encode_batch(list(texts))
    samples: list[Sample] = [
        {"tokens": torch.tensor(each.ids[:CONTEXT]), "labels": kind}
        for each, kind in zip(encoded, kinds, strict=True)
    ]
    return samples, texts


def task(*, quick: bool = False) -> Task:
    """Describe the job for `batchwright compare`."""
    num_validation = 800 if quick else 4_000
    vocabulary = 4_096
    every, texts = prepare(
        num_samples=6_000 if quick else 40_000,
        num_validation=num_validation,
        vocabulary=vocabulary,
    )
    validation, samples = every[:num_validation], every[num_validation:]
    return Task(
        samples=samples,
        lengths=[len(each["tokens"]) for each in samples],
        collate=collate,
        model=lambda: Reader(vocabulary, width=128, layers=2),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), 1e-3, fused=True),
        loss_sum=loss_sum,
        evaluate=lambda model: accuracy(model, validation),
        max_tokens=512,
        step_tokens=2_048,
        metric="accuracy",
        better="higher",
        difficulties={"length": [len(each["tokens"]) for each in samples]},
        device="cpu",  # where validation data are
        labels=[each["labels"] for each in samples],
        features=texts[num_validation:],
        strategies=["plain", "grouped", "planned", "planned+auto", "planned+curriculum"],
    )
