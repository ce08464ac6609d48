"""Train a small GPT on Python's own library, in several precisions.

    python examples/studies/gpt_mixed_precision.py              three seeds
    python examples/studies/gpt_mixed_precision.py --quick      one seed, a shorter run
    python examples/studies/gpt_mixed_precision.py --json FILE  also write all figures

It trains in fp32, in bf16, and in whatever Precision("auto") measures to be the quickest here, on
the same batches in turns, and says how much time each takes and whether they learn alike. An
update is several batches of rows of like length, planned within a memory budget.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from precision_command import command
from precision_parity import Experiment

import batchwright as bw

sys.path.append(str(Path(__file__).resolve().parents[1] / "applications"))
import language_model

ROUNDING = 16
"""Rows are padded to multiples of this, so that shapes recur; see `language_model.Job`."""


@dataclass(frozen=True, eq=False)
class Job(language_model.Job):
    """The language model, wide enough for bf16 to pay on processors that have it.

    See `language_model.Job`; only the width and the padding differ.
    """

    width: int = 128
    learning_rate: float = 3e-3
    pad_to_multiple_of: int = ROUNDING

    def loss_by_frequency(self) -> float:
        """Return the validation loss of guessing each token as often as it is in the text."""
        counts = torch.ones(self.vocabulary)  # no token is impossible
        for _, targets in self.samples:
            counts += torch.bincount(targets, minlength=self.vocabulary)
        targets = torch.cat([targets for _, targets in self.validation])
        return -(counts / counts.sum()).log()[targets].mean().item()


def experiment(*, quick: bool, seed: int) -> Experiment:
    """Say what is trained, how long, and in which batches: two an update."""
    max_tokens = 1_024 if quick else 2_048
    text = language_model.prepare(
        num_samples=1_500 if quick else 4_000,
        num_validation=100 if quick else 300,
        vocabulary=1_024 if quick else 2_048,
        context=256 if quick else 512,
        seed=seed,
    )
    job = Job(text.samples, text.validation, text.vocabulary, text.context, seed=seed)
    return Experiment(
        job,
        batching=bw.TokenBudget(max_tokens, pad_to_multiple_of=ROUNDING),
        step_tokens=2 * max_tokens,
        epochs=1,
        baseline=job.loss_by_frequency(),
    )


if __name__ == "__main__":
    command(experiment, "gpt_mixed_precision", __doc__)
