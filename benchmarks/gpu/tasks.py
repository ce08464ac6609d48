"""The jobs that are timed: texts, pairs of texts, and images, as tasks of `compare`."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from batchwright.compare import Task
from batchwright.torch import PackCollator, PadCollator, PatchCollator, patch_counts
from benchmarks.gpu.attention import Kernel
from benchmarks.gpu.models import (
    GPT,
    IGNORED,
    Batch,
    EncoderDecoder,
    VisionTransformer,
    image_loss,
    images_of,
    next_tokens,
    pair_loss,
    target_tokens,
    text_loss,
)
from benchmarks.gpu.sizes import Sizes

MEDIAN, SPREAD = 108, 1.04
"""Of the tokens of a function of Python, log-normal: the mean is 186, a tenth above 400."""

PAIRS = 22, 0.75, 0.25
"""Of the tokens of a sentence: median, spread, and how much two languages differ."""

SMALLEST_SIDE = 4
"""Patches of the smallest side of an image."""

BUDGET_OF_PAIRS = 0.5
"""Share of the budget of a batch: a pair costs its decoder more than a text of that length."""


def text_lengths(sizes: Sizes, seed: int = 0) -> np.ndarray:
    """Draw lengths of texts: int64[samples]."""
    drawn = np.random.default_rng(seed).lognormal(math.log(MEDIAN), SPREAD, sizes.samples)
    scale = sizes.longest / 1_024
    return np.clip(drawn * scale, 4, sizes.longest).astype(np.int64)


def texts(sizes: Sizes, *, kernel: Kernel = "dense", compiled: bool = False) -> Task:
    """Make a task of texts, with a GPT."""
    lengths = text_lengths(sizes)
    samples = [
        {"input_ids": tokens, "labels": tokens} for tokens in _tokens(lengths, sizes.vocabulary)
    ]

    def model() -> GPT:
        made = GPT(sizes, kernel)
        if compiled:  # a block at a time: one piece of code for all of them
            backend = "inductor" if sizes.device == "cuda" else "aot_eager"
            for block in made.blocks:
                block.compile(dynamic=False, backend=backend)
        return made

    return Task(
        samples=samples,
        lengths=lengths,
        collate=PadCollator({"input_ids": 0, "labels": IGNORED}),
        collate_packed=PackCollator(capacity=sizes.max_tokens),
        model=model,
        loss_sum=text_loss,
        weigh=next_tokens,
        **_settings(sizes, sizes.max_tokens),
    )


def pairs(sizes: Sizes) -> Task:
    """Make a task of pairs of texts, with an encoder and a decoder."""
    rng = np.random.default_rng(1)
    median, spread, unlike = PAIRS
    source = rng.lognormal(math.log(median), spread, sizes.samples)
    target = source * rng.lognormal(0.05, unlike, sizes.samples)
    lengths = np.clip(np.stack([source, target], axis=1), 2, sizes.longest // 4).astype(np.int64)
    both = [_tokens(lengths[:, column], sizes.vocabulary) for column in (0, 1)]
    budget = int(sizes.max_tokens * BUDGET_OF_PAIRS)
    return Task(
        samples=[{"source": one, "target": two} for one, two in zip(*both, strict=True)],
        lengths=lengths,
        collate=PadCollator(0),
        model=lambda: EncoderDecoder(sizes),
        loss_sum=pair_loss,
        weigh=target_tokens,
        **_settings(sizes, budget),
    )


@dataclass(frozen=True)
class PadPatches:
    """Pads rows of patches to the longest, and says which are real."""

    cut: PatchCollator

    def __call__(self, samples: list[Any]) -> Batch:
        batch = self.cut(samples)
        counts = batch["cu_seqlens"].diff().tolist()
        patches, places = (
            pad_sequence(batch[name][0].split(counts), batch_first=True)
            for name in ("patches", "coordinates")
        )
        real = torch.arange(patches.shape[1]) < torch.tensor(counts)[:, None]
        return {
            "patches": patches,
            "coordinates": places,
            "real": real,
            "labels": batch["labels"],
        }


def images(sizes: Sizes, *, kernel: Kernel = "dense") -> Task:
    """Make a task of images of varying size and shape, with a vision transformer."""
    rng = np.random.default_rng(2)
    most = sizes.longest_side // sizes.patch
    number = max(64, sizes.samples // 6)  # each is large
    area = np.exp(rng.uniform(2 * math.log(SMALLEST_SIDE), 2 * math.log(most), number))
    shape = np.exp(rng.normal(0.0, 0.3, number))
    sides = np.stack([np.sqrt(area * shape), np.sqrt(area / shape)], axis=1)
    sides = np.clip(np.round(sides), 1, most).astype(np.int64) * sizes.patch
    cut = PatchCollator(sizes.patch)
    return Task(
        samples=_Images(sides),
        lengths=patch_counts(sides[:, 0], sides[:, 1], sizes.patch),
        collate=PadPatches(cut),
        collate_packed=PatchCollator(sizes.patch, capacity=sizes.patches),
        model=lambda: VisionTransformer(sizes, kernel),
        loss_sum=image_loss,
        weigh=images_of,
        **_settings(sizes, sizes.patches),
    )


@dataclass(frozen=True, eq=False)
class _Images:
    """Images of noise, and a class each."""

    sides: np.ndarray

    def __len__(self) -> int:
        return len(self.sides)

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(int(index))
        height, width = self.sides[index].tolist()
        return {
            "image": torch.randn(3, height, width, generator=generator),
            "labels": int(index) % 10,
        }


def _settings(sizes: Sizes, max_tokens: int) -> dict[str, Any]:
    return {
        "optimizer": lambda model: torch.optim.AdamW(model.parameters(), 1e-4, fused=True),
        "evaluate": lambda _: 0.0,  # speed is measured, not what is learnt
        "max_tokens": max_tokens,
        "step_tokens": sizes.step_tokens * max_tokens // sizes.max_tokens,
        "epochs": 1_000,
        "device": sizes.device,
    }


def _tokens(lengths: np.ndarray, vocabulary: int) -> list[Tensor]:
    """Draw tokens of samples; 0 is padding."""
    rng = np.random.default_rng(3)
    flat = torch.from_numpy(rng.integers(1, vocabulary, int(lengths.sum())))
    return list(flat.split(lengths.tolist()))
