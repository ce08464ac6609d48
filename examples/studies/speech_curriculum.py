"""Recognize speakers by their recorded speech, in dynamic batches and with a curriculum.

    python examples/studies/speech_curriculum.py              ten seeds
    python examples/studies/speech_curriculum.py --quick      two seeds, fewer epochs
    python examples/studies/speech_curriculum.py --json FILE  also write all figures

Utterances have 7 to 29 frames. All arms train on as many frames and begin with the same weights.
The speech is downloaded once (6 MB) with pip; see curriculum_vowels.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from statistics import mean
from time import perf_counter

import numpy as np
import torch
from curriculum_command import Experiment, Trial, command
from curriculum_report import Result, verdict
from curriculum_training import Arm, Batch
from curriculum_vowels import NUM_COEFFICIENTS, Speech, cache, fetch, read
from rich.table import Table
from torch import Tensor, nn

import batchwright as bw
from batchwright.difficulty import out_of_fold
from batchwright.torch import PadCollator
from batchwright.typing import Order

NUM_SPEAKERS = 9

ROWS = 16
"""Utterances of a plain batch."""

MAX_FRAMES = 320
"""Cells of a dynamic batch, padding included: as many updates as with plain batches, about."""

WINDOW = 4
"""Updates over which the planned shuffle may sort by length; as many as a part of a curriculum."""

Sample = dict[str, Tensor | int]
"""An utterance: "frames", float32[t, 12], its speaker ("labels"), and its "index"."""

collate = PadCollator(lengths="frames")


@dataclass(frozen=True, eq=False)
class Job:
    """What is trained, on what, and how well; not which samples are drawn when.

    Args:
        samples: To train on.
        test: Never trained on.
        seed: Of the model's first weights.
    """

    samples: Sequence[Sample]
    test: Batch
    seed: int = 0

    collate = staticmethod(collate)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Frames of each utterance, int64[n]."""
        return np.array([len(sample["frames"]) for sample in self.samples])

    def model(self) -> nn.Module:
        """Make the model: the same first weights at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return Listener(64)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), 3e-3, fused=True)

    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch["frames"], batch["lengths"])


class Listener(nn.Module):
    """A recurrent network, and the mean of what it hears; padding is not heard."""

    def __init__(self, width: int):
        super().__init__()
        self.hear = nn.GRU(NUM_COEFFICIENTS, width, batch_first=True)
        self.name = nn.Linear(width, NUM_SPEAKERS)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """float32[rows, t, 12], int64[rows] → scores, float32[rows, 9]."""
        # It goes forward only, so what follows an utterance does not change it.
        heard, _ = self.hear(frames)
        is_real = torch.arange(frames.shape[1]) < lengths[:, None]
        return self.name((heard * is_real[:, :, None]).sum(1) / lengths[:, None])


def prepare() -> Job:
    """Fetch the speech; coefficients have mean 0 and deviation 1 over the training frames.

    Raises:
        SourceNotFoundError: If it can neither be found nor downloaded.
    """
    wheel = fetch(cache())
    training, test = read(wheel, "TRAIN"), read(wheel, "TEST")
    every = np.concatenate(training.frames)
    shift, scale = every.mean(axis=0), every.std(axis=0)

    def samples(speech: Speech) -> list[Sample]:
        pairs = zip(speech.frames, speech.speakers.tolist(), strict=True)
        return [
            {"frames": torch.from_numpy((frames - shift) / scale), "labels": who, "index": index}
            for index, (frames, who) in enumerate(pairs)
        ]

    return Job(samples(training), collate(samples(test)))


def features(job: Job) -> np.ndarray:
    """Sum up each utterance: mean and deviation of its coefficients, float64[n, 24]."""
    frames = [sample["frames"].numpy() for sample in job.samples]
    return np.array([np.concatenate((each.mean(axis=0), each.std(axis=0))) for each in frames])


def trial(job: Job, epochs: int, seed: int) -> Trial:
    """Make the arms of a seed."""
    job = replace(job, seed=seed)
    lengths = job.lengths
    speakers = np.array([sample["labels"] for sample in job.samples])
    started = perf_counter()
    difficulty = out_of_fold(speakers, features(job), seed=seed).loss
    seconds = perf_counter() - started
    budget = bw.TokenBudget(MAX_FRAMES, mixing=WINDOW)

    def arm(name: str, order: Order | None = None, batching: Callable = budget) -> Arm:
        planner = bw.Planner(lengths, batching=batching, order=order, seed=seed)
        return Arm(name, planner, num_updates=epochs * len(planner))

    def growing(scores: np.ndarray) -> bw.Curriculum:
        return bw.Curriculum(scores, pacing=bw.pacing.root(start=0.1), epochs=epochs / 2)

    by_loss = growing(difficulty)
    arms = [
        arm("plain", batching=bw.FixedSize(ROWS)),
        arm("planned"),
        arm("short first", growing(lengths)),
        replace(arm("easy first", by_loss), scoring_seconds=seconds),
        arm("random order", by_loss.control(seed)),
    ]
    known = {
        "scoring_seconds": seconds,
        "length_correlation": float(np.corrcoef(lengths, difficulty)[0, 1]),
    }
    return Trial(job, arms, known)


def speed_table(results: Mapping[str, Result]) -> Table:
    """Show what batches cost."""
    table = Table(title="What was trained on, and how fast", box=None)
    table.add_column("")
    for heading in ("padding, %", "frames", "updates", "real frames/s", "time over plain's"):
        table.add_column(heading, justify="right", vertical="bottom")
    for each in results.values():
        table.add_row(
            each.name,
            f"{100 * mean(each.padding):.1f}",
            f"{mean(each.num_tokens):,.0f}",
            f"{mean(each.num_updates):,.0f}",
            f"{each.tokens_per_second:,.0f}",
            f"{each.cost:.2f}",
        )
    return table


def sentences(results: dict[str, Result], known: Sequence[Mapping[str, float]]) -> list[str]:
    """Say what the figures say, also where they do not flatter."""
    plain, planned = results["plain"], results["planned"]
    ratio = planned.tokens_per_second / plain.tokens_per_second
    scoring = mean(each["scoring_seconds"] for each in known)
    correlation = mean(each["length_correlation"] for each in known)
    padding = (
        f"Planned batches pad {mean(planned.padding):.1%} where plain ones pad "
        f"{mean(plain.padding):.1%}, and train on {ratio:.2f} times as many real frames a second."
    )
    return [
        padding,
        verdict(results, "planned", "plain"),
        verdict(results, "short first", "planned"),
        verdict(results, "easy first", "planned")
        + f" Its scores take {scoring:.2f} s; their correlation with length is {correlation:+.2f}.",
        verdict(results, "easy first", "random order")
        + " That is what difficulty does; the rest is due to a set that grows.",
    ]


def experiments(*, quick: bool) -> list[Experiment]:
    """Say what is done: all arms over all seeds."""
    epochs = 10 if quick else 30
    job = prepare()
    return [
        Experiment(
            title=f"Nine speakers, {len(job.samples)} utterances, {epochs} epochs",
            trial=partial(trial, job, epochs),
            controls=("plain", "planned"),
            settings={
                "epochs": epochs,
                "rows": ROWS,
                "max_frames": MAX_FRAMES,
                "window": WINDOW,
                "num_training": len(job.samples),
                "num_test": len(job.test["labels"]),
                "num_frames": int(job.lengths.sum()),
            },
            table=speed_table,
            sentences=sentences,
        )
    ]


if __name__ == "__main__":
    command(experiments, "speech_curriculum", __doc__, seed=100)
