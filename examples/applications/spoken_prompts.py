"""A training job: hear recorded speech, and predict the next fiftieth of a second.

    batchwright compare examples/applications/spoken_prompts.py            three seeds
    batchwright compare examples/applications/spoken_prompts.py --quick    one

A voice says the prompts of a telephone exchange: digits of a fifth of a second, sentences, and a
few speeches of a minute, which are left out. Batches are counted in frames. The recordings come in
a Debian package (18 MB), which `apt-get` fetches when it is first needed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from debian_packages import unpacked
from torch import Tensor, nn

import batchwright as bw
from batchwright.compare import Task
from batchwright.torch import PadCollator

PACKAGE = "asterisk-core-sounds-en-wav"

NUM_BANDS = 32

LONGEST = 1_000
"""Longer recordings, in frames of 20 ms, are left out."""

Sample = dict[str, Tensor]
"""``"frames"`` and, one frame later, ``"next"``, float32[t, 32]."""

Batch = dict[str, Tensor]
"""The same, float32[rows, longest, 32], padded, and ``"lengths"``, int64[rows]."""

collate = PadCollator(lengths="frames")


class Listener(nn.Module):
    """A recurrent layer, which says how the spectrum changes with the next frame."""

    def __init__(self, width: int):
        super().__init__()
        self.hear = nn.GRU(NUM_BANDS, width, batch_first=True)
        self.say = nn.Linear(width, NUM_BANDS)

    def forward(self, frames: Tensor) -> Tensor:
        """float32[rows, t, 32] → the next frame at each, float[rows, t, 32]."""
        return frames + self.say(self.hear(frames)[0])


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Return the *sum* over real frames of the mean squared error of a frame."""
    error = (model(batch["frames"]) - batch["next"]).float().square().mean(2)
    places = torch.arange(error.shape[1], device=error.device)
    return error.masked_fill(places >= batch["lengths"][:, None], 0.0).sum()


def mean_error(model: nn.Module, samples: Sequence[Sample]) -> float:
    """Return the mean squared error of a frame."""
    lengths = [len(each["frames"]) for each in samples]
    plan = bw.plan(lengths, max_tokens=8_192)
    batches = (collate([samples[row] for row in rows]) for rows in plan)
    return sum(loss_sum(model, batch).item() for batch in batches) / sum(lengths)


def spectrum(path: Path) -> Tensor:
    """Read a recording: logarithms of the power in 32 bands, every 20 ms, float32[t, 32]."""
    wave, rate = soundfile.read(path, dtype="float32")
    window = torch.hann_window(256)
    heard = torch.stft(torch.from_numpy(wave), 256, rate // 50, window=window, return_complex=True)
    power = heard[1:].abs().square().unflatten(0, (NUM_BANDS, -1)).mean(1)
    return (power + 1e-5).log().T.contiguous()


def prepare(count: int | None = None) -> list[Sample]:
    """Read the recordings, in random sequence; bands have mean 0 and deviation 1.

    Args:
        count: How many. None: all.

    Raises:
        NoPackageError: If the recordings cannot be had.
    """
    paths = sorted(unpacked(PACKAGE).rglob("*.wav"))
    drawn = np.random.default_rng(0).permutation(len(paths))[:count]
    heard = [spectrum(paths[index]) for index in drawn]
    every = torch.cat(heard)
    mean, deviation = every.mean(0), every.std(0)
    scaled = [(each - mean) / deviation for each in heard if 1 < len(each) <= LONGEST]
    return [{"frames": each[:-1], "next": each[1:]} for each in scaled]


def task(*, quick: bool = False) -> Task:
    """Describe the job for `batchwright compare`."""
    every = prepare(160 if quick else None)
    num_validation = len(every) // 8
    validation, samples = every[:num_validation], every[num_validation:]
    return Task(
        samples=samples,
        lengths=[len(each["frames"]) for each in samples],
        collate=collate,
        model=lambda: Listener(width=64),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), 3e-3, fused=True),
        loss_sum=loss_sum,
        evaluate=lambda model: mean_error(model, validation),
        batch_size=8,
        epochs=2 if quick else 8,
        weigh=lambda batch: float(batch["lengths"].sum()),
        metric="mean squared error",
        device="cpu",  # where validation data are
        strategies=["plain", "grouped", "planned", "planned+curriculum:length", "planned+bf16"],
    )
