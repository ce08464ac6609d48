"""The language model of the examples, wider, on whatever device there is: for `advise`, `compare`.

Its text is that of Python's own library; nothing is fetched.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

import batchwright as bw
from batchwright.compare import Task
from batchwright.compare.arm import moved

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "applications"))

from language_model import GPT, prepare


def task(*, quick: bool = False) -> Task:
    """Describe the job."""
    is_gpu = torch.cuda.is_available()
    job = prepare(
        num_samples=(1_500 if is_gpu else 200) if quick else 6_000,
        num_validation=300 if is_gpu else 40,
        vocabulary=4_096 if is_gpu else 512,
        context=512 if is_gpu else 64,
    )
    job = replace(job, width=512 if is_gpu else 32, layers=6 if is_gpu else 1, learning_rate=1e-3)
    device = torch.device("cuda" if is_gpu else "cpu")
    lengths = [inputs.numel() for inputs, _ in job.validation]
    plan = bw.plan(lengths, max_tokens=8 * job.context)
    batches = [job.collate([job.validation[index] for index in rows]) for rows in plan]
    validation = [moved(batch, device) for batch in batches]

    def evaluate(model: torch.nn.Module) -> float:
        return sum(float(job.loss_sum(model, batch)) for batch in validation) / sum(lengths)

    return Task(
        samples=job.samples,
        lengths=job.lengths,
        collate=job.collate,
        model=lambda: GPT(job.vocabulary, job.context, job.width, job.layers),
        optimizer=job.optimizer,
        loss_sum=job.loss_sum,
        evaluate=evaluate,
        batch_size=16,
        metric="validation loss of a token",
        strategies=["plain", "plain+auto", "grouped", "planned", "planned+auto"],
    )
