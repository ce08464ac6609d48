"""A training job: a small Transformer learns to translate English help pages into German.

    batchwright compare examples/applications/translation.py            three seeds
    batchwright compare examples/applications/translation.py --quick    one

Each sample has two lengths, of source and target, and a batch is padded in both. The text comes in
two Debian packages (13 MB), which `apt-get` fetches when it is first needed: see
`translation_pairs.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention
from translation_pairs import pairs

import batchwright as bw
from batchwright.compare import Task
from batchwright.torch import PadCollator

PAD = 0
END = 1
"""The last token of a source, the first that a target is predicted from, and its last."""

IGNORED = -100
"""What predicted tokens are padded with: these positions have no loss."""

Sample = tuple[Tensor, Tensor, Tensor]
"""Source, target as the decoder reads it, and one token further, as it is to be predicted."""

Batch = tuple[Tensor, Tensor, Tensor]
"""The same, int64[rows, longest source], int64[rows, longest target] twice, padded."""


@dataclass(frozen=True, eq=False)
class TranslationJob:
    """What is trained, on what, and how well; not in which batches.

    Args:
        samples: To train on.
        validation: Of other pages than those.
        vocabulary: Number of tokens that exist, of both languages together.
        context: The longest that a source or a target can be, tokens.
        width: Numbers per token inside the model.
        layers: Blocks of the encoder, and of the decoder.
        learning_rate: The highest of the run.
        pad_to_multiple_of: Rows are padded to multiples of this.
        seed: Of the model's first weights.
    """

    samples: Sequence[Sample]
    validation: Sequence[Sample]
    vocabulary: int
    context: int
    width: int = 96
    layers: int = 2
    learning_rate: float = 3e-3
    pad_to_multiple_of: int = 1
    seed: int = 0

    @cached_property
    def collate(self) -> PadCollator:
        """Makes a batch of samples."""
        return PadCollator(
            (PAD, PAD, IGNORED),
            pad_to_multiple_of=self.pad_to_multiple_of,
            columns={0: 0, 1: 1, 2: 1},
        )

    @cached_property
    def lengths(self) -> np.ndarray:
        """Source and target length of each sample, int64[n, 2], tokens."""
        return _lengths(self.samples)

    def model(self) -> "Translator":
        """Make the model: the same first weights at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return Translator(self.vocabulary, self.context, self.width, self.layers)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            model.parameters(), self.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the *sum* of the loss over the batch's real target tokens."""
        source, read, predicted = batch
        scores = model(source, read).flatten(0, 1)
        return cross_entropy(
            scores.float(), predicted.flatten(), reduction="sum", ignore_index=IGNORED
        )

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> float:
        """Return the mean loss of a target token of the validation set, nats: exact."""
        lengths = _lengths(self.validation)
        plan = bw.plan(lengths, max_tokens=8 * self.context, seed=self.seed)
        batches = (self.collate([self.validation[i] for i in batch]) for batch in plan)
        total = sum(self.loss_sum(model, batch).item() for batch in batches)
        return total / int(lengths[:, 1].sum())

    def without_padding(
        self, batches: Sequence[np.ndarray]
    ) -> tuple["TranslationJob", list[np.ndarray]]:
        """Cut the same text into batches of about the same shapes without padding.

        Sources and targets of a batch are all equally long: no batching can train faster. What a
        row holds makes no sense, so it says something about speed only.

        Returns:
            The job on rows cut from the text as if each language were one string, and its batches.
        """
        texts = [torch.cat(column) for column in zip(*self.samples, strict=True)]
        samples: list[Sample] = []
        uniform = []
        start = 0
        for batch in batches:
            lengths = np.rint(self.lengths[batch].mean(axis=0)).astype(int)[[0, 1, 1]].tolist()
            uniform.append(np.arange(len(samples), len(samples) + len(batch)))
            for _ in batch:
                if any(
                    start + length > text.numel()
                    for text, length in zip(texts, lengths, strict=True)
                ):
                    start = 0
                rows = zip(texts, lengths, strict=True)
                samples.append(tuple(text[start : start + length] for text, length in rows))
                start += max(lengths)
        return replace(self, samples=samples), uniform


class Translator(nn.Module):
    """An encoder and a decoder (Vaswani et al., 2017), with one vocabulary and one embedding."""

    def __init__(self, vocabulary: int, context: int, width: int, layers: int):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.positions = nn.Embedding(context, width)
        self.encoder = nn.ModuleList(Block(width, width // 32) for _ in range(layers))
        self.decoder = nn.ModuleList(Block(width, width // 32, cross=True) for _ in range(layers))
        self.norm_source, self.norm_target = nn.RMSNorm(width), nn.RMSNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.positions.weight, std=0.1)
        nn.init.zeros_(self.head.weight)  # the first guess is "all tokens alike"

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """int64[rows, s], int64[rows, t] → float32[rows, t, vocabulary]."""
        # Targets are padded after their tokens, where causal attention never looks.
        mask = (source != PAD)[:, None, None, :]
        x = self._embedded(source)
        for block in self.encoder:
            x = block(x, mask=mask)
        x, y = self.norm_source(x), self._embedded(target)
        for block in self.decoder:
            y = block(y, source=x, mask=mask)
        return self.head(self.norm_target(y))

    def _embedded(self, tokens: Tensor) -> Tensor:
        return self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]


class Block(nn.Module):
    """Attention to one's own row, in a decoder also to the source's, and two products."""

    def __init__(self, width: int, heads: int, *, cross: bool = False):
        super().__init__()
        self.heads = heads
        self.norm_self, self.norm_feed = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attend = nn.Linear(width, 3 * width, bias=False)
        self.attended = nn.Linear(width, width, bias=False)
        self.feed = nn.Linear(width, 4 * width, bias=False)
        self.fed = nn.Linear(4 * width, width, bias=False)
        last = [self.attended, self.fed]
        self.cross = cross
        if cross:
            self.norm_cross = nn.RMSNorm(width)
            self.ask = nn.Linear(width, width, bias=False)
            self.answer = nn.Linear(width, 2 * width, bias=False)
            self.crossed = nn.Linear(width, width, bias=False)
            last.append(self.crossed)
        for layer in last:  # each block begins as the identity
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, *, mask: Tensor, source: Tensor | None = None) -> Tensor:
        query, key, value = self._heads(self.attend(self.norm_self(x)), 3)
        own = {"is_causal": True} if self.cross else {"attn_mask": mask}
        x = x + self.attended(_joined(scaled_dot_product_attention(query, key, value, **own)))
        if source is not None:
            (query,) = self._heads(self.ask(self.norm_cross(x)), 1)
            key, value = self._heads(self.answer(source), 2)
            seen = scaled_dot_product_attention(query, key, value, attn_mask=mask)
            x = x + self.crossed(_joined(seen))
        return x + self.fed(gelu(self.feed(self.norm_feed(x))))

    def _heads(self, projected: Tensor, parts: int) -> Tensor:
        """float[rows, length, parts · width] → float[parts, rows, heads, length, width ÷ heads]."""
        rows, length, _ = projected.shape
        return projected.view(rows, length, parts, self.heads, -1).permute(2, 0, 3, 1, 4)


def _joined(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)


def _lengths(samples: Sequence[Sample]) -> np.ndarray:
    return np.array([(source.numel(), read.numel()) for source, read, _ in samples])


def prepare(
    *,
    num_samples: int = 20_000,
    num_validation: int = 500,
    vocabulary: int = 4_096,
    context: int = 256,
    seed: int = 0,
) -> TranslationJob:
    """Collect pairs, learn a vocabulary from those to train on, and encode all.

    Args:
        num_samples: Pairs to train on; fewer if there are fewer.
        num_validation: Pairs to validate on, of pages that are not trained on.
        vocabulary: Tokens of the vocabulary of both languages (byte-pair encoding).
        context: Longer sources and targets are cut to this many tokens.
        seed: Chooses the pages, the pairs, and the model's first weights.

    Raises:
        NoPackageError: If the texts cannot be had.
    """
    found = pairs()
    rng = np.random.default_rng(seed)
    pages = np.array([pair.page for pair in found])
    names = np.unique(pages)
    held_out = np.isin(pages, names[rng.permutation(names.size)[: names.size // 20]])
    others, kept = (rng.permutation(np.flatnonzero(mask)) for mask in (held_out, ~held_out))
    chosen = [found[i] for i in np.concatenate((others[:num_validation], kept[:num_samples]))]
    validated = min(num_validation, others.size)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for pair in chosen[validated:] for text in pair[:2])
    tokenizer.train_from_iterator(texts, trainer)
    sources, targets = (
        tokenizer.encode_batch([pair[side] for pair in chosen], add_special_tokens=False)
        for side in (0, 1)
    )
    samples = []
    for source, target in zip(sources, targets, strict=True):
        read = torch.tensor([END, *target.ids, END][: context + 1])
        samples.append((torch.tensor([*source.ids[: context - 1], END]), read[:-1], read[1:]))
    return TranslationJob(samples[validated:], samples[:validated], vocabulary, context, seed=seed)


def task(*, quick: bool = False) -> Task:
    """Describe the job for `batchwright compare`."""
    job = prepare(
        num_samples=2_000 if quick else 5_000,
        num_validation=150 if quick else 400,
        vocabulary=2_048 if quick else 4_096,
        context=128,
    )
    width = 128 if quick else 256

    def model() -> Translator:
        return Translator(job.vocabulary, job.context, width, job.layers)

    return Task(
        samples=job.samples,
        lengths=job.lengths,
        collate=job.collate,
        model=model,
        optimizer=job.optimizer,
        loss_sum=job.loss_sum,
        evaluate=job.evaluate,
        batch_size=32 if quick else None,  # what most would begin with
        max_tokens=1_024 if quick else 2_048,
        step_tokens=None if quick else 4_096,
        metric="validation loss of a token",
        device="cpu",  # where validation data are
        strategies=["plain", "grouped", "planned", *([] if quick else ["planned+auto"])],
    )
