"""Train a small Vision Transformer on real handwritten digits.

batchwright compare examples/applications/vision_transformer.py    three seeds
batchwright compare examples/applications/vision_transformer.py --quick    one
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, unfold
from torch.utils.data import default_collate

from batchwright.compare import Task
from batchwright.errors import MissingExtraError

SIDE = 8
"""Pixels of an image in height and width."""

PATCH = 2
"""Pixels of a patch in height and width."""

NUM_PATCHES = (SIDE // PATCH) ** 2

Sample = tuple[Tensor, int]
"""An image, float32[1, 8, 8] of mean 0 and deviation 1 over all images, and its digit."""

Batch = tuple[Tensor, Tensor]
"""The same: float32[rows, 1, 8, 8], int64[rows]."""


@dataclass(frozen=True, eq=False)
class Job:
    """What is trained, on what, and how well; not in which batches, nor in which precision.

    Args:
        samples: To train on.
        validation: Never trained on.
        width: Numbers per patch inside the model.
        layers: Blocks of the model.
        learning_rate: The highest of the run.
        seed: Of the model's first weights.
    """

    samples: Sequence[Sample]
    validation: Sequence[Sample]
    width: int = 128
    layers: int = 4
    learning_rate: float = 1e-3
    seed: int = 0

    collate = staticmethod(default_collate)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Length of each sample, int64[n]: patches, as many in every image."""
        return np.full(len(self.samples), NUM_PATCHES)

    def model(self) -> "VisionTransformer":
        """Make the model: the same first weights at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return VisionTransformer(self.width, self.layers)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            model.parameters(), self.learning_rate, weight_decay=0.05, fused=True
        )

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the *sum* of the loss over the images: it adds up over batches of any size."""
        images, digits = batch
        return cross_entropy(model(images).float(), digits, reduction="sum")

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> float:
        """Return the mean loss of an image of the validation set, nats."""
        batch = self.collate(self.validation)
        return self.loss_sum(model, batch).item() / len(self.validation)

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Return the share of the validation set that is recognised; by chance it is a tenth."""
        images, digits = self.collate(self.validation)
        return (model(images).argmax(1) == digits).float().mean().item()


class VisionTransformer(nn.Module):
    """Patches as words (Dosovitskiy et al., *An Image is Worth 16x16 Words*, 2021).

    The digit is read from the mean of all patches, not from a token of its own.
    """

    def __init__(self, width: int, layers: int):
        super().__init__()
        self.embed = nn.Linear(PATCH * PATCH, width)
        self.positions = nn.Parameter(0.5 * torch.randn(NUM_PATCHES, width))
        self.blocks = nn.Sequential(*(Block(width, heads=width // 32) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """float32[rows, 1, 8, 8] → scores, float[rows, 10]."""
        patches = unfold(images, PATCH, stride=PATCH).transpose(1, 2)
        embedded = self.embed(patches.to(self.embed.weight.dtype)) + self.positions
        return self.head(self.norm(self.blocks(embedded)).mean(1))


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.attended = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed, self.fed = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        projected = self.attend(self.norm_attention(x)).view(rows, length, 3, self.heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        # Written out: torch's fused attention has nothing to save on 16 patches, and on processors
        # its backward pass is twenty times slower there in bf16 than in fp32 (torch 2.13).
        scores = query @ key.transpose(-1, -2) / (width // self.heads) ** 0.5
        attended = scores.softmax(-1) @ value
        x = x + self.attended(attended.transpose(1, 2).reshape(rows, length, width))
        return x + self.fed(gelu(self.feed(self.norm_feed(x))))


def prepare(*, num_validation: int = 360, seed: int = 0) -> Job:
    """Load the digits, and split them.

    Args:
        num_validation: Images to validate on.
        seed: Chooses those, and the model's first weights.

    Raises:
        MissingExtraError: If scikit-learn, which brings the digits, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        message = "The digits come with scikit-learn, which is missing: pip install scikit-learn"
        raise MissingExtraError(message) from error
    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor((pixels - pixels.mean()) / pixels.std(), dtype=torch.float32)
    images = images.view(-1, 1, SIDE, SIDE)
    order = np.random.default_rng(seed).permutation(len(digits))
    samples = [(images[index], int(digits[index])) for index in order]
    return Job(samples[num_validation:], samples[:num_validation], seed=seed)


def task(*, quick: bool = False) -> Task:
    """Describe the job for `batchwright compare`: 64 images an update."""
    job = prepare()

    def model() -> VisionTransformer:
        return VisionTransformer(job.width, job.layers)

    return Task(
        samples=job.samples,
        lengths=job.lengths,
        collate=job.collate,
        model=model,
        optimizer=job.optimizer,
        loss_sum=job.loss_sum,
        evaluate=job.accuracy,
        max_tokens=64 * NUM_PATCHES,
        step_tokens=64 * NUM_PATCHES,
        epochs=3 if quick else 12,
        metric="accuracy",
        better="higher",
        device="cpu",  # where validation data are
        labels=[digit for _, digit in job.samples],
        features=torch.stack([image for image, _ in job.samples]),
        strategies=["plain", "plain+bf16", "plain+auto", "planned"],
    )
