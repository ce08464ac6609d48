"""A training job: write down recorded Mandarin syllables, sound by sound and with their tone.

    batchwright compare examples/applications/speech_recognition.py            three seeds
    batchwright compare examples/applications/speech_recognition.py --quick    one

Two speakers say 1,200 syllables, 0.1 to 0.6 seconds each. A recurrent network reads frames of
10 ms, and learns by CTC, which needs no alignment. A tenth of the syllables is never trained on, by
either speaker. Batches are counted in frames; the curriculum has short recordings first. The
recordings come in a Debian package (8 MB), which `apt-get` fetches when it is first needed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from debian_packages import unpacked
from torch import Tensor, nn
from torch.nn.functional import ctc_loss, log_softmax

import batchwright as bw
from batchwright.compare import Task
from batchwright.torch import PadCollator

PACKAGE = "gcin-voice"

NUM_BANDS = 40
"""Bands of the spectrum, on the mel scale."""

BLANK = 0
"""What CTC writes between two sounds."""

IGNORED = -100
"""What sounds are padded with."""

Sample = dict[str, Tensor]
"""``"frames"``, float32[t, 40], and ``"labels"``, int64[sounds]: one to three, and the tone."""

Batch = dict[str, Tensor]
"""The same, padded, and ``"lengths"``, int64[rows]: frames of each row."""

collate = PadCollator(lengths="frames")


class Listener(nn.Module):
    """Two recurrent layers that hear both ways, and a score for each sound at each frame."""

    def __init__(self, num_sounds: int, width: int):
        super().__init__()
        self.hear = nn.GRU(NUM_BANDS, width, 2, batch_first=True, bidirectional=True)
        self.write = nn.Linear(2 * width, num_sounds)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """float32[rows, t, 40], int64[rows] → log-probabilities, float32[rows, t, sounds]."""
        # Packed, so that the layer that hears backwards does not begin with padding.
        packed = nn.utils.rnn.pack_padded_sequence(
            frames, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        heard, _ = nn.utils.rnn.pad_packed_sequence(self.hear(packed)[0], batch_first=True)
        return log_softmax(self.write(heard).float(), -1)


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Return the *sum* of the loss over the recordings."""
    labels = batch["labels"]
    return ctc_loss(
        model(batch["frames"], batch["lengths"]).transpose(0, 1),
        labels,
        batch["lengths"],
        (labels != IGNORED).sum(1),
        blank=BLANK,
        reduction="sum",
        zero_infinity=True,
    )


def accuracy(model: nn.Module, samples: Sequence[Sample]) -> float:
    """Return the share of recordings of which every sound is written down, and nothing else."""
    right = 0
    for rows in bw.plan([len(each["frames"]) for each in samples], max_tokens=8_192):
        batch = collate([samples[row] for row in rows])
        likeliest = model(batch["frames"], batch["lengths"]).argmax(2)
        for row, length, labels in zip(likeliest, batch["lengths"], batch["labels"], strict=True):
            written = torch.unique_consecutive(row[:length])
            right += torch.equal(written[written != BLANK], labels[labels != IGNORED])
    return right / len(samples)


def spectrum(path: Path) -> Tensor:
    """Read a recording: logarithms of the power in 40 bands, every 10 ms, float32[t, 40]."""
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    size, hop = rate // 40, rate // 100
    power = torch.stft(
        torch.from_numpy(wave.mean(1)), 2 * size, hop, size, torch.hann_window(size),
        return_complex=True,
    ).abs().square()  # fmt: skip
    # Bands are triangles, evenly spaced on the mel scale from 80 Hz to 7.6 kHz.
    mel = np.linspace(*(2595 * np.log10(1 + np.array([80, 7600]) / 700)), NUM_BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, size + 1)
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    bands = torch.from_numpy(np.clip(np.minimum(rising, falling), 0, None)).float()
    return (bands @ power + 1e-6).log().T.contiguous()


def prepare(num_syllables: int | None = None) -> tuple[list[Sample], list[Sample], int]:
    """Read the recordings; frames have mean 0 and deviation 1 over those to train on.

    Args:
        num_syllables: How many, drawn at random. None: all.

    Returns:
        To train on, to validate with, and the number of sounds with the blank.

    Raises:
        NoPackageError: If the recordings cannot be had.
    """
    folder = unpacked(PACKAGE) / "usr/share/gcin-voice/ogg"
    # A folder for each syllable, named by its sounds and its tone; the first tone has no number.
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    written = [name if name[-1].isdigit() else f"{name}1" for name in names]
    sounds = sorted({sound for name in written for sound in name})
    drawn = np.random.default_rng(0).permutation(len(names)).tolist()[:num_syllables]
    held_out = set(drawn[: len(drawn) // 10])
    training: list[Sample] = []
    validation: list[Sample] = []
    for index in sorted(drawn):
        name = names[index]
        labels = torch.tensor([1 + sounds.index(sound) for sound in written[index]])
        for path in sorted((folder / name).glob("*.ogg")):
            frames = spectrum(path)
            if len(frames) > 2 * len(labels):  # a few are nearly empty
                chosen = validation if index in held_out else training
                chosen.append({"frames": frames, "labels": labels})
    every = torch.cat([each["frames"] for each in training])
    mean, deviation = every.mean(0), every.std(0)
    for each in (*training, *validation):
        each["frames"] = (each["frames"] - mean) / deviation
    return training, validation, len(sounds) + 1


def task(*, quick: bool = False) -> Task:
    """Describe the job for `batchwright compare`."""
    training, validation, num_sounds = prepare()
    strategies = ["plain", "grouped", "planned", "planned+curriculum", "planned+control"]
    lengths = [len(each["frames"]) for each in training]
    return Task(
        samples=training,
        lengths=lengths,
        collate=collate,
        model=lambda: Listener(num_sounds, width=64 if quick else 96),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), 3e-3),
        loss_sum=loss_sum,
        evaluate=lambda model: accuracy(model, validation),
        max_tokens=1_024,
        step_tokens=1_024 if quick else 2_048,
        epochs=5 if quick else 12,
        metric="accuracy",
        better="higher",
        difficulties={"length": lengths},
        device="cpu",  # where validation data are
        strategies=["plain", "planned", "planned+curriculum"] if quick else strategies,
    )
