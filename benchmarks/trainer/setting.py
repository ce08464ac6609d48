"""What all arms of a race share."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Setting:
    """What all arms share.

    Attributes:
        job: What is trained: see `benchmarks/trainer/jobs.py`.
        max_tokens: Memory budget of a batch, padding included.
        step_tokens: Real tokens of an update, on average.
        num_samples: To train on, in one epoch.
        warm_up: Updates in which the learning rate rises.
        seed: Of weights and batches; the data are the same for all seeds.
    """

    job: Literal["one column", "two columns"]
    max_tokens: int
    step_tokens: int
    num_samples: int
    warm_up: int
    seed: int = 0
