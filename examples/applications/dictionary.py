"""A training job: predict the next token of dictionary articles.

    batchwright compare examples/applications/dictionary.py            three seeds
    batchwright compare examples/applications/dictionary.py --quick    one

The articles of a dictionary of computing, from two words to pages, most of them short. They come
in a Debian package (2 MB), which `apt-get` fetches when it is first needed.
"""

import gzip
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from debian_packages import unpacked
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import batchwright as bw
from batchwright.compare import Task
from batchwright.torch import PadCollator

PACKAGE = "dict-foldoc"

PAD = 0

VOCABULARY = 1_024

LONGEST = 256
"""Longer articles are cut to this many tokens."""

DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
"""Of the numbers in the index of the dictionary."""

Sample = dict[str, Tensor]
"""``"tokens"``, int64[length], and ``"labels"``, the token after each."""

Batch = dict[str, Tensor]
"""The same, int64[rows, longest], padded."""

collate = PadCollator({"tokens": PAD})


class Writer(nn.Module):
    """A recurrent network (Cho et al., 2014) ."""

    def __init__(self, width: int):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width, padding_idx=PAD)
        self.read = nn.GRU(width, 2 * width, batch_first=True)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64[rows, length] → scores, float[rows, length, VOCABULARY]."""
        read = self.narrow(self.read(self.tokens(tokens))[0])
        return read @ self.tokens.weight.T


def articles(folder: Path) -> list[str]:
    """Read the articles of a dictionary, in the sequence of the file; each once."""
    content = gzip.decompress((folder / "usr/share/dictd/foldoc.dict.dz").read_bytes())
    lines = (folder / "usr/share/dictd/foldoc.index").read_text(encoding="utf-8").splitlines()
    places = {tuple(map(_number, line.split("\t")[1:])) for line in lines}
    texts = (
        content[start : start + size].decode("utf-8", "replace") for start, size in sorted(places)
    )
    return list(dict.fromkeys(" ".join(text.split()) for text in texts))


def _number(digits: str) -> int:
    number = 0
    for digit in digits:
        number = 64 * number + DIGITS.index(digit)
    return number


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Return the *sum* of the loss over the tokens, but the first of each article."""
    scores = model(batch["tokens"]).float().flatten(0, 1)
    return cross_entropy(scores, batch["labels"].flatten(), reduction="sum")


def mean_loss(model: nn.Module, samples: Sequence[Sample]) -> float:
    """Return the mean loss of a token, nats."""
    plan = bw.plan([len(each["tokens"]) for each in samples], max_tokens=8_192)
    batches = (collate([samples[row] for row in rows]) for rows in plan)
    predicted = sum(len(each["tokens"]) for each in samples)
    return sum(loss_sum(model, batch).item() for batch in batches) / predicted


def prepare(*, num_samples: int, num_validation: int) -> list[Sample]:
    """Read, learn a vocabulary from the articles to train on, and encode: validation comes first.

    Raises:
        NoPackageError: If the articles cannot be had.
    """
    found = articles(unpacked(PACKAGE))
    order = np.random.default_rng(0).permutation(len(found))[: num_samples + num_validation]
    texts = [found[index] for index in order]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts[num_validation:], trainer)
    encoded = (torch.tensor(each.ids[:LONGEST]) for each in tokenizer.encode_batch(texts))
    return [{"tokens": ids[:-1], "labels": ids[1:]} for ids in encoded if len(ids) > 1]


def task(*, quick: bool = False) -> Task:
    """Describe the job for `batchwright compare`."""
    num_validation = 150 if quick else 500
    every = prepare(num_samples=1_000 if quick else 4_000, num_validation=num_validation)
    validation, samples = every[:num_validation], every[num_validation:]
    return Task(
        samples=samples,
        lengths=[len(each["tokens"]) for each in samples],
        collate=collate,
        model=lambda: Writer(width=64),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), 3e-3, fused=True),
        loss_sum=loss_sum,
        evaluate=lambda model: mean_loss(model, validation),
        batch_size=32,
        epochs=2,
        metric="loss of a token",
        device="cpu",  # where validation data are
        strategies=["plain", "grouped", "planned", "planned+curriculum:length", "planned+bf16"],
    )
