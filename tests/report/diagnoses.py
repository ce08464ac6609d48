"""What `doctor` may have found, as its report gets it."""

from dataclasses import replace

import numpy as np

from batchwright.doctor.diagnosis import Diagnosis
from batchwright.doctor.finding import Finding
from batchwright.report.diagnosed import Diagnosed
from tests.doctor.runs import run_of, shuffles

LENGTHS = np.clip(np.random.default_rng(0).lognormal(3, 0.8, 160), 2, 200).astype(int)

FINDINGS = (
    Finding(
        "same order in every epoch",
        "error",
        "Both epochs have the same order: the 160 samples of 2 of 2 epochs come in one sequence.",
        "Batches are the same in each epoch, so that samples always share an update.",
        "Call sampler.set_epoch(epoch) at the beginning of each epoch.",
        share=1.0,
        code=("for epoch in range(epochs):", "    sampler.set_epoch(epoch)"),
    ),
    Finding(
        "mean of means",
        "error",
        "A token weighs up to 3.4 times as much as another: losses are means over 12 to 41 tokens.",
        "The gradient of an update is off by 12.3 %.",
        "Divide the sum of the loss by the tokens of the update.",
        share=0.123,
    ),
    Finding(
        "padding",
        "warning",
        "62.1 % of the tokens in 20 batches are padding.",
        "Planned batches leave 1.1 %, and compute 2.6 times as many real tokens per second.",
        "Plan batches by length: use a PlanLoader in place of the DataLoader.",
        share=0.6,
        code=(
            "--- train.py",
            "+++ train.py",
            "@@ -7,2 +7,2 @@",
            " # the loader",
            "-loader = DataLoader(dataset, batch_size=16, shuffle=True, collate_fn=collate)",
            "+loader = PlanLoader(dataset, bw.Planner(lengths, batch_size=16), collate_fn=collate)",
        ),
    ),
    Finding(
        "waiting for data",
        "warning",
        "A rank waits 12 ms of each 40 ms for its batch.",
        "30 % of the time.",
        "Load data in more workers: DataLoader(num_workers=4).",
        share=0.3,
    ),
    Finding(
        "class mix",
        "info",
        "Updates hold 3 classes of 40, 60 and 60 samples, as even as a shuffle makes them.",
        "",
        "",
    ),
)


def sick() -> Diagnosed:
    """A run with several faults, of two epochs."""
    run = run_of(
        *shuffles(160),
        batch_size=16,
        lengths=LENGTHS,
        command=("python", "train.py", "--epochs", "2"),
        seconds=0.04,
    )
    run = replace(run, seconds=43.0, exit_code=0)
    return Diagnosed(Diagnosis(run, FINDINGS), kept=("Wrote lengths.npy: 160 lengths.",))


def well() -> Diagnosed:
    """A run in which nothing is found."""
    run = run_of(*shuffles(64), batch_size=8, command=("python", "train.py"))
    return Diagnosed(Diagnosis(replace(run, seconds=12.0, exit_code=0), ()))
