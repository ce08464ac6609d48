"""A training job: a small GPT learns to write Python.

The job says what is trained, on what, and how well: samples and their lengths, model, optimizer,
summed loss, evaluation. It does not know how samples become batches; whoever trains decides that.

    batchwright compare examples/applications/language_model.py            three seeds
    batchwright compare examples/applications/language_model.py --quick    one

The text is that of Python's own library: nothing is fetched.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from python_functions import functions
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

import batchwright as bw
from batchwright.compare import Task
from batchwright.torch import PadCollator

END = 0
"""The token before and after each function; also what inputs are padded with."""

IGNORED = -100
"""What targets are padded with: these positions have no loss."""

Sample = tuple[Tensor, Tensor]
"""Inputs and targets, int64[length] each: targets are the inputs, one token further."""

Batch = tuple[Tensor, Tensor]
"""The same, int64[rows, longest row] each, padded."""


@dataclass(frozen=True, eq=False)
class Job:
    """What is trained, on what, and how well; not in which batches.

    Args:
        samples: To train on.
        validation: Never trained on.
        vocabulary: Number of tokens that exist.
        context: The longest a sample can be, tokens.
        width: Numbers per token inside the model.
        layers: Blocks of the model.
        learning_rate: The highest of the run.
        pad_to_multiple_of: Rows are padded to multiples of this. A processor prepares its bf16
            kernels for each shape, which is not paid back where every batch has one of its own.
        seed: Of the model's first weights.
    """

    samples: Sequence[Sample]
    validation: Sequence[Sample]
    vocabulary: int
    context: int
    width: int = 96
    layers: int = 2
    learning_rate: float = 4e-3
    pad_to_multiple_of: int = 1
    seed: int = 0

    @cached_property
    def collate(self) -> PadCollator:
        """Makes a batch of samples."""
        return PadCollator((END, IGNORED), pad_to_multiple_of=self.pad_to_multiple_of)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Length of each sample, int64[n], tokens."""
        return np.array([inputs.numel() for inputs, _ in self.samples])

    def model(self) -> "GPT":
        """Make the model: the same first weights at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return GPT(self.vocabulary, self.context, self.width, self.layers)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            model.parameters(), self.learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True
        )

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the *sum* of the loss over the batch's real tokens.

        A sum can be added up over batches of any shape and then divided once, by the real tokens
        of them all; means of batches cannot. The last product is written out: one of the largest,
        it would stay in fp32 inside `linear_cross_entropy` (torch 2.13), which in turn never
        holds the scores of all tokens at once. Take that one where a vocabulary is large.
        """
        inputs, targets = batch
        scores = model.head(model(inputs)).flatten(0, 1)
        return cross_entropy(
            scores.float(), targets.flatten(), reduction="sum", ignore_index=IGNORED
        )

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> float:
        """Return the mean loss of a token of the validation set, nats: exact, whatever batches."""
        lengths = [inputs.numel() for inputs, _ in self.validation]
        plan = bw.plan(lengths, max_tokens=4 * self.context, seed=self.seed)
        batches = (self.collate([self.validation[i] for i in batch]) for batch in plan)
        return sum(self.loss_sum(model, batch).item() for batch in batches) / sum(lengths)

    def without_padding(self, batches: Sequence[np.ndarray]) -> tuple["Job", list[np.ndarray]]:
        """Cut the same text into batches of about the same shapes, whose rows are equally long.

        No batching can train faster on this text within these batches: there is nothing left to
        pad. What a row holds makes no sense, so it says something about speed only.

        Returns:
            The job on rows cut from the text as if it were one string, and its batches.
        """
        text = torch.cat([inputs for inputs, _ in self.samples])
        samples: list[Sample] = []
        uniform = []
        start = 0
        for batch in batches:
            length = round(float(self.lengths[batch].mean()))
            uniform.append(np.arange(len(samples), len(samples) + len(batch)))
            for _ in batch:
                start = start if start + length < text.numel() else 0  # rounding may use it up
                row = text[start : start + length + 1]
                samples.append((row[:-1], row[1:]))
                start += length
        return replace(self, samples=samples), uniform


class GPT(nn.Module):
    """A Transformer that predicts the next token (Radford et al., 2019), without its last product.

    Rows are padded after their tokens, where causal attention never looks: no mask is needed.
    """

    def __init__(self, vocabulary: int, context: int, width: int, layers: int):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads=width // 32) for _ in range(layers)))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.positions.weight, std=0.1)
        nn.init.zeros_(self.head.weight)  # the first guess is "all tokens alike"

    def forward(self, inputs: Tensor) -> Tensor:
        """int64[rows, length] → float32[rows, length, width], to be multiplied by `head`."""
        positions = self.positions.weight[: inputs.shape[1]]
        return self.norm(self.blocks(self.tokens(inputs) + positions))


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_feed = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attend = nn.Linear(width, 3 * width, bias=False)
        self.attended = nn.Linear(width, width, bias=False)
        self.feed = nn.Linear(width, 4 * width, bias=False)
        self.fed = nn.Linear(4 * width, width, bias=False)
        for last in (self.attended, self.fed):  # each block begins as the identity
            nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        projected = self.attend(self.norm_attention(x)).view(rows, length, 3, self.heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attended(attended.transpose(1, 2).reshape(rows, length, width))
        return x + self.fed(gelu(self.feed(self.norm_feed(x))))


def prepare(
    *,
    num_samples: int = 5_000,
    num_validation: int = 300,
    vocabulary: int = 2_048,
    context: int = 512,
    seed: int = 0,
) -> Job:
    """Collect functions, learn a vocabulary from those to train on, and encode all.

    Args:
        num_samples: Functions to train on.
        num_validation: Functions to validate on, others than those.
        vocabulary: Tokens of the vocabulary (byte-pair encoding).
        context: Longer functions are cut to this many tokens.
        seed: Chooses the functions and the model's first weights.

    Raises:
        ValueError: If this Python's library has too few functions.
    """
    texts = functions()
    wanted = num_samples + num_validation
    if len(texts) < wanted:
        raise ValueError(
            f"found {len(texts)} functions in Python's standard library, expected at least "
            f"{wanted}. Is its source installed?"
        )
    chosen = [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))[:wanted]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chosen[num_validation:], trainer)
    samples = []
    for encoding in tokenizer.encode_batch(chosen):
        tokens = torch.tensor([END, *encoding.ids, END][: context + 1])
        samples.append((tokens[:-1], tokens[1:]))
    return Job(samples[num_validation:], samples[:num_validation], vocabulary, context, seed=seed)


def task(*, quick: bool = False) -> Task:
    """Describe the job for `batchwright compare`."""
    job = prepare(
        num_samples=800 if quick else 4_000,
        num_validation=100 if quick else 300,
        vocabulary=1_024 if quick else 2_048,
        context=256,
    )
    width = 128

    def model() -> GPT:
        return GPT(job.vocabulary, job.context, width, job.layers)

    return Task(
        samples=job.samples,
        lengths=job.lengths,
        collate=job.collate,
        model=model,
        optimizer=job.optimizer,
        loss_sum=job.loss_sum,
        evaluate=job.evaluate,
        max_tokens=1_024 if quick else 2_048,
        step_tokens=2_048 if quick else 4_096,
        metric="validation loss of a token",
        device="cpu",  # where validation data are
        strategies=["plain", "plain+bf16", "grouped", "planned", "planned+bf16"],
    )
