"""A training job: read handwritten digits though many of their labels are wrong.

    batchwright compare examples/applications/image_classification.py            three seeds
    batchwright compare examples/applications/image_classification.py --quick    one

What a curriculum is for: 40 % of the labels are wrong, and its scores, the loss of teachers that
did not see a sample, are high for those. `control` has the curriculum's pacing over samples in
random order. `noisy_digits.py` has more remedies, and the controls that stop early. The digits come
with scikit-learn.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import default_collate

from batchwright.compare import Task
from batchwright.difficulty import out_of_fold

NOISE = 0.4
"""Share of the labels that are wrong."""

NUM_TEST = 597
"""Images that are never trained on, with right labels."""

Batch = tuple[Tensor, Tensor]
"""Images, float32[rows, 64], and labels, int64[rows]."""


def network() -> nn.Module:
    """Make the model: two hidden layers."""
    return nn.Sequential(
        *(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()), nn.Linear(128, 10)
    )


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Return the *sum* of the loss over the images."""
    images, labels = batch
    return cross_entropy(model(images).float(), labels, reduction="sum")


def task(*, quick: bool = False) -> Task:
    """Describe the job for `batchwright compare`: 64 images an update."""
    pixels, truth = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(truth.size)
    images = (pixels[order] / 16).astype(np.float32)
    labels = truth[order].astype(np.int64)
    test_images = torch.from_numpy(images[:NUM_TEST])
    test_labels = torch.from_numpy(labels[:NUM_TEST])
    images, labels = images[NUM_TEST:], labels[NUM_TEST:]
    wrong = rng.permutation(labels.size)[: round(NOISE * labels.size)]
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, wrong.size)) % 10

    def accuracy(model: nn.Module) -> float:
        return float((model(test_images).argmax(1) == test_labels).float().mean())

    return Task(
        samples=list(zip(torch.from_numpy(images), labels.tolist(), strict=True)),
        collate=default_collate,
        model=network,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), 2e-3, fused=True),
        loss_sum=loss_sum,
        evaluate=accuracy,
        max_tokens=64,
        step_tokens=64,
        epochs=10 if quick else 30,
        metric="accuracy",
        better="higher",
        difficulties={"loss": lambda: out_of_fold(labels, images, seed=0).loss},
        device="cpu",  # where validation data are
        labels=labels,
        features=images,
        strategies=[
            "plain",
            "plain+curriculum:loss",
            "plain+control:loss",
            "plain+anticurriculum:loss",
            "plain+bf16",
        ],
    )
