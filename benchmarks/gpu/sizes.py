"""How large everything is: for a GPU, and in a tiny form that a CPU runs in seconds."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sizes:
    """Of the data, the models and the time."""

    name: str
    device: str
    samples: int  # of each data set
    longest: int  # tokens
    max_tokens: int  # of a batch, padding included
    step_tokens: int  # real ones of an update
    vocabulary: int
    width: int
    layers: int
    heads: int
    patch: int  # pixels of a side of a patch
    longest_side: int  # pixels of an image
    patches: int  # of a batch of images
    seconds: float  # of a trial of speed
    warm_up: int  # updates of each arm that do not count
    ahead: int  # updates of each arm whose batches are made beforehand
    shapes: int  # that are compiled
    held_out: int  # shapes at which memory is measured
    limit: int  # bytes for the memory model
    varying: int  # batches of varying shape, one after the other
    pairs: int  # updates by hand, and by `Precision`, in turns
    loaded: int  # updates that a loader feeds


GIBIBYTE = 2**30

FULL = Sizes(
    name="full",
    device="cuda",
    samples=12_000,
    longest=1_024,
    max_tokens=32_768,
    step_tokens=131_072,
    vocabulary=50_304,
    width=768,
    layers=12,
    heads=12,
    patch=16,
    longest_side=512,
    patches=16_384,
    seconds=8.0,
    warm_up=2,
    ahead=4,
    shapes=4,
    held_out=20,
    limit=30 * GIBIBYTE,
    varying=500,
    pairs=20,
    loaded=20,
)
"""A GPT of 124 million parameters; vision transformer and encoder-decoder are of its width."""

TINY = Sizes(
    name="tiny",
    device="cpu",
    samples=300,
    longest=64,
    max_tokens=256,
    step_tokens=1_024,
    vocabulary=128,
    width=16,
    layers=1,
    heads=2,
    patch=4,
    longest_side=32,
    patches=128,
    seconds=0.2,
    warm_up=1,
    ahead=2,
    shapes=2,
    held_out=2,
    limit=8 * 2**20,
    varying=6,
    pairs=2,
    loaded=3,
)
"""Whether everything runs, not how fast."""


def sizes(*, tiny: bool) -> Sizes:
    """Return the sizes that were asked for."""
    return TINY if tiny else FULL


def has_gpu() -> bool:
    """Say whether torch sees a GPU of NVIDIA."""
    return torch.cuda.is_available()
